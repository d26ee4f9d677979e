"""Every training record decoded once, for the passes that training makes over them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cadp.records import Batch, Record, Values, at_once, stack
from cadp.reporter import Reporter
from cadp.steps.job import Job
from cadp.steps.shard import read_shard

TRAIN_BATCH = 2048  # small batches spend their time in overhead: 256 takes three times as long


@dataclass(frozen=True)
class DecodedRecords:
    """All training records, decoded once into a memory map on local disk.

    Attributes:
        folder: where the map lies; further ones may be put beside it.
        images: `(n, h, w, c)`, as in a `Batch`.
        labels: `(n,)` int64.
        valid: `(n,)` bool; false for rejected records.
        units: `(n,)` int64, the number of each record's unit in the order of the shards; a unit's records are together.
        chosen: `(n,)` bool, which are of units that DP-SGD reads.
    """

    folder: Path
    images: Values
    labels: NDArray[np.int64]
    valid: NDArray[np.bool_]
    units: NDArray[np.int64]
    chosen: NDArray[np.bool_]

    def batches(self) -> Iterator[Batch]:
        """Stream them in batches of `TRAIN_BATCH`, or of fewer large ones, in the same order at every pass."""
        step = at_once(self.images.shape[1:], TRAIN_BATCH)
        for start in range(0, len(self.labels), step):
            part = slice(start, start + step)
            yield Batch(images=np.array(self.images[part]), labels=self.labels[part], valid=self.valid[part])


def decode_once(
    job: Job, folder: Path, reporter: Reporter, choose: Callable[[str], bool] | None = None
) -> DecodedRecords:
    """Decode every raw shard into a memory map below `folder`, which the caller removes.

    Args:
        job: the release.
        folder: local scratch.
        reporter: told how far it is.
        choose: which units DP-SGD reads, by their ids alone; all if None.
    """
    facts = job.plan.facts
    n = facts.records
    images = np.memmap(folder / "images", dtype=facts.kind, mode="w+", shape=(n, *facts.shape))
    labels, valid = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.bool_)
    units, chosen = np.empty(n, dtype=np.int64), np.ones(n, dtype=np.bool_)
    at, number, before = 0, -1, None
    with reporter.progress("decode", n, "records") as advance:
        for index in range(job.plan.ranges):
            for records in record_batches(job, index):
                part, batch = slice(at, at + len(records)), stack(records, facts.shape, facts.kind)
                images[part], labels[part], valid[part] = batch.images, batch.labels, batch.valid
                for row, record in enumerate(records, start=at):
                    if record.unit != before:
                        number, before = number + 1, record.unit
                        read = choose is None or choose(record.unit)
                    units[row], chosen[row] = number, read
                at += len(records)
                advance(len(records))
    return DecodedRecords(folder, images, labels, valid, units, chosen)


def range_batches(job: Job, index: int) -> Iterator[Batch]:
    """Stream the records of one range in batches; a range's last batch may be shorter, by its public count."""
    facts = job.plan.facts
    return (stack(records, facts.shape, facts.kind) for records in record_batches(job, index))


def record_batches(job: Job, index: int) -> Iterator[list[Record]]:
    """Stream the records of one range, `run.batch` at a time, or fewer large ones."""
    records, most = [], at_once(job.plan.facts.shape, job.spec.run.batch)
    for record in read_shard(job, index):
        records.append(record)
        if len(records) == most:
            yield records
            records = []
    if records:
        yield records
