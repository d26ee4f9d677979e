"""The sampled Gaussian, DP-SGD's step: which pair of laws is the worst, and its Rényi divergence, rounded up.

A step draws every unit independently with probability q, sums the contributions of those drawn, each of norm at most C,
and adds N(0, σ²I). What is released is the sum alone; λ = C/σ.

**The worst pair, replace-one.** Two neighbours give one unit the contributions u and v, |u|, |v| ≤ C. Given the coins
of all others, which are of the same law for both, and moved by the others' sum, the step is

    P_u = (1−q)·N(0) + q·N(u)    against    P_v = (1−q)·N(0) + q·N(v),

and the coins are averaged away by joint convexity. Claim: (P_C, P_−C) on the line dominates (P_u, P_v), that is, no
hockey-stick divergence H_γ(P, Q) = ∫(P − γQ)₊ is larger. It is enough to show it for γ ≥ 1: for γ < 1 exchange the two
laws (H_γ(P, Q) = 1 − γ + γ·H_{1/γ}(Q, P)), and (P_C, P_−C) exchanged is its own mirror image.
 1. Balle, Barthe, Gaboardi (2018, Thm 2): H_γ(P_u, P_v) = q·H_γ'(N(u), (1−β)·N(0) + β·N(v)), with γ' = 1 + (γ−1)/q
    and β = γ/γ'. Moved by −u: N(0) against Σ βᵢ·N(wᵢ), where |w₁| = |u| ≤ C and |w₂| = |v − u| ≤ 2C.
 2. That is E[(1 − γ'·L)₊] with L = Σ βᵢ·exp(Gᵢ − Var Gᵢ/2) and Gᵢ = ⟨wᵢ, x⟩/σ², x ~ N(0, σ²I), a convex function of L.
    Kahane's inequality (1985): it can only grow when every covariance ⟨wᵢ, wⱼ⟩/σ² does. These are at most what
    multiples C and 2C of one unit vector have, by Cauchy–Schwarz, and those are u = C, v = −C.
Dominating pairs compose adaptively (Zhu, Dong, Wang 2022, Thm 10), and Rényi divergence is a mixture of H_γ.

**Zero-out.** The null law is the contribution 0: the pair is P_u against N(0), and by the same argument u = C is the
worst. The neighbours stand in either order, so the larger of the two divergences counts.

**Discrete noise** on a lattice of step g in k dimensions: each probability of the discrete Gaussian of variance σ² is,
up to a factor e^{±k·10⁻¹³⁶}, that of the continuous one of variance σ² − τ² followed by a rounding that draws from the
discrete Gaussian of width τ = 4g around what it got (Peikert 2010, Thm 3.1: the weights ρ_τ(gℤᵏ − y) are equal up to
1 ± 3e^{−2π²τ²/g²} in each coordinate). Rounding is post-processing, and the factor is far below the units in which
losses are rounded up. So an event about discrete noise holds `smoothed(σ, g)` in the place of σ.
"""

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cadp.errors import PrivacyError
from cadp.privacy.events import RELATION
from cadp.privacy.precision import decimal

Floats = NDArray[np.float64]

SMOOTHING = 4  # lattice steps of the noise that pay for its being discrete
_UNIT = 2.0**-53
_QUADRATURE = 42.0  # the quadrature's relative error is below e^-42
_TAILS = 100  # and what it leaves out below 4·e^-50
_MOST_POINTS = 1 << 21
# Rounding of what is not counted term by term: exp, the sum, the last logarithm; quadrature and tails are far below.
_SLACK = 2.0**-48


def smoothed(sigma: float, step: float) -> float:
    """Return √(σ² − (4g)²), rounded down: the continuous noise that stands for discrete noise σ on a lattice of step g.

    Raises:
        PrivacyError: σ is not above 4g, or the step is not positive.
    """
    wide, fine = decimal(sigma, "sigma"), decimal(step, "the lattice step")
    rest = wide**2 - (SMOOTHING * fine) ** 2
    if rest <= 0 or fine == 0:
        raise PrivacyError(f"noise of {sigma} on a lattice of step {step}: take a step below a {SMOOTHING}th of it")
    shift = max(0, 60 - (rest.numerator.bit_length() - rest.denominator.bit_length()) // 2)
    root = float(Fraction(math.isqrt(math.floor(rest * 4**shift)), 2**shift))
    while decimal(root) ** 2 > rest:
        root = math.nextafter(root, 0.0)
    return root


@lru_cache(maxsize=65536)
def step_divergence(sampling_rate: float, noise_multiplier: float, order: float, relation: str) -> Fraction:
    """Return an upper bound, in nats, on the Rényi divergence of one step's worst pair at a finite order > 1.

    ln(∫ P^α·Q^{1−α}) / (α − 1) by the trapezoid rule; see `_log_moment`. Never above what the step costs if every unit
    is in every sample, α·(2λ)²/2, or α·λ²/2 under zero-out.
    """
    size = (2 if relation == RELATION else 1) / decimal(noise_multiplier)
    unsampled = Fraction(order) * size**2 / 2
    if sampling_rate == 1 or not 2.0**-500 < noise_multiplier < 2.0**500:
        return unsampled
    pairs = ((1, -1),) if relation == RELATION else ((1, 0), (0, 1))
    logs = [_log_moment(sampling_rate, 1 / noise_multiplier, order, *pair) for pair in pairs]
    if None in logs:
        return unsampled
    sampled = max(Fraction(log) for log in logs if log is not None) / (Fraction(order) - 1)
    return min(unsampled, sampled)


def _log_moment(q: float, lam: float, order: float, a: int, b: int) -> float | None:
    """Return an upper bound on ln ∫ P^α·Q^{1−α}, P = (1−q)N(0)+qN(aλ), Q = (1−q)N(0)+qN(bλ), or None if it is too dear.

    With t in units of σ the integrand is φ(t)·p(t)^α·r(t)^{1−α}, p = 1−q + q·e^{aλt − a²λ²/2} and r likewise with b. It
    is analytic where |Im t| < π/λ, and at height y at most e^{y²/2}·cos(λy/2)^{1−α} times its value on the line
    (|A + Be^{iθ}| ≥ (A + B)·cos(θ/2)). So the trapezoid rule of step h errs, relatively, by at most
    2·e^{y²/2}·cos(λy/2)^{1−α} / (e^{2πy/h} − 1) (Trefethen, Weideman 2014, Thm 5.1).

    The ends: p ≤ e^{λ|t|} and, by Jensen, r^{1−α} ≤ e^{(α−1)(λ|t| + λ²/2)}, so beyond R the rest is a Gaussian tail
    around m = (2α−1)λ; R = m + √(m² + αλ² + 100) leaves less than 4·e^{−50}, and the integral is at least 1.
    """
    y = np.linspace(0.02, 1.0, 50) * min(14.0, 3.1 / lam)
    reach = 2 * math.pi * y / (y * y / 2 - (order - 1) * np.log(np.cos(lam * y / 2)) + _QUADRATURE + 1)
    h = 2.0 ** math.floor(math.log2(float(reach.max())))  # a power of two: the points are exact
    m = (2 * order - 1) * lam
    half = (m + math.sqrt(m * m + order * lam * lam + _TAILS)) / h + 2
    if 2 * half > _MOST_POINTS:
        return None
    t = h * np.arange(-math.ceil(half), math.ceil(half) + 1, dtype=np.float64)
    log_p, err_p = _log_mixture(q, lam, a, t)
    log_r, err_r = _log_mixture(q, lam, b, t)
    terms = -t * t / 2 + order * log_p - (order - 1) * log_r
    # Every term is raised by all that its own arithmetic, and the rounding of q and λ to floats, can have cost it.
    size = t * t + order * (np.abs(log_p) + err_p) + (order - 1) * (np.abs(log_r) + err_r)
    terms += 4 * _UNIT * size
    top = float(terms.max())
    return max(
        0.0, top + math.log(h / math.sqrt(2 * math.pi) * math.fsum(np.exp(terms - top))) + _SLACK * (1 + abs(top))
    )


def _log_mixture(q: float, lam: float, c: int, t: Floats) -> tuple[Floats, Floats]:
    """Return ln(1−q + q·e^{cλt − c²λ²/2}) and its error in units of 2⁻⁵³, that of q, λ and arithmetic."""
    if c == 0:
        return np.zeros_like(t), np.zeros_like(t)
    shift = c * lam * t - lam * lam / 2
    inside = math.log(q) + shift
    mixture = np.logaddexp(math.log1p(-q), inside)
    share = np.exp(inside - mixture)  # of the mixture that moves with q and λ; the rest is 1 − q
    moved = 8 + 8 * np.abs(shift) + 8 * lam * lam + 4 * abs(math.log(q))
    return mixture, share * moved + 8 * (1 + q / (1 - q)) + 4 * np.abs(mixture)
