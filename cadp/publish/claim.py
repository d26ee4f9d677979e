"""The claim: a release's first object, by which one plan owns a version and a second publisher is stopped."""

import json

from cadp.errors import ObjectExists, PublishConflict
from cadp.publish.canonical import pretty
from cadp.publish.layout import CLAIM
from cadp.store import Store, StoredObject

SCHEMA = 1


def claim_bytes(release: str, plan_digest: str) -> bytes:
    """The claim's bytes: the release's id and the digest of the plan that may fill it."""
    return pretty({"schema": SCHEMA, "release": release, "plan_digest": plan_digest})


def claim(target: Store, release: str, plan_digest: str) -> StoredObject:
    """Claim the prefix `target` for one release and one plan; the same claim again is fine.

    Raises:
        PublishConflict: the prefix belongs to another release or another plan.
    """
    try:
        return target.put(CLAIM, claim_bytes(release, plan_digest))
    except ObjectExists as error:
        raise PublishConflict(
            f"{target.url} is claimed by {_owner(target)}, not by {release} of plan {plan_digest[:12]}…; "
            "a published version is immutable: choose a new version"
        ) from error


def _owner(target: Store) -> str:
    """Who holds the claim, in words; tolerates a claim that this program did not write."""
    try:
        found = json.loads(target.get(CLAIM))
        return f"{found['release']} of plan {found['plan_digest'][:12]}…"
    except (ValueError, KeyError, TypeError):
        return "something unreadable"
