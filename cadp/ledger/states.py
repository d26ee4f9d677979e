"""The states of a charge and the only ways between them.

    RESERVED ──begin──▶ RUNNING ──finish / answer──▶ SEALED ──publish──▶ PUBLISHED
       │ └────burn───────┬─┴─────────burn──────────────┘
       void              ▼
       ▼               BURNED
    VOIDED

Everything but VOIDED counts for ever: time refunds nothing. A charge can be voided only before it began, since a
mechanism that may have run may have been seen.
"""

from enum import StrEnum

from cadp.errors import LedgerError


class State(StrEnum):
    """Where a charge stands."""

    RESERVED = "RESERVED"
    RUNNING = "RUNNING"
    SEALED = "SEALED"
    PUBLISHED = "PUBLISHED"
    BURNED = "BURNED"
    VOIDED = "VOIDED"


_NEXT = {
    State.RESERVED: {State.RUNNING, State.BURNED, State.VOIDED},
    State.RUNNING: {State.SEALED, State.BURNED},
    State.SEALED: {State.PUBLISHED, State.BURNED},
    State.PUBLISHED: set[State](),
    State.BURNED: set[State](),
    State.VOIDED: set[State](),
}


def require_step(charge: str, now: State, wanted: State) -> None:
    """Refuse a step that the state machine does not have.

    Raises:
        LedgerError: names the charge and both states.
    """
    if wanted not in _NEXT[now]:
        raise LedgerError(f"charge {charge} is {now} and cannot become {wanted}: {_next_step(now)}")


def stored_state(text: str) -> State:
    """Return the state that a row holds.

    Raises:
        LedgerError: there is no such state.
    """
    try:
        return State(text)
    except ValueError as error:
        raise LedgerError(
            f"a charge was changed: there is no state {text!r}; stop every writer, run `cadp budget verify` and put "
            f"back the newest copy"
        ) from error


def _next_step(now: State) -> str:
    match now:
        case State.BURNED:
            return "this version was abandoned; give the release a new version"
        case State.PUBLISHED:
            return "this version is published for good; give the release a new version"
        case State.VOIDED:
            return "it was taken back; charge its key again"
        case _:
            return f"from {now} it can become {', '.join(sorted(_NEXT[now]))}"
