"""Making the tables say what the book says, inside one write transaction: how a recovery writes."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, Table, bindparam, select

from cadp.ledger import schema
from cadp.ledger.accounts import open_account, read_account, replace_total
from cadp.ledger.book import Book
from cadp.ledger.booked import Owed, Paid
from cadp.ledger.canonical import canonical
from cadp.ledger.chain import Entry
from cadp.ledger.states import State


def drop_beyond(connection: Connection, seq: int) -> None:
    """Remove every entry beyond number `seq`, and whatever came of it: nobody was ever given any of it."""
    charges, populations = schema.charges.c, schema.populations.c
    gone = select(charges.id).where(charges.seq > seq)
    for table in (schema.seals, schema.ranges):
        connection.execute(table.delete().where(table.c.charge_id.in_(gone)))
    connection.execute(schema.answers.delete().where(schema.answers.c.seq > seq))
    connection.execute(schema.charges.delete().where(charges.seq > seq))
    closed = select(populations.id).where(populations.seq > seq)
    connection.execute(schema.accounts.delete().where(schema.accounts.c.population_id.in_(closed)))
    connection.execute(schema.populations.delete().where(populations.seq > seq))
    connection.execute(schema.chain.delete().where(schema.chain.c.seq > seq))


def add_links(connection: Connection, entries: Sequence[Entry]) -> None:
    """Add entries to the chain word for word."""
    rows = [{"seq": e.seq, "kind": e.kind, "entry": e.text, "hash": e.hash} for e in entries]
    if rows:
        connection.execute(schema.chain.insert(), rows)


def write_book(connection: Connection, book: Book) -> None:
    """Write every population, charge, state, answer and total that the tables lack; remove seals that are lost."""
    numbers = _write_populations(connection, book)
    _write_charges(connection, book, numbers)
    _write_answers(connection, book)
    for name, owed in book.populations.items():
        account = read_account(connection, numbers[name])
        if account.spent != owed.total.curve:
            replace_total(connection, account, owed.total.curve)
    idle = {i for i, charge in book.charges.items() if charge.state in (State.RESERVED, State.VOIDED)}
    unsealed = [{"charge": identity} for identity in sorted(book.lost_seals | idle)]
    for table in (schema.seals, schema.ranges):
        if unsealed:
            connection.execute(table.delete().where(table.c.charge_id == bindparam("charge")), unsealed)


def _write_populations(connection: Connection, book: Book) -> dict[str, int]:
    """Return the row ids by name."""
    there = set(connection.scalars(select(schema.populations.c.name)))
    for name, owed in book.populations.items():
        if name not in there:
            connection.execute(schema.populations.insert().values(**_population(owed)))
    query = select(schema.populations.c.name, schema.populations.c.id)
    numbers = {row.name: int(row.id) for row in connection.execute(query)}
    for name, owed in book.populations.items():
        if name not in there:
            open_account(connection, numbers[name], caps=owed.caps, cap_delta_atto=owed.cap_delta_atto)
    return numbers


def _write_charges(connection: Connection, book: Book, numbers: dict[str, int]) -> None:
    query = select(schema.charges.c.id, schema.charges.c.state)
    there = {row.id: row.state for row in connection.execute(query)}
    moved = [
        {"charge": identity, "to": str(charge.state)}
        for identity, charge in book.charges.items()
        if identity in there and there[identity] != charge.state
    ]
    # First the states: a voided charge frees its key for one that comes after it.
    if moved:
        this = schema.charges.c.id == bindparam("charge")
        connection.execute(schema.charges.update().where(this).values(state=bindparam("to")), moved)
    missing = [
        _charge(charge, numbers[charge.population])
        for identity, charge in book.charges.items()
        if identity not in there
    ]
    _insert(connection, schema.charges, missing)


def _write_answers(connection: Connection, book: Book) -> None:
    there = set(connection.scalars(select(schema.answers.c.charge_id)))
    missing = [
        {
            "charge_id": identity,
            "answer": canonical(charge.answer),
            "at": charge.answered_at,
            "seq": charge.answered,
        }
        for identity, charge in book.charges.items()
        if charge.answer is not None and identity not in there
    ]
    _insert(connection, schema.answers, missing)


def _insert(connection: Connection, table: Table, rows: Sequence[Mapping[str, object]]) -> None:
    if rows:
        connection.execute(table.insert(), [dict(row) for row in rows])


def _population(owed: Owed) -> dict[str, object]:
    said = {key: value for key, value in owed.body.items() if key not in ("caps", "cap_delta_atto")}
    return {**said, "at": owed.at, "seq": owed.seq}


def _charge(charge: Paid, population_id: int) -> dict[str, object]:
    body = charge.body
    return {
        "id": body["id"],
        "population_id": population_id,
        "release": body["release"],
        "key": body["key"],
        "event": canonical(body["event"]),
        "curve": canonical(charge.cost.to_json()),
        # An older version's entry has the digest alone: it still tells the same request from another.
        "parameters": canonical(body.get("parameters", {})),
        "parameters_sha256": body["parameters_sha256"],
        "state": str(charge.state),
        "at": charge.at,
        "seq": charge.seq,
    }
