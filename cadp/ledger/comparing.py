"""The tables against the book: every difference, and every value that the chain cannot have written."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from sqlalchemy import Row

from cadp.errors import LedgerError
from cadp.ledger import schema
from cadp.ledger.accounts import account_of, headroom
from cadp.ledger.book import Book
from cadp.ledger.booked import Owed, Paid
from cadp.ledger.canonical import canonical, digest
from cadp.ledger.commitment import commitment
from cadp.ledger.rows import Rows, Tables
from cadp.ledger.states import State

_SLACK = timedelta(minutes=1)
"""How long before its entry a row may have been written down: earlier versions read the clock twice."""

_POPULATION = tuple(column.name for column in schema.populations.c if column.name not in ("id", "at", "seq"))


def differences(tables: Tables, book: Book) -> Iterator[str]:
    """Yield what the tables say otherwise than the book."""
    if [_happened(row.at, book.at) for row in tables.ledger] != [True]:
        yield "when the ledger was made was changed"
    yield from _populations(tables.populations, book)
    yield from _charges(tables.charges, book)
    yield from _answers(tables.answers, book)
    yield from _accounts(tables.accounts, book)
    yield from _seals(tables.seals, book)


def _populations(rows: Rows, book: Book) -> Iterator[str]:
    found = {row.name: row for row in rows}
    yield from _names("population", found, book.populations)
    for name, owed in book.populations.items():
        row = found.get(name)
        if row and not (row.seq == owed.seq and _happened(row.at, owed.at) and _has_values(row, owed)):
            yield f"population {name} was changed"


def _has_values(row: Row[Any], owed: Owed) -> bool:
    return all(getattr(row, column) == owed.body.get(column) for column in _POPULATION)


def _charges(rows: Rows, book: Book) -> Iterator[str]:
    found = {row.id: row for row in rows}
    yield from _names("charge", found, book.charges)
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
    said = (charge.seq, *(body.get(key) for key in ("population", "release", "key", "parameters_sha256")))
    # What an older version's anchor does not hold did not come back with it.
    unknown = reentered and "parameters" not in body and row.parameters == canonical({})
    costs = (row.event, row.curve) == (canonical(body["event"]), canonical(charge.cost.to_json()))
    meant = unknown or digest(str(row.parameters)) == row.parameters_sha256
    return named == said and costs and meant and _happened(row.at, charge.at)


def _answers(rows: Rows, book: Book) -> Iterator[str]:
    found = {row.charge_id: row for row in rows}
    said = {identity: charge for identity, charge in book.charges.items() if charge.answer is not None}
    yield from _names("answer", found, said)
    for identity, charge in said.items():
        row = found.get(identity)
        if row is None:
            continue
        same = (row.seq, row.answer) == (charge.answered, canonical(charge.answer))
        if not (same and _happened(row.at, charge.answered_at)):
            yield f"the answer of charge {identity} was changed"


def _accounts(rows: Rows, book: Book) -> Iterator[str]:
    yield from _names("the account of population", {row.name for row in rows}, book.populations)
    for row in rows:
        owed = book.populations.get(row.name)
        if owed is not None:
            yield from _account(row, owed)
            if owed.is_over:
                yield f"population {row.name} is over its limit"


def _account(row: Row[Any], owed: Owed) -> Iterator[str]:
    try:
        account = account_of(row)
    except LedgerError as error:
        yield str(error)
        return
    if (account.caps, account.cap_delta_atto) != (owed.caps, owed.cap_delta_atto):
        yield f"the caps of population {row.name} were changed"
    total = owed.total.curve
    if account.spent != total:
        yield f"population {row.name} does not add up: its total is not the sum of its charges"
    if (row.spent_delta_atto, row.headroom) != (total.delta_atto, str(headroom(total, owed.caps))):
        yield f"what population {row.name} has left was changed"


def _seals(rows: Rows, book: Book) -> Iterator[str]:
    sealed = {identity: list(found) for identity, found in groupby(rows, lambda row: row.charge_id)}
    for row in rows:
        # A range that is sealed is never leased again: its token stays the one that it was sealed under.
        if row.token != row.newest:
            yield f"range {row.range_id} of charge {row.charge_id} was sealed under a token that nobody had"
    for identity in sealed:
        charge = book.charges.get(identity)
        if charge is None or charge.state in (State.RESERVED, State.VOIDED):
            yield f"charge {identity} has seals but never began"
    for identity, charge in book.charges.items():
        if charge.ranges is None:
            continue
        found = sealed.get(identity, [])
        wanted = set() if identity in book.lost_seals else set(range(charge.ranges))
        if {row.range_id for row in found} != wanted:
            lost = ", which a recovery lost" if identity in book.lost_seals else ""
            yield f"charge {identity} finished with {charge.ranges} ranges{lost}, {len(found)} have a seal"
        elif wanted and charge.seals is not None and commitment(found) != charge.seals:
            yield f"a seal of charge {identity} was changed after the charge was finished"


def _happened(stored: object, said: str) -> bool:
    """Return whether a row's time is its entry's."""
    if stored == said:
        return True
    try:
        before = datetime.fromisoformat(said) - datetime.fromisoformat(str(stored))
    except (ValueError, TypeError):
        return False
    return timedelta(0) <= before <= _SLACK


def _names(what: str, found: Iterable[str], said: Iterable[str]) -> Iterator[str]:
    found, said = set(found), set(said)
    for name in sorted(said - found):
        yield f"{what} {name} is missing"
    for name in sorted(found - said, key=str):
        yield f"{what} {name} is in no entry"
