"""Publish: sealed runs → the release, claimed first, every put conditional, the signed manifest last."""

import contextlib
import json
from itertools import islice
from pathlib import Path

from cadp.errors import LedgerError, ObjectExists, ObjectMissing, PublishConflict, SettingsError, VerificationFailed
from cadp.ledger import State
from cadp.publish.claim import claim, claim_bytes
from cadp.publish.documents import finish as finish_release
from cadp.publish.facts import ReleaseFacts
from cadp.publish.interval import PublishedFile, intervals, publish_interval
from cadp.publish.layout import CLAIM, ENVELOPE
from cadp.publish.sheet import contact_sheet, pick
from cadp.publish.sign import Signer, load_public, load_signer, public_path, unseal
from cadp.records import Released
from cadp.reporter import Reporter, counted
from cadp.settings import Settings
from cadp.shards import decode_png
from cadp.spec import canonical_json
from cadp.steps.budgets import budget_row
from cadp.steps.disclosure import publication_context, release_facts
from cadp.steps.job import Job
from cadp.steps.privatize import released_records
from cadp.steps.validate import expectation_files, gate_answer, require_passed

_CONTEXT_KEY = "published/context.json"
_SAMPLE_PER_CLASS = 40


class PublishStep:
    """Sealed runs → Parquet, tars and documents below the release's public prefix."""

    name = "publish"
    title = "Publish the release"

    def prepare(self, job: Job, reporter: Reporter) -> list[int]:
        """Check the gate and the key, claim the version, and return the intervals that are not in place."""
        del reporter
        require_passed(job)
        if is_published(job):
            return []
        signer = load_signer(signing_key_path(job.settings))  # a missing key stops here, before anything is public
        _require_key(job, signer)
        claim(job.public, job.spec.release, job.plan_digest)
        _fix_context(job, signer)
        return [index for index in range(_count(job)) if not job.private.exists(_done_key(index))]

    def run(self, job: Job, index: int, reporter: Reporter) -> None:
        """Merge one interval of the ids out of every sealed run and publish it; the same bytes at every attempt."""
        before = sum(files[0].records for files in _done(job))
        with reporter.progress("publish", job.plan.facts.records, "records", before) as advance:
            records = counted(released_records(job, index, _count(job)), advance)
            files = publish_interval(job.public, index, _count(job), records, published_facts(job), scratch=job.scratch)
        job.private.put(_done_key(index), canonical_json([file.to_json() for file in files]))

    def finish(self, job: Job, reporter: Reporter) -> None:
        """Write the documents and the manifest, and close the charges of the release."""
        records = sample(job)
        if not is_published(job):
            _require_sealed(job)
            files = [file for interval in _done(job) for file in interval]
            signer = load_signer(signing_key_path(job.settings))
            finish_release(job.public, files, records, published_facts(job), signer)
        job.ledger.publish(job.spec.release)
        facts = job.plan.facts
        labels = [record.label for record in records]
        rows = [records[i] for row in pick(labels, len(facts.classes)) for i in row]
        sheet = contact_sheet(
            [decode_png(record.png, facts.shape) for record in rows], [record.label for record in rows], facts.classes
        )
        reporter.picture("contact-sheet", "Released records", sheet)
        budgets = (job.ledger.budget(part.population) for part in job.plan.parts()[1:])
        reporter.table("budget", "Budget (replace-one)", [budget_row(budget) for budget in budgets])
        reporter.event("published", job.public.url)


def is_published(job: Job) -> bool:
    """Return whether this release's manifest, its last object, is there under our claim and our signature.

    Raises:
        PublishConflict: something else is published in its place.
    """
    if not job.public.exists(ENVELOPE):
        return False
    ours = claim_bytes(job.spec.release, job.plan_digest)
    try:
        unseal(job.public.get(ENVELOPE), [load_public(public_path(signing_key_path(job.settings)))])
        claimed = job.public.get(CLAIM)
    except (VerificationFailed, ObjectMissing) as error:
        raise PublishConflict(f"{job.public.url} holds something that we did not publish: {error}") from error
    if claimed != ours:
        raise PublishConflict(f"{job.public.url} is published under another plan: choose a new version")
    return True


def signing_key_path(settings: Settings) -> Path:
    """Return where the publisher's private key lies."""
    return settings.keys_dir / "publisher.pem"


def sample(job: Job) -> list[Released]:
    """Return the first records in the order of their random ids: a uniform sample that every rerun repeats."""
    return list(islice(released_records(job), _SAMPLE_PER_CLASS * len(job.plan.facts.classes)))


def published_facts(job: Job) -> ReleaseFacts:
    """Return everything public that the release's documents are made from; the same at every attempt."""
    context = json.loads(job.private.get(_CONTEXT_KEY))
    return release_facts(job, context, gate_answer(job), expectation_files(job))


def _fix_context(job: Job, signer: Signer) -> None:
    """Fix what the documents say and a rerun could not know; an earlier attempt's stands."""
    with contextlib.suppress(ObjectExists):
        job.private.put(_CONTEXT_KEY, canonical_json(publication_context(job) | {"key_id": signer.key_id}))


def _require_key(job: Job, signer: Signer) -> None:
    """The documents name the key, so one key signs all attempts at a release."""
    if job.private.exists(_CONTEXT_KEY):
        began = json.loads(job.private.get(_CONTEXT_KEY))["key_id"]
        if began != signer.key_id:
            raise SettingsError(
                f"{job.spec.release} began to be published under key {began[:16]}, the key here is "
                f"{signer.key_id[:16]}: restore the first one to finish it"
            )


def _require_sealed(job: Job) -> None:
    """Ask the ledger once more before the signature: a release that was abandoned meanwhile is not signed."""
    for charge in job.ledger.charges(release=job.spec.release):
        if charge.state not in (State.SEALED, State.PUBLISHED, State.VOIDED):
            raise LedgerError(f"{job.spec.release} cannot be signed: its charge {charge.key} is {charge.state}")


def _count(job: Job) -> int:
    height, width, channels = job.plan.facts.shape
    return intervals(job.plan.facts.records, height * width * channels, workers=job.plan.ranges)


def _done_key(index: int) -> str:
    return f"published/{index:05d}.json"


def _done(job: Job) -> list[list[PublishedFile]]:
    keys = [_done_key(index) for index in range(_count(job))]
    done = [json.loads(job.private.get(key)) for key in keys if job.private.exists(key)]
    return [[PublishedFile.from_json(file) for file in files] for files in done]
