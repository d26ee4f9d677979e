"""The exact layer of training: sums of the real fit over adversarial pairs of units, against what is charged."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from cadp.errors import PrivacyError
from cadp.privacy.audit.asked import Asked, Dataset, Fit, FitPath, Integers, PlannedQuery, square_over_variance
from cadp.privacy.audit.verdict import Check
from cadp.privacy.events import RELATION, ComposedEvent, GaussianEvent
from cadp.privacy.precision import decimal

Floats = NDArray[np.float64]
Images = NDArray[np.uint8]

_GREY = 123
_WAVES = 4  # of the lowest in the background, up and down, so that they are the axes that the fit finds
_ENOUGH, _DEVIATIONS = 500, 8.0
_LESS = 1 + 2.0**-40  # of what is reached of a sensitivity: a root in floats; the sum over all queries is exact


@dataclass(frozen=True)
class UnitPair:
    """What one unit contributes in two neighbouring datasets: m copies of a picture, or of one that cannot be read."""

    name: str
    pictures: tuple[Images, Images]
    labels: tuple[int, int] = (0, 0)
    valid: tuple[bool, bool] = (True, True)

    def dataset(self, path: FitPath, side: int) -> Dataset:
        """Return the background and this unit's records, on one side of the pair."""
        images, labels = background(path)
        m = path.queries[0].records
        return Dataset(
            np.concatenate([images, np.repeat(self.pictures[side][None], m, axis=0)]),
            np.concatenate([labels, np.full(m, self.labels[side])]),
            np.concatenate([np.ones(len(labels), dtype=np.bool_), np.full(m, self.valid[side])]),
        )


def training_checks(path: FitPath) -> tuple[Check, ...]:
    """Return the findings on the fit under one plan."""
    try:
        first = path.run(unit_pairs(path)[0].dataset(path, 0), None)
        _check_asked(path, first)
    except PrivacyError as error:
        return (Check("training-draws", False, str(error)),)
    numbers = sum(asked.sums.size for asked in first.asked)
    held = Check("training-draws", True, f"{len(first.asked)} queries, {numbers:,} integers: exact draws as planned")
    return (
        _event(path, first),
        held,
        _guarded("training-fresh", lambda: _fresh(path, first)),
        *_pairs(path, first),
    )


def unit_pairs(path: FitPath) -> tuple[UnitPair, ...]:
    """Return pairs of contents that are far apart in one query or another: a unit may hold anything."""
    shape = path.shape
    half = np.zeros(shape, dtype=np.uint8)
    half[: (shape[0] + 1) // 2] = 255
    white, black = np.full(shape, 255, dtype=np.uint8), np.zeros(shape, dtype=np.uint8)
    low, high = _ends(range(1, path.low)), _ends(range(path.low, len(path.waves)))
    near = (1, 2) if path.low > 2 else low
    pairs = [
        UnitPair("halves", (half, 255 - half)),
        UnitPair("white and black", (white, black)),
        UnitPair("unreadable", (half, 255 - half), valid=(True, False)),
        *(UnitPair(f"waves {i} and {j}", (wave(path, i), wave(path, j))) for i, j in (low, near, high) if i != j),
        *(UnitPair(f"wave {i} up and down", (wave(path, i), wave(path, i, -1))) for i in low if i),
    ]
    if path.private_labels and path.classes > 1:
        pairs += [UnitPair(f"{pair.name}, two labels", pair.pictures, (0, 1)) for pair in pairs if all(pair.valid)]
        pairs.append(UnitPair("one picture, two labels", (half, half), (0, 1)))
    return tuple(pairs)


def wave(path: FitPath, number: int, sign: int = 1) -> Images:
    """Return a grey picture with one wave in it, as strong as 8 bits allow."""
    own = path.waves[number]
    strength = min(_GREY, 255 - _GREY) / float(np.abs(own).max())
    return np.asarray(np.rint(_GREY + sign * strength * own), dtype=np.uint8)


def background(path: FitPath) -> tuple[Images, NDArray[np.int64]]:
    """Return other units' records: grey in every class, and low waves up and down in the first two."""
    grey = np.full((path.classes, *path.shape), _GREY, dtype=np.uint8)
    own = range(min(2, path.classes))
    waves = [(wave(path, i, sign), y) for i in range(1, min(1 + _WAVES, path.low)) for sign in (1, -1) for y in own]
    images = [*grey, *(image for image, _ in waves)]
    return np.stack(images), np.array([*range(path.classes), *(y for _, y in waves)], dtype=np.int64)


def answers(path: FitPath) -> list[Integers]:
    """Return some answers that a fit could have got: of the background and a grey unit, without noise.

    Those to counted vectors are of another kind: one component lies in the middle of its class, all others at one far
    point. Then opposite vectors are in the same component, which is as far apart as two contributions can be.
    """
    grey = np.full(path.shape, _GREY, dtype=np.uint8)

    def dictate(index: int, sums: Integers) -> Integers:
        query = path.queries[index]
        return _one_in_the_middle(query, sums.shape) if query.count and query.power == 1 else sums

    fit = path.run(UnitPair("grey", (grey, grey)).dataset(path, 0), dictate)
    return [asked.noisy for asked in fit.asked]


def _one_in_the_middle(query: PlannedQuery, shape: tuple[int, ...]) -> Integers:
    """Return sums `(classes, components, k + 1)` of as many records a component as no noise can hide."""
    records = math.ceil(_DEVIATIONS**2 * query.sigma / query.count)
    answer = np.zeros(shape, dtype=np.int64)
    answer[..., -1] = records * query.count
    answer[:, 1:, -2] = records * query.radius
    return answer


def _ends(numbers: range) -> tuple[int, int]:
    """Return the first and the last of some numbers; zeros where there is none."""
    return (numbers[0], numbers[-1]) if len(numbers) else (0, 0)


def _check_asked(path: FitPath, fit: Fit) -> None:
    """Each planned query was asked once, and its answer is its sums and exact draws at least as wide as planned."""
    names = [query.name for query in path.queries]
    if sorted(asked.name for asked in fit.asked) != sorted(names):
        raise PrivacyError(f"the fit asked for {[a.name for a in fit.asked]}, planned were {names}")
    for asked in fit.asked:
        if (asked.noisy - asked.sums != asked.noise()).any():
            raise PrivacyError(f"{asked.name}: the answer is not the sums and the noise that was drawn for them")
        _check_spread(asked)
        beside, diagonal = asked.scales()
        sigma = Fraction(_query(path, asked.name).sigma)
        if diagonal < sigma or beside**2 * (2 if asked.symmetric else 1) < sigma**2:
            raise PrivacyError(
                f"{asked.name}: noise was drawn at scale {float(beside)!r} and {float(diagonal)!r}, planned is "
                f"{float(sigma)!r}" + (", its 1/√2 beside the diagonal" if asked.symmetric else "")
            )


def _check_spread(asked: Asked) -> None:
    """The draws are as wide as a sampler of their parameter makes them; by chance alone they fail once in 10¹⁵ audits.

    The one statement here with chance in it: a sampler that says one scale and draws at another is seen no other way.
    """
    for draw in asked.draws:
        sigma, count = float(draw.parameter), draw.values.size
        if count < _ENOUGH or sigma < 1:
            continue
        spread = float(np.square(draw.values / sigma).mean())
        if spread < 1 - _DEVIATIONS * math.sqrt(2 / count):
            raise PrivacyError(f"{asked.name}: {count:,} draws of scale {sigma:.6g} have {math.sqrt(spread):.3g} of it")


def _event(path: FitPath, fit: Fit) -> Check:
    """√2·m·bound over the noise as drawn: the loss of the parameters."""
    charged = _charged(path)
    due = Fraction(0)
    for asked in fit.asked:
        due += _most(path, asked.name, asked.scales())
    held = path.event.relation == RELATION and due <= charged
    detail = f"parameters cost mu {_root(due):.6g}, the event charges {_root(charged):.6g}"
    return Check("training-event", held, detail, _root(due), _root(charged))


def _fresh(path: FitPath, first: Fit) -> Check:
    again = path.run(unit_pairs(path)[0].dataset(path, 0), None)
    _check_asked(path, again)
    if any((a.noise() == b.noise()).all() and a.sums.size > 8 for a, b in zip(again.asked, first.asked, strict=True)):
        raise PrivacyError("noise was used twice")
    return Check("training-fresh", True, "the same records again: new draws of the same law")


def _pairs(path: FitPath, first: Fit) -> tuple[Check, Check]:
    """With the same answers: how far apart the sums of neighbours are, and whether their models have the same bits."""
    scales = {asked.name: asked.scales() for asked in first.asked}
    given, charged, pairs = answers(path), _charged(path), unit_pairs(path)
    worst, who, different = Fraction(0), "", ""
    reached: dict[str, float] = {}
    try:
        for pair in pairs:
            one, other = (path.run(pair.dataset(path, side), lambda index, sums: given[index]) for side in (0, 1))
            parts = {a.name: _apart(a, b, scales[a.name]) for a, b in zip(one.asked, other.asked, strict=True)}
            if (mu_square := sum(parts.values(), Fraction(0))) > worst:
                worst, who = mu_square, pair.name
            for name, part in parts.items():
                reached[name] = max(reached.get(name, 0.0), _root(part / _most(path, name, scales[name])))
            if one.bits() != other.bits():
                different = different or f"{pair.name}: with the same answers, neighbours' models differ"
    except PrivacyError as error:
        return Check("training-distance", False, str(error)), Check("training-model", not different, different)
    near = ", ".join(f"{name} {share:.0%}" for name, share in reached.items())
    detail = f"worst of {len(pairs)} pairs of units, {who}: mu {_root(worst):.6g}; reached of each query: {near}"
    held = worst <= charged and max(reached.values()) <= _LESS
    distance = Check("training-distance", held, detail, _root(worst), _root(charged))
    same = "with the same answers, neighbours' models have the same bits"
    return distance, Check("training-model", not different, different or same)


def _most(path: FitPath, name: str, scales: tuple[Fraction, Fraction]) -> Fraction:
    """Return the μ² that a query's planned sensitivity, √2·m·bound, has at the noise that was drawn."""
    query = _query(path, name)
    return 2 * Fraction(query.records * query.bound) ** 2 / scales[1] ** 2


def _apart(one: Asked, other: Asked, scales: tuple[Fraction, Fraction]) -> Fraction:
    if one.name != other.name or one.sums.shape != other.sums.shape:
        raise PrivacyError(f"what is asked depends on the records: {one.name} of one, {other.name} of the other")
    return square_over_variance(one, one.sums - other.sums, scales)


def _charged(path: FitPath) -> Fraction:
    """Return the μ² that the event charges."""
    parts = path.event.events if isinstance(path.event, ComposedEvent) else (path.event,)
    total = Fraction(0)
    for part in parts:
        if not isinstance(part, GaussianEvent):
            raise PrivacyError(f"training is charged by a {part.kind} event, which the audit cannot compare")
        total += decimal(part.mu) ** 2 * part.count
    return total


def _query(path: FitPath, name: str) -> PlannedQuery:
    return next(query for query in path.queries if query.name == name)


def _root(square: Fraction) -> float:
    return math.sqrt(float(square))


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except PrivacyError as error:
        return Check(name, False, str(error))
