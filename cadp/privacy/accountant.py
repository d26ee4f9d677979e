"""Events, Rényi curves and the filter that a ledger enforces: what a release costs, and whether it still fits.

A mechanism is charged as an *event*, kept as a *curve*: its Rényi divergence at each order of a fixed grid, in integer
micro-nats rounded up, with a separate column for additive δ. Curves add; (ε, δ) pairs do not.

**The filter.** A set of charges fits the limit (ε, δ) if at *some* order α_j of the grid the sum stays within `cap_j`,
the sum that the conversion of Canonne, Kamath, Steinke (2020, Prop. 12)

    ε = ρ + ln(1 − 1/α) − ln(δ·α)/(α − 1)

turns into ε at δ_j, where Σ δ_j = δ·(1 − ADDITIVE_SHARE), and the additive column stays within δ·ADDITIVE_SHARE. It is
sound when later charges are chosen in view of earlier outputs. Let M be the whole interaction and M_j the one that
stops before a charge that would break `cap_j`. By the Rényi filter at one fixed order (Feldman, Zrnic 2021, Thm 4.3;
Lécuyer 2021) M_j has divergence at most `cap_j` at α_j, hence is (ε, δ_j)-DP. Let J(o) be an order at which the charges
of transcript o stay within the cap; J is a function of the transcript, and where J(o) = j, M never met M_j's stop. So

    P(M ∈ S) = Σ_j P(M_j ∈ S ∩ {J = j}) ≤ Σ_j (e^ε·P'(M_j ∈ S ∩ {J = j}) + δ_j) = e^ε·P'(M ∈ S) + Σ_j δ_j.

Order ∞ is pure DP and needs no δ. What is reported in between, `Curve.epsilon` of the sum so far, is a meter of that
filter, exact where the charges were fixed beforehand; what is proved of charges that look at outputs is the limit.
Mechanisms may run side by side: a filter at a fixed order holds for concurrent ones, too (Haney et al. 2023).

*The additive column.* A mechanism within total variation ηᵢ of one that meets its curve charges δᵢ = (1 + e^ε)·ηᵢ, with
ε the limit of the whole population: put the ideal in the place of each, and both probabilities move by Σ ηᵢ at most.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import ClassVar

from cadp.errors import PrivacyError
from cadp.privacy import divergences
from cadp.privacy.analytic import gaussian_epsilon_exact
from cadp.privacy.divergences import MICRO
from cadp.privacy.events import (
    RELATION,
    ZERO_OUT,
    ComposedEvent,
    DeltaEvent,
    Event,
    GaussianEvent,
    PureEvent,
    SampledGaussianEvent,
)
from cadp.privacy.precision import decimal, float_down, reals

__all__ = [
    "ADDITIVE_SHARE",
    "ORDERS",
    "RELATION",
    "ComposedEvent",
    "Curve",
    "DeltaEvent",
    "Event",
    "GaussianEvent",
    "PureEvent",
    "SampledGaussianEvent",
    "admissible",
    "calibrate_gaussian",
    "cap",
    "curve",
    "delta_cap",
    "gaussian_epsilon_exact",
]

# Orders and their shares of δ, in 64ths. A small share is dear (1/64 is 4 nats on top of ln 1/δ), so most of δ sits
# where limits of 2–10 at δ = 1e-5 … 1e-10 convert best. At (4, 1e-6) a Gaussian keeps 91 % of the μ of the analytic
# curve, at (1, 1e-5) 80 %; a single order, fixed in advance at each optimum, would keep 94 % and 92 %.
_SHARES: tuple[tuple[float, Fraction], ...] = tuple(
    (order, Fraction(share, 64))
    for order, share in (
        (1.5, 1),
        (2.0, 1),
        (3.0, 1),
        (4.5, 14),
        (7.0, 27),
        (12.0, 8),
        (20.0, 5),
        (32.0, 3),
        (64.0, 2),
        (128.0, 1),
        (256.0, 1),
    )
)
ORDERS: tuple[float, ...] = (*(order for order, _ in _SHARES), math.inf)
# A limit's δ is split once, here: nine tenths convert Rényi curves, one tenth pays for additive δ's (samplers).
ADDITIVE_SHARE = Fraction(1, 10)

_ATTO = 10**18
_BITS = 128


@dataclass(frozen=True)
class Curve:
    """A Rényi curve on the grid `ORDERS`, with additive δ.

    Attributes:
        micro: micro-nats by order, rounded up; None where the divergence is infinite.
        delta_atto: additive δ in units of 1e-18, rounded up.
        relation: the neighbouring relation it holds under; sums never mix relations.

    Example:
        >>> (curve(PureEvent(1.0)) + curve(PureEvent(0.5))).epsilon(1e-6)
        1.5
    """

    micro: tuple[int | None, ...]
    delta_atto: int = 0
    relation: str = RELATION

    SCHEMA: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if len(self.micro) != len(ORDERS):
            raise PrivacyError(f"a curve has {len(ORDERS)} orders, not {len(self.micro)}")
        for value in (*self.micro, self.delta_atto):
            if value is not None and (type(value) is not int or value < 0):
                raise PrivacyError(f"a curve holds integers >= 0, not {value!r}")
        if self.relation not in (RELATION, ZERO_OUT):
            raise PrivacyError(f"unknown neighbouring relation {self.relation!r}: it is {RELATION} or {ZERO_OUT}")
        if self.delta_atto is None:
            raise PrivacyError("a curve's additive delta must be a number")

    @classmethod
    def zero(cls, relation: str = RELATION) -> "Curve":
        """Return the curve of something that reads no private data."""
        return cls((0,) * len(ORDERS), 0, relation)

    def __add__(self, other: "Curve") -> "Curve":
        if self.relation != other.relation:
            raise PrivacyError(f"a {self.relation} curve cannot be added to a {other.relation} curve")
        micro = tuple(None if a is None or b is None else a + b for a, b in zip(self.micro, other.micro, strict=True))
        return Curve(micro, self.delta_atto + other.delta_atto, self.relation)

    def epsilon(self, delta: float) -> float:
        """Return the least ε, to the next micro-nat, such that the curve is within `cap(ε, delta)`; `inf` if none is.

        Raises:
            PrivacyError: `delta` is not in [0, 1).
        """
        if self.delta_atto > delta_cap(delta):
            return math.inf
        totals = [m + c for m, c in zip(self.micro, _conversion(delta), strict=True) if m is not None and c is not None]
        try:
            return max(0, min(totals)) / MICRO if totals else math.inf
        except OverflowError:  # beyond the largest float: no limit holds it
            return math.inf

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        return {
            "schema": self.SCHEMA,
            "relation": self.relation,
            "orders": ["inf" if math.isinf(order) else order for order in ORDERS],
            "micro": list(self.micro),
            "delta_atto": self.delta_atto,
        }

    @classmethod
    def from_json(cls, data: dict[str, object]) -> "Curve":
        """Read what `to_json` wrote.

        Raises:
            PrivacyError: another schema, another grid of orders, or values that are no curve.
        """
        grid = cls.zero().to_json()["orders"]
        if not isinstance(data, dict) or data.get("schema") != cls.SCHEMA or data.get("orders") != grid:
            raise PrivacyError("a stored curve has another schema or grid of orders: it was written by another version")
        micro, delta_atto, relation = data.get("micro"), data.get("delta_atto"), data.get("relation")
        if not isinstance(micro, list) or not isinstance(delta_atto, int) or not isinstance(relation, str):
            raise PrivacyError(f"not a stored curve: {data}")
        return cls(tuple(micro), delta_atto, relation)


def curve(event: Event) -> Curve:
    """Return the Rényi curve of an event, rounded up: `cadp.privacy.divergences` has it kind by kind.

    Raises:
        PrivacyError: an event of an unknown kind.
    """
    if isinstance(event, ComposedEvent):
        total = Curve.zero(event.relation)
        for part in event.events:
            total = total + curve(part)
        return total
    return _one(event)


@lru_cache(maxsize=4096)
def _one(event: Event) -> Curve:
    if isinstance(event, GaussianEvent):
        return Curve(divergences.gaussian(event, ORDERS), 0, event.relation)
    if isinstance(event, SampledGaussianEvent):
        return Curve(divergences.sampled(event, ORDERS), 0, event.relation)
    if isinstance(event, PureEvent):
        return Curve(divergences.pure(event, ORDERS), 0, event.relation)
    if isinstance(event, DeltaEvent):
        return Curve((0,) * len(ORDERS), math.ceil(decimal(event.delta) * event.count * _ATTO), event.relation)
    raise PrivacyError(f"no curve is known for {type(event).__name__}")


def cap(limit_epsilon: float, limit_delta: float) -> tuple[int, ...]:
    """Return the most micro-nats by order that keep ε within the limit, rounded down; -1 where not even 0 does.

    Charges are admissible if for some order their sum is at most this (the module says why), and their additive δ at
    most `delta_cap(limit_delta)`.

    Raises:
        PrivacyError: a limit is NaN, infinite or negative, or δ >= 1.
    """
    micro = math.floor(decimal(limit_epsilon, "the limit on epsilon") * MICRO)
    return tuple(-1 if cost is None else max(-1, micro - cost) for cost in _conversion(limit_delta))


def delta_cap(limit_delta: float) -> int:
    """Return the most additive δ, in units of 1e-18 rounded down, under a limit of `limit_delta` in all."""
    return math.floor(_delta(limit_delta) * ADDITIVE_SHARE * _ATTO)


def admissible(total: Curve, limit_epsilon: float, limit_delta: float) -> bool:
    """Return whether charges that sum to `total` fit the limit: the same as `total.epsilon(delta) <= epsilon`.

    Raises:
        PrivacyError: a limit is not one (`cap`), or the sum is under the relation that is never charged.
    """
    if total.relation != RELATION:
        raise PrivacyError(f"a limit holds what is charged as {RELATION}: a {total.relation} curve is no charge")
    caps = cap(limit_epsilon, limit_delta)
    fits = any(spent is not None and spent <= most for spent, most in zip(total.micro, caps, strict=True))
    return fits and total.delta_atto <= delta_cap(limit_delta)


def calibrate_gaussian(epsilon: float, delta: float) -> float:
    """Return the largest total μ = Δ/σ (root of the sum of squares) that costs at most ε at δ; 0 if none does.

    In closed form from `cap`: α·μ²/2 ≤ cap_α at the best order.

    Raises:
        PrivacyError: ε or δ is NaN, infinite or negative, or δ >= 1.
    """
    best = max(
        Fraction(2 * max(most, 0)) / (Fraction(order) * MICRO)
        for order, most in zip(ORDERS[:-1], cap(epsilon, delta)[:-1], strict=True)
    )
    if best == 0:
        return 0.0
    return float_down(Fraction(math.isqrt(math.floor(best * 10**36)), 10**18))


def _delta(delta: float) -> Fraction:
    exact = decimal(delta, "delta")
    if exact >= 1:
        raise PrivacyError(f"delta is {delta}: it must be below 1")
    return exact


@lru_cache(maxsize=256)
def _conversion(delta: float) -> tuple[int | None, ...]:
    """Return micro-nats to add at each order to turn divergence into ε at δ, rounded up (they may be negative)."""
    budget = _delta(delta) * (1 - ADDITIVE_SHARE)
    costs: list[int | None] = []
    for order, share in _SHARES:
        part = budget * share
        if part == 0:
            costs.append(None)
            continue
        with reals(_BITS) as real:
            alpha = real.mpf(order)
            goal = real.mpf(part.numerator) / part.denominator
            cost = real.log(1 - 1 / alpha) - real.log(goal * alpha) / (alpha - 1)
            costs.append(int(real.ceil(cost * MICRO + real.ldexp(1, -40))))
    return (*costs, 0)
