"""Curves, caps and calibration agree with each other, with closed forms and with integrals; rounding is always up."""

import json
import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from cadp.errors import PrivacyError
from cadp.privacy import accountant, divergences
from cadp.privacy.accountant import (
    ORDERS,
    ComposedEvent,
    Curve,
    DeltaEvent,
    GaussianEvent,
    PureEvent,
    SampledGaussianEvent,
    admissible,
    calibrate_gaussian,
    cap,
    curve,
    delta_cap,
    gaussian_epsilon_exact,
)
from cadp.privacy.events import ZERO_OUT, Event
from cadp.privacy.mechanisms import plan_mechanism

EPSILONS = st.floats(0, 40)
DELTAS = st.one_of(st.just(0.0), st.floats(-14, -2).map(lambda x: 10.0**x))
EVENTS = st.lists(
    st.one_of(
        st.builds(GaussianEvent, st.floats(0, 3), st.integers(1, 5)),
        st.builds(PureEvent, st.floats(0, 5), st.integers(1, 5)),
        st.builds(DeltaEvent, st.floats(0, 1e-8), st.integers(1, 5)),
    ),
    max_size=4,
).map(lambda events: ComposedEvent(tuple(events)))


@given(EVENTS, EPSILONS, DELTAS)
@settings(max_examples=200, deadline=None)
def test_a_curve_fits_a_limit_exactly_if_its_epsilon_does(event: Event, epsilon: float, delta: float) -> None:
    spent = curve(event)
    assert admissible(spent, epsilon, delta) == (spent.epsilon(delta) <= epsilon)
    if math.isfinite(spent.epsilon(delta)):
        assert admissible(spent, spent.epsilon(delta), delta)
        assert spent.epsilon(delta) == 0 or not admissible(spent, spent.epsilon(delta) - 1e-6, delta)


@given(EVENTS, EVENTS, DELTAS, DELTAS)
@settings(max_examples=100, deadline=None)
def test_losses_grow_with_events_and_shrink_with_delta(a: Event, b: Event, delta: float, other: float) -> None:
    both = curve(a) + curve(b)
    assert both == curve(ComposedEvent((a, b))) == curve(b) + curve(a)
    assert both.epsilon(delta) >= curve(a).epsilon(delta)
    low, high = sorted((delta, other))
    assert both.epsilon(low) >= both.epsilon(high)


@given(EVENTS)
@settings(max_examples=100, deadline=None)
def test_curves_survive_json(event: Event) -> None:
    stored = json.loads(json.dumps(curve(event).to_json()))
    assert Curve.from_json(stored) == curve(event)


@given(st.floats(1e-3, 30), st.floats(-12, -3).map(lambda x: 10.0**x))
@settings(max_examples=100, deadline=None)
def test_calibration_fits_and_leaves_nothing(epsilon: float, delta: float) -> None:
    mu = calibrate_gaussian(epsilon, delta)
    assert curve(GaussianEvent(mu)).epsilon(delta) <= epsilon
    assert curve(GaussianEvent(mu * (1 + 1e-6) + 1e-2)).epsilon(delta) > epsilon
    if mu:
        assert curve(GaussianEvent(mu)).epsilon(delta) >= epsilon * (1 - 1e-3) - 2e-6


def test_calibration_without_room_gives_no_noise_level() -> None:
    assert calibrate_gaussian(4.0, 0.0) == calibrate_gaussian(0.0, 1e-6) == 0.0


@pytest.mark.parametrize(("epsilon", "delta", "kept"), [(4.0, 1e-6, 0.90), (1.0, 1e-5, 0.80), (8.0, 1e-6, 0.89)])
def test_the_charged_gaussian_is_above_the_analytic_curve_but_not_far(
    epsilon: float, delta: float, kept: float
) -> None:
    mu = calibrate_gaussian(epsilon, delta)
    assert gaussian_epsilon_exact(mu, delta) < epsilon
    best = optimize.brentq(lambda m: gaussian_epsilon_exact(m, delta) - epsilon, mu, 2 * mu, xtol=1e-4)
    assert kept < mu / best < 1


def test_the_analytic_curve_is_rounded_up_and_never_charged_below() -> None:
    for mu, delta in ((0.1, 1e-5), (1.0, 1e-6), (3.0, 1e-9)):
        epsilon = gaussian_epsilon_exact(mu, delta)
        with mpmath.workprec(200):
            assert _gaussian_delta(mu, epsilon) <= mpmath.mpf(repr(delta)) < _gaussian_delta(mu, epsilon * (1 - 1e-9))
        assert curve(GaussianEvent(mu)).epsilon(delta) > epsilon
    assert gaussian_epsilon_exact(0.0, 1e-6) == 0
    assert gaussian_epsilon_exact(1.0, 0.0) == math.inf
    assert gaussian_epsilon_exact(1e-7, 1e-6) == 0  # δ alone covers it


def _gaussian_delta(mu: float, epsilon: float) -> mpmath.mpf:
    with mpmath.workprec(200):
        m, e = mpmath.mpf(repr(mu)), mpmath.mpf(repr(epsilon))  # the decimals that are charged
        return mpmath.ncdf(m / 2 - e / m) - mpmath.exp(e) * mpmath.ncdf(-m / 2 - e / m)


@pytest.mark.parametrize("epsilon", [1e-12, 1e-3, 0.5, 1.0, 4.0, 50.0, 2000.0])
def test_pure_loss_is_the_divergence_of_randomised_response(epsilon: float) -> None:
    micro = curve(PureEvent(epsilon)).micro
    with mpmath.workprec(20_000):
        e = mpmath.mpf(epsilon)
        p, q = mpmath.exp(e) / (1 + mpmath.exp(e)), 1 / (1 + mpmath.exp(e))
        for order, charged in zip(ORDERS[:-1], micro[:-1], strict=True):
            a = mpmath.mpf(order)
            truth = mpmath.log(p**a * q ** (1 - a) + q**a * p ** (1 - a)) / (a - 1)
            assert truth * 10**6 <= charged <= truth * 10**6 + 1.001
    assert micro[-1] == math.ceil(Fraction(repr(epsilon)) * 10**6)


def test_the_conversion_covers_the_true_delta_of_randomised_response_at_every_order() -> None:
    # Independent of the formula used: for order α alone, ε from the curve must cover the exact hockey-stick divergence.
    for epsilon in (0.3, 1.0, 3.0):
        spent = curve(PureEvent(epsilon, 20))
        claimed = spent.epsilon(1e-6)
        p = math.exp(epsilon) / (1 + math.exp(epsilon))
        delta = sum(
            math.comb(20, i) * max(0.0, p ** (20 - i) * (1 - p) ** i - math.exp(claimed) * p**i * (1 - p) ** (20 - i))
            for i in range(21)
        )
        assert delta <= 1e-6


def test_extreme_events_do_not_overflow() -> None:
    assert curve(PureEvent(1e308)).epsilon(1e-6) == pytest.approx(1e308)
    assert curve(GaussianEvent(1e200)).epsilon(1e-6) == math.inf
    assert not admissible(curve(GaussianEvent(1e200)), 1e308, 1e-6)
    assert curve(PureEvent(5e-324)).micro == (1,) * len(ORDERS)
    assert curve(GaussianEvent(5e-324)).micro[:-1] == (1,) * (len(ORDERS) - 1)
    assert curve(PureEvent(1.0, 10**15)).micro[-1] == 10**21


def test_a_pure_loss_needs_no_delta_and_a_gaussian_does() -> None:
    assert curve(PureEvent(4.0)).epsilon(0.0) == 4.0
    assert curve(GaussianEvent(0.1)).epsilon(0.0) == math.inf
    assert Curve.zero().epsilon(0.0) == 0


def test_additive_delta_has_its_own_column() -> None:
    spent = curve(ComposedEvent((PureEvent(1.0), DeltaEvent(2e-8, 3))))
    assert spent.delta_atto == 60_000_000_000
    assert spent.epsilon(1e-6) == 1.0
    assert spent.epsilon(5e-7) == math.inf  # a tenth of δ is for samplers
    assert curve(DeltaEvent(1e-30)).delta_atto == 1  # rounded up
    charges = [curve(DeltaEvent(2e-8)), curve(DeltaEvent(3e-8))]
    assert (charges[0] + charges[1]).delta_atto == 50_000_000_000  # a later charge does not replace an earlier one


def test_a_limit_of_eight_holds_training_at_four_and_privunit_at_four() -> None:
    train = GaussianEvent(calibrate_gaussian(4.0, 1e-6))
    records = plan_mechanism("privunit", epsilon=4.0, delta=0.0, content_dims=8).event()
    total = curve(train) + curve(records)
    assert admissible(total, 8.0, 1e-6)
    assert total.epsilon(1e-6) <= 8.0
    assert admissible(total, total.epsilon(1e-6), 1e-6)  # a limit equal to the spend
    assert not admissible(total, total.epsilon(1e-6) - 1e-6, 1e-6)


def test_gaussians_compose_far_better_than_their_sum() -> None:
    fifty = curve(GaussianEvent(0.1, 50))
    assert fifty == sum((curve(GaussianEvent(0.1)) for _ in range(50)), Curve.zero())
    assert 3.3 < fifty.epsilon(1e-6) < 4.2  # 24 as a sum of pairs, 3.3 as privacy loss distributions


def test_the_grid_is_what_ledgers_and_statements_already_use() -> None:
    # Limits were bought, and statements published, on this grid. Another grid needs another schema and a migration.
    shares = {1.5: 1, 2: 1, 3: 1, 4.5: 14, 7: 27, 12: 8, 20: 5, 32: 3, 64: 2, 128: 1, 256: 1}
    assert dict(accountant._SHARES) == {order: Fraction(share, 64) for order, share in shares.items()}
    assert (*shares, math.inf) == ORDERS
    assert sum(share for _, share in accountant._SHARES) == 1
    assert Fraction(1, 10) == accountant.ADDITIVE_SHARE
    assert curve(GaussianEvent(0.5)).epsilon(1e-6) == 2.641662
    assert curve(PureEvent(0.1, 50)).epsilon(1e-6) == 3.62395


def test_the_shares_of_delta_add_up_to_no_more_than_delta() -> None:
    # From the caps back to δ: what the conversion charges at the caps, summed over the grid, stays within δ.
    for epsilon, delta in ((4.0, 1e-6), (1.0, 1e-9)):
        with mpmath.workprec(200):
            spent = mpmath.mpf(delta_cap(delta)) / 10**18
            for order, most in zip(ORDERS[:-1], cap(epsilon, delta)[:-1], strict=True):
                a, rho = mpmath.mpf(order), mpmath.mpf(most) / 10**6
                if most >= 0:
                    spent += mpmath.exp((a - 1) * (rho - epsilon)) / (a - 1) * (1 - 1 / a) ** a
            assert spent <= delta


STEP, SIZES = 0.1, (1, 2, 4)  # randomised responses at ε = .1, .2 and .4; losses are counted in steps of .1
Counts = tuple[int, ...]


def adversary(fits: Callable[[Counts], bool], epsilon: float) -> float:
    """The exact δ at ε of the worst interaction with randomised responses that a filter lets happen.

    Backwards over all states: the adversary knows its loss so far, and stops or charges what makes δ largest.
    """

    @cache
    def worst(loss: int, counts: Counts) -> float:
        found = max(0.0, -math.expm1(epsilon - loss * STEP))
        for i, size in enumerate(SIZES):
            more = (*counts[:i], counts[i] + 1, *counts[i + 1 :])
            if fits(more):
                truth = 1 / (1 + math.exp(-size * STEP))
                found = max(found, truth * worst(loss + size, more) + (1 - truth) * worst(loss - size, more))
        return found

    return worst(0, (0,) * len(SIZES))


def delta_of_a_plan(counts: Counts, epsilon: float) -> float:
    """The exact δ at ε of so many responses that are fixed beforehand."""
    law = {0: 1.0}
    for size, count in zip(SIZES, counts, strict=True):
        truth = 1 / (1 + math.exp(-size * STEP))
        for _ in range(count):
            step: dict[int, float] = {}
            for loss, mass in law.items():
                step[loss + size] = step.get(loss + size, 0.0) + mass * truth
                step[loss - size] = step.get(loss - size, 0.0) + mass * (1 - truth)
            law = step
    return sum(mass * max(0.0, -math.expm1(epsilon - loss * STEP)) for loss, mass in law.items())


def test_no_adversary_who_looks_gets_past_the_filter() -> None:
    epsilon, delta = 1.0, 1e-2
    curves = {size: curve(PureEvent(round(size * STEP, 9))) for size in SIZES}

    def spent(counts: Counts) -> Curve:
        charges = (curves[size] for size, count in zip(SIZES, counts, strict=True) for _ in range(count))
        return sum(charges, Curve.zero())

    assert 0.1 * delta < adversary(lambda counts: admissible(spent(counts), epsilon, delta), epsilon) <= delta
    # The planted mistake: exact figures of fixed plans as a filter. Each plan keeps to δ; choosing among them does not.
    assert adversary(cache(lambda counts: delta_of_a_plan(counts, epsilon) <= delta), epsilon) > 1.5 * delta


def test_losses_grow_with_everything() -> None:
    def loss(**changed: float) -> tuple[float, ...]:
        at = {"mu": 0.3, "count": 2, "pure": 0.2, "times": 3, "q": 0.1, "sigma": 1.5, "steps": 5, "additive": 1e-9}
        at |= changed
        events = (
            GaussianEvent(at["mu"], int(at["count"])),
            PureEvent(at["pure"], int(at["times"])),
            SampledGaussianEvent(at["q"], at["sigma"], int(at["steps"])),
            DeltaEvent(at["additive"]),
        )
        spent = curve(ComposedEvent(events))
        return (*(m for m in spent.micro if m is not None), float(spent.delta_atto))

    here = loss()
    for name, more in {
        "mu": 0.301,
        "count": 3,
        "pure": 0.201,
        "times": 4,
        "q": 0.101,
        "sigma": 1.49,
        "steps": 6,
    }.items():
        assert all(a > b for a, b in zip(loss(**{name: more})[:-1], here[:-1], strict=True)), name
    assert loss(additive=2e-9)[-1] > here[-1]
    spent = curve(ComposedEvent((GaussianEvent(0.3), PureEvent(0.2))))
    figures = [spent.epsilon(delta) for delta in (1e-12, 1e-9, 1e-6, 1e-3)]
    assert figures == sorted(figures, reverse=True) and len(set(figures)) == 4


def test_ten_thousand_different_events_are_a_matter_of_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    # Multiple precision at 11 orders for each would take seven seconds; it is for what float64 cannot round.
    dear = []
    exact = divergences._exact
    monkeypatch.setattr(divergences, "_exact", lambda *args: dear.append(1) or exact(*args))
    events = [PureEvent(0.001 + 1e-8 * i) for i in range(5000)] + [GaussianEvent(0.001 + 1e-7 * i) for i in range(5000)]
    total = curve(ComposedEvent(tuple(events)))
    assert len(dear) < 50
    assert total.micro[-1] is None and total.epsilon(1e-6) < curve(PureEvent(0.00105, 5000)).epsilon(0.0) + 600


def test_relations_do_not_mix() -> None:
    with pytest.raises(PrivacyError, match="zero-out"):
        curve(PureEvent(1.0)) + curve(PureEvent(1.0, relation=ZERO_OUT))
    with pytest.raises(PrivacyError, match="zero-out curve is no charge"):
        admissible(curve(PureEvent(1.0, relation=ZERO_OUT)), 4.0, 1e-6)
    stored = json.loads(json.dumps(curve(PureEvent(1.0, relation=ZERO_OUT)).to_json()))
    with pytest.raises(PrivacyError, match="zero-out"):
        Curve.from_json(stored) + Curve.zero()
    del stored["relation"]
    with pytest.raises(PrivacyError, match="not a stored curve"):
        Curve.from_json(stored)
    with pytest.raises(PrivacyError, match="add-remove"):
        Curve((0,) * len(ORDERS), 0, "add-remove")


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf, 1.0, 2.0])
def test_impossible_deltas_are_refused(wrong: float) -> None:
    for use in (Curve.zero().epsilon, delta_cap, lambda d: cap(1.0, d), lambda d: calibrate_gaussian(1.0, d)):
        with pytest.raises(PrivacyError):
            use(wrong)


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_impossible_limits_are_refused(wrong: float) -> None:
    with pytest.raises(PrivacyError):
        cap(wrong, 1e-6)
    with pytest.raises(PrivacyError):
        calibrate_gaussian(wrong, 1e-6)
    with pytest.raises(PrivacyError):
        gaussian_epsilon_exact(wrong, 1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"orders": [2.0]},
        {"micro": [0]},
        {"micro": [-1] + [0] * 11},
        {"micro": [0.5] + [0] * 11},
        {"micro": [True] + [0] * 11},
        {"delta_atto": -1},
        {"delta_atto": None},
        {"relation": "none"},
    ],
)
def test_curves_that_nobody_wrote_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(PrivacyError):
        Curve.from_json({**Curve.zero().to_json(), **change})
