"""Float64 answers only where it rounds up to what multiple precision does; nothing is rounded down."""

import math
from fractions import Fraction

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadp.privacy import divergences
from cadp.privacy.accountant import ORDERS
from cadp.privacy.events import GaussianEvent, PureEvent

EPSILONS = st.one_of(st.floats(1e-12, 30), st.floats(-12, 2.9).map(lambda x: 10.0**x), st.integers(1, 30))


@given(EPSILONS, st.one_of(st.integers(1, 50), st.integers(1, 10**7)))
@settings(max_examples=200, deadline=None)
def test_float64_never_differs_from_multiple_precision(epsilon: float, count: int) -> None:
    event = PureEvent(epsilon, count)
    for order, found in zip(ORDERS[:-1], divergences._near(event.epsilon, count, ORDERS[:-1]), strict=True):
        assert found is None or found == divergences._exact(event, order)


def test_float64_says_when_it_cannot_tell() -> None:
    # A divergence that is a whole number of micro-nats to 30 digits: only what is not float64 sees the rest.
    with mpmath.workdps(50):
        for micro in (3, 700_000, 5_000_000):

            def excess(e: mpmath.mpf, micro: int = micro) -> mpmath.mpf:
                return mpmath.log((mpmath.exp(2 * e) + mpmath.exp(-e)) / (1 + mpmath.exp(e))) * 10**6 - micro

            epsilon = float(mpmath.findroot(excess, (1e-9, 20), solver="anderson"))
            assert list(divergences._near(epsilon, 1, (2.0,))) == [None]
            truth = excess(mpmath.mpf(repr(epsilon))) + micro
            (charged,) = divergences.pure(PureEvent(epsilon), (2.0,))
            assert truth <= charged < truth + 1.001


@pytest.mark.parametrize("count", [1, 7, 10**9])
@pytest.mark.parametrize("mu", [5e-324, 1e-9, 0.1, 0.5, 3.0, 1e150])
def test_gaussians_are_rounded_up_once(mu: float, count: int) -> None:
    for order, charged in zip(ORDERS, divergences.gaussian(GaussianEvent(mu, count), ORDERS), strict=True):
        if math.isinf(order):
            assert charged is None
        else:
            assert charged == math.ceil(Fraction(repr(mu)) ** 2 * count * Fraction(order) / 2 * 10**6)
