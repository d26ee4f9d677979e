import json
import math
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cadp.errors import PrivacyError, SpecError
from cadp.privacy.accountant import curve
from cadp.privacy.events import RELATION, ZERO_OUT, PureEvent
from cadp.utility import gate
from cadp.utility.gate import GatePlan, one_per_unit

PLAN = GatePlan(epsilon=0.1, holdout_units=10_000, accuracy_at_least=0.75)


def laplace_pmf(x: np.ndarray, epsilon: float) -> np.ndarray:
    r = math.exp(-epsilon)
    return (1 - r) / (1 + r) * r ** np.abs(x)


def law_of_answers(
    plan: GatePlan, correct: int, monkeypatch: pytest.MonkeyPatch, reach: int = 400
) -> dict[object, float]:
    """The exact law of the answer through the real code: every noise in ±reach, weighted by the law asked for."""
    law: dict[object, float] = Counter()
    for x in range(-reach, reach + 1):
        asked: list[Fraction] = []

        def noise(scale: Fraction, size: int, x: int = x, asked: list[Fraction] = asked) -> np.ndarray:
            asked.append(scale)
            return np.full(size, x, dtype=np.int64)

        monkeypatch.setattr(gate, "discrete_laplace", noise)
        answer = plan.answer(correct)
        assert len(asked) == 1
        law[json.dumps(answer, sort_keys=True)] += float(laplace_pmf(np.array(x), float(1 / asked[0])))
    return law


def worst_loss(one: dict[object, float], other: dict[object, float], inner: int) -> float:
    """Largest |ln ratio| over the answers that are not within reach of the enumeration's edge."""
    losses = []
    for answer in one.keys() | other.keys():
        if abs(json.loads(answer)["noisy_correct"] - 50) <= inner:
            p, q = one.get(answer, 0.0), other.get(answer, 0.0)
            losses.append(math.inf if min(p, q) == 0 else abs(math.log(p / q)))
    return max(losses)


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0, 3.0])
def test_the_exact_loss_of_one_unit_is_what_is_charged(epsilon: float, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = GatePlan(epsilon, 100, 0.5)
    laws = [law_of_answers(plan, correct, monkeypatch) for correct in (50, 51)]
    loss = worst_loss(*laws, inner=100)
    assert loss == pytest.approx(epsilon, rel=1e-9)
    assert plan.event().epsilon == epsilon
    assert sum(laws[0].values()) == pytest.approx(1, abs=1e-9)


def test_the_companion_event_is_zero_out_and_never_added_to_the_charge(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit replaced by one that is never a hit moves the count by at most 1, so the exact loss is the same ε."""
    plan = GatePlan(0.5, 100, 0.5)
    assert plan.zero_out_event() == PureEvent(0.5, relation=ZERO_OUT)
    assert plan.event() == PureEvent(0.5, relation=RELATION)
    laws = [law_of_answers(plan, correct, monkeypatch) for correct in (50, 49)]
    assert worst_loss(*laws, inner=100) == pytest.approx(plan.zero_out_event().epsilon, rel=1e-9)
    with pytest.raises(PrivacyError, match="zero-out"):
        curve(plan.event()) + curve(plan.zero_out_event())


def test_a_unit_that_counts_twice_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = GatePlan(0.5, 100, 0.5)
    laws = [law_of_answers(plan, correct, monkeypatch) for correct in (50, 52)]
    assert worst_loss(*laws, inner=100) > 1.9 * plan.epsilon


def test_noise_that_is_not_of_integers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for fake in (np.zeros(1), np.zeros(1, dtype=np.float32), np.zeros(1, dtype=np.uint64)):
        monkeypatch.setattr(gate, "discrete_laplace", lambda scale, size, fake=fake: fake)
        with pytest.raises(PrivacyError, match="integers"):
            PLAN.answer(7_500)


def test_the_noise_has_the_law_that_the_loss_assumes() -> None:
    epsilon, n = 0.7, 4_000
    plan = GatePlan(epsilon, 100, 0.5)
    noise = np.array([plan.answer(50)["noisy_correct"] - 50 for _ in range(n)])
    edges = np.arange(-6, 7)
    expected = laplace_pmf(edges, epsilon)
    rest = 1 - expected.sum()
    seen = [np.count_nonzero(noise == x) for x in edges]
    seen.append(n - sum(seen))
    assert stats.chisquare(seen, [*(expected * n), rest * n]).pvalue > 1e-6
    wrong = laplace_pmf(edges, 2 * epsilon)
    assert stats.chisquare(seen, [*(wrong * n), (1 - wrong.sum()) * n]).pvalue < 1e-6


@pytest.mark.parametrize(
    ("threshold", "n", "needed"),
    [(0.75, 10_000, 7_500), (0.7, 10, 7), (0.1, 30, 3), (0.29, 100, 29), (0.333, 100, 34), (0.0, 5, 0), (1.0, 5, 5)],
)
def test_passes_from_exactly_the_threshold(threshold: float, n: int, needed: int) -> None:
    plan = GatePlan(1.0, n, threshold)
    assert plan.needed == needed
    assert plan.read(needed)["passed"] is True
    assert plan.read(needed - 1)["passed"] is False


def test_the_answer_is_json_of_public_values_only() -> None:
    answer = PLAN.answer(8_123)
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    assert set(answer) == {
        "schema", "kind", "noisy_correct", "accuracy", "low", "high", "confidence", "threshold", "needed", "epsilon",
        "n", "passed",
    }  # fmt: skip
    assert answer["schema"] == 1
    assert PLAN.read(answer["noisy_correct"]) == answer  # nothing but the noisy count remembers the data
    assert json.loads(json.dumps(PLAN.parameters())) == PLAN.parameters()


def test_accuracy_and_interval_stay_in_their_range() -> None:
    plan = GatePlan(0.01, 50, 0.5)
    for noisy in (-400, -1, 0, 25, 50, 51, 700):
        answer = plan.read(noisy)
        assert 0 <= answer["low"] <= answer["accuracy"] <= answer["high"] <= 1


def test_the_interval_covers_the_classifiers_own_accuracy() -> None:
    plan = GatePlan(0.2, 400, 0.5)
    rng = np.random.default_rng(5)
    truth, trials = 0.83, 1_500
    counts = rng.binomial(400, truth, trials)
    answers = [plan.answer(int(count)) for count in counts]
    covered = sum(answer["low"] <= truth <= answer["high"] for answer in answers)
    assert covered / trials >= 0.95
    widths = [answer["high"] - answer["low"] for answer in answers]
    assert np.mean(widths) < 0.18  # and is not trivially wide: ± (1.96·.019 + 17/400) would be .16


@pytest.mark.parametrize("epsilon", [0.05, 0.5, 1.0, 8.0])
@pytest.mark.parametrize("tail", [0.025, 0.3])
def test_the_noise_quantile_is_the_least_that_holds(epsilon: float, tail: float) -> None:
    t = GatePlan(epsilon, 10, 0.5).noise_quantile(tail)
    x = np.arange(-5_000, 5_001)
    mass = laplace_pmf(x, epsilon)
    assert mass[np.abs(x) > t].sum() <= tail
    assert t == 0 or mass[np.abs(x) > t - 1].sum() > tail


@pytest.mark.parametrize("correct", [-1, 10_001, 5.0, True, "3"])
def test_refuses_a_count_that_units_cannot_give(correct: Any) -> None:
    with pytest.raises(PrivacyError):
        PLAN.answer(correct)


def test_numpy_counts_are_counts() -> None:
    assert isinstance(PLAN.answer(np.int64(9_000))["noisy_correct"], int)


@pytest.mark.parametrize(
    ("epsilon", "n", "threshold"),
    [(0, 10, 0.5), (-1, 10, 0.5), (math.nan, 10, 0.5), (math.inf, 10, 0.5), (1, 0, 0.5), (1, 5, 1.1), (1, 5, math.nan)],
)
def test_refuses_a_plan_without_meaning(epsilon: float, n: int, threshold: float) -> None:
    with pytest.raises(SpecError):
        GatePlan(epsilon, n, threshold)


def test_one_record_a_unit_by_hash_never_by_content() -> None:
    units = [f"u{i % 50}" for i in range(200)]
    records = [f"r{i}" for i in range(200)]
    chosen = one_per_unit(units, records, b"k" * 32)
    assert sorted(units[i] for i in chosen) == sorted(set(units))
    assert np.array_equal(chosen, np.sort(chosen))
    assert {records[i] for i in chosen} != {records[i] for i in one_per_unit(units, records, b"x" * 32)}
    order = np.random.default_rng(0).permutation(200)
    again = one_per_unit([units[i] for i in order], [records[i] for i in order], b"k" * 32)
    assert {records[order[i]] for i in again} == {records[i] for i in chosen}
    assert len(one_per_unit([], [], b"k")) == 0
    with pytest.raises(PrivacyError):
        one_per_unit(["a"], [], b"k")


def most_that_one_unit_moves(count: Callable[..., Any], units: list[str], hits: np.ndarray) -> int:
    """Replace each unit's records by the contents that move the count most, everything else equal."""
    worst = 0
    for unit in set(units):
        mine = np.array([u == unit for u in units])
        worst = max(worst, abs(count(np.where(mine, 1, hits)) - count(np.where(mine, 0, hits))))
    return int(worst)


def test_the_sensitivity_is_one_and_forgetting_the_unit_is_caught() -> None:
    units = [f"u{i // 3}" for i in range(60)]
    records = [f"r{i}" for i in range(60)]
    hits = np.random.default_rng(0).integers(0, 2, 60)
    chosen = one_per_unit(units, records, b"k")
    assert most_that_one_unit_moves(lambda h: h[chosen].sum(), units, hits) == 1
    assert most_that_one_unit_moves(lambda h: h.sum(), units, hits) == 3
