r"""What one record adds to a private sum: a vector of integers whose norm is bounded by a check in integers.

The sensitivity of every query of the moments rests on one fact about real vectors,

    ‖a − b‖² = ‖a‖² + ‖b‖² − 2⟨a, b⟩ ≤ ‖a‖² + ‖b‖²   whenever ⟨a, b⟩ ≥ 0,

so two contributions of norm at most B with a non-negative inner product are at most √2·B apart, not 2·B. It holds
here for

- *sums of non-negative vectors* (pixels, or a row's entries): every product of coordinates is ≥ 0;
- *outer products* p·pᵀ in the Frobenius inner product: ⟨p·pᵀ, q·qᵀ⟩ = ⟨p, q⟩² ≥ 0 whatever the signs of p and q (so
  centring does no harm), and ‖p·pᵀ‖ = ‖p‖²;
- *energies*, sums of squares by band: non-negative, and their 2-norm is at most their 1-norm ‖p‖².

A unit with at most m records adds m such contributions to the concatenation over classes; any two contributions of
that concatenation still have a non-negative inner product (0 for different classes), so a unit's contribution has norm
at most m·B and two of them are at most √2·m·B apart; replaced by nothing, m·B.

*Counted vectors* are another matter. For the centres of a mixture a record adds its whitened vector v, of any sign and
‖v‖ ≤ R, with a count w to the block of its class and its component, both functions of that record and of earlier
answers. Two records in one block are (v − v', 0) apart, which may be **2·R** for opposite vectors, not √2·R. In two
blocks they are √(‖v‖² + w² + ‖v'‖² + w²) ≤ √2·√(R² + w²) apart, and one is at most √(R² + w²) long. With w ≤ R all of
it holds for B = √2·R: two are at most √2·B = 2·R apart, and one is at most B long. The m records of a unit are paired
with the m that replace them, or with nothing: m·2·R apart, and m·√(R² + w²) for zero-out.

*Outer products of counted vectors* are outer products like any other. For the covariances of a mixture a record adds
p·pᵀ of p = (v, w), ‖v‖ ≤ R, to the block of its class and its component; ‖p·pᵀ‖ = ‖v‖² + w² ≤ R² + w² = B, and inner
products are ⟨p, q⟩² ≥ 0 in one block and 0 in two. That v is a distance from the component's centre, which comes from
earlier answers, and that the block is a function of the record alone, change nothing in it.

Rounding costs nothing: real vectors are rounded *towards zero* to the lattice, which never lengthens them and keeps
non-negative ones non-negative, and the bound is then checked on the integers themselves. Whatever a record holds, and
whatever floating point did to it on the way, its contribution is an integer vector inside the bound or the zero vector.
"""

import numpy as np
from numpy.typing import NDArray

from cadp.errors import PrivacyError

EXACT_FLOAT = 1 << 53
EXACT_INTEGER = 1 << 62
_TINY = 1e-150


def lattice_rows(rows: NDArray[np.float64], bound: int, step: float) -> NDArray[np.float64]:
    """Clip every row to radius `bound·step` and round it towards zero to multiples of `step`.

    Args:
        rows: `(n, d)` float64; a row with NaN or ±Inf becomes zero.
        bound: the largest norm, in steps.
        step: the lattice step, a power of two.

    Returns:
        `(n, d)` float64 *integers* in units of `step`, each row's squared norm at most `bound²`, checked in integers.
    """
    safe = np.where(np.isfinite(rows).all(axis=1, keepdims=True), rows, 0.0)
    # Divided by its largest entry first: the squares of 1e200 overflow and those of 1e-200 vanish.
    largest = np.maximum(np.abs(safe).max(axis=1, initial=0.0), _TINY)
    norm = np.sqrt(np.square(safe / largest[:, None]).sum(axis=1))
    shrink = np.minimum(1.0, bound * step / largest / np.maximum(norm, _TINY))
    steps = np.trunc(safe * shrink[:, None] / step)
    inside = np.square(steps).sum(axis=1)
    if bound**2 >= EXACT_FLOAT // 4:
        raise PrivacyError(f"clip bound of {bound} lattice steps: its square must stay below 2^51 to be exact")
    # Rounding may leave a row of the very largest norm a hair outside: it is pulled in, then checked once more.
    outside = inside > bound**2
    steps[outside] = np.trunc(steps[outside] * (1 - 1e-9))
    steps[np.square(steps).sum(axis=1) > bound**2] = 0.0
    return np.asarray(steps, dtype=np.float64)


def class_sums(steps: NDArray[np.float64], labels: NDArray[np.int64], classes: int, bound: int) -> NDArray[np.int64]:
    """Sum integer rows by class: `(classes, d)` int64, exact.

    A product of integers by BLAS is exact, in any order, while no partial sum can reach 2^53: that is checked.
    """
    _exact(len(steps) * bound)
    return (_one_hot(labels, classes).T @ steps).astype(np.int64)


def counted(steps: NDArray[np.float64], valid: NDArray[np.bool_], count: int) -> NDArray[np.float64]:
    """Integer rows with one more column: `count` for a valid record and 0 for another, whose row is zero anyway."""
    return np.concatenate([steps, np.where(valid, float(count), 0.0)[:, None]], axis=1)


def outer_sum(steps: NDArray[np.float64], bound: int) -> NDArray[np.int64]:
    """The sum of the rows' outer products: `(d, d)` int64, exact (no partial sum can reach 2^53)."""
    _exact(len(steps) * bound**2)
    return (steps.T @ steps).astype(np.int64)


def class_outer_sums(
    steps: NDArray[np.float64], labels: NDArray[np.int64], classes: int, bound: int
) -> NDArray[np.int64]:
    """`outer_sum` of every class's rows: `(classes, d, d)` int64."""
    return np.stack([outer_sum(steps[labels == label], bound) for label in range(classes)])


def class_energies(
    steps: NDArray[np.float64],
    labels: NDArray[np.int64],
    classes: int,
    *,
    band_of: NDArray[np.int64],
    bands: int,
    bound: int,
) -> NDArray[np.int64]:
    """The rows' squares summed by class and by band of their coordinates: `(classes, bands)` int64, exact."""
    _exact(len(steps) * bound**2)
    by_band = np.square(steps) @ _one_hot(band_of, bands)
    return (_one_hot(labels, classes).T @ by_band).astype(np.int64)


def check_total(records: int, largest: int) -> None:
    """Refuse a data set whose integer sums could overflow: `records` contributions of entries up to `largest`."""
    if records * largest >= EXACT_INTEGER:
        raise PrivacyError(
            f"{records} records of up to {largest} lattice units could overflow 64-bit sums: use a coarser lattice step"
        )


def _exact(largest: int) -> None:
    if largest >= EXACT_FLOAT:
        raise PrivacyError(f"a batch sum of up to {largest} is not exact in float64 (2^53): use smaller batches")


def _one_hot(index: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    hot = np.zeros((len(index), size))
    hot[np.arange(len(index)), index] = 1.0
    return hot
