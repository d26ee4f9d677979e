"""Ranges: who works on one, under which token, and the one seal that each can have.

A lease is only an appointment: it keeps two workers from doing the same range twice. Soundness is the token's and the
seal's: every lease of a range has a higher token than the last, only the highest can seal, and a range has one seal.

So leases may go by a wall clock: the server's in PostgreSQL, whatever the workers' clocks say, and the machine's where
SQLite is. A clock that is set forward ends them early and a range is done twice, of which one output is deleted unread;
one that is set back makes others wait longer, but never for more than `LONGEST_LEASE`: a lease that seems to last
longer was taken under another clock and is over.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row, select

from cadp.errors import LedgerError, SealConflict
from cadp.ledger import notices, schema
from cadp.ledger.canonical import name_text, plain, utc_now
from cadp.ledger.charges import Charge, get_charge, move
from cadp.ledger.commitment import commitment_of, facts_of, with_nonce
from cadp.ledger.owner import is_dead
from cadp.ledger.states import State

LONGEST_LEASE = 3600.0
"""Seconds. Work that takes longer renews its lease."""

_MOST_RANGES = 2**31


class LeaseHeld(SealConflict):
    """Another owner's lease is alive. `owner` holds it for `seconds_left` more unless it is renewed."""

    def __init__(self, message: str, owner: str, seconds_left: float) -> None:
        super().__init__(message)
        self.owner = owner
        self.seconds_left = seconds_left


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to seal one range, until somebody gets a higher token.

    Attributes:
        charge: the charge that paid.
        range_id: which range.
        token: the fencing token; higher for every lease of the range.
        owner: who holds it.
        expires: when others may take over, seconds since the epoch.
        seconds: how long it was asked for.
    """

    charge: str
    range_id: int
    token: int
    owner: str
    expires: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Seal:
    """The one output of a charge and range.

    Attributes:
        charge: the charge that paid.
        range_id: which range.
        key: the object that holds it.
        sha256: the object's digest.
        facts: what later steps need to know of it.
        at: when it was sealed, ISO 8601 UTC.
    """

    charge: str
    range_id: int
    key: str
    sha256: str
    facts: Mapping[str, object]
    at: str


def take_lease(
    connection: Connection, charge_id: str, range_id: int, owner: str, seconds: float, *, now: float
) -> Lease:
    """Give `owner` the range: it is new, expired, the owner's own, or its owner's process is dead.

    `now` is the ledger's time, seconds since the epoch.

    Raises:
        LeaseHeld: another owner's lease is alive; says whose and for how long.
        SealConflict: the range is sealed already.
        LedgerError: the charge is not running, or the lease makes no sense.
    """
    name_text("an owner", owner)
    if type(range_id) is not int or not 0 <= range_id < _MOST_RANGES or not 0 < seconds <= LONGEST_LEASE:
        raise LedgerError(
            f"a lease needs a range >= 0 and up to {LONGEST_LEASE:g} seconds, not {range_id!r} and {seconds!r}"
        )
    charge = _require_running(connection, charge_id, range_id)
    if _seal_row(connection, charge_id, range_id) is not None:
        raise SealConflict(f"range {range_id} of charge {charge_id} is sealed already: read its seal instead")
    lease = Lease(charge_id, range_id, token=1, owner=owner, expires=_whole_ms(now + seconds), seconds=seconds)
    row = _range_row(connection, charge_id, range_id)
    if row is None:
        connection.execute(schema.ranges.insert().values(**_columns(lease)))
        return lease
    left = row.expires_ms / 1000 - now
    if 0 < left <= LONGEST_LEASE and row.owner != owner and not is_dead(row.owner):
        raise LeaseHeld(
            f"range {range_id} of charge {charge_id} is leased to {row.owner} for another {left:.0f} s: wait for it",
            owner=row.owner,
            seconds_left=left,
        )
    lease = replace(lease, token=row.token + 1)
    _update(connection, lease)
    if row.owner != owner:
        why = "its process is gone" if left > 0 else f"its lease ended {-left:.0f} s ago"
        notices.write(
            connection,
            "takeover",
            f"range {range_id} of {charge.key} goes from {row.owner} ({why}) to {owner} under token {lease.token}; "
            f"what the former has not sealed is deleted unread, the charge stays the same",
            population=charge.population,
            release=charge.release,
        )
    return lease


def renew_lease(connection: Connection, lease: Lease, *, now: float) -> Lease:
    """Keep a lease for as long again from now.

    Raises:
        SealConflict: somebody took the range over.
        LedgerError: the charge is not running any more.
    """
    _require_running(connection, lease.charge, lease.range_id)
    _require_token(connection, lease)
    renewed = replace(lease, expires=_whole_ms(now + lease.seconds))
    _update(connection, renewed)
    return renewed


def seal_range(connection: Connection, lease: Lease, *, key: str, sha256: str, facts: Mapping[str, object]) -> Seal:
    """Make an object the output of the range; the same object again gives the same seal.

    Raises:
        SealConflict: the lease was lost, or the range has another output.
        LedgerError: the charge is not running.
    """
    row = _seal_row(connection, lease.charge, lease.range_id)
    if row is not None:
        if (row.key, row.sha256) == (key, sha256):
            return _seal(row)
        raise SealConflict(
            f"range {lease.range_id} of charge {lease.charge} is sealed as {row.key}: "
            f"{key} is another attempt's output and must be deleted unread"
        )
    _require_running(connection, lease.charge, lease.range_id)
    _require_token(connection, lease)
    name_text("a seal's key", key, longest=1000)
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise LedgerError(f"a seal needs a SHA-256 in lower-case hex, not {sha256!r}")
    seal = Seal(lease.charge, lease.range_id, key=key, sha256=sha256, facts=plain(facts), at=utc_now())
    connection.execute(
        schema.seals.insert().values(
            charge_id=seal.charge,
            range_id=seal.range_id,
            token=lease.token,
            key=seal.key,
            sha256=seal.sha256,
            facts=with_nonce(seal.facts),
            at=seal.at,
        )
    )
    return seal


def find_seals(connection: Connection, charge_id: str) -> dict[int, Seal]:
    """Return the seals of a charge by range, in order."""
    get_charge(connection, charge_id)
    query = select(schema.seals).where(schema.seals.c.charge_id == charge_id).order_by(schema.seals.c.range_id)
    return {row.range_id: _seal(row) for row in connection.execute(query)}


def find_seal(connection: Connection, charge_id: str, range_id: int) -> Seal | None:
    """Return the seal of one range, or None."""
    row = _seal_row(connection, charge_id, range_id)
    return None if row is None else _seal(row)


def find_tokens(connection: Connection, charge_id: str) -> dict[int, int]:
    """Return the newest token of every range of a charge that was ever leased."""
    query = select(schema.ranges.c.range_id, schema.ranges.c.token).where(schema.ranges.c.charge_id == charge_id)
    return {row.range_id: row.token for row in connection.execute(query)}


def finish_charge(connection: Connection, charge_id: str, ranges: int) -> None:
    """Take a running charge whose ranges 0 … `ranges` − 1 are all sealed to SEALED; finished already is fine.

    Raises:
        LedgerError: a range is not sealed, a seal is beyond them, or the charge is not running.
    """
    if type(ranges) is not int or not 0 < ranges <= _MOST_RANGES:
        raise LedgerError(f"a charge has at least one range, not {ranges!r}")
    sealed = set(find_seals(connection, charge_id))
    missing, extra = sorted(set(range(ranges)) - sealed), sorted(sealed - set(range(ranges)))
    if missing or extra:
        what, which = ("not sealed", missing) if missing else ("sealed but not planned", extra)
        raise LedgerError(
            f"charge {charge_id} cannot finish with {ranges} ranges: {len(which)} are {what}, the first is {which[0]}"
        )
    if get_charge(connection, charge_id).state not in (State.SEALED, State.PUBLISHED):
        digest = commitment_of(connection, charge_id)
        said = {"ranges": ranges} if digest is None else {"ranges": ranges, "seals": digest}
        move(connection, charge_id, State.SEALED, "finish", said)


def _require_running(connection: Connection, charge_id: str, range_id: int) -> Charge:
    charge = get_charge(connection, charge_id)
    if charge.state is not State.RUNNING:
        raise LedgerError(f"range {range_id} of charge {charge_id} may not be worked on: the charge is {charge.state}")
    return charge


def _require_token(connection: Connection, lease: Lease) -> None:
    row = _range_row(connection, lease.charge, lease.range_id)
    if row is None or row.token != lease.token or row.owner != lease.owner:
        held = "nobody" if row is None else f"{row.owner} under token {row.token}"
        raise SealConflict(
            f"the lease of {lease.owner} on range {lease.range_id} of charge {lease.charge} (token {lease.token}) is "
            f"lost to {held}: its output must be deleted unread"
        )


def _range_row(connection: Connection, charge_id: str, range_id: int) -> Row[Any] | None:
    table = schema.ranges.c
    return connection.execute(
        select(schema.ranges).where(table.charge_id == charge_id, table.range_id == range_id)
    ).one_or_none()


def _seal_row(connection: Connection, charge_id: str, range_id: int) -> Row[Any] | None:
    table = schema.seals.c
    return connection.execute(
        select(schema.seals).where(table.charge_id == charge_id, table.range_id == range_id)
    ).one_or_none()


def _columns(lease: Lease) -> dict[str, object]:
    return {
        "charge_id": lease.charge,
        "range_id": lease.range_id,
        "token": lease.token,
        "owner": lease.owner,
        "expires_ms": round(lease.expires * 1000),
    }


def _update(connection: Connection, lease: Lease) -> None:
    table = schema.ranges.c
    this = (table.charge_id == lease.charge) & (table.range_id == lease.range_id)
    connection.execute(schema.ranges.update().where(this).values(**_columns(lease)))


def _whole_ms(seconds: float) -> float:
    return math.floor(seconds * 1000) / 1000


def _seal(row: Row[Any]) -> Seal:
    return Seal(row.charge_id, row.range_id, key=row.key, sha256=row.sha256, facts=facts_of(row), at=row.at)
