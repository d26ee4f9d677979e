"""The hash chain of the ledger's events: the book that everything else must follow from.

Whatever changes what is owed or known appends an entry in the same transaction. An entry holds the hash of the one
before it, and a nonce, so two copies of a ledger that do the same thing still differ.
"""

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, select

from cadp.errors import LedgerRewound
from cadp.ledger import schema
from cadp.ledger.canonical import canonical, digest, utc_now
from cadp.ledger.written import written

ENTRY_SCHEMA = 1
GENESIS = "0" * 64
_PARTS = {"schema", "ledger", "seq", "kind", "at", "nonce", "body", "prev"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One link of the chain.

    Attributes:
        seq: 1 for the ledger's creation, then without gaps.
        kind: `ledger`, `population`, `charge`, `begin`, `finish`, `answer`, `publish`, `burn`, `void`, `upgrade` or
            `recover`.
        text: the entry as canonical JSON: schema, ledger, seq, kind, at, nonce, body, prev.
        hash: SHA-256 of `text`; the next entry's `prev`.
    """

    seq: int
    kind: str
    text: str
    hash: str

    @property
    def value(self) -> dict[str, Any]:
        """The entry, parsed.

        Raises:
            LedgerRewound: it is not what any version ever wrote.
        """
        try:
            value = json.loads(self.text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict) or not value.keys() >= _PARTS or not isinstance(value["body"], dict):
            raise LedgerRewound(
                f"entry {self.seq} of the chain was changed: stop every writer and put back the newest copy"
            )
        return value

    @property
    def anchor_key(self) -> str:
        """The anchor's key below the ledger's prefix."""
        return anchor_key(self.seq)

    @property
    def anchor(self) -> bytes:
        """The anchor's bytes."""
        return f'{{"entry":{self.text}'.encode() + anchor_end(self.hash)


def anchor_end(digest: str) -> bytes:
    """Return the last bytes of the anchor of the entry with this hash."""
    return f',"hash":"{digest}"}}\n'.encode()


def anchor_key(seq: int) -> str:
    """Return the key of an anchor below the ledger's prefix."""
    return f"{seq:08d}.json"


def anchor_numbers(keys: Iterable[str]) -> list[int]:
    """Return the numbers of the anchors among the keys of a ledger's store, ascending; other objects lie there too."""
    digits = (key.removesuffix(".json") for key in keys)
    found = ((key, int(key)) for key in digits if key.isascii() and key.isdigit())
    return sorted(number for key, number in found if number > 0 and f"{key}.json" == anchor_key(number))


def append(connection: Connection, kind: str, body: Mapping[str, object], at: str | None = None) -> int:
    """Append an entry inside a write transaction and return its number; `at` is the time that its row has too."""
    fresh = written(connection).entries
    identity, last = _identity_and_head(connection)
    seq = 1 if last is None else last.seq + 1
    text = canonical(
        {
            "schema": ENTRY_SCHEMA,
            "ledger": identity,
            "seq": seq,
            "kind": kind,
            "at": at or utc_now(),
            "nonce": secrets.token_hex(8),
            "body": dict(body),
            "prev": GENESIS if last is None else last.hash,
        }
    )
    entry = Entry(seq=seq, kind=kind, text=text, hash=digest(text))
    connection.execute(schema.chain.insert(), {"seq": seq, "kind": kind, "entry": text, "hash": entry.hash})
    fresh.append(entry)
    return seq


_NEWEST = schema.chain.c.seq == select(func.max(schema.chain.c.seq)).scalar_subquery()
_HEAD = select(schema.chain).where(_NEWEST)
_IDENTITY_AND_HEAD = (
    select(schema.ledger.c.id, schema.chain).select_from(schema.ledger).join(schema.chain, _NEWEST, isouter=True)
)


def head(connection: Connection) -> Entry | None:
    """Return the newest entry."""
    row = connection.execute(_HEAD).one_or_none()
    return None if row is None else _entry(row)


def _identity_and_head(connection: Connection) -> tuple[str, Entry | None]:
    row = connection.execute(_IDENTITY_AND_HEAD).one()
    return row.id, None if row.seq is None else _entry(row)


def entries(connection: Connection, after: int = 0) -> Iterator[Entry]:
    """Yield the entries beyond number `after`, oldest first."""
    rows = connection.execute(select(schema.chain).where(schema.chain.c.seq > after).order_by(schema.chain.c.seq))
    yield from map(_entry, rows)


def newest_first(connection: Connection) -> Iterator[Entry]:
    """Yield the entries, newest first, reading only as far as they are asked for."""
    yield from map(_entry, connection.execute(select(schema.chain).order_by(schema.chain.c.seq.desc())))


def _entry(row: Row[Any]) -> Entry:
    return Entry(seq=row.seq, kind=row.kind, text=row.entry, hash=row.hash)
