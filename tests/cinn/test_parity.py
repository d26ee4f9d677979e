"""From the same weights our network is FrEIA's: couplings, Haar, squares, and the whole published graph."""

import math
from typing import Any

import FrEIA.modules as fm
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cadp.cinn.architecture import Conditions
from cadp.cinn.layers.coupling import Coupling
from cadp.cinn.layers.images import Haar, Squares
from cadp.cinn.layers.layer import Condition
from cadp.cinn.layers.subnets import ConvSubnet, DenseSubnet
from cadp.cinn.network import check_round_trip
from cadp.cinn.published import import_published, published_mnist
from tests.cinn.oracle import BLOCKS, conditions_of, graph, subnet

N = 5


def condition(width: int) -> Condition:
    return Condition.of(Conditions(width), torch.arange(N) % width)


def randomised(module: nn.Module) -> nn.Module:
    draw = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
    return module


@pytest.mark.parametrize("coupling", ["glow", "gin"])
@pytest.mark.parametrize("channels", [2, 5, 6, 7], ids=lambda channels: f"{channels} channels")
@pytest.mark.parametrize("dense", [True, False], ids=["dense", "convolutional"])
def test_couplings(coupling: Any, channels: int, dense: bool) -> None:
    c, size = condition(3), () if dense else (4, 6)
    theirs = BLOCKS[coupling]([(channels, *size)], [(3, *size)], subnet_constructor=subnet(dense, 8), clamp=1.2)
    randomised(theirs)
    theirs.double()

    def make(dims_in: int, dims_out: int) -> Any:
        return (DenseSubnet if dense else ConvSubnet)(dims_in, dims_out, condition=3, width=8, hidden=2)

    ours = Coupling(channels, make, coupling, 1.2)
    ours.load_state_dict({name.replace(".", ".layers.", 1): value for name, value in theirs.state_dict().items()})
    x = torch.randn(N, channels, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spread = c.vector.reshape(N, 3, *[1] * len(size)).expand(N, 3, *size)
    (z,), log_det = theirs([x], [spread])
    found, found_log_det = ours(x, c)
    assert not torch.allclose(found, x)
    assert torch.allclose(found, z, rtol=0, atol=1e-12)
    assert torch.allclose(found_log_det, torch.as_tensor(log_det, dtype=torch.float64).expand(N), rtol=0, atol=1e-11)
    (back,), _ = theirs([z], [spread], rev=True)
    assert torch.allclose(ours.inverse(z, c), back, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Squares(), fm.IRevNetDownsampling([(3, 4, 6)])),
        (Haar(), fm.HaarDownsampling([(3, 4, 6)], order_by_wavelet=True)),
    ],
    ids=["squares", "haar"],
)
def test_downsampling(ours: Any, theirs: Any) -> None:
    x, c = torch.randn(N, 3, 4, 6, dtype=torch.float64), condition(1)
    (z,), log_det = theirs.double()([x.clone()])
    assert torch.allclose(ours(x, c)[0], z, atol=1e-14)
    assert torch.equal(ours(x, c)[1], torch.zeros(N, dtype=torch.float64))
    assert log_det == pytest.approx(0, abs=1e-12)
    assert torch.allclose(ours.inverse(z, c), x, atol=1e-14)


SMALL: dict[str, dict[str, Any]] = {
    "glow": {"coupling": "glow"},
    "gin": {"coupling": "gin"},
    "no condition": {"condition": 0},
    "splits": {"depths": (1, 2, 1), "splits": (0.0, 0.5, 0.25)},
    "split at once": {"depths": (2, 1), "splits": (0.5, 0.5)},
    "many modules": {"depths": (6,), "head": 3},
}


def compare(network: Any, shape: tuple[int, int, int], width: int, **options: Any) -> None:
    """Forward, inverse and log-det, from one state dict."""
    ours = import_published(network.state_dict(), shape=shape, **options).double()
    network.double()
    x = torch.rand(N, *shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    c = ours.condition(torch.arange(N) % ours.architecture.classes)
    with torch.no_grad():
        theirs, log_det = network(x.permute(0, 3, 1, 2), conditions_of(network, c.vector) if width else None)
        outputs = theirs if isinstance(theirs, tuple) else (theirs,)
        z, found = ours.encode(x, c)
        assert torch.allclose(z, torch.cat(outputs[::-1], dim=1), rtol=0, atol=1e-11)  # the last scale comes first
        assert torch.allclose(found, log_det, rtol=0, atol=1e-10)
        noise = [torch.randn(output.shape, dtype=torch.float64) for output in outputs]
        back, _ = network(noise, conditions_of(network, c.vector) if width else None, rev=True)
        assert torch.allclose(ours.decode(torch.cat(noise[::-1], dim=1), c).permute(0, 3, 1, 2), back, atol=1e-10)


@pytest.mark.parametrize("options", SMALL.values(), ids=SMALL.keys())
def test_graph(options: dict[str, Any]) -> None:
    chosen = {"condition": 3, "depths": (2, 1), "width": 6, "head_width": 7, "clamp": 1.3, **options}
    network = graph((8, 16, 1), **chosen)
    compare(network, (8, 16, 1), chosen["condition"], clamp=1.3, coupling=chosen.get("coupling", "glow"))


def test_published_mnist() -> None:
    network = graph((28, 28, 1))
    flow = import_published(network.state_dict())
    assert flow.architecture == published_mnist()
    learned = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    assert sum(parameter.numel() for parameter in flow.parameters()) == learned
    compare(network, (28, 28, 1), 10)


def test_bfloat16_subnets_invert_exactly_with_float64_coordinates_only() -> None:
    flow = import_published(graph((28, 28, 1)).state_dict()).use_compute_dtype(torch.bfloat16)
    assert check_round_trip(flow.double(), images=2) < 1e-9
    assert not check_round_trip(flow.float(), images=2) < 1e-4


def test_class_gaussian_is_the_likelihood_of_the_published_ica_model() -> None:
    network = graph((4, 4, 1), condition=3, depths=(1,), head=1, width=4, head_width=4)
    mean, log_scale = torch.randn(3, 16), 0.3 * torch.randn(3, 16)
    state: dict[str, Tensor] = {f"inn.{name}": value for name, value in network.state_dict().items()}
    flow = import_published({**state, "mu": mean, "log_sig": log_scale}, shape=(4, 4, 1))
    y = torch.arange(N) % 3
    x = torch.rand(N, 4, 4, 1)
    with torch.no_grad():
        z, log_det = flow.encode(x, y)
        raw, jacobian = network(x.permute(0, 3, 1, 2), conditions_of(network, flow.condition(y).vector))
    density = torch.distributions.Normal(mean[y], log_scale[y].exp()).log_prob(raw).sum(dim=1) + jacobian
    found = -0.5 * z.square().sum(dim=1) - 8 * math.log(2 * math.pi) + log_det
    assert np.allclose(found, density, atol=1e-4)
