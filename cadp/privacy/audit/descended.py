"""The audit of DP-SGD: the real step as planned, and many single steps whose one unit holds a canary."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cadp.privacy.audit.attack import Features
from cadp.privacy.audit.stepped import StepPath, difference, norm_square, step_checks
from cadp.privacy.audit.trials import LEAST_TRIALS, black_box, practise
from cadp.privacy.audit.verdict import Check, Claim, Setting

Advance = Callable[[int], object]
Bits = NDArray[np.bool_]

_STEPS = 4  # a trial: two to choose the attack, two for the black box
_SHARE = 5  # one in so many trials of a record is one of a step


@dataclass(frozen=True)
class StepAudit:
    """DP-SGD as planned, and the same step under a plan where one of them tells much.

    Attributes:
        planned: for the exact layer: the release's own plan.
        single: one step of it, on a small stack, at a small ε and a large sampling rate: for the trials.
        delta: δ at which it is charged.
    """

    planned: StepPath
    single: StepPath
    delta: float

    @property
    def bounds(self) -> int:
        """The black box alone."""
        return 1

    def outputs(self, trials: int) -> int:
        """Return how many steps are taken in the black box."""
        return _STEPS * self._trials(trials)

    def setting(self, trials: int, alpha: float, advance: Advance) -> Setting:
        """Return the findings; see `Subject`. The claim is the single step's, which the trials are held against."""
        checks = (*step_checks(self.planned), *(_small(check) for check in step_checks(self.single)))
        claim = Claim.of(self.single.event, self.delta)
        if not all(check.held for check in checks):  # refuted, and perhaps no step that trials could be made of
            return Setting("dp-sgd", self.planned.parameters, claim, False, checks, (), "train")
        name, canary = _Canary.of(self.single)
        count = self._trials(trials)

        def sample(second: Bits) -> Features:
            return canary.sample(second, advance)

        chosen = practise(sample, claim, count, alpha)
        measures = (black_box(sample, chosen, claim, count, alpha),)
        told = f"black box: one step at ε = {claim.epsilon:.4g}, {name}, among {self.single.others} other units"
        checks = (*checks, Check("sgd-canary", True, told))
        return Setting("dp-sgd", self.planned.parameters, claim, False, checks, measures, "train")

    def _trials(self, trials: int) -> int:
        return max(LEAST_TRIALS, trials // _SHARE)


def _small(check: Check) -> Check:
    return Check(f"{check.name}-single", check.held, check.detail, check.loss, check.charged)


@dataclass(frozen=True)
class _Canary:
    """An adversary who knows all others, their coins and both contents that the unit may have.

    From the answer he takes what the others add, and looks along the line between what both contents would.
    """

    path: StepPath
    pair: str

    @classmethod
    def of(cls, path: StepPath) -> tuple[str, "_Canary"]:
        """Choose the pair whose contributions are farthest apart."""
        nobody = np.zeros(0, dtype=np.float32)
        drawn = np.arange(path.others + 1) == path.others

        def apart(name: str) -> int:
            one, other = (path.take(contents, drawn, nobody).sums for contents in path.pairs[name])
            return norm_square(difference(one, other))

        best = max(path.pairs, key=apart)
        return best, cls(path, best)

    def sample(self, second: Bits, advance: Advance) -> Features:
        """Take a step for each bit; return the likelihood ratio of its answer, and how far along the line it lies."""
        pair, nobody = self.path.pairs[self.pair], np.zeros(0, dtype=np.float32)
        units = np.arange(self.path.others + 1)
        one, other = (_flat(self.path.take(contents, units == self.path.others, nobody).sums) for contents in pair)
        others = np.stack([_flat(self.path.take(pair[0], units == unit, nobody).sums) for unit in units[:-1]])
        sigma, q = float(self.path.sigma), self.path.rate
        rows = []
        for bit in second.astype(np.int64):
            step = self.path.take(pair[bit], None, None)
            known = np.asarray(step.coins[0].values[:-1], dtype=np.float64) @ others  # the last coin he does not know
            rest = _in_order(step.answer.astype(np.float64) / self.path.scale, step.sums) - known
            rows.append([_ratio(rest, one, other, sigma, q), float(rest @ (other - one)) / sigma**2])
            advance(1)
        return Features(np.array(rows), np.zeros((len(rows), 0)))


def _flat(sums: tuple[NDArray[np.int64], ...]) -> NDArray[np.float64]:
    return np.concatenate([layer.ravel() for layer in sums]).astype(np.float64)


def _in_order(answer: NDArray[np.float64], sums: tuple[NDArray[np.int64], ...]) -> NDArray[np.float64]:
    """Bring an answer, weights and then biases layer by layer, into the order of the sums."""
    parts, at = [], 0
    for layer in sums:
        rows, columns = layer.shape
        weights = answer[at : at + rows * (columns - 1)].reshape(rows, columns - 1)
        at += rows * (columns - 1)
        parts.append(np.concatenate([weights, answer[at : at + rows, None]], axis=1).ravel())
        at += rows
    return np.concatenate(parts)


def _ratio(
    rest: NDArray[np.float64], one: NDArray[np.float64], other: NDArray[np.float64], sigma: float, q: float
) -> float:
    """Return ln of the likelihoods' ratio under (1−q)·N(0) + q·N(other) and the same with one."""

    def log(contribution: NDArray[np.float64]) -> float:
        exponent = float(rest @ contribution - 0.5 * contribution @ contribution) / sigma**2
        return float(np.logaddexp(math.log1p(-q) if q < 1 else -math.inf, math.log(q) + exponent))

    return log(other) - log(one)
