"""The audit of a ledger: the chain is the book, and everything else must follow from it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, select

from cadp.errors import LedgerError, LedgerRewound, ObjectMissing
from cadp.ledger import schema
from cadp.ledger.accounts import headroom, read_account
from cadp.ledger.canonical import canonical, digest
from cadp.ledger.chain import GENESIS, Entry, anchor_key
from cadp.ledger.engine import file_problems
from cadp.ledger.states import State
from cadp.privacy.accountant import Curve
from cadp.store import Store


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check has seen and found right."""

    entries: int
    populations: int
    charges: int
    seals: int


@dataclass
class _Book:
    """What the chain says, replayed."""

    populations: dict[str, dict[str, Any]] = field(default_factory=dict)
    charges: dict[str, dict[str, Any]] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    ranges: dict[str, int] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)


def check(connection: Connection, links: list[Entry], anchors: Store, anchored: list[str]) -> Checked:
    """Check the file, the chain, every anchor, and the tables against the chain, in one snapshot.

    Other processes may go on meanwhile: `anchored` is what was listed before the snapshot that `links` opened.

    Raises:
        LedgerRewound: a link or an anchor is missing or differs.
        LedgerError: the tables are not what the chain says; every difference is listed.
    """
    _check_links(links)
    _check_anchors(links, anchors, anchored)
    book = _replay(links)
    problems = [
        *file_problems(connection),
        *_populations(connection, book),
        *_charges(connection, book),
        *_accounts(connection, book),
        *_seals(connection, book),
    ]
    if problems:
        raise LedgerError("the ledger's tables are not what its chain says: " + "; ".join(problems))
    seals = len(connection.execute(select(schema.seals.c.charge_id)).all())
    return Checked(entries=len(links), populations=len(book.populations), charges=len(book.charges), seals=seals)


def _check_links(links: list[Entry]) -> None:
    previous = GENESIS
    for seq, link in enumerate(links, start=1):
        value = link.value
        named = (value["seq"], value["kind"], value["prev"])
        if link.hash != digest(link.text) or named != (seq, link.kind, previous) or link.seq != seq:
            raise LedgerRewound(f"entry {seq} of the chain was changed or removed: put back the newest copy")
        previous = link.hash


def _check_anchors(links: list[Entry], anchors: Store, anchored: list[str]) -> None:
    for link in links:
        try:
            found = anchors.get(link.anchor_key)
        except ObjectMissing as error:
            raise LedgerRewound(f"the anchor of entry {link.seq} is missing at {anchors.url}") from error
        if found != link.anchor:
            raise LedgerRewound(f"the anchor of entry {link.seq} at {anchors.url} is another entry's")
    beyond = sorted(key for key in anchored if key > anchor_key(len(links)))
    if beyond:
        raise LedgerRewound(f"{anchors.url} has {len(beyond)} anchors beyond entry {len(links)}, the first {beyond[0]}")


def _replay(links: list[Entry]) -> _Book:
    book = _Book()
    for link in links:
        body = link.value["body"]
        match link.kind:
            case "population":
                book.populations[body["name"]] = body
            case "charge":
                book.charges[body["id"]] = body
                book.states[body["id"]] = State.RESERVED
            case "begin":
                book.states[body["charge"]] = State.RUNNING
            case "finish":
                book.states[body["charge"]] = State.SEALED
                book.ranges[body["charge"]] = body["ranges"]
            case "answer":
                book.states[body["charge"]] = State.SEALED
                book.answers[body["charge"]] = body["answer"]
            case "void":
                book.states[body["charge"]] = State.VOIDED
            case "publish":
                book.states.update(dict.fromkeys(body["charges"], State.PUBLISHED))
            case "burn":
                book.states.update(dict.fromkeys(body["charges"], State.BURNED))
    return book


def _populations(connection: Connection, book: _Book) -> Iterator[str]:
    found = {row.name: row for row in connection.execute(select(schema.populations))}
    yield from _names("population", set(found), set(book.populations))
    for name, body in book.populations.items():
        caps = ("caps", "cap_delta_atto")
        if name in found and any(getattr(found[name], k) != value for k, value in body.items() if k not in caps):
            yield f"population {name} was changed"


def _charges(connection: Connection, book: _Book) -> Iterator[str]:
    query = select(schema.charges, schema.populations.c.name.label("population")).join(schema.populations)
    found = {row.id: row for row in connection.execute(query)}
    answers = {row.charge_id: json.loads(row.answer) for row in connection.execute(select(schema.answers))}
    yield from _names("charge", set(found), set(book.charges))
    yield from _names("answer", set(answers), set(book.answers))
    for identity, body in book.charges.items():
        row = found.get(identity)
        if row is None:
            continue
        same = (
            (row.population, row.release, row.key) == (body["population"], body["release"], body["key"])
            and row.event == canonical(body["event"])
            and row.curve == canonical(body["curve"])
            and row.parameters_sha256 == body["parameters_sha256"] == digest(row.parameters)
        )
        if not same:
            yield f"charge {identity} was changed"
        if row.state != book.states[identity]:
            yield f"charge {identity} is {row.state}, the chain says {book.states[identity]}"
        if answers.get(identity) != book.answers.get(identity):
            yield f"the answer of charge {identity} was changed"


def _accounts(connection: Connection, book: _Book) -> Iterator[str]:
    for row in connection.execute(select(schema.populations.c.id, schema.populations.c.name)):
        account = read_account(connection, row.id)
        said = book.populations.get(row.name, {})
        if (list(account.caps), account.cap_delta_atto) != (said.get("caps"), said.get("cap_delta_atto")):
            yield f"the caps of population {row.name} were changed"
        counted = [
            Curve.from_json(body["curve"])
            for identity, body in book.charges.items()
            if body["population"] == row.name and book.states[identity] is not State.VOIDED
        ]
        total = sum(counted, Curve.zero())
        if account.spent != total:
            yield f"population {row.name} does not add up: its total is not the sum of its charges"
        if counted and (headroom(total, account.caps) < 0 or total.delta_atto > account.cap_delta_atto):
            yield f"population {row.name} is over its limit"


def _seals(connection: Connection, book: _Book) -> Iterator[str]:
    sealed: dict[str, set[int]] = {}
    for row in connection.execute(select(schema.seals.c.charge_id, schema.seals.c.range_id)):
        sealed.setdefault(row.charge_id, set()).add(row.range_id)
    for identity in sealed:
        if book.states.get(identity) in (None, State.RESERVED, State.VOIDED):
            yield f"charge {identity} has seals but never began"
    for identity, ranges in book.ranges.items():
        if sealed.get(identity, set()) != set(range(ranges)):
            yield f"charge {identity} finished with {ranges} ranges, {len(sealed.get(identity, set()))} have a seal"


def _names(what: str, found: set[str], said: set[str]) -> Iterator[str]:
    for name in sorted(said - found):
        yield f"{what} {name} is missing"
    for name in sorted(found - said):
        yield f"{what} {name} is in no entry"
