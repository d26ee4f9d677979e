"""The charged gate: one noisy integer, the holdout records that a classifier trained on the release gets right.

    count = Σ over holdout units of [the unit's one record is classified as its label]      an integer, 0 … n
    Δ = 1: neighbours differ in one unit's contents; the unit has one record in the count, so one term moves, by ≤ 1.
           The classifier is a function of released records, which no holdout unit entered: the other terms stay.
    noisy = count + X,  P(X = x) ∝ exp(−ε·|x|) on the integers  ⇒  P(noisy | D) ≤ exp(ε·Δ) · P(noisy | D') exactly.

Accuracy, interval and verdict are functions of `noisy`, ε, n and the threshold alone, so they cost nothing more.
n is public. Whether the release is withheld is an output as well, and is covered by the same charge.
"""

import hmac
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadp.errors import PrivacyError, SpecError
from cadp.privacy.accountant import PureEvent
from cadp.privacy.events import ZERO_OUT
from cadp.privacy.noise import discrete_laplace

SCHEMA = 1
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class GatePlan:
    """What the gate will ask and what the answer costs: public, and fixed in the spec beforehand.

    Attributes:
        epsilon: loss of the one answer, replace-one, for the holdout's units.
        holdout_units: n, scored with one record each; public.
        accuracy_at_least: noisy accuracy below which the release is withheld.
    """

    epsilon: float
    holdout_units: int
    accuracy_at_least: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise SpecError(f"the gate's epsilon must be positive and finite, not {self.epsilon}")
        if self.holdout_units < 1:
            raise SpecError(f"the gate needs a holdout of 1 unit or more, not {self.holdout_units}")
        if not 0 <= self.accuracy_at_least <= 1:
            raise SpecError(f"accuracy_at_least must be between 0 and 1, not {self.accuracy_at_least}")

    @property
    def needed(self) -> int:
        """The least noisy count that passes, ⌈threshold · n⌉; the threshold is the decimal that the spec wrote."""
        return math.ceil(Fraction(repr(self.accuracy_at_least)) * self.holdout_units)

    @property
    def scale(self) -> Fraction:
        """Scale of the discrete Laplace noise, Δ/ε with Δ = 1."""
        return 1 / Fraction(self.epsilon)

    def event(self) -> PureEvent:
        """What the ledger charges, once, to the holdout's population."""
        return PureEvent(self.epsilon)

    def zero_out_event(self) -> PureEvent:
        """The companion figure's event: a unit replaced by one that is never a hit moves the count by at most 1 too."""
        return PureEvent(self.epsilon, relation=ZERO_OUT)

    def parameters(self) -> dict[str, Any]:
        """The plan as public JSON."""
        return {
            "schema": SCHEMA,
            "kind": "accuracy-gate",
            "epsilon": self.epsilon,
            "holdout_units": self.holdout_units,
            "accuracy_at_least": self.accuracy_at_least,
            "sensitivity": 1,
            "noise": "discrete Laplace",
        }

    def answer(self, correct: int) -> dict[str, Any]:
        """Add noise to the count. Every call is a new output: the ledger holds a charge for one, and keeps the first.

        Args:
            correct: holdout units whose one record is classified correctly; private.

        Returns:
            JSON: `noisy_correct` and, computed from it, `accuracy` in [0, 1], `low` and `high` at `confidence`,
            `needed` and `passed`; with `n`, `threshold`, `epsilon`.

        Raises:
            PrivacyError: the count is not one that n units can give.
        """
        if isinstance(correct, bool) or not isinstance(correct, int | np.integer):
            raise PrivacyError(f"the gate counts in integers, not {type(correct).__name__}")
        if not 0 <= correct <= self.holdout_units:
            raise PrivacyError(f"a count outside 0 … {self.holdout_units}: more than one record of a unit was scored")
        noise = discrete_laplace(self.scale, 1)
        if noise.dtype != np.int64:
            raise PrivacyError(f"the gate's noise must be of integers, not {noise.dtype}")
        return self.read(int(correct) + int(noise[0]))

    def read(self, noisy: int) -> dict[str, Any]:
        """What follows from a noisy count; post-processing."""
        n = self.holdout_units
        low, high = self.interval(noisy)
        return {
            "schema": SCHEMA,
            "kind": "accuracy-gate",
            "noisy_correct": noisy,
            "accuracy": min(max(noisy / n, 0.0), 1.0),
            "low": low,
            "high": high,
            "confidence": CONFIDENCE,
            "threshold": self.accuracy_at_least,
            "needed": self.needed,
            "epsilon": self.epsilon,
            "n": n,
            "passed": noisy >= self.needed,
        }

    def interval(self, noisy: int) -> tuple[float, float]:
        """95 % interval for the classifier's accuracy on units like those of the holdout.

        The 5 % are shared: the noise is beyond ±t with probability at most 2.5 %, so the true count lies within
        `noisy ± t`; Wilson's interval at 97.5 % is taken at both ends of that.
        """
        share = (1 - CONFIDENCE) / 2
        reach = self.noise_quantile(share)
        n = self.holdout_units
        least, most = (min(max(count, 0), n) for count in (noisy - reach, noisy + reach))
        return _wilson(least, n, share)[0], _wilson(most, n, share)[1]

    def noise_quantile(self, tail: float) -> int:
        """The least t ≥ 0 with P(|X| > t) = 2·r^(t+1)/(1+r) ≤ tail, r = exp(−ε)."""
        r = math.exp(-self.epsilon)
        return max(0, math.ceil(math.log(2 / (tail * (1 + r))) / self.epsilon - 1))


def one_per_unit(units: Sequence[str], records: Sequence[str], key: bytes) -> NDArray[np.int64]:
    """Positions of one record of each unit, ascending: the one whose keyed hash is least, whatever it contains.

    Args:
        units: unit of each record.
        records: the records' own keys, unique.
        key: from the population's secret, so that nobody outside can tell which record is scored.
    """
    if len(units) != len(records):
        raise PrivacyError(f"{len(units)} units for {len(records)} records")
    chosen: dict[str, tuple[bytes, int]] = {}
    for position, (unit, record) in enumerate(zip(units, records, strict=True)):
        rank = hmac.digest(key, b"gate\0" + record.encode("utf-8", "surrogatepass"), sha256)
        best = chosen.get(unit)
        if best is None or rank < best[0]:
            chosen[unit] = (rank, position)
    return np.array(sorted(position for _, position in chosen.values()), dtype=np.int64)


def _wilson(count: int, n: int, tails: float) -> tuple[float, float]:
    """Wilson's interval (1927) for a proportion, `tails` being the probability left out on both sides together."""
    z = NormalDist().inv_cdf(1 - tails / 2)
    share = count / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the formula gives 0 and 1 but for rounding.
    return 0.0 if count == 0 else max(0.0, centre - half), 1.0 if count == n else min(1.0, centre + half)
