"""The plan costs what was asked, says so in JSON, and its constants follow from public data."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from cadp.cinn.architecture import Whitening, architecture_from_json
from cadp.cinn.fit.plan import (
    COARSEST_STEP,
    PIXELS,
    RESIDUAL,
    STEP,
    WIDEST_SIGMA,
    WITHIN,
    MomentsPlan,
    choose_architecture,
)
from cadp.cinn.fit.tones_plan import UNIT
from cadp.errors import PrivacyError
from cadp.privacy.accountant import RELATION, curve
from cadp.privacy.events import ZERO_OUT, ComposedEvent, Event, GaussianEvent
from cadp.privacy.noise import discrete_gaussian

FASHION = (28, 28, 1)


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0, 4.0, 16.0, 1e4])
@pytest.mark.parametrize("delta", [1e-5, 1e-9])
@pytest.mark.parametrize("records", [1, 7])
def test_it_costs_at_most_what_was_asked_and_nearly_all_of_it(epsilon: float, delta: float, records: int) -> None:
    plan = MomentsPlan.calibrate(epsilon, delta, FASHION, 10, units=60_000, max_records_per_unit=records)
    cost = curve(plan.event()).epsilon(delta)
    assert 0.99 * epsilon < cost <= epsilon
    assert curve(plan.zero_out_event()).epsilon(delta) < cost


def test_the_loss_is_that_of_the_noise_as_drawn() -> None:
    """From radius, records and σ alone, in exact terms: μ² = Σ (√2·m·radius^power / σ)²; 2·m·radius for a mixture."""
    plan = MomentsPlan.calibrate(4.0, 1e-6, FASHION, 10, units=60_000, max_records_per_unit=3)
    event = plan.event()
    assert isinstance(event, ComposedEvent)
    for query, part in zip(plan.queries, event.events, strict=True):
        assert isinstance(part, GaussianEvent)
        assert part.relation == RELATION
        # An integer: no rounding to argue about.
        square = (4 if query in plan.mixture else 2) * (3 * query.radius**query.power) ** 2
        assert square / query.sigma**2 <= part.mu**2
        assert part.mu**2 == pytest.approx(square / query.sigma**2, rel=1e-3 if query in plan.mixture else 1e-9)
        alone = 3 * (math.hypot(query.radius, query.count) if query in plan.mixture else query.bound)
        assert query.zero_out_event().mu >= alone / query.sigma
        assert query.zero_out_event().mu == pytest.approx(alone / query.sigma, rel=1e-9)
    total = math.sqrt(sum(part.mu**2 for part in event.events if isinstance(part, GaussianEvent)))
    assert curve(GaussianEvent(total)).epsilon(1e-6) <= 4.0 + 1e-5


@pytest.mark.parametrize("factor", [0.5, math.sqrt(0.5), 0.99])
def test_less_noise_than_planned_would_cost_more_than_was_asked(factor: float) -> None:
    """The calibration has no slack that would hide a forgotten √2, or even one per cent."""
    plan = MomentsPlan.calibrate(4.0, 1e-6, FASHION, 10, units=60_000)
    events = tuple(GaussianEvent(query.event().mu / factor) for query in plan.queries)
    assert curve(ComposedEvent(events=events)).epsilon(1e-6) > 4.0


def test_relations_are_named_and_do_not_mix() -> None:
    plan = MomentsPlan.calibrate(4.0, 1e-6, FASHION, 10, units=60_000)
    assert plan.event().relation == RELATION
    assert plan.zero_out_event().relation == ZERO_OUT
    with pytest.raises(PrivacyError):
        curve(plan.event()) + curve(plan.zero_out_event())
    assert Event.from_json(json.loads(json.dumps(plan.event().to_json()))) == plan.event()


def test_parameters_are_json_of_public_values_that_determine_the_noise() -> None:
    plan = MomentsPlan.calibrate(4.0, 1e-6, FASHION, 10, units=60_000, max_records_per_unit=2)
    parameters = plan.parameters()
    assert json.loads(json.dumps(parameters, allow_nan=False)) == parameters
    assert parameters["max_records_per_unit"] == 2
    assert architecture_from_json(parameters["architecture"]) == plan.architecture
    queries = parameters["queries"]
    assert isinstance(queries, list)
    for shown, query in zip(queries, plan.queries, strict=True):
        farthest = 2 if query in plan.mixture else math.sqrt(2)
        assert shown["sensitivity"] == pytest.approx(farthest * 2 * shown["clip_norm"] ** query.power, rel=1e-3)
        step = 1 / UNIT if query is plan.tones else plan.step
        sigma = shown["sensitivity"] * shown["noise_multiplier"] / step**query.power
        assert sigma == pytest.approx(query.sigma)
    again = MomentsPlan.calibrate(4.0, 1e-6, FASHION, 10, units=60_000, max_records_per_unit=2)
    assert again == plan


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, math.inf, 1e-6])
def test_an_epsilon_that_buys_nothing_is_refused(epsilon: float) -> None:
    with pytest.raises(PrivacyError, match="ε"):
        MomentsPlan.calibrate(epsilon, 1e-6, FASHION, 10, units=60_000)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-6, math.nan])
def test_a_delta_without_meaning_is_refused(delta: float) -> None:
    with pytest.raises(PrivacyError, match="δ"):
        MomentsPlan.calibrate(4.0, delta, FASHION, 10, units=60_000)


@pytest.mark.parametrize(("units", "records"), [(0, 1), (1, 0), (-5, 1)])
def test_counts_without_meaning_are_refused(units: int, records: int) -> None:
    with pytest.raises(PrivacyError, match="at least 1"):
        MomentsPlan.calibrate(4.0, 1e-6, FASHION, 10, units=units, max_records_per_unit=records)


def test_noise_that_is_too_wide_for_the_lattice_makes_it_coarser_or_is_refused_before_anything_is_charged() -> None:
    fine = MomentsPlan.calibrate(4.0, 1e-6, (128, 128, 3), 10, units=60_000)
    assert fine.step == STEP
    wide = MomentsPlan.calibrate(0.5, 1e-6, (128, 128, 3), 10, units=60_000, max_records_per_unit=20)
    assert STEP < wide.step <= COARSEST_STEP
    assert curve(wide.event()).epsilon(1e-6) <= 0.5
    for query in wide.queries:
        assert query.sigma <= WIDEST_SIGMA
        discrete_gaussian(query.sigma, 2)  # the sampler's own range holds it
    # The radii in pixels are the same lengths, up to one step; that of the class covariances is √k.
    for a, b in ((fine.mean, wide.mean), (fine.covariance, wide.covariance), (fine.residual, wide.residual)):
        assert a.radius * fine.step == pytest.approx(b.radius * wide.step, abs=wide.step)
    with pytest.raises(PrivacyError, match="lattice units"):
        MomentsPlan.calibrate(0.5, 1e-6, (128, 128, 3), 10, units=60_000, max_records_per_unit=2_000)
    with pytest.raises(PrivacyError, match="overflow"):
        MomentsPlan.calibrate(4.0, 1e-6, (128, 128, 3), 10, units=1 << 40)


def test_the_radii_follow_from_the_public_digits_by_the_rule_that_is_stated() -> None:
    images, labels = load_digits(return_X_y=True)
    pixels = images / 16
    root = math.sqrt(pixels.shape[1])
    means = np.stack([pixels[labels == label].mean(axis=0) for label in range(10)])
    within = np.quantile(np.linalg.norm(pixels - means[labels], axis=1), 0.95) / root
    assert round(float(within) * 64) / 64 == WITHIN
    assert RESIDUAL == WITHIN / 2


def test_the_clip_norm_of_pixels_makes_the_sensitivity_the_distance_of_white_from_black() -> None:
    plan = MomentsPlan.calibrate(8.0, 1e-6, FASHION, 10, units=60_000)
    assert pytest.approx(math.sqrt(28 * 28), abs=2 * plan.step) == plan.mean.sensitivity * plan.step
    assert pytest.approx(math.sqrt(0.5)) == PIXELS


def test_the_architecture_follows_from_public_sizes_alone_and_always_exists() -> None:
    assert choose_architecture(8.0, FASHION, 10, 60_000) == Whitening(FASHION, 10, 14, 64, 16)
    sizes = [choose_architecture(epsilon, FASHION, 10, 60_000).content for epsilon in (0.1, 1.0, 4.0, 8.0, 100.0)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    for shape in ((1, 1, 1), (2, 300, 3), (8, 8, 1), (128, 128, 3)):
        for epsilon in (1e-12, 1.0, 1e12):
            for units in (1, 10**9):
                architecture = choose_architecture(epsilon, shape, 3, units)
                assert 1 <= architecture.content <= architecture.low_dims


def test_planning_does_not_need_torch() -> None:
    code = "import sys, cadp.cinn.fit.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
