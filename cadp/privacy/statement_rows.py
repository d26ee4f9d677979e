"""The parts of a privacy statement, as values and as JSON rows: every loss in a row is computed from events."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cadp.errors import PrivacyError, VerificationFailed
from cadp.privacy.accountant import Curve, curve
from cadp.privacy.events import RELATION, ZERO_OUT, Event
from cadp.privacy.plain_words import scientific

# Micro-nats by which a figure in a published statement may differ from ours. Curves are integers made with guard bits,
# so none is expected; but a statement is checked years later, with other libraries, and a last unit is no forgery.
TOLERANCE = 5


@dataclass(frozen=True)
class Component:
    """One charge of a release: training, records, labels, gate.

    Attributes:
        name: a slug, unique in the statement: `training`, `records`, `gate`.
        what: what it released, in words: "the model that decodes the records".
        mechanism: its name: `moments`, `privunit`, `discrete-laplace`.
        parameters: public parameters as run: clip, noise, steps, lattice step.
        event: what the ledger charged, for one unit (all its records together).
        population: whose budget paid.
        charge: the ledger's id of the charge.
        zero_out_event: the companion event, if the mechanism states one.
    """

    name: str
    what: str
    mechanism: str
    parameters: Mapping[str, object]
    event: Event
    population: str
    charge: str
    zero_out_event: Event | None = None


@dataclass(frozen=True)
class Population:
    """A set of units with one budget. Populations of one statement are disjoint.

    Attributes:
        name: the ledger's name for it.
        unit: who or what is protected: `person`, `record`.
        why: in words, why the unit is a record, if it is.
        units: how many units, public by declaration.
        records: how many records, public by declaration.
        max_records_per_unit: m, the most records that one unit contributes.
        limit_epsilon: the ledger's limit.
        limit_delta: the ledger's limit; every figure is at this δ.
        charged: the sum of the ledger's charges for this release.
        cumulative: the sum of all the ledger's charges, this release included.
        releases: how many releases those are, this one included.
    """

    name: str
    unit: str
    why: str
    units: int
    records: int
    max_records_per_unit: int
    limit_epsilon: float
    limit_delta: float
    charged: Curve
    cumulative: Curve
    releases: int


def component_row(component: Component, delta: float) -> dict[str, object]:
    """Return a component as JSON values, its losses computed from its events."""
    companion = component.zero_out_event
    if component.event.relation != RELATION or (companion is not None and companion.relation != ZERO_OUT):
        raise PrivacyError(f"component {component.name} must be charged as {RELATION}, and compared as {ZERO_OUT}")
    return {
        "name": component.name,
        "what": component.what,
        "mechanism": component.mechanism,
        "parameters": dict(component.parameters),
        "population": component.population,
        "charge": component.charge,
        "epsilon": curve(component.event).epsilon(delta),
        **_delta(delta),
        "zero_out_epsilon": None if companion is None else _finite(curve(companion).epsilon(delta)),
        "event": component.event.to_json(),
        "zero_out_event": None if companion is None else companion.to_json(),
    }


def population_row(population: Population, components: Sequence[Component]) -> dict[str, object]:
    """Return a population as JSON values, its losses computed from its curves."""
    companions = [c.zero_out_event for c in components]
    zero_out = None if None in companions else total([e for e in companions if e is not None], ZERO_OUT)
    delta = population.limit_delta
    pure = population.charged.micro[-1]
    if population.charged.delta_atto:
        pure = None
    for spent in (population.charged, population.cumulative):
        if not math.isfinite(spent.epsilon(delta)):
            raise PrivacyError(f"the loss of {population.name} is not finite at delta {scientific(delta)}")
    return {
        "name": population.name,
        "unit": population.unit,
        "why": population.why,
        "units": population.units,
        "records": population.records,
        "max_records_per_unit": population.max_records_per_unit,
        "epsilon": population.charged.epsilon(delta),
        **_delta(delta),
        "pure_epsilon": None if pure is None else pure / 1e6,
        "zero_out_epsilon": None if zero_out is None else _finite(zero_out.epsilon(delta)),
        "limit_epsilon": population.limit_epsilon,
        "cumulative_epsilon": population.cumulative.epsilon(delta),
        "releases": population.releases,
        "cumulative": population.cumulative.to_json(),
    }


def headline_row(populations: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Return the loss of the dearest population."""
    companions = [p["zero_out_epsilon"] for p in populations]
    return {
        "relation": RELATION,
        "epsilon": max(number(p["epsilon"]) for p in populations),
        **_delta(max(number(p["delta"]) for p in populations)),
        "zero_out_epsilon": None if None in companions else max(number(e) for e in companions),
    }


def total(events: Sequence[Event], relation: str) -> Curve:
    """Return the sum of the events' curves."""
    added = Curve.zero(relation)
    for event in events:
        added = added + curve(event)
    return added


def _delta(delta: float) -> dict[str, object]:
    return {"delta": delta, "delta_text": scientific(delta)}


def _finite(epsilon: float) -> float | None:
    return epsilon if math.isfinite(epsilon) else None


def number(value: object) -> float:
    """Return a finite JSON number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise TypeError(f"{value!r:.40} is not a finite number")
    return float(value)


def agree(stated: Mapping[str, object], computed: Mapping[str, object]) -> bool:
    """Return whether two rows are equal, every ε to within `TOLERANCE` micro-nats and all else exactly."""

    def equal(key: str, a: object, b: object) -> bool:
        if key.endswith("epsilon") and a is not None and b is not None:
            return math.isclose(number(a), number(b), rel_tol=1e-9, abs_tol=TOLERANCE / 1e6)
        return a == b

    return stated.keys() == computed.keys() and all(equal(key, stated[key], computed[key]) for key in stated)


def read_component(row: Mapping[str, object]) -> Component:
    """Read what `component_row` wrote, trusting no figure in it."""
    event, companion = row["event"], row["zero_out_event"]
    if not isinstance(event, Mapping) or not isinstance(row["parameters"], Mapping):
        raise TypeError("an event and parameters must be objects")
    return Component(
        name=str(row["name"]),
        what=str(row["what"]),
        mechanism=str(row["mechanism"]),
        parameters=row["parameters"],
        event=Event.from_json(event),
        population=str(row["population"]),
        charge=str(row["charge"]),
        zero_out_event=Event.from_json(companion) if isinstance(companion, Mapping) else None,
    )


def read_population(row: Mapping[str, object], components: Sequence[Component]) -> Population:
    """Read what `population_row` wrote; what was charged is summed from the components."""
    charged = total([c.event for c in components], RELATION)
    stored = row["cumulative"]
    if not isinstance(stored, dict):
        raise TypeError("a cumulative curve must be an object")
    cumulative = Curve.from_json(stored)
    grown = all(
        a is None or (b is not None and a + TOLERANCE >= b)
        for a, b in zip(cumulative.micro, charged.micro, strict=True)
    )
    if not grown or cumulative.delta_atto < charged.delta_atto or cumulative.relation != RELATION:
        raise VerificationFailed(f"population {row['name']} has spent less in all than in this release")
    return Population(
        name=str(row["name"]),
        unit=str(row["unit"]),
        why=str(row["why"]),
        units=int(number(row["units"])),
        records=int(number(row["records"])),
        max_records_per_unit=int(number(row["max_records_per_unit"])),
        limit_epsilon=number(row["limit_epsilon"]),
        limit_delta=number(row["delta"]),
        charged=charged,
        cumulative=cumulative,
        releases=int(number(row["releases"])),
    )
