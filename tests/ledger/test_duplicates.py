"""A request that is delivered twice, late, or after everything else finds its own work or is refused, never more."""

from collections.abc import Callable

import pytest

from cadp.errors import LedgerError
from cadp.ledger import Ledger, State
from cadp.privacy.accountant import PureEvent
from tests.ledger.places import SHA, add_population

ORDER = [State.RESERVED, State.RUNNING, State.SEALED, State.PUBLISHED]
STEPS = ("population", "charge", "begin", "lease", "renew", "seal", "finish", "publish")
LEASES = ("lease", "renew", "seal")
"""Steps that the chain does not hold."""


def requests(ledger: Ledger) -> dict[str, Callable[[], object]]:
    """Every request of a release's life, to be sent in this order; each may be sent again."""
    held: dict[str, object] = {}

    def charge() -> object:
        held["charge"] = made = ledger.charge("people", release="r", key="k", event=PureEvent(1.0), parameters={})
        return made.id

    def lease() -> object:
        held["lease"] = ledger.lease(str(held["id"]), 0, "worker", 60)
        return None

    def remember() -> object:
        held["id"] = charge()
        return held["id"]

    return {
        "population": lambda: add_population(ledger).name,
        "charge": remember,
        "begin": lambda: ledger.begin(str(held["id"])).id,
        "lease": lease,
        "renew": lambda: ledger.renew(held["lease"]) and None,  # type: ignore[arg-type]
        "seal": lambda: ledger.seal(held["lease"], key="a", sha256=SHA, facts={}),  # type: ignore[arg-type]
        "finish": lambda: ledger.finish(str(held["id"]), 1),
        "publish": lambda: ledger.publish("r"),
    }


@pytest.mark.parametrize("late", STEPS)
@pytest.mark.parametrize("after", STEPS)
def test_a_request_that_comes_again_later_changes_nothing(ledger: Ledger, late: str, after: str) -> None:
    if STEPS.index(after) < STEPS.index(late):
        late, after = after, late
    sent = requests(ledger)
    given: dict[str, object] = {}
    for step in STEPS[: STEPS.index(after) + 1]:
        given[step] = sent[step]()
    charged = ledger.budget("people").charged
    history, states = ledger.history(), [charge.state for charge in ledger.charges()]
    for _ in range(2):
        try:
            again = sent[late]()
        except LedgerError:
            # Refused, since the charge has moved on; only these can be.
            assert late in {"begin", "lease", "renew"}
        else:
            assert again == given[late]
    assert ledger.budget("people").charged == charged
    assert ledger.history() == history
    assert [charge.state for charge in ledger.charges()] == states
    # And the life goes on from there.
    for step in STEPS[STEPS.index(after) + 1 :]:
        sent[step]()
    assert [charge.state for charge in ledger.charges()] == [State.PUBLISHED]
    assert [entry.kind for entry in ledger.history()] == ["ledger", *(step for step in STEPS if step not in LEASES)]
    ledger.check()


def test_an_answer_that_is_given_again_is_the_first_one(ledger: Ledger) -> None:
    add_population(ledger)
    gate = ledger.charge("people", release="r", key="gate", event=PureEvent(0.1), parameters={})
    ledger.begin(gate.id)
    for value in (1, 2, 1):
        assert ledger.answer(gate.id, {"value": value}) == {"value": 1}
    ledger.publish("r")
    assert ledger.answer(gate.id, {"value": 3}) == {"value": 1}
    with pytest.raises(LedgerError):
        ledger.burn("r", "too late")
    assert [charge.state for charge in ledger.charges()] == [State.PUBLISHED]


def test_a_burn_that_comes_again_and_everything_after_it(ledger: Ledger) -> None:
    add_population(ledger)
    sent = requests(ledger)
    for step in ("charge", "begin", "lease", "seal"):
        sent[step]()
    ledger.burn("r", "a test")
    length = len(ledger.history())
    ledger.burn("r", "again")
    for step in ("charge", "begin", "lease", "renew", "finish", "publish"):
        with pytest.raises(LedgerError):
            sent[step]()
    # The object that was sealed is still the one that was sealed; nothing can be made of it.
    assert sent["seal"]() is not None
    assert len(ledger.history()) == length
    assert ledger.budget("people").charged == 1.0
