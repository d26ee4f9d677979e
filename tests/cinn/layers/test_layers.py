"""Every small layer alone: a bijection, the log-det it says, and what is particular to it."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from cadp.cinn.architecture import Conditions, Convolutional, Couplings, Scale
from cadp.cinn.layers.coupling import Coupling
from cadp.cinn.layers.images import Haar, Split, Squares, ToImage, ToRow
from cadp.cinn.layers.latents import ClassGaussian
from cadp.cinn.layers.layer import Chain, Condition, Layer, OnFirst
from cadp.cinn.layers.mixing import Permutation, Rotation, public_permutation
from cadp.cinn.layers.pixels import Dequantise, Logit, dequantised
from cadp.cinn.layers.subnets import ConvSubnet, DenseSubnet, Subnet
from cadp.cinn.layers.tone import ToneCurve
from cadp.cinn.network import ConditionalFlow
from tests.cinn.layers.test_mixture import mixed

THREE = Conditions(3)


def random(layer: Layer) -> Layer:
    draw = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64))
    return layer


def subnet(kind: type[DenseSubnet] | type[ConvSubnet]) -> Callable[[int, int], Subnet]:
    return lambda dims_in, dims_out: kind(dims_in, dims_out, condition=3, width=5, hidden=1)


ROW, IMAGE = (12,), (3, 4, 2)
LAYERS: dict[str, tuple[Layer, tuple[int, ...]]] = {
    "dequantise": (Dequantise(), ROW),
    "logit": (Logit(0.05), ROW),
    "permutation of rows": (Permutation(public_permutation(12, 0)), ROW),
    "permutation of channels": (Permutation(public_permutation(3, 1)), IMAGE),
    "rotation of rows": (Rotation(12), ROW),
    "rotation of channels": (Rotation(3), IMAGE),
    "rows to images": (ToImage((2, 2, 3)), ROW),
    "images to rows": (ToRow((4, 2, 3)), IMAGE),
    "squares": (Squares(), IMAGE),
    "haar": (Haar(), IMAGE),
    "split": (Split((4, 2, 3), 1, Chain([Haar(), ToRow((2, 1, 4))])), IMAGE),
    "class gaussian": (ClassGaussian(3, 12), ROW),
    "on first": (OnFirst(5, ClassGaussian(3, 5)), ROW),
    "mixture": (mixed(), ROW),
    "tones": (ToneCurve(3, 8), ROW),
    "glow, rows": (Coupling(12, subnet(DenseSubnet), "glow", 1.5), ROW),
    "gin, rows": (Coupling(12, subnet(DenseSubnet), "gin", 1.5), ROW),
    "glow, images": (Coupling(3, subnet(ConvSubnet), "glow", 1.5), IMAGE),
    "gin, images": (Coupling(3, subnet(ConvSubnet), "gin", 1.5), IMAGE),
}
every = pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS.keys())


@every
def test_layer_is_a_bijection_with_its_log_det(layer: Layer, shape: tuple[int, ...]) -> None:
    random(layer)
    n = 4
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    c = Condition.of(THREE, torch.arange(n) % 3)
    z, log_det = layer(x, c)
    assert z.numel() == x.numel()
    assert log_det.shape == (n,)
    assert torch.allclose(layer.inverse(z, c), x, rtol=0, atol=1e-12)
    for row in range(n):
        one = Condition(c.labels[row : row + 1], c.vector[row : row + 1])

        def flat(v: Tensor, one: Condition = one) -> Tensor:
            return layer(v.reshape(1, *shape), one)[0].flatten()

        jacobian = torch.autograd.functional.jacobian(flat, x[row].flatten())
        assert torch.allclose(torch.linalg.slogdet(jacobian).logabsdet, log_det[row], rtol=0, atol=1e-10)


def test_every_layer_of_every_architecture_is_among_those_tested() -> None:
    from tests.cinn.architectures import ARCHITECTURES
    from tests.cinn.test_network import layers

    tested = {type(layer) for layer, _ in LAYERS.values()} | {type(layer) for layer in layers()}
    used = {type(module) for a in ARCHITECTURES.values() for module in ConditionalFlow(a).modules()}
    assert {kind for kind in used if issubclass(kind, Layer)} <= tested | {Chain}


@pytest.mark.parametrize("name", [name for name in LAYERS if name.startswith(("perm", "rot", "squ", "haar", "gin"))])
def test_volume_is_kept_exactly(name: str) -> None:
    layer, shape = LAYERS[name]
    x, c = torch.rand(4, *shape, dtype=torch.float64), Condition.of(THREE, torch.arange(4) % 3)
    assert torch.equal(random(layer)(x, c)[1], torch.zeros(4, dtype=torch.float64))


def test_a_pixel_is_encoded_as_the_centre_of_its_cell() -> None:
    x, c = torch.arange(256, dtype=torch.float64)[None] / 255, Condition.of(Conditions(1), torch.zeros(1).long())
    u, log_det = Dequantise()(x, c)
    assert torch.allclose(u[0] * 256, torch.arange(256, dtype=torch.float64) + 0.5, rtol=0, atol=1e-12)
    assert log_det.item() == pytest.approx(256 * math.log(255 / 256))


def test_training_noise_stays_within_the_cell_and_fills_it() -> None:
    x = torch.full((1, 1000), 7 / 255, dtype=torch.float64)
    noise = torch.linspace(0, 1 - 1e-9, 1000, dtype=torch.float64)[None]
    u, _ = Dequantise()(dequantised(x, noise), Condition.of(Conditions(1), torch.zeros(1).long()))
    assert u.min() * 256 == pytest.approx(7, abs=1e-6)
    assert u.max() * 256 == pytest.approx(8, abs=1e-6)
    assert torch.equal((u * 256).floor().clamp(7, 7), torch.full_like(u, 7.0))


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_logit_is_exact_at_black_and_white(dtype: torch.dtype, limit: float) -> None:
    x, c = torch.tensor([[0.0, 1.0, 0.5, 1 / 255]], dtype=dtype), Condition.of(Conditions(1), torch.zeros(1).long())
    for alpha in (1e-6, 0.05, 0.25):
        chain = Chain([Dequantise(), Logit(alpha)])
        z, log_det = chain(x, c)
        assert torch.isfinite(z).all()
        assert torch.isfinite(log_det).all()
        assert float((chain.inverse(z, c) - x).abs().max()) < limit


PINNED = ([0, 1, 2, 3, 5, 6, 4, 7], [3, 1, 4, 0, 2, 6, 5, 7])


def test_public_permutations_never_change() -> None:
    """They are part of every trained model but stored in none: another order would be another model."""
    assert public_permutation(8, 0).tolist() == PINNED[0]
    assert public_permutation(8, 1).tolist() == PINNED[1]
    assert sorted(public_permutation(1000, 5)) == list(range(1000))
    assert not np.array_equal(public_permutation(1000, 5), public_permutation(1000, 6))


def test_every_block_of_a_network_has_its_own_permutation_for_ever() -> None:
    two = Couplings(2, 1)
    network = Convolutional((8, 8, 1), Conditions(1), (Scale(two, keep=1), Scale(two)), Couplings(1, 1), content=1)
    found = [layer.order.tolist() for layer in ConditionalFlow(network).modules() if isinstance(layer, Permutation)]
    numbers = [(4, 64), (4, 65), (4, 128), (4, 129), (16, 0)]
    assert found == [public_permutation(size, index).tolist() for size, index in numbers]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-3, 1.0, 100.0], ids=lambda size: f"{size:g}")
def test_a_rotation_stays_orthogonal_under_any_perturbation(size: float, dtype: torch.dtype) -> None:
    layer = Rotation(24)
    with torch.no_grad():
        layer.skew.copy_(size * torch.randn(layer.skew.shape, generator=torch.Generator().manual_seed(0)))
    matrix = layer.to(dtype).matrix().detach().double()
    error = (matrix @ matrix.T - torch.eye(24, dtype=torch.float64)).abs().max()
    assert float(error) < (1e-11 if dtype == torch.float64 else 1e-6)
    assert float(torch.linalg.det(matrix)) == pytest.approx(1, abs=1e-5)
    assert not torch.allclose(matrix, torch.eye(24, dtype=torch.float64), atol=size / 10 if size < 1 else 0.1)


def test_haar_puts_averages_first_and_keeps_norms() -> None:
    x, c = torch.full((1, 2, 4, 4), 0.25, dtype=torch.float64), Condition.of(Conditions(1), torch.zeros(1).long())
    z, _ = Haar()(x, c)
    assert torch.allclose(z[:, :2], torch.full((1, 2, 2, 2), 0.5, dtype=torch.float64), atol=1e-15)
    assert torch.allclose(z[:, 2:], torch.zeros(1, 6, 2, 2, dtype=torch.float64), atol=1e-15)
    noise = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    many = Condition.of(Conditions(1), torch.zeros(3).long())
    assert torch.allclose(Haar()(noise, many)[0].flatten(1).norm(dim=1), noise.flatten(1).norm(dim=1), atol=1e-12)


@pytest.mark.parametrize("kind", ["glow", "gin"])
def test_no_coordinate_is_stretched_beyond_the_clamp(kind: str) -> None:
    """However large the subnet's numbers: by e^±clamp for GLOW; centring can double that for GIN."""
    clamp = 1.5
    layer = Coupling(12, subnet(DenseSubnet), kind, clamp)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(1e4 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    x, c = torch.randn(50, 12, dtype=torch.float64), Condition.of(THREE, torch.arange(50) % 3)
    passive = x[:, layer.first :]
    scale, _ = layer._scale_and_shift(layer.subnet2, passive, c)
    assert clamp * 0.99 < scale.abs().max().item() <= (clamp if kind == "glow" else 2 * clamp)


def test_a_condition_is_one_hot_then_attributes_then_bounded_numbers() -> None:
    conditions = Conditions(3, attributes=2, bounds=((0.0, 10.0), (-1.0, 3.0)))
    labels, attributes = torch.tensor([2, 0]), torch.tensor([[1, 0], [0, 1]])
    values = torch.tensor([[5.0, 3.0], [1e38, float("nan")]])
    found = Condition.of(conditions, labels, attributes, values)
    expected = [[0, 0, 1, 1, 0, 0, 1], [1, 0, 0, 0, 1, 1, 0]]
    assert found.vector.tolist() == expected
    assert conditions.width == 7
    assert torch.equal(found.labels, labels)
    with pytest.raises(ValueError, match="attributes"):
        Condition.of(conditions, labels)
    with pytest.raises(ValueError, match="values"):
        Condition.of(conditions, labels, attributes, values[:, :1])


def test_a_single_class_is_no_column() -> None:
    assert Condition.of(Conditions(1), torch.zeros(4).long()).vector.shape == (4, 0)
