"""Exact rationals and real numbers of any precision: where privacy is decided, float64 does not have the last word."""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import mpmath

from cadp.errors import PrivacyError

_local = threading.local()


@contextmanager
def reals(bits: int) -> Iterator[Any]:
    """Yield an mpmath context of `bits` bits that belongs to this thread.

    `mpmath.mp` is one object for the whole process, so a thread that lowers its precision lowers everyone's.
    """
    context = getattr(_local, "context", None)
    if context is None:
        context = _local.context = mpmath.MPContext()
    with context.workprec(bits):
        yield context


def decimal(value: float, what: str = "number") -> Fraction:
    """Return the decimal that `value` prints as, exactly: `0.1` is 1/10, not the nearest binary fraction.

    Events and limits live in JSON, where a number *is* its decimal, so this is the value that is charged; a mechanism
    proves its loss against the same decimal.

    Raises:
        PrivacyError: NaN, infinite or negative.
    """
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise PrivacyError(f"{what} is {value}: it must be a finite number >= 0")
    return Fraction(repr(number))


def float_up(value: Fraction) -> float:
    """Return a float whose decimal is at least `value`, and at most a few ulps above it."""
    candidate = float(value)
    while decimal(candidate) < value:
        candidate = math.nextafter(candidate, math.inf)
    return candidate


def float_down(value: Fraction) -> float:
    """Return a float whose decimal is at most `value` (`value >= 0`), and at most a few ulps below it."""
    candidate = float(value)
    while decimal(candidate) > value:
        candidate = math.nextafter(candidate, 0.0)
    return candidate


def binary_up(value: Fraction) -> float:
    """Return the least float whose exact binary value is at least `value`: for scales of noise, which are binary."""
    candidate = float(value)
    return candidate if Fraction(candidate) >= value else math.nextafter(candidate, math.inf)


def fraction_of(real: Any) -> Fraction:  # noqa: ANN401 (mpmath has no types)
    """Return an mpmath real as the dyadic rational that it is."""
    sign, mantissa, exponent, _ = real._mpf_
    value = Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
    return -value if sign else value
