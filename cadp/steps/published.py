"""Whether a release is public: its signed manifest, which is put last, is in place."""

from pathlib import Path

from cadp.errors import ObjectMissing, PublishConflict, VerificationFailed
from cadp.publish.claim import claim_bytes
from cadp.publish.layout import CLAIM, ENVELOPE
from cadp.publish.sign import load_public, public_path, unseal
from cadp.settings import Settings
from cadp.steps.job import Job


def is_published(job: Job) -> bool:
    """Return whether this release's manifest, its last object, is there under our claim and our signature.

    Every step asks: a published version has nothing left to do, and what it was made from may be collected.

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
