"""Every architecture is what a normalizing flow is: shapes, inverse, log-det, gradients, at rest, row by row."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cadp.cinn.architecture import Architecture, Conditions, Convolutional, Couplings, Scale, architecture_from_json
from cadp.cinn.checkpoint import load_checkpoint, save_checkpoint
from cadp.cinn.layers.layer import Condition
from cadp.cinn.network import ROUND_TRIP_LIMIT, ConditionalFlow, check_round_trip
from cadp.privacy.accountant import RELATION, GaussianEvent
from cadp.store import Store
from tests.cinn.architectures import ARCHITECTURES, condition_of, perturbed_flow, records

every = pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
trained = pytest.mark.parametrize(
    "architecture",
    [value for value in ARCHITECTURES.values() if value.kind != "whitening"],
    ids=[name for name, value in ARCHITECTURES.items() if value.kind != "whitening"],
)


def loss_of(flow: ConditionalFlow, x: Tensor) -> Tensor:
    """Mean negative log-likelihood, up to a constant."""
    z, log_det = flow.encode(x, condition_of(flow, len(x)))
    return (0.5 * z.square().sum(dim=1) - log_det).mean()


def train(flow: ConditionalFlow, steps: int) -> ConditionalFlow:
    """A few steps of maximum likelihood."""
    parameters = [parameter for parameter in flow.parameters() if parameter.requires_grad]
    if parameters:
        optimizer = torch.optim.Adam(parameters, lr=1e-2)
        for _ in range(steps):
            optimizer.zero_grad()
            loss_of(flow, records(flow.architecture, 16)).backward()
            optimizer.step()
    return flow


@every
def test_shapes_and_types(architecture: Architecture) -> None:
    flow, n, d = perturbed_flow(architecture), 6, architecture.dims
    x = records(architecture, n)
    for dtype in (torch.float64, torch.float32):
        c = condition_of(flow.to(dtype), n)
        z, log_det = flow.encode(x.reshape(n, *architecture.shape), c)
        assert z.shape == (n, d)
        assert log_det.shape == (n,)
        assert z.dtype == log_det.dtype == flow.decode(z, c).dtype == dtype
        assert flow.decode(z, c).shape == (n, *architecture.shape)
        assert torch.equal(flow.encode(x, c)[0], z)


@every
@pytest.mark.parametrize("state", ["fresh", "perturbed", "trained"])
def test_inverse(architecture: Architecture, state: str) -> None:
    flow = ConditionalFlow(architecture) if state == "fresh" else perturbed_flow(architecture)
    if state == "trained":
        train(flow, 5)
    n = 12
    x = records(architecture, n)
    tails = 4 * torch.randn(n, architecture.dims, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    with torch.no_grad():
        for dtype, limit in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
            c = condition_of(flow.to(dtype), n)
            back = flow.decode(flow.encode(x, c)[0], c).reshape(n, -1)
            assert float((back - x).abs().max()) < limit
            assert check_round_trip(flow) < limit
            if not getattr(architecture, "logit", 0.0):  # sigmoid(z) is 1 to all digits from z = 37 on
                assert float((flow.encode(flow.decode(tails, c), c)[0] - tails).abs().max()) < limit


@pytest.mark.parametrize(
    "shape", [(28, 28, 1), (64, 64, 3), (128, 128, 3)], ids=lambda shape: "x".join(map(str, shape))
)
def test_inverse_of_large_images(shape: tuple[int, int, int]) -> None:
    """Down to 7×7 or 4×4, half of the channels split off at every scale."""
    h, _, channels = shape
    scales = []
    while h % 2 == 0 and h > 7:
        h, channels = h // 2, 4 * channels
        scales.append(Scale(Couplings(2, 4, mixing="orthogonal"), keep=channels // 2))
        channels //= 2
    architecture = Convolutional(shape, Conditions(2), tuple(scales), Couplings(1, 8), content=8, logit=0.02)
    flow = perturbed_flow(architecture)
    assert check_round_trip(flow, images=4) < 1e-9
    assert check_round_trip(flow.float(), images=4) < 1e-4


@every
def test_log_det_is_that_of_the_numeric_jacobian(architecture: Architecture) -> None:
    flow, step = perturbed_flow(architecture), 1e-5
    rows, d = 2, architecture.dims
    x, c = records(architecture, rows), condition_of(flow, rows)
    with torch.no_grad():
        log_det = flow.encode(x, c)[1]
        for row in range(rows):
            repeated = type(c)(c.labels[row].expand(d), c.vector[row].expand(d, -1))
            plus, minus = (flow.encode(x[row] + sign * step * torch.eye(d), repeated)[0] for sign in (1, -1))
            numeric = torch.linalg.slogdet((plus - minus) / (2 * step)).logabsdet
            assert float(numeric) == pytest.approx(float(log_det[row]), abs=1e-5)


@trained
def test_every_parameter_gets_a_gradient(architecture: Architecture) -> None:
    flow = perturbed_flow(architecture)
    names = [name for name, parameter in flow.named_parameters() if parameter.requires_grad]
    assert names
    loss_of(flow, records(architecture, 16)).backward()
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@trained
def test_training_lowers_the_loss(architecture: Architecture) -> None:
    torch.manual_seed(0)
    flow = ConditionalFlow(architecture)
    x = records(architecture, 16)
    before = loss_of(flow, x).item()
    assert loss_of(train(flow, 20), x).item() < before


@trained
def test_a_fresh_network_is_the_identity_up_to_fixed_transforms(architecture: Architecture) -> None:
    """Two fresh networks with other random hidden layers agree to the bit: what was drawn is multiplied by zero."""
    flows = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        flows.append(ConditionalFlow(architecture))
    x = records(architecture, 4)
    (first, one), (second, other) = (flow.encode(x, condition_of(flow, 4)) for flow in flows)
    assert any(not torch.equal(a, b) for a, b in zip(flows[0].parameters(), flows[1].parameters(), strict=True))
    assert torch.equal(first, second)
    assert torch.equal(one, other)


@every
def test_save_and_load(architecture: Architecture, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    privacy = {"relation": RELATION, "population": "visitors", "event": GaussianEvent(0.5).to_json()}
    for dtype in (torch.float64, torch.float32):
        flow = train(perturbed_flow(architecture), 1).to(dtype)
        again, _ = load_checkpoint(store, save_checkpoint(store, flow, privacy, {"torch": torch.__version__}))
        assert again.architecture == architecture == architecture_from_json(architecture.to_json())
        assert again.dtype == dtype
        x, c = records(architecture, 5), condition_of(flow, 5)
        with torch.no_grad():
            z = flow.encode(x, c)[0]
            assert torch.equal(again.encode(x, c)[0], z)
            assert torch.equal(again.decode(z, c), flow.decode(z, c))


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_no_row_depends_on_its_neighbours_to_the_bit(architecture: Architecture, dtype: torch.dtype) -> None:
    flow, n = perturbed_flow(architecture).to(dtype), 16
    x, c = records(architecture, n).to(dtype), condition_of(flow, n)
    with torch.no_grad():
        encoded, log_det = flow.encode(x, c)
        decoded = flow.decode(x, c)
        for value in (float("nan"), float("inf"), 1e38, -1e38, 1e-45):
            hostile = torch.full_like(x, value)
            for kept in (0, 7, n - 1):
                hostile[kept] = x[kept]
                found, found_log_det = flow.encode(hostile, c)
                assert torch.equal(found[kept], encoded[kept])
                assert torch.equal(found_log_det[kept], log_det[kept])
                assert torch.equal(flow.decode(hostile, c)[kept], decoded[kept])
                hostile[kept] = value


@trained
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_low_precision_subnets_keep_the_round_trip_of_a_float64_flow(
    architecture: Architecture, compute: torch.dtype
) -> None:
    flow = perturbed_flow(architecture).use_compute_dtype(compute)
    exact = perturbed_flow(architecture)
    assert check_round_trip(flow) < 1e-9
    x, c = records(architecture, 8), condition_of(flow, 8)
    with torch.no_grad():
        z, reference = flow.encode(x, c)[0], exact.encode(x, c)[0]
    assert not torch.equal(z, reference)  # they do compute in another precision
    assert float((z - reference).abs().max()) < (1e-4 if compute == torch.float32 else 0.5)
    loss_of(flow, records(architecture, 8)).backward()
    assert all(parameter.grad is not None for parameter in flow.parameters())


@trained
def test_low_precision_weights_follow_the_weights(architecture: Architecture) -> None:
    flow = perturbed_flow(architecture).use_compute_dtype(torch.float32)
    x, c = records(architecture, 3), condition_of(flow, 3)
    with torch.no_grad():
        before = flow.encode(x, c)[0]
        assert torch.equal(flow.encode(x, c)[0], before)
        for parameter in flow.parameters():
            parameter.mul_(1.5)
        assert not torch.equal(flow.encode(x, c)[0], before)


@trained
def test_every_condition_matters(architecture: Architecture) -> None:
    flow, n = perturbed_flow(architecture), 6
    x, c = records(architecture, n), condition_of(flow, n)
    with torch.no_grad():
        z = flow.encode(x, c)[0]
        for column in range(c.vector.shape[1]):
            vector = c.vector.clone()
            vector[:, column] = 0.5 - vector[:, column]
            assert not torch.allclose(flow.encode(x, type(c)(c.labels, vector))[0], z)


@every
def test_round_trip_check_catches_what_is_no_bijection(architecture: Architecture) -> None:
    flow = perturbed_flow(architecture)
    tensors = [tensor for tensor in flow.state_dict().values() if tensor.is_floating_point()]
    with torch.no_grad():
        tensors[-1].fill_(float("nan"))
    assert not check_round_trip(flow) <= ROUND_TRIP_LIMIT


@every
def test_round_trip_check_sees_black_white_and_noise_of_every_class(
    architecture: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow, seen = perturbed_flow(architecture), []
    encode = flow.encode

    def watched(x: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        seen.append((x.reshape(len(x), -1), c.labels))
        return encode(x, c)

    monkeypatch.setattr(flow, "encode", watched)
    check_round_trip(flow)
    assert [set(labels.tolist()) for _, labels in seen] == [{label} for label in range(architecture.classes)]
    for x, _ in seen:
        assert len(x) == (8 if architecture.kind == "convolutional" else 64)
        assert torch.equal(x[0], torch.zeros_like(x[0]))
        assert torch.equal(x[1], torch.ones_like(x[1]))
        assert len(x[3:].unique(dim=0)) == len(x) - 3
