"""The state machine: every step that is not drawn is refused, naming both states."""

from collections.abc import Callable
from itertools import product

import pytest

from cadp.errors import LedgerError
from cadp.ledger import Charge, Ledger, State
from cadp.privacy.accountant import PureEvent
from tests.ledger.places import add_population, seal_all

Pay = Callable[..., Charge]

REACH: dict[State, Callable[[Ledger, Charge], object]] = {
    State.RESERVED: lambda ledger, charge: None,
    State.RUNNING: lambda ledger, charge: ledger.begin(charge.id),
    State.SEALED: seal_all,
    State.PUBLISHED: lambda ledger, charge: (seal_all(ledger, charge), ledger.publish("r/1")),
    State.BURNED: lambda ledger, charge: ledger.burn("r/1", "a test"),
    State.VOIDED: lambda ledger, charge: ledger.void(charge.id),
}
STEPS: dict[State, Callable[[Ledger, Charge], object]] = {
    State.RUNNING: lambda ledger, charge: ledger.begin(charge.id),
    State.SEALED: lambda ledger, charge: ledger.answer(charge.id, {"accurate": True}),
    State.PUBLISHED: lambda ledger, charge: ledger.publish("r/1"),
    State.BURNED: lambda ledger, charge: ledger.burn("r/1", "a test"),
    State.VOIDED: lambda ledger, charge: ledger.void(charge.id),
}
ALLOWED = {
    (State.RESERVED, State.RUNNING),
    (State.RESERVED, State.BURNED),
    (State.RESERVED, State.VOIDED),
    (State.RUNNING, State.SEALED),
    (State.RUNNING, State.BURNED),
    (State.SEALED, State.PUBLISHED),
    (State.SEALED, State.BURNED),
}
# Said again, these are done already.
REPEATABLE = {(state, state) for state in (State.RUNNING, State.PUBLISHED, State.BURNED, State.VOIDED)}


@pytest.mark.parametrize(("now", "then"), list(product(REACH, STEPS)))
def test_every_pair_of_states(ledger: Ledger, pay: Pay, now: State, then: State) -> None:
    charge = pay("a")
    REACH[now](ledger, charge)
    entries = len(ledger.history())
    if (now, then) in ALLOWED | REPEATABLE:
        STEPS[then](ledger, charge)
        assert ledger.charges()[0].state is then
        assert len(ledger.history()) == entries + (now is not then)
    else:
        # A voided charge is no longer a release's: publishing or burning finds nothing.
        named = "no charge" if now is State.VOIDED and then in (State.PUBLISHED, State.BURNED) else f"{now}.*{then}"
        with pytest.raises(LedgerError, match=named):
            STEPS[then](ledger, charge)
        assert ledger.charges()[0].state is now
        assert len(ledger.history()) == entries
    ledger.check()


def test_only_a_voided_charge_gives_budget_and_key_back(ledger: Ledger, pay: Pay) -> None:
    first = pay("a", event=PureEvent(8.0))
    ledger.void(first.id)
    assert ledger.budget("people").left == 8.0
    second = pay("a", event=PureEvent(6.0), another=True)
    assert second.id != first.id
    ledger.begin(second.id)
    ledger.burn("r/1", "the disk broke")
    assert ledger.budget("people").left == 2.0
    assert [charge.state for charge in ledger.charges()] == [State.VOIDED, State.BURNED]
    assert ledger.budget("people").releases[0].charges == 1
    with pytest.raises(LedgerError, match="r/1 is closed"):
        pay("b")
    ledger.check()


def test_publishing_needs_every_charge_of_the_release_sealed(ledger: Ledger, pay: Pay) -> None:
    add_population(ledger, "holdout")
    seal_all(ledger, pay("a"))
    gate = ledger.charge("holdout", release="r/1", key="gate", event=PureEvent(0.1), parameters={})
    with pytest.raises(LedgerError, match=r"gate.* is RESERVED and cannot become PUBLISHED"):
        ledger.publish("r/1")
    ledger.begin(gate.id)
    ledger.answer(gate.id, {"correct": 7})
    ledger.publish("r/1")
    assert {charge.state for charge in ledger.charges(release="r/1")} == {State.PUBLISHED}


def test_finish_wants_exactly_the_planned_ranges(ledger: Ledger, pay: Pay) -> None:
    charge = pay("a")
    ledger.begin(charge.id)
    for index in (0, 2):
        ledger.seal(ledger.lease(charge.id, index, "me", 60), key=f"k{index}", sha256="0" * 64, facts={})
    with pytest.raises(LedgerError, match="1 are not sealed, the first is 1"):
        ledger.finish(charge.id, 3)
    with pytest.raises(LedgerError, match="not sealed, the first is 1"):
        ledger.finish(charge.id, 2)
    with pytest.raises(LedgerError, match="sealed but not planned, the first is 2"):
        ledger.finish(charge.id, 1)
    ledger.seal(ledger.lease(charge.id, 1, "me", 60), key="k1", sha256="0" * 64, facts={})
    ledger.finish(charge.id, 3)
    ledger.finish(charge.id, 3)
    assert list(ledger.seals(charge.id)) == [0, 1, 2]
    ledger.check()


def test_the_first_answer_stays(ledger: Ledger, pay: Pay) -> None:
    gate = pay("gate", event=PureEvent(0.1))
    assert ledger.recorded_answer(gate.id) is None
    ledger.begin(gate.id)
    assert ledger.answer(gate.id, {"correct": 871, "of": 1000}) == {"correct": 871, "of": 1000}
    assert ledger.answer(gate.id, {"correct": 999, "of": 1000}) == {"correct": 871, "of": 1000}
    assert ledger.recorded_answer(gate.id) == {"correct": 871, "of": 1000}
    ledger.check()


def test_unknown_things_are_errors(ledger: Ledger, pay: Pay) -> None:
    for call in (ledger.begin, ledger.void, ledger.seals, lambda c: ledger.lease(c, 0, "me", 1)):
        with pytest.raises(LedgerError, match="no charge 'nothing'"):
            call("nothing")
    with pytest.raises(LedgerError, match="release r/9 has no charge"):
        ledger.publish("r/9")


def test_a_refused_step_says_what_to_do(ledger: Ledger, pay: Pay) -> None:
    charge = pay("a")
    ledger.burn("r/1", "given up")
    for act in (lambda: ledger.begin(charge.id), lambda: ledger.publish("r/1"), lambda: ledger.answer(charge.id, {})):
        with pytest.raises(LedgerError, match="this version was abandoned; give the release a new version"):
            act()


def test_finishing_what_another_process_has_published_is_done(ledger: Ledger, pay: Pay) -> None:
    charge = pay("a")
    seal_all(ledger, charge, ranges=2)
    ledger.publish("r/1")
    entries = len(ledger.history())
    ledger.finish(charge.id, 2)
    with pytest.raises(LedgerError, match="sealed but not planned"):
        ledger.finish(charge.id, 1)
    assert len(ledger.history()) == entries
    assert ledger.charges()[0].state is State.PUBLISHED
