"""What a release says about itself: its privacy statement and the facts of its documents, from public values alone."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cadp.errors import LedgerError
from cadp.ledger import Charge, State
from cadp.plan import Part
from cadp.privacy.accountant import Curve
from cadp.privacy.statement import (
    Circumstances,
    Component,
    Population,
    shuffled_row,
    statement,
    statement_lines,
)
from cadp.publish.facts import GateFigures, ReleaseFacts
from cadp.sources import catalogue
from cadp.steps.audit import audit_bytes
from cadp.steps.job import Job
from cadp.steps.model_charge import model_key
from cadp.steps.shard import TRAIN, read_facts
from cadp.steps.stamps import stamp_of

_WHAT = {
    "train": "the model that the records are decoded through",
    "records": "the records",
    "gate": "the accuracy figure and the decision to publish",
}


def publication_context(job: Job) -> dict[str, Any]:
    """What a rerun could not know again: the date, and what each population had spent when this release was published.

    It is fixed once, so that every attempt at publishing writes the same bytes.
    """
    populations = {part.population: _spent(job, part.population) for part in job.plan.parts()}
    # Public with the labels, which every record keeps; else true sizes go nowhere.
    class_sizes = None if job.plan.labels.private else read_facts(job)[TRAIN]["class_counts"]
    return {"date": datetime.now(UTC).date().isoformat(), "populations": populations, "class_sizes": class_sizes}


def release_facts(
    job: Job, context: Mapping[str, Any], answer: Mapping[str, Any], expectations: Mapping[str, bytes]
) -> ReleaseFacts:
    """Gather everything public that the documents of a release are made from.

    Args:
        job: the release.
        context: what `publication_context` fixed.
        answer: the gate's recorded answer.
        expectations: path → bytes of the suite, its results and its page.
    """
    spec, plan, facts = job.spec, job.plan, job.plan.facts
    document = privacy_statement(job, context)
    known = catalogue.find(spec.source.url)
    title = spec.publish.title or f"{spec.name} {spec.version}"
    publisher = spec.publish.publisher
    citation = spec.publish.citation or f"{publisher}: {title}, version {spec.version}, {context['date']}."
    return ReleaseFacts(
        name=spec.name,
        version=spec.version,
        title=title,
        description=spec.publish.description or f"Records privatized from {spec.name}.",
        license=spec.license,
        population=spec.population,
        shape=facts.shape,
        classes=facts.classes,
        records=facts.records,
        statement=document,
        statement_lines=tuple(statement_lines(document)),
        accuracy=_figures(answer),
        charges=tuple(_charge(job, part.name).id for part in plan.parts()),
        plan_digest=job.plan_digest,
        versions=plan.versions,
        date=context["date"],
        publisher=publisher,
        expectations=expectations,
        source_note=f"{known.description} {known.homepage}" if known else "A private source, not published.",
        citation=citation,
        audit=audit_bytes(context["audit_document"]) if context.get("audit_document") else None,
        table=facts.table,
        stamp=stamp_of(job),
    )


def privacy_statement(job: Job, context: Mapping[str, Any]) -> dict[str, object]:
    """Return the privacy statement; the sum in it is the sum charged in the ledger, or it is refused.

    Raises:
        PrivacyError: the parts do not add up to what the ledger charged.
    """
    components = [_component(job, part) for part in job.plan.parts()]
    populations = [
        _population(job, name, context["populations"][name])
        for name in dict.fromkeys(part.population for part in job.plan.parts())
    ]
    labels = job.plan.labels.kind
    shuffled = shuffled_row(components, populations[0], labels=labels, class_sizes=context.get("class_sizes"))
    return statement(
        name=job.spec.name,
        version=job.spec.version,
        date=context["date"],
        components=components,
        populations=populations,
        circumstances=Circumstances(
            labels=labels,
            label_parameters={} if labels == "public" else job.plan.labels.parameters(),
            model="dp" if any(part.name == "train" for part in job.plan.parts()) else "public",
            unprotected=[*_left_out(job), *_declared_models(job)],
            versions=job.plan.versions,
            audit=context.get("audit"),  # a release that was fixed before audits has none
            shuffled=shuffled,
            tabular=job.plan.facts.table is not None,
            seeded=stamp_of(job) is not None,
        ),
    )


def _component(job: Job, part: Part) -> Component:
    return Component(
        name=part.name,
        what=_what(job, part),
        mechanism=part.mechanism,
        parameters=part.parameters,
        event=part.event,
        population=part.population,
        charge=_charge(job, part.name).id,
        zero_out_event=part.zero_out,
    )


def _what(job: Job, part: Part) -> str:
    answered = part.name == "records" and job.plan.labels.kind == "randomized-response"
    return "the records and their labels" if answered else _WHAT[part.name]


def _left_out(job: Job) -> list[str]:
    source, over_cap = job.spec.source, job.plan.facts.over_cap
    if not over_cap:
        return []
    most = source.max_records_per_unit
    return [f"that {over_cap:,} records beyond the {most:,} of one {source.unit} were left out, by a keyed hash"]


def _declared_models(job: Job) -> list[str]:
    """Models that were trained elsewhere: on data declared public by the spec, or at a cost that is their own word."""
    loaded, said = job.plan.loaded, "declared public, not verified"
    if loaded is not None and loaded.cost is None:
        return [f"the model that records are decoded through, {said}: {loaded.origin}"]
    start = loaded.started_from if loaded is not None else job.plan.start and job.plan.start.origin
    told = [] if start is None else [f"the weights that the training of couplings starts from, {said}: {start}"]
    if loaded is not None and _charge(job, "train").key == model_key(loaded.digest):
        told.append("what the training of the model cost: it was not trained here, and its own record is believed")
    return told


def _population(job: Job, name: str, spent: Mapping[str, Any]) -> Population:
    own, limit = name == job.spec.population, job.ledger.population(name)
    facts = job.plan.facts
    charges = job.ledger.charges(population=name, release=job.spec.release)
    model = job.find_charge("train") if own and job.plan.loaded and job.plan.loaded.cost else None
    if model is not None and model.release != job.spec.release:
        charges.append(model)  # charged once, by another release, and a part of what this one tells
    return Population(
        name=name,
        unit=job.spec.source.unit,
        why=job.spec.source.why,
        units=facts.unit_count if own else facts.holdout_unit_count,
        records=facts.records if own else facts.holdout_records,
        max_records_per_unit=job.plan.records_per_unit if own else 1,  # the gate scores one of each
        limit_epsilon=limit.epsilon,
        limit_delta=limit.delta,
        charged=_sum(charges),
        cumulative=Curve.from_json(spent["curve"]),
        releases=spent["releases"],
    )


def _spent(job: Job, population: str) -> dict[str, Any]:
    charges = [c for c in job.ledger.charges(population=population) if c.state is not State.VOIDED]
    return {"curve": _sum(charges).to_json(), "releases": len({charge.release for charge in charges})}


def _sum(charges: list[Charge]) -> Curve:
    counted = (charge.curve for charge in charges if charge.state is not State.VOIDED)
    return sum(counted, Curve.zero())


def _charge(job: Job, name: str) -> Charge:
    charge = job.find_charge(name)
    if charge is None:
        raise LedgerError(f"the ledger has no charge for {name} of {job.spec.release}")
    return charge


def _figures(answer: Mapping[str, Any]) -> GateFigures:
    return GateFigures(
        accuracy=answer["accuracy"],
        low=answer["low"],
        high=answer["high"],
        confidence=answer["confidence"],
        threshold=answer["threshold"],
        epsilon=answer["epsilon"],
        n=answer["n"],
        passed=answer["passed"],
    )
