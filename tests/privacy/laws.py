"""Exact laws to test samplers against, and the chi-square tests that do it."""

from collections.abc import Callable
from functools import lru_cache

import mpmath
import numpy as np
from numpy.typing import NDArray
from scipy import stats


@lru_cache
def gaussian_pmf(sigma: float) -> Callable[[int], mpmath.mpf]:
    """The discrete Gaussian's probabilities, normalised by summing in high precision."""
    reach = int(sigma * 30) + 30
    total = mpmath.fsum(
        mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * mpmath.mpf(sigma) ** 2)) for x in range(-reach, reach + 1)
    )
    return lru_cache(None)(lambda x: mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * mpmath.mpf(sigma) ** 2)) / total)


@lru_cache
def laplace_pmf(scale: float) -> Callable[[int], mpmath.mpf]:
    """The discrete Laplace's probabilities, in closed form."""
    decay = mpmath.exp(-1 / mpmath.mpf(scale))
    return lru_cache(None)(lambda x: (1 - decay) / (1 + decay) * decay ** abs(int(x)))


def p_value(draws: NDArray[np.int64], pmf: Callable[[int], mpmath.mpf]) -> float:
    """Chi-square p-value of integer draws against a law, tails pooled so that every cell expects at least 10."""
    n = len(draws)
    low = 0
    while n * sum(float(pmf(x)) for x in range(low - 1, low - 40, -1)) > 20:
        low -= 1
    inner = np.array([float(pmf(x)) for x in range(low, -low + 1)])
    counts = np.bincount(np.clip(draws, low - 1, -low + 1) - (low - 1), minlength=len(inner) + 2)
    tail = (1 - inner.sum()) / 2
    expected = np.array([tail, *inner, tail]) * n
    wide = expected >= 10
    return _chi_square(
        np.array([*counts[wide], counts[~wide].sum()]), np.array([*expected[wide], expected[~wide].sum() + 1e-12])
    )


def wide_p_value(
    draws: NDArray[np.int64], scale: float, cdf: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> float:
    """Chi-square p-value of draws of a wide law, by cells of a 13th of its scale.

    Args:
        draws: integers.
        scale: the law's.
        cdf: P(X < x + 1/2) of half-integers.
    """
    edges = np.unique(np.rint(scale * np.arange(-60, 61) / 13))
    counts = np.diff(np.concatenate([[0], np.searchsorted(np.sort(draws), edges, side="right"), [len(draws)]]))
    shares = np.diff(np.concatenate([[0.0], cdf(edges + 0.5), [1.0]]))
    return _chi_square(counts, shares * len(draws))


def discrete_laplace_cdf(scale: float) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """P(X < x) at half-integers x: decay^(|x|+1/2) / (1 + decay) beyond the side of 0."""

    def cdf(x: NDArray[np.float64]) -> NDArray[np.float64]:
        tail = np.exp(-(np.abs(x) + 0.5) / scale) / (1 + np.exp(-1 / scale))
        return np.where(x < 0, tail, 1 - tail)

    return cdf


def _chi_square(observed: NDArray[np.int64], expected: NDArray[np.float64]) -> float:
    used = expected > 1e-3
    statistic = float(((observed - expected)[used] ** 2 / expected[used]).sum())
    return float(stats.chi2.sf(statistic, int(used.sum()) - 1))
