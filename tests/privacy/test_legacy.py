"""`legacy` does what the published code did, claims what it claimed, and can be charged nowhere."""

import numpy as np
import pytest

from cadp.errors import PrivacyError
from cadp.privacy.accountant import curve
from cadp.privacy.events import ComposedEvent, Event, PureEvent
from cadp.privacy.legacy import NO_GUARANTEE, Legacy
from cadp.privacy.mechanisms import Mechanism, plan_mechanism
from tests.privacy.injected import fixed_noise, rows_that_depend_on_others

PIXELS = 28 * 28


def under_the_noise(mechanism: Legacy, z: np.ndarray) -> np.ndarray:
    """What of `z` is in the output: the output less that of a zero batch under the same noise."""
    valid = np.ones(len(z), dtype=bool)
    with fixed_noise(3):
        noisy = mechanism.privatize(z, valid)
    with fixed_noise(3):
        return noisy - mechanism.privatize(np.zeros_like(z), valid)


@pytest.mark.parametrize(
    ("epsilon", "sensitivity", "scale"), [(0.2, 0.1, 0.5), (1.0, 0.5, 0.5), (8.0, 4.0, 0.5), (10.0, 4.0, 0.4)]
)
def test_scale_and_sensitivity_are_the_published_ones(epsilon: float, sensitivity: float, scale: float) -> None:
    mechanism = Legacy.plan(epsilon, PIXELS)
    assert (mechanism.sensitivity, mechanism.scale) == pytest.approx((sensitivity, scale))


def test_the_worst_case_at_one_is_1568() -> None:
    mechanism = Legacy.plan(1.0, PIXELS)
    assert mechanism.worst_case == 1568
    # It is reached: a batch with one record that differs, computed from what the code put under the noise.
    batch = np.zeros((16, PIXELS))
    batch[3] = 9.0
    other = batch.copy()
    other[3] = -9.0
    gap = np.abs(under_the_noise(mechanism, batch) - under_the_noise(mechanism, other)).sum()
    assert gap / mechanism.scale == pytest.approx(1568)


def test_no_pair_of_batches_loses_more() -> None:
    generator, mechanism = np.random.default_rng(11), Legacy.plan(2.0, 30)
    for spread in (1e-3, 1.0, 1e3, 1e300):
        batch = generator.normal(size=(8, 30)) * spread
        other = batch.copy()
        other[5] = generator.normal(size=30) * spread * 10
        gap = np.abs(under_the_noise(mechanism, batch) - under_the_noise(mechanism, other)).sum()
        assert gap / mechanism.scale <= mechanism.worst_case * (1 + 1e-9)


def test_the_clip_is_one_matrix_norm_over_the_batch() -> None:
    mechanism, batch = Legacy.plan(1.0, 3), np.array([[1.0, -2.0, 0.5], [3.0, 1.0, -0.5]])
    # The column sums are 4, 3 and 1: everything shrinks by .5/4.
    np.testing.assert_allclose(under_the_noise(mechanism, batch), batch / 8, atol=1e-12)
    np.testing.assert_allclose(under_the_noise(mechanism, batch / 100), batch / 100, atol=1e-12)
    assert rows_that_depend_on_others(mechanism.privatize, 3) > 0


@pytest.mark.usefixtures("seeded")
def test_noise_is_laplace_of_that_scale() -> None:
    mechanism = Legacy.plan(1.0, 4)
    drawn = mechanism.privatize(np.zeros((50_000, 4)), np.ones(50_000, dtype=bool))
    assert np.abs(drawn).mean() == pytest.approx(0.5, rel=0.02)
    assert (drawn**2).mean() == pytest.approx(0.5, rel=0.05)


def test_it_is_a_mechanism_and_says_what_it_is_not() -> None:
    mechanism = plan_mechanism("legacy", epsilon=1.0, delta=1e-6, content_dims=PIXELS)
    assert isinstance(mechanism, Mechanism)
    assert mechanism.parameters()["guarantee"] == NO_GUARANTEE
    assert mechanism.parameters()["worst_case_epsilon"] == 1568


def test_its_event_has_no_curve_and_is_not_read_back() -> None:
    event = Legacy.plan(1.0, 4).event()
    for charged in (event, ComposedEvent((PureEvent(1.0), event))):
        with pytest.raises(PrivacyError):
            curve(charged)
        with pytest.raises(PrivacyError):
            Event.from_json(charged.to_json())
    assert event.to_json()["guarantee"] == NO_GUARANTEE


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_plans_are_refused(wrong: float) -> None:
    with pytest.raises(PrivacyError):
        Legacy.plan(wrong, 4)
    with pytest.raises(PrivacyError):
        Legacy.plan(1.0, 0)
