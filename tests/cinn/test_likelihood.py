"""Bits per dimension are what the definition says, and a model's own entropy is."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cadp.cinn.architecture import Conditions, Convolutional, Couplings, Dense, Scale
from cadp.cinn.likelihood import bits_per_dimension, log_likelihood, own_bits_per_dimension
from cadp.cinn.network import ConditionalFlow
from tests.cinn.conftest import random_flow


def gaussian(mean: float, deviation: float, features: int = 6) -> ConditionalFlow:
    """A model whose every pixel is N(mean, deviation²)."""
    flow = ConditionalFlow(Dense(features, Conditions(1), Couplings(0, 1), content=1, class_latents=True))
    with torch.no_grad():
        flow.latents.mean.fill_(mean)  # type: ignore[union-attr, operator]
        flow.latents.log_scale.fill_(math.log(deviation))  # type: ignore[union-attr, operator]
    return flow


def density(mean: float, deviation: float, x: Tensor) -> Tensor:
    """`log N(x; mean, deviation²)`; torch would take bare numbers as float32."""
    place, size = (torch.tensor(value, dtype=torch.float64) for value in (mean, deviation))
    return torch.distributions.Normal(place, size).log_prob(x)


def test_likelihood_is_that_of_the_gaussian() -> None:
    x = torch.rand(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = log_likelihood(gaussian(0.4, 0.2), x, torch.zeros(5).long())
    assert torch.allclose(found, density(0.4, 0.2, x).sum(dim=1), rtol=0, atol=1e-12)


def test_own_entropy_is_that_of_the_gaussian() -> None:
    entropy = math.log2(0.05 * 255 * math.sqrt(2 * math.pi * math.e))
    assert own_bits_per_dimension(gaussian(0.5, 0.05, 64), count=1000) == pytest.approx(entropy, abs=0.02)


def test_bits_are_those_of_one_point_of_every_cell() -> None:
    flow, images = gaussian(0.4, 0.2), np.random.default_rng(0).integers(0, 256, (20, 1, 1, 6)).astype(np.uint8)
    noise = torch.rand(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = (torch.from_numpy(images.reshape(20, 6)) + noise - 0.5) / 255
    expected = (math.log(255) - density(0.4, 0.2, points).mean().item()) / math.log(2)
    found = bits_per_dimension(flow, images, flow.condition(torch.zeros(20).long()))
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_model_that_is_right_spends_its_entropy() -> None:
    """Records rounded to 8 bits from the model itself: the cells are narrow beside it, so little is lost."""
    flow = gaussian(0.5, 0.05, 64)
    draw = np.random.default_rng(0).normal(0.5, 0.05, (500, 1, 1, 64))
    images = np.rint(draw.clip(0, 1) * 255).astype(np.uint8)
    c = flow.condition(torch.zeros(500, dtype=torch.int64))
    assert bits_per_dimension(flow, images, c) == pytest.approx(own_bits_per_dimension(flow, count=1000), abs=0.03)
    assert bits_per_dimension(gaussian(0.6, 0.05, 64), images, c) > bits_per_dimension(flow, images, c) + 1


def test_even_noise_costs_nearly_eight_bits_under_a_model_of_cells() -> None:
    scales = (Scale(Couplings(0, 1)),)
    flow = ConditionalFlow(Convolutional((8, 8, 1), Conditions(1), scales, Couplings(0, 1), content=1, logit=0.05))
    images = np.random.default_rng(1).integers(0, 256, (200, 8, 8, 1)).astype(np.uint8)
    found = bits_per_dimension(flow, images, flow.condition(torch.zeros(200).long()))
    assert 8 <= found < 8.6


def test_bits_are_the_mean_over_all_records_whatever_the_chunks() -> None:
    flow = random_flow((4, 4, 1))
    images = np.random.default_rng(0).integers(0, 256, (130, 4, 4, 1)).astype(np.uint8)
    c = flow.condition(torch.arange(130) % 3)
    assert math.isfinite(bits_per_dimension(flow, images, c))
    assert bits_per_dimension(flow, images, c) == bits_per_dimension(flow, images, c)
    assert bits_per_dimension(flow, images, c, seed=1) != bits_per_dimension(flow, images, c)
