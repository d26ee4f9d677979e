"""Load: a model takes the place of training; it is checked and brought in first, then charged if it must be."""

from typing import TYPE_CHECKING

from cadp.cinn.checkpoint_record import read_checkpoint
from cadp.cinn.loaded import LoadedModel, model_place
from cadp.errors import CadpError, CheckpointRefused, SettingsError
from cadp.ledger import Population
from cadp.privacy.events import Event
from cadp.privacy.seeded import stamped
from cadp.reporter import Reporter
from cadp.steps.job import Job, address_macs, known_secret
from cadp.store import Store

if TYPE_CHECKING:
    from cadp.cinn.network import ConditionalFlow


def prepare_loaded(job: Job, loaded: LoadedModel, reporter: Reporter) -> list[int]:
    """Bring the model in and charge its event, unless it is public or was charged; the charge's range, if it is ours.

    Raises:
        CheckpointRefused: it may not be used; nothing is charged.
        BudgetExceeded: its event was never charged here, and does not fit.
    """
    require_strangers(job, loaded)
    bring_in(job.models, job.spec.model.load or loaded.digest)
    flow_of_loaded(job, loaded)
    if loaded.cost is None:
        reporter.event("loaded", f"model {loaded.digest[:12]}, declared public: nothing is charged")
        return []
    charge = job.charge("train")
    if charge.release != job.spec.release:
        reporter.event("loaded", f"model {loaded.digest[:12]}, charged before by {charge.release}: nothing is added")
        return []
    return [] if job.ledger.seal_of(charge.id, 0) else [0]


def seal_loaded(job: Job, loaded: LoadedModel, index: int, reporter: Reporter) -> None:
    """Seal the model under the charge that loading it made, so that every later release finds what paid for it."""
    lease = job.lease(job.charge("train"), index, reporter)
    if lease is None:
        return
    job.ledger.seal(lease, key=loaded.digest, sha256=loaded.digest, facts=stamped({}))
    reporter.event("sealed", f"model {loaded.digest[:12]}, loaded")


def finish_loaded(job: Job, loaded: LoadedModel) -> None:
    """Check the model once more, and close the charge if this release made it."""
    load_charged(job, loaded)
    charge = job.find_charge("train") if loaded.cost is not None else None
    if charge is not None and charge.release == job.spec.release:
        job.ledger.finish(charge.id, 1)


def load_charged(job: Job, loaded: LoadedModel) -> "ConditionalFlow":
    """Load the model of a release that loads one; a model that costs something, only once that was charged.

    Raises:
        CadpError: its event was not charged.
        CheckpointRefused: it may not be used.
    """
    if loaded.cost is not None and job.find_charge("train") is None:
        raise CadpError(f"{job.spec.release} has not charged its model yet: run `cadp train` or `cadp release`")
    return flow_of_loaded(job, loaded)


def prepare_start(job: Job) -> None:
    """Bring in and check the public model that the training of couplings starts from, before anything is charged.

    Raises:
        CheckpointRefused: it may not be used.
    """
    start, asked = job.plan.start, job.spec.model.train
    if start is None or asked is None or asked.couplings is None or asked.couplings.start is None:
        return
    require_strangers(job, start)
    bring_in(job.models, asked.couplings.start)
    public_flow(job, start)


def public_flow(job: Job, public: LoadedModel) -> "ConditionalFlow":
    """Load a model that the spec declares public, float64 as a flow is that is trained.

    Raises:
        CheckpointRefused: it was altered, may not be used, or does not invert.
    """
    return flow_of_loaded(job, public).double()


def flow_of_loaded(job: Job, loaded: LoadedModel) -> "ConditionalFlow":
    """Read and check the tensors of a model in the private zone.

    Raises:
        CheckpointRefused: it was altered, may not be used, or does not invert.
    """
    from cadp.cinn.checkpoint import load_checkpoint  # noqa: PLC0415  (torch only where a step runs)
    from cadp.cinn.network import ROUND_TRIP_LIMIT  # noqa: PLC0415
    from cadp.cinn.precision import prepared  # noqa: PLC0415

    public_for = job.spec.population if loaded.cost is None else None
    flow, record = load_checkpoint(job.models, loaded.digest, public_for=public_for)
    if loaded.cost is not None:
        stated = Event.from_json(record["event"])  # type: ignore[arg-type]
        if (record["population"], stated) != (job.spec.population, loaded.cost):
            raise CheckpointRefused(f"model {loaded.digest[:12]} has another privacy record than was planned")
    ready = prepared(flow, job.settings.device)
    if not (error := ready.round_trip) <= ROUND_TRIP_LIMIT:
        raise CheckpointRefused(
            f"model {loaded.digest[:12]} does not invert: round-trip error {error:.1e} on synthetic records, at most "
            f"{ROUND_TRIP_LIMIT:.0e} is accepted. Next: load or train another"
        )
    return ready.flow


def bring_in(models: Store, load: str) -> str:
    """Copy a model into the private zone, checked byte by byte, unless it lies there; return its digest.

    Raises:
        CheckpointRefused: it is absent or was altered.
    """
    from cadp.cinn.checkpoint import read_tensors  # noqa: PLC0415

    store, digest = model_place(models, load)
    if store is models:
        folder, _, _ = load.rpartition("/")
        if not folder or models.exists(f"{_tensors_of(models, digest)}.safetensors"):
            return digest
        store = Store.open(folder)  # whatever became of the tensors here, they may be there still
    record = read_checkpoint(store, digest)
    key, tensors = read_tensors(store, record)
    models.put(key, tensors)
    models.put(f"{digest}.json", store.get(f"{digest}.json"))  # the record last: whoever finds it finds its tensors
    return digest


def require_strangers(job: Job, loaded: LoadedModel) -> None:
    """Refuse a model declared public that was trained on people who have a budget in this very ledger.

    It was if its record or its origin names them, or the address of their source.

    Raises:
        CheckpointRefused: what its release would cost them is neither stated nor charged.
    """
    if loaded.cost is not None:
        return
    for population in job.ledger.populations():
        if loaded.trained_on == population.name or _is_source_of(population, loaded.source, job):
            raise CheckpointRefused(
                f"model {loaded.digest[:12]} was trained on {population.name}, whose budget is kept here: what it "
                f"tells of them is theirs to be charged, so it is not public. Next: train another"
            )


def _is_source_of(population: Population, address: str | None, job: Job) -> bool:
    """Whether a budget is bound to a source; of a population whose secret is not here nobody can tell."""
    if address is None:
        return False
    try:
        secret = known_secret(job.settings, population)
    except SettingsError:
        return False
    return population.source_hmac in address_macs(secret, (address,))


def _tensors_of(models: Store, digest: str) -> object:
    tensors = read_checkpoint(models, digest)["tensors"]
    return tensors.get("sha256") if isinstance(tensors, dict) else None
