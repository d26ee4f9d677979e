"""Publish: sealed runs → the release, claimed first, every put conditional, the signed manifest last.

Just before the manifest the ledger says PUBLISHED: the release is bound to become public. Whoever abandons it before
stops its publishers there; whoever would abandon it later is refused, and a publisher that dies in between is completed
by the next one. So a release with a signature is never BURNED.
"""

import contextlib
import json
import re
from itertools import islice

from cadp.errors import ObjectExists, SettingsError
from cadp.publish.claim import claim
from cadp.publish.documents import finish as finish_release
from cadp.publish.facts import ReleaseFacts
from cadp.publish.histogram_sheet import histogram_sheet
from cadp.publish.interval import PublishedFile, intervals, publish_interval
from cadp.publish.sheet import contact_sheet, pick
from cadp.publish.sign import Signer, load_signer
from cadp.records import Released
from cadp.reporter import Reporter, counted
from cadp.shards import decode_png
from cadp.spec import canonical_json
from cadp.steps.audit import kept_audit, public_figures, require_audit
from cadp.steps.budgets import budget_row
from cadp.steps.disclosure import publication_context, release_facts
from cadp.steps.job import Job
from cadp.steps.privatize import released_records
from cadp.steps.published import is_published, signing_key_path
from cadp.steps.stamps import require_no_stamp
from cadp.steps.validate import expectation_files, gate_answer, require_passed

__all__ = ["CONTEXT_KEY", "DONE", "PublishStep", "is_published", "published_facts", "sample", "signing_key_path"]

DONE = re.compile(r"published/\d{5,}\.json")  # the keys of what says that an interval is in place
CONTEXT_KEY = "published/context.json"
_SAMPLE_PER_CLASS = 40
_SAMPLE_OF_ROWS = 20_000


class PublishStep:
    """Sealed runs → Parquet, tars and documents below the release's public prefix."""

    name = "publish"
    title = "Publish the release"

    def __init__(self) -> None:
        self._before: dict[str, int] = {}  # by release: the records that were in place when this process began

    def prepare(self, job: Job, reporter: Reporter) -> list[int]:
        """Check the gate and the key, claim the version, and return the intervals that are not in place."""
        if is_published(job):
            return []
        require_no_stamp(job)
        require_passed(job)
        require_audit(job.plan, job.private, reporter)  # validate had one made; one that refuted the code stops here
        signer = load_signer(signing_key_path(job.settings))  # a missing key stops here, before anything is public
        _require_key(job, signer)
        claim(job.public, job.spec.release, job.plan_digest)
        _fix_context(job, signer)
        done = _done(job)
        self._before[job.spec.release] = sum(files[0].records for files in done.values())
        return [index for index in range(_count(job)) if index not in done]

    def run(self, job: Job, index: int, reporter: Reporter) -> None:
        """Merge one interval of the ids out of every sealed run and publish it; the same bytes at every attempt."""
        before = self._before.get(job.spec.release, 0)
        with reporter.progress("publish", job.plan.facts.records, "records", before) as advance:
            records = counted(released_records(job, index, _count(job)), advance)
            files = publish_interval(job.public, index, _count(job), records, published_facts(job), scratch=job.scratch)
        job.private.put(_done_key(index), canonical_json([file.to_json() for file in files]))

    def finish(self, job: Job, reporter: Reporter) -> None:
        """Write the documents, bind the release in the ledger, and put the signed manifest.

        Raises:
            LedgerError: the release was abandoned; nothing is signed.
        """
        if not is_published(job):
            records = sample(job)
            files = [file for interval in _done(job).values() for file in interval]
            signer = load_signer(signing_key_path(job.settings))
            finish_release(
                job.public,
                files,
                records,
                published_facts(job),
                signer,
                bind=lambda: job.ledger.publish(job.spec.release),
            )
            reporter.picture("contact-sheet", "Released records", _sheet(job, records))
        budgets = (job.ledger.budget(part.population) for part in job.plan.parts()[1:])
        reporter.table("budget", "Budget (replace-one)", [budget_row(budget) for budget in budgets])
        reporter.event("published", job.public.url)


def sample(job: Job) -> list[Released]:
    """Return the first records in the order of their random ids: a uniform sample that every rerun repeats."""
    facts = job.plan.facts
    most = _SAMPLE_PER_CLASS * len(facts.classes) if facts.table is None else _SAMPLE_OF_ROWS
    return list(islice(released_records(job), most))


def published_facts(job: Job) -> ReleaseFacts:
    """Return everything public that the release's documents are made from; the same at every attempt."""
    context = json.loads(job.private.get(CONTEXT_KEY))
    return release_facts(job, context, gate_answer(job), expectation_files(job))


def _fix_context(job: Job, signer: Signer) -> None:
    """Fix what the documents say and a rerun could not know; an earlier attempt's stands."""
    with contextlib.suppress(ObjectExists):
        audit = kept_audit(job.plan, job.private)
        context = {"key_id": signer.key_id, "audit": public_figures(audit), "audit_document": audit}
        job.private.put(CONTEXT_KEY, canonical_json(publication_context(job) | context))


def _require_key(job: Job, signer: Signer) -> None:
    """The documents name the key, so one key signs all attempts at a release."""
    if job.private.exists(CONTEXT_KEY):
        began = json.loads(job.private.get(CONTEXT_KEY))["key_id"]
        if began != signer.key_id:
            raise SettingsError(
                f"{job.spec.release} began to be published under key {began[:16]}, the key here is "
                f"{signer.key_id[:16]}: restore the first one to finish it"
            )


def _sheet(job: Job, records: list[Released]) -> bytes:
    facts = job.plan.facts
    if facts.table is not None:
        return histogram_sheet(facts.table, facts.classes, records)
    rows = [records[i] for row in pick([record.label for record in records], len(facts.classes)) for i in row]
    pictures = [decode_png(record.data, facts.shape) for record in rows]
    return contact_sheet(pictures, [record.label for record in rows], facts.classes)


def _count(job: Job) -> int:
    height, width, channels = job.plan.facts.shape
    return intervals(job.plan.facts.records, height * width * channels, workers=job.plan.ranges)


def _done_key(index: int) -> str:
    return f"published/{index:05d}.json"


def _done(job: Job) -> dict[int, list[PublishedFile]]:
    """The files of every interval that is in place, in order."""
    there = {key for key, _ in job.private.list("published/")}
    done = {index: job.private.get(_done_key(index)) for index in range(_count(job)) if _done_key(index) in there}
    return {index: [PublishedFile.from_json(file) for file in json.loads(data)] for index, data in done.items()}
