"""Privacy loss distributions bracket the truth, agree with closed forms, with curves and with a second library."""

import inspect
import math
from pathlib import Path

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from cadp.cinn.fit.plan import MomentsPlan
from cadp.errors import PrivacyError
from cadp.privacy import losses, pld
from cadp.privacy.accountant import calibrate_gaussian, curve, gaussian_epsilon_exact
from cadp.privacy.events import (
    ZERO_OUT,
    ComposedEvent,
    DeltaEvent,
    Event,
    GaussianEvent,
    PureEvent,
    SampledGaussianEvent,
)
from cadp.privacy.mechanisms import Gaussian, plan_mechanism
from cadp.privacy.pld import NARROWEST, pld_epsilon, pld_epsilon_lower
from cadp.privacy.sampled import SMOOTHING

# The oracle's grid.
INTERVAL = 1e-4


def responses_delta(epsilon: float, count: int, claimed: float) -> float:
    """The exact δ of `count` randomised responses: a binomial sum."""
    k = np.arange(count + 1)
    log_p = stats.binom.logpmf(k, count, special.expit(epsilon))
    losses = (2 * k - count) * epsilon
    return float(np.sum(np.where(losses > claimed, np.exp(log_p) * -np.expm1(claimed - losses), 0.0)))


@pytest.mark.parametrize("delta", [1e-3, 1e-6, 1e-12, 1e-60])
@pytest.mark.parametrize("mu", [0.003, 0.1, 1.0, 5.0])
def test_gaussians_agree_with_the_analytic_curve(mu: float, delta: float) -> None:
    exact = gaussian_epsilon_exact(mu, delta)
    upper, lower = pld_epsilon([GaussianEvent(mu)], delta), pld_epsilon_lower([GaussianEvent(mu)], delta)
    assert lower <= exact <= upper <= exact * (1 + 1e-3) + 1e-9
    assert lower >= exact - 1e-3


@pytest.mark.parametrize(
    ("epsilon", "count", "delta"),
    [(0.1, 50, 1e-6), (1.0, 1, 1e-6), (0.5, 200, 1e-9), (2.0, 7, 1e-5), (4.0, 3, 1e-30), (0.01, 5000, 1e-6)],
)
def test_pure_losses_agree_with_the_binomial_sum(epsilon: float, count: int, delta: float) -> None:
    events = [PureEvent(epsilon, count)]
    upper, lower = pld_epsilon(events, delta), pld_epsilon_lower(events, delta)
    assert responses_delta(epsilon, count, upper) <= delta * (1 + 1e-9)
    assert responses_delta(epsilon, count, upper - 1e-3 * upper) > delta
    assert responses_delta(epsilon, count, lower) >= delta * (1 - 1e-9)


@given(
    st.floats(0.02, 2),
    st.floats(0.05, 2),
    st.integers(1, 30),
    st.sampled_from([0.01, 0.3]),
    st.sampled_from([1e-4, 1e-9]),
)
@settings(max_examples=6, deadline=None)
def test_the_bounds_enclose_something_and_the_curve_is_above(
    mu: float, epsilon: float, count: int, rate: float, delta: float
) -> None:
    events: list[Event] = [GaussianEvent(mu), PureEvent(epsilon, count), SampledGaussianEvent(rate, 1.1, count)]
    lower, upper = pld_epsilon_lower(events, delta), pld_epsilon(events, delta)
    assert lower <= upper <= lower * 1.01 + 0.02
    assert upper <= curve(ComposedEvent(tuple(events))).epsilon(delta)


LAWS: dict[str, losses.Law] = {
    "response": losses.Response(0.7),
    "gaussian": losses.Gaussian(0.8),
    "exchange": losses.Sampled(0.2, 0.9, "exchange"),
    "remove": losses.Sampled(0.2, 0.9, "remove"),
    "add": losses.Sampled(0.2, 0.9, "add"),
}


@pytest.mark.parametrize("z", [1.5, 6.0])
@pytest.mark.parametrize("width", [0.03, 0.37])
@pytest.mark.parametrize("name", LAWS)
def test_a_grid_is_on_the_safe_side_at_every_epsilon(name: str, width: float, z: float) -> None:
    # On a coarse grid, and cut where the tails still matter: what is beyond it counts against us above and below.
    law = LAWS[name]
    at = np.linspace(-4, 4, 161)
    _, p_above, _, q_above, _ = law.masses(at)
    exact = np.maximum(p_above - np.exp(at) * q_above, 0.0)
    for upper in (True, False):
        first, mass, infinite = losses.on_grid(law, width, z, upper)
        lost = width * np.arange(first, first + len(mass))
        found = infinite + np.sum(mass * np.maximum(-np.expm1(at[:, None] - lost), 0.0), axis=1)
        if upper:
            assert mass.sum() + infinite == pytest.approx(1, abs=1e-8)
            assert np.all(found >= exact - 1e-14)
            assert z < 3 or np.all(found <= exact + width)
        else:
            assert np.all(found <= exact + 1e-14)
            assert z < 3 or np.all(found >= exact - 2 * width)


def test_what_is_beyond_the_grid_is_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    # Cut at 3 standard deviations, an eighth of δ lies beyond: the figure must rise, not fall.
    monkeypatch.setattr(pld.special, "ndtri", lambda _: -3.0)
    upper = pld_epsilon([GaussianEvent(1.0)], 1e-2)
    assert gaussian_epsilon_exact(1.0, 1e-2) < upper == pytest.approx(gaussian_epsilon_exact(1.0, 1e-2), rel=0.1)


def test_fifty_gaussians_four_ways() -> None:
    # Δ = 1, σ = 10, δ = 1e-6 in all.
    pairs = 50 * gaussian_epsilon_exact(0.1, 1e-6 / 50)
    assert pairs == pytest.approx(24, abs=0.5)
    rho = 50 * 0.1**2 / 2
    orders = np.linspace(1.01, 200, 20_000)
    renyi = np.min(orders * rho + np.log1p(-1 / orders) - np.log(1e-6 * orders) / (orders - 1))
    assert renyi == pytest.approx(3.5, abs=0.06)
    assert pld_epsilon([GaussianEvent(0.1, 50)], 1e-6) == pytest.approx(3.308, abs=1e-3)
    assert pld_epsilon([GaussianEvent(0.2, 50)], 1e-6) == pytest.approx(7.287, abs=1e-3)  # Δ = 2
    # The ledger's filter pays for not knowing the plan beforehand.
    assert renyi < curve(GaussianEvent(0.1, 50)).epsilon(1e-6) < pairs


def test_the_known_figure_of_training_by_sampled_steps() -> None:
    # q = .04, σ = 1.5, 400 steps, δ = 1e-5: 2.64 zero-out and 4.79 replace-one on a grid of 1e-4, whose rounding up
    # is worth 400 half cells, .02. Between our own bounds there is .003, and the other library joins us without it.
    theirs = {
        dots: oracle.from_gaussian_mechanism(
            1.5, sampling_prob=0.04, value_discretization_interval=INTERVAL, use_connect_dots=dots
        )
        .self_compose(400)
        .get_epsilon_for_delta(1e-5)
        for dots in (False, True)
    }
    assert theirs[False] == pytest.approx(2.641, abs=1e-3)
    assert pld_epsilon([SampledGaussianEvent(0.04, 1.5, 400, relation=ZERO_OUT)], 1e-5) == pytest.approx(
        theirs[True], rel=1e-5
    )
    for relation, known in ((ZERO_OUT, 2.64), ("replace-one", 4.79)):
        events = [SampledGaussianEvent(0.04, 1.5, 400, relation=relation)]
        upper, lower = pld_epsilon(events, 1e-5), pld_epsilon_lower(events, 1e-5)
        assert known - 0.03 < lower < upper < known
        assert upper - lower < 4e-3
        assert upper < curve(events[0]).epsilon(1e-5)


@pytest.mark.parametrize("delta", [1e-5, 1e-9])
def test_a_second_library_agrees(delta: float) -> None:
    gaussian = oracle.from_gaussian_mechanism(2.0, sensitivity=1.0, value_discretization_interval=INTERVAL)
    laplace = oracle.from_discrete_laplace_mechanism(0.25, sensitivity=1, value_discretization_interval=INTERVAL)
    sampled = oracle.from_gaussian_mechanism(
        1.2, sensitivity=1.0, sampling_prob=0.05, value_discretization_interval=INTERVAL
    )
    cases = [
        ([GaussianEvent(0.5, relation=ZERO_OUT)] * 3, gaussian.self_compose(3)),
        ([PureEvent(0.25, 8, relation=ZERO_OUT)], laplace.self_compose(8)),
        ([SampledGaussianEvent(0.05, 1.2, 20, relation=ZERO_OUT)], sampled.self_compose(20)),
        (
            [
                GaussianEvent(0.5, relation=ZERO_OUT),
                ComposedEvent((PureEvent(0.25, 2, relation=ZERO_OUT),), relation=ZERO_OUT),
                SampledGaussianEvent(0.05, 1.2, 20, relation=ZERO_OUT),
            ],
            gaussian.compose(laplace.self_compose(2)).compose(sampled.self_compose(20)),
        ),
    ]
    for events, theirs in cases:
        assert pld_epsilon(events, delta) == pytest.approx(theirs.get_epsilon_for_delta(delta), rel=1e-3)


def test_a_second_library_agrees_on_replace_one_sampling() -> None:
    # It has no such event. Two laws on 20,000 cells are a post-processing of ours, so its figure is at most the truth.
    q, sigma, steps = 0.05, 1.2, 20
    edges = np.concatenate(([-np.inf], np.linspace(-12, 12, 20_001), [np.inf]))

    def logs(centre: float) -> dict[int, float]:
        def cells(mean: float) -> np.ndarray:
            z = (edges - mean) / sigma
            return np.where(z[1:] < 0, np.diff(special.ndtr(z)), -np.diff(special.ndtr(-z)))

        mass = (1 - q) * cells(0.0) + q * cells(centre)
        return {i: math.log(m) for i, m in enumerate(mass)}

    theirs = oracle.from_two_probability_mass_functions(logs(-1.0), logs(1.0), value_discretization_interval=INTERVAL)
    known = theirs.self_compose(steps).get_epsilon_for_delta(1e-6)
    assert pld_epsilon([SampledGaussianEvent(q, sigma, steps)], 1e-6) == pytest.approx(known, rel=1e-3)


@pytest.mark.parametrize("q", [0.01, 0.3, 0.9])
def test_one_step_is_within_the_general_bound_for_sampling(q: float) -> None:
    # ε' = ln(1 + q(e^ε − 1)) at δ' = qδ, of the full mechanism with Δ = 2C.
    full = gaussian_epsilon_exact(2 / 1.5, 1e-5)
    bound = math.log1p(q * math.expm1(full))
    assert pld_epsilon([SampledGaussianEvent(q, 1.5)], q * 1e-5) <= bound * (1 + 1e-3)


def test_a_list_costs_what_its_count_does() -> None:
    for one in (GaussianEvent(0.1), PureEvent(0.2), SampledGaussianEvent(0.1, 1.5), DeltaEvent(1e-9)):
        other = PureEvent(0.3)
        many = type(one)(
            **{
                **{k: v for k, v in one.to_json().items() if k not in ("schema", "kind")},
                **({"steps": 9} if one.kind == "sampled-gaussian" else {"count": 9}),
            }
        )
        listed = pld_epsilon([one] * 9 + [other], 1e-6)
        assert listed == pytest.approx(pld_epsilon([other, many], 1e-6), rel=1e-9)
        assert pld_epsilon([ComposedEvent((one, ComposedEvent((one,) * 8))), other], 1e-6) == pytest.approx(listed)
        assert listed > pld_epsilon([one, other], 1e-6) or one.kind == "delta"


def test_losses_grow_with_everything() -> None:
    def loss(
        mu: float = 0.3, epsilon: float = 0.2, q: float = 0.1, sigma: float = 1.5, steps: int = 5, **more: float
    ) -> float:
        events = [
            GaussianEvent(mu),
            PureEvent(epsilon, int(more.get("count", 2))),
            SampledGaussianEvent(q, sigma, steps),
            DeltaEvent(more.get("additive", 0.0)),
        ]
        return pld_epsilon(events, more.get("delta", 1e-6))

    here = loss()
    dearer = (
        loss(mu=0.31),
        loss(epsilon=0.21),
        loss(q=0.11),
        loss(sigma=1.45),
        loss(steps=6),
        loss(count=3),
        loss(additive=5e-7),
        loss(delta=9e-7),
    )
    assert all(other > here for other in dearer)


def test_zero_out_takes_the_worse_of_two_orders() -> None:
    events = [SampledGaussianEvent(0.2, 0.9, 3, relation=ZERO_OUT)]
    one = oracle.from_gaussian_mechanism(0.9, sampling_prob=0.2, value_discretization_interval=INTERVAL)
    remove, add = (
        oracle.PrivacyLossDistribution(part, part).self_compose(3).get_epsilon_for_delta(1e-4)
        for part in (one._pmf_remove, one._pmf_add)
    )
    assert remove > 1.5 * add
    assert pld_epsilon(events, 1e-4) == pytest.approx(max(remove, add), rel=1e-3)


def test_mixed_relations_are_refused() -> None:
    with pytest.raises(PrivacyError, match="zero-out"):
        pld_epsilon([GaussianEvent(1.0), GaussianEvent(1.0, relation=ZERO_OUT)], 1e-6)


def test_delta_zero_and_additive_delta() -> None:
    assert pld_epsilon([PureEvent(1.5, 2), PureEvent(0.25)], 0.0) == 3.25
    assert pld_epsilon([PureEvent(1.0), GaussianEvent(0.1)], 0.0) == math.inf
    assert pld_epsilon([PureEvent(1.0), DeltaEvent(1e-7)], 0.0) == math.inf
    assert pld_epsilon([GaussianEvent(0.1), DeltaEvent(1e-6)], 1e-6) == math.inf
    assert pld_epsilon([GaussianEvent(0.1), DeltaEvent(5e-7)], 1e-6) == pytest.approx(
        pld_epsilon([GaussianEvent(0.1)], 5e-7), rel=1e-6
    )
    assert pld_epsilon([], 1e-6) == pld_epsilon([], 0.0) == pld_epsilon([GaussianEvent(0.0), PureEvent(0.0)], 1e-6) == 0
    assert pld_epsilon([GaussianEvent(1e-7)], 1e-6) == 0  # δ alone covers it


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf, 1.0])
def test_impossible_deltas_are_refused(wrong: float) -> None:
    with pytest.raises(PrivacyError):
        pld_epsilon([PureEvent(1.0)], wrong)


def test_beyond_the_reach_of_floats_the_curve_answers() -> None:
    for event in (
        GaussianEvent(100.0),
        GaussianEvent(1e200),
        PureEvent(1000.0, 3),
        PureEvent(1.0, 10**15),
        SampledGaussianEvent(0.1, 1e-3),
    ):
        assert pld_epsilon([event, GaussianEvent(0.1)], 1e-6) == curve(
            ComposedEvent((event, GaussianEvent(0.1)))
        ).epsilon(1e-6)
    assert pld_epsilon([PureEvent(1000.0, 3)], 1e-6) == 3000.0


def test_tiny_losses_are_raised_to_what_floats_can_tell() -> None:
    for event in (GaussianEvent(1e-200), GaussianEvent(5e-324), PureEvent(1e-300), SampledGaussianEvent(1e-9, 1e200)):
        assert 0 <= pld_epsilon([event], 1e-6) < 1e-5
        with_another = pld_epsilon([event, GaussianEvent(0.5)], 1e-6)
        assert with_another == pytest.approx(pld_epsilon([GaussianEvent(0.5)], 1e-6), rel=1e-4)
        assert pld_epsilon_lower([event], 1e-6) == 0


def test_a_plan_is_a_list_known_beforehand_and_nothing_accumulates() -> None:
    # The figure is void if a later event depends on an earlier output; so there is nothing to add an event to.
    assert list(inspect.signature(pld_epsilon).parameters) == ["events", "delta"]
    assert type(pld_epsilon([GaussianEvent(0.1)], 1e-6)) is float
    assert "One fixed plan only" in inspect.getmodule(pld_epsilon).__doc__


@pytest.mark.parametrize(("epsilon", "delta"), [(4.0, 1e-6), (1.0, 1e-5), (8.0, 1e-9), (0.25, 1e-6)])
def test_a_calibrated_gaussian_costs_less_than_was_asked_and_within_the_known_slack(
    epsilon: float, delta: float
) -> None:
    event = GaussianEvent(calibrate_gaussian(epsilon, delta))
    assert curve(event).epsilon(delta) <= epsilon
    # The filter is sound for adaptive charges at any order of its grid: that costs 10 to 35 %.
    assert 0.65 * epsilon < pld_epsilon([event], delta) <= epsilon


def test_noise_as_it_runs_is_wide_enough_for_the_continuous_figure() -> None:
    for k in (1, 64):
        plan = plan_mechanism("gaussian", epsilon=16.0, delta=1e-6, content_dims=k)
        assert isinstance(plan, Gaussian)
        assert plan.sigma >= NARROWEST
    moments = MomentsPlan.calibrate(16.0, 1e-6, (1, 8, 8), 2, units=1000)
    for query in (moments.mean, moments.covariance, moments.class_covariance, moments.residual):
        assert query.sigma >= NARROWEST


@pytest.mark.parametrize("steps", [5, 6, 16])
def test_the_figure_covers_discrete_noise(steps: int) -> None:
    # One coordinate, Δ = σ: the exact δ of discrete noise exceeds the continuous one's, and never the smoothed one's.
    x = np.arange(-40 * steps, 40 * steps + 1, dtype=float)
    p, q = np.exp(-((x - steps) ** 2) / (2 * steps**2)), np.exp(-(x**2) / (2 * steps**2))
    mu = 1 / math.sqrt(1 - (SMOOTHING / steps) ** 2)
    for delta in (1e-3, 1e-6):
        epsilon = gaussian_epsilon_exact(mu, delta)
        assert np.maximum(p - math.exp(epsilon) * q, 0.0).sum() / q.sum() <= delta


def test_the_page_gives_these_figures() -> None:
    page = " ".join((Path(__file__).resolve().parents[2] / "docs" / "privacy-promise.md").read_text().split())
    fifty = GaussianEvent(0.1, 50)
    assert f"{curve(fifty).epsilon(1e-6):.3f} as they are charged, and {pld_epsilon([fifty], 1e-6):.3f} by" in page
    replaced = SampledGaussianEvent(0.04, 1.5, 400)
    zeroed = SampledGaussianEvent(0.04, 1.5, 400, relation=ZERO_OUT)
    losses = (
        f"{pld_epsilon([replaced], 1e-5):.3f} is the loss replace-one and {pld_epsilon([zeroed], 1e-5):.3f} zero-out"
    )
    assert f"is charged {curve(replaced).epsilon(1e-5):.3f}, where {losses}" in page


def test_discrete_noise_is_entered_as_less_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 / math.sqrt(1 - (SMOOTHING / NARROWEST) ** 2) <= pld._DISCRETE
    monkeypatch.setattr(pld, "_DISCRETE", 1.1)
    assert pld_epsilon([GaussianEvent(1.0)], 1e-6) >= gaussian_epsilon_exact(1.1, 1e-6)


def test_ten_thousand_events_are_sorted_before_they_are_composed(monkeypatch: pytest.MonkeyPatch) -> None:
    transforms = []
    rfft = np.fft.rfft
    monkeypatch.setattr(np.fft, "rfft", lambda *args: transforms.append(1) or rfft(*args))
    events = [GaussianEvent(0.001), PureEvent(0.001), SampledGaussianEvent(0.001, 2.0), DeltaEvent(1e-12)] * 2500
    assert 0 < pld_epsilon(events, 1e-6) < curve(ComposedEvent(tuple(events))).epsilon(1e-6)
    assert len(transforms) == 3


def test_ten_thousand_different_events_are_taken_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    transforms = []
    rfft = np.fft.rfft
    monkeypatch.setattr(np.fft, "rfft", lambda *args: transforms.append(1) or rfft(*args))
    pure = [0.001 + 1e-7 * i for i in range(10_000)]
    upper = pld_epsilon([PureEvent(loss) for loss in pure], 1e-6)
    assert len(transforms) <= 64
    # Above fifty groups of two hundred, each at its smallest; below all at the largest.
    assert pld_epsilon([PureEvent(pure[i], 200) for i in range(0, 10_000, 200)], 1e-6) < upper
    assert upper < pld_epsilon([PureEvent(pure[-1], 10_000)], 1e-6)
    # No loss is lowered, or forgotten, and nothing is taken in groups that need not be.
    raised, lowered = (
        [at for at, count in sorted(pld._grouped(dict.fromkeys(pure, 1), upper).items()) for _ in range(count)]
        for upper in (True, False)
    )
    assert all(low <= own <= high for low, own, high in zip(lowered, pure, raised, strict=True))
    assert pld._grouped({0.1: 3, 0.2: 1}, True) == {0.1: 3, 0.2: 1}
