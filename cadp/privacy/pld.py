"""The loss of one fixed plan by its privacy loss distribution: a companion figure, tighter than what is charged.

**One fixed plan only.** The whole list of events is known before the first mechanism runs. The figure is not a curve,
does not add, and says nothing about a release whose later events depend on earlier outputs. The ledger never sees it.

Each event is a pair of laws P, Q that dominates it (`cadp.privacy.sampled` for DP-SGD, randomised response for pure ε,
which for noise on a count is the discrete Laplace mechanism itself). With L = ln(P/Q) under P, independent losses add,
and δ(ε) = E[(1 − e^{ε−L})₊] = P(L = ∞) + Σ over l > ε of (1 − e^{ε−l})·P(L = l).

`cadp.privacy.losses` brings the losses to a grid, upwards or downwards.

**Composition** is a power of the Fourier transform. So that rounding is small against δ and not against 1, each law is
tilted by e^{θl} with θ of the best Chernoff bound K(θ) − θε, K the sum of the log-moments. What the window of the
transform leaves out, and the transform's rounding, are bounded and added to δ.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy import special

from cadp.errors import PrivacyError
from cadp.privacy.accountant import curve
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

Floats = NDArray[np.float64]

# Gaussian noise is discrete as it runs, at least 512 lattice steps wide: a continuous Gaussian with this much less
# noise dominates it (`sampled.smoothed`: √(1 − (4/512)²) > 1/(1 + 2⁻¹⁴)).
NARROWEST = 512
_DISCRETE = 1 + 2.0**-14
_UNIT = 2.0**-53
_MOST_CELLS = 1 << 21
_FORGOTTEN = 45.0  # e^-45 is what windows leave out, relatively
_LEAST = 2.0**-30
_PER_EVENT = 2.0**-40  # by which a grid point may miss the loss it stands for
_TILTS = np.geomspace(0.02, 5000, 60)


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
        found: list[tuple[Law, int]] = [
            (Response(max(e, _LEAST)), n) for e, n in self.pure.items() if upper or e > _LEAST
        ]
        if self.square and (upper or self.square > _LEAST**2):
            found.append((Gaussian(max(math.sqrt(self.square), _LEAST) * (_DISCRETE if upper else 1 - 2.0**-50)), 1))
        for (q, sigma), n in self.sampled.items():
            if upper or 1 / sigma > _LEAST:
                found.append((Sampled(q, max(1 / sigma, _LEAST), way), n))
        return found


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
        window = _window(grids, width, delta)
        if window is None:
            return None
        theta, centre, low, high = window
        cells = 1 << math.ceil(math.log2((high - low) / width + 8))
        if cells <= _MOST_CELLS:
            break
        width *= cells / _MOST_CELLS
    else:
        return None
    return _root(grids, width, (theta, centre, low, cells), delta, upper)


def _moments(grids: list[tuple[int, Floats, float, int]], width: float, theta: float) -> float:
    """Return K(θ), the logarithm of E[e^{θL}] of the sum of all losses."""
    total = 0.0
    for first, mass, _, count in grids:
        total += count * _moment(first, mass, width, theta)
    return total


def _moment(first: int, mass: Floats, width: float, theta: float) -> float:
    exponents = theta * width * np.arange(first, first + len(mass))
    top = float(exponents[mass > 0].max(initial=-math.inf))
    return top + math.log(float(np.sum(mass * np.exp(np.minimum(exponents - top, 0.0)))))


def _window(
    grids: list[tuple[int, Floats, float, int]], width: float, delta: float
) -> tuple[float, float, float, float] | None:
    """Return θ, the ε of the best Chernoff bound, and the losses between which all but e^-45 of the tilted sum lies."""
    tilts = [*(-_TILTS[::6]), 0.0, *_TILTS]
    k = [_moments(grids, width, float(theta)) for theta in tilts]
    if not all(map(math.isfinite, k)):
        return None
    log_delta = math.log(delta)
    bounds = [(value - log_delta) / theta if theta > 0 else math.inf for theta, value in zip(tilts, k, strict=True)]
    best = int(np.argmin(bounds))
    theta, centre = float(tilts[best]), bounds[best]
    least = width * sum(first * count for first, _, _, count in grids)
    most = width * sum((first + len(mass)) * count for first, mass, _, count in grids)
    below = [(k[best] - k[i] - _FORGOTTEN) / (theta - tilts[i]) for i in range(best)]
    above = [(k[i] - k[best] + _FORGOTTEN) / (tilts[i] - theta) for i in range(best + 1, len(tilts))]
    untilted = [(k[i] - log_delta + _FORGOTTEN) / tilts[i] for i in range(len(tilts)) if tilts[i] > 0]
    low = max([least, *below])
    high = min(most, max(min([most, *above]), min(untilted)))
    return theta, centre, min(low, centre), max(high, centre)


def _root(
    grids: list[tuple[int, Floats, float, int]],
    width: float,
    window: tuple[float, float, float, int],
    delta: float,
    upper: bool,
) -> float | None:
    """Compose by one power of the transform and solve δ(ε) = δ, every error on the safe side.

    All is in units of δ: with the tilted masses y, P(L = l) = y·e^{K − θl} = δ·y·e^{−θ(l − c)}, as K − θc = ln δ.
    """
    theta, centre, low, cells = window
    transform = np.ones(cells // 2 + 1, dtype=np.complex128)
    events, longest, slack = 0, 0.0, 1e-9
    for first, mass, _, count in grids:
        index = np.arange(first, first + len(mass))
        logs = theta * width * index - _moment(first, mass, width, theta)
        tilted = np.bincount(index % cells, weights=mass * np.exp(np.minimum(logs, 700.0)), minlength=cells)
        transform *= _power(np.fft.rfft(tilted), count)
        events += count
        longest = max(longest, float(np.linalg.norm(tilted)))
        slack += 8 * _UNIT * count * (8 + float(np.abs(logs[mass > 0]).max()))
    if slack > 0.01:
        return None
    # Higham (2002, Thm 24.2): a transform errs by at most 7u·log2 N in the 2-norm, to first order; a product of factors
    # of modulus 1 at most by the sum of their errors; Young: the composition's 2-norm is at most each factor's.
    error = (16 * _UNIT * math.log2(cells) + 16 * _UNIT) * 2 * (1 + events) * longest
    start = math.floor(low / width)
    y = np.maximum(np.roll(np.fft.irfft(transform, cells), -(start % cells)), 0.0)
    shifted = width * (start + np.arange(cells)) - centre
    seen = theta * shifted > -500
    y, shifted = y[seen], shifted[seen]
    weights = np.exp(-theta * shifted)
    mass = y * weights
    s, t = _from_top(mass), _from_top(mass * np.exp(-shifted))
    noise = error * np.sqrt(_from_top(weights * weights))
    lost = math.exp(-_FORGOTTEN)
    if upper:
        infinite = sum(count * endless for _, _, endless, count in grids) / delta
        room, scale = 1 - infinite - lost - noise, (1 + slack, 1 - slack)
    else:
        room, scale = 1 + noise + 4 * lost * weights, (1 - slack, 1 + slack)
    # Between two grid points δ(ε) = S − e^ε·T, with the sums over the points from the upper one on.
    with np.errstate(divide="ignore", invalid="ignore"):
        roots = np.log(np.maximum(s * scale[0] - room, 0.0) / (t * scale[1]))
    before = np.concatenate(([-math.inf], shifted[:-1]))
    if upper:
        # The least point from which on the bound holds: there it holds between this point and the one before, too.
        holds = np.flatnonzero((room > 0) & ~(roots > shifted))
        if not len(holds):
            return None
        i = int(holds[0])
        epsilon = centre + max(float(roots[i]), float(before[i])) + _PER_EVENT * events
        return float_up(Fraction(max(0.0, epsilon + 1e-12 * abs(epsilon))))
    fails = np.flatnonzero(roots > before)
    if not len(fails):
        return 0.0
    i = int(fails[-1])
    epsilon = centre + min(float(roots[i]), float(shifted[i])) - _PER_EVENT * events
    return max(0.0, epsilon - 1e-12 * abs(epsilon))


def _from_top(values: Floats) -> Floats:
    return np.cumsum(values[::-1])[::-1]


def _power(base: NDArray[np.complex128], exponent: int) -> NDArray[np.complex128]:
    """Raise by squaring: each step's rounding is known, a complex logarithm's would not be."""
    result = np.ones_like(base)
    while exponent:
        if exponent & 1:
            result = result * base
        base = base * base
        exponent >>= 1
    return result
