"""Labels: the exact law of every answer, the loss of the worst pair, and what a planted mistake would cost."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cadp.errors import PrivacyError
from cadp.privacy import noise
from cadp.privacy.accountant import curve
from cadp.privacy.events import ZERO_OUT, ComposedEvent, PureEvent
from cadp.privacy.labels import (
    AttributeResponse,
    ClassAttributes,
    LabelPlan,
    PublicLabels,
    RandomizedResponse,
    ResampledLabels,
    both,
    plan_response,
    plausible_counts,
)

Law = dict[int, Fraction]
REJECTED = -1
CASES = [(epsilon, k) for epsilon in (1e-6, 0.1, 1.0, 4.0, 20.0) for k in (2, 3, 10)]


def law(plan: LabelPlan, label: int, classes: int) -> Law:
    """The exact law of one record's answer, by running it on every draw there is; REJECTED is a rejected record."""
    found: Law = dict.fromkeys(range(classes), Fraction(0))
    made: list[tuple[str, Any]] = []

    def coin(p: float, size: int) -> Any:
        made.append(("coin", p))
        return np.zeros(size, dtype=np.bool_)

    def whole(bound: int, size: int) -> Any:
        made.append(("whole", bound))
        return np.zeros(size, dtype=np.int64)

    def run(draws: list[int]) -> int:
        left = iter(draws)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(noise, "bernoulli_exact", lambda _, size: np.full(size, bool(next(left))))
            patch.setattr(noise, "uniform_below", lambda _, size: np.full(size, next(left), dtype=np.int64))
            return int(plan.release(np.array([max(label, 0)]), np.array([label != REJECTED]))[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise, "bernoulli_exact", coin)
        patch.setattr(noise, "uniform_below", whole)
        plan.release(np.array([0]), np.array([True]))
    spaces = [range(2) if kind == "coin" else range(int(value)) for kind, value in made]
    for draws in itertools.product(*spaces):
        weight = Fraction(1)
        for (kind, value), draw in zip(made, draws, strict=True):
            p = Fraction(value) if kind == "coin" else Fraction(1, value)
            weight *= p if kind == "whole" or draw else 1 - p
        found[run(list(draws))] += weight
    assert sum(found.values()) == 1
    return found


def loss(one: Law, other: Law) -> float:
    """The exact loss between two laws, as high-precision arithmetic has it."""
    if any((one[j] == 0) != (other[j] == 0) for j in one):
        return math.inf
    ratio = max(one[j] / other[j] for j in one if one[j])
    with mpmath.workdps(60):
        return float(mpmath.log(mpmath.mpf(ratio.numerator) / ratio.denominator))


def worst(plan: LabelPlan, classes: int) -> float:
    """The loss of the worst pair of true labels, a rejected record among them."""
    laws = [law(plan, label, classes) for label in (*range(classes), REJECTED)]
    return max(loss(one, other) for one in laws for other in laws)


def charged(plan: LabelPlan) -> float:
    event = plan.event()
    assert isinstance(event, PureEvent)
    return event.epsilon


@pytest.mark.parametrize(("epsilon", "k"), CASES)
def test_the_worst_pair_loses_what_is_charged_and_hardly_less_than_was_asked(epsilon: float, k: int) -> None:
    plan = plan_response(epsilon, k)
    assert worst(plan, k) <= charged(plan) <= epsilon
    assert worst(plan, k) >= charged(plan) * (1 - 1e-9) - 1e-12
    assert charged(plan) >= epsilon * (1 - 1e-5) - 1e-9
    assert curve(plan.event()).epsilon(0.0) <= epsilon


@pytest.mark.parametrize(("epsilon", "k"), CASES)
def test_a_label_is_kept_as_often_as_theory_says_and_the_others_are_equal(epsilon: float, k: int) -> None:
    plan = plan_response(epsilon, k)
    found = law(plan, 1, k)
    assert found[1] == Fraction(plan.keep)
    assert {found[j] for j in found if j != 1} == {(1 - Fraction(plan.keep)) / (k - 1)}
    assert plan.keep == pytest.approx(math.exp(epsilon) / (math.exp(epsilon) + k - 1), rel=1e-9)
    assert law(plan, REJECTED, k) == dict.fromkeys(range(k), Fraction(1, k))


@pytest.mark.parametrize(("epsilon", "k"), CASES)
def test_zero_out_is_against_a_uniform_label(epsilon: float, k: int) -> None:
    plan = plan_response(epsilon, k)
    null = law(plan, REJECTED, k)
    laws = [law(plan, label, k) for label in range(k)]
    exact = max(max(loss(one, null), loss(null, one)) for one in laws)
    event = plan.zero_out_event()
    assert isinstance(event, PureEvent)
    assert event.relation == ZERO_OUT
    assert exact <= event.epsilon <= exact * (1 + 1e-9) + 1e-12
    assert event.epsilon <= charged(plan)


class WithItself(RandomizedResponse):
    """Mistake: the other label is drawn from all k, the true one among them."""

    def release(self, labels: Any, valid: Any) -> Any:
        keep = noise.bernoulli_exact(self.keep, len(labels))
        return np.where(keep & valid, labels, noise.uniform_below(self.classes, len(labels)))


class FalseRejects(RandomizedResponse):
    """Mistake: a rejected record shows its label."""

    def release(self, labels: Any, valid: Any) -> Any:
        return np.where(valid, super().release(labels, valid), labels)


class Next(RandomizedResponse):
    """Mistake: another label is always the next one, so some answers rule out some labels."""

    def release(self, labels: Any, valid: Any) -> Any:
        keep = noise.bernoulli_exact(self.keep, len(labels))
        return np.where(keep, labels, (labels + 1) % self.classes)


def test_planted_mistakes_of_the_law_are_caught() -> None:
    plan = plan_response(1.0, 4)
    for mutant in (FalseRejects, Next):
        assert worst(mutant(4, plan.keep), 4) > charged(plan) + 0.1, mutant.__name__
    found = law(WithItself(4, plan.keep), 1, 4)
    assert found[1] > Fraction(plan.keep)  # the law that the statement prints is not the one that ran
    # A coin for k instead of k − 1 others, or for binary labels: the loss is not the one that was asked for.
    e = math.exp(1.0)
    assert charged(RandomizedResponse(4, e / (e + 4))) < 1.0 - 0.1
    assert charged(RandomizedResponse(4, e / (e + 1))) > 1.0 + 0.1


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("label", [0, 2, REJECTED])
def test_draws_follow_the_law(label: int) -> None:
    plan, n = plan_response(1.5, 5), 400_000
    answers = plan.release(np.full(n, max(label, 0)), np.full(n, label != REJECTED))
    expected = [float(p) * n for p in law(plan, label, 5).values()]
    assert stats.chisquare(np.bincount(answers, minlength=5), expected).pvalue > 1e-4


@pytest.mark.usefixtures("seeded")
def test_answers_are_independent_of_each_other() -> None:
    plan, n = plan_response(1.0, 3), 200_000
    answers = plan.release(np.zeros(n, dtype=np.int64), np.ones(n, dtype=np.bool_))
    pairs = np.bincount(answers[:-1] * 3 + answers[1:], minlength=9)
    single = np.array([float(p) for p in law(plan, 0, 3).values()])
    assert stats.chisquare(pairs, np.outer(single, single).ravel() * (n - 1)).pvalue > 1e-4


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-3, 8), min_size=2, max_size=20), st.integers(0, 19), st.integers(0, 2**32))
def test_a_row_depends_on_itself_alone(labels: list[int], place: int, seed: int) -> None:
    row = place % len(labels)
    rng = np.random.default_rng(seed)
    other = np.where(np.arange(len(labels)) == row, labels, rng.integers(-3, 9, len(labels)))
    by_bits = ClassAttributes(AttributeResponse.plan(2.0, 2), ("a", "b"), ((0, 0), (0, 1), (1, 0), (1, 1)))
    for plan in (plan_response(1.0, 5), ResampledLabels((1, 2, 3, 4, 5)), by_bits):
        answers = []
        for values in (np.array(labels), other):
            draws = np.random.default_rng(seed)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(noise, "bernoulli_exact", lambda p, size, draws=draws: draws.random(size) < p)
                patch.setattr(noise, "uniform_below", lambda k, size, draws=draws: draws.integers(0, k, size))
                answers.append(plan.release(values, np.ones(len(labels), dtype=np.bool_)))
        assert answers[0][row] == answers[1][row]
        assert 0 <= min(answers[0]) <= max(answers[0]) < 5


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("bound", [1, 2, 3, 10, 1000, (1 << 62) - 1, 1 << 62])
def test_uniform_numbers_are_uniform(bound: int) -> None:
    draws = noise.uniform_below(bound, 100_000)
    assert draws.min() >= 0
    assert draws.max() < bound
    cells = min(bound, 10)
    sizes = np.diff([-(-bound * i // cells) for i in range(cells + 1)])
    counts = np.bincount([int(draw) * cells // bound for draw in draws], minlength=cells)
    assert bound == 1 or stats.chisquare(counts, sizes / bound * len(draws)).pvalue > 1e-4


def test_words_beyond_the_last_whole_multiple_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    # 2^64 is 1 modulo 3: of all words the very last is one too many.
    words = iter([[2**64 - 1, 7], [2**64 - 2]])
    monkeypatch.setattr(noise, "random_bits64", lambda n: np.array(next(words)[:n], dtype=np.uint64))
    assert noise.uniform_below(3, 2).tolist() == [1, (2**64 - 2) % 3]
    with pytest.raises(PrivacyError, match="bound"):
        noise.uniform_below(0, 1)


@pytest.mark.usefixtures("seeded")
def test_resampled_labels_follow_the_weights_and_nothing_else() -> None:
    plan, n = ResampledLabels((0.1, 0.0, 0.7, 0.2)), 200_000
    assert plan.shares() == pytest.approx((0.1, 0.0, 0.7, 0.2))
    for label, valid in ((0, True), (2, True), (1, False)):
        assert law(plan, label if valid else REJECTED, 4) == law(plan, 0, 4)
        answers = np.bincount(plan.release(np.full(n, label), np.full(n, valid)), minlength=4)
        assert answers[1] == 0
        assert stats.chisquare(answers[[0, 2, 3]], np.array([0.1, 0.7, 0.2]) * n).pvalue > 1e-4
    assert law(plan, 0, 4) == {0: Fraction(1, 10), 1: 0, 2: Fraction(7, 10), 3: Fraction(1, 5)}
    assert curve(plan.event()).epsilon(0.0) == 0.0


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("shares", [None, [1.0, 2.0, 5.0]], ids=["even", "declared"])
def test_attributes_split_epsilon_and_each_is_binary(shares: list[float] | None) -> None:
    plan = AttributeResponse.plan(3.0, 3, shares)
    parts = [RandomizedResponse(2, keep) for keep in plan.keeps]
    weights = np.array(shares or [1.0] * 3) / sum(shares or [1.0] * 3) * 3.0
    assert [charged(part) for part in parts] == pytest.approx(weights, rel=1e-5)
    assert all(charged(part) <= weight for part, weight in zip(parts, weights, strict=True))
    # Two vectors that differ everywhere: the answers are independent, so the worst losses add up to the composition's.
    assert sum(worst(part, 2) for part in parts) <= curve(plan.event()).epsilon(0.0) <= 3.0
    n = 100_000
    vector = np.tile([[0, 1, 1]], (n, 1))
    answers = plan.release(vector, np.ones(n, dtype=np.bool_))
    for i, keep in enumerate(plan.keeps):
        kept = int((answers[:, i] == vector[:, i]).sum())
        assert stats.binomtest(kept, n, keep).pvalue > 1e-4
    agreement = np.corrcoef((answers == vector).T) - np.eye(3)
    assert abs(agreement).max() < 5 / math.sqrt(n)
    assert answers.shape == (n, 3)


def test_attributes_that_all_take_the_whole_epsilon_are_caught() -> None:
    """The mistake of charging a vector as one label: ε for each attribute, and paid once."""
    mutant = AttributeResponse(tuple(plan_response(3.0, 2).keep for _ in range(3)))
    assert curve(mutant.event()).epsilon(0.0) == pytest.approx(9.0, rel=1e-5)


# Three attributes of eight classes, whose order is not that of their vectors.
SHUFFLED = ((1, 0, 0), (0, 0, 0), (1, 1, 1), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 1, 0))
NAMES = ("round", "filled", "dark")


def of_classes(response: AttributeResponse) -> ClassAttributes:
    return ClassAttributes(response, NAMES, SHUFFLED)


def total(plan: LabelPlan) -> float:
    return curve(plan.event()).epsilon(0.0)


@pytest.mark.parametrize("shares", [None, [1.0, 2.0, 5.0]], ids=["even", "declared"])
def test_the_worst_pair_of_classes_loses_the_sum_over_its_attributes(shares: list[float] | None) -> None:
    plan = of_classes(AttributeResponse.plan(3.0, 3, shares))
    exact = worst(plan, 8)
    assert exact <= total(plan) <= 3.0
    assert exact >= total(plan) - 1e-5  # classes that differ everywhere reach it
    told = plan.parameters()["epsilon"]
    assert isinstance(told, float)
    assert exact <= told <= 3.0
    null = law(plan, REJECTED, 8)
    assert null == dict.fromkeys(range(8), Fraction(1, 8))
    away = max(max(loss(law(plan, label, 8), null), loss(null, law(plan, label, 8))) for label in range(8))
    assert away <= curve(plan.zero_out_event()).epsilon(0.0) <= total(plan)
    # Each answer has the product of its attributes' probabilities, whichever class it is.
    for label in range(8):
        for answer, p in law(plan, label, 8).items():
            parts = zip(SHUFFLED[label], SHUFFLED[answer], plan.response.keeps, strict=True)
            assert p == math.prod(Fraction(keep) if own == said else 1 - Fraction(keep) for own, said, keep in parts)


class OneCoin(ClassAttributes):
    """Mistake: one coin for all attributes, so a label is released whole or its opposite is."""

    def release(self, labels: Any, valid: Any) -> Any:
        coin = noise.bernoulli_exact(self.response.keeps[0], len(labels))
        bits = np.array(self.vectors)[np.where(valid, labels, 0)]
        answers = np.where(coin[:, None], bits, 1 - bits)
        return np.array([self.vectors.index(tuple(row)) for row in answers.tolist()])


class WholeEach(ClassAttributes):
    """Mistake: every attribute takes the whole ε, and it is paid once."""

    def event(self) -> ComposedEvent:
        return ComposedEvent((self.response.parts()[0].event(),))


class ShownBits(ClassAttributes):
    """Mistake: an attribute of a rejected record is shown."""

    def release(self, labels: Any, valid: Any) -> Any:
        return np.where(valid, super().release(labels, valid), labels)


def test_planted_mistakes_of_attributes_are_caught() -> None:
    response = AttributeResponse.plan(3.0, 3)
    assert worst(of_classes(response), 8) <= total(of_classes(response))
    assert worst(OneCoin(response, NAMES, SHUFFLED), 8) == math.inf
    assert worst(ShownBits(response, NAMES, SHUFFLED), 8) == math.inf
    whole = WholeEach(AttributeResponse(tuple(plan_response(3.0, 2).keep for _ in range(3))), NAMES, SHUFFLED)
    assert worst(whole, 8) > total(whole) + 5


@pytest.mark.usefixtures("seeded")
def test_classes_by_attributes_are_drawn_as_the_law_has_it() -> None:
    plan, n = of_classes(AttributeResponse.plan(3.0, 3, [1.0, 2.0, 5.0])), 200_000
    for label in (2, -1, 8):
        answers = plan.release(np.full(n, label), np.ones(n, dtype=np.bool_))
        expected = [float(p) * n for p in law(plan, label if 0 <= label < 8 else REJECTED, 8).values()]
        assert stats.chisquare(np.bincount(answers, minlength=8), expected).pvalue > 1e-4
    least, most = plan.least_and_most()
    found = [float(p) for label in range(8) for p in law(plan, label, 8).values()]
    assert (min(found), max(found)) == (pytest.approx(least), pytest.approx(most))


def test_label_and_latent_are_paid_for_together() -> None:
    plan, latent = plan_response(1.0, 10), PureEvent(4.0)
    paid = both(plan, plan.event(), latent)
    assert paid == ComposedEvent((plan.event(), latent))
    assert curve(paid).epsilon(0.0) == pytest.approx(5.0, abs=2e-6)
    assert both(PublicLabels(), PublicLabels().event(), latent) == latent
    beside = both(plan, plan.zero_out_event(), replace(latent, relation=ZERO_OUT))
    assert beside.relation == ZERO_OUT


def test_public_labels_are_published_as_they_are() -> None:
    labels = np.array([0, 2, 1])
    released = PublicLabels().release(labels, np.array([True, False, True]))
    assert released.tolist() == [0, 2, 1]
    assert not np.shares_memory(released, labels)
    assert not PublicLabels().private


@pytest.mark.usefixtures("seeded")
def test_plausible_counts_hold_what_is_released_and_not_what_is_not() -> None:
    n = 6000
    valid = np.ones(n, dtype=np.bool_)
    for labels in (np.arange(n) % 3, np.zeros(n, dtype=np.int64)):
        for plan in (plan_response(1.0, 3), ResampledLabels((1, 2, 3)), of_classes(AttributeResponse.plan(3.0, 3))):
            ranges = plausible_counts(plan, n)
            assert ranges is not None
            counts = np.bincount(plan.release(labels, valid), minlength=len(ranges))
            assert all(low <= count <= high for count, (low, high) in zip(counts, ranges, strict=True))
            # Had a release all its own labels, and were they of one class, it would show.
            own = [n] + [0] * (len(ranges) - 1)
            assert not all(low <= count <= high for count, (low, high) in zip(own, ranges, strict=True))
    assert plausible_counts(PublicLabels(), n) is None
    assert plausible_counts(ResampledLabels((1, 0)), 5) == [(5, 5), (0, 0)]


IMPOSSIBLE: dict[str, Callable[[], object]] = {
    "one class": lambda: plan_response(1.0, 1),
    "no epsilon": lambda: plan_response(0.0, 3),
    "nan": lambda: plan_response(math.nan, 3),
    "infinite": lambda: plan_response(math.inf, 3),
    "certain": lambda: RandomizedResponse(3, 1.0),
    "worse than chance": lambda: RandomizedResponse(3, 0.3),
    "no weights": lambda: ResampledLabels(()),
    "all zero": lambda: ResampledLabels((0.0, 0.0)),
    "negative": lambda: ResampledLabels((1.0, -1.0)),
    "too many digits": lambda: ResampledLabels((1e-300, 1.0)),
    "no attributes": lambda: AttributeResponse.plan(1.0, 0),
    "a share of nothing": lambda: AttributeResponse.plan(1.0, 2, [1.0, 0.0]),
    "shares for others": lambda: AttributeResponse.plan(1.0, 2, [1.0]),
    "shapes": lambda: plan_response(1.0, 3).release(np.zeros(3, dtype=np.int64), np.ones(2, dtype=np.bool_)),
    "a combination missing": lambda: ClassAttributes(
        AttributeResponse.plan(1.0, 2), ("a", "b"), ((0, 0), (0, 1), (1, 0))
    ),
    "a combination twice": lambda: ClassAttributes(AttributeResponse.plan(1.0, 1), ("a",), ((0,), (0,))),
    "no combination": lambda: ClassAttributes(AttributeResponse.plan(1.0, 1), ("a",), ((0,), (2,))),
    "one name": lambda: ClassAttributes(AttributeResponse.plan(1.0, 2), ("a", "a"), ((0, 0), (0, 1), (1, 0), (1, 1))),
    "too many attributes": lambda: ClassAttributes(AttributeResponse.plan(11.0, 11), tuple("abcdefghijk"), ()),
    "classes and vectors": lambda: of_classes(AttributeResponse.plan(1.0, 3)).release(
        np.zeros((3, 3), dtype=np.int64), np.ones(3, dtype=bool)
    ),
    "vectors": lambda: AttributeResponse.plan(1.0, 2).release(np.zeros((3, 3), dtype=np.int64), np.ones(3, dtype=bool)),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_plans_are_refused(name: str) -> None:
    with pytest.raises(PrivacyError):
        IMPOSSIBLE[name]()
