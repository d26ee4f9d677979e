"""The exact privacy curve of one continuous Gaussian: a companion figure, never what is charged."""

import math
from typing import Any

from cadp.errors import PrivacyError
from cadp.privacy.precision import decimal, float_up, fraction_of, reals

_BITS = 128


def gaussian_epsilon_exact(mu: float, delta: float) -> float:
    """Return the ε of one continuous Gaussian at δ, rounded up: the least root of Balle and Wang's (2018) curve.

    δ(ε) = Φ(μ/2 − ε/μ) − e^ε·Φ(−μ/2 − ε/μ). A figure to print beside the charged one, for one fixed plan; never summed.

    Raises:
        PrivacyError: μ or δ is NaN, infinite or negative, or δ >= 1.
    """
    size, target = decimal(mu, "mu"), decimal(delta, "delta")
    if target >= 1:
        raise PrivacyError(f"delta is {delta}: it must be below 1")
    if size == 0:
        return 0.0
    if target == 0:
        return math.inf
    with reals(_BITS) as real:
        m, goal = real.mpf(size.numerator) / size.denominator, real.mpf(target.numerator) / target.denominator

        def excess(epsilon: Any) -> Any:  # noqa: ANN401 (mpmath has no types)
            return real.ncdf(m / 2 - epsilon / m) - real.exp(epsilon) * real.ncdf(-m / 2 - epsilon / m) - goal

        low, high = real.mpf(0), m * m / 2 + m * real.sqrt(-2 * real.log(goal)) + 1  # zCDP conversion: δ is met here
        if excess(low) <= 0:
            return 0.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if excess(middle) > 0 else (low, middle)
        return float_up(fraction_of(high))
