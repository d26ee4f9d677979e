"""Exact laws to test samplers against, and the chi-square test that does it."""

from collections.abc import Callable

import mpmath
import numpy as np
from numpy.typing import NDArray
from scipy import stats


def gaussian_pmf(sigma: float) -> Callable[[int], mpmath.mpf]:
    """The discrete Gaussian's probabilities, normalised by summing in high precision."""
    reach = int(sigma * 30) + 30
    total = mpmath.fsum(
        mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * mpmath.mpf(sigma) ** 2)) for x in range(-reach, reach + 1)
    )
    return lambda x: mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * mpmath.mpf(sigma) ** 2)) / total


def laplace_pmf(scale: float) -> Callable[[int], mpmath.mpf]:
    """The discrete Laplace's probabilities, in closed form."""
    decay = mpmath.exp(-1 / mpmath.mpf(scale))
    return lambda x: (1 - decay) / (1 + decay) * decay ** abs(int(x))


def p_value(draws: NDArray[np.int64], pmf: Callable[[int], mpmath.mpf]) -> float:
    """Chi-square p-value of integer draws against a law, tails pooled so that every cell expects at least 10."""
    n = len(draws)
    low = 0
    while n * sum(float(pmf(x)) for x in range(low - 1, low - 40, -1)) > 20:
        low -= 1
    high = -low
    inner = np.array([float(pmf(x)) for x in range(low, high + 1)])
    counts = np.array([np.count_nonzero(draws == x) for x in range(low, high + 1)])
    tail = (1 - inner.sum()) / 2
    expected = np.array([tail, *inner, tail]) * n
    observed = np.array([np.count_nonzero(draws < low), *counts, np.count_nonzero(draws > high)])
    wide = expected >= 10
    merged_expected = np.array([*expected[wide], expected[~wide].sum() + 1e-12])
    merged_observed = np.array([*observed[wide], observed[~wide].sum()])
    used = merged_expected > 1e-3
    statistic = float(((merged_observed - merged_expected)[used] ** 2 / merged_expected[used]).sum())
    return float(stats.chi2.sf(statistic, int(used.sum()) - 1))
