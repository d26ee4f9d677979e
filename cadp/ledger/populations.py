"""Populations: whose data it is, which source it came from, and the most that may ever be learnt about one unit."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select

from cadp.errors import LedgerError
from cadp.ledger import schema
from cadp.ledger.accounts import Account, account_of, open_account
from cadp.ledger.canonical import canonical, name_text, utc_now
from cadp.ledger.chain import append
from cadp.ledger.figures import figure
from cadp.privacy.accountant import ORDERS, RELATION, cap, delta_cap
from cadp.privacy.plain_words import scientific

LEAST_EPSILON = 1e-6
"""One micro-nat, the least that the ledger counts."""


@dataclass(frozen=True, slots=True)
class Population:
    """One population and its limit; nothing here ever changes.

    Attributes:
        name: what specs call it.
        unit: what one unit is, in words (`record`, `patient`).
        relation: the neighbouring relation that every charge is made under.
        epsilon: the limit's ε, over everything that is ever charged.
        delta: the limit's total δ.
        source_hmac: HMAC of the source's address under the population's secret.
        secret_fingerprint: which secret that is.
        at: when it was created, ISO 8601 UTC.
    """

    name: str
    unit: str
    relation: str
    epsilon: float
    delta: float
    source_hmac: str
    secret_fingerprint: str
    at: str


def create_population(
    connection: Connection, wanted: Population, refuse: Callable[[list[Population]], None] | None = None
) -> Population:
    """Create a population, or find the same one; `refuse` sees the others before one is created, and may raise.

    Raises:
        LedgerError: the name or the source is taken, with other parameters; or the limit makes no sense.
    """
    _validate(wanted)
    row = connection.execute(select(schema.populations).where(schema.populations.c.name == wanted.name)).one_or_none()
    if row is not None:
        return _same(_population(row), wanted)
    if refuse is not None:
        refuse(list(all_populations(connection)))
    other = bound_to(connection, wanted.source_hmac)
    if other is not None:
        raise LedgerError(
            f"this source is bound to population {other.name} already (limit ε {figure(other.epsilon)}, "
            f"δ {scientific(other.delta)}): use that name; {wanted.name} would grant the same units a second budget"
        )
    values = {
        "name": wanted.name,
        "unit": wanted.unit,
        "relation": wanted.relation,
        "epsilon": wanted.epsilon,
        "delta": wanted.delta,
        "orders": orders_text(),
        "source_hmac": wanted.source_hmac,
        "secret_fingerprint": wanted.secret_fingerprint,
    }
    caps, cap_delta_atto = cap(wanted.epsilon, wanted.delta), delta_cap(wanted.delta)
    # It may have waited for its turn since it was described.
    made = replace(wanted, at=utc_now())
    body = {**values, "caps": caps, "cap_delta_atto": cap_delta_atto}
    seq = append(connection, "population", body, at=made.at)
    connection.execute(schema.populations.insert().values(**values, at=made.at, seq=seq))
    population_id, _ = find_population(connection, wanted.name)
    open_account(connection, population_id, caps=caps, cap_delta_atto=cap_delta_atto)
    return made


def describe(
    name: str, *, unit: str, epsilon: float, delta: float, source_hmac: str, secret_fingerprint: str
) -> Population:
    """Return a population as of now, not yet in any ledger."""
    return Population(
        name=name,
        unit=unit,
        relation=RELATION,
        epsilon=epsilon,
        delta=delta,
        source_hmac=source_hmac,
        secret_fingerprint=secret_fingerprint,
        at=utc_now(),
    )


def all_populations(connection: Connection) -> Iterator[Population]:
    """Yield every population by name."""
    yield from map(_population, connection.execute(select(schema.populations).order_by(schema.populations.c.name)))


def find_population(connection: Connection, name: str) -> tuple[int, Population]:
    """Return the row id and the population of this name.

    Raises:
        LedgerError: there is none, or its grid of orders is not this version's.
    """
    row = connection.execute(select(schema.populations).where(schema.populations.c.name == name)).one_or_none()
    found = _usable(connection, name, row)
    return int(found.id), _population(found)


_OWNER = (
    select(schema.populations, schema.accounts)
    .join(schema.accounts)
    .where(schema.populations.c.name == bindparam("name"))
)


def find_owner(connection: Connection, name: str) -> tuple[Population, Account]:
    """Return the population of this name with its totals, in one statement.

    Raises:
        LedgerError: as for `find_population`.
    """
    row = connection.execute(_OWNER, {"name": name}).one_or_none()
    found = _usable(connection, name, row)
    return _population(found), account_of(found)


def _usable(connection: Connection, name: str, row: Row[Any] | None) -> Row[Any]:
    """Return a population's row, if there is one and this version can charge it."""
    if row is None:
        known = ", ".join(population.name for population in all_populations(connection)) or "none"
        raise LedgerError(f"there is no population {name!r}: known are {known}; `cadp budget init` makes one")
    if row.orders != orders_text():
        raise LedgerError(
            f"population {name} was made with another grid of Rényi orders than this version charges by: "
            f"use the version of cadp that made it"
        )
    return row


def bound_to(connection: Connection, source_hmac: str) -> Population | None:
    """Return the population that a source is bound to."""
    row = connection.execute(
        select(schema.populations).where(schema.populations.c.source_hmac == source_hmac)
    ).one_or_none()
    return None if row is None else _population(row)


def orders_text() -> str:
    """Return the accountant's grid of orders as it is recorded with a population."""
    return canonical(["inf" if math.isinf(order) else order for order in ORDERS])


def _validate(wanted: Population) -> None:
    for what in ("name", "unit", "source_hmac", "secret_fingerprint"):
        name_text(f"a population's {what}", getattr(wanted, what))
    if not (math.isfinite(wanted.epsilon) and wanted.epsilon >= LEAST_EPSILON):
        raise LedgerError(f"a limit needs a finite ε of at least {LEAST_EPSILON}, not {wanted.epsilon!r}")
    if not 0 < wanted.delta < 1:
        raise LedgerError(f"a limit needs a δ between 0 and 1, not {wanted.delta!r}")


def _same(found: Population, wanted: Population) -> Population:
    differing = [
        f"{what} is {json.dumps(getattr(found, what))}, not {json.dumps(getattr(wanted, what))}"
        for what in ("unit", "relation", "epsilon", "delta", "source_hmac", "secret_fingerprint")
        if getattr(found, what) != getattr(wanted, what)
    ]
    if differing:
        raise LedgerError(
            f"population {found.name} exists with other parameters: {'; '.join(differing)}. Its limit and its source "
            f"can never change: go on under ε {figure(found.epsilon)}, δ {scientific(found.delta)} "
            f"(`cadp budget show`); another source needs another name"
        )
    return found


def _population(row: Row[Any]) -> Population:
    return Population(
        name=row.name,
        unit=row.unit,
        relation=row.relation,
        epsilon=row.epsilon,
        delta=row.delta,
        source_hmac=row.source_hmac,
        secret_fingerprint=row.secret_fingerprint,
        at=row.at,
    )
