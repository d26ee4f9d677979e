"""The loss of one fixed plan by its privacy loss distribution: a companion figure, tighter than what is charged.

**One fixed plan only.** The whole list of events is known before the first mechanism runs. The figure is not a curve,
does not add, and says nothing about a release whose later events depend on earlier outputs. The ledger never sees it.

Each event is a pair of laws P, Q that dominates it (`cadp.privacy.sampled` for DP-SGD, randomised response for pure ε,
which for noise on a count is the discrete Laplace mechanism itself). With L = ln(P/Q) under P, independent losses add,
and δ(ε) = E[(1 − e^{ε−L})₊] = P(L = ∞) + Σ over l > ε of (1 − e^{ε−l})·P(L = l).

`cadp.privacy.losses` brings the losses to a grid, upwards or downwards, and `cadp.privacy.composition` composes them,
every error on the safe side.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from scipy import special

from cadp.errors import PrivacyError
from cadp.privacy.accountant import curve
from cadp.privacy.composition import root, window
from cadp.privacy.events import (
    RELATION,
    ComposedEvent,
    DeltaEvent,
    Event,
    GaussianEvent,
    PureEvent,
    SampledGaussianEvent,
)
from cadp.privacy.losses import FARTHEST, Gaussian, Law, Response, Sampled, Way, on_grid
from cadp.privacy.precision import decimal, float_up

# Gaussian noise is discrete as it runs, at least 512 lattice steps wide: a continuous Gaussian with this much less
# noise dominates it (`sampled.smoothed`: √(1 − (4/512)²) > 1/(1 + 2⁻¹⁴)).
NARROWEST = 512
_DISCRETE = 1 + 2.0**-14
_MOST_CELLS = 1 << 21
_LEAST = 2.0**-30
_MOST_DIFFERENT = 64  # pure losses that are composed one by one; more are taken in groups


def pld_epsilon(events: Sequence[Event], delta: float) -> float:
    """Return an upper bound on ε at δ of *all* the events of one fixed plan; `inf` where no ε is enough.

    Args:
        events: the complete plan, of one relation, fixed before anything ran. Never a part of a plan: two figures of
            this function cannot be added.
        delta: in [0, 1).

    Raises:
        PrivacyError: the events are of several relations, of an unknown kind, or δ is not in [0, 1).

    Example:
        >>> round(pld_epsilon([GaussianEvent(0.1, 50)], 1e-6), 2)
        3.31
    """
    plan = _Plan.of(events)
    target = decimal(delta, "delta") - plan.additive
    if decimal(delta) >= 1:
        raise PrivacyError(f"delta is {delta}: it must be below 1")
    pure = sum((decimal(e) * n for e, n in plan.pure.items()), Fraction(0))
    smooth = bool(plan.square or plan.sampled)
    if target < 0 or (target == 0 and smooth):
        return math.inf
    if target == 0 or (not pure and not smooth):
        return float_up(pure)
    found = [_solve(plan, float(target) * (1 - 2.0**-40), way, True) for way in plan.ways()]
    # Beyond float64's reach the Rényi curve answers: it holds for any plan.
    epsilon = curve(ComposedEvent(tuple(events), relation=plan.relation)).epsilon(delta)
    if None not in found:
        epsilon = max(e for e in found if e is not None)
    return epsilon if smooth else min(epsilon, float_up(pure))


def pld_epsilon_lower(events: Sequence[Event], delta: float) -> float:
    """Return a lower bound on ε at δ of the same pairs of laws, noise taken as continuous; 0 if none is found.

    For tests, and to see how much of `pld_epsilon` is discretisation. Additive δ's are left out.
    """
    plan = _Plan.of(events)
    if delta <= 0 or not (plan.square or plan.sampled or plan.pure):
        return 0.0
    return max(_solve(plan, delta, way, False) or 0.0 for way in plan.ways())


@dataclass
class _Plan:
    """Events of one relation, sorted by kind; equal ones are counted, Gaussians are one."""

    relation: str
    square: Fraction = Fraction(0)
    additive: Fraction = Fraction(0)
    pure: dict[float, int] = field(default_factory=dict)
    sampled: dict[tuple[float, float], int] = field(default_factory=dict)

    @classmethod
    def of(cls, events: Sequence[Event]) -> "_Plan":
        relations = sorted({event.relation for event in events})
        if len(relations) > 1:
            raise PrivacyError(f"a plan has one neighbouring relation, not {' and '.join(relations)}")
        plan = cls(relations[0] if relations else RELATION)
        for event in events:
            plan._enter(event)
        return plan

    def _enter(self, event: Event) -> None:
        if isinstance(event, ComposedEvent):
            for part in event.events:
                self._enter(part)
        elif isinstance(event, GaussianEvent):
            self.square += decimal(event.mu) ** 2 * event.count
        elif isinstance(event, DeltaEvent):
            self.additive += decimal(event.delta) * event.count
        elif isinstance(event, PureEvent) and event.epsilon:
            self.pure[event.epsilon] = self.pure.get(event.epsilon, 0) + event.count
        elif isinstance(event, SampledGaussianEvent) and event.sampling_rate:
            q, sigma = event.sampling_rate, event.noise_multiplier
            if q > 1 - 2.0**-20 or sigma < 1 / 16:  # sampling hides nothing
                self.square += ((2 if self.relation == RELATION else 1) / decimal(sigma)) ** 2 * event.steps
            else:
                self.sampled[q, sigma] = self.sampled.get((q, sigma), 0) + event.steps
        elif not isinstance(event, PureEvent | SampledGaussianEvent):
            raise PrivacyError(f"no privacy loss distribution is known for {type(event).__name__}")

    def ways(self) -> tuple[Way, ...]:
        """The orders in which neighbours can stand; only a sampled Gaussian against N(0) tells them apart."""
        if self.relation == RELATION:
            return ("exchange",)
        return ("remove", "add") if self.sampled else ("remove",)

    def laws(self, way: Way, upper: bool) -> list[tuple[Law, int]]:
        """The laws of the losses, with their counts."""
        # What is smaller than _LEAST is raised to it, or left out below: its losses would drown in rounding.
        pure = _grouped(self.pure, upper)
        found: list[tuple[Law, int]] = [(Response(max(e, _LEAST)), n) for e, n in pure.items() if upper or e > _LEAST]
        if self.square and (upper or self.square > _LEAST**2):
            found.append((Gaussian(max(math.sqrt(self.square), _LEAST) * (_DISCRETE if upper else 1 - 2.0**-50)), 1))
        for (q, sigma), n in self.sampled.items():
            if upper or 1 / sigma > _LEAST:
                found.append((Sampled(q, max(1 / sigma, _LEAST), way), n))
        return found


def _grouped(pure: dict[float, int], upper: bool) -> dict[float, int]:
    """Return a few losses with their counts in the place of many: each group's largest, or its smallest."""
    losses = sorted(pure)
    size = max(1, math.ceil(len(losses) / _MOST_DIFFERENT))
    groups = [losses[i : i + size] for i in range(0, len(losses), size)]
    return {group[-1 if upper else 0]: sum(pure[loss] for loss in group) for group in groups}


def _solve(plan: _Plan, delta: float, way: Way, upper: bool) -> float | None:
    """Return a bound on ε at δ for neighbours that stand in one order; None out of float64's reach."""
    if plan.square > FARTHEST**2 or max(plan.pure, default=0) > FARTHEST or delta < 1e-290:
        return None
    laws = plan.laws(way, upper)
    events = sum(count for _, count in laws)
    if not 0 < events < 2**40:
        return None
    spread = math.sqrt(sum(count * law.variance() for law, count in laws))
    # Connecting the dots adds at most width²/4 to the variance of each event's loss.
    width = min(2e-3, spread / 100) / math.sqrt(events) / (1 if upper else 16)
    z = min(37.0, float(-special.ndtri(delta * 2.0**-40 / events)))
    farthest = max(abs(loss) for law, _ in laws for loss in law.reach(z))
    if not spread > 0 or farthest > FARTHEST:
        return None
    width = max(width, 4 * farthest / _MOST_CELLS)
    for _ in range(12):
        grids = [(*on_grid(law, width, z, upper), count) for law, count in laws]
        seen = window(grids, width, delta)
        if seen is None:
            return None
        theta, centre, low, high = seen
        cells = 1 << math.ceil(math.log2((high - low) / width + 8))
        if cells <= _MOST_CELLS:
            break
        width *= cells / _MOST_CELLS
    else:
        return None
    return root(grids, width, (theta, centre, low, cells), delta, upper)
