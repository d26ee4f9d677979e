"""Check a release: every byte of every file, under a key that the reader trusts already.

The chain: a trusted key signs an in-toto statement (`manifest.dsse`), its subject is the digest of `manifest.json`,
which lists every other file; nothing else may lie below the prefix.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cadp.errors import ObjectMissing, StoreError, VerificationFailed
from cadp.publish import layout
from cadp.publish.canonical import pretty
from cadp.publish.claim import claim_bytes
from cadp.publish.manifest import Manifest, check_statement, parse
from cadp.publish.sign import unseal
from cadp.publish.sums import sums
from cadp.reporter import Reporter, Silent
from cadp.store import Store, StoredObject

_READERS = 4
_LARGEST = {layout.MANIFEST: 512 << 20, layout.ENVELOPE: 1 << 20}  # refuse to load more than this


@dataclass(frozen=True, slots=True)
class Verified:
    """A release that is what its manifest says.

    Attributes:
        release: `name/version`.
        plan_digest: keyed hash of the plan, hex: names it, and cannot be computed from a guess.
        signed_by: id of the trusted key.
        files: how many files were checked, the manifest and its signature included.
        size: their bytes.
        records: released records, as the manifest says.
        listed: whether the store could list the prefix; if not, extra files could not be looked for.
        manifest: the manifest: the release's public facts and its files.
    """

    release: str
    plan_digest: str
    signed_by: str
    files: int
    size: int
    records: int
    listed: bool
    manifest: Manifest


def verify(
    target: Store | str,
    trusted: Sequence[Ed25519PublicKey],
    *,
    expect: str | None = None,
    reporter: Reporter | None = None,
) -> Verified:
    """Check the release at `target` (a store or a URL) and return what it is.

    Args:
        target: the release's prefix.
        trusted: the publishers' keys that the reader trusts, from elsewhere than the release.
        expect: `name/version` that must be there; without it, any release of a trusted key passes.
        reporter: who watches the hashing.

    Raises:
        VerificationFailed: one line a problem, all of them: missing, extra and changed files, a wrong signature, an
            unknown key, a claim or a statement that is not the manifest's.
    """
    store = Store.open(target) if isinstance(target, str) else target
    manifest_bytes, envelope = _head(store)
    problems: list[str] = []
    try:
        manifest = parse(manifest_bytes)
    except VerificationFailed as error:
        raise _failed(store, [str(error)]) from error
    signed_by = _check_signature(manifest, envelope, trusted, problems)
    if expect is not None and manifest.release != expect:
        problems.append(f"this is {manifest.release}, not {expect}")
    problems += _check_files(store, manifest.files, reporter or Silent())
    problems += _check_documents(store, manifest)
    extra, listed = _extra(store, manifest)
    problems += extra
    if problems or signed_by is None:
        raise _failed(store, problems)
    return Verified(
        release=manifest.release,
        plan_digest=manifest.plan_digest,
        signed_by=signed_by,
        files=len(manifest.files) + 2,
        size=sum(file.size for file in manifest.files) + len(manifest_bytes) + len(envelope),
        records=int(str(manifest.body["records"])),
        listed=listed,
        manifest=manifest,
    )


def verify_manifest(target: Store, trusted: Sequence[Ed25519PublicKey]) -> tuple[Manifest, str]:
    """Check what a release says of itself, and read none of its records.

    Returns:
        The manifest, and the id of the trusted key that signed it; every ε in its statement follows from its events.

    Raises:
        VerificationFailed: as `verify`, but for the bytes of the files that the manifest lists.
    """
    manifest_bytes, envelope = _head(target)
    problems: list[str] = []
    try:
        manifest = parse(manifest_bytes)
    except VerificationFailed as error:
        raise _failed(target, [str(error)]) from error
    signed_by = _check_signature(manifest, envelope, trusted, problems)
    problems += _check_documents(target, manifest)
    if problems or signed_by is None:
        raise _failed(target, problems)
    return manifest, signed_by


def _failed(store: Store, problems: Sequence[str]) -> VerificationFailed:
    return VerificationFailed(f"{store.url} is not a valid release:\n" + "\n".join(f"  {line}" for line in problems))


def _head(store: Store) -> tuple[bytes, bytes]:
    """The manifest and its envelope, read once."""
    found = {}
    for path in (layout.MANIFEST, layout.ENVELOPE):
        try:
            size = store.size(path)
            if size > _LARGEST[path]:
                raise _failed(store, [f"{path} of {size:,} bytes is larger than any that cadp writes"])
            found[path] = store.get(path)
        except ObjectMissing as error:
            what = "no manifest" if path == layout.MANIFEST else "no signature (manifest.dsse is missing)"
            raise VerificationFailed(
                f"{store.url}: {what}: not a release; it was never finished, or something was removed"
            ) from error
    return found[layout.MANIFEST], found[layout.ENVELOPE]


def _check_signature(
    manifest: Manifest, envelope: bytes, trusted: Sequence[Ed25519PublicKey], problems: list[str]
) -> str | None:
    """The id of the key that signed exactly this manifest; otherwise None, and the reason in `problems`."""
    try:
        statement, signed_by = unseal(envelope, trusted)
    except VerificationFailed as error:
        problems.append(str(error))
        return None
    if statement != manifest.in_toto():
        digest = hashlib.sha256(manifest.to_bytes()).hexdigest()
        problems.append(f"changed: manifest.json (sha256 {digest}) is not what {signed_by} signed")
        return None
    return signed_by


def _check_files(store: Store, files: Sequence[StoredObject], reporter: Reporter) -> Iterator[str]:
    """Problems with the listed files' presence, sizes and digests, streaming each once."""
    with (
        reporter.progress("verify", sum(file.size for file in files), "bytes") as advance,
        ThreadPoolExecutor(_READERS) as pool,
    ):
        for file, problem in zip(files, pool.map(lambda file: _check_file(store, file), files), strict=True):
            advance(file.size)
            if problem is not None:
                yield problem


def _check_file(store: Store, file: StoredObject) -> str | None:
    try:
        size = store.size(file.key)
        if size != file.size:
            return f"changed: {file.key} has {size:,} bytes, the manifest says {file.size:,}"
        digest = store.sha256(file.key)
    except ObjectMissing:
        return f"missing: {file.key}"
    except StoreError as error:
        return f"unreadable: {file.key}: {error}"
    return (
        None if digest == file.sha256 else f"changed: {file.key} has sha256 {digest}, the manifest says {file.sha256}"
    )


def _check_documents(store: Store, manifest: Manifest) -> Iterator[str]:
    """Problems between documents that the manifest lists: the claim, the sums and the privacy statement."""
    statement = manifest.privacy
    expected = {
        layout.CLAIM: claim_bytes(manifest.release, manifest.plan_digest),
        layout.SUMS: sums({file.key: file.sha256 for file in manifest.files}),
        layout.STATEMENT: pretty(statement),
    }
    listed = {file.key: file for file in manifest.files}
    for path, data in expected.items():
        if path not in listed:
            yield f"the manifest does not list {path}"
        elif listed[path].sha256 != hashlib.sha256(data).hexdigest():
            yield f"{path} is not the one of this release and plan ({manifest.release}, {manifest.plan_digest})"
    try:
        check_statement(manifest.body)
    except VerificationFailed as error:
        yield str(error)


def _extra(store: Store, manifest: Manifest) -> tuple[list[str], bool]:
    """Files that nobody signed, and whether the store could be listed at all."""
    known = {file.key for file in manifest.files} | {layout.MANIFEST, layout.ENVELOPE}
    try:
        found = {key for key, _ in store.list()}
    except StoreError:
        return [], False
    root = store.local_path(layout.MANIFEST)
    if root is not None:  # a store's listing leaves out what is still being written; a finished release has none of it
        found |= {path.relative_to(root.parent).as_posix() for path in root.parent.rglob("*") if not path.is_dir()}
    return [f"extra: {key} is not in the manifest" for key in sorted(found - known)], True
