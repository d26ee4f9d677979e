"""What so many trials can say about ε with confidence: Clopper–Pearson, and the one-run bound of Steinke et al. (2023).

Both turn counts into a lower bound that exceeds the true ε with probability at most `alpha`.

*Two records.* If M is (ε, δ)-DP, every event E has P(E | x) ≤ e^ε·P(E | x') + δ, so ε ≥ ln((TPR − δ)/FPR). Both rates
are bounded by Clopper and Pearson (1934), exactly for binomial counts; each takes half of `alpha` (Bonferroni).

*One run.* m records each have an independent fair bit; r of the bits are guessed from the output of one run. If the run
is (ε, δ)-DP, the number of right guesses is v or more with probability at most

    P[B ≥ v] + 2·m·δ·max_{1 ≤ i ≤ v} P[v > B ≥ v − i]/i,      B ~ Binomial(r, e^ε/(1 + e^ε))

(Steinke, Nasr, Jagielski 2023, arXiv 2305.08846, Corollary 5.4). The bound holds for r fixed beforehand.
"""

import math

import numpy as np
from scipy import stats

from cadp.errors import PrivacyError

_MOST_EPSILON = 64.0


def rate_at_least(successes: int, trials: int, alpha: float) -> float:
    """Return the one-sided Clopper–Pearson lower bound of a rate: above it with probability at most `alpha`."""
    _check_counts(successes, trials, alpha)
    return 0.0 if successes == 0 else float(stats.beta.ppf(alpha, successes, trials - successes + 1))


def rate_at_most(successes: int, trials: int, alpha: float) -> float:
    """Return the one-sided Clopper–Pearson upper bound of a rate: below it with probability at most `alpha`."""
    _check_counts(successes, trials, alpha)
    return 1.0 if successes == trials else float(stats.beta.isf(alpha, successes + 1, trials - successes))


def two_record_bound(hits: int, false_hits: int, trials: int, *, delta: float, alpha: float) -> float:
    """Return the ε that `hits` of `trials` on one record and `false_hits` of `trials` on the other prove, at least 0.

    Args:
        hits: how often the event happened on the record that it was chosen for.
        false_hits: how often it happened on the other.
        trials: independent trials on each.
        delta: δ of the claim.
        alpha: the bound exceeds the true ε with probability at most this.

    Raises:
        PrivacyError: counts or probabilities out of range.
    """
    _check_delta(delta)
    low = rate_at_least(hits, trials, alpha / 2) - delta
    high = rate_at_most(false_hits, trials, alpha / 2)
    return max(0.0, math.log(low / high)) if low > 0 else 0.0


def two_record_ceiling(trials: int, *, delta: float = 0.0, alpha: float = 0.05) -> float:
    """Return the largest bound that so many trials can give: every hit, no false hit.

    Example:
        >>> round(two_record_ceiling(5000), 1)
        7.2
    """
    return two_record_bound(trials, 0, trials, delta=delta, alpha=alpha)


def one_run_p_value(records: int, guesses: int, right: int, *, epsilon: float, delta: float) -> float:
    """Return an upper bound on the probability of `right` or more right guesses if the run is (ε, δ)-DP.

    Raises:
        PrivacyError: not 0 <= right <= guesses <= records, or a loss out of range.
    """
    if not 0 <= right <= guesses <= records:
        raise PrivacyError(f"{right} right of {guesses} guesses on {records} records: each is at most the next")
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise PrivacyError(f"epsilon is {epsilon}: it must be finite and >= 0")
    _check_delta(delta)
    q = 1.0 / (1.0 + math.exp(-epsilon))
    tail = float(stats.binom.sf(right - 1, guesses, q))
    if delta == 0 or right == 0:
        return min(1.0, tail)
    below = np.cumsum(stats.binom.pmf(np.arange(right - 1, -1, -1), guesses, q))  # P[v > B >= v − i], i = 1 … v
    return min(1.0, tail + 2 * records * delta * float((below / np.arange(1, right + 1)).max()))


def one_run_bound(records: int, guesses: int, right: int, *, delta: float, alpha: float) -> float:
    """Return the ε that `right` of `guesses` right guesses in one run prove, at least 0.

    Args:
        records: m, how many had a secret bit.
        guesses: r, fixed before the run.
        right: v.
        delta: δ of the claim.
        alpha: the bound exceeds the true ε with probability at most this.

    Raises:
        PrivacyError: counts or probabilities out of range.
    """
    _check_alpha(alpha)

    def refuted(epsilon: float) -> bool:
        return one_run_p_value(records, guesses, right, epsilon=epsilon, delta=delta) <= alpha

    low, high = 0.0, _MOST_EPSILON
    if not refuted(0.0):
        return 0.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def one_run_ceiling(records: int, guesses: int, *, delta: float = 0.0, alpha: float = 0.05) -> float:
    """Return the largest bound that so many guesses can give: all of them right."""
    return one_run_bound(records, guesses, guesses, delta=delta, alpha=alpha)


def _check_counts(successes: int, trials: int, alpha: float) -> None:
    _check_alpha(alpha)
    if not 0 <= successes <= trials or trials < 1:
        raise PrivacyError(f"{successes} of {trials} trials: between 0 and all of at least one")


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise PrivacyError(f"alpha is {alpha}: it must lie between 0 and 1")


def _check_delta(delta: float) -> None:
    if not 0 <= delta < 1:
        raise PrivacyError(f"delta is {delta}: it must lie in [0, 1)")
