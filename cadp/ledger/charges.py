"""Charges: what a release pays, once per key, before a mechanism reads anything."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, literal_column, select, union_all

from cadp.errors import LedgerError
from cadp.ledger import notices, schema
from cadp.ledger.accounts import Account, read_account, replace_total
from cadp.ledger.budget import quoted
from cadp.ledger.canonical import canonical, digest, name_text, plain, utc_now
from cadp.ledger.chain import append
from cadp.ledger.figures import attos, figure
from cadp.ledger.parsing import mapping, parsed
from cadp.ledger.populations import Population, find_owner, find_population
from cadp.ledger.refusals import DoesNotFit
from cadp.ledger.states import State, require_step, stored_state
from cadp.privacy.accountant import Curve, Event, curve
from cadp.privacy.plain_words import scientific


@dataclass(frozen=True, slots=True)
class Charge:
    """One charge as it stands.

    Attributes:
        id: 16 hex digits.
        population: whose budget pays.
        release: who asked.
        key: what it is for; one live charge a population and key.
        event: what is charged.
        curve: the event's cost as it was charged.
        state: where it stands.
        parameters: public values that the charge is made for.
        at: when it was made, ISO 8601 UTC.
    """

    id: str
    population: str
    release: str
    key: str
    event: Event
    curve: Curve
    state: State
    parameters: Mapping[str, object]
    at: str


def make_charge(
    connection: Connection, population: str, *, release: str, key: str, event: Event, parameters: Mapping[str, object]
) -> Charge:
    """Find the charge of this key, or make it if it fits.

    Raises:
        DoesNotFit: as it says; nothing is written.
        LedgerError: the key is taken for something else, or the release is abandoned or published.
    """
    name_text("a release", release)
    name_text("a charge's key", key)
    parameters_text, event_text, cost = canonical(plain(parameters)), canonical(event.to_json()), curve(event)
    owner, account = find_owner(connection, population)
    population_id = account.population_id
    if cost.relation != owner.relation:
        raise LedgerError(f"population {population} is charged under {owner.relation}, not {cost.relation}")
    rows = connection.execute(_RELATED, {"of": population_id, "key": key, "release": release}).all()
    # An abandoned release gets nothing, not even the charges that it has: whoever still works on it must stop.
    _refuse_closed(rows, release, State.BURNED, "this version was abandoned and what it charged stays spent")
    for row in rows:
        if row.population_id == population_id and row.key == key:
            return _require_same(row, release, event_text, parameters_text)
    _refuse_closed(rows, release, State.PUBLISHED, "this version is published and its statement is final")
    total = account.spent + cost
    if not account.admits(total):
        raise DoesNotFit(release, key, quoted(owner, account, cost))
    identity = secrets.token_hex(8)
    values = {
        "id": identity,
        "release": release,
        "key": key,
        "event": event_text,
        "curve": canonical(cost.to_json()),
        "parameters": parameters_text,
        "parameters_sha256": digest(parameters_text),
        "state": State.RESERVED,
        "at": utc_now(),
    }
    body = {
        "id": identity,
        "population": population,
        "release": release,
        "key": key,
        "event": event.to_json(),
        "curve": cost.to_json(),
        "parameters": plain(parameters),
        "parameters_sha256": values["parameters_sha256"],
    }
    replace_total(connection, account, total)
    seq = append(connection, "charge", body, at=str(values["at"]))
    connection.execute(schema.charges.insert(), {**values, "population_id": population_id, "seq": seq})
    charge = Charge(
        id=identity,
        population=population,
        release=release,
        key=key,
        event=event,
        curve=cost,
        state=State.RESERVED,
        parameters=plain(parameters),
        at=str(values["at"]),
    )
    _tell(connection, charge, owner, account, total)
    return charge


def _tell(connection: Connection, charge: Charge, owner: Population, account: Account, total: Curve) -> None:
    before, after = account.spent.epsilon(owner.delta), total.epsilon(owner.delta)
    about = {"population": owner.name, "release": charge.release}
    limit = f"{figure(after)} of {figure(owner.epsilon)} at δ {scientific(owner.delta)}"
    notices.write(
        connection,
        "reserved",
        f"{charge.key} of {charge.release} takes ε {figure(after - before)} of {owner.name}: now {limit}",
        **about,
    )
    if share := notices.crossed(before, after, owner.epsilon):
        left = figure(owner.epsilon - after)
        notices.write(
            connection,
            "threshold",
            f"{owner.name} has passed {share:.0%} of its limit: ε {limit}, left {left}",
            **about,
        )
    spent, most = total.delta_atto, account.cap_delta_atto
    if share := notices.crossed(account.spent.delta_atto, spent, most):
        notices.write(
            connection,
            "threshold",
            f"{owner.name} has passed {share:.0%} of the additive δ that samplers may take: {attos(spent)} of "
            f"{attos(most)}, left {attos(most - spent)}",
            **about,
        )


def begin_charge(connection: Connection, charge_id: str) -> Charge:
    """Take a charge from RESERVED to RUNNING; running already is fine.

    Raises:
        LedgerError: it is past that.
    """
    charge = get_charge(connection, charge_id)
    if charge.state is State.RUNNING:
        return charge
    move(connection, charge_id, State.RUNNING, "begin", {})
    return replace(charge, state=State.RUNNING)


_WITH_NAME = select(schema.charges, schema.populations.c.name.label("population")).join(schema.populations)
# The states stand in the text of the statement: a partial index serves no condition that is only known later.
_RELATED = union_all(
    _WITH_NAME.where(
        schema.charges.c.population_id == bindparam("of"),
        schema.charges.c.key == bindparam("key"),
        schema.charges.c.state != literal_column(f"'{State.VOIDED}'"),
    ),
    _WITH_NAME.where(
        schema.charges.c.release == bindparam("release"),
        schema.charges.c.state.in_([literal_column(f"'{end}'") for end in (State.BURNED, State.PUBLISHED)]),
    ),
)
"""What a new charge has to look at: the live charge of its key, and charges that close its release."""


def get_charge(connection: Connection, charge_id: str) -> Charge:
    """Return one charge.

    Raises:
        LedgerError: there is none of this id.
    """
    row = connection.execute(_charges().where(schema.charges.c.id == charge_id)).one_or_none()
    if row is None:
        raise LedgerError(f"there is no charge {charge_id!r}")
    return _charge(row)


def find_charges(connection: Connection, population: str | None = None, release: str | None = None) -> list[Charge]:
    """Return charges in the order in which they were made."""
    query = _charges().order_by(schema.charges.c.seq)
    if population is not None:
        query = query.where(schema.charges.c.population_id == find_population(connection, population)[0])
    if release is not None:
        query = query.where(schema.charges.c.release == release)
    return [_charge(row) for row in connection.execute(query)]


def move(connection: Connection, charge_id: str, state: State, kind: str, body: Mapping[str, object]) -> None:
    """Take one charge to another state, with its chain entry.

    Raises:
        LedgerError: there is no such step.
    """
    require_step(charge_id, get_charge(connection, charge_id).state, state)
    append(connection, kind, {"charge": charge_id, **body})
    set_state(connection, [charge_id], state)


def set_state(connection: Connection, charge_ids: Sequence[str], state: State) -> None:
    """Write the state of charges whose step was checked and recorded."""
    connection.execute(schema.charges.update().where(schema.charges.c.id.in_(charge_ids)).values(state=state))


def void_charge(connection: Connection, charge_id: str) -> None:
    """Take back a charge before any mechanism ran, and its cost with it.

    Raises:
        LedgerError: it has begun.
    """
    charge = get_charge(connection, charge_id)
    if charge.state is State.VOIDED:
        return
    move(connection, charge_id, State.VOIDED, "void", {})
    population_id, owner = find_population(connection, charge.population)
    total = counted(find_charges(connection, owner.name))
    replace_total(connection, read_account(connection, population_id), total)


def counted(charges: Sequence[Charge]) -> Curve:
    """Return the sum of the charges that count: all but the voided ones."""
    return sum((charge.curve for charge in charges if charge.state is not State.VOIDED), Curve.zero())


def _charges() -> Select[Any]:
    return _WITH_NAME


def _charge(row: Row[Any]) -> Charge:
    return Charge(
        id=row.id,
        population=row.population,
        release=row.release,
        key=row.key,
        event=parsed(f"`event` of charge {row.id}", row.event, Event.from_json),
        curve=parsed(f"`curve` of charge {row.id}", row.curve, Curve.from_json),
        state=stored_state(row.state),
        parameters=parsed(f"`parameters` of charge {row.id}", row.parameters, mapping),
        at=row.at,
    )


def _require_same(row: Row[Any], release: str, event_text: str, parameters_text: str) -> Charge:
    differing = [
        what
        for what, differs in (
            (f"release {row.release}, not {release}", row.release != release),
            ("another event", row.event != event_text),
            ("other parameters", row.parameters_sha256 != digest(parameters_text)),
        )
        if differs
    ]
    if differing:
        raise LedgerError(
            f"key {row.key} of population {row.population} is charged already, for {' and '.join(differing)} "
            f"(charge {row.id}, {row.state}): a new attempt needs a new key, and pays again"
        )
    return _charge(row)


def _refuse_closed(rows: Sequence[Row[Any]], release: str, end: State, why: str) -> None:
    """Refuse a release of which any charge, of any population, has come to `end`."""
    for row in rows:
        if row.release == release and row.state == end:
            raise LedgerError(
                f"release {release} is closed: {why} (charge {row.id} is {end}); give the release a new version"
            )
