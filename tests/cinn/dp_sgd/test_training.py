"""DP-SGD as it runs holds what it promises, and each planted mistake breaks one of the checks."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cadp.cinn.dp_sgd import contributions as sgd_contributions
from cadp.cinn.dp_sgd import training as sgd
from cadp.cinn.dp_sgd.contributions import Contributions, clipped, rows_at_once
from cadp.cinn.dp_sgd.gradients import Factors, record_gradients
from cadp.cinn.dp_sgd.plan import SgdPlan
from cadp.cinn.dp_sgd.sample import EMPTY, in_slots, poisson_sample, slots_of
from cadp.cinn.dp_sgd.start import public_start, stack_of
from cadp.cinn.dp_sgd.training import Training, train_couplings
from cadp.cinn.dp_sgd.unit_records import UnitRecords
from cadp.cinn.fit.contributions import EXACT_FLOAT
from cadp.cinn.layers.layer import Condition
from cadp.cinn.network import ROUND_TRIP_LIMIT, ConditionalFlow, check_round_trip
from cadp.errors import PrivacyError
from cadp.reporter import Silent
from tests.cinn.dp_sgd.checks import (
    ARCHITECTURE,
    CHECKS,
    CLASSES,
    UNITS,
    K,
    plan_of,
    some_flow,
    some_records,
    some_stack,
    sum_of,
)

Patch = pytest.MonkeyPatch


@pytest.mark.parametrize("check", CHECKS)
def test_what_runs_holds(check: str) -> None:
    CHECKS[check]()


def skip_clip(patch: Patch) -> None:
    def unclipped(factors: Factors, mask: NDArray[np.bool_], plan: SgdPlan) -> Contributions:
        rows = mask[:, None]
        pairs = []
        for a, e in factors:
            wide = np.concatenate([a.double().numpy(), np.ones((len(a), 1))], axis=1)
            pairs.append(
                (
                    np.where(rows, np.trunc(wide / plan.input_step), 0),
                    np.where(rows, np.trunc(e.double().numpy() / plan.error_step), 0),
                )
            )
        return Contributions(pairs)

    patch.setattr(sgd, "clipped", unclipped)


def divide_by_sample(patch: Patch) -> None:
    seen, draw, mean = [0], sgd.in_slots, sgd.noisy_mean

    def watched(drawn: NDArray[np.int64], slots: int) -> NDArray[np.int64]:
        seen[0] = max(1, len(drawn))
        return draw(drawn, slots)

    def by_sample(sums: list[NDArray[np.int64]], plan: SgdPlan) -> torch.Tensor:
        return mean(sums, plan) * (plan.expected_batch / seen[0])

    patch.setattr(sgd, "in_slots", watched)
    patch.setattr(sgd, "noisy_mean", by_sample)


def shuffle_fixed_size(patch: Patch) -> None:
    draw = np.random.default_rng(1)

    def fixed(rate: float, units: int) -> NDArray[np.int64]:
        return np.sort(draw.permutation(units)[: round(rate * units)])

    patch.setattr(sgd, "poisson_sample", fixed)


def one_pass_over_all(patch: Patch) -> None:
    """Samples of random size that are cut out of a shuffled list: no unit is drawn twice before all were."""
    draw = np.random.default_rng(1)
    left: list[int] = []

    def cut(rate: float, units: int) -> NDArray[np.int64]:
        size = int(draw.binomial(units, rate))
        if len(left) < size:
            left[:] = draw.permutation(units).tolist()
        return np.sort([left.pop() for _ in range(size)]).astype(np.int64)

    patch.setattr(sgd, "poisson_sample", cut)


def sum_in_floats(patch: Patch) -> None:
    def total(self: Contributions) -> list[NDArray[np.int64]]:
        return [(e.astype(np.float32).T @ a.astype(np.float32)).astype(np.int64) for a, e in self.factors]

    patch.setattr(Contributions, "total", total)


def clip_records(patch: Patch) -> None:
    whole = sgd.clipped
    patch.setattr(sgd, "clipped", lambda factors, mask, plan: whole(factors, mask, replace(plan, records=1)))


def clip_layers(patch: Patch) -> None:
    """Every layer clipped to the whole clip norm on its own."""
    whole = sgd.clipped

    def each(factors: Factors, mask: NDArray[np.bool_], plan: SgdPlan) -> Contributions:
        return Contributions([whole([pair], mask, plan).factors[0] for pair in factors])

    patch.setattr(sgd, "clipped", each)


def no_noise_when_empty(patch: Patch) -> None:
    mean = sgd.noisy_mean

    def sometimes(sums: list[NDArray[np.int64]], plan: SgdPlan) -> torch.Tensor:
        noisy = mean(sums, plan)
        return noisy if any(total.any() for total in sums) else torch.zeros_like(noisy)

    patch.setattr(sgd, "noisy_mean", sometimes)


def no_noise_on_biases(patch: Patch) -> None:
    noise = sgd.discrete_gaussian

    def partly(sigma: float, size: tuple[int, ...]) -> NDArray[np.int64]:
        drawn = noise(sigma, size)
        drawn[:, -1] = 0
        return drawn

    patch.setattr(sgd, "discrete_gaussian", partly)


def forget_the_check(patch: Patch) -> None:
    """The float clip alone, of half the norm it should have seen: the integer check is what would stop it."""
    patch.setattr(sgd_contributions, "_inside", lambda grams, errors, plan: np.ones(len(grams[0]), dtype=np.bool_))
    gram = sgd_contributions._gram
    patch.setattr(sgd_contributions, "_gram", lambda rows, records: gram(rows, records) / 2)


MUTANTS: dict[str, tuple[Callable[[Patch], None], str]] = {
    "clip skipped": (skip_clip, "bounded"),
    "clip by record": (clip_records, "bounded"),
    "clip by layer": (clip_layers, "bounded"),
    "no integer check": (forget_the_check, "bounded"),
    "mean over the sample": (divide_by_sample, "expected batch"),
    "shuffled, fixed size": (shuffle_fixed_size, "poisson"),
    "shuffled, cut at random": (one_pass_over_all, "poisson"),
    "summed in floats": (sum_in_floats, "exact sums"),
    "no noise when empty": (no_noise_when_empty, "noise always"),
    "no noise on biases": (no_noise_on_biases, "noise always"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_planted_mistakes_are_caught(mutant: str, monkeypatch: Patch) -> None:
    plant, check = MUTANTS[mutant]
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        CHECKS[check]()


NASTY = [0.0, 1.0, -1e-30, 1e-45, 3e38, -3e38, float("nan"), float("inf"), -float("inf"), 5e3, -7.25]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), records=st.sampled_from([1, 2, 3]), share=st.sampled_from([0.0, 0.02, 0.5]))
def test_every_contribution_is_bounded_whatever_the_factors(seed: int, records: int, share: float) -> None:
    draw, plan = np.random.default_rng(seed), plan_of(records)
    units, widths = 8, [(3, 4), (5, 2)]

    def matrix(width: int) -> torch.Tensor:
        values = draw.standard_normal((units * records, width)) * 10.0 ** draw.integers(-6, 7, (units * records, 1))
        nasty = draw.choice(NASTY, values.shape)
        return torch.from_numpy(np.where(draw.random(values.shape) < share, nasty, values).astype(np.float32))

    factors = [(matrix(a), matrix(e)) for a, e in widths]
    mask = draw.random(units * records) < 0.8
    made = clipped(factors, mask, plan)
    for unit in range(units):
        rows = slice(unit * records, (unit + 1) * records)
        square = 0
        for a, e in made.factors:
            assert (np.trunc(a[rows]) == a[rows]).all()
            assert (np.trunc(e[rows]) == e[rows]).all()
            gradient = e[rows].astype(np.int64).astype(object).T @ a[rows].astype(np.int64).astype(object)
            square += int((gradient**2).sum())
        assert square <= plan.radius**2
        if not mask[rows].any() or not all(torch.isfinite(f[rows][mask[rows]]).all() for pair in factors for f in pair):
            assert square == 0
    for (a, e), total in zip(made.factors, made.total(), strict=True):
        exact = e.astype(object).T @ a.astype(object)
        assert (total == exact).all()


def test_one_record_is_rounded_towards_zero() -> None:
    """Of one record the lattice only shortens: no entry is longer than the clipped gradient's."""
    stack, plan, data = some_stack(), plan_of(), some_records()
    labels = torch.from_numpy(data.labels)
    condition = Condition.of(ARCHITECTURE.conditions, labels, dtype=torch.float32)
    found, _ = record_gradients(stack, torch.from_numpy(data.content), condition)
    factors = [(a, e * 1e-3) for a, e in found]  # within the clip norm: what is shorter was rounded
    made = clipped(factors, np.ones(UNITS, dtype=np.bool_), plan)
    for (a, e), (integer_a, integer_e) in zip(factors, made.factors, strict=True):
        assert (np.abs(integer_a[:, :-1]) * plan.input_step <= np.abs(a.double().numpy())).all()
        assert (np.abs(integer_e) * plan.error_step <= np.abs(e.double().numpy())).all()


def test_gradients_equal_those_of_torch_func() -> None:
    stack = stack_of(some_flow())
    data = some_records()
    x, labels = torch.from_numpy(data.content).double(), torch.from_numpy(data.labels)
    condition = Condition.of(ARCHITECTURE.conditions, labels)
    factors, losses = record_gradients(stack, x, condition)
    parameters = {name: value.detach() for name, value in stack.named_parameters()}

    def loss(values: dict[str, torch.Tensor], row: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        one = Condition(labels[:1], vector[None])
        z, log_det = torch.func.functional_call(stack, values, (row[None], one))
        return (0.5 * z.square().sum(dim=1) - log_det).sum()

    over = torch.func.vmap(torch.func.grad_and_value(loss), in_dims=(None, 0, 0))
    gradients, known = over(parameters, x, condition.vector)
    assert torch.allclose(losses, known)
    for (a, e), (name, whole) in zip(
        factors, ((n, g) for n, g in gradients.items() if n.endswith("weight")), strict=True
    ):
        assert torch.allclose(e[:, :, None] * a[:, None, :], whole, atol=1e-10)
        assert torch.allclose(e, gradients[name.replace("weight", "bias")], atol=1e-10)
    assert all(parameter.requires_grad for parameter in stack.parameters())


def test_nothing_but_linear_layers_is_trained() -> None:
    stack = some_stack()
    stack.register_parameter("stray", torch.nn.Parameter(torch.zeros(1)))
    with pytest.raises(PrivacyError, match="would not be clipped"):
        record_gradients(
            stack, torch.zeros(1, K), Condition.of(ARCHITECTURE.conditions, torch.zeros(1, dtype=torch.int64))
        )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -3e38], ids=["nan", "inf", "huge"])
def test_a_broken_record_contributes_nothing_and_moves_nobody(bad: float) -> None:
    stack, plan, data = some_stack(), plan_of(3), some_records(3)
    broken = UnitRecords(data.content.copy(), data.labels, data.valid, data.starts)
    broken.content[data.starts[7]] = bad
    everyone = list(range(UNITS))
    moved = sum_of(stack, data, plan, everyone) - sum_of(stack, broken, plan, everyone)
    unit = sum_of(stack, data, plan, [7]) - sum_of(stack, broken, plan, [7])
    assert all(moved == unit)
    assert sum(sum_of(stack, broken, plan, [7]) ** 2) <= plan.radius**2
    rejected = UnitRecords(
        data.content, data.labels, data.valid & (np.arange(len(data.valid)) != data.starts[7]), data.starts
    )
    if np.isnan(bad):
        assert all(sum_of(stack, broken, plan, [7]) == sum_of(stack, rejected, plan, [7]))


def test_neighbours_differ_by_two_clip_norms_at_most() -> None:
    stack, plan = some_stack(), plan_of(3)
    here, there = some_records(3), some_records(3)
    rows = slice(int(here.starts[11]), int(here.starts[12]))
    there.content[rows] = -50 * here.content[rows]
    there.labels[rows] = (here.labels[rows] + 1) % CLASSES
    drawn = [*range(0, UNITS, 2), 11]
    moved = sum_of(stack, here, plan, sorted(drawn)) - sum_of(stack, there, plan, sorted(drawn))
    assert 0 < sum(moved**2) <= (2 * plan.radius) ** 2
    drawn.remove(11)
    assert all(sum_of(stack, here, plan, drawn) == sum_of(stack, there, plan, drawn))


def test_a_drawn_unit_is_always_in_its_own_slot() -> None:
    for units in ([], [5], list(range(0, 300, 3)), [1, 9, 17, 25, 2]):
        drawn = np.array(sorted(units), dtype=np.int64)
        batches = in_slots(drawn, 8)
        assert sorted(batches[batches != EMPTY].tolist()) == sorted(units)
        column = np.broadcast_to(np.arange(8), batches.shape)
        assert (column[batches != EMPTY] == batches[batches != EMPTY] % 8).all()
    assert [slots_of(m) for m in (1, 3, 128, 256)] == [128, 42, 4, 4]


def test_a_certain_coin_draws_everyone_and_no_unit_is_drawn_twice() -> None:
    assert poisson_sample(1.0, 10).tolist() == list(range(10))
    drawn = poisson_sample(0.5, 1000)
    assert len(set(drawn.tolist())) == len(drawn)


def test_sums_stay_exact_for_as_many_rows_as_are_added_at_once() -> None:
    plan = plan_of()
    assert rows_at_once(plan) * 16 * plan.radius < EXACT_FLOAT
    assert rows_at_once(SgdPlan.with_noise(1.5, ARCHITECTURE, 60_000)) >= 1024


def test_training_lowers_the_loss_ends_in_a_bijection_and_starts_where_everyone_can() -> None:
    draw = np.random.default_rng(0)
    data = some_records()
    data.content[:] = np.where(draw.random((UNITS, 1)) < 0.5, 2.0, -2.0) + 0.3 * data.content
    plan = replace(plan_of(rate=1.0, noise=0.01, steps=60), sigma=1 << 19)
    first, again = fresh_flow(), fresh_flow()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    seen: list[float] = []
    train_couplings(first, data, plan, Silent(), after_step=lambda state: seen.extend(state.losses[-1:]))
    assert np.mean(seen[-5:]) < np.mean(seen[:5]) - 0.5
    assert check_round_trip(first) <= ROUND_TRIP_LIMIT
    assert {p.dtype for p in first.parameters()} == {torch.float64}


def fresh_flow() -> ConditionalFlow:
    flow = ConditionalFlow(ARCHITECTURE)
    public_start(flow)
    return flow


def test_progress_says_nothing_of_samples() -> None:
    """Whoever watches sees multiples of the expected batch: sizes of samples are as secret as the coins."""
    told: list[list[int]] = []

    class Watching(Silent):
        def progress(self, label: str, total: int | None, things: str, done: int = 0) -> object:  # type: ignore[override]
            told.append([])
            outer = super().progress(label, total, things, done)

            class Bar:
                def __enter__(self) -> Callable[[int], None]:
                    outer.__enter__()
                    return lambda done=1: told[-1].append(done)

                def __exit__(self, *_: object) -> None:
                    outer.__exit__(None, None, None)

            return Bar()

    for _ in range(2):
        train_couplings(fresh_flow(), some_records(), plan_of(), Watching())
    assert told[0] == told[1] == [24] * 5


def test_only_what_the_plan_is_for_is_read() -> None:
    with pytest.raises(PrivacyError, match="its plan is for 95"):
        train_couplings(some_flow(), some_records(), plan_of(units=95), Silent())
    with pytest.raises(PrivacyError, match="records"):
        train_couplings(some_flow(), some_records(3), plan_of(2), Silent())


def test_a_resumed_training_takes_the_steps_that_are_left() -> None:
    plan, kept = plan_of(), list[Training]()

    def keep(state: Training) -> None:
        if state.step == 2:
            kept.append(
                Training(2, *(t.clone() for t in (state.weights, state.first, state.second, state.average)), [])
            )

    train_couplings(some_flow(), some_records(), plan, Silent(), after_step=keep)
    steps: list[int] = []
    train_couplings(
        some_flow(), some_records(), plan, Silent(), resumed=kept[0], after_step=lambda state: steps.append(state.step)
    )
    assert steps == [3, 4, 5]
