"""One private sum as it is planned: its clip, its sensitivity and its noise, in integers."""

import math
from dataclasses import dataclass
from typing import Literal

from cadp.privacy.events import ZERO_OUT, GaussianEvent

# √2 and the quotients below are rounded up by far more than float64 can err.
_UP = 1 + 2.0**-40


@dataclass(frozen=True, slots=True)
class Query:
    """One sum by the Gaussian mechanism, in integers.

    Attributes:
        name: what is summed.
        power: 1 for sums of vectors, 2 for sums of their squares or outer products.
        radius: the clip norm of the vectors, in lattice steps; of class counts, 1 record.
        noise_multiplier: noise standard deviation over replace-one sensitivity.
        records: `m`, the most records one unit contributes.
        count: 0, or one more entry of every record's vector, the same for all, in lattice steps and at most the radius:
            beside a vector of any sign it counts records; in an outer product it also gives their mean.
    """

    name: str
    power: Literal[1, 2]
    radius: int
    noise_multiplier: float
    records: int
    count: int = 0

    @property
    def bound(self) -> int:
        """No record's integer contribution is longer, and two are at most √2 times as far apart.

        It is the radius, or its square and that of the count; vectors of any sign with a count need ⌈√2·radius⌉.
        """
        if self.power == 2:
            return self.radius**2 + self.count**2
        return math.isqrt(2 * self.radius**2 - 1) + 1 if self.count else self.radius

    @property
    def sensitivity(self) -> float:
        """Replace-one sensitivity √2·m·bound; `cadp.cinn.fit.contributions` holds the proof."""
        return math.sqrt(2.0) * self.records * self.bound * _UP

    @property
    def zero_out_sensitivity(self) -> float:
        """Sensitivity when a unit's contribution is replaced by zero: m times the largest norm of a contribution."""
        norm = math.hypot(self.radius, self.count) if self.count and self.power == 1 else float(self.bound)
        return self.records * norm * _UP

    @property
    def sigma(self) -> float:
        """Standard deviation of the discrete Gaussian, in integer units."""
        return self.noise_multiplier * self.sensitivity

    def event(self) -> GaussianEvent:
        """The loss under replace-one: a Gaussian with μ = sensitivity / σ."""
        return GaussianEvent(mu=_UP / self.noise_multiplier)

    def zero_out_event(self) -> GaussianEvent:
        """The loss under zero-out."""
        return GaussianEvent(mu=_UP * self.zero_out_sensitivity / self.sigma, relation=ZERO_OUT)
