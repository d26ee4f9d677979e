"""Noise with exactly the law it claims, from the operating system's CSPRNG, on arrays.

Discrete Gaussian (Canonne, Kamath, Steinke 2020) and discrete Laplace, both as one rejection sampler. Write the law
on the integers as P(x) ∝ exp(−φ(|x|)), φ(m) = a·m² + b·m with rational a, b ≥ 0 (Gaussian: a = 1/2σ²; Laplace:
b = 1/scale) and cut the magnitudes m ≥ 0 into strips of width w = 2^j:

    strip v with probability ∝ exp(−φ(v·w));  offset W uniform on {0 … w−1};  sign fair;
    accept m = v·w + W with probability exp(−γ), γ = φ(v·w + W) − φ(v·w) = W·(a·(2·v·w + W) + b);  reject "−0".

The product of the weights is exp(−φ(m)) / (2w·Z), so the accepted law is the target exactly; every comparison behind a
choice is exact too (`strips`).
"""

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from cadp.errors import PrivacyError
from cadp.privacy.bits import random_bits64
from cadp.privacy.strips import Strips, below_exp, exactly_below, strip_of, strips

__all__ = [
    "NORMAL_ERROR",
    "NORMAL_FAILURE",
    "bernoulli_exact",
    "discrete_gaussian",
    "discrete_laplace",
    "normal_columns",
    "random_bits64",
    "standard_normal",
    "uniform_below",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Size = int | tuple[int, ...]

_CHUNK = 1 << 15  # draws at a time: the temporaries stay in the second-level cache
_LANES = 16  # columns are made in multiples of it: no vector unit holds more float64
_LARGEST = 2.0**40  # of σ and of scale: beyond it magnitudes would leave the integers that float64 holds exactly


def discrete_gaussian(sigma: float | Fraction, size: Size) -> Integers:
    """Draw from the discrete Gaussian N_Z(0, σ²), P(x) ∝ exp(−x²/2σ²), exactly.

    Args:
        sigma: in lattice units, `0 < sigma <= 2^40`; a float is taken as the dyadic rational that it is.
        size: shape of the result.

    Raises:
        PrivacyError: sigma is not in that range.
    """
    scale = _positive(sigma, "sigma")
    return _draw(1 / (2 * scale * scale), Fraction(0), scale, size)


def discrete_laplace(scale: float | Fraction, size: Size) -> Integers:
    """Draw from the discrete Laplace law P(x) ∝ exp(−|x|/scale) on the integers, exactly.

    Raises:
        PrivacyError: scale is not in `0 < scale <= 2^40`.
    """
    exact = _positive(scale, "scale")
    return _draw(Fraction(0), 1 / exact, exact, size)


def bernoulli_exact(p: float | Fraction, size: Size) -> NDArray[np.bool_]:
    """Draw coins that are True with probability exactly `p` (a float is the dyadic rational that it is).

    Raises:
        PrivacyError: p is not in [0, 1].
    """
    if not 0 <= p <= 1:  # NaN fails too
        raise PrivacyError(f"a probability must lie in [0, 1], not {p}")
    exact = Fraction(p)
    prefix = random_bits64(_count(size))
    if exact == 1:
        return np.ones(size, dtype=np.bool_)
    threshold = (exact.numerator << 64) // exact.denominator  # floor(2⁶⁴·p) < 2⁶⁴
    coins: NDArray[np.bool_] = prefix < np.uint64(threshold)
    for i in np.flatnonzero(prefix == np.uint64(threshold)):  # 1 in 2⁶⁴
        coins[i] = exactly_below(exact, int(prefix[i]))
    return coins.reshape(size)


def uniform_below(bound: int, size: Size) -> Integers:
    """Draw whole numbers uniformly from {0 … bound − 1}, exactly.

    A 64-bit word modulo `bound` is uniform once the words beyond the last whole multiple of it are drawn again.

    Raises:
        PrivacyError: bound is not in [1, 2^62].
    """
    if not 1 <= bound <= 1 << 62:
        raise PrivacyError(f"a uniform number needs a bound from 1 to 2^62, not {bound}")
    most = np.uint64((1 << 64) - (1 << 64) % bound - 1)
    out = np.empty(_count(size), dtype=np.int64)
    filled = 0
    while filled < len(out):
        words = random_bits64(len(out) - filled)
        words = words[words <= most] % np.uint64(bound)
        out[filled : filled + len(words)] = words.astype(np.int64)
        filled += len(words)
    return out.reshape(size)


def standard_normal(size: Size) -> Floats:
    """Draw normals for priors, where the law need not be exact (`normal_columns` states how close). Never as noise."""
    n = _count(size)
    out = np.empty(n + n % 2)
    for start in range(0, len(out), 2 * _CHUNK):
        part = out[start : start + 2 * _CHUNK]
        part[:] = normal_columns(2, len(part) // 2).ravel()
    return out[:n].reshape(size)


def normal_columns(k: int, n: int) -> Floats:
    """Return `(k, n)` standard normals whose n columns are independent: no two share a random word.

    Box–Muller, one 64-bit word per value, both values of a pair in one column. Its law enters one proof (PrivUnit),
    through this bound: the draws X̂ live on one probability space with exact i.i.d. normals X such that
    **|X̂ − X| ≤ NORMAL_ERROR for both values of a pair, except with probability NORMAL_FAILURE per pair**. Proof: let
    U, V be the real uniforms whose first 64 bits are the words, R² = −2·ln U, and exclude U < 2⁻³⁰ and U > 1 − 2⁻³⁰
    (probability 2⁻²⁹). Then

        |Û − U| ≤ 2⁻⁶⁴ + 2⁻⁵²·U, so |R̂² − R²| ≤ 2.1·(2⁻⁶⁴/U + 2⁻⁵²): below 2⁻³² always, below 2⁻⁵⁰ for U ≥ 1/4;
        |R̂ − R| ≤ |R̂² − R²|/R with R ≥ 1.6 for U < 1/4 and R ≥ 2⁻¹⁴·⁵ elsewhere: below 2⁻³²/1.6 and 2⁻³⁵;
        R ≤ 6.5, the angle is off by < 2⁻⁴⁸, and log, sqrt, cos, sin are allowed 2⁻⁴⁶ relative: below 2⁻⁴² together.

    A column is a function of its own words alone, the same function at every place. That is more than tidiness: if the
    last bits of a value told its place among the proposals, they would tell how many a rejection sampler refused, and
    so its coin. Vector code may finish an array with other instructions, so columns come in whole vectors.
    """
    half, whole = (k + 1) // 2, -(-n // _LANES) * _LANES
    words = random_bits64(2 * half * whole).reshape(2 * half, whole).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log((words[:half] + 0.5) * 2.0**-64))
    angle = words[half:] * (2.0 * math.pi * 2.0**-64)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:k, :n]


NORMAL_ERROR = 2.0**-32
NORMAL_FAILURE = 2.0**-29


def _draw(a: Fraction, b: Fraction, scale: Fraction, size: Size) -> Integers:
    """Fill `size` with draws from P(x) ∝ exp(−a·x² − b·|x|)."""
    law = strips(a, b, math.floor(math.log2(max(float(scale), 8.0) / 8.0)))
    out = np.empty(_count(size), dtype=np.int64)
    filled = 0
    while filled < len(out):
        batch = _attempt(law, min(_CHUNK, (len(out) - filled) * 9 // 8 + 16))[: len(out) - filled]
        out[filled : filled + len(batch)] = batch
        filled += len(batch)
    return out.reshape(size)


def _attempt(law: Strips, n: int) -> Integers:
    """Make `n` proposals and return those accepted, in order."""
    strip = strip_of(law, random_bits64(n))
    # One word serves three: its lowest bit is the sign, the next ones the offset, the others begin the coin's uniform.
    words = random_bits64(n)
    sign = -(words & np.uint64(1)).view(np.int64)  # 0, or -1 for minus
    offset = (words >> np.uint64(1)).view(np.int64) & ((1 << law.log_width) - 1)
    base = strip << law.log_width
    magnitude = base + offset
    keep = magnitude >= -sign  # all but "−0"
    if law.log_width:
        spent = 1 + law.log_width
        keep &= below_exp(law, base, offset, words >> np.uint64(spent), 64 - spent)
    signed: Integers = ((magnitude ^ sign) - sign)[keep]
    return signed


def _positive(value: float | Fraction, what: str) -> Fraction:
    if not 0 < value <= _LARGEST:  # NaN fails too
        raise PrivacyError(f"{what} is {value} lattice units: it must be positive and at most 2^40")
    return Fraction(value)


def _count(size: Size) -> int:
    return size if isinstance(size, int) else math.prod(size)
