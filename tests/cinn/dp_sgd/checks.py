"""What must hold of DP-SGD, as checks of the functions that run: mutants of those functions must fail them."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cadp.cinn.architecture import Coupled, Couplings, Whitening
from cadp.cinn.dp_sgd import training as sgd
from cadp.cinn.dp_sgd.gradients import linear_layers
from cadp.cinn.dp_sgd.plan import SgdPlan
from cadp.cinn.dp_sgd.start import public_start, stack_of
from cadp.cinn.dp_sgd.unit_records import UnitRecords
from cadp.cinn.layers.layer import Condition, Layer
from cadp.cinn.network import ConditionalFlow

UNITS, K, CLASSES = 96, 6, 3
ARCHITECTURE = Coupled(Whitening((8, 8, 1), CLASSES, 4, K, 4), Couplings(2, 8))


def plan_of(records: int = 1, *, rate: float = 0.25, noise: float = 1.5, units: int = UNITS, steps: int = 5) -> SgdPlan:
    radius = 1 << 26
    return SgdPlan(ARCHITECTURE, units, records, 1.0, rate, steps, 2.0**-10, 2.0**-16, radius, int(noise * radius))


def some_flow() -> ConditionalFlow:
    """A flow whose couplings are not the identity, so that every layer has a gradient."""
    flow = ConditionalFlow(ARCHITECTURE)
    public_start(flow)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in linear_layers(stack_of(flow)):
            layer.weight.add_(torch.randn(layer.weight.shape, generator=draw, dtype=torch.float64) * 0.3)
            layer.bias.add_(torch.randn(layer.bias.shape, generator=draw, dtype=torch.float64) * 0.3)
    return flow


def some_stack() -> Layer:
    return stack_of(some_flow()).float()


def some_records(records: int = 1, *, scale: float = 2.0, seed: int = 0) -> UnitRecords:
    """Units of 1 to `records` records."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, records + 1, UNITS) if records > 1 else np.ones(UNITS, dtype=np.int64)
    n = int(sizes.sum())
    content = (draw.standard_normal((n, K)) * scale).astype(np.float32)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return UnitRecords(content, draw.integers(0, CLASSES, n), np.ones(n, dtype=np.bool_), starts)


def all_drawn(patch: pytest.MonkeyPatch, drawn: NDArray[np.int64] | None = None) -> None:
    """Let every sample be these units, all if None."""
    patch.setattr(sgd, "poisson_sample", lambda rate, units: np.arange(units) if drawn is None else drawn)


def flat(sums: list[NDArray[np.int64]]) -> NDArray[np.object_]:
    """One vector of Python integers."""
    return np.concatenate([np.asarray(total).ravel() for total in sums]).astype(object)


def sum_of(stack: Layer, records: UnitRecords, plan: SgdPlan, drawn: list[int]) -> NDArray[np.object_]:
    with pytest.MonkeyPatch.context() as patch:
        all_drawn(patch, np.array(drawn, dtype=np.int64))
        return flat(sgd.private_sums(stack, records, plan)[0])


def loop_gradient(stack: Layer, records: UnitRecords, unit: int) -> NDArray[np.float64]:
    """A unit's gradient by autograd, record by record: in the layout of `flat`, float64."""
    total = np.zeros(sum(p.numel() for p in stack.parameters()))
    for row in range(records.starts[unit], records.starts[unit + 1]):
        labels = torch.from_numpy(records.labels[row : row + 1])
        condition = Condition.of(ARCHITECTURE.conditions, labels, dtype=next(stack.parameters()).dtype)
        x = torch.from_numpy(records.content[row : row + 1]).to(next(stack.parameters()).dtype)
        z, log_det = stack(x, condition)
        loss = (0.5 * z.square().sum(dim=1) - log_det).sum()
        grads = torch.autograd.grad(loss, list(stack.parameters()))
        pairs = zip(grads[::2], grads[1::2], strict=True)
        total += torch.cat([torch.cat([w, b[:, None]], dim=1).ravel() for w, b in pairs]).double().numpy()
    return total


def check_bounded() -> None:
    """No unit moves a sum by more than the clip norm, nor two contents of one by more than twice it, exactly."""
    stack = some_stack()
    for records in (1, 3):
        plan = plan_of(records)
        data = some_records(records, scale=30.0)
        same = UnitRecords(np.repeat(data.content[data.starts[:-1]], np.diff(data.starts), axis=0), *_rest(data))
        others = sum_of(stack, same, plan, list(range(1, UNITS)))
        for unit in range(0, UNITS, 7):
            alone = sum_of(stack, same, plan, [unit])
            assert 0 < sum(alone**2) <= plan.radius**2
        every = sum_of(stack, same, plan, list(range(UNITS)))
        first = sum_of(stack, same, plan, [0])
        assert all(every - others == first), "what the others add moved with a unit's coin"


def _rest(data: UnitRecords) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    labels = np.repeat(data.labels[data.starts[:-1]], np.diff(data.starts))
    return labels, data.valid, data.starts


def check_sums_are_exact() -> None:
    """A sum over a sample is the integer sum of what each unit gives alone."""
    stack, plan, data = some_stack(), plan_of(), some_records()
    alone = sum(sum_of(stack, data, plan, [unit]) for unit in range(UNITS))
    with pytest.MonkeyPatch.context() as patch:
        all_drawn(patch)
        sums, _ = sgd.private_sums(stack, data, plan)
    assert all(total.dtype == np.int64 for total in sums)
    assert all(flat(sums) == alone)


def check_expected_batch() -> None:
    """What is released is the noisy sum over the expected batch, however many units were drawn."""
    stack, plan, data = some_stack(), plan_of(noise=2.0**-26), some_records()
    for drawn in (list(range(5)), list(range(UNITS))):
        released, known = step_of(stack, data, plan, drawn), sum_of(stack, data, plan, drawn)
        expected = known.astype(np.float64) * plan.step / (plan.sampling_rate * UNITS)
        assert np.abs(np.sort(released) - np.sort(expected)).max() < 1e-6


def check_noise_always() -> None:
    """An empty sample is noised like any other: noise of the plan's width on every coordinate."""
    stack, plan, data = some_stack(), plan_of(), some_records()
    width = plan.noise_multiplier * plan.clip_norm / plan.expected_batch
    for drawn in ([], [3]):
        released = step_of(stack, data, plan, drawn)
        # A few hundred coordinates: their spread is known to a tenth, a clipped gradient hardly widens it.
        assert 0.7 * width < released.std() < 1.4 * width
        assert (released != 0).mean() > 0.99


def step_of(stack: Layer, data: UnitRecords, plan: SgdPlan, drawn: list[int]) -> NDArray[np.float64]:
    with pytest.MonkeyPatch.context() as patch:
        all_drawn(patch, np.array(drawn, dtype=np.int64))
        sums, _ = sgd.private_sums(stack, data, plan)
    released = sgd.noisy_mean(sums, plan)
    return released.double().numpy()


def check_poisson() -> None:
    """Each unit by its own coin: sizes vary as a binomial's, and two units are drawn together as often as they should.

    The bounds are six standard deviations of what is measured, or more.
    """
    rate, units, draws = 0.25, 64, 1200
    samples = np.zeros((draws, units))
    for row in samples:
        row[sgd.poisson_sample(rate, units)] = 1
    sizes = samples.sum(axis=1)
    assert abs(sizes.mean() - 16) < 6 * np.sqrt(12 / draws)
    assert 12 * 0.75 < sizes.var() < 12 * 1.25
    pairs = (samples[:, ::2] * samples[:, 1::2]).mean()
    assert abs(pairs - rate**2) < 6 * np.sqrt(rate**2 * (1 - rate**2) / (draws * units / 2))
    steps = (samples[1:] * samples[:-1]).mean()
    assert abs(steps - rate**2) < 0.01


def check_clipped_as_a_loop() -> None:
    """A unit's contribution is its gradient by autograd, scaled to the clip norm as a whole, to within the lattice."""
    flow = some_flow()
    stack = stack_of(flow).float()
    for records in (1, 3):
        plan, data = plan_of(records), some_records(records)
        for unit in range(0, UNITS, 5):
            gradient = loop_gradient(stack, data, unit)
            wanted = gradient * min(1.0, plan.clip_norm / np.linalg.norm(gradient))
            found = sum_of(stack, data, plan, [unit]).astype(np.float64) * plan.step
            assert np.linalg.norm(found - wanted) < 0.03 * plan.clip_norm


CHECKS: dict[str, Callable[[], None]] = {
    "bounded": check_bounded,
    "exact sums": check_sums_are_exact,
    "expected batch": check_expected_batch,
    "noise always": check_noise_always,
    "poisson": check_poisson,
    "as a loop": check_clipped_as_a_loop,
}
