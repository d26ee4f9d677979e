"""Notices: what the operator is told. Informing only; the chain is the truth.

A notice is written in the transaction of what it tells, so none is lost with a process that dies before it says it.
Every text is made of public values: names, figures, dates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select

from cadp.ledger import schema
from cadp.ledger.canonical import utc_now
from cadp.ledger.written import written

THRESHOLDS = (0.5, 0.8, 0.95)
"""Shares of a limit whose crossing is told."""

_LONGEST = 2000


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the operator should know.

    Attributes:
        id: counts upwards.
        at: when, ISO 8601 UTC.
        kind: `reserved`, `burned`, `refused`, `takeover`, `threshold`, `published` or `recovered`.
        population: whose budget, or None.
        release: which release, or None.
        text: what happened, in a sentence.
    """

    id: int
    at: str
    kind: str
    population: str | None
    release: str | None
    text: str


def write(
    connection: Connection, kind: str, text: str, *, population: str | None = None, release: str | None = None
) -> None:
    """Write a notice inside a write transaction."""
    values = {"at": utc_now(), "kind": kind, "population": population, "release": release, "text": text[:_LONGEST]}
    made = connection.execute(schema.notices.insert(), values).inserted_primary_key
    written(connection).notices.append(_notice({"id": None if made is None else made[0], **values}))


def find_notices(connection: Connection, after: int = 0) -> list[Notice]:
    """Return the notices beyond number `after`, oldest first."""
    query = select(schema.notices).where(schema.notices.c.id > after).order_by(schema.notices.c.id)
    return [_notice(row) for row in connection.execute(query)]


def crossed(before: float, after: float, limit: float) -> float | None:
    """Return the highest share of `THRESHOLDS` that an ε or an additive δ passed from `before` to `after`, or None.

    >>> crossed(1.0, 6.5, 8.0), crossed(6.5, 6.6, 8.0)
    (0.8, None)
    """
    passed = [share for share in THRESHOLDS if before < share * limit <= after]
    return max(passed, default=None)


def _notice(row: Row[Any] | Mapping[str, Any]) -> Notice:
    values = row if isinstance(row, Mapping) else row._mapping
    return Notice(**{name: values[name] for name in ("id", "at", "kind", "population", "release", "text")})
