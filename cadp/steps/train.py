"""Train: one charge in, one sealed checkpoint out."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cadp.errors import CadpError, CheckpointRefused, SealConflict
from cadp.ledger import Charge, Lease
from cadp.privacy.accountant import RELATION
from cadp.privacy.seeded import stamped
from cadp.reporter import Reporter
from cadp.steps.decode import decode_once
from cadp.steps.job import Job, Renewal
from cadp.steps.load_model import finish_loaded, load_charged, prepare_loaded, prepare_start, seal_loaded
from cadp.steps.models import model_objects
from cadp.steps.private_round_trip import keep_round_trip, private_round_trip, round_trip_key
from cadp.steps.published import is_published
from cadp.steps.shard import TRAIN, read_facts, require_shards
from cadp.steps.train_couplings import SavedTraining, chosen_units, train_couplings

if TYPE_CHECKING:
    from cadp.cinn.network import ConditionalFlow


class TrainStep:
    """Raw shards → a conditional invertible network, fitted to noisy moments, with couplings if the plan has any."""

    name = "train"
    title = "Train the model"

    def prepare(self, job: Job, reporter: Reporter) -> list[int]:
        """Charge the training, once there are shards; nothing is left to do once its checkpoint is sealed."""
        if is_published(job):
            return []
        if job.plan.loaded is not None:
            return prepare_loaded(job, job.plan.loaded, reporter)
        require_shards(job)
        prepare_start(job)
        charge = job.charge("train")
        return [] if job.ledger.seal_of(charge.id, 0) else [0]

    def run(self, job: Job, index: int, reporter: Reporter) -> None:
        """Fit the model, save the checkpoint and seal it: the charge pays for one model, whatever it is like."""
        from cadp.cinn.checkpoint import save_checkpoint  # noqa: PLC0415  (torch only where a step runs)

        if job.plan.loaded is not None:
            seal_loaded(job, job.plan.loaded, index, reporter)
            return
        charge = job.charge("train")
        lease = job.lease(charge, index, reporter)
        if lease is None:
            return
        saved = _saved(job, charge, lease, reporter)
        with tempfile.TemporaryDirectory(dir=job.scratch) as folder:
            flow, round_trip = _fit(job, saved, Path(folder), reporter)
        digest = save_checkpoint(job.models, flow, _privacy_record(job, charge), job.plan.versions, job.spec.digest())
        keep_round_trip(job, charge.id, digest, round_trip)
        try:
            job.ledger.seal(lease, key=digest, sha256=digest, facts=stamped({}))
        except SealConflict:
            for key in model_objects(job.models, digest):  # another attempt's model counts; this one is never read
                job.models.delete(key)
            job.private.delete(round_trip_key(charge.id, digest))
            raise
        if saved is not None:
            saved.drop()
        reporter.event("sealed", f"model {digest[:12]}; how private records return: `cadp model report SPEC`")

    def finish(self, job: Job, reporter: Reporter) -> None:
        """Check the sealed model and close the charge."""
        del reporter
        if is_published(job):
            return
        if job.plan.loaded is not None:
            finish_loaded(job, job.plan.loaded)
            return
        load_model(job)
        job.ledger.finish(job.charge("train").id, 1)


def _privacy_record(job: Job, charge: Charge) -> dict[str, object]:
    """What the checkpoint says of itself, for any release that may load it: whom it protects, at which cost."""
    return {
        "relation": RELATION,
        "population": job.spec.population,
        "event": charge.event.to_json(),
        "zero_out": job.part("train").zero_out.to_json(),
        "unit": job.spec.source.unit_text,
        "labels": "private" if job.plan.labels.private else "public",
        **({} if job.plan.start is None else {"started_from": job.plan.start.origin}),
    }


def _saved(job: Job, charge: Charge, lease: Lease, reporter: Reporter) -> SavedTraining | None:
    """The saved states of the charge's DP-SGD; None where the plan has none."""
    if job.plan.couplings is None:
        return None
    return SavedTraining(job, charge, job.plan.couplings, Renewal(job.ledger, lease).renew_if_due, reporter)


def _fit(
    job: Job, saved: SavedTraining | None, folder: Path, reporter: Reporter
) -> "tuple[ConditionalFlow, dict[str, Any]]":
    """Decode the records and fit the model to them; a saved state takes the place of the moments.

    Returns:
        The model, and how private records return from it: for the operator alone.
    """
    from cadp.cinn.fit.moments import fit_moments  # noqa: PLC0415

    plan = job.plan
    choose = None if plan.couplings is None else chosen_units(job.secret, plan.couplings.fraction)
    records = decode_once(job, folder, reporter, choose)
    flow = None if saved is None else saved.flow
    if flow is None:
        private = plan.labels.private  # then the counts are, and the plan asks for noisy ones
        counts = None if private else np.array(read_facts(job)[TRAIN]["class_counts"], dtype=np.int64)
        total = plan.facts.records if private else None
        flow = fit_moments(records.batches, plan.training.moments, counts, reporter, records=total)
    flow = flow if saved is None else train_couplings(job, saved, flow, records, reporter)
    return flow, private_round_trip(flow, records)


def load_model(job: Job) -> "ConditionalFlow":
    """Load the sealed checkpoint of this release's training charge, or the model that it loads; check its right to it.

    The checks are functions of the one sealed model. A model that fails them is never fitted anew under its charge:
    drawing until a draw passes would cost more than one draw.

    Raises:
        CadpError: there is none yet.
        CheckpointRefused: its privacy record is another charge's, or it does not invert on synthetic records.
    """
    from cadp.cinn.checkpoint import load_checkpoint  # noqa: PLC0415
    from cadp.cinn.network import ROUND_TRIP_LIMIT  # noqa: PLC0415
    from cadp.cinn.precision import prepared  # noqa: PLC0415

    if job.plan.loaded is not None:
        return load_charged(job, job.plan.loaded)
    charge = job.find_charge("train")
    seal = job.ledger.seal_of(charge.id, 0) if charge else None
    if charge is None or seal is None:
        raise CadpError(f"{job.spec.release} has no trained model yet: run `cadp train` or `cadp release`")
    flow, record = load_checkpoint(job.models, seal.key)
    if record.get("event") != charge.event.to_json() or record.get("population") != job.spec.population:
        raise CheckpointRefused(
            f"model {seal.key[:12]} was not trained under charge {charge.id}: its privacy record is another's"
        )
    ready = prepared(flow, job.settings.device)
    if not (error := ready.round_trip) <= ROUND_TRIP_LIMIT:
        raise CheckpointRefused(
            f"model {seal.key[:12]} does not invert: round-trip error {error:.1e} on synthetic records, at most "
            f"{ROUND_TRIP_LIMIT:.0e} is accepted; its charge is spent. Next: `cadp abandon`, then a new version"
        )
    return ready.flow
