"""What a population has spent, what is left, who holds it, and the words of a refusal.

ε's of parts do not add up to the ε of the whole (curves do), so every figure here is the ε of a sum of curves at the
limit's δ: `left` is the limit less the ε of everything charged, `reserved` what unfinished releases add to the finished
ones, and what a request would cost is the ε after it.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, select

from cadp.ledger import schema
from cadp.ledger.accounts import Account, read_account
from cadp.ledger.populations import Population, find_population
from cadp.ledger.states import State
from cadp.privacy.accountant import Curve
from cadp.privacy.plain_words import scientific

_FINAL = (State.PUBLISHED, State.BURNED)


@dataclass(frozen=True, slots=True)
class Share:
    """What one release holds of a population's budget.

    Attributes:
        release: who.
        epsilon: the ε of its own charges alone, at the limit's δ.
        charges: how many count.
        states: their states, each once, in the order of the state machine.
    """

    release: str
    epsilon: float
    charges: int
    states: tuple[State, ...]


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
    releases: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class Quote:
    """What a charge would do to a budget, before it is made.

    Attributes:
        population: whose budget.
        alone: ε of the request by itself.
        before: ε of what is charged.
        after: ε of that and the request; infinite if no ε holds at this δ.
        limit: the limit's ε.
        delta: the limit's δ, and the δ of every ε here.
        fits: whether the ledger would accept it now.
    """

    population: str
    alone: float
    before: float
    after: float
    limit: float
    delta: float
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
        spent_additive_delta=account.spent.delta_atto / 1e18,
        releases=tuple(share for share in shares if release in (None, share.release)),
    )


def _final(connection: Connection, population_id: int) -> Curve:
    """Return the sum of the charges that nothing can change any more."""
    table = schema.charges.c
    query = select(table.curve).where(table.population_id == population_id, table.state.in_(_FINAL))
    return sum((Curve.from_json(json.loads(text)) for text in connection.scalars(query)), Curve.zero())


def held_by(connection: Connection, population: Population) -> list[Share]:
    """Return the releases whose charges count, the first to charge first."""
    query = (
        select(schema.charges.c.release, schema.charges.c.curve, schema.charges.c.state)
        .join(schema.populations)
        .where(schema.populations.c.name == population.name, schema.charges.c.state != State.VOIDED)
        .order_by(schema.charges.c.seq)
    )
    held: dict[str, list[tuple[Curve, State]]] = {}
    for row in connection.execute(query):
        held.setdefault(row.release, []).append((Curve.from_json(json.loads(row.curve)), State(row.state)))
    return [
        Share(
            release=release,
            epsilon=sum((cost for cost, _ in parts), Curve.zero()).epsilon(population.delta),
            charges=len(parts),
            states=tuple(state for state in State if any(state is found for _, found in parts)),
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
    return Quote(
        population=population.name,
        alone=cost.epsilon(population.delta),
        before=account.spent.epsilon(population.delta),
        after=total.epsilon(population.delta),
        limit=population.epsilon,
        delta=population.delta,
        fits=account.admits(total),
    )


def refusal(release: str, key: str, quote: Quote, held: Iterable[Share]) -> str:
    """Return the words of a refusal: requested, left, difference, who holds the budget, and what to do."""
    holders = ", ".join(f"{s.release} {figure(s.epsilon)} ({'/'.join(s.states)})" for s in held) or "nobody"
    if math.isinf(quote.after):
        at = scientific(quote.delta)
        excess = f"no ε holds at δ {at} (more additive δ than the limit allows, or no finite Rényi order)"
    else:
        excess = f"ε would become {figure(quote.after)}, {figure(quote.after - quote.limit)} too much"
    return (
        f"population {quote.population} cannot pay for {key} of release {release}: "
        f"asked {figure(quote.after - quote.before)} more (ε {figure(quote.alone)} alone), "
        f"left {figure(max(0.0, quote.limit - quote.before))}; {excess}. "
        f"Spent ε {figure(quote.before)}, limit ε {figure(quote.limit)} at δ {scientific(quote.delta)}; "
        f"held by (ε of each alone): {holders}. Nothing was charged. Spend less in the spec (`cadp plan` shows each "
        f"part), or release another population: this limit never rises"
    )


def figure(epsilon: float) -> str:
    """Return an ε to the micro-nat that the ledger counts in, with at least two decimals.

    >>> figure(8.0), figure(0.000001), figure(2.3456789)
    ('8.00', '0.000001', '2.345679')
    """
    if math.isinf(epsilon):
        return "∞"
    whole, _, decimals = f"{epsilon:.6f}".partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"
