"""What a population has spent, what is left, who holds it, and what a charge would do to it.

ε's of parts do not add up to the ε of the whole (curves do), so every figure here is the ε of a sum of curves at the
limit's δ: `left` is the limit less the ε of everything charged, `reserved` what unfinished releases add to the finished
ones, and what a request would cost is the ε after it.
"""

from dataclasses import dataclass, replace

from sqlalchemy import Connection, select

from cadp.ledger import schema
from cadp.ledger.accounts import Account, read_account
from cadp.ledger.figures import figure
from cadp.ledger.parsing import parsed
from cadp.ledger.populations import Population, find_population
from cadp.ledger.states import State, stored_state
from cadp.privacy.accountant import Curve

__all__ = ["Budget", "Quote", "Share", "figure", "held_by", "quote", "quoted", "read_budget"]

_FINAL = (State.PUBLISHED, State.BURNED)
_ATTO = 1e18


@dataclass(frozen=True, slots=True)
class Share:
    """What one release holds of a population's budget.

    Attributes:
        release: who.
        epsilon: the ε of its own charges alone, at the limit's δ.
        charges: how many count.
        states: their states, each once, in the order of the state machine.
        keys: what they are for, the first to be charged first.
        additive_delta: what their samplers have taken of δ.
    """

    release: str
    epsilon: float
    charges: int
    states: tuple[State, ...]
    keys: tuple[str, ...]
    additive_delta: float


@dataclass(frozen=True, slots=True)
class Budget:
    """A population's budget at one moment.

    Attributes:
        population: whose.
        unit: what one unit is.
        epsilon: the limit's ε.
        delta: the limit's δ, and the δ of every ε here.
        charged: ε of everything that counts.
        spent: ε of what is final: published, or burned.
        reserved: `charged` less `spent`: what releases hold that are not finished.
        left: the limit less `charged`; never negative.
        spent_additive_delta: what samplers have taken of δ.
        additive_delta_cap: the most that they may take of it.
        additive_delta_left: what they have left of that.
        releases: who holds it, the first to charge first; their ε's do not add up to `charged`.
    """

    population: str
    unit: str
    epsilon: float
    delta: float
    charged: float
    spent: float
    reserved: float
    left: float
    spent_additive_delta: float
    additive_delta_cap: float
    additive_delta_left: float
    releases: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class Quote:
    """What a charge would do to a budget, before it is made: to its ε, and to its additive δ, which has its own cap.

    Attributes:
        population: whose budget.
        alone: ε of the request by itself, whatever additive δ it asks for.
        before: ε of what is charged.
        after: ε of that and the request; infinite if no order of its curve is finite.
        limit: the limit's ε.
        delta: the limit's δ, and the δ of every ε here.
        delta_atto: additive δ of the request, in 1e-18.
        spent_delta_atto: additive δ of what is charged, in 1e-18.
        cap_delta_atto: the most of it, in 1e-18.
        fits: whether the ledger would accept it now.
    """

    population: str
    alone: float
    before: float
    after: float
    limit: float
    delta: float
    delta_atto: int
    spent_delta_atto: int
    cap_delta_atto: int
    fits: bool


def read_budget(connection: Connection, name: str, release: str | None = None) -> Budget:
    """Return a population's budget; with `release`, `releases` holds that release alone."""
    population_id, population = find_population(connection, name)
    account = read_account(connection, population_id)
    charged = account.spent.epsilon(population.delta)
    spent = _final(connection, population_id).epsilon(population.delta)
    shares = held_by(connection, population)
    return Budget(
        population=population.name,
        unit=population.unit,
        epsilon=population.epsilon,
        delta=population.delta,
        charged=charged,
        spent=spent,
        reserved=max(0.0, round(charged - spent, 6)),
        left=max(0.0, round(population.epsilon - charged, 6)),
        spent_additive_delta=account.spent.delta_atto / _ATTO,
        additive_delta_cap=account.cap_delta_atto / _ATTO,
        additive_delta_left=(account.cap_delta_atto - account.spent.delta_atto) / _ATTO,
        releases=tuple(share for share in shares if release in (None, share.release)),
    )


def _final(connection: Connection, population_id: int) -> Curve:
    """Return the sum of the charges that nothing can change any more."""
    table = schema.charges.c
    query = select(table.curve).where(table.population_id == population_id, table.state.in_(_FINAL))
    costs = (parsed("`curve` of a charge", text, Curve.from_json) for text in connection.scalars(query))
    return sum(costs, Curve.zero())


def held_by(connection: Connection, population: Population) -> list[Share]:
    """Return the releases whose charges count, the first to charge first."""
    table = schema.charges.c
    query = (
        select(table.release, table.key, table.curve, table.state)
        .join(schema.populations)
        .where(schema.populations.c.name == population.name, table.state != State.VOIDED)
        .order_by(table.seq)
    )
    costs: dict[str, Curve] = {}
    held: dict[str, list[tuple[str, State]]] = {}
    for row in connection.execute(query):
        cost = parsed(f"`curve` of a charge of {row.release}", row.curve, Curve.from_json)
        costs[row.release] = costs[row.release] + cost if row.release in costs else cost
        held.setdefault(row.release, []).append((row.key, stored_state(row.state)))
    return [
        Share(
            release=release,
            epsilon=costs[release].epsilon(population.delta),
            charges=len(parts),
            states=tuple(state for state in State if any(state is found for _, found in parts)),
            keys=tuple(key for key, _ in parts),
            additive_delta=costs[release].delta_atto / _ATTO,
        )
        for release, parts in held.items()
    ]


def quote(connection: Connection, name: str, cost: Curve) -> Quote:
    """Return what a charge of `cost` would do to the budget as it stands."""
    population_id, population = find_population(connection, name)
    return quoted(population, read_account(connection, population_id), cost)


def quoted(population: Population, account: Account, cost: Curve) -> Quote:
    """Return what a charge of `cost` would do."""
    total = account.spent + cost
    # The additive δ is a column of its own: beyond its cap no ε holds, whatever the orders have left.
    alone, before, after = (
        replace(part, delta_atto=0).epsilon(population.delta) for part in (cost, account.spent, total)
    )
    return Quote(
        population=population.name,
        alone=alone,
        before=before,
        after=after,
        limit=population.epsilon,
        delta=population.delta,
        delta_atto=cost.delta_atto,
        spent_delta_atto=account.spent.delta_atto,
        cap_delta_atto=account.cap_delta_atto,
        fits=account.admits(total),
    )
