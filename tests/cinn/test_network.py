"""The flow is a bijection with the log-det it says, row by row."""

import itertools

import numpy as np
import pytest
import torch

from cadp.cinn.architecture import Conditions, Whitening, architecture_from_json
from cadp.cinn.layers.affine import ClassScale, ClassShift, ClassWhitening, InvertibleLinear
from cadp.cinn.layers.layer import Condition, Layer
from cadp.cinn.layers.transforms import (
    CosineTransform,
    band_of_coefficients,
    coefficient_order,
    cosine_matrix,
    radial_frequency,
)
from cadp.cinn.network import ROUND_TRIP_LIMIT, ConditionalFlow, check_round_trip, synthetic_records
from cadp.errors import CheckpointRefused
from tests.cinn.conftest import random_flow

SHAPES = [(8, 8, 1), (28, 28, 1), (5, 7, 3), (32, 32, 3)]


def layers() -> list[Layer]:
    flow = random_flow((4, 5, 2))
    return [*flow.layers()]


@pytest.mark.parametrize("layer", layers(), ids=lambda layer: type(layer).__name__)
def test_layer_is_a_bijection_with_its_log_det(layer: Layer) -> None:
    x, y = torch.randn(6, 40, dtype=torch.float64), torch.tensor([0, 1, 2, 2, 1, 0])
    c = Condition.of(Conditions(3), y)
    z, log_det = layer(x, c)
    assert z.shape == x.shape
    assert log_det.shape == (6,)
    assert torch.allclose(layer.inverse(z, c), x, atol=1e-12)
    for row in range(6):
        one = Condition.of(Conditions(3), y[row : row + 1])
        jacobian = torch.autograd.functional.jacobian(lambda v, one=one: layer(v[None], one)[0][0], x[row])
        assert torch.allclose(torch.linalg.slogdet(jacobian).logabsdet, log_det[row], atol=1e-10)


def test_every_kind_of_layer_is_among_those_tested() -> None:
    kinds = {CosineTransform, ClassShift, InvertibleLinear, ClassWhitening, ClassScale}
    assert {type(layer) for layer in layers()} == kinds


def test_cosine_transform_has_log_det_exactly_zero_and_keeps_norms() -> None:
    layer = CosineTransform((6, 5, 3), block=2)
    x = torch.randn(7, 90, dtype=torch.float64)
    z, log_det = layer(x, Condition.of(Conditions(1), torch.zeros(7, dtype=torch.int64)))
    assert torch.equal(log_det, torch.zeros(7, dtype=torch.float64))
    assert torch.allclose(z.norm(dim=1), x.norm(dim=1), atol=1e-12)


def test_cosine_matrix_is_the_dct_of_scipy() -> None:
    from scipy.fft import dctn

    image = np.random.default_rng(0).random((6, 9))
    assert np.allclose(cosine_matrix(6) @ image @ cosine_matrix(9).T, dctn(image, norm="ortho"), atol=1e-13)


def test_coefficients_are_ordered_low_block_first_then_by_frequency() -> None:
    shape, block = (6, 8, 3), 3
    order, frequency = coefficient_order(shape, block), radial_frequency(shape)
    assert sorted(order) == list(range(6 * 8 * 3))
    u, v, _ = np.unravel_index(order[: block * block * 3], shape)
    assert max(u) < block
    assert max(v) < block
    assert all(frequency[a] <= frequency[b] for a, b in itertools.pairwise(order[27:]))
    bands = band_of_coefficients(shape, block, 5)
    assert set(bands) == set(range(5))
    assert all(a <= b for a, b in itertools.pairwise(bands[27:]))


@pytest.mark.parametrize("shape", SHAPES)
def test_flow_is_exactly_invertible_with_perturbed_weights(shape: tuple[int, int, int]) -> None:
    flow = random_flow(shape, block=4, content=9)
    x = synthetic_records(flow.architecture, 12)
    y = torch.arange(12) % 3
    for dtype, limit in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        z, log_det = flow.to(dtype).encode(x, y)
        assert z.shape == (12, flow.architecture.dims)
        assert z.dtype == log_det.dtype == dtype
        assert log_det.shape == (12,)
        assert float((flow.decode(z, y) - x).abs().max()) < limit
    flow.double()
    z = torch.randn(12, flow.architecture.dims, dtype=torch.float64)
    assert float((flow.encode(flow.decode(z, y), y)[0] - z).abs().max()) < 1e-9


def test_flow_log_det_is_that_of_the_numeric_jacobian() -> None:
    flow = random_flow((3, 4, 2), block=3, content=5)
    x = torch.rand(3, 24, dtype=torch.float64)
    y = torch.arange(3)
    log_det = flow.encode(x, y)[1]
    step = 1e-5
    for row in range(3):
        label = y[row : row + 1].expand(24)
        plus, minus = (flow.encode(x[row] + sign * step * torch.eye(24), label)[0] for sign in (1, -1))
        jacobian = (plus - minus) / (2 * step)
        assert float(torch.linalg.slogdet(jacobian).logabsdet) == pytest.approx(float(log_det[row]), abs=1e-6)


def test_encode_takes_flat_rows_and_images_alike() -> None:
    flow = random_flow((4, 6, 3))
    x, y = torch.rand(5, 4, 6, 3, dtype=torch.float64), torch.zeros(5, dtype=torch.int64)
    assert torch.equal(flow.encode(x, y)[0], flow.encode(x.reshape(5, -1), y)[0])


def test_the_label_matters() -> None:
    flow = random_flow((4, 6, 1))
    x = torch.rand(1, 24, dtype=torch.float64)
    first, second = (flow.encode(x, torch.tensor([label]))[0] for label in (0, 1))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_row_depends_on_its_neighbours_to_the_bit(dtype: torch.dtype) -> None:
    flow = random_flow((8, 8, 1), block=5, content=12).to(dtype)
    n, d = 64, 64
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(n, d, generator=generator, dtype=dtype)
    y = torch.arange(n) % 3
    encoded, decoded = flow.encode(x, y)[0], flow.decode(x, y).reshape(n, d)
    for value in (float("nan"), float("inf"), 1e38, -1e38, 1e-45):
        hostile = torch.full_like(x, value)
        for kept in (0, 17, n - 1):
            hostile[kept] = x[kept]
            assert torch.equal(flow.encode(hostile, y)[0][kept], encoded[kept])
            assert torch.equal(flow.decode(hostile, y).reshape(n, d)[kept], decoded[kept])
            hostile[kept] = value


def test_a_batch_norm_would_be_caught_by_the_same_comparison() -> None:
    x = torch.rand(64, 8)
    other = x.clone()
    other[1:] = 5.0
    assert not torch.equal((x / x.norm())[0], (other / other.norm())[0])


def test_images_in_and_out_are_8_bit_and_survive_the_round_trip() -> None:
    flow = random_flow((8, 8, 1), block=5, content=12)
    images = np.random.default_rng(1).integers(0, 256, (20, 8, 8, 1)).astype(np.uint8)
    labels = np.arange(20) % 3
    latents = flow.encode_images(images, labels)
    assert latents.shape == (20, 64)
    assert latents.dtype == np.float64
    assert np.array_equal(flow.decode_images(latents, labels), images)
    latents[0] = np.nan
    assert flow.decode_images(latents, labels)[0].max() == 0
    assert np.array_equal(flow.decode_images(latents, labels)[1:], images[1:])


def test_round_trip_check_passes_a_bijection_and_catches_what_is_none() -> None:
    flow = random_flow((8, 8, 1), block=5, content=12)
    assert check_round_trip(flow) < 1e-12
    assert check_round_trip(flow.float()) < 1e-4
    flow.rotation.weight[3] = flow.rotation.weight[2] * (1 + 1e-7)
    assert not check_round_trip(flow) <= ROUND_TRIP_LIMIT
    broken = random_flow((8, 8, 1))
    broken.scale.log_scale[1, 5] = float("nan")
    assert not check_round_trip(broken) <= ROUND_TRIP_LIMIT


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "glow"),
        ("shape", [28, 28]),
        ("shape", [1 << 20, 1 << 20, 3]),
        ("classes", 0),
        ("classes", True),
        ("block", 29),
        ("block", 2.0),
        ("content", 197),
        ("bands", 0),
    ],
)
def test_architecture_refuses_what_no_network_has(field: str, value: object) -> None:
    good = Whitening((28, 28, 1), 10, 14, 64, 16)
    assert architecture_from_json(good.to_json()) == good
    with pytest.raises(CheckpointRefused):
        architecture_from_json({**good.to_json(), field: value})
    with pytest.raises(CheckpointRefused, match="fields"):
        architecture_from_json({**good.to_json(), "extra": 1})


def test_a_new_flow_is_the_bare_cosine_transform() -> None:
    flow = ConditionalFlow(Whitening((4, 4, 1), 2, 2, 3, 4))
    x, y = torch.rand(2, 16, dtype=torch.float64), torch.tensor([0, 1])
    assert torch.equal(flow.encode(x, y)[0], flow.cosine(x, flow.condition(y))[0])
