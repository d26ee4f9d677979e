"""Recovery: a ledger that was restored, copied or lost learns again, from its anchors, what it has forgotten.

The anchors are the truth. What has no anchor was never handed out, so no mechanism ran under it; what has one counts,
whether or not the database knows it. A recovery re-enters the missing entries word for word, with every charge in them;
burns each release whose work the database cannot vouch for any more (`Book.fate` says which and why); and appends one
`recover` entry that says all of it, anchored like any other before anybody is told. It lowers no charge, and nothing
that it burns can ever be published.

All of it is one write transaction. A crash before its commit leaves the ledger refused, as it was; one between commit
and anchor heals when the ledger is next opened or recovered. Two recoveries have one effect: the second finds nothing
missing, or, if they ran on two copies, loses the anchor to the first and begins anew. Writers need not be stopped: one
that still works on another copy cannot anchor its next step, and stops there.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from cadp.errors import LedgerError, LedgerMissing, LedgerRewound
from cadp.ledger import notices, schema
from cadp.ledger.anchored import claimed_identity, read_anchors
from cadp.ledger.anchors import AnchoredChain
from cadp.ledger.book import Book
from cadp.ledger.booked import Paid
from cadp.ledger.canonical import utc_now
from cadp.ledger.chain import Entry, append, entries, head
from cadp.ledger.comparing import differences
from cadp.ledger.divergence import Difference, Recovery, anchored_book, compare, outcome, require_shown
from cadp.ledger.engine import Database
from cadp.ledger.migrate import require_ledger, upgrade
from cadp.ledger.parsing import parsed
from cadp.ledger.reentry import add_links, drop_beyond, write_book
from cadp.ledger.rows import read_tables
from cadp.ledger.tokens import forgotten, newest_tokens
from cadp.store import Store

_ATTEMPTS = 5


def survey(database: Database, anchors: Store, *, rebuild: bool = False) -> Recovery:
    """Return what `recover` would do now; nothing is changed.

    Raises:
        LedgerError: as for `recover`.
    """
    _require(database, rebuild=rebuild)
    identity, truth = claimed_identity(anchors), read_anchors(anchors)
    given = _given(anchors, identity)

    def look(connection: Connection) -> Recovery:
        local = _local(connection, database, identity)
        found = compare(local, truth)
        if found is not None:
            return outcome(anchored_book(truth), found)
        return outcome(Book(local), _nothing_but_leases(local)) if forgotten(connection, given) else Recovery()

    if rebuild:
        return outcome(anchored_book(truth), _everything(truth)) if truth else Recovery()
    return database.read(look)


def recover(database: Database, anchors: Store, *, rebuild: bool = False, shown: Recovery | None = None) -> Recovery:
    """Bring back from the anchors what the database lacks; nothing missing changes nothing. Safe to repeat.

    Args:
        database: the ledger, even one that opening refuses.
        anchors: its anchors.
        rebuild: make the ledger anew from the anchors alone: there is no copy of it.
        shown: what `survey` returned, if that and nothing else may be done.

    Raises:
        LedgerMissing: there is no ledger, and `rebuild` was not asked for.
        LedgerRewound: the anchors have a gap, were changed, or belong to another ledger.
        LedgerError: `rebuild` was asked for and there is a ledger; its tables contradict its own chain; or something
            else than `shown` would be done.
    """
    _require(database, rebuild=rebuild)
    for _ in range(_ATTEMPTS - 1):
        # Another copy may anchor an entry after the anchors were read: the difference is another one then.
        with suppress(LedgerRewound):
            return _recover(database, anchors, rebuild=rebuild, shown=shown)
    return _recover(database, anchors, rebuild=rebuild, shown=shown)


def _recover(database: Database, anchors: Store, *, rebuild: bool, shown: Recovery | None) -> Recovery:
    identity, truth = claimed_identity(anchors), read_anchors(anchors)
    if rebuild and not database.exists():
        database.create(lambda connection: _rebuild(connection, identity, truth, shown))
    given = _given(anchors, identity)
    done = database.write(lambda connection: _restore(connection, database, identity, truth, given=given, shown=shown))
    AnchoredChain(database, anchors).check_opening()
    return done


def _require(database: Database, *, rebuild: bool) -> None:
    exists = database.exists()
    if rebuild and exists:
        raise LedgerError(
            f"there is a ledger at {database.shown}: `cadp budget recover` without --rebuild keeps what it has; "
            f"nothing was changed"
        )
    log = None if database.address.path is None else Path(f"{database.address.path}-wal")
    if rebuild and log is not None and log.exists():
        raise LedgerError(f"{log} is left of the lost ledger and would be read into the new one: move it away first")
    if not rebuild and not exists:
        raise LedgerMissing(
            f"there is no ledger at {database.shown}: put a copy of it back first, however old; if there is none at "
            f"all, `cadp budget recover --rebuild` makes it from the anchors and burns all that is not published"
        )


def _rebuild(connection: Connection, identity: str, truth: list[Entry], shown: Recovery | None) -> None:
    """Make the tables of a ledger of this identity, its chain still empty."""
    upgrade(connection)
    at = str(truth[0].value["at"]) if truth else utc_now()
    connection.execute(schema.ledger.insert().values(only=1, id=identity, at=at))
    if truth:
        _enter(connection, truth, _everything(truth), shown)
    else:
        # It was lost before its first entry was anchored: nothing was ever handed out.
        append(connection, "ledger", {"id": identity}, at=at)


def _restore(
    connection: Connection,
    database: Database,
    identity: str,
    truth: list[Entry],
    *,
    given: Mapping[tuple[str, int], int],
    shown: Recovery | None,
) -> Recovery:
    local = _local(connection, database, identity)
    found = compare(local, truth)
    if found is None and not forgotten(connection, given):
        return _settled_before(local, truth)
    # An older copy may have an older schema; the chain's `upgrade` entry may be among what is missing.
    before = require_ledger(connection, database.shown)
    if before < schema.REVISION:
        upgrade(connection)
    if found is None:
        return _enter(connection, local, _nothing_but_leases(local), shown, upgraded_from=before)
    return _enter(connection, truth, found, shown, upgraded_from=before)


def _given(anchors: Store, identity: str) -> dict[tuple[str, int], int]:
    return newest_tokens(key for key, _ in anchors.child(identity).list())


def _everything(truth: list[Entry]) -> Difference:
    return Difference(common=0, first=1, missing=truth, dropped=[])


def _nothing_but_leases(local: list[Entry]) -> Difference:
    """No entry is missing, but leases are, and with them perhaps seals: whatever runs is burned."""
    return Difference(common=len(local), first=len(local) + 1, missing=[], dropped=[])


def _enter(
    connection: Connection,
    truth: list[Entry],
    found: Difference,
    shown: Recovery | None,
    upgraded_from: str = schema.REVISION,
) -> Recovery:
    book = anchored_book(truth)
    # A recovery adds to the book below, but nothing that changes what became of the charges before it.
    told = outcome(book, found)
    require_shown(told, shown)
    drop_beyond(connection, found.common)
    add_links(connection, found.missing)
    if max(upgraded_from, book.schema) < schema.REVISION:
        append(connection, "upgrade", {"from": upgraded_from, "to": schema.REVISION})
        _read_newest(connection, book)
    seq = append(
        connection,
        "recover",
        {
            "reentered": [found.first, len(truth)],
            "dropped": [dict(entry) for entry in told.dropped],
            "burned": list(told.burned),
            "lost_seals": list(told.lost_seals),
        },
    )
    _read_newest(connection, book)
    write_book(connection, book)
    _tell(connection, book, told)
    _require_consistent(connection, book)
    return replace(told, entry=seq)


def _local(connection: Connection, database: Database, identity: str) -> list[Entry]:
    """Return the database's own chain, as far as it got."""
    require_ledger(connection, database.shown)
    if connection.scalar(select(schema.ledger.c.id)) != identity:
        raise LedgerRewound(
            f"the anchors belong to ledger {identity}, {database.shown} is another: set CADP_LEDGER and CADP_ANCHORS "
            f"to the same ledger's; nothing was changed"
        )
    return list(entries(connection))


def _settled_before(local: list[Entry], truth: list[Entry]) -> Recovery:
    """Return what an earlier attempt committed, if it has not been anchored yet: it is this one's result too."""
    for entry in reversed(local[len(truth) :]):
        if entry.kind == "recover":
            return _told_by(entry, local)
    return Recovery()


def _told_by(entry: Entry, local: list[Entry]) -> Recovery:
    """Return what a `recover` entry of this ledger tells.

    Raises:
        LedgerError: it was changed.
    """
    book = Book(local)

    def read(value: Mapping[str, Any]) -> Recovery:
        body = value["body"]
        return Recovery(
            entry=entry.seq,
            reentered=(body["reentered"][0], body["reentered"][1]),
            dropped=tuple(body["dropped"]),
            burned=tuple(body["burned"]),
            releases=tuple(dict.fromkeys(book.charges[identity].release for identity in body["burned"])),
            lost_seals=tuple(body["lost_seals"]),
        )

    return parsed(f"entry {entry.seq} of the chain", entry.text, read)


def _read_newest(connection: Connection, book: Book) -> None:
    newest = head(connection)
    if newest is not None:
        book.read(newest)


def _tell(connection: Connection, book: Book, told: Recovery) -> None:
    first, last = told.reentered or (1, 0)
    text = f"entries {first} to {last} came back from the anchors" if first <= last else "leases had been forgotten"
    if told.dropped:
        text += f"; {len(told.dropped)} entries of this copy that were never anchored are gone"
    if told.releases:
        text += f"; burned: {', '.join(told.releases)}"
    notices.write(connection, "recovered", text)
    burned: dict[str, list[Paid]] = {}
    for identity in told.burned:
        charge = book.charges[identity]
        burned.setdefault(charge.release, []).append(charge)
    for release, charges in burned.items():
        text = (
            f"{release} is burned (the ledger lost a part of its past): its {len(charges)} charges stay spent and it "
            f"can never be published"
        )
        notices.write(connection, "burned", text, population=charges[0].population, release=release)


def _require_consistent(connection: Connection, book: Book) -> None:
    problems = [*book.problems, *differences(read_tables(connection), book)]
    if problems:
        raise LedgerError(
            f"this copy's tables are not what its own chain says, so nothing was recovered: {'; '.join(problems)}. "
            f"Put another copy back, or move this one away and run `cadp budget recover --rebuild`"
        )
