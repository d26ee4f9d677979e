"""The bounds against other formulas, published figures, and the law of what they bound."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from cadp.errors import PrivacyError
from cadp.privacy.audit.bounds import (
    one_run_bound,
    one_run_ceiling,
    one_run_p_value,
    rate_at_least,
    rate_at_most,
    two_record_bound,
    two_record_ceiling,
)


@pytest.mark.parametrize("trials", [1, 2, 17, 400])
@pytest.mark.parametrize("alpha", [0.2, 0.025, 1e-4])
def test_rates_are_clopper_and_pearsons(trials: int, alpha: float) -> None:
    for successes in {0, 1, trials // 3, trials - 1, trials}:
        interval = stats.binomtest(successes, trials).proportion_ci(1 - 2 * alpha, method="exact")
        assert rate_at_least(successes, trials, alpha) == pytest.approx(interval.low, abs=1e-12)
        assert rate_at_most(successes, trials, alpha) == pytest.approx(interval.high, abs=1e-12)


def exact_tail(successes: int, trials: int, rate: Fraction) -> Fraction:
    """P[Binomial >= successes], in rationals."""
    terms = range(successes, trials + 1)
    return sum((math.comb(trials, i) * rate**i * (1 - rate) ** (trials - i) for i in terms), Fraction(0))


def test_a_rate_is_missed_at_most_as_often_as_stated() -> None:
    # By the whole binomial law, not by simulation: the chance that the lower bound exceeds the true rate.
    for trials in (5, 30):
        for alpha in (0.1, 0.01):
            bounds = [rate_at_least(s, trials, alpha) for s in range(trials + 1)]
            for rate in (Fraction(1, 20), Fraction(1, 3), Fraction(9, 10)):
                wrong = [s for s, low in enumerate(bounds) if low > rate]
                assert (exact_tail(min(wrong), trials, rate) if wrong else 0) <= alpha
                mirrored = [s for s in range(trials + 1) if rate_at_most(s, trials, alpha) < 1 - rate]
                assert (exact_tail(trials - max(mirrored), trials, rate) if mirrored else 0) <= alpha


def test_the_ceiling_of_five_thousand_trials() -> None:
    assert two_record_ceiling(5000) == pytest.approx(7.2, abs=0.05)
    assert two_record_ceiling(10_000) == pytest.approx(7.9, abs=0.05)
    assert two_record_bound(4999, 1, 5000, delta=0.0, alpha=0.05) < two_record_ceiling(5000)
    assert two_record_bound(5000, 0, 5000, delta=0.5, alpha=0.05) == pytest.approx(7.2 - math.log(2), abs=0.05)
    assert two_record_bound(20, 20, 5000, delta=0.0, alpha=0.05) == 0
    assert two_record_bound(5, 0, 5000, delta=0.1, alpha=0.05) == 0


@pytest.mark.parametrize(
    ("counts", "delta", "published"),
    [((1000, 100, 75), 1e-4, 0.673), ((100_000, 1510, 1439), 1e-5, 2.675)],
    ids=["appendix-d", "section-7"],
)
def test_the_one_run_bound_gives_the_papers_figures(
    counts: tuple[int, int, int], delta: float, published: float
) -> None:
    # The paper rounds the first and cuts the second off.
    assert one_run_bound(*counts, delta=delta, alpha=0.05) == pytest.approx(published, abs=1e-3)


def test_the_one_run_p_value_by_brute_force() -> None:
    m, r, delta, epsilon = 30, 12, 0.01, 0.7
    q = Fraction(math.exp(epsilon)) / (1 + Fraction(math.exp(epsilon)))
    law = [math.comb(r, i) * q**i * (1 - q) ** (r - i) for i in range(r + 1)]
    for right in range(r + 1):
        steps = [sum(law[right - i : right]) / i for i in range(1, right + 1)]
        expected = float(sum(law[right:]) + 2 * m * Fraction(delta) * max(steps, default=0))
        assert one_run_p_value(m, r, right, epsilon=epsilon, delta=delta) == pytest.approx(min(1, expected), rel=1e-9)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 3.0])
def test_one_run_refutes_randomized_response_at_most_as_often_as_stated(epsilon: float) -> None:
    # Randomized response attains the bound: each guess is right with probability e^ε/(1 + e^ε). Again the whole law.
    r, alpha = 200, 0.01
    q = 1 / (1 + math.exp(-epsilon))
    refuted = [v for v in range(r + 1) if one_run_bound(r, r, v, delta=0.0, alpha=alpha) > epsilon + 1e-9]
    chance = stats.binom.sf(min(refuted) - 1, r, q)
    assert chance <= alpha * (1 + 1e-9)
    assert chance > alpha / 10  # and the bound is not idle


def test_one_run_with_delta_holds_where_a_delta_share_is_revealed() -> None:
    # (0, δ)-DP: each record's bit is published with probability δ, and nothing else. All revealed bits are guessed
    # first; the number of right guesses is then R + Binomial(r − R, 1/2) with R revealed.
    m, r, delta, alpha = 100, 40, 0.002, 0.05
    refuted = min(v for v in range(r + 1) if one_run_bound(m, r, v, delta=delta, alpha=alpha) > 0)
    revealed = stats.binom.pmf(np.arange(r + 1), m, delta)
    chance = sum(p * stats.binom.sf(refuted - n - 1, r - n, 0.5) for n, p in enumerate(revealed))
    assert chance + stats.binom.sf(r, m, delta) <= alpha
    assert one_run_bound(m, r, refuted, delta=0.0, alpha=alpha) > one_run_bound(m, r, refuted, delta=delta, alpha=alpha)


def test_the_one_run_ceiling_grows_with_the_guesses() -> None:
    assert one_run_ceiling(5000, 5000) > one_run_ceiling(5000, 500) > one_run_ceiling(5000, 5) > 0
    assert one_run_bound(5000, 1000, 1000, delta=0.0, alpha=0.05) == one_run_ceiling(5000, 1000)


def test_impossible_counts_are_refused() -> None:
    for call in (
        lambda: rate_at_least(3, 2, 0.1),
        lambda: rate_at_most(0, 0, 0.1),
        lambda: rate_at_most(0, 2, 0.0),
        lambda: two_record_bound(1, 1, 2, delta=-0.1, alpha=0.1),
        lambda: one_run_p_value(5, 6, 1, epsilon=1.0, delta=0.0),
        lambda: one_run_p_value(5, 5, 1, epsilon=math.nan, delta=0.0),
        lambda: one_run_bound(5, 5, 1, delta=1.0, alpha=0.1),
        lambda: one_run_bound(5, 5, 1, delta=0.0, alpha=1.0),
    ):
        with pytest.raises(PrivacyError):
            call()
