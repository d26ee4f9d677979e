"""How far n shuffled reports of pure loss ε₀ are from those of a neighbour: a divergence, bounded from both sides.

One unit's report has density r₀ or r₁, the others' are r₂ … r_n; all are within E = e^{ε₀} of each other. Whoever sees
the reports sees them in a uniform order, so only how many of each kind there are.

*Reduction* (Feldman, McMillan, Talwar 2021, 2023). Let p = TV(r₀, r₁)/(E − 1), so p ≤ 1/(E + 1). There are densities
q₀, q₁ with disjoint supports, proportional to (r₀ − r₁)⁺ and (r₁ − r₀)⁺, and ρ, with θ = p·(E + 1), such that

    r₀ = E·p·q₀ + p·q₁ + (1−θ)·ρ,    r₁ = p·q₀ + E·p·q₁ + (1−θ)·ρ,    r_i ≥ p·q₀ + p·q₁ + (1−θ)/E·ρ.

The first two are arithmetic; the third is r_i ≥ max(r₀, r₁)/E, which needs no more than that every report is ε₀-DP. So
each of the others is, unseen, a *clone* from q₀, q₁ or ρ at these rates or else draws from a remainder of its own, and
the shuffled reports are made from the three counts alone, in the same way for both neighbours.

*The worst p is 1/(E + 1).* Replacing one of n i.i.d. clones changes the law of the counts by their mean of π/μ (rate of
the unit over rate of a clone). Hence the hockey-stick divergence at ε is E[(W₁ + … + W_n)⁺]/n for i.i.d. W, which are

    with θ = 1:  E − e^ε  and  1 − e^ε·E,  each at rate 1/(E+1), else 0;
    with θ = 0:  E·(1 − e^ε) at rate 1/E, else 0;

and mixtures of these, with weights θ and 1 − θ, between. Their means agree, 1 − e^ε, and for ε ≤ ε₀ the second is below
the first in convex order: its E(W − t)⁺ is at most the first's at every t. (For t ≥ 0 it is 0. With equal means compare
E(t − W)⁺ for t < 0: at t = 0 the first's is more by (E − e^ε)/(E + 1) ≥ 0, at t = E − e^ε·E the second's is 0 and stays
so below, and in between both are straight.) Sums and mixtures keep that order, and x⁺ is convex. So θ = 1 dominates
*every* pure-ε₀ randomiser, PrivUnit with its two-level density included: the pair

    C ~ Bin(n−1, 2/(E+1)),  A ~ Bin(C, ½),  Δ ~ Bern(E/(E+1)):    (A+Δ, C−A+1−Δ)  against  (A+1−Δ, C−A+Δ).

Swapping the two counts swaps the pair: both directions have the same divergence. Wang et al. (2024) have the same pair,
from the total variation (E−1)/(E+1) of a pure loss. With clones of r₀ and r₁ themselves, as in 2021, only a share
e^{−ε₀} of the others hides the unit: .813 instead of .547 at n = 6,000, ε₀ = 4, δ = 1e-06. From below, counting 3-ary
responses loses .541 there, so no proof gives much less.

*Evaluation.* Given C = c, the first law is more than e^ε times the second where the first count is above κ·(c+1),
κ = (e^ε·E − 1)/((E − 1)(e^ε + 1)). With k the least such count, F = P(Bin(c, ½) ≥ k) and f = P(Bin(c, ½) = k − 1),

    D_c = (1 − e^ε)·F + (E − e^ε)/(E+1)·f ∈ [0, 1].

F and f follow from c to c + 1 by Pascal's rule. Counts c that are left out have less than 2⁻¹²⁰ of the probability on
either side: they enter the upper bound as divergence 1 and the lower bound as 0. 192 bits and a slack of 2⁻¹⁰⁰ cover
every rounding, that of κ·(c+1) to the wrong side of an integer included: such a count contributes as good as nothing.
"""

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any

from cadp.errors import PrivacyError
from cadp.privacy.precision import decimal, fraction_of, reals

# Above it E·2⁻¹⁹² times the number of steps is no longer small beside the slack; and nothing hides at such losses.
MOST_EPSILON0 = 40.0

_BITS = 192
_SLACK_BITS = 100
_TAIL_BITS = 120


@lru_cache(maxsize=4096)
def divergence(epsilon: float, epsilon0: float, n: int) -> tuple[Fraction, Fraction]:
    """Return a lower and an upper bound of the hockey-stick divergence of the pair, at e^ε.

    n reports of pure loss `epsilon0` in uniform order are (epsilon, upper)-indistinguishable from a neighbour's.

    Raises:
        PrivacyError: not `0 <= epsilon <= epsilon0`, `0 < epsilon0 <= MOST_EPSILON0` and `n >= 2`.
    """
    local, central = decimal(epsilon0, "the local epsilon"), decimal(epsilon, "epsilon")
    if not (0 < epsilon0 <= MOST_EPSILON0 and central <= local and n >= 2):
        raise PrivacyError(
            f"{n} reports of local loss {epsilon0} have no bound at epsilon {epsilon}: it takes 2 reports, a local "
            f"loss in (0, {MOST_EPSILON0:g}], and an epsilon up to that"
        )
    with reals(_BITS) as real:
        big = real.exp(real.mpf(local.numerator) / local.denominator)
        small = real.exp(real.mpf(central.numerator) / central.denominator)
        first, weights, left_out = _clones(real, n - 1, big)
        inside = real.fsum(weights)
        total = real.fsum(weight * part for weight, part in zip(weights, _parts(real, first, small, big), strict=False))
        slack = real.ldexp(1, -_SLACK_BITS)
        lower, upper = total / (inside + left_out) - slack, (total + left_out) / inside + slack
        return max(fraction_of(lower), Fraction(0)), min(fraction_of(upper), Fraction(1))


def _clones(real: Any, others: int, big: Any) -> tuple[int, list[Any], Any]:  # noqa: ANN401 (mpmath has no types)
    """Return the least number of clones that counts, weights from there on, and a bound of all weights left out.

    Weights are those of Bin(others, 2/(E+1)) relative to its mode. Away from it the ratio of neighbours only shrinks,
    so that what follows a weight w with the ratio r is at most w·r/(1 − r).
    """
    odds = 2 / (big - 1)
    mode = min(others, int(real.floor((others + 1) * 2 / (big + 1))))
    tiny = real.ldexp(1, -_TAIL_BITS)
    above, left_above = _walk(real, ((others - c) * odds / (c + 1) for c in range(mode, others)), tiny)
    below, left_below = _walk(real, (c / ((others - c + 1) * odds) for c in range(mode, 0, -1)), tiny)
    return mode - len(below), [*reversed(below), real.mpf(1), *above], left_above + left_below


def _walk(real: Any, ratios: Iterator[Any], tiny: Any) -> tuple[list[Any], Any]:  # noqa: ANN401
    """Return the products of the ratios, which shrink, until the rest is at most `tiny`; and a bound of the rest."""
    weights: list[Any] = []
    weight = real.mpf(1)
    for ratio in ratios:
        weight = weight * ratio
        rest = weight / (1 - ratio) if ratio < 1 else real.inf
        if rest < tiny:
            return weights, rest
        weights.append(weight)
    return weights, real.mpf(0)


def _parts(real: Any, first: int, small: Any, big: Any) -> Iterator[Any]:  # noqa: ANN401
    """Yield D_c for c = first, first + 1 … at e^ε = `small`, E = `big`."""
    slope = (small * big - 1) / ((big - 1) * (small + 1))
    gain, cost = (big - small) / (big + 1), small - 1
    c, k = first, min(int(real.floor(slope * (first + 1))), first) + 1
    f = real.ldexp(real.binomial(c, k - 1), -c)
    tail = _tail(real, c, k, f)
    while True:
        yield gain * f - cost * tail
        tail, f, c = tail + f / 2, f * (c + 1) / (2 * (c + 2 - k)), c + 1
        if min(int(real.floor(slope * (c + 1))), c) + 1 > k:  # κ is at most 1, so k grows by one at most
            f, k = f * (c - k + 1) / k, k + 1
            tail = tail - f


def _tail(real: Any, c: int, k: int, f: Any) -> Any:  # noqa: ANN401
    """Return P(Bin(c, ½) >= k) from f, the probability of k − 1; k is above the middle, so terms shrink."""
    terms = [real.mpf(0)]
    for j in range(k - 1, c):
        f = f * (c - j) / (j + 1)
        terms.append(f)
        if f < real.ldexp(1, -2 * _BITS):
            break
    return real.fsum(terms)
