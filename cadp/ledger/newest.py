"""When each release last changed what it holds of a budget, without replaying the history: no curve is added up."""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, select

from cadp.ledger import schema
from cadp.ledger.chain import Entry


def newest_changes(connection: Connection) -> dict[tuple[str, str], str]:
    """Return when each (population, release) last changed, ISO 8601 UTC."""
    table = schema.charges.c
    charges = connection.execute(
        select(table.id, table.release, table.at, schema.populations.c.name)
        .join(schema.populations)
        .order_by(table.seq)
    ).all()
    held = {row.id: (row.name, row.release) for row in charges}
    newest = {(row.name, row.release): str(row.at) for row in charges}
    # The long entries, those of the charges themselves, stay unread; the others are a line each.
    query = select(schema.chain).where(schema.chain.c.kind != "charge").order_by(schema.chain.c.seq)
    for row in connection.execute(query):
        value = Entry(seq=row.seq, kind=row.kind, text=row.entry, hash=row.hash).value
        for identity in _changed(row.kind, value["body"]):
            if identity in held:
                # ISO 8601 in UTC sorts as it reads.
                newest[held[identity]] = max(newest[held[identity]], str(value["at"]))
    return newest


def _changed(kind: str, body: Mapping[str, Any]) -> Iterator[str]:
    """Yield the charges that an entry changes."""
    match kind:
        case "begin" | "finish" | "answer" | "void":
            yield str(body.get("charge"))
        case "publish" | "burn":
            yield from body.get("charges", ())
        case "recover":
            yield from body.get("burned", ())
