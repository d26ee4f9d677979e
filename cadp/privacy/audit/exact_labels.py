"""The exact layer of labels: the law of the released label, enumerated coin by coin through the code that runs.

A label plan has few coins, so nothing is estimated: every coin is fed to the plan's own `release` once, for every true
label, and the law of the answer follows as a fraction. Neighbours may differ in the whole record, its label included.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadp.errors import PrivacyError
from cadp.privacy.audit.verdict import Check
from cadp.privacy.audit.watch import Feed, fed, watched
from cadp.privacy.events import ComposedEvent, Event, PureEvent
from cadp.privacy.labels import ClassAttributes, LabelPlan, RandomizedResponse, ResampledLabels
from cadp.privacy.precision import decimal

Labels = NDArray[np.int64]
Valid = NDArray[np.bool_]

_ROUNDING = 1 + 1e-12
_MOST_LABELS, _MOST_COMBINATIONS = 256, 64  # true labels that are tried: all of these or fewer, else so many
_RECORDS = 96


def label_checks(plan: LabelPlan, classes: int) -> tuple[Check, ...]:
    """Return the findings on a private label plan.

    Args:
        plan: what happens to labels.
        classes: how many there are.

    Raises:
        PrivacyError: a plan that this audit does not know.
    """
    laws = {RandomizedResponse: _response_law, ClassAttributes: _attributes_law, ResampledLabels: _resampled_law}
    law = next((law for kind, law in laws.items() if isinstance(plan, kind)), None)
    if law is None:
        raise PrivacyError(f"the audit has no exact check for labels by {plan.kind}: it cannot vouch for them")
    return (
        _guarded("label-law", lambda: law(plan, classes)),
        _guarded("label-independence", lambda: _independence(plan, classes)),
        _guarded("label-fresh", lambda: _fresh(plan, classes)),
    )


def _response_law(plan: Any, classes: int) -> Check:  # noqa: ANN401 (a RandomizedResponse or a mutant of it)
    """Every coin, every step to another label, for each true label and for a rejected record."""
    truths, steps = _truths(classes, _MOST_LABELS), classes - 1
    labels = np.repeat(truths, 2 * steps)
    coin = np.tile(np.repeat([True, False], steps), len(truths))
    other = np.tile(np.arange(steps), 2 * len(truths))
    answers = []
    for anything in (0, classes - 1):  # the draw for rejected records must not matter for the others

        def uniform(bound: int, size: int, anything: int = anything) -> Labels:
            return other if bound == steps and steps != 1 else np.full(size, anything % bound, dtype=np.int64)

        given, asked = _with(plan, labels, np.ones(len(labels), dtype=np.bool_), coin, uniform)
        keep = [Fraction(draw.parameter) for draw in asked if draw.sampler == "bernoulli_exact"]
        bounds = sorted(int(draw.parameter) for draw in asked if draw.sampler == "uniform_below")
        if len(keep) != 1 or bounds != [steps, classes]:
            raise PrivacyError(f"one coin and uniform labels of {steps} and {classes} were due; there were {asked}")
        answers.append(given)
    if (answers[0] != answers[1]).any():
        raise PrivacyError("a label depends on the draw that is for rejected records")
    table = answers[0].reshape(len(truths), 2, steps)
    counts = np.stack([np.apply_along_axis(np.bincount, 2, table, None, classes)[:, side] for side in (0, 1)])
    shares = {
        pair: _share(pair, keep[0], steps)
        for pair in {(int(a), int(b)) for a, b in zip(*counts.reshape(2, -1), strict=True)}
    }
    laws = np.vectorize(lambda a, b: shares[int(a), int(b)], otypes=[object])(counts[0], counts[1])
    null = _rejected_law(plan, classes)
    loss = max(_log_ratio([*laws[:, j], null[j]]) for j in range(classes))
    return _within(plan, loss, f"{len(truths)} true labels and a rejected record, all {2 * steps} coins each")


def _rejected_law(plan: RandomizedResponse, classes: int) -> list[Fraction]:
    """A rejected record's answer is its own uniform draw, whatever its label and its coin say."""
    everything = np.arange(classes)
    laws = []
    for truth, coin in ((0, True), (classes - 1, False), (-1, True), (classes, True)):
        invalid = np.zeros(classes, dtype=np.bool_) if 0 <= truth < classes else np.ones(classes, dtype=np.bool_)

        def uniform(bound: int, size: int) -> Labels:
            return everything if bound == classes else np.zeros(size, dtype=np.int64)

        own = np.full(classes, truth, dtype=np.int64)
        given, _ = _with(plan, own, invalid, np.full(classes, coin), uniform)
        laws.append(np.bincount(given, minlength=classes))
    if any((law != laws[0]).any() for law in laws):
        raise PrivacyError("the answer of a rejected record depends on its label or its coin")
    return [Fraction(int(count), classes) for count in laws[0]]


def _attributes_law(plan: Any, classes: int) -> Check:  # noqa: ANN401 (ClassAttributes or a mutant of it)
    """Every combination of the attributes' coins, for each true label and for a rejected record."""
    truths, bits = (
        _truths(classes, _MOST_COMBINATIONS),
        np.arange(classes)[:, None] >> np.arange(int(classes).bit_length() - 1) & 1,
    )
    keeps: list[Fraction] = []
    answers = []
    for valid, labels in (
        (True, np.repeat(truths, classes)),
        (False, np.tile(truths[[0, -1]], (classes, 1)).T.ravel()),
    ):
        thrown = np.tile(bits, (len(labels) // classes, 1))
        for anything in (0, 1):  # what is fed where it must not matter
            given, asked = _fed_bits(plan, labels, thrown, valid=valid, anything=anything)
            keeps = [Fraction(draw.parameter) for draw in asked if draw.sampler == "bernoulli_exact"]
            bounds = {draw.parameter for draw in asked if draw.sampler != "bernoulli_exact"}
            if len(keeps) != bits.shape[1] or not bounds <= {1, 2}:
                raise PrivacyError(f"{bits.shape[1]} coins were due for as many attributes; there were {asked}")
            answers.append(given)
    if (answers[0] != answers[1]).any() or (answers[2] != answers[3]).any():
        raise PrivacyError("a label depends on a draw that is not for it")
    weights = [
        math.prod((keep if up else 1 - keep for keep, up in zip(keeps, coins, strict=True)), start=Fraction(1))
        for coins in bits.tolist()
    ]
    laws = [_mixture(row, weights, classes) for row in answers[0].reshape(len(truths), classes)]
    laws += [_mixture(row, [Fraction(1, classes)] * classes, classes) for row in answers[2].reshape(2, classes)]
    loss = max(_log_ratio([law[j] for law in laws]) for j in range(classes))
    return _within(plan, loss, f"{len(truths)} true labels and a rejected record, all {classes} coins each")


def _fed_bits(
    plan: LabelPlan, labels: Labels, thrown: Labels, *, valid: bool, anything: int
) -> tuple[Labels, list[Any]]:
    """Feed the coins of each attribute in turn; of rejected records their uniform bits instead."""
    coins, uniform = iter(thrown.T), iter(thrown.T)

    def coin(p: object, size: int) -> Valid:
        return next(coins) == 1 if valid else np.full(size, anything == 1)

    def bit(bound: int, size: int) -> Labels:
        if bound == 1:
            return np.zeros(size, dtype=np.int64)
        return np.full(size, anything, dtype=np.int64) if valid else next(uniform).astype(np.int64)

    with fed({"bernoulli_exact": coin, "uniform_below": bit}) as asked:
        given = plan.release(labels.copy(), np.full(len(labels), valid))
    return given, asked


def _mixture(answers: Labels, weights: list[Fraction], classes: int) -> list[Fraction]:
    law = [Fraction(0)] * classes
    for answer, weight in zip(answers.tolist(), weights, strict=True):
        law[answer] += weight
    return law


def _resampled_law(plan: Any, classes: int) -> Check:  # noqa: ANN401
    """The same words give the same labels, whatever the true ones are."""
    bounds: list[int] = []

    def words(bound: int, size: int) -> Labels:
        bounds.append(bound)
        return np.linspace(0, bound - 1, size).astype(np.int64)

    everyone = np.ones(_RECORDS, dtype=np.bool_)
    truths = [np.full(_RECORDS, label, dtype=np.int64) for label in (0, classes - 1)]
    given = [
        _with(plan, labels, valid, np.zeros(0, dtype=np.bool_), words)[0]
        for labels in (*truths, np.arange(_RECORDS) % classes)
        for valid in (everyone, ~everyone)
    ]
    if len(bounds) != len(given) or any((other != given[0]).any() for other in given):
        raise PrivacyError("a label that is drawn anew depends on the true one")
    return _within(plan, 0.0, f"the same words give the same labels for {len(given)} batches of true ones")


def _independence(plan: LabelPlan, classes: int) -> Check:
    """With the coins fixed, a row's answer is the same whatever the other rows hold."""
    generator = np.random.default_rng(43)  # public: coins of synthetic records, fed to look at the code
    labels = np.arange(_RECORDS, dtype=np.int64) % classes
    coin, mine = generator.random(_RECORDS) < 0.5, np.arange(_RECORDS) % 2 == 0
    words = generator.random(_RECORDS)

    def uniform(bound: int, size: int) -> Labels:
        return (words[:size] * min(bound, 2**50)).astype(np.int64)

    def answer(others: Labels, valid: Valid) -> Labels:
        given: Labels = _with(plan, np.where(mine, labels, others), valid, coin, uniform)[0][mine]
        return given

    everyone = np.ones(_RECORDS, dtype=np.bool_)
    alone = answer(labels, everyone)
    for others in (np.zeros_like(labels), np.roll(labels, 1), labels[::-1].copy()):
        for valid in (everyone, mine):
            if (answer(others, valid) != alone).any():
                raise PrivacyError("a released label moved when only its neighbours changed")
    return Check("label-independence", True, "the same labels in 6 batches of other neighbours")


def _fresh(plan: LabelPlan, classes: int) -> Check:
    """Asked again, a plan throws its coins again: one of each for each record."""
    labels = np.arange(_RECORDS, dtype=np.int64) % classes
    thrown = []
    for _ in range(2):
        with watched() as draws:
            plan.release(labels.copy(), np.ones(_RECORDS, dtype=np.bool_))
        if not draws or any(draw.values.shape != (_RECORDS,) for draw in draws):
            raise PrivacyError(f"{_RECORDS} coins of each kind were due; there were {[d.values.shape for d in draws]}")
        thrown.append(np.concatenate([draw.values.astype(np.int64) for draw in draws]))
    if thrown[0].shape == thrown[1].shape and (thrown[0] == thrown[1]).all():
        raise PrivacyError("the coins of labels were used twice")
    return Check("label-fresh", True, "the same batch again: new coins")


def _with(plan: LabelPlan, labels: Labels, valid: Valid, coin: Valid, uniform: Feed) -> tuple[Labels, list[Any]]:
    """Release labels with these coins, and say which coins were asked for."""
    with fed({"bernoulli_exact": lambda p, size: coin, "uniform_below": uniform}) as asked:
        given = plan.release(labels.copy(), valid.copy())
    return given, asked


def _truths(classes: int, most: int) -> Labels:
    """Return the true labels that are tried, the first and the last among them."""
    return np.unique(np.linspace(0, classes - 1, min(classes, most)).round().astype(np.int64))


@lru_cache(maxsize=4096)
def _share(counts: tuple[int, int], keep: Fraction, steps: int) -> Fraction:
    """The probability of an answer that so many of the steps give, with the coin up and with the coin down."""
    return (keep * counts[0] + (1 - keep) * counts[1]) / steps


def _log_ratio(shares: list[Fraction]) -> float:
    least, most = min(shares), max(shares)
    if most == 0:
        return 0.0
    return math.inf if least == 0 else math.log(most / least)


def _within(plan: LabelPlan, loss: float, what: str) -> Check:
    event = plan.event()
    charged = float(_pure(event))
    held = loss <= charged * _ROUNDING
    return Check("label-law", held, f"{what}: the worst pair loses {loss:.6g}, charged {charged:.6g}", loss, charged)


def _pure(event: Event) -> Fraction:
    if isinstance(event, PureEvent):
        return decimal(event.epsilon) * event.count
    if isinstance(event, ComposedEvent):
        return sum((_pure(part) for part in event.events), Fraction(0))
    raise PrivacyError(f"labels are charged by a {event.kind} event, which the audit cannot compare")


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except PrivacyError as error:
        return Check(name, False, str(error))
