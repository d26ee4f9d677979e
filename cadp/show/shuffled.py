"""The shuffled figure of a plan: what the release's statement will say of whoever sees the release alone."""

from collections.abc import Mapping
from typing import Any

from cadp.ledger import Ledger
from cadp.plan import Plan
from cadp.privacy.statement import Component, Population, shuffled_row


def shuffled_plan(plan: Plan, ledger: Ledger | None) -> dict[str, object]:
    """Return the central figure of the released records with its premises, as JSON values; or the reason for none.

    It is what `cadp publish` will compute from the same events. Only what is public about the source before it is read
    goes into it: where labels are public and their counts are told by nobody, there is no figure yet.

    Args:
        plan: the release.
        ledger: whose limit gives δ; the spec's δ if there is none yet.
    """
    if plan.stamp:
        return {"epsilon": None, "reason": f"the records have {plan.stamp}"}
    components = [
        Component(
            name=part.name,
            what=part.reads,
            mechanism=part.mechanism,
            parameters=part.parameters,
            event=part.event,
            population=part.population,
            charge="",
        )
        for part in plan.parts()
    ]
    name, total = plan.spec.population, plan.total()
    limit = None if ledger is None else ledger.population(name)
    population = Population(
        name=name,
        unit=plan.spec.source.unit,
        why=plan.spec.source.why,
        units=plan.units,
        records=plan.facts.records,
        max_records_per_unit=plan.records_per_unit,
        limit_epsilon=plan.spec.spend.epsilon if limit is None else limit.epsilon,
        limit_delta=plan.spec.spend.delta if limit is None else limit.delta,
        charged=total,
        cumulative=total,
        releases=1,
    )
    counts = None if plan.labels.private else plan.facts.class_counts
    return shuffled_row(components, population, labels=plan.labels.kind, class_sizes=counts)


def shuffled_lines(row: Mapping[str, Any]) -> list[str]:
    """Return a shuffled figure in plain words: the figure, then a line for each premise; or why there is none."""
    if row["epsilon"] is None:
        return [f"Shuffled: no second figure. {_sentence(row['reason'])}"]
    records, others = row["records"], row["others"]
    rest = f", {others['epsilon']:.4g} for {' and '.join(others['components'])}" if others["components"] else ""
    return [
        f"Shuffled: against whoever sees the release alone, ε = {row['epsilon']:.4g} at δ = {row['delta_text']}: "
        f"{records['epsilon']:.4g} for the records, each hidden among {records['n']:,} at a local loss of "
        f"{records['local_epsilon']:.4g}{rest}. A second figure, which is never charged, and only while:",
        *(f"- {premise}" for premise in row["premises"]),
    ]


def _sentence(reason: str) -> str:
    return f"{reason[0].upper()}{reason[1:].rstrip('.')}."
