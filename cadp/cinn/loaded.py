"""A model that a release loads instead of training one: which it is, whether it may be used, and what it costs.

The rules, in the order of `loaded_model`:

- A model with a privacy record of the population that is released costs that population its event. Whether the ledger
  has it already is the ledger's to say: it is charged once, by whichever release came first, and stated by all.
- A model with the privacy record of other people may be used where the spec declares it public; so may one without a
  record. The statement then says "declared, not verified".
- A model that was trained without DP on the people who are released is refused, whatever a spec declares.
- A model of whose tensors the private zone has another record, with another cost, is refused: one of them is wrong.

A record says which neighbours it protects: those of one unit, who share their labels where labels were public. A
release that protects more than its model did would promise what it cannot keep.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cadp.cinn.architecture import Architecture, architecture_from_json
from cadp.cinn.checkpoint_record import DIGEST, read_checkpoint, require_one_record
from cadp.errors import CheckpointRefused
from cadp.privacy.accountant import Curve, curve
from cadp.privacy.events import ZERO_OUT, ComposedEvent, Event
from cadp.store import Store


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A checkpoint as a plan knows it: nothing of its tensors.

    Attributes:
        digest: its name, 64 hex digits; private.
        architecture: of its network.
        cost: what its training cost the population that is released, replace-one; None for a public model.
        zero_out: the second figure's event; None where there is no cost.
        origin: whence it came, in words, where it is declared public.
        trained_on: the population in its record or in its origin, if there is one.
        source: the address of the public records that it was trained on, if it says so.
        started_from: which public model its training started from, in words, where it did.
        unit: whom its record protects, as a spec would say it; None if it does not say.
    """

    digest: str
    architecture: Architecture
    cost: Event | None = None
    zero_out: Event | None = None
    origin: str = ""
    trained_on: str | None = None
    source: str | None = None
    started_from: str | None = None
    unit: str | None = None

    def words(self) -> str:
        """What is done, in a line."""
        if self.cost is None:
            return "a public model, declared, not verified"
        return "a model that was trained before, by mechanisms that are charged once"

    def parameters(self) -> dict[str, object]:
        """The public facts, JSON-ready. The digest is none of them: it is one of private bytes."""
        facts: dict[str, object] = {"kind": "loaded", "architecture": self.architecture.to_json()}
        return facts if self.cost is not None else {**facts, "declared_public": self.origin}

    def event(self) -> Event:
        """What it costs the population that is released, replace-one; the empty composition if it is public."""
        return self.cost or ComposedEvent(())

    def zero_out_event(self) -> Event:
        """The same when a unit's contribution is replaced by a null contribution."""
        return self.zero_out or ComposedEvent((), relation=ZERO_OUT)

    def to_json(self) -> dict[str, object]:
        """For the private plan: everything that a rerun must find again."""
        return {"load": self.digest, **self.parameters()}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a release asks of a model.

    Attributes:
        population: whose records are released.
        unit: whom that population protects, as its ledger says it.
        addresses: of the source of those records.
        shape: `(h, w, c)` of a record.
        classes: number of labels.
        private_labels: whether neighbours may differ in labels.
        public: why the model is public, in words, where the spec declares it so.
    """

    population: str
    unit: str
    addresses: Sequence[str]
    shape: tuple[int, int, int]
    classes: int
    private_labels: bool
    public: str | None = None


def model_place(models: Store, load: str) -> tuple[Store, str]:
    """Return where the model of a spec's `load` lies, and its digest.

    Args:
        models: the private zone's models: what lies there is read there, so that a rerun needs nothing else.
        load: a digest, or the path or address of a `<digest>.json` beside its tensors.

    Raises:
        CheckpointRefused: it is neither.
    """
    folder, _, name = load.rpartition("/")
    digest = name.removesuffix(".json")
    if DIGEST.fullmatch(digest) is None or (folder and not name.endswith(".json")) or (name == digest and folder):
        raise CheckpointRefused(
            f"model.load {load}: it is the digest of a model in the private zone (64 hex digits), or the path of a "
            f"<digest>.json with its .safetensors beside it"
        )
    elsewhere = name.endswith(".json") and not models.exists(f"{digest}.json")
    return (Store.open(folder or "."), digest) if elsewhere else (models, digest)


def loaded_model(models: Store, load: str, wanted: Wanted) -> LoadedModel:
    """Read a model's record and decide whether a release may use it.

    Raises:
        CheckpointRefused: it is absent, was altered, may not be used, or does not fit the records.
    """
    store, digest = model_place(models, load)
    record = read_checkpoint(store, digest)
    architecture = architecture_from_json(record["architecture"])
    _require_fit(digest, architecture, wanted)
    require_one_record(models, digest, record)
    privacy, origin = record["privacy"], record["origin"]
    if isinstance(origin, dict):
        words = _public_origin(digest, origin, wanted)
        return LoadedModel(
            digest, architecture, origin=words, trained_on=origin["population"], source=origin.get("source")
        )
    if not isinstance(privacy, dict):  # `read_checkpoint` lets neither be missing
        raise CheckpointRefused(f"model {digest[:12]} has neither a privacy record nor an origin")
    unit = privacy.get("unit")
    if privacy["population"] != wanted.population:
        words = _others_model(digest, str(privacy["population"]), wanted)
        return LoadedModel(digest, architecture, origin=words, trained_on=privacy["population"], unit=unit)
    return _own_model(digest, architecture, privacy, wanted)


def zero_out_of(event: Event) -> Event:
    """Return a bound on an event's zero-out loss: a null contribution is one of those that it was charged for.

    The sampled Gaussian's noise is over the norm of one contribution, so its own zero-out event has the same numbers.
    """
    if isinstance(event, ComposedEvent):
        return ComposedEvent(tuple(zero_out_of(part) for part in event.events), relation=ZERO_OUT)
    return replace(event, relation=ZERO_OUT)


def _own_model(digest: str, architecture: Architecture, privacy: dict[str, object], wanted: Wanted) -> LoadedModel:
    if wanted.public is not None:
        raise CheckpointRefused(
            f"model {digest[:12]} was trained on {wanted.population}, whose records are released: it is charged to "
            f"them and cannot be declared public. Next: leave model.public out"
        )
    if wanted.private_labels and privacy.get("labels") != "private":
        raise CheckpointRefused(
            f"model {digest[:12]} was trained while the labels of {wanted.population} were public: it does not protect "
            f"them, and source.labels says that this release does. Next: train one, or publish the labels"
        )
    if (unit := privacy.get("unit")) is None:
        raise CheckpointRefused(
            f"model {digest[:12]} does not say whom its record protects, this release one {wanted.unit}: its loss may "
            f"be of less. Next: train one here"
        )
    if unit != wanted.unit:
        raise CheckpointRefused(f"model {digest[:12]} protects one {unit}, this release one {wanted.unit}")
    event = Event.from_json(privacy["event"])  # type: ignore[arg-type]
    if curve(event) == Curve.zero():
        raise CheckpointRefused(
            f"model {digest[:12]} was trained on {wanted.population} at no cost, its record says: no training is. "
            f"Next: train one here"
        )
    stated = privacy.get("zero_out")
    companion = Event.from_json(stated) if isinstance(stated, dict) else zero_out_of(event)
    return LoadedModel(
        digest,
        architecture,
        cost=event,
        zero_out=companion,
        trained_on=wanted.population,
        started_from=None if (start := privacy.get("started_from")) is None else str(start),
        unit=str(unit),
    )


def _public_origin(digest: str, origin: dict[str, object], wanted: Wanted) -> str:
    if origin["population"] == wanted.population or origin.get("source") in wanted.addresses:
        raise CheckpointRefused(
            f"model {digest[:12]} was trained without DP on the records of {wanted.population}: no release of theirs "
            f"may use it, whatever a spec declares"
        )
    if wanted.public is None:
        raise CheckpointRefused(
            f"model {digest[:12]} has no privacy record ({origin['words']}). Next: train one with DP, or say in "
            f"model.public why it is public; the statement will say that this was declared, not verified"
        )
    return wanted.public


def _others_model(digest: str, population: str, wanted: Wanted) -> str:
    if wanted.public is None:
        raise CheckpointRefused(
            f"model {digest[:12]} was trained with DP on {population}, not on {wanted.population}: what this release "
            f"would cost them is not its ledger's. Next: train one, or say in model.public why it is public"
        )
    return wanted.public


def _require_fit(digest: str, architecture: Architecture, wanted: Wanted) -> None:
    conditions = architecture.conditions
    problems = []
    if architecture.shape != wanted.shape:
        problems.append(f"it is for records of {_size(architecture.shape)}, these are {_size(wanted.shape)}")
    if architecture.classes != wanted.classes:
        problems.append(f"it knows {architecture.classes} classes, these have {wanted.classes}")
    if conditions.attributes or conditions.bounds:
        problems.append("it is conditioned on more than a label")
    if problems:
        raise CheckpointRefused(f"model {digest[:12]} does not fit: {'; '.join(problems)}. Next: load or train another")


def _size(shape: tuple[int, int, int]) -> str:
    return "×".join(map(str, shape))
