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

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection, select

from cadp.errors import LedgerError, LedgerMissing, LedgerRewound
from cadp.ledger import notices, schema
from cadp.ledger.anchored import claimed_identity, read_anchors
from cadp.ledger.anchors import AnchoredChain
from cadp.ledger.book import Book
from cadp.ledger.canonical import utc_now
from cadp.ledger.chain import Entry, append, entries, head
from cadp.ledger.checking import differences
from cadp.ledger.divergence import Difference, Recovery, anchored_book, compare, outcome
from cadp.ledger.engine import Database
from cadp.ledger.migrate import require_ledger, upgrade
from cadp.ledger.reentry import add_links, drop_beyond, write_book
from cadp.store import Store

_ATTEMPTS = 5


def survey(database: Database, anchors: Store, *, rebuild: bool = False) -> Recovery:
    """Return what `recover` would do now; nothing is changed.

    Raises:
        LedgerError: as for `recover`.
    """
    _require(database, rebuild=rebuild)
    truth = read_anchors(anchors)
    local = [] if rebuild else database.read(lambda c: _local(c, database, claimed_identity(anchors)))
    found = compare(local, truth)
    return Recovery() if found is None else outcome(anchored_book(truth), found)


def recover(database: Database, anchors: Store, *, rebuild: bool = False) -> Recovery:
    """Bring back from the anchors what the database lacks; nothing missing changes nothing. Safe to repeat.

    Args:
        database: the ledger, even one that opening refuses.
        anchors: its anchors.
        rebuild: make the ledger anew from the anchors alone: there is no copy of it.

    Raises:
        LedgerMissing: there is no ledger, and `rebuild` was not asked for.
        LedgerRewound: the anchors have a gap, were changed, or belong to another ledger.
        LedgerError: `rebuild` was asked for and there is a ledger; or its tables contradict its own chain.
    """
    _require(database, rebuild=rebuild)
    for _ in range(_ATTEMPTS - 1):
        # Another copy may anchor an entry after the anchors were read: the difference is another one then.
        with suppress(LedgerRewound):
            return _recover(database, anchors, rebuild=rebuild)
    return _recover(database, anchors, rebuild=rebuild)


def _recover(database: Database, anchors: Store, *, rebuild: bool) -> Recovery:
    identity, truth = claimed_identity(anchors), read_anchors(anchors)
    if rebuild and not database.exists():
        database.create(lambda connection: _rebuild(connection, identity, truth))
    done = database.write(lambda connection: _restore(connection, database, identity, truth))
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


def _rebuild(connection: Connection, identity: str, truth: list[Entry]) -> None:
    """Make the tables of a ledger of this identity, its chain still empty."""
    upgrade(connection)
    at = truth[0].value["at"] if truth else utc_now()
    connection.execute(schema.ledger.insert().values(only=1, id=identity, at=at))
    if truth:
        _enter(connection, truth, Difference(common=0, first=1, missing=truth, dropped=[]))
    else:
        # It was lost before its first entry was anchored: nothing was ever handed out.
        append(connection, "ledger", {"id": identity})


def _restore(connection: Connection, database: Database, identity: str, truth: list[Entry]) -> Recovery:
    local = _local(connection, database, identity)
    found = compare(local, truth)
    if found is None:
        return _settled_before(local, truth)
    # An older copy may have an older schema; the chain's `upgrade` entry may be among what is missing.
    before = require_ledger(connection, database.shown)
    if before < schema.REVISION:
        upgrade(connection)
    return _enter(connection, truth, found, upgraded_from=before)


def _enter(
    connection: Connection, truth: list[Entry], found: Difference, upgraded_from: str = schema.REVISION
) -> Recovery:
    book = anchored_book(truth)
    drop_beyond(connection, found.common)
    add_links(connection, found.missing)
    if max(upgraded_from, book.schema) < schema.REVISION:
        append(connection, "upgrade", {"from": upgraded_from, "to": schema.REVISION})
        _read_newest(connection, book)
    told = outcome(book, found)
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
            book, body = Book(local), entry.value["body"]
            return Recovery(
                entry=entry.seq,
                reentered=(body["reentered"][0], body["reentered"][1]),
                dropped=tuple(body["dropped"]),
                burned=tuple(body["burned"]),
                releases=tuple(dict.fromkeys(book.charges[identity].release for identity in body["burned"])),
                lost_seals=tuple(body["lost_seals"]),
            )
    return Recovery()


def _read_newest(connection: Connection, book: Book) -> None:
    newest = head(connection)
    if newest is not None:
        book.read(newest)


def _tell(connection: Connection, book: Book, told: Recovery) -> None:
    first, last = told.reentered or (0, 0)
    text = f"entries {first} to {last} came back from the anchors"
    if told.dropped:
        text += f"; {len(told.dropped)} entries of this copy that were never anchored are gone"
    if told.releases:
        text += f"; burned: {', '.join(told.releases)}"
    notices.write(connection, "recovered", text)
    for release in told.releases:
        charges = [book.charges[identity] for identity in told.burned if book.charges[identity].release == release]
        text = (
            f"{release} is burned (the ledger lost a part of its past): its {len(charges)} charges stay spent and it "
            f"can never be published"
        )
        notices.write(connection, "burned", text, population=charges[0].population, release=release)


def _require_consistent(connection: Connection, book: Book) -> None:
    problems = [*book.problems, *differences(connection, book)]
    if problems:
        raise LedgerError(
            f"this copy's tables are not what its own chain says, so nothing was recovered: {'; '.join(problems)}. "
            f"Put another copy back, or move this one away and run `cadp budget recover --rebuild`"
        )
