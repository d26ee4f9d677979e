"""The last step of a release: its documents, and then the signed manifest that makes it a release."""

from collections.abc import Callable, Sequence

from cadp.errors import ObjectExists, PublishConflict, VerificationFailed
from cadp.publish import layout
from cadp.publish.canonical import pretty
from cadp.publish.card import card
from cadp.publish.claim import claim
from cadp.publish.croissant import croissant
from cadp.publish.facts import ReleaseFacts
from cadp.publish.interval import PublishedFile
from cadp.publish.manifest import Manifest, build, check_statement
from cadp.publish.page import page
from cadp.publish.sign import Signer, seal
from cadp.publish.sums import sums, unprintable
from cadp.publish.wids import shard_index
from cadp.records import Released
from cadp.store import Store, StoredObject


def finish(
    target: Store,
    files: Sequence[PublishedFile],
    sample: Sequence[Released],
    facts: ReleaseFacts,
    signer: Signer,
    *,
    bind: Callable[[], None] | None = None,
) -> Manifest:
    """Write every document of the release, `manifest.dsse` last; doing it again writes the same bytes.

    Args:
        target: the release's prefix, claimed, with `files` in place.
        files: what `publish_interval` returned, over all intervals.
        sample: released records for the contact sheet; the first few of each class are shown.
        facts: the release's public facts.
        signer: the publisher's key.
        bind: called once all files but the manifest and its signature are in place and nothing speaks against these
            two: where the release becomes irrevocable. If it raises, there is no release.

    Raises:
        PublishConflict: the prefix holds something else already.
        VerificationFailed: the files do not hold the records that the facts promise, or the privacy statement does
            not hold: a release that no reader could verify is not signed.
    """
    ordered = sorted(files, key=lambda file: file.path)
    _check_complete(ordered, facts)
    check_statement(build(facts, []).body)
    stored = [claim(target, facts.release, facts.plan_digest)]
    stored += [StoredObject(file.path, file.size, file.sha256) for file in ordered]

    def put(path: str, data: bytes) -> StoredObject:
        try:
            stored.append(target.put(path, data))
        except ObjectExists as error:
            raise PublishConflict(
                f"{target.url_of(path)} holds other bytes; a version is immutable: publish a new one"
            ) from error
        return stored[-1]

    statement = put(layout.STATEMENT, pretty(dict(facts.statement)))
    if facts.audit is not None:
        put(layout.AUDIT, facts.audit)
    for path in sorted(facts.expectations):
        put(layout.EXPECTATIONS + path, facts.expectations[path])
    shards = [file for file in ordered if file.path.endswith(".tar")]
    put(layout.SHARD_INDEX, shard_index(facts, shards))
    put(layout.CROISSANT, croissant(facts, ordered, statement))
    put(layout.CARD, card(facts, ordered, signer.key_id))
    put(layout.PAGE, page(facts, ordered, sample, signer.key_id))
    put(layout.SUMS, sums({file.key: file.sha256 for file in stored}))
    manifest = build(facts, stored)
    _check_alone(target, manifest)
    last = {layout.MANIFEST: manifest.to_bytes(), layout.ENVELOPE: seal(manifest.in_toto(), signer)}
    for path, data in last.items():
        if target.exists(path) and target.get(path) != data:
            raise PublishConflict(f"{target.url_of(path)} holds other bytes; a version is immutable: publish a new one")
    if bind is not None:
        bind()
    for path, data in last.items():
        put(path, data)
    return manifest


def _check_complete(files: Sequence[PublishedFile], facts: ReleaseFacts) -> None:
    """Both forms hold every record exactly once, the shards are numbered without a gap, and no path needs escaping."""
    for form in (".parquet", ".tar"):
        held = sum(file.records for file in files if file.path.endswith(form))
        if held != facts.records:
            raise VerificationFailed(
                f"{held:,} records are in {form} files, {facts.records:,} were promised: not signed"
            )
    shards = [file.path for file in files if file.path.endswith(".tar")]
    if shards != [layout.shard_path(index) for index in range(len(shards))]:
        raise VerificationFailed(f"shards are not numbered 0 to {len(shards) - 1}: not signed")
    tables = [file.path for file in files if file.path.endswith(".parquet")]
    if tables != [layout.parquet_path(index, len(tables)) for index in range(len(tables))]:
        raise VerificationFailed(f"Parquet files are not numbered 0 to {len(tables) - 1}: not signed")
    if odd := unprintable(facts.expectations):
        raise VerificationFailed(f"names with control characters or backslashes cannot be published: {odd}")


def _check_alone(target: Store, manifest: Manifest) -> None:
    """Nothing else lies below the prefix: a reader's check would call it an extra file."""
    expected = {file.key: file.size for file in manifest.files}
    for key, size in target.list():
        if key in {layout.MANIFEST, layout.ENVELOPE}:
            continue
        if expected.pop(key, None) != size:
            raise PublishConflict(
                f"{target.url_of(key)} ({size} bytes) is not of this release; remove it, or publish a new version"
            )
    if expected:
        raise VerificationFailed(f"{sorted(expected)[0]} is not in place: not signed")
