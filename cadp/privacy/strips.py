"""Comparisons of uniforms with real numbers, exact although most of them are made in float64 or in 64-bit integers.

A uniform U ∈ [0, 1) is an infinite string of fair bits of which some, the prefix r of B bits, are drawn first: U lies
in [r, r + 1)·2⁻ᴮ. A comparison U < p is decided from r wherever r decides it beyond the error of our p; otherwise
(`_exactly…`) further bits of the *same* U are drawn and p is computed to that many bits, until it is decided. Every
comparison therefore has the answer that real arithmetic would give. B is 64, or what a word has left for a coin.

`Strips` holds what a law P(x) ∝ exp(−a·x² − b·|x|) needs (see `noise`): thresholds for the strip, γ for the coin.
"""

import bisect
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cadp.privacy.bits import random_bits64
from cadp.privacy.precision import reals

Integers = NDArray[np.int64]
Words = NDArray[np.uint64]
Answer = TypeVar("Answer")

_GUIDE_BITS = 12
# |p̂ − p| for p̂ = np.exp(−γ̂): `a` and `b` are rounded once, their sum and two products once each (the integers are exact
# below 2^53), so γ̂ = γ·(1 + θ), |θ| ≤ 5·2⁻⁵³, which moves exp(−γ) by at most γ·exp(−γ)·|θ|·(1 + tiny) < 2⁻⁵¹. np.exp is
# allowed 2⁻⁴⁶ relative (64 ulp; it documents 4). With the 2⁻⁵³ that rounding r to a float costs, 2⁻⁴⁵ in all.
_EXP_BAND = 2.0**-44
# Thresholds below are integers within 1 of 2⁶⁴·F, so r decides U < F unless it is within 1 of the threshold.
_STRIP_BAND = 1


@dataclass(frozen=True)
class Strips:
    """One law, ready to draw: exact parameters, the strips' cumulative thresholds and a guide to them."""

    a: Fraction
    b: Fraction
    log_width: int
    thresholds: Words  # floor(2⁶⁴·P(strip ≤ v)), each within 1, with a last entry that no r passes unnoticed
    guide: NDArray[np.int16]  # strip by the top bits of r; −1 where they don't decide


def strip_of(law: Strips, prefix: Words) -> Integers:
    """Return the strip v with P(strip < v) <= U < P(strip <= v) for each uniform U that begins with `prefix`."""
    strip: Integers = law.guide[prefix >> np.uint64(64 - _GUIDE_BITS)].astype(np.int64)
    open_ = np.flatnonzero(strip < 0)
    if len(open_):
        r = prefix[open_]
        found, decided = _search(law.thresholds, r)
        strip[open_] = found
        for i in open_[~decided]:
            strip[i] = _exactly_strip(law, int(prefix[i]))
    return strip


def _search(thresholds: Words, r: Words) -> tuple[Integers, NDArray[np.bool_]]:
    """Return the number of thresholds at or below r, and whether r is far enough from its neighbours to be sure."""
    index: Integers = np.searchsorted(thresholds, r, side="right").astype(np.int64)
    below = thresholds[np.maximum(index - 1, 0)]
    above = thresholds[np.minimum(index, len(thresholds) - 1)]
    band = np.uint64(_STRIP_BAND)
    near = (index > 0) & (r - below <= band) | (index < len(thresholds)) & (above - r <= band)
    return index, ~near & (index < len(thresholds))


def below_exp(law: Strips, base: Integers, offset: Integers, prefix: Words, bits: int) -> NDArray[np.bool_]:
    """Return U < exp(−γ), γ = offset·(a·(2·base + offset) + b), for each uniform U that begins with `bits` of prefix.

    U lies in [r, r + 1)·2^-bits, and is compared as r·2^-bits: beyond the band, and one unit of r, that decides it.
    """
    gamma = offset * (float(law.a) * (2 * base + offset) + float(law.b))
    p = np.exp(-gamma)
    u = prefix * 2.0**-bits
    heads: NDArray[np.bool_] = u < p
    for i in np.flatnonzero(np.abs(u - p) <= _EXP_BAND + 2.0**-bits):
        m, w = int(base[i]), int(offset[i])
        heads[i] = _exactly_below_exp(w * (law.a * (2 * m + w) + law.b), int(prefix[i]), bits)
    return heads


@lru_cache(maxsize=64)
def strips(a: Fraction, b: Fraction, log_width: int) -> Strips:
    """Build the 64-bit tables of one law."""
    cumulative = _cumulative(a, b, log_width, 64)
    thresholds = np.array([t for t in cumulative if t < 2**64 - 2] + [2**64 - 2], dtype=np.uint64)
    cells = np.arange(1 << _GUIDE_BITS, dtype=np.uint64) << np.uint64(64 - _GUIDE_BITS)
    first, first_sure = _search(thresholds, cells)
    last, last_sure = _search(thresholds, cells | np.uint64((1 << (64 - _GUIDE_BITS)) - 1))
    guide = np.where((first == last) & first_sure & last_sure, first, -1).astype(np.int16)
    return Strips(a=a, b=b, log_width=log_width, thresholds=thresholds, guide=guide)


@lru_cache(maxsize=128)
def _cumulative(a: Fraction, b: Fraction, log_width: int, bits: int) -> tuple[int, ...]:
    """Return integers within 1 of 2^bits·P(strip <= v), v = 0, 1 …, up to the strip that leaves less than 2^-bits.

    The weights are cut where they fall below 2^-(bits + 40). From there on each is at most exp(−1/16) of the one before
    (φ is convex and zero at 0, so its steps are at least its mean slope: φ(v·w)/v > 1/16 there, strips being at least a
    16th of the scale wide), so what is cut is less than 2^-(bits + 30) of the sum, which is at least 1. 64 guard bits
    keep the rest of the error below that.
    """
    with reals(bits + 64) as real:
        weights = []
        for v in range(1 << 20):
            m = v << log_width
            phi = m * (a * m + b)
            weights.append(real.exp(-real.mpf(phi.numerator) / phi.denominator))
            if weights[-1] < real.ldexp(1, -(bits + 40)):
                break
        total = real.fsum(weights)
        running, cumulative = real.mpf(0), []
        for weight in weights:
            running += weight
            cumulative.append(int(real.floor(real.ldexp(running / total, bits))))
            if cumulative[-1] >= 2**bits - 1:
                break
    return tuple(cumulative)


def _exactly_strip(law: Strips, prefix: int) -> int:
    """Draw more bits of the uniform until its strip is certain."""

    def decide(r: int, bits: int) -> int | None:
        cumulative = _cumulative(law.a, law.b, law.log_width, bits)
        v = bisect.bisect_right(cumulative, r)
        near = v == len(cumulative) or cumulative[v] - r <= 1 or (v > 0 and r - cumulative[v - 1] <= 1)
        return None if near else v

    return _extend(prefix, decide)


def _exactly_below_exp(gamma: Fraction, prefix: int, bits: int = 64) -> bool:
    """Return U < exp(−gamma) for the U that begins with `bits` of prefix, drawing more until that is certain."""
    if gamma == 0:
        return True

    def decide(r: int, bits: int) -> bool | None:
        with reals(bits + 64) as real:
            threshold = int(real.floor(real.ldexp(real.exp(-real.mpf(gamma.numerator) / gamma.denominator), bits)))
        return None if abs(r - threshold) <= 1 else r < threshold

    return _extend(prefix, decide, bits)


def exactly_below(p: Fraction, prefix: int) -> bool:
    """Return U < p for rational p, drawing more bits of U until that is certain."""

    def decide(r: int, bits: int) -> bool | None:
        threshold, rest = divmod(p.numerator << bits, p.denominator)
        return None if rest and r == threshold else r < threshold

    return _extend(prefix, decide)


def _extend(prefix: int, decide: Callable[[int, int], Answer | None], bits: int = 64) -> Answer:
    """Ask `decide(r, bits)` with ever more bits of one uniform, 64 at a time after the prefix, until it answers."""
    while (answer := decide(prefix, bits)) is None:
        prefix = prefix << 64 | int(random_bits64(1)[0])
        bits += 64
    return answer
