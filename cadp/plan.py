"""Spec and source inventory → plan: what will run, what it reads and what each part costs. No private record is read.

The plan is the contract between the first run of a release and every later one: it is put if absent, and a rerun
that would do anything else stops with a diff. It is private (it holds the source's sizes and tags); what the public
may know of it is `Plan.digest`, an HMAC under the population's secret.
"""

import difflib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from math import ceil, prod
from pathlib import Path
from typing import Any

from cadp.cinn.architecture import Architecture
from cadp.cinn.dp_sgd.plan import SgdPlan
from cadp.cinn.fit.plan import MomentsPlan
from cadp.cinn.loaded import LoadedModel
from cadp.cinn.model_plan import ModelPlan
from cadp.errors import ObjectExists, PlanDiffers, PrivacyError, SpecError
from cadp.planned_model import Models, choose_model
from cadp.privacy.accountant import Curve, Event, curve
from cadp.privacy.labels import (
    AttributeResponse,
    ClassAttributes,
    LabelPlan,
    PublicLabels,
    ResampledLabels,
    both,
    plan_response,
)
from cadp.privacy.legacy import NO_GUARANTEE, Legacy, NominalEvent
from cadp.privacy.mechanisms import Mechanism, plan_mechanism
from cadp.privacy.plain_words import scientific
from cadp.privacy.units import per_unit
from cadp.secret import PopulationSecret
from cadp.sources import PublicFacts, Source, SourceFile, catalogue, open_source
from cadp.sources.address import addresses
from cadp.spec import Attribute, Labels, ReleaseSpec, canonical_json
from cadp.store import Store
from cadp.utility.gate import GatePlan

SCHEMA = 1
PLAN_KEY = "plan.json"
HOLDOUT_SUFFIX = ".holdout"  # no population that a spec can name has a dot
# What can change a result; a rerun under other versions of these is another plan.
_LIBRARIES = ("cadp", "numpy", "pillow", "pyarrow", "scipy", "torch", "webdataset")


@dataclass(frozen=True, slots=True)
class Part:
    """One charge of a release, before it is made.

    Attributes:
        name: `train`, `records` or `gate`.
        reads: what it reads, in words.
        population: whose budget pays.
        mechanism: its name, in words.
        parameters: its public parameters as run.
        event: what the ledger will charge (replace-one).
        zero_out: the second figure's event; never summed with the first.
    """

    name: str
    reads: str
    population: str
    mechanism: str
    parameters: Mapping[str, object]
    event: Event
    zero_out: Event

    @property
    def guaranteed(self) -> bool:
        """Whether a loss is known and charged; False for `legacy`, which only names one."""
        return not isinstance(self.event, NominalEvent)

    def epsilon(self, delta: float) -> float:
        """ε of this part alone at `delta`, by the ledger's accountant.

        Raises:
            PrivacyError: the part has no guarantee.
        """
        return curve(self.event).epsilon(delta)


@dataclass(frozen=True)
class Plan:
    """Everything a release will do.

    Attributes:
        spec: the release as declared.
        facts: what is public about the source.
        inventory: per split, path, size and etag of the source's files.
        ranges: how many ranges the training records are cut into.
        moments: how the model is trained; None where one is loaded.
        mechanism: what happens to a record's latent.
        labels: what happens to its label.
        gate: the charged gate.
        versions: versions of the libraries that can change a result.
        couplings: DP-SGD of the couplings behind what the moments fit, if the spec asks for it.
        loaded: the model that is used instead of training one.
        start: the public model that the couplings' training starts from.
    """

    spec: ReleaseSpec
    facts: PublicFacts
    inventory: Mapping[str, list[SourceFile]]
    ranges: int
    moments: MomentsPlan | None
    mechanism: Mechanism
    labels: LabelPlan
    gate: GatePlan
    versions: Mapping[str, str]
    couplings: SgdPlan | None = None
    loaded: LoadedModel | None = None
    start: LoadedModel | None = None

    @property
    def training(self) -> ModelPlan:
        """How the model is trained, under one charge.

        Raises:
            PrivacyError: it is loaded.
        """
        if self.moments is None:
            raise PrivacyError(f"{self.spec.release} loads its model: nothing is trained")
        return ModelPlan(self.moments, self.couplings)

    @property
    def architecture(self) -> Architecture:
        """The network that records go through."""
        return self.training.architecture if self.loaded is None else self.loaded.architecture

    @property
    def holdout_population(self) -> str:
        """The budget that the gate is charged to."""
        return holdout_population(self.spec.population)

    @property
    def stamp(self) -> str | None:
        """What stands on everything that this plan makes, and keeps it from being published; None for a release."""
        return NO_GUARANTEE if isinstance(self.mechanism, Legacy) else None

    @property
    def units(self) -> int:
        """Units behind the released records."""
        return self.facts.unit_count

    @property
    def records_per_unit(self) -> int:
        """m, the most records that a unit contributes."""
        return self.spec.source.max_records_per_unit

    def parts(self) -> tuple[Part, ...]:
        """The charges in the order in which they will be made."""
        spec, facts, m = self.spec, self.facts, self.records_per_unit
        several = "" if m == 1 else f", up to {m} of one {spec.source.unit}"
        return (
            *self._model_part(f"{facts.records:,} records{several}"),
            Part(
                "records",
                f"{facts.records:,} records, " + ("in batches" if self.stamp else "each alone") + several,
                spec.population,
                f"{self.mechanism.kind} on {self.mechanism.content_dims} latent dimensions"
                + (f", {self.labels.words()}" if self.labels.private else "")
                + (f", {self.stamp}" if self.stamp else ""),
                self.mechanism.parameters() | ({"labels": self.labels.parameters()} if self.labels.private else {}),
                per_unit(both(self.labels, self.labels.event(), self.mechanism.event()), m),
                per_unit(both(self.labels, self.labels.zero_out_event(), self.mechanism.zero_out_event()), m),
            ),
            Part(
                "gate",
                f"{facts.holdout_records:,} holdout records"
                + ("" if facts.holdout_units is None else f", one of each of {facts.holdout_units:,} units"),
                self.holdout_population,
                f"count of hits, discrete Laplace, scale {1 / self.gate.epsilon:g}",
                self.gate.parameters(),
                self.gate.event(),
                self.gate.zero_out_event(),
            ),
        )

    def _model_part(self, reads: str) -> tuple[Part, ...]:
        """The charge of the model; none where it is public."""
        model: ModelPlan | LoadedModel = self.loaded or self.training
        if self.loaded is not None:
            if self.loaded.cost is None:
                return ()
            reads = "no record: the model was trained on them before"
        started = "" if self.start is None else ", started from public weights"
        told = {} if self.start is None else {"start": self.start.parameters()}
        return (
            Part(
                "train",
                reads,
                self.spec.population,
                model.words() + started,
                model.parameters() | told,
                model.event(),
                model.zero_out_event(),
            ),
        )

    def total(self) -> Curve:
        """The curve that this release adds to its own population; what has no guarantee is never charged."""
        own = (p for p in self.parts() if p.population == self.spec.population and p.guaranteed)
        return sum((curve(part.event) for part in own), Curve.zero())

    def to_json(self) -> dict[str, Any]:
        """Everything that a rerun must repeat, JSON-ready; `run:` is left out, the ranges are in."""
        return {
            "schema": SCHEMA,
            "release": self.spec.release,
            "spec": self.spec.model_dump(mode="json", by_alias=True, exclude={"run"}),
            "spec_digest": self.spec.digest(),
            "facts": self.facts.to_json(),
            "inventory": {split: [file.to_json() for file in files] for split, files in self.inventory.items()},
            "ranges": self.ranges,
            **({"model": self.loaded.to_json()} if self.loaded else {"moments": self.training.moments.parameters()}),
            **({"start": self.start.to_json()} if self.start else {}),
            "couplings": None if self.couplings is None else self.couplings.parameters(),
            "mechanism": self.mechanism.parameters(),
            "labels": self.labels.parameters(),
            "gate": self.gate.parameters(),
            "charges": [{"name": part.name, "event": part.event.to_json()} for part in self.parts()],
            "versions": dict(self.versions),
        }

    def digest(self, secret: PopulationSecret) -> str:
        """Hex HMAC of the plan: names it in public without being an oracle for the source's sizes and tags."""
        return secret.mac("plan", canonical_json(self.to_json())).hex()


def holdout_population(population: str) -> str:
    """Return the name of the budget of a population's holdout units."""
    return population + HOLDOUT_SUFFIX


def make_plan(spec: ReleaseSpec, source: Source, *, ranges: int | None = None, models: Models | None = None) -> Plan:
    """Plan a release from its spec and the source's inventory.

    Args:
        spec: the release.
        source: the opened source; only its list of files is asked for.
        ranges: the number of ranges of an earlier plan of the same release; from `run.range_records` if None.
        models: where models that the spec names are looked up.

    Raises:
        CheckpointRefused: a model that the spec names may not be used, or does not fit the records.
        SpecError: the parts cost more than `spend`, or δ is too large for so many units.
        SourceError: the source cannot be found.
    """
    facts = source.facts
    delta = spec.spend.delta
    if delta > 1 / (10 * facts.unit_count) and spec.spend.why_delta is None:
        raise SpecError(
            f"spend.delta {scientific(delta)} is above 1 / (10 · {facts.unit_count:,} units) = "
            f"{1 / (10 * facts.unit_count):.1e}: lower it, or say in spend.why_delta why it may stand"
        )
    labels = _plan_labels(spec, facts.classes)
    chosen = choose_model(spec, facts, labels.private, models)
    plan = Plan(
        spec=spec,
        facts=facts,
        inventory=source.files(),
        ranges=ranges or max(1, ceil(facts.records / spec.run.range_records)),
        moments=chosen.moments,
        mechanism=_legacy(spec, facts)
        if spec.mechanism.kind == "legacy"
        else plan_mechanism(
            spec.mechanism.kind,
            epsilon=spec.mechanism.epsilon,
            delta=delta,
            content_dims=spec.mechanism.content_dims,
        ),
        labels=labels,
        gate=GatePlan(
            epsilon=spec.validate_.epsilon,
            holdout_units=facts.holdout_unit_count,
            accuracy_at_least=spec.validate_.accuracy_at_least,
        ),
        versions=_versions() if facts.table is None else _versions("scikit-learn"),
        couplings=chosen.couplings,
        loaded=chosen.loaded,
        start=chosen.start,
    )
    learned = plan.architecture.content
    if plan.stamp is None and plan.mechanism.content_dims > learned:
        by = f"learns at ε = {spec.model.train.epsilon:g}" if spec.model.train else "has for content"
        raise SpecError(
            f"mechanism.content_dims {plan.mechanism.content_dims} is more than the {learned} "
            f"principal dimensions that the model {by}"
        )
    cost = plan.total().epsilon(delta)
    if cost > spec.spend.epsilon * (1 + 1e-9):
        own = (p for p in plan.parts() if p.population == spec.population and p.guaranteed)
        parts = ", ".join(f"{part.name} {part.epsilon(delta):.4g}" for part in own)
        raise SpecError(
            f"the release would cost ε = {cost:.4g} ({parts}), {cost - spec.spend.epsilon:.4g} more than "
            f"spend.epsilon = {spec.spend.epsilon:g}: lower a part's epsilon or raise spend"
        )
    return plan


def _legacy(spec: ReleaseSpec, facts: PublicFacts) -> Legacy:
    """Plan `legacy`, on all latents; nothing of it can be charged, so it may see nothing but data that is public."""
    if catalogue.find(spec.source.url) is None:
        raise SpecError(
            f"mechanism legacy has {NO_GUARANTEE}: it runs on public datasets that cadp knows "
            f"({', '.join(catalogue.names())}), not on {spec.source.url}"
        )
    return Legacy.plan(spec.mechanism.epsilon, prod(facts.shape))


def _plan_labels(spec: ReleaseSpec, classes: tuple[str, ...]) -> LabelPlan:
    declared: Labels = spec.source.labels
    if declared.kind != "public" and spec.mechanism.kind == "legacy":
        raise SpecError("mechanism legacy publishes every label: source.labels must be public")
    if declared.randomized_response is not None:
        asked = declared.randomized_response
        if asked.attributes is not None:
            return _plan_attributes(asked.epsilon, asked.attributes, classes)
        return plan_response(asked.epsilon, len(classes))
    if declared.resample is None:
        return PublicLabels()
    if len(declared.resample.weights) != len(classes):
        raise SpecError(
            f"source.labels.resample.weights has {len(declared.resample.weights)} weights for {len(classes)} classes: "
            f"give one for each, in their order"
        )
    return ResampledLabels(declared.resample.weights)


def _plan_attributes(epsilon: float, attributes: Sequence[Attribute], classes: tuple[str, ...]) -> ClassAttributes:
    having = [set(attribute.classes) for attribute in attributes]
    field = "source.labels.randomized-response.attributes"
    if strangers := sorted(set().union(*having) - set(classes)):
        raise SpecError(f"{field} names {', '.join(strangers)}: no such class; there are {', '.join(classes)}")
    vectors = tuple(tuple(int(name in one) for one in having) for name in classes)
    try:
        response = AttributeResponse.plan(epsilon, len(attributes), [attribute.share for attribute in attributes])
        return ClassAttributes(response, tuple(attribute.name for attribute in attributes), vectors)
    except PrivacyError as error:
        raise SpecError(f"{field}: {error}") from error


def plan_release(spec: ReleaseSpec, data_dir: Path, private: Store, models: Store | None = None) -> Plan:
    """Plan a release under the ranges of its earlier plan, if it has one in `private`.

    Args:
        spec: the release.
        data_dir: where catalogued datasets lie.
        private: the release's private prefix.
        models: the private zone's models; a spec that loads one needs them.
    """
    source = open_source(spec.source, data_dir=data_dir)
    earlier = json.loads(private.get(PLAN_KEY)) if private.exists(PLAN_KEY) else None
    known = None if models is None else Models(models, addresses(spec.source.url, data_dir))
    return make_plan(spec, source, ranges=earlier["ranges"] if earlier else None, models=known)


def bind_plan(plan: Plan, private: Store) -> None:
    """Put `plan.json` if absent; a rerun must be equal to it.

    Raises:
        PlanDiffers: the stored plan is another one; the message is the diff.
    """
    try:
        private.put(PLAN_KEY, _pretty(plan.to_json()))
    except ObjectExists:
        check_plan(plan, private)


def check_plan(plan: Plan, private: Store) -> None:
    """Compare a plan with the one its release was started with, if it was.

    Raises:
        PlanDiffers: they differ; the message is the diff.
    """
    if not private.exists(PLAN_KEY):
        return
    stored, current = json.loads(private.get(PLAN_KEY)), json.loads(_pretty(plan.to_json()))
    if stored != current:
        # The names of the source's files may be somebody's: they are counted here, not shown.
        files = _changed_files(stored.pop("inventory", {}), current.pop("inventory", {}))
        stored["source files changed"], current["source files changed"] = 0, files
        before, now = _pretty(stored).decode(), _pretty(current).decode()
        lines = difflib.unified_diff(before.splitlines(), now.splitlines(), "started with", "now", lineterm="", n=0)
        changes = "\n".join(line for line in lines if not line.startswith("@@"))
        raise PlanDiffers(
            f"{plan.spec.release} was started with another plan:\n{changes}\n"
            f"next: restore what changed, or give the release a new version; one that charged nothing "
            f"may be forgotten with `cadp abandon`"
        )


def _changed_files(before: dict[str, list[dict[str, Any]]], now: dict[str, list[dict[str, Any]]]) -> int:
    old, new = ({(split, *file.values()) for split in tree for file in tree[split]} for tree in (before, now))
    return len(old ^ new)


def _pretty(value: object) -> bytes:
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _versions(*further: str) -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in (*_LIBRARIES, *further):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return versions
