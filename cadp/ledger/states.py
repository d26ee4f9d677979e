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
        allowed = ", ".join(sorted(_NEXT[now])) or "no other state"
        raise LedgerError(f"charge {charge} is {now} and cannot become {wanted}: from {now} it can become {allowed}")
