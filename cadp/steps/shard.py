"""Shard: read the source once, order its records by a keyed hash of their unit, cut them into raw shards.

Everything stays in the private zone, so nothing is charged. The order depends on the population's secret and on the
units' ids alone: neighbouring datasets have the same ids, hence the same ranges.
"""

import hmac
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from cadp.errors import CadpError, RejectedInput, SpecError
from cadp.exchange import INDEX_SUFFIX, merge, write_run
from cadp.records import Record, pack_record
from cadp.reporter import Reporter, counted
from cadp.shards import read_raw_shard, write_raw_shard
from cadp.sources import Source, open_source
from cadp.spec import canonical_json
from cadp.steps.job import Job
from cadp.steps.published import is_published
from cadp.steps.units import check_disjoint, unit_facts, unit_interval, within_cap

TRAIN, HOLDOUT = "train", "test"
FACTS_KEY = "raw/facts.json"
REJECTS_KEY = "raw/rejects.parquet"
RAW = re.compile(r"raw/(facts\.json|rejects\.parquet|(train|test)\.run(\.index)?|train-\d{5,}\.tar|holdout\.tar)")
"""Every key that this step writes."""


class SplitFacts(TypedDict):
    """What was counted in one split; `class_counts` is in the order of the spec's classes.

    Of records over their unit's cap only the number is kept: `records`, `rejected` and `class_counts` are without them.
    """

    records: int
    units: int
    over_cap: int
    rejected: int
    class_counts: list[int]


class ShardStep:
    """Source → raw shards, one range of training records each, and one shard of the holdout."""

    name = "shard"
    title = "Shard the source"

    def prepare(self, job: Job, reporter: Reporter) -> list[int]:
        """Sort each split by unit into a run, check the counts, and return the shards that are still to cut."""
        if is_published(job):
            return []
        if not job.private.exists(FACTS_KEY):
            self._sort(job, reporter)
        return [index for index in range(job.plan.ranges + 1) if not job.private.exists(raw_key(job, index))]

    def run(self, job: Job, index: int, reporter: Reporter) -> None:
        """Cut one raw shard out of its split's run; the same bytes at every attempt."""
        holdout = index == job.plan.ranges
        low, high = unit_interval(0, 1) if holdout else unit_interval(index, job.plan.ranges)
        run = _run_key(HOLDOUT if holdout else TRAIN)
        most = _cap(job, HOLDOUT if holdout else TRAIN)
        total = job.plan.facts.records + job.plan.facts.over_cap + job.plan.facts.holdout_records
        label = "cut shards"
        with (
            tempfile.TemporaryDirectory(dir=job.scratch) as folder,
            reporter.progress(label, total, "records") as advance,
        ):
            path = Path(folder) / "shard.tar"
            items = counted(merge(job.private, [run], low, high), advance)
            write_raw_shard(path, within_cap(items, most))
            job.private.put(raw_key(job, index), path)

    def finish(self, job: Job, reporter: Reporter) -> None:
        """Show what the source held. How many records were rejected, and why, is for the private zone alone."""
        if is_published(job):
            return
        facts = read_facts(job)
        reporter.table(
            "source",
            "Source",
            [
                {
                    "split": split,
                    "records": f"{fact['records']:,}",
                    "rejects": f"below {job.spec.source.max_rejects:.2%}",
                }
                for split, fact in facts.items()
            ],
        )

    def _sort(self, job: Job, reporter: Reporter) -> None:
        source = open_source(job.spec.source, data_dir=job.settings.data_dir)
        declared = {TRAIN: job.plan.facts.records, HOLDOUT: job.plan.facts.holdout_records}
        facts, rejects = dict[str, SplitFacts](), list[dict[str, str]]()
        for split, expected in declared.items():
            counted = _Counted(source, split, len(job.plan.facts.classes), rejects)
            whole = expected + (job.plan.facts.over_cap if split == TRAIN else 0)
            with reporter.progress(f"read {split}", whole, "records") as advance:
                items = _keyed(counted.records(advance), job)
                for key in (_run_key(split), _run_key(split) + INDEX_SUFFIX):
                    job.private.delete(key)  # of an attempt that did not get to its end
                write_run(items, job.private, _run_key(split), scratch=job.scratch)
            facts[split] = counted.facts() if job.spec.source.unit == "record" else _by_unit(job, split)
        _put_rejects(job, rejects)
        for split, expected in declared.items():
            _check_counts(job, split, expected, facts[split])
        if job.spec.source.unit != "record":
            check_disjoint(*(merge(job.private, [_run_key(split)], None, None) for split in declared))
        job.private.put(FACTS_KEY, canonical_json(facts))


class _Counted:
    """A split's records with what is counted on the way; a rejected record keeps a label, so that counts are public."""

    def __init__(self, source: Source, split: str, classes: int, rejects: list[dict[str, str]]) -> None:
        self._source, self._split, self._classes, self._rejects = source, split, classes, rejects
        self._labels: Counter[int] = Counter()
        self._rejected = 0

    def records(self, advance: Callable[[int], None]) -> Iterator[Record]:
        def reject(key: str, reason: str) -> None:
            self._rejected += 1
            self._rejects.append({"split": self._split, "key": key, "reason": reason})

        for record in self._source.records(self._split, reject):
            self._labels[record.label] += 1
            advance(1)
            yield record

    def facts(self) -> SplitFacts:
        counts = [self._labels[label] for label in range(self._classes)]
        records = self._labels.total()
        return {
            "records": records,
            "units": records,
            "over_cap": 0,
            "rejected": self._rejected,
            "class_counts": counts,
        }


def _by_unit(job: Job, split: str) -> SplitFacts:
    """Count a split by unit, from its run."""
    found = unit_facts(merge(job.private, [_run_key(split)], None, None), _cap(job, split), len(job.plan.facts.classes))
    return {
        "records": found.records,
        "units": found.units,
        "over_cap": found.over_cap,
        "rejected": found.rejected,
        "class_counts": found.class_counts,
    }


def _cap(job: Job, split: str) -> int:
    """The most records of a unit that are used; of the holdout the gate takes one of each by itself."""
    if split == TRAIN:
        return job.plan.records_per_unit if job.spec.source.unit != "record" else job.plan.facts.records
    return job.plan.facts.holdout_records


def _keyed(records: Iterator[Record], job: Job) -> Iterator[tuple[bytes, bytes]]:
    # 64 bits of the unit's hash, so that a unit's records stay together, then 64 bits of the record's own.
    key = job.secret.key("shard")
    for record in records:
        unit = hmac.digest(key, b"unit\0" + record.unit.encode(), sha256)
        own = hmac.digest(key, b"record\0" + record.key.encode(), sha256)
        yield unit[:8] + own[:8], pack_record(record)


def _check_counts(job: Job, split: str, expected: int, facts: SplitFacts) -> None:
    if job.spec.source.unit != "record":
        _check_units(job, split, facts)
    if facts["records"] != expected:
        raise SpecError(
            f"the plan counts on {expected:,} records in split {split} of {job.spec.source.url}, which holds "
            f"{facts['records']:,}: nothing was charged. Next: `cadp abandon`, and correct the "
            f"spec's public counts"
        )
    share, most = facts["rejected"] / expected, job.spec.source.max_rejects
    if share > most:
        raise RejectedInput(
            f"{facts['rejected']:,} of {expected:,} records of split {split} cannot be read ({share:.2%}, "
            f"source.max_rejects is {most:.2%}); nothing was charged. The reasons are in "
            f"{job.private.url_of(REJECTS_KEY)}. Next: `cadp abandon`, and mend the source or raise max_rejects"
        )


def _check_units(job: Job, split: str, facts: SplitFacts) -> None:
    """Every record read is within its unit's cap or over it, and all three numbers are the public ones."""
    public, unit = job.plan.facts, job.spec.source.unit
    own = split == TRAIN
    units, over_cap = (public.unit_count, public.over_cap) if own else (public.holdout_unit_count, 0)
    records = public.records if own else public.holdout_records
    if (facts["units"], facts["over_cap"], facts["records"]) != (units, over_cap, records):
        raise SpecError(
            f"the plan counts on {records + over_cap:,} records of {units:,} {unit}s in split {split} of "
            f"{job.spec.source.url}, {over_cap:,} of them over the cap of {_cap(job, split):,}; it holds "
            f"{facts['records'] + facts['over_cap']:,} of {facts['units']:,}, {facts['over_cap']:,} over it: nothing "
            f"was charged. Next: `cadp abandon`, and correct the spec's public counts"
        )


def _put_rejects(job: Job, rejects: list[dict[str, str]]) -> None:
    schema = pa.schema({"split": pa.string(), "key": pa.string(), "reason": pa.string()})
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rejects, schema=schema), sink)
    job.private.delete(REJECTS_KEY)  # of an attempt that stopped here before
    job.private.put(REJECTS_KEY, sink.getvalue().to_pybytes())


def _run_key(split: str) -> str:
    return f"raw/{split}.run"


def raw_key(job: Job, index: int) -> str:
    """Return the key of raw shard `index`; the last one is the holdout's."""
    return "raw/holdout.tar" if index == job.plan.ranges else f"raw/train-{index:05d}.tar"


def read_facts(job: Job) -> dict[str, SplitFacts]:
    """Return what was counted at sharding; private, but for what the spec declares public."""
    facts: dict[str, SplitFacts] = json.loads(job.private.get(FACTS_KEY))
    return facts


def require_shards(job: Job) -> None:
    """Refuse to go on before every raw shard is cut.

    Raises:
        CadpError: naming the step to run.
    """
    keys = [FACTS_KEY, *(raw_key(job, index) for index in range(job.plan.ranges + 1))]
    if not all(job.private.exists(key) for key in keys):
        raise CadpError(f"{job.spec.release} is not sharded yet: run `cadp shard` or `cadp release`")


def read_shard(job: Job, index: int) -> Iterator[Record]:
    """Stream the records of raw shard `index`."""
    with job.private.open_read(raw_key(job, index)) as stream:
        yield from read_raw_shard(stream)
