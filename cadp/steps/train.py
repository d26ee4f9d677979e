"""Train: one charge in, one sealed checkpoint out."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cadp.errors import CadpError, CheckpointRefused, SealConflict
from cadp.ledger import Charge, Lease
from cadp.privacy.accountant import RELATION
from cadp.privacy.seeded import stamped
from cadp.reporter import Reporter
from cadp.steps.decode import decode_once
from cadp.steps.job import Job, Renewal
from cadp.steps.models import model_objects
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
        require_shards(job)
        charge = job.charge("train")
        return [] if job.ledger.seal_of(charge.id, 0) else [0]

    def run(self, job: Job, index: int, reporter: Reporter) -> None:
        """Fit the model, save the checkpoint and seal it: the charge pays for one model, whatever it is like."""
        from cadp.cinn.checkpoint import save_checkpoint  # noqa: PLC0415  (torch only where a step runs)

        charge = job.charge("train")
        lease = job.lease(charge, index, reporter)
        if lease is None:
            return
        saved = _saved(job, charge, lease, reporter)
        with tempfile.TemporaryDirectory(dir=job.scratch) as folder:
            flow = _fit(job, saved, Path(folder), reporter)
        record = {"relation": RELATION, "population": job.spec.population, "event": charge.event.to_json()}
        digest = save_checkpoint(job.models, flow, record, job.plan.versions, job.spec.digest())
        try:
            job.ledger.seal(lease, key=digest, sha256=digest, facts=stamped({}))
        except SealConflict:
            for key in model_objects(job.models, digest):  # another attempt's model counts; this one is never read
                job.models.delete(key)
            raise
        if saved is not None:
            saved.drop()
        reporter.event("sealed", f"model {digest[:12]}")

    def finish(self, job: Job, reporter: Reporter) -> None:
        """Check the sealed model and close the charge."""
        del reporter
        if is_published(job):
            return
        load_model(job)
        job.ledger.finish(job.charge("train").id, 1)


def _saved(job: Job, charge: Charge, lease: Lease, reporter: Reporter) -> SavedTraining | None:
    """The saved states of the charge's DP-SGD; None where the plan has none."""
    if job.plan.couplings is None:
        return None
    return SavedTraining(job, charge, job.plan.couplings, Renewal(job.ledger, lease).renew_if_due, reporter)


def _fit(job: Job, saved: SavedTraining | None, folder: Path, reporter: Reporter) -> "ConditionalFlow":
    """Decode the records and fit the model to them; a saved state takes the place of the moments."""
    from cadp.cinn.fit.moments import fit_moments  # noqa: PLC0415

    plan = job.plan
    choose = None if plan.couplings is None else chosen_units(job.secret, plan.couplings.fraction)
    records = decode_once(job, folder, reporter, choose)
    flow = None if saved is None else saved.flow
    if flow is None:
        private = plan.labels.private  # then the counts are, and the plan asks for noisy ones
        counts = None if private else np.array(read_facts(job)[TRAIN]["class_counts"], dtype=np.int64)
        total = plan.facts.records if private else None
        flow = fit_moments(records.batches, plan.moments, counts, reporter, records=total)
    return flow if saved is None else train_couplings(job, saved, flow, records, reporter)


def load_model(job: Job) -> "ConditionalFlow":
    """Load the sealed checkpoint of this release's training charge, and check that it may be used.

    The checks are functions of the one sealed model. A model that fails them is never fitted anew under its charge:
    drawing until a draw passes would cost more than one draw.

    Raises:
        CadpError: there is none yet.
        CheckpointRefused: its privacy record is another charge's, or it does not invert on synthetic records.
    """
    from cadp.cinn.checkpoint import load_checkpoint  # noqa: PLC0415
    from cadp.cinn.network import ROUND_TRIP_LIMIT, check_round_trip  # noqa: PLC0415

    charge = job.find_charge("train")
    seal = job.ledger.seal_of(charge.id, 0) if charge else None
    if charge is None or seal is None:
        raise CadpError(f"{job.spec.release} has no trained model yet: run `cadp train` or `cadp release`")
    flow, record = load_checkpoint(job.models, seal.key)
    if record.get("event") != charge.event.to_json() or record.get("population") != job.spec.population:
        raise CheckpointRefused(
            f"model {seal.key[:12]} was not trained under charge {charge.id}: its privacy record is another's"
        )
    error = check_round_trip(flow)
    if not error <= ROUND_TRIP_LIMIT:
        raise CheckpointRefused(
            f"model {seal.key[:12]} does not invert: round-trip error {error:.1e} on synthetic records, at most "
            f"{ROUND_TRIP_LIMIT:.0e} is accepted; its charge is spent. Next: `cadp abandon`, then a new version"
        )
    return flow
