"""The audit of a ledger: the chain is the book, and everything else must follow from it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select

from cadp.errors import LedgerError, LedgerRewound
from cadp.ledger import schema
from cadp.ledger.accounts import headroom, read_account
from cadp.ledger.anchored import fetch
from cadp.ledger.book import Book
from cadp.ledger.booked import Paid
from cadp.ledger.canonical import canonical, digest
from cadp.ledger.chain import ENTRY_SCHEMA, GENESIS, Entry, anchor_key
from cadp.ledger.states import State
from cadp.store import Store


class Inconsistent(LedgerError):
    """The ledger is not what its chain says; `problems` holds every difference."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("the ledger's tables are not what its chain says: " + "; ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check has seen and found right."""

    entries: int
    populations: int
    charges: int
    seals: int


def check(
    connection: Connection, links: list[Entry], anchors: Store, anchored: list[str], damage: Sequence[str] = ()
) -> Checked:
    """Check the chain, every anchor, and the tables against the chain, in one snapshot.

    Every curve is computed again from its event, every cap from its limit, every sum from its charges.

    Other processes may go on meanwhile: `anchored` is what was listed before the snapshot that `links` opened.
    `damage` is what the database itself found wrong.

    Raises:
        LedgerRewound: a link or an anchor is missing or differs.
        Inconsistent: the tables are not what the chain says; every difference is listed.
    """
    _check_links(links, str(connection.scalar(select(schema.ledger.c.id))))
    _check_anchors(links, anchors, anchored)
    book = Book(links)
    problems = [*damage, *book.problems, *differences(connection, book)]
    if problems:
        raise Inconsistent(problems)
    seals = len(connection.execute(select(schema.seals.c.charge_id)).all())
    return Checked(entries=len(links), populations=len(book.populations), charges=len(book.charges), seals=seals)


def differences(connection: Connection, book: Book) -> Iterator[str]:
    """Yield what the tables say otherwise than the book."""
    yield from _populations(connection, book)
    yield from _charges(connection, book)
    yield from _answers(connection, book)
    yield from _accounts(connection, book)
    yield from _seals(connection, book)


def _check_links(links: list[Entry], identity: str) -> None:
    previous = GENESIS
    for seq, link in enumerate(links, start=1):
        value = link.value
        said = (value["schema"], value["ledger"], value["seq"], value["kind"], value["prev"])
        if link.hash != digest(link.text) or said != (ENTRY_SCHEMA, identity, seq, link.kind, previous):
            raise LedgerRewound(f"entry {seq} of the chain was changed or removed: put back the newest copy")
        previous = link.hash


def _check_anchors(links: list[Entry], anchors: Store, anchored: list[str]) -> None:
    for link, found in zip(links, fetch(anchors, (link.anchor_key for link in links)), strict=True):
        if found is None:
            raise LedgerRewound(f"the anchor of entry {link.seq} is missing at {anchors.url}")
        if found != link.anchor:
            raise LedgerRewound(f"the anchor of entry {link.seq} at {anchors.url} is another entry's")
    beyond = sorted(key for key in anchored if key > anchor_key(len(links)))
    if beyond:
        raise LedgerRewound(f"{anchors.url} has {len(beyond)} anchors beyond entry {len(links)}, the first {beyond[0]}")


def _populations(connection: Connection, book: Book) -> Iterator[str]:
    found = {row.name: row for row in connection.execute(select(schema.populations))}
    yield from _names("population", set(found), set(book.populations))
    for name, owed in book.populations.items():
        row, columns = found.get(name), owed.body.keys() - {"caps", "cap_delta_atto"}
        if row and (row.seq != owed.seq or any(getattr(row, key) != owed.body[key] for key in columns)):
            yield f"population {name} was changed"


def _charges(connection: Connection, book: Book) -> Iterator[str]:
    query = select(schema.charges, schema.populations.c.name.label("population")).join(schema.populations)
    found = {row.id: row for row in connection.execute(query)}
    yield from _names("charge", set(found), set(book.charges))
    for identity, charge in book.charges.items():
        row = found.get(identity)
        if row is None:
            continue
        if not _is_said(row, charge, reentered=charge.seq in book.reentered):
            yield f"charge {identity} was changed"
        if row.state != charge.state:
            yield f"charge {identity} is {row.state}, the chain says {charge.state}"


def _is_said(row: Row[Any], charge: Paid, *, reentered: bool) -> bool:
    body = charge.body
    named = (row.seq, row.population, row.release, row.key, row.parameters_sha256)
    said = (charge.seq, *(body[key] for key in ("population", "release", "key", "parameters_sha256")))
    # What an older version's anchor does not hold did not come back with it.
    unknown = reentered and "parameters" not in body and row.parameters == canonical({})
    costs = (row.event, row.curve) == (canonical(body["event"]), canonical(charge.cost.to_json()))
    return named == said and costs and (unknown or digest(row.parameters) == row.parameters_sha256)


def _answers(connection: Connection, book: Book) -> Iterator[str]:
    found = {row.charge_id: row for row in connection.execute(select(schema.answers))}
    said = {identity: charge for identity, charge in book.charges.items() if charge.answer is not None}
    yield from _names("answer", set(found), set(said))
    for identity, charge in said.items():
        row = found.get(identity)
        if row and (row.seq, json.loads(row.answer)) != (charge.answered, charge.answer):
            yield f"the answer of charge {identity} was changed"


def _accounts(connection: Connection, book: Book) -> Iterator[str]:
    rows = connection.execute(select(schema.accounts, schema.populations.c.name).join(schema.populations)).all()
    yield from _names("the account of population", {row.name for row in rows}, set(book.populations))
    for row in rows:
        account, owed = read_account(connection, row.population_id), book.populations.get(row.name)
        if owed is None:
            continue
        if (account.caps, account.cap_delta_atto) != (owed.caps, owed.cap_delta_atto):
            yield f"the caps of population {row.name} were changed"
        total = owed.total.curve
        if account.spent != total:
            yield f"population {row.name} does not add up: its total is not the sum of its charges"
        if (row.spent_delta_atto, row.headroom) != (total.delta_atto, str(headroom(total, owed.caps))):
            yield f"what population {row.name} has left was changed"
        if owed.is_over:
            yield f"population {row.name} is over its limit"


def _seals(connection: Connection, book: Book) -> Iterator[str]:
    sealed: dict[str, set[int]] = {}
    query = select(schema.seals, schema.ranges.c.token.label("newest")).join(schema.ranges)
    for row in connection.execute(query):
        sealed.setdefault(row.charge_id, set()).add(row.range_id)
        if row.token > row.newest:
            yield f"range {row.range_id} of charge {row.charge_id} was sealed under a token that nobody had"
    for identity in sealed:
        charge = book.charges.get(identity)
        if charge is None or charge.state in (State.RESERVED, State.VOIDED):
            yield f"charge {identity} has seals but never began"
    for identity, charge in book.charges.items():
        if charge.ranges is None:
            continue
        found = sealed.get(identity, set())
        if found != (set() if identity in book.lost_seals else set(range(charge.ranges))):
            lost = ", which a recovery lost" if identity in book.lost_seals else ""
            yield f"charge {identity} finished with {charge.ranges} ranges{lost}, {len(found)} have a seal"


def _names(what: str, found: set[str], said: set[str]) -> Iterator[str]:
    for name in sorted(said - found):
        yield f"{what} {name} is missing"
    for name in sorted(found - said):
        yield f"{what} {name} is in no entry"
