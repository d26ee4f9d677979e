"""Reproduce: the published mechanism on public data, into the private zone, where it stays.

`legacy` has no guarantee, so nothing can be charged for it and no seal made: `cadp.plan` lets it see public, pinned
datasets only, the outputs lie under keys that no reader of sealed runs knows, and publishing refuses the plan.
"""

import re
from collections.abc import Iterable

from cadp.exchange import INDEX_SUFFIX, write_run
from cadp.reporter import Reporter
from cadp.steps.job import Job

REPRODUCED = re.compile(r"reproduction/\d{5,}\.no-guarantee\.run(\.index)?")
"""Every key that is written here."""


def ranges_left(job: Job) -> list[int]:
    """Return the ranges that are not reproduced yet; the sidecar of a run is put last."""
    return [i for i in range(job.plan.ranges) if not job.private.exists(_key(i) + INDEX_SUFFIX)]


def keep_range(job: Job, index: int, items: Iterable[tuple[bytes, bytes]], reporter: Reporter) -> None:
    """Keep one range of the published mechanism's records in the private zone."""
    key = _key(index)
    for part in (key, key + INDEX_SUFFIX):
        job.private.delete(part)  # of an attempt that did not get to its end
    run = write_run(items, job.private, key, scratch=job.scratch)
    reporter.event(str(job.plan.stamp), f"range {index}: {run.records:,} records, never to be published")


def _key(index: int) -> str:
    return f"reproduction/{index:05d}.no-guarantee.run"
