"""Which model a spec asks for: one to train, by public rules, or one that lies there, if it may be used."""

from collections.abc import Sequence
from dataclasses import dataclass

from cadp.cinn.architecture import Coupled
from cadp.cinn.dp_sgd.plan import SgdPlan
from cadp.cinn.fit.plan import MomentsPlan
from cadp.cinn.loaded import LoadedModel, Wanted, loaded_model
from cadp.cinn.model_plan import ModelPlan
from cadp.errors import CheckpointRefused, SpecError
from cadp.sources import PublicFacts
from cadp.spec import Couplings, ReleaseSpec, Train
from cadp.store import Store


@dataclass(frozen=True, slots=True)
class Models:
    """Where models are looked up, and whose records none of the public ones may have been trained on.

    Attributes:
        store: the private zone's models.
        addresses: of the source of the records that are released.
    """

    store: Store
    addresses: Sequence[str]


@dataclass(frozen=True, slots=True)
class ChosenModel:
    """One of the two: `moments`, with `couplings` and the public model that they `start` from, or `loaded`."""

    moments: MomentsPlan | None
    couplings: SgdPlan | None
    loaded: LoadedModel | None = None
    start: LoadedModel | None = None


def choose_model(spec: ReleaseSpec, facts: PublicFacts, private_labels: bool, models: Models | None) -> ChosenModel:
    """Plan the training that a spec asks for, or look up the model that it names.

    Raises:
        SpecError: the spec names a model, and nobody said where models are.
        CheckpointRefused: the model may not be used, or does not fit the records.
        PrivacyError: ε buys no training.
    """
    asked = spec.model.train

    def look_up(load: str, public: str | None) -> LoadedModel:
        if models is None:
            raise SpecError(f"{spec.release} names a model, and there is no private zone to look it up in")
        wanted = Wanted(
            population=spec.population,
            unit=spec.source.unit_text,
            addresses=models.addresses,
            shape=facts.shape,
            classes=len(facts.classes),
            private_labels=private_labels,
            public=public,
        )
        return loaded_model(models.store, load, wanted)

    if asked is None:
        return ChosenModel(None, None, look_up(spec.model.load or "", spec.model.public))
    model = plan_training(asked, spec, facts, private_labels)
    if asked.couplings is None or asked.couplings.start is None or model.couplings is None:
        return ChosenModel(model.moments, model.couplings)
    start = look_up(asked.couplings.start, asked.couplings.public)
    _require_same_stack(start, model.couplings.architecture, asked.couplings)
    return ChosenModel(model.moments, model.couplings, start=start)


def plan_training(asked: Train, spec: ReleaseSpec, facts: PublicFacts, private_labels: bool) -> ModelPlan:
    """Return the plan of a training with differential privacy on the units being released."""
    return ModelPlan.calibrate(
        asked.epsilon,
        spec.spend.delta,
        shape=facts.shape,
        classes=len(facts.classes),
        units=facts.unit_count,
        max_records_per_unit=spec.source.max_records_per_unit,
        private_labels=private_labels,
        fraction=None if asked.couplings is None else asked.couplings.fraction,
    )


def _require_same_stack(public: LoadedModel, planned: Coupled, asked: Couplings) -> None:
    """Refuse a model whose couplings are not the planned ones: over other dimensions, of another form, or none."""
    found = public.architecture
    if not isinstance(found, Coupled) or (found.couplings, found.content) != (planned.couplings, planned.content):
        stack = planned.couplings
        raise CheckpointRefused(
            f"model.train.couplings.start {asked.start}: it has not the couplings that are planned, {stack.blocks} "
            f"{stack.coupling} of width {stack.width} over {planned.content} dimensions. Next: train it with "
            f"`cadp model train` for this very spec"
        )
