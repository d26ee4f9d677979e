"""Events are plain values: they survive JSON unchanged, and nothing that is not an event is read as one."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadp.errors import PrivacyError
from cadp.privacy.accountant import Curve
from cadp.privacy.events import (
    RELATION,
    ZERO_OUT,
    ComposedEvent,
    DeltaEvent,
    Event,
    GaussianEvent,
    PureEvent,
    SampledGaussianEvent,
)

NUMBERS = st.floats(0, allow_infinity=False)
COUNTS = st.integers(1, 10**6)


def events(relation: str) -> st.SearchStrategy[Event]:
    kinds = (GaussianEvent, PureEvent, DeltaEvent)
    leaf = st.one_of(*(st.builds(kind, NUMBERS, COUNTS, relation=st.just(relation)) for kind in kinds))
    return st.recursive(
        leaf,
        lambda part: st.builds(ComposedEvent, st.lists(part, max_size=3).map(tuple), relation=st.just(relation)),
        max_leaves=6,
    )


@given(st.one_of(events(RELATION), events(ZERO_OUT)))
@settings(max_examples=200, deadline=None)
def test_events_survive_json(event: Event) -> None:
    assert Event.from_json(json.loads(json.dumps(event.to_json()))) == event


@pytest.mark.parametrize("kind", [GaussianEvent, PureEvent, DeltaEvent])
@pytest.mark.parametrize("wrong", [-1e-9, math.nan, math.inf, "1", None, True, 10**400])
def test_impossible_sizes_are_refused(kind: type[Event], wrong: object) -> None:
    with pytest.raises(PrivacyError):
        kind(wrong)


@pytest.mark.parametrize("wrong", [0, -1, 1.0, True, None])
def test_impossible_counts_are_refused(wrong: object) -> None:
    with pytest.raises(PrivacyError):
        PureEvent(1.0, wrong)


def test_a_long_integer_is_not_rounded_down() -> None:
    assert PureEvent(2**53 + 1).epsilon >= 2**53 + 1


def test_relations_do_not_mix() -> None:
    with pytest.raises(PrivacyError, match="zero-out"):
        ComposedEvent((PureEvent(1.0), PureEvent(1.0, relation=ZERO_OUT)))
    with pytest.raises(PrivacyError, match="add-remove"):
        PureEvent(1.0, relation="add-remove")


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"kind": "laplace"},
        {"kind": ["pure"]},
        {"kind": None},
        {"epsilon": None},
        {"epsilon": 1e400},
        {"extra": 1},
        {"relation": "none"},
        {"count": 0},
    ],
)
def test_what_nobody_wrote_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(PrivacyError):
        Event.from_json({**PureEvent(1.0).to_json(), **change})


@pytest.mark.parametrize(
    "event",
    [
        GaussianEvent(1.0, 3, relation=ZERO_OUT),
        SampledGaussianEvent(0.1, 2.0, 3, relation=ZERO_OUT),
        PureEvent(1.0, 3, relation=ZERO_OUT),
        DeltaEvent(1e-9, 3, relation=ZERO_OUT),
        ComposedEvent((PureEvent(1.0, relation=ZERO_OUT),), relation=ZERO_OUT),
    ],
    ids=lambda event: event.kind,
)
def test_nothing_that_is_missing_is_made_up(event: Event) -> None:
    # A default would read a zero-out event that lost its relation as replace-one, and three mechanisms as one.
    for name in event.to_json():
        stored = event.to_json()
        del stored[name]
        with pytest.raises(PrivacyError):
            Event.from_json(stored)


def test_a_stored_composition_does_not_mix_relations() -> None:
    stored = ComposedEvent((PureEvent(1.0), GaussianEvent(0.5))).to_json()
    for part in (0, 1):
        mixed = json.loads(json.dumps(stored))
        mixed["events"][part]["relation"] = ZERO_OUT
        with pytest.raises(PrivacyError, match="zero-out"):
            Event.from_json(mixed)
    with pytest.raises(PrivacyError, match="replace-one"):
        Event.from_json({**stored, "relation": ZERO_OUT})


@pytest.mark.parametrize("wrong", [None, 1, "pure", [], [PureEvent(1.0).to_json()]], ids=str)
def test_what_is_no_object_is_refused(wrong: object) -> None:
    with pytest.raises(PrivacyError):
        Event.from_json(wrong)
    with pytest.raises(PrivacyError):
        Curve.from_json(wrong)


def test_wrong_parts_are_refused() -> None:
    for parts in (None, "x", [1], [{"kind": "composed"}]):
        with pytest.raises(PrivacyError):
            Event.from_json({**ComposedEvent(()).to_json(), "events": parts})


def test_a_bottomless_event_is_refused() -> None:
    event: dict[str, object] = ComposedEvent(()).to_json()
    for _ in range(400):
        event = {**ComposedEvent(()).to_json(), "events": [event]}
    with pytest.raises(PrivacyError, match="deep"):
        Event.from_json(event)
