"""Clips, and the integer lattice on which contributions are summed and noise is added.

Float sums are not associative, so a float sum can move by more than the sensitivity when one record changes; integer
sums cannot. A contribution is therefore clipped, rounded to a multiple of a public step, and an integer from there on.

Every row is clipped by its own values alone, in an order of operations that depends on the row's length only.
"""

import math

import numpy as np
from numpy.typing import NDArray

from cadp.errors import PrivacyError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# A row of n < 2^20 float64 has its norm to relative error (n + 4)·2⁻⁵³ < 2⁻³², and scaling rounds each entry once more:
# a row scaled to radius·(1 − 2⁻³⁰) lies within `radius` in exact arithmetic.
_MARGIN = 1.0 - 2.0**-30
_LONGEST = 1 << 20
_FARTHEST = 2**62
_SMALLEST_RADIUS = 2.0**-900  # below it the products of a clip would lose their digits to denormals


def clip_l2(rows: Floats, radius: float) -> Floats:
    """Scale each row into the L2 ball of `radius`; a row that holds a NaN or an infinity becomes zero.

    Args:
        rows: `(n, k)`, any float64 values (1e308 and denormals included).
        radius: public, positive.

    Returns:
        `(n, k)`: in exact arithmetic every row's norm is at most `radius`. Rows well inside are unchanged.

    Raises:
        PrivacyError: `radius` is not positive and finite, or the rows are not a matrix.
    """
    clean, largest = _clean(rows, radius)
    scaled = clean / largest
    return _shrink(clean, scaled, largest, np.sqrt(_sum(scaled * scaled)), radius)


def clip_l1(rows: Floats, radius: float) -> Floats:
    """Scale each row into the L1 ball of `radius`; see `clip_l2`."""
    clean, largest = _clean(rows, radius)
    scaled = clean / largest
    return _shrink(clean, scaled, largest, _sum(np.abs(scaled)), radius)


def to_sphere(rows: Floats) -> Floats:
    """Scale each row to norm 1, to within `(k + 6)·2⁻⁵³`; a row that is zero or not finite becomes the first axis.

    The first axis is a fixed public direction: what a mechanism on the sphere does for the zero latent.
    """
    clean, largest = _clean(rows, 1.0)
    scaled = clean / largest
    norm = np.sqrt(_sum(scaled * scaled))
    axis = np.eye(1, rows.shape[1])
    return np.where(norm > 0, scaled / np.where(norm > 0, norm, 1.0), axis)


def to_lattice(values: Floats, step: float) -> Integers:
    """Return the nearest integers to `values / step`; NaN and infinities become 0.

    With `step` a power of two the division is exact, so each value moves by at most `step / 2`.

    Raises:
        PrivacyError: `step` is not a power of two, or a value lies beyond 2^62 steps (it was not clipped).
    """
    if not (math.isfinite(step) and step > 0 and math.frexp(step)[0] == 0.5):
        raise PrivacyError(f"the lattice step is {step}: it must be a positive power of two")
    units = np.rint(np.where(np.isfinite(values), values, 0.0) / step)
    if np.any(np.abs(units) > _FARTHEST):
        raise PrivacyError(f"a value lies beyond 2^62 lattice steps of {step}: clip before rounding")
    return units.astype(np.int64)


def step_below(value: float) -> float:
    """Return the largest power of two at most `value` (positive and finite)."""
    if not (math.isfinite(value) and value > 0):
        raise PrivacyError(f"a lattice step is sought below {value}: it must be positive and finite")
    return math.ldexp(1.0, math.frexp(value)[1] - 1)


def _clean(rows: Floats, radius: float) -> tuple[Floats, Floats]:
    """Zero the rows that are not finite; return them with each row's largest magnitude, 1 for a zero row."""
    if not (math.isfinite(radius) and radius >= _SMALLEST_RADIUS):
        raise PrivacyError(f"the clip radius is {radius}: it must be positive and finite")
    if rows.ndim != 2 or rows.shape[1] > _LONGEST:
        raise PrivacyError(f"rows to clip must form a matrix of at most 2^20 columns, not {rows.shape}")
    finite = np.isfinite(rows).all(axis=1, keepdims=True)
    clean = np.where(finite, rows, 0.0).astype(np.float64)
    largest = np.abs(clean).max(axis=1, keepdims=True, initial=0.0)
    # Scaling by a power of two is exact, also for denormals; the squares can then neither overflow nor vanish together.
    exponent = np.frexp(largest)[1]
    return clean, np.where(largest > 0, np.ldexp(1.0, np.clip(exponent, -1021, 1023)), 1.0)


def _sum(rows: Floats) -> Floats:
    """Sum each row, columns first to last: the order does not depend on how many rows there are."""
    total = np.zeros((len(rows), 1))
    for j in range(rows.shape[1]):
        total[:, 0] += rows[:, j]
    return total


def _shrink(clean: Floats, scaled: Floats, largest: Floats, norm: Floats, radius: float) -> Floats:
    """Return `clean` where the norm, `norm * largest`, is safely within `radius`; else `scaled` brought there."""
    safe = np.where(norm > 0, norm, 1.0)
    with np.errstate(over="ignore"):  # of a tiny row the quotient is infinite, and the row inside, as it should be
        inside = norm <= radius * _MARGIN / largest
    return np.where(inside, clean, scaled * (radius * _MARGIN / safe))
