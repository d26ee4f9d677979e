"""How charges end: a gate's one answer, and a release that is published or abandoned."""

from collections.abc import Mapping

from sqlalchemy import Connection, select

from cadp.errors import LedgerError
from cadp.ledger import notices, schema
from cadp.ledger.canonical import canonical, name_text, plain, utc_now
from cadp.ledger.chain import append
from cadp.ledger.charges import Charge, find_charges, get_charge, set_state
from cadp.ledger.parsing import mapping, parsed
from cadp.ledger.states import State, require_step


def record_answer(connection: Connection, charge_id: str, answer: Mapping[str, object]) -> dict[str, object]:
    """Record a gate's answer, which seals its charge, and return it; if there is one already, return that one.

    Raises:
        LedgerError: the charge is not running.
    """
    recorded = find_answer(connection, charge_id)
    if recorded is not None:
        return recorded
    require_step(charge_id, get_charge(connection, charge_id).state, State.SEALED)
    value = plain(answer)
    now = utc_now()
    seq = append(connection, "answer", {"charge": charge_id, "answer": value}, at=now)
    connection.execute(schema.answers.insert().values(charge_id=charge_id, answer=canonical(value), at=now, seq=seq))
    set_state(connection, [charge_id], State.SEALED)
    return value


def find_answer(connection: Connection, charge_id: str) -> dict[str, object] | None:
    """Return the recorded answer of a gate's charge."""
    text = connection.scalar(select(schema.answers.c.answer).where(schema.answers.c.charge_id == charge_id))
    if text is None:
        return None
    return parsed(f"the answer of charge {charge_id}", text, mapping)


def publish_release(connection: Connection, release: str) -> None:
    """Take every charge of a release from SEALED to PUBLISHED; published already is fine.

    Raises:
        LedgerError: it has no charge, or one that is not sealed: unfinished or abandoned.
    """
    charges = _live(connection, release)
    moving = [charge for charge in charges if charge.state is not State.PUBLISHED]
    for charge in moving:
        require_step(f"{charge.id} ({charge.key})", charge.state, State.PUBLISHED)
    if moving:
        _close(connection, release, "publish", moving=moving, state=State.PUBLISHED, more={})
        text = f"{release} is bound to become public: its {len(charges)} charges are final"
        notices.write(connection, "published", text, population=charges[0].population, release=release)


def burn_release(connection: Connection, release: str, reason: str) -> None:
    """Give a release up: what it charged is spent for ever and it can never be published; done already is fine.

    Raises:
        LedgerError: it has no charge, or it is published.
    """
    name_text("a reason", reason, longest=500)
    moving = [charge for charge in _live(connection, release) if charge.state is not State.BURNED]
    for charge in moving:
        require_step(f"{charge.id} ({charge.key})", charge.state, State.BURNED)
    if moving:
        _close(connection, release, "burn", moving=moving, state=State.BURNED, more={"reason": reason})
        text = f"{release} is burned ({reason}): its {len(moving)} charges stay spent and it can never be published"
        notices.write(connection, "burned", text, population=moving[0].population, release=release)


def _live(connection: Connection, release: str) -> list[Charge]:
    charges = [c for c in find_charges(connection, release=release) if c.state is not State.VOIDED]
    if not charges:
        raise LedgerError(f"release {release} has no charge in this ledger")
    return charges


def _close(
    connection: Connection, release: str, kind: str, *, moving: list[Charge], state: State, more: Mapping[str, object]
) -> None:
    identities = [charge.id for charge in moving]
    append(connection, kind, {"release": release, "charges": identities, **more})
    set_state(connection, identities, state)
