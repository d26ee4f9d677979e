"""Sums of many independent privacy losses on one grid, and the ε at which their δ is what it may be.

**Composition** is a power of the Fourier transform. So that rounding is small against δ and not against 1, each law is
tilted by e^{θl} with θ of the best Chernoff bound K(θ) − θε, K the sum of the log-moments. What the window of the
transform leaves out, and the transform's rounding, are bounded and added to δ.
"""

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from cadp.privacy.precision import float_up

Floats = NDArray[np.float64]
# One law: the index of its first grid point, the masses from there on, the mass of infinite loss, and its count.
Grid = tuple[int, Floats, float, int]

_UNIT = 2.0**-53
_FORGOTTEN = 45.0  # e^-45 is what windows leave out, relatively
_PER_EVENT = 2.0**-40  # by which a grid point may miss the loss it stands for
_TILTS = np.geomspace(0.02, 5000, 60)


def _moments(grids: list[Grid], width: float, theta: float) -> float:
    """Return K(θ), the logarithm of E[e^{θL}] of the sum of all losses."""
    total = 0.0
    for first, mass, _, count in grids:
        total += count * _moment(first, mass, width, theta)
    return total


def _moment(first: int, mass: Floats, width: float, theta: float) -> float:
    exponents = theta * width * np.arange(first, first + len(mass))
    top = float(exponents[mass > 0].max(initial=-math.inf))
    return top + math.log(float(np.sum(mass * np.exp(np.minimum(exponents - top, 0.0)))))


def window(grids: list[Grid], width: float, delta: float) -> tuple[float, float, float, float] | None:
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


def root(
    grids: list[Grid],
    width: float,
    seen: tuple[float, float, float, int],
    delta: float,
    upper: bool,
) -> float | None:
    """Compose by one power of the transform and solve δ(ε) = δ, every error on the safe side.

    All is in units of δ: with the tilted masses y, P(L = l) = y·e^{K − θl} = δ·y·e^{−θ(l − c)}, as K − θc = ln δ.
    """
    theta, centre, low, cells = seen
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
    near = theta * shifted > -500
    y, shifted = y[near], shifted[near]
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
