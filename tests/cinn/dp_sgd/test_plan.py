"""The plan of DP-SGD is what is charged: events of what runs, split by a public rule, within what the spec gives."""

from dataclasses import replace
from fractions import Fraction

import pytest

from cadp.cinn.architecture import Coupled, Couplings, Whitening
from cadp.cinn.dp_sgd.plan import SAMPLING_RATE, SHARE, SgdPlan
from cadp.cinn.model_plan import ModelPlan
from cadp.errors import PrivacyError
from cadp.privacy.accountant import calibrate_gaussian, curve
from cadp.privacy.events import RELATION, ZERO_OUT, ComposedEvent, SampledGaussianEvent
from cadp.privacy.sampled import smoothed
from tests.cinn.dp_sgd.checks import ARCHITECTURE, plan_of

SHAPE = (12, 12, 1)


def planned(epsilon: float, delta: float = 1e-5, **changes: object) -> ModelPlan:
    given = {"shape": SHAPE, "classes": 3, "units": 2000, "fraction": 1.0, **changes}
    return ModelPlan.calibrate(epsilon, delta, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("epsilon", [0.7, 1.0, 4.0, 10.0, 30.0])
@pytest.mark.parametrize("records", [1, 3])
def test_both_parts_cost_at_most_what_the_spec_gives_and_hardly_less(epsilon: float, records: int) -> None:
    plan = planned(epsilon, max_records_per_unit=records)
    assert plan.couplings is not None
    spent = curve(plan.event()).epsilon(1e-5)
    assert 0.98 * epsilon < spent <= epsilon
    less = replace(plan.couplings, sigma=plan.couplings.sigma - plan.couplings.radius // 64)
    assert (curve(plan.moments.event()) + curve(less.event())).epsilon(1e-5) > epsilon
    assert plan.event() == ComposedEvent(events=(plan.moments.event(), plan.couplings.event()))
    companions = (plan.moments.zero_out_event(), plan.couplings.zero_out_event())
    assert plan.zero_out_event() == ComposedEvent(events=companions, relation=ZERO_OUT)
    assert curve(plan.zero_out_event()).epsilon(1e-5) < spent


def test_the_split_is_by_the_public_rule() -> None:
    plan, whole = planned(4.0), calibrate_gaussian(4.0, 1e-5)
    square = sum(query.event().mu ** 2 for query in plan.moments.queries)
    assert square == pytest.approx((1 - SHARE) * whole**2, rel=1e-3)
    assert planned(4.0, fraction=None).couplings is None
    assert planned(4.0, fraction=None).event() == planned(4.0, fraction=None).moments.event()


def test_the_event_is_of_what_runs() -> None:
    """q, steps and the multiplier of one unit's bound, never of twice it, and a continuous stand-in for the lattice."""
    plan = plan_of(noise=1.5)
    event = plan.event()
    assert isinstance(event, SampledGaussianEvent)
    assert (event.sampling_rate, event.steps, event.relation) == (plan.sampling_rate, plan.steps, RELATION)
    exact = Fraction(smoothed(float(plan.sigma), 1.0)) / plan.radius
    assert Fraction(event.noise_multiplier) <= exact < Fraction(plan.sigma, plan.radius)
    assert event.noise_multiplier == pytest.approx(1.5, rel=1e-12)
    companion = plan.zero_out_event()
    assert isinstance(companion, SampledGaussianEvent)
    assert companion == replace(event, relation=ZERO_OUT)
    assert curve(plan.event(3)).micro[0] < curve(event).micro[0]


def test_a_fraction_of_the_units_is_divided_by_but_not_amplified() -> None:
    whole, half = planned(4.0).couplings, planned(4.0, fraction=0.5).couplings
    assert whole is not None and half is not None
    assert half.event() == whole.event()
    assert half.expected_batch == whole.expected_batch / 2 == SAMPLING_RATE * 1000


def test_wide_noise_gets_a_coarser_lattice_and_too_wide_noise_is_refused() -> None:
    fine, wide = (SgdPlan.with_noise(noise, ARCHITECTURE, 100) for noise in (2.0, 2000.0))
    assert wide.step > fine.step
    assert wide.clip_norm == fine.clip_norm == 1.0
    assert wide.noise_multiplier == 2000
    with pytest.raises(PrivacyError, match="noise"):
        SgdPlan.with_noise(1e9, ARCHITECTURE, 100)
    with pytest.raises(PrivacyError, match="buys no"):
        planned(1e-4)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sampling_rate": 0.0}, "sampling rate"),
        ({"sampling_rate": 1e-30}, "sampling rate"),
        ({"sampling_rate": 1.5}, "sampling rate"),
        ({"steps": 0}, "steps"),
        ({"radius": 0}, "radius"),
        ({"sigma": 0}, "noise"),
        ({"sigma": 1 << 41}, "noise"),
        ({"fraction": 0.0}, "fraction"),
        ({"records": 257}, "records"),
        ({"input_step": 0.3}, "powers of two"),
        ({"architecture": Coupled(Whitening(SHAPE, 3, 4, 6, 4), Couplings(2, 8, mixing="orthogonal"))}, "mixing"),
    ],
    ids=lambda value: (
        value if isinstance(value, str) else next(iter(value)) + "=" + str(next(iter(value.values())))[:12]
    ),
)
def test_what_the_mechanism_relies_on_is_checked(change: dict[str, object], named: str) -> None:
    with pytest.raises(PrivacyError, match=named):
        replace(plan_of(), **change)  # type: ignore[arg-type]


def test_parameters_say_everything_public() -> None:
    plan = planned(4.0)
    assert plan.couplings is not None
    said = plan.parameters()
    assert said["kind"] == "moments, dp-sgd"
    assert said["moments"] == plan.moments.parameters()
    couplings = said["couplings"]
    assert isinstance(couplings, dict)
    assert couplings["clip_norm"] * couplings["noise_multiplier"] == plan.couplings.sigma * plan.couplings.step
    assert couplings["sampling_rate"] == SAMPLING_RATE
    assert "DP-SGD" in plan.words()
