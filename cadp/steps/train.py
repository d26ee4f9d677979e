"""Train: one charge in, one sealed checkpoint out."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cadp.errors import CadpError, CheckpointRefused, SealConflict
from cadp.privacy.accountant import RELATION
from cadp.privacy.seeded import stamped
from cadp.records import Batch, stack
from cadp.reporter import Reporter
from cadp.steps.job import Job
from cadp.steps.models import model_objects
from cadp.steps.published import is_published
from cadp.steps.shard import TRAIN, read_facts, read_shard, require_shards

if TYPE_CHECKING:
    from cadp.cinn.network import ConditionalFlow

TRAIN_BATCH = 2048  # small batches spend their time in overhead: 256 takes three times as long


class TrainStep:
    """Raw shards → a conditional invertible network, fitted to noisy moments."""

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
        """Fit the moments, save the checkpoint and seal it: the charge pays for one model, whatever it is like."""
        from cadp.cinn.checkpoint import save_checkpoint  # noqa: PLC0415  (torch only where a step runs)
        from cadp.cinn.moments import fit_moments  # noqa: PLC0415

        charge = job.charge("train")
        lease = job.lease(charge, index, reporter)
        if lease is None:
            return
        private = job.plan.labels.private  # then the counts are, and the plan asks for noisy ones
        counts = None if private else np.array(read_facts(job)[TRAIN]["class_counts"], dtype=np.int64)
        total = job.plan.facts.records if private else None
        with tempfile.TemporaryDirectory(dir=job.scratch) as folder:
            records = decode_once(job, Path(folder), reporter)
            flow = fit_moments(records.batches, job.plan.moments, counts, reporter, records=total)
        record = {"relation": RELATION, "population": job.spec.population, "event": charge.event.to_json()}
        digest = save_checkpoint(job.models, flow, record, job.plan.versions)
        try:
            job.ledger.seal(lease, key=digest, sha256=digest, facts=stamped({}))
        except SealConflict:
            for key in model_objects(job.models, digest):  # another attempt's model counts; this one is never read
                job.models.delete(key)
            raise
        reporter.event("sealed", f"model {digest[:12]}")

    def finish(self, job: Job, reporter: Reporter) -> None:
        """Check the sealed model and close the charge."""
        del reporter
        if is_published(job):
            return
        load_model(job)
        job.ledger.finish(job.charge("train").id, 1)


@dataclass(frozen=True)
class DecodedRecords:
    """All training records, decoded once into a memory map on local disk, for the passes that training makes."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    valid: NDArray[np.bool_]

    def batches(self) -> Iterator[Batch]:
        """Stream them in batches of `TRAIN_BATCH`, in the same order at every pass."""
        for start in range(0, len(self.labels), TRAIN_BATCH):
            part = slice(start, start + TRAIN_BATCH)
            yield Batch(images=np.array(self.images[part]), labels=self.labels[part], valid=self.valid[part])


def decode_once(job: Job, folder: Path, reporter: Reporter) -> DecodedRecords:
    """Decode every raw shard into a memory map below `folder`, which the caller removes."""
    facts = job.plan.facts
    images = np.memmap(folder / "images", dtype=np.uint8, mode="w+", shape=(facts.records, *facts.shape))
    labels, valid = np.empty(facts.records, dtype=np.int64), np.empty(facts.records, dtype=np.bool_)
    at = 0
    with reporter.progress("decode", facts.records, "records") as advance:
        for index in range(job.plan.ranges):
            for batch in range_batches(job, index):
                part = slice(at, at + len(batch))
                images[part], labels[part], valid[part] = batch.images, batch.labels, batch.valid
                at += len(batch)
                advance(len(batch))
    return DecodedRecords(images=images, labels=labels, valid=valid)


def range_batches(job: Job, index: int) -> Iterator[Batch]:
    """Stream the records of one range in batches; a range's last batch may be shorter, by its public count."""
    records = []
    for record in read_shard(job, index):
        records.append(record)
        if len(records) == job.spec.run.batch:
            yield stack(records, job.plan.facts.shape)
            records = []
    if records:
        yield stack(records, job.plan.facts.shape)


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
