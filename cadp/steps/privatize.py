"""Privatize: one charge in, one sealed run of released records a range out.

`x → z = f(x; y) → z̃ → x̃ = f⁻¹(z̃; ỹ)`, clamped, 8 bit, PNG (a table's row: 16 bit): y is the record's own label, ỹ the
released one. Everything after z̃ and ỹ is post-processing. Each released record gets an i.i.d. 128-bit id: its public
name and its sort key, so that sorting by it is a uniform permutation.
"""

import os
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from cadp.errors import CadpError, SealConflict
from cadp.exchange import INDEX_SUFFIX, interval, merge, write_run
from cadp.privacy.bits import random_bytes
from cadp.privacy.labels import LabelPlan, PublicLabels
from cadp.privacy.mechanisms import Mechanism
from cadp.privacy.seeded import stamped
from cadp.records import Batch, Released, pack_released, unpack_released
from cadp.reporter import Reporter
from cadp.shards import encode_values
from cadp.steps.decode import range_batches
from cadp.steps.job import Job, Renewal
from cadp.steps.published import is_published
from cadp.steps.reproduce import keep_range, ranges_left
from cadp.steps.train import load_model

if TYPE_CHECKING:
    from cadp.cinn.network import ConditionalFlow

# The key of an attempt: range, fencing token, and what tells two attempts apart; and its sidecar's.
ATTEMPT = re.compile(r"sealed/(?P<range>\d{5,})\.(?P<token>\d+)-[0-9a-f]{8}\.run(\.index)?")


class PrivatizeStep:
    """Raw shards → sealed runs of released records, in the order of their random ids."""

    name = "privatize"
    title = "Privatize the records"

    def __init__(self) -> None:
        self._before: dict[str, int] = {}  # by release: the records that were sealed when this process began

    def prepare(self, job: Job, reporter: Reporter) -> list[int]:
        """Charge the mechanism, once there is a model that may be used, and return the ranges without a seal."""
        if is_published(job):
            return []
        load_model(job)
        if job.plan.stamp:
            return ranges_left(job)
        charge = job.charge("records")
        sealed = job.ledger.seals(charge.id)
        self._before[job.spec.release] = sum(int(str(seal.facts["records"])) for seal in sealed.values())
        return [index for index in range(job.plan.ranges) if index not in sealed]

    def run(self, job: Job, index: int, reporter: Reporter) -> None:
        """Privatize one range with fresh noise, write its run under this attempt's own key and seal it."""
        if job.plan.stamp:
            with reporter.progress(f"privatize, {job.plan.stamp}", job.plan.facts.records, "records") as advance:
                keep_range(job, index, _records(job, index, advance), reporter)
            return
        charge = job.charge("records")
        lease = job.lease(charge, index, reporter)
        if lease is None:
            return
        renewal = Renewal(job.ledger, lease)
        key = f"sealed/{index:05d}.{lease.token}-{os.urandom(4).hex()}.run"
        before = self._before.get(job.spec.release, 0)
        with reporter.progress("privatize", job.plan.facts.records, "records", before) as advance:

            def done(records: int) -> None:
                advance(records)
                renewal.renew_if_due()

            run = write_run(_records(job, index, done), job.private, key, scratch=job.scratch)
        try:
            job.ledger.seal(lease, key=run.key, sha256=run.sha256, facts=stamped({"records": run.records}))
        except SealConflict:
            _delete_run(job, run.key)  # another attempt's output counts; this one is never read
            raise
        reporter.event("sealed", f"range {index}: {run.records:,} records")

    def finish(self, job: Job, reporter: Reporter) -> None:
        """Close the charge once every range is sealed, and delete what attempts left that were not."""
        del reporter
        if is_published(job) or job.plan.stamp:
            return
        job.ledger.finish(job.charge("records").id, job.plan.ranges)
        kept = set(sealed_runs(job))
        for key, _ in job.private.list("sealed/"):
            if key.removesuffix(INDEX_SUFFIX) not in kept:
                job.private.delete(key)


def _records(job: Job, index: int, done: Callable[[int], None]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the released records of one range, packed under their ids, and tell `done` of each batch."""
    flow = load_model(job)
    for batch in range_batches(job, index):
        for record in privatize_batch(flow, job.plan.mechanism, batch, job.plan.labels):
            yield record.id, pack_released(record)
        done(len(batch))


def _delete_run(job: Job, key: str) -> None:
    for part in (key, key + INDEX_SUFFIX):
        job.private.delete(part)


def privatize_batch(
    flow: "ConditionalFlow", mechanism: Mechanism, batch: Batch, labels: LabelPlan | None = None
) -> list[Released]:
    """Replace each record of a batch by one drawn from its noisy latent.

    Nothing about a released record depends on the values of another row: the network and the mechanism work row by
    row, and the shape of the batch is public.

    Args:
        flow: the conditional invertible network, latent dimension d.
        mechanism: a frozen plan; what it charges is what runs.
        batch: n records; rows with `valid` false enter as the zero latent.
        labels: what happens to labels; they are public if None.

    Returns:
        n released records in the order of the batch, under fresh random ids.
    """
    codes = mechanism.privatize(flow.encode_images(batch.images, batch.labels), batch.valid)
    released = (labels or PublicLabels()).release(batch.labels, batch.valid)
    images = flow.decode_images(codes, released, batch.images.dtype)
    return [
        Released(id=random_bytes(16), label=int(label), data=encode_values(image))
        for image, label in zip(images, released, strict=True)
    ]


def sealed_runs(job: Job) -> list[str]:
    """Return the keys of the sealed runs, in range order; readers resolve through the ledger alone.

    Raises:
        CadpError: a range is not sealed yet.
    """
    charge = job.find_charge("records")
    seals = job.ledger.seals(charge.id) if charge else {}
    if any(index not in seals for index in range(job.plan.ranges)):
        raise CadpError(f"{job.spec.release} is not privatized yet: run `cadp privatize` or `cadp release`")
    return [seals[index].key for index in range(job.plan.ranges)]


def released_records(job: Job, index: int = 0, of: int = 1) -> Iterator[Released]:
    """Stream interval `index` of `of` of the released records, in the order of their ids."""
    low, high = interval(index, of)
    return (unpack_released(key, data) for key, data in merge(job.private, sealed_runs(job), low, high))
