"""Every row that the chain tells of, read in one snapshot, so that it can be compared when the snapshot is closed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select

from cadp.ledger import schema
from cadp.ledger.commitment import SEALS

Rows = Sequence[Row[Any]]


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables but the chain, as one snapshot has them.

    Attributes:
        ledger: the rows of `ledger`.
        populations: the rows of `populations`.
        accounts: the rows of `accounts`, each with its population's `name`.
        charges: the rows of `charges`, each with its `population`'s name.
        answers: the rows of `answers`.
        seals: the rows of `seals`, each with its range's newest token and owner.
    """

    ledger: Rows
    populations: Rows
    accounts: Rows
    charges: Rows
    answers: Rows
    seals: Rows


def read_tables(connection: Connection) -> Tables:
    """Read all of it; a row whose reference leads nowhere is not among them."""
    name = schema.populations.c.name
    return Tables(
        ledger=connection.execute(select(schema.ledger)).all(),
        populations=connection.execute(select(schema.populations)).all(),
        accounts=connection.execute(select(schema.accounts, name).join(schema.populations)).all(),
        charges=connection.execute(select(schema.charges, name.label("population")).join(schema.populations)).all(),
        answers=connection.execute(select(schema.answers)).all(),
        seals=connection.execute(SEALS).all(),
    )
