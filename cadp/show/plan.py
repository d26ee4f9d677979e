"""A plan for reading: what every step reads and costs, and what is left after it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cadp.errors import LedgerMissing
from cadp.ledger import Ledger, State
from cadp.plan import Plan, check_plan, plan_release
from cadp.privacy.accountant import Curve, Event, curve
from cadp.privacy.label_attributes import ClassAttributes
from cadp.privacy.label_response import RandomizedResponse
from cadp.privacy.legacy import NO_GUARANTEE, Legacy
from cadp.privacy.mechanisms import Mechanism
from cadp.privacy.plain_words import scientific
from cadp.privacy.pld import pld_epsilon
from cadp.settings import Settings
from cadp.show.opening import open_ledger
from cadp.show.planned_model import model_lines, paid_before, public_row
from cadp.show.planned_table import table_lines
from cadp.show.shuffled import shuffled_lines, shuffled_plan
from cadp.spec import load_spec
from cadp.steps.access import examine_access, lacking_lines
from cadp.steps.job import population_secret
from cadp.zones import private_zone

Rows = list[dict[str, str]]
_STEPS = {"train": "train", "records": "privatize", "gate": "validate"}


@dataclass(frozen=True, slots=True)
class PlanView:
    """A plan for reading.

    Attributes:
        release: `name/version`.
        rows: one a step: what it reads, by which mechanism, what it costs, what is left after it.
        lines: what else there is to know, in plain words.
        shuffled: the second figure with its premises, or why there is none (`cadp.show.shuffled`).
        plan: the plan itself.
        zones: one row a zone: its address and which rights these credentials have there.
    """

    release: str
    rows: Rows
    lines: list[str]
    shuffled: dict[str, object]
    plan: Plan
    zones: Rows

    def to_json(self) -> dict[str, Any]:
        """For scripts: the rows, the shuffled figure and the plan as it would be bound."""
        return {
            "release": self.release,
            "steps": self.rows,
            "notes": self.lines,
            "shuffled": self.shuffled,
            "zones": self.zones,
            "plan": self.plan.to_json(),
        }


def plan_view(spec_path: Path, settings: Settings) -> PlanView:
    """Plan a release and set its cost beside the ledger's budget; charges nothing, reads no private record.

    Raises:
        PlanDiffers: the release was started with another plan.
        CadpError: whatever would stop the release and can be seen now; a ledger that does not exist yet cannot.
    """
    spec = load_spec(spec_path)
    access = examine_access(settings)
    private = private_zone(settings).child(f"releases/{spec.release}")
    plan = plan_release(spec, settings.data_dir, private, private_zone(settings).child("models"))
    check_plan(plan, private)
    try:
        ledger: Ledger | None = open_ledger(settings)
    except LedgerMissing:
        ledger = None
    if ledger is not None:
        population_secret(ledger, settings, spec)
    shuffled = shuffled_plan(plan, ledger)
    lacking = [f"Not ready: {line}." for line in lacking_lines(access)]
    lines = [*_plan_lines(plan, ledger), *shuffled_lines(shuffled), *lacking]
    return PlanView(spec.release, _plan_rows(plan, ledger), lines, shuffled, plan, [zone.row() for zone in access])


def _plan_rows(plan: Plan, ledger: Ledger | None) -> Rows:
    facts = plan.facts
    free = {"ε": "0", "δ": "0", "left after it": ""}
    rows = [
        {
            "step": "shard",
            "reads": f"the source: {facts.records + facts.over_cap:,} + {facts.holdout_records:,} records",
            "mechanism": f"none; stays private, {plan.ranges} ranges",
            **free,
        }
    ]
    before: dict[str, Curve] = {}
    rows += public_row(plan)
    paid = paid_before(plan, ledger)
    for part in plan.parts():
        step = _STEPS[part.name]
        if not part.guaranteed:
            said = {"step": step, "reads": part.reads, "mechanism": part.mechanism}
            rows.append({**said, "ε": NO_GUARANTEE, "δ": "", "left after it": "not charged"})
            continue
        counted = part.name == "train" and paid is not None
        cost = curve(part.event)
        pure = cost.epsilon(0.0) != float("inf")
        before[part.population] = before.get(part.population, _spent(plan, ledger, part.population))
        before[part.population] += Curve.zero() if counted else cost
        rows.append(
            {
                "step": step,
                "reads": part.reads,
                "mechanism": part.mechanism,
                "ε": f"{part.epsilon(plan.spec.spend.delta):.4g}"
                + (f", paid by {paid.release}" if counted and paid else ""),
                "δ": "0" if pure else scientific(plan.spec.spend.delta),
                "left after it": _left(ledger, part.population, before[part.population]),
            }
        )
        if part.name == "train":
            rows += _couplings_rows(plan)
    if plan.stamp:
        refused = {"step": "publish", "reads": "nothing", "mechanism": f"refused: {plan.stamp}", **free}
        return [row for row in rows if row["step"] != "validate"] + [refused]
    rows.append({"step": "publish", "reads": "released records", "mechanism": "none: post-processing, signed", **free})
    return rows


def _couplings_rows(plan: Plan) -> Rows:
    """What DP-SGD takes of the training's loss, which the row before holds already; none without couplings."""
    sgd, delta = plan.couplings, plan.spec.spend.delta
    if sgd is None:
        return []
    return [
        {
            "step": "… of it couplings",
            "reads": f"{sgd.expected_batch:,.0f} of {sgd.fraction * sgd.units:,.0f} units a step, on average",
            "mechanism": f"DP-SGD, {sgd.steps:,} steps at rate {sgd.sampling_rate:.4g}, noise "
            f"{sgd.noise_multiplier:.3g} × clip norm {sgd.clip_norm:g}",
            "ε": f"{curve(sgd.event()).epsilon(delta):.4g} alone",
            "δ": scientific(delta),
            "left after it": "",
        }
    ]


def _spent(plan: Plan, ledger: Ledger | None, population: str) -> Curve:
    """What the population has spent apart from this release, whose own charges are not made twice."""
    if ledger is None:
        return Curve.zero()
    others = (c for c in ledger.charges(population=population) if c.release != plan.spec.release)
    return sum((charge.curve for charge in others if charge.state is not State.VOIDED), Curve.zero())


def _left(ledger: Ledger | None, population: str, total: Curve) -> str:
    if ledger is None:
        return "no budget yet"
    limit = ledger.population(population)
    left = limit.epsilon - total.epsilon(limit.delta)
    return (
        f"{left:.4g} of {limit.epsilon:g}, {population}"
        if left >= 0
        else f"refused: {-left:.4g} too much, {population}"
    )


def _label_lines(plan: Plan) -> list[str]:
    labels = plan.labels
    if isinstance(labels, RandomizedResponse):
        loss = _loss(labels.event(), plan.spec.spend.delta)
        return [f"Labels: randomized response, kept with probability {labels.keep:.3f}, {loss} a record beside it."]
    if isinstance(labels, ClassAttributes):
        loss = _loss(labels.event(), plan.spec.spend.delta)
        kept = ", ".join(
            f"{name} kept with probability {keep:.3f}"
            for name, keep in zip(labels.names, labels.response.keeps, strict=True)
        )
        return [f"Labels: randomized response on each attribute, {kept}, together {loss} a record beside it."]
    return ["Labels: drawn anew from public weights; none is released."] if labels.private else []


def _several(plan: Plan) -> str:
    m = plan.records_per_unit
    if plan.spec.source.unit == "record":
        return ""
    left_out = f"; {plan.facts.over_cap:,} records beyond that are left out" if plan.facts.over_cap else ""
    return f", of {plan.units:,}, with up to {m} of its records, which it pays for together{left_out}"


def _plan_lines(plan: Plan, ledger: Ledger | None) -> list[str]:
    if isinstance(plan.mechanism, Legacy):
        return _legacy_lines(plan, plan.mechanism)
    spec, mechanism, delta = plan.spec, plan.mechanism, plan.spec.spend.delta
    total = plan.total().epsilon(delta)
    own = [part.event for part in plan.parts() if part.population == spec.population]
    lines = [
        f"This release takes ε = {total:.4g} at δ = {scientific(spec.spend.delta)} (replace-one) of {spec.population}, "
        f"at most {spec.spend.epsilon:g} by its spec; every unit is one {spec.source.unit}{_several(plan)}.",
        f"Mechanism {mechanism.kind}: {_noise(mechanism)}; expected cosine {mechanism.expected_cosine():.3f} between a "
        f"record's latent and its noisy latent in {mechanism.content_dims} dimensions; one record loses at most "
        f"{_loss(mechanism.event(), delta)} replace-one, {_loss(mechanism.zero_out_event(), delta)} zero-out.",
        f"For this one plan the privacy loss distribution gives {pld_epsilon(own, delta):.4g} where {total:.4g} is "
        f"charged: a companion figure, which the ledger never uses.",
        *table_lines(plan),
        *_label_lines(plan),
        *model_lines(plan),
        f"Gate: published if the noisy accuracy on the holdout is at least {spec.validate_.accuracy_at_least:g}.",
    ]
    if ledger is None:
        lines.append("There is no ledger yet: `cadp budget init SPEC --epsilon … --delta …` makes one.")
    return lines


def _legacy_lines(plan: Plan, mechanism: Legacy) -> list[str]:
    return [
        f"{NO_GUARANTEE}: legacy calls itself ε = {mechanism.nominal:g}; replacing one record can cost "
        f"{mechanism.worst_case:,.6g}. It is here to reproduce published figures, on public data alone.",
        f"Training is charged as always: ε = {plan.total().epsilon(plan.spec.spend.delta):.4g} of "
        f"{plan.spec.population}. The records are not charged, stay in the private zone and cannot be published.",
    ]


def _noise(mechanism: Mechanism) -> str:
    """Say how much noise there is, in the mechanism's own terms."""
    values = mechanism.parameters()
    match mechanism.kind:
        case "privunit":
            return f"a cap of share {values['q']:.4g} of the sphere, taken with probability {values['p']:.4g}"
        case "gaussian":
            return f"{values['clip']} of radius {values['clip_norm']:.4g}, noise of σ = {values['sigma']:.4g}"
        case "laplace":
            return f"{values['clip']} of radius {values['clip_norm']:.4g}, noise of scale b = {values['scale']:.4g}"
        case _:
            return str(values["noise"])


def _loss(event: Event, delta: float) -> str:
    cost = curve(event)
    pure = cost.epsilon(0.0)
    return f"ε = {pure:.4g}" if pure != float("inf") else f"ε = {cost.epsilon(delta):.4g} at δ = {scientific(delta)}"
