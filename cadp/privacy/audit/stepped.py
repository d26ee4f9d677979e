"""The exact layer of DP-SGD: single steps of the real training, with coins, contents and answers of the audit's choice.

A step draws units by coins, sums the integer contributions of those drawn, adds integer noise and goes on with the
answer alone. `cadp.privacy.sampled` says what that costs if the noise is as wide as planned, every unit is drawn by a
coin of the planned rate, no contribution is longer than the radius, and the sum over the other units does not depend on
one unit's coin or contents. Each of these is looked at here, in integers, on the code that runs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from cadp.errors import PrivacyError
from cadp.privacy.audit.verdict import Check
from cadp.privacy.audit.watch import Draw
from cadp.privacy.events import RELATION, Event, SampledGaussianEvent
from cadp.privacy.precision import decimal
from cadp.privacy.sampled import SMOOTHING

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Coins = NDArray[np.bool_]

_DRAWS, _DEVIATIONS = 2000, 8.0
_ROUNDING = 1 - 1e-12
_NOTHING = np.zeros(0, dtype=np.float32)
"""An answer that nobody looks at: the step ends with it."""


@dataclass(frozen=True)
class Contents:
    """What one unit holds: `(m, k)` whitened content, `(m,)` labels, and `(m,)` which of them could be read."""

    content: Floats
    labels: Integers
    valid: Coins


@dataclass(frozen=True)
class Taken:
    """One step.

    Attributes:
        coins: the draws of the coins.
        sums: of the contributions, by layer.
        noise: the draws of the noise; nothing where the answer was dictated.
        answer: what training went on with.
        model: the bits that came of it.
    """

    coins: tuple[Draw, ...]
    sums: tuple[Integers, ...]
    noise: tuple[Draw, ...]
    answer: NDArray[np.float32]
    model: bytes


@dataclass(frozen=True)
class StepPath:
    """The real step under one plan, brought by whoever may import it.

    Attributes:
        event: what all steps are charged as.
        parameters: what is public of the plan.
        rate: the planned rate of the coins.
        radius: the largest norm of a contribution, in lattice units.
        sigma: the planned noise, in the same.
        scale: what one lattice unit of a noisy sum becomes in the answer: its step over the expected batch.
        steps: how many are planned.
        others: units beside the one that differs; their contents are the path's own.
        pairs: contents of that unit that are far apart, by name.
        take: contents, coins or None for real ones, an answer or None for the real one → the step.
        row: contents, an answer or None for the real ones → several steps in a row, with real coins.
    """

    event: Event
    parameters: Mapping[str, object]
    rate: float
    radius: int
    sigma: int
    scale: float
    steps: int
    others: int
    pairs: Mapping[str, tuple[Contents, Contents]]
    take: Callable[[Contents, Coins | None, NDArray[np.float32] | None], Taken]
    row: Callable[[Contents, NDArray[np.float32] | None], Sequence[Taken]]


def step_checks(path: StepPath) -> tuple[Check, ...]:
    """Return the findings on the step under one plan."""
    first = next(iter(path.pairs.values()))[0]
    checks: tuple[tuple[str, Callable[[], Check]], ...] = (
        ("sgd-draws", lambda: _draws(path, first)),
        ("sgd-event", lambda: _event(path, first)),
        ("sgd-fresh", lambda: _fresh(path, first)),
        ("sgd-sums", lambda: _sums(path, first)),
        ("sgd-row", lambda: _row(path, first)),
        ("sgd-distance", lambda: _distance(path)),
        ("sgd-model", lambda: _model(path)),
    )
    return tuple(_guarded(name, check) for name, check in checks)


def norm_square(sums: Sequence[Integers]) -> int:
    """Return the squared norm of integer sums over all layers, exactly."""
    return sum(int(value) ** 2 for layer in sums for value in layer[layer != 0].tolist())


def difference(one: Sequence[Integers], other: Sequence[Integers]) -> list[Integers]:
    """Return the difference of two steps' sums, by layer."""
    return [a - b for a, b in zip(one, other, strict=True)]


def _draws(path: StepPath, contents: Contents) -> Check:
    """One coin a unit at the planned rate; integer noise as wide as planned on all numbers; the answer is their sum."""
    step = path.take(contents, None, None)
    if len(step.coins) != 1 or step.coins[0].values.shape != (path.others + 1,):
        raise PrivacyError(
            f"one coin for each of {path.others + 1} units was due: {[c.values.shape for c in step.coins]}"
        )
    if Fraction(step.coins[0].parameter) > decimal(path.rate):
        raise PrivacyError(f"units are drawn at rate {step.coins[0].parameter!r}, planned is {path.rate!r}")
    shapes = [layer.shape for layer in step.sums]
    if [draw.values.shape for draw in step.noise] != shapes or any(d.values.dtype != np.int64 for d in step.noise):
        found = [(draw.values.shape, str(draw.values.dtype)) for draw in step.noise]
        raise PrivacyError(f"integer noise of {shapes} was due, there was {found}")
    if any(Fraction(draw.parameter) < path.sigma for draw in step.noise):
        raise PrivacyError(f"noise was drawn at {min(d.parameter for d in step.noise)!r}, planned is {path.sigma!r}")
    drawn = [draw.values.ravel() for draw in step.noise]
    while sum(part.size for part in drawn) < _DRAWS:
        drawn += [draw.values.ravel() for draw in path.take(contents, None, None).noise]
    _check_spread(np.concatenate(drawn), path.sigma)
    due = _answer(path, [layer + draw.values for layer, draw in zip(step.sums, step.noise, strict=True)])
    if due.tobytes() != step.answer.tobytes():
        raise PrivacyError("the answer is not the sums and their noise over the expected batch")
    numbers = sum(layer.size for layer in step.sums)
    return Check("sgd-draws", True, f"{path.others + 1} coins and {numbers:,} integers: exact draws as planned")


def _answer(path: StepPath, noisy: Sequence[Integers]) -> NDArray[np.float32]:
    parts = [part for layer in noisy for part in (layer[:, :-1].ravel(), layer[:, -1])]
    return (np.concatenate(parts).astype(np.float64) * path.scale).astype(np.float32)


def _check_spread(noise: Integers, sigma: int) -> None:
    """By chance alone this fails once in 10¹⁵ audits; a sampler that says one width and draws another is seen so."""
    spread = float(np.square(noise / sigma).mean())
    if spread < 1 - _DEVIATIONS * math.sqrt(2 / noise.size):
        raise PrivacyError(f"{noise.size:,} draws of scale {sigma:.6g} have {math.sqrt(spread):.3g} of it")


def _event(path: StepPath, contents: Contents) -> Check:
    """The multiplier of the noise as drawn, the rate of the coins as thrown, and as many steps as there are."""
    event, step = path.event, path.take(contents, None, None)
    if not isinstance(event, SampledGaussianEvent):
        raise PrivacyError(f"DP-SGD is charged by a {event.kind} event, which the audit cannot compare")
    if not step.noise or not step.coins:
        raise PrivacyError(f"a step drew {len(step.coins)} rows of coins and {len(step.noise)} of noise")
    sigma = min(float(draw.parameter) for draw in step.noise)
    multiplier = math.sqrt(max(0.0, sigma**2 - SMOOTHING**2)) / path.radius
    rate = float(step.coins[0].parameter)
    held = (
        event.relation == RELATION
        and event.noise_multiplier * _ROUNDING <= multiplier
        and event.sampling_rate >= rate
        and event.steps >= path.steps
    )
    told = f"{path.steps:,} steps at rate {rate:.6g} with noise {multiplier:.6g} of the clip norm; charged are "
    told += f"{event.steps:,} at {event.sampling_rate:.6g} with {event.noise_multiplier:.6g}"
    return Check("sgd-event", held, told, 1 / max(multiplier, 1e-300), 1 / event.noise_multiplier)


def _fresh(path: StepPath, contents: Contents) -> Check:
    seen = [step.noise for step in (path.take(contents, None, None) for _ in range(2))]
    if any((a.values == b.values).all() and a.values.size > 8 for a, b in zip(*seen, strict=True)):
        raise PrivacyError("noise was used twice")
    answers = [step.answer for step in path.row(contents, None)]
    if len({answer.tobytes() for answer in answers}) != len(answers):
        raise PrivacyError("two steps in a row have one answer")
    return Check("sgd-fresh", True, f"the same records again, and {len(answers)} steps in a row: new draws each time")


def _sums(path: StepPath, contents: Contents) -> Check:
    """The sum over any sample is the sum of what its units contribute alone, and each of these is within the radius."""
    n, alone = path.others + 1, _alone(path, contents)
    longest = max(norm_square(sums) for sums in alone)
    if longest > path.radius**2:
        raise PrivacyError(f"a unit contributes {math.sqrt(longest) / path.radius:.6g} times the clip norm")
    for sample in (np.ones(n, dtype=np.bool_), np.arange(n) % 2 == 0, np.arange(n) > 0, np.zeros(n, dtype=np.bool_)):
        if not _adds_up(path.take(contents, sample, _NOTHING).sums, alone, sample):
            raise PrivacyError("what a unit contributes depends on who else was drawn")
    return Check("sgd-sums", True, f"{n} units: samples add up, the longest contribution has {_share(longest, path)}")


def _row(path: StepPath, contents: Contents) -> Check:
    """Every step in a row sums up whom its own coins drew: coins that are used again amplify nothing.

    No answer moves the weights here, so a unit contributes the same in every step.
    """
    alone, steps = _alone(path, contents), path.row(contents, _NOTHING)
    for number, step in enumerate(steps, 1):
        if len(step.coins) != 1 or not _adds_up(step.sums, alone, step.coins[0].values):
            raise PrivacyError(f"step {number} in a row does not sum up the units that its own coins drew")
    return Check("sgd-row", True, f"{len(steps)} steps in a row: each with coins of its own")


def _alone(path: StepPath, contents: Contents) -> list[tuple[Integers, ...]]:
    """What every unit adds when nobody else is drawn."""
    n = path.others + 1
    return [path.take(contents, np.arange(n) == unit, _NOTHING).sums for unit in range(n)]


def _adds_up(sums: Sequence[Integers], alone: Sequence[Sequence[Integers]], sample: Coins) -> bool:
    drawn = [one for one, is_drawn in zip(alone, sample, strict=True) if is_drawn]
    due = [sum(layers) for layers in zip(*drawn, strict=True)] or [0] * len(sums)
    return all((layer == total).all() for layer, total in zip(sums, due, strict=True))


def _share(square: int, path: StepPath) -> str:
    return f"{math.sqrt(square) / path.radius:.1%} of the clip norm"


def _distance(path: StepPath) -> Check:
    """Neighbours' sums are at most 2·radius apart if the unit is drawn, and the same if it is not."""
    everyone = np.ones(path.others + 1, dtype=np.bool_)
    without = np.arange(path.others + 1) < path.others
    worst, who, charged = 0, "", (2 * path.radius) ** 2
    for name, pair in path.pairs.items():
        one, other = (path.take(contents, everyone, _NOTHING).sums for contents in pair)
        if (apart := norm_square(difference(one, other))) > worst:
            worst, who = apart, name
        one, other = (path.take(contents, without, _NOTHING).sums for contents in pair)
        if norm_square(difference(one, other)):
            raise PrivacyError(f"{name}: a unit that was not drawn moves the sum")
    loss, most = math.sqrt(worst) / path.radius, 2.0
    detail = f"worst of {len(path.pairs)} pairs of units, {who}: {loss:.4g} clip norms apart, {most:g} are charged"
    return Check("sgd-distance", worst <= charged, detail, loss, most)


def _model(path: StepPath) -> Check:
    """With the same answer, neighbours' models have the same bits, whether the unit was drawn or not."""
    answer = path.take(next(iter(path.pairs.values()))[0], None, None).answer
    for name, pair in path.pairs.items():
        coins = (np.ones(path.others + 1, dtype=np.bool_), np.arange(path.others + 1) < path.others)
        models = {path.take(contents, sample, answer).model for contents in pair for sample in coins}
        if len(models) != 1:
            raise PrivacyError(f"{name}: with the same answer, neighbours' models differ")
    return Check("sgd-model", True, "with the same answer, neighbours' models have the same bits")


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except PrivacyError as error:
        return Check(name, False, str(error))
