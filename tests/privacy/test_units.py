"""Several records of one unit are paid for together."""

import math

import pytest

from cadp.errors import PrivacyError
from cadp.privacy.accountant import curve
from cadp.privacy.events import (
    ZERO_OUT,
    ComposedEvent,
    DeltaEvent,
    Event,
    GaussianEvent,
    PureEvent,
    SampledGaussianEvent,
)
from cadp.privacy.units import per_unit

EVENTS: dict[str, Event] = {
    "pure": PureEvent(0.5),
    "gaussian": GaussianEvent(0.25),
    "delta": ComposedEvent((PureEvent(0.5), DeltaEvent(1e-9))),
    "label and latent": ComposedEvent((PureEvent(1.0), ComposedEvent(()))),
    "attributes and latent": ComposedEvent((ComposedEvent((PureEvent(0.2), PureEvent(0.3))), GaussianEvent(0.25))),
    "zero-out": GaussianEvent(0.5, relation=ZERO_OUT),
    "several": PureEvent(0.5, count=2),
}


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("m", [1, 2, 7])
def test_m_records_cost_m_times_the_curve(name: str, m: int) -> None:
    event = EVENTS[name]
    together = per_unit(event, m)
    assert together.relation == event.relation
    listed = curve(ComposedEvent((event,) * m, relation=event.relation))
    for ours, theirs in zip(curve(together).micro, listed.micro, strict=True):
        # One event of up to 3 parts is rounded up once a part, a list of m at each: by a micro-nat at most.
        assert (ours is None) == (theirs is None)
        assert ours is None or 0 <= theirs - ours <= 3 * m
    assert curve(together).delta_atto == listed.delta_atto


def test_a_gaussian_grows_by_the_root_and_a_pure_loss_by_m() -> None:
    assert curve(per_unit(PureEvent(0.5), 4)).epsilon(0.0) == 2.0
    root = curve(GaussianEvent(0.25 * math.sqrt(4))).epsilon(1e-6)
    assert curve(per_unit(GaussianEvent(0.25), 4)).epsilon(1e-6) == pytest.approx(root, abs=1e-5)


@pytest.mark.parametrize("m", [0, -1, 2.0, True], ids=str)
def test_a_number_of_records_that_is_none_is_refused(m: int) -> None:
    with pytest.raises(PrivacyError, match="1 record or more"):
        per_unit(PureEvent(1.0), m)


def test_a_sum_over_units_is_not_one_records_loss() -> None:
    event = SampledGaussianEvent(0.1, 1.0)
    assert per_unit(event, 1) == event
    with pytest.raises(PrivacyError, match="not one record's"):
        per_unit(event, 2)
