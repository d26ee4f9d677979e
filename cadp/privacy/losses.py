"""Privacy losses of single mechanisms, and how they are brought to a grid without ever gaining privacy.

The loss of a pair of laws is L = ln(P/Q) under P. On a grid of losses i·w a cell has a P-mass p and a Q-mass r.

*Upwards* the cell's mass goes to both of its ends, as a and b with a + b = p and a·e^{−l} + b·e^{−l−w} = r ("connect
the dots", Doroshenko et al. 2022): it keeps both masses and spreads Q/P, and δ = E[(1 − e^ε·Q/P)₊] is convex in Q/P.
Mass above the grid becomes infinite loss, mass below it goes up to the first point. *Downwards* every loss falls to the
lower end of its cell.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

Way = Literal["exchange", "remove", "add"]
FARTHEST = 300.0  # nats of one loss: e^600 is still a float
_UNIT = 2.0**-53


class Law(Protocol):
    """A privacy loss: where it lies, and how P and Q share it out."""

    def variance(self) -> float:
        """Roughly; it sets the grid."""

    def reach(self, z: float) -> tuple[float, float]:
        """Losses between which P has all but a Gaussian's two tails beyond z."""

    def masses(self, losses: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        """P below, P above, Q below and Q above each loss, and the relative error of these four."""


@dataclass(frozen=True)
class Response:
    """Randomised response at ε, which dominates every mechanism of pure loss ε."""

    epsilon: float

    def variance(self) -> float:
        """See `Law`."""
        return self.epsilon**2 / math.cosh(min(self.epsilon / 2, 300.0)) ** 2

    def reach(self, z: float) -> tuple[float, float]:
        """See `Law`."""
        return -self.epsilon, self.epsilon

    def masses(self, losses: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        """See `Law`."""
        lie, truth = float(special.expit(-self.epsilon)), float(special.expit(self.epsilon))
        above_low, above_high = losses >= -self.epsilon, losses >= self.epsilon
        p = np.where(above_high, 1.0, np.where(above_low, lie, 0.0))
        q = np.where(above_high, 1.0, np.where(above_low, truth, 0.0))
        p_above = np.where(above_high, 0.0, np.where(above_low, truth, 1.0))
        q_above = np.where(above_high, 0.0, np.where(above_low, lie, 1.0))
        return p, p_above, q, q_above, np.full_like(losses, 16 * _UNIT)


@dataclass(frozen=True)
class Gaussian:
    """N(μ, 1) against N(0, 1): the loss is N(μ²/2, μ²)."""

    mu: float

    def variance(self) -> float:
        """See `Law`."""
        return self.mu**2

    def reach(self, z: float) -> tuple[float, float]:
        """See `Law`."""
        return self.mu**2 / 2 - z * self.mu, self.mu**2 / 2 + z * self.mu

    def masses(self, losses: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        """See `Law`."""
        p, q = losses / self.mu - self.mu / 2, losses / self.mu + self.mu / 2
        return special.ndtr(p), special.ndtr(-p), special.ndtr(q), special.ndtr(-q), _rounding(np.maximum(p * p, q * q))


@dataclass(frozen=True)
class Sampled:
    """One step of DP-SGD, λ = 1/noise multiplier, the neighbours in one of three orders.

    With P_a = (1−q)·N(0) + q·N(aλ): `exchange` is P₁ against P₋₁, `remove` P₁ against N(0), `add` N(0) against P₁,
    mirrored so that the loss grows with t in all three.
    """

    q: float
    lam: float
    way: Way

    def variance(self) -> float:
        """See `Law`."""
        t = np.linspace(-8.0, 8.0 + self.lam, 4001)
        weights = self._mixed(np.exp(-t * t / 2), np.exp(-((t - self.lam) ** 2) / 2), self.way != "add")
        return float(np.sum(weights * self._loss(t) ** 2) / np.sum(weights))

    def reach(self, z: float) -> tuple[float, float]:
        """See `Law`."""
        low, high = self._loss(np.array([-z, z + (0.0 if self.way == "add" else self.lam)]))
        return float(low), float(high)

    def masses(self, losses: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        """See `Law`."""
        t = self._point(losses)
        there, here = t - self.lam, t + self.lam
        found = [
            self._mixed(special.ndtr(sign * t), special.ndtr(sign * moved), applies)
            for moved, applies in ((there, self.way != "add"), (here, self.way != "remove"))
            for sign in (1, -1)
        ]
        finite = np.where(np.isfinite(t), t, 0.0)
        return found[0], found[1], found[2], found[3], _rounding((np.abs(finite) + self.lam) ** 2)

    def _mixed(self, still: Floats, moved: Floats, applies: bool) -> Floats:
        return (1 - self.q) * still + self.q * moved if applies else still

    def _loss(self, t: Floats) -> Floats:
        half, rest, log_q = self.lam**2 / 2, math.log1p(-self.q), math.log(self.q)
        up = np.logaddexp(rest, log_q + self.lam * t - half)
        down = np.logaddexp(rest, log_q - self.lam * t - half)
        return {"exchange": up - down, "remove": up, "add": -down}[self.way]

    def _point(self, losses: Floats) -> Floats:
        """Return where the loss is reached, ±∞ beyond its range. With z = e^{λt} and c = q·e^{−λ²/2}:

        `exchange`: c·z² − (1−q)(e^l − 1)·z − c·e^l = 0; `remove`: z = (e^l − 1 + q)/c; `add`: 1/z = (e^{−l} − 1 + q)/c.
        """
        log_c = math.log(self.q) - self.lam**2 / 2
        if self.way != "exchange":
            sign = 1 if self.way == "remove" else -1
            with np.errstate(divide="ignore"):
                return sign * (np.log(np.maximum(np.expm1(sign * losses) + self.q, 0.0)) - log_c) / self.lam
        # Divided by e^{l/2}: a = (1−q)·sinh(l/2)/c, and z·e^{−l/2} = a + √(a² + 1) = e^{asinh a}.
        a = (1 - self.q) * np.sinh(losses / 2) / math.exp(log_c)
        return (np.arcsinh(a) + losses / 2) / self.lam


def on_grid(law: Law, width: float, z: float, upper: bool) -> tuple[int, Floats, float]:
    """Return the index of the first grid point, the masses from there on, and the mass of infinite loss."""
    low, high = law.reach(z)
    first, last = math.floor(low / width) - 1, math.ceil(high / width) + 1
    losses = width * np.arange(first, last + 1, dtype=np.float64)
    p_below, p_above, q_below, q_above, relative = law.masses(losses)
    p, p_error = _between(p_below, p_above, relative)
    q, q_error = _between(q_below, q_above, relative)
    mass = np.zeros(len(losses))
    if not upper:
        mass[:-1] = np.maximum(p - p_error, 0.0)
        mass[-1] = p_above[-1] * (1 - 1e-9)
        return first, mass, 0.0
    p = p + p_error
    up = (p - np.maximum(q - q_error, 0.0) * np.exp(losses[:-1])) / -math.expm1(-width)
    up = np.clip(up, 0.0, p)
    mass[:-1] = p - up
    mass[1:] += up
    mass[0] += p_below[0]
    return first, mass, float(p_above[-1]) * (1 + 1e-9)


def _between(below: Floats, above: Floats, relative: Floats) -> tuple[Floats, Floats]:
    """Return the mass of each cell, from the tail that is smaller there, and a bound on its error."""
    left = below[1:] <= above[:-1]
    mass = np.where(left, below[1:] - below[:-1], above[:-1] - above[1:])
    below, above = relative * below, relative * above
    return np.maximum(mass, 0.0), np.where(left, below[1:] + below[:-1], above[:-1] + above[1:])


def _rounding(square: Floats) -> Floats:
    """Return the relative error of a Gaussian's tail at t, given t²: the argument's rounding weighs 2t²."""
    return _UNIT * (16 + 4 * square)
