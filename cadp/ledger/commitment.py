"""What a `finish` entry says of the seals that it closes, so that none of them can be exchanged afterwards unnoticed.

Seals have no entries of their own. The `finish` entry holds one digest over all of them: range, token, owner, key,
SHA-256, facts and time. It is anchored outside the private zone, where no digest of private bytes may be: who guesses
the bytes could compare. So each seal has a nonce of 128 random bits, kept in its row and nowhere else, and the digest
covers it. Who does not see the ledger's rows would have to guess all nonces of a charge, 128 bits each, before a guess
of anything else can be tested; who sees them sees the seals' own digests anyway. That the sealed objects hold random
bits of their own, such as noise, is not relied upon. A digest of one fixed charge under fresh nonces is a commitment:
for other seals with the same digest one would have to find a collision of SHA-256.
"""

import json
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Row, select

from cadp.errors import LedgerError
from cadp.ledger import schema
from cadp.ledger.canonical import canonical, digest, plain
from cadp.ledger.parsing import mapping, parsed

NONCE = "seal_nonce"
"""The fact that the ledger adds to every seal, and takes away again before anybody is given the seal."""

SEALS = (
    select(schema.seals, schema.ranges.c.token.label("newest"), schema.ranges.c.owner)
    .join(schema.ranges)
    .order_by(schema.seals.c.charge_id, schema.seals.c.range_id)
)
"""Every seal with its range's newest lease."""


def with_nonce(facts: Mapping[str, object]) -> str:
    """Return the column of a new seal's facts.

    Raises:
        LedgerError: they are not JSON, or have the ledger's own name.
    """
    if NONCE in facts:
        raise LedgerError(f"a seal's facts cannot be called {NONCE}: the ledger keeps its own there")
    return canonical({**plain(facts), NONCE: secrets.token_hex(16)})


def facts_of(row: Row[Any]) -> dict[str, object]:
    """Return the facts as they were given.

    Raises:
        LedgerError: the column is damaged.
    """
    facts = parsed(f"seal {row.range_id} of charge {row.charge_id}", row.facts, mapping)
    return {name: fact for name, fact in facts.items() if name != NONCE}


def commitment(rows: Iterable[Row[Any]]) -> str | None:
    """Return the digest over a charge's seals, which are rows of `SEALS`; None if one of them has no nonce.

    Only an earlier version's seals have none: a charge that it began is closed without a digest, as it closed its own.
    """
    rows = list(rows)
    if not all(_has_nonce(row.facts) for row in rows):
        return None
    said = [[row.range_id, row.token, row.owner, row.key, row.sha256, row.facts, row.at] for row in rows]
    return digest(canonical(sorted(said)))


def commitment_of(connection: Connection, charge_id: str) -> str | None:
    """Return the digest over the seals that a charge has now, or None as `commitment` does."""
    return commitment(connection.execute(SEALS.where(schema.seals.c.charge_id == charge_id)))


def _has_nonce(facts: str) -> bool:
    try:
        return len(json.loads(facts)[NONCE]) == 32  # hex digits
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
