"""The ledger against a model that is a dictionary and integers: any order of calls, crashes and reopenings.

After every step: what is charged covers everything that could be read, stays within the limit, and is what the model
says; the filter's decision is recomputed from every charge with integers and checked in exact fractions.
"""

import math
import shutil
import tempfile
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from cadp.errors import BudgetExceeded, LedgerError, SealConflict, StoreError
from cadp.ledger import Lease, Ledger, State
from cadp.privacy.accountant import DeltaEvent, Event, GaussianEvent, PureEvent, cap, curve, delta_cap
from tests.ledger.places import SHA, FilePlace, Place, ServerPlace, add_population
from tests.ledger.test_crash import Faulty

LIMIT = (4.0, 1e-6)
CAPS, CAP_DELTA = cap(*LIMIT), delta_cap(LIMIT[1])
EVENTS: list[Event] = [
    PureEvent(0.5),
    PureEvent(1.0),
    PureEvent(1.7),
    PureEvent(0.0),
    GaussianEvent(0.3),
    GaussianEvent(0.6),
    DeltaEvent(4e-8),
]
RELEASES = ["r/1", "r/2", "r/3"]


@dataclass
class Modelled:
    """A charge as it should be."""

    release: str
    key: str
    event: Event
    state: State = State.RESERVED
    tokens: dict[int, int] = field(default_factory=dict)
    seals: dict[int, str] = field(default_factory=dict)


def exact_sum(events: list[Event]) -> tuple[list[Fraction | None], Fraction]:
    """Sum curves in nats, from the events themselves."""
    curves = [curve(event) for event in events]
    totals: list[Fraction | None] = []
    for j in range(len(CAPS)):
        parts = [c.micro[j] for c in curves]
        totals.append(None if None in parts else Fraction(sum(p for p in parts if p is not None), 10**6))
    return totals, Fraction(sum(c.delta_atto for c in curves), 10**18)


def within(events: list[Event]) -> bool:
    totals, delta = exact_sum(events)
    some = any(t is not None and t <= Fraction(c, 10**6) for t, c in zip(totals, CAPS, strict=True))
    return some and delta <= Fraction(CAP_DELTA, 10**18) <= Fraction(LIMIT[1])


class LedgerMachine(RuleBasedStateMachine):
    """Everything that a caller can do, in any order."""

    template: Place
    charges: Bundle[str] = Bundle("charges")
    leases: Bundle[Lease] = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.place = self.template.copy(Path(tempfile.mkdtemp(prefix="model-")) / "it")
        self.model: dict[str, Modelled] = {}
        self.anchors = Faulty(self.place.anchors)
        self.ledger = self.open()

    def open(self) -> Ledger:
        return Ledger.open(self.place.url, self.anchors)  # type: ignore[arg-type]

    def teardown(self) -> None:
        self.anchors.switch.clear()
        self.ledger.check()
        self.ledger.close()
        if isinstance(self.place, ServerPlace):
            self.place.server.drop(self.place.database)
        shutil.rmtree(self.place.folder.parent)

    def counted(self) -> list[Event]:
        return [charge.event for charge in self.model.values() if charge.state is not State.VOIDED]

    def live(self, release: str) -> list[Modelled]:
        return [c for c in self.model.values() if c.release == release and c.state is not State.VOIDED]

    @initialize()
    def population(self) -> None:
        add_population(self.ledger, "people", *LIMIT)

    @rule(
        target=charges,
        release=st.sampled_from(RELEASES),
        key=st.sampled_from("abcdef"),
        event=st.sampled_from(EVENTS),
        fault=st.sampled_from(["", "", "", "before", "after"]),
    )
    def charge(self, release: str, key: str, event: Event, fault: str) -> Any:
        same = next((i for i, c in self.model.items() if c.key == key and c.state is not State.VOIDED), None)
        ends = {c.state for c in self.live(release)} & {State.PUBLISHED, State.BURNED}
        self.anchors.switch["fault"] = fault
        request = {"release": release, "key": key, "event": event, "parameters": {"of": key}}
        try:
            if State.BURNED in ends:
                with pytest.raises(LedgerError, match="abandoned"):
                    self.ledger.charge("people", **request)
                return multiple()
            if same is not None:
                found = self.model[same]
                if (found.release, found.event) != (release, event):
                    with pytest.raises(LedgerError, match="charged already"):
                        self.ledger.charge("people", **request)
                else:
                    assert self.ledger.charge("people", **request).id == same
                return multiple()
            if ends:
                with pytest.raises(LedgerError, match="is closed"):
                    self.ledger.charge("people", **request)
                return multiple()
            if not within([*self.counted(), event]):
                with pytest.raises(BudgetExceeded):
                    self.ledger.charge("people", **request)
                return multiple()
            try:
                identity = self.ledger.charge("people", **request).id
                assert not fault
            except StoreError:
                # Committed, not anchored, not handed out; the caller asks again once the store is back.
                assert fault
                self.anchors.switch.clear()
                identity = self.ledger.charge("people", **request).id
            self.model[identity] = Modelled(release, key, event)
            return identity
        finally:
            self.anchors.switch.clear()

    def step(self, allowed: bool, act: Any) -> bool:
        if allowed:
            act()
            return True
        with pytest.raises(LedgerError):
            act()
        return False

    @rule(identity=charges)
    def begin(self, identity: str) -> None:
        charge = self.model[identity]
        if self.step(charge.state in (State.RESERVED, State.RUNNING), lambda: self.ledger.begin(identity)):
            charge.state = State.RUNNING

    @rule(identity=charges)
    def void(self, identity: str) -> None:
        charge = self.model[identity]
        if self.step(charge.state in (State.RESERVED, State.VOIDED), lambda: self.ledger.void(identity)):
            charge.state = State.VOIDED

    @rule(target=leases, identity=charges, index=st.integers(0, 1), owner=st.sampled_from(["me", "you"]))
    def lease(self, identity: str, index: int, owner: str) -> Any:
        charge = self.model[identity]
        taken: list[Lease] = []
        allowed = charge.state is State.RUNNING and index not in charge.seals
        # A lease of no time is over at once: every request takes over, and every earlier holder is a zombie.
        if not self.step(allowed, lambda: taken.append(self.ledger.lease(identity, index, owner, 0.0001))):
            return multiple()
        assert taken[0].token == charge.tokens.get(index, 0) + 1
        charge.tokens[index] = taken[0].token
        return taken[0]

    @rule(lease=consumes(leases), key=st.sampled_from(["x", "y"]))
    def seal(self, lease: Lease, key: str) -> None:
        charge = self.model[lease.charge]
        call = lambda: self.ledger.seal(lease, key=key, sha256=SHA, facts={})  # noqa: E731
        if lease.range_id in charge.seals:
            if charge.seals[lease.range_id] == key:
                call()
            else:
                with pytest.raises(SealConflict):
                    call()
        elif self.step(charge.state is State.RUNNING and charge.tokens[lease.range_id] == lease.token, call):
            charge.seals[lease.range_id] = key

    @rule(identity=charges, ranges=st.integers(1, 2))
    def finish(self, identity: str, ranges: int) -> None:
        charge = self.model[identity]
        finished = charge.state in (State.SEALED, State.PUBLISHED)
        allowed = set(charge.seals) == set(range(ranges)) and (finished or charge.state is State.RUNNING)
        if self.step(allowed, lambda: self.ledger.finish(identity, ranges)) and not finished:
            charge.state = State.SEALED

    @rule(identity=charges, value=st.integers())
    def answer(self, identity: str, value: int) -> None:
        charge = self.model[identity]
        recorded = self.ledger.recorded_answer(identity)
        if recorded is not None:
            assert self.ledger.answer(identity, {"value": value}) == recorded
        elif self.step(charge.state is State.RUNNING, lambda: self.ledger.answer(identity, {"value": value})):
            assert self.ledger.recorded_answer(identity) == {"value": value}
            charge.state = State.SEALED

    @rule(release=st.sampled_from(RELEASES))
    def publish(self, release: str) -> None:
        live = self.live(release)
        allowed = bool(live) and all(c.state in (State.SEALED, State.PUBLISHED) for c in live)
        if self.step(allowed, lambda: self.ledger.publish(release)):
            for charge in live:
                charge.state = State.PUBLISHED

    @rule(release=st.sampled_from(RELEASES))
    def burn(self, release: str) -> None:
        live = self.live(release)
        allowed = bool(live) and all(c.state is not State.PUBLISHED for c in live)
        if self.step(allowed, lambda: self.ledger.burn(release, "the model says so")):
            for charge in live:
                charge.state = State.BURNED

    @rule()
    def reopen(self) -> None:
        self.ledger.close()
        self.ledger = self.open()

    @invariant()
    def it_is_what_the_model_says(self) -> None:
        found = {charge.id: charge for charge in self.ledger.charges()}
        assert {i: c.state for i, c in found.items()} == {i: c.state for i, c in self.model.items()}
        for identity, charge in self.model.items():
            seals = self.ledger.seals(identity)
            assert {i: s.key for i, s in seals.items()} == charge.seals
            # What could be read was paid for.
            assert not seals or found[identity].state is not State.VOIDED

    @invariant()
    def it_never_passes_the_limit(self) -> None:
        if not self.ledger.populations():
            return
        budget = self.ledger.budget("people")
        assert within(self.counted())
        assert budget.charged <= LIMIT[0]
        total = sum((curve(event) for event in self.counted()), curve(PureEvent(0.0)))
        assert budget.charged == total.epsilon(LIMIT[1])
        assert math.isclose(budget.left, LIMIT[0] - budget.charged, abs_tol=1e-6)


def test_any_order_of_calls_keeps_the_ledger_and_the_model_equal(template: Place) -> None:
    machine = type("Machine", (LedgerMachine,), {"template": template})
    # A copy of a database takes longer than a copy of a file.
    examples = 40 if isinstance(template, FilePlace) else 15
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
