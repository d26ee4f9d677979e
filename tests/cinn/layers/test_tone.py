"""The tone curve: rising whatever its numbers, exact both ways, and value by value."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cadp.cinn.architecture import Conditions
from cadp.cinn.layers.layer import Condition
from cadp.cinn.layers.tone import ToneCurve

CHANNELS, KNOTS, PIXELS = 3, 16, 20


def curved(seed: int = 0, size: float = 1.0) -> ToneCurve:
    layer = ToneCurve(CHANNELS, KNOTS)
    draw = torch.Generator().manual_seed(seed)
    layer.log_rise.copy_(size * torch.randn(layer.log_rise.shape, generator=draw, dtype=torch.float64))
    return layer


def condition(n: int) -> Condition:
    return Condition.of(Conditions(1), torch.zeros(n, dtype=torch.int64))


def values(n: int = 50, low: float = -0.5, high: float = 1.5) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return low + (high - low) * torch.rand(n, CHANNELS * PIXELS, generator=draw, dtype=torch.float64)


def test_a_new_one_is_the_identity() -> None:
    layer, x = ToneCurve(CHANNELS, KNOTS), values()
    z, log_det = layer(x, condition(len(x)))
    assert torch.allclose(z, x, atol=1e-15)
    assert log_det.abs().max() < 1e-12
    assert torch.allclose(layer.inverse(x, condition(len(x))), x, atol=1e-15)


@pytest.mark.parametrize("size", [0.1, 1.0, 4.0])
def test_it_is_interpolation_between_heights_that_rise_from_0_to_1(size: float) -> None:
    layer, u = curved(size=size), values()
    height = layer.height().numpy()
    assert np.all(np.diff(height, axis=1) > 0)
    assert np.all(height[:, 0] == 0)
    assert np.allclose(height[:, -1], 1, atol=1e-15)
    x = layer.inverse(u, condition(len(u))).numpy().reshape(len(u), PIXELS, CHANNELS)
    given = u.numpy().reshape(len(u), PIXELS, CHANNELS)
    for channel in range(CHANNELS):
        own = given[..., channel]
        first, last = height[channel, 1] * KNOTS, (1 - height[channel, -2]) * KNOTS
        beyond = np.where(own < 0, own * first, 1 + (own - 1) * last)
        inside = np.interp(own, np.linspace(0, 1, KNOTS + 1), height[channel])
        due = np.where((own < 0) | (own > 1), beyond, inside)
        assert np.allclose(x[..., channel], due, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ways_and_the_log_determinant(dtype: torch.dtype) -> None:
    layer, x = curved().to(dtype), values().to(dtype)
    at_knots = layer.height().T.repeat(1, PIXELS)  # rows of heights: where a slope changes
    x = torch.cat([x, at_knots, torch.zeros(1, CHANNELS * PIXELS, dtype=dtype)])
    z, log_det = layer(x, condition(len(x)))
    assert (layer.inverse(z, condition(len(x))) - x).abs().max() < (1e-5 if dtype == torch.float32 else 1e-12)
    if dtype == torch.float64:
        inner = x[:5]
        moved, _ = layer(inner + 1e-7, condition(5))
        slope = (moved - z[:5]) / 1e-7
        assert torch.allclose(slope.log().sum(dim=1), log_det[:5], atol=1e-4)


def test_a_row_and_a_value_are_taken_alone() -> None:
    layer, x = curved(), values()
    z, log_det = layer(x, condition(len(x)))
    alone, own = layer(x[7:8], condition(1))
    assert torch.equal(alone[0], z[7])
    assert torch.equal(own[0], log_det[7])
    changed = x.clone()
    changed[:, 4] = 0.3
    other, _ = layer(changed, condition(len(x)))
    assert torch.equal(other[:, :4], z[:, :4])
    assert torch.equal(other[:, 5:], z[:, 5:])


def test_what_is_no_number_stays_none_and_spoils_nothing_else() -> None:
    layer, x = curved(), values()
    x[3, 5], x[4, 6] = math.nan, math.inf
    z, _ = layer(x, condition(len(x)))
    assert torch.isnan(z[3, 5])
    assert z[4, 6] == math.inf
    assert torch.isfinite(z).sum() == z.numel() - 2
    back = layer.inverse(z, condition(len(x)))
    assert torch.isnan(back[3, 5])
    assert torch.isfinite(back).sum() == back.numel() - 2
