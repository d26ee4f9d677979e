"""Maximum likelihood on public data: every architecture learns, stops in time and stays a bijection."""

import numpy as np
import pytest
import torch

from cadp.cinn.architecture import Architecture, Coupled, Couplings, Dense, Whitening
from cadp.cinn.checkpoint import Origin, load_checkpoint, save_public
from cadp.cinn.layers.layer import Condition
from cadp.cinn.network import ConditionalFlow, synthetic_condition
from cadp.cinn.public_training import PublicRecipe, PublicRecords, _loss, train_public
from cadp.errors import CheckpointRefused
from cadp.reporter import Silent
from cadp.store import Store
from tests.cinn.architectures import ARCHITECTURES

QUICK = PublicRecipe(epochs=6, batch=16, learning_rate=1e-2, warm_up=4, patience=6)


def some_records(architecture: Architecture, n: int = 160) -> PublicRecords:
    """Records of a simple law that depends on the label: grey levels around a mean of their class."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, architecture.classes, n)
    shades = 0.25 + 0.15 * draw.standard_normal((n, 1)) + 0.2 * (labels % 3)[:, None]
    x = np.clip(shades + 0.05 * draw.standard_normal((n, architecture.dims)), 0, 1)
    with torch.no_grad():
        condition = synthetic_condition(ConditionalFlow(architecture), torch.from_numpy(labels))
    if isinstance(architecture, Dense):
        return PublicRecords(x, condition)
    return PublicRecords((x * 255).astype(np.uint8).reshape(n, *architecture.shape), condition)


def loss(flow: ConditionalFlow, data: PublicRecords) -> float:
    flow.float()
    try:
        return _loss(flow, data, torch.arange(len(data)), QUICK)
    finally:
        flow.double()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_learns_and_stays_a_bijection(name: str) -> None:
    architecture = ARCHITECTURES[name]
    torch.manual_seed(0)
    flow, data = ConditionalFlow(architecture), some_records(architecture)
    before = loss(flow, data)
    fit = train_public(flow, data, QUICK, Silent())
    assert loss(flow, data) < before - 0.2
    assert fit.round_trip < 1e-6
    assert {tensor.dtype for tensor in flow.parameters()} <= {torch.float64}
    if list(flow.parameters()):
        assert fit.best == int(np.argmin(fit.validation))


def test_the_whitening_alone_takes_gaussians_to_normal() -> None:
    """Means and full covariances by class are recovered: latents of the content are white in every class."""
    architecture = Whitening((4, 4, 1), 2, 4, 16, 4)
    draw = np.random.default_rng(1)
    labels = draw.integers(0, 2, 6000)
    mix = np.stack([np.linalg.qr(draw.standard_normal((16, 16)))[0] * np.linspace(1, 0.3, 16) for _ in range(2)])
    noise = np.einsum("nij,nj->ni", mix[labels], draw.standard_normal((6000, 16)))
    images = np.clip(128 + 25 * noise + 10 * labels[:, None], 0, 255).astype(np.uint8).reshape(-1, 4, 4, 1)
    flow = ConditionalFlow(architecture)
    data = PublicRecords(images, flow.condition(torch.from_numpy(labels)))
    train_public(flow, data, QUICK, Silent())
    z = flow.encode_images(images, labels)
    for label in (0, 1):
        rows = z[labels == label]
        # Shrinkage by .15 towards the common covariance is kept: it is the recipe's.
        assert np.abs(rows.mean(axis=0)).max() < 0.1
        assert np.abs(np.cov(rows.T) - np.eye(16)).max() < 0.35


def test_training_stops_when_validation_does_and_keeps_the_best_weights() -> None:
    architecture = Dense(6, ARCHITECTURES["table, glow"].conditions, Couplings(3, 32), content=3)
    draw = np.random.default_rng(2)
    x = draw.random((60, 6))
    labels = torch.from_numpy(draw.integers(0, 3, 60))
    torch.manual_seed(0)
    flow = ConditionalFlow(architecture)
    data = PublicRecords(x, flow.condition(labels))
    recipe = PublicRecipe(epochs=200, batch=16, learning_rate=1e-2, warm_up=10, patience=3, validation=0.3)
    fit = train_public(flow, data, recipe, Silent())
    assert len(fit.validation) < 200
    assert len(fit.validation) == fit.best + 1 + recipe.patience
    order = torch.randperm(60, generator=torch.Generator().manual_seed(recipe.seed))
    assert _loss(flow.float(), data, order[:18], recipe) == pytest.approx(min(fit.validation), rel=1e-5)


def test_bfloat16_subnets_learn_as_well_and_the_flow_is_float64_again() -> None:
    architecture = ARCHITECTURES["whitening then glow"]
    ends = []
    for low in (False, True):
        torch.manual_seed(0)
        flow, data = ConditionalFlow(architecture), some_records(architecture)
        recipe = PublicRecipe(epochs=3, batch=32, learning_rate=5e-3, warm_up=4, low_precision=low)
        fit = train_public(flow, data, recipe, Silent())
        assert all(getattr(module, "compute_dtype", None) is None for module in flow.modules())
        assert fit.round_trip < 1e-6
        ends.append(loss(flow, data))
    assert ends[1] == pytest.approx(ends[0], abs=1.0)


def test_the_same_seed_gives_the_same_model() -> None:
    architecture = ARCHITECTURES["table, glow"]
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        flow = ConditionalFlow(architecture)
        train_public(flow, some_records(architecture), QUICK, Silent())
        states.append(flow.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_result_is_kept_without_a_privacy_record(tmp_path: object) -> None:
    architecture = Coupled(Whitening((4, 4, 1), 2, 3, 4, 2), Couplings(1, 4))
    flow, store = ConditionalFlow(architecture), Store.open(str(tmp_path))
    train_public(flow, some_records(architecture, 60), PublicRecipe(epochs=1, batch=16), Silent())
    digest = save_public(store, flow, Origin("trained on generated shapes"), {})
    with pytest.raises(CheckpointRefused):
        load_checkpoint(store, digest)
    again, privacy = load_checkpoint(store, digest, public_for="somebody")
    assert privacy == {}
    assert torch.equal(again.whitening.lower, flow.whitening.lower)


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"batch": 0}, {"validation": 0.0}, {"validation": 1.0}, {"learning_rate": float("nan")}],
    ids=str,
)
def test_absurd_recipes_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="PublicRecipe"):
        PublicRecipe(**wrong)  # type: ignore[arg-type]


def test_too_few_records_are_refused() -> None:
    architecture = ARCHITECTURES["table, glow"]
    flow = ConditionalFlow(architecture)
    condition = Condition(torch.zeros(1, dtype=torch.int64), torch.zeros(1, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="none is left"):
        train_public(flow, PublicRecords(np.zeros((1, 7)), condition), QUICK, Silent())
