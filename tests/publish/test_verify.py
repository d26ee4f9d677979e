"""Whoever changes, adds or removes one byte of a release is found out; so is a stranger's signature."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cadp.errors import VerificationFailed
from cadp.publish import layout
from cadp.publish.canonical import compact, pretty
from cadp.publish.documents import finish
from cadp.publish.facts import ReleaseFacts
from cadp.publish.manifest import Manifest
from cadp.publish.sign import Signer, new_key, seal
from cadp.publish.sums import sums
from cadp.publish.verify import verify
from cadp.records import Released
from cadp.store import Store

from .conftest import publish_records

FILES = [
    "README.md",
    "SHA256SUMS",
    "claim.json",
    "croissant.json",
    "data/train-00000-of-00003.parquet",
    "data/train-00001-of-00003.parquet",
    "data/train-00002-of-00003.parquet",
    "expectations/data_docs/index.html",
    "expectations/suite.json",
    "index.html",
    "manifest.dsse",
    "manifest.json",
    "shards/index.json",
    "shards/train-000000.tar",
    "shards/train-000001.tar",
    "shards/train-000002.tar",
    "statement.json",
]


@pytest.fixture
def copy(release: Path, tmp_path: Path) -> Path:
    """A copy of the release that a test may spoil."""
    return Path(shutil.copytree(release, tmp_path / "copy"))


def refuse(folder: Path, signer: Signer, match: str) -> None:
    with pytest.raises(VerificationFailed, match=match):
        verify(str(folder), [signer.public])


def test_the_release_is_whole(release: Path, signer: Signer, facts: ReleaseFacts) -> None:
    verified = verify(str(release), [signer.public])
    assert verified.release == facts.release
    assert verified.plan_digest == facts.plan_digest
    assert verified.signed_by == signer.key_id
    assert verified.records == facts.records
    assert verified.files == len(FILES)
    assert verified.size == sum(path.stat().st_size for path in release.rglob("*") if path.is_file())
    assert verified.listed
    assert verified.manifest.privacy == facts.statement


def test_every_file_is_tampered_with_below(release: Path) -> None:
    held = sorted(path.relative_to(release).as_posix() for path in release.rglob("*") if path.is_file())
    assert held == FILES


@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte_is_found(name: str, copy: Path, signer: Signer) -> None:
    whole = (copy / name).read_bytes()
    size = len(whole)
    for position in sorted({0, 1, size // 3, size // 2, size - 2, size - 1}):
        for flip in (0x01, 0x20, 0x80):
            spoiled = bytearray(whole)
            spoiled[position] ^= flip
            (copy / name).write_bytes(spoiled)
            refuse(copy, signer, "not a valid release")
    (copy / name).write_bytes(whole)
    verify(str(copy), [signer.public])


@pytest.mark.parametrize("name", FILES)
def test_appended_truncated_emptied_and_removed_files_are_found(name: str, copy: Path, signer: Signer) -> None:
    whole = (copy / name).read_bytes()
    for spoiled in (whole + b"\n", whole + b"\0", b" " + whole, whole[:-1], whole[1:], b""):
        (copy / name).write_bytes(spoiled)
        refuse(copy, signer, "not a valid release")
    (copy / name).unlink()
    refuse(copy, signer, re.escape(name) if name not in {"manifest.json"} else "no manifest: not a release")
    (copy / name).mkdir()
    refuse(copy, signer, "not a release|missing")


@pytest.mark.parametrize(
    "name",
    [
        "extra.txt",
        "data/train-00003-of-00003.parquet",
        "shards/.hidden",
        "expectations/x/y",
        "WITHDRAWN",
        "manifest.json~",
    ],
)
def test_an_added_file_is_found(name: str, copy: Path, signer: Signer) -> None:
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_bytes(b"")
    refuse(copy, signer, f"extra: {re.escape(name)}")


def test_an_added_link_or_staging_file_is_found(copy: Path, signer: Signer) -> None:
    link = copy / "data" / "link"
    link.symlink_to("/nowhere")
    refuse(copy, signer, "extra: data/link")
    link.unlink()
    (copy / ".incoming-x").mkdir()
    (copy / ".incoming-x" / "payload").write_bytes(b"x")
    refuse(copy, signer, "extra: .incoming-x/payload")


def test_all_problems_are_named_at_once(copy: Path, signer: Signer) -> None:
    (copy / "data/train-00000-of-00003.parquet").unlink()
    (copy / "index.html").write_bytes(b"<h1>hello</h1>")
    (copy / "more").write_bytes(b"x")
    with pytest.raises(VerificationFailed) as caught:
        verify(str(copy), [new_key(copy.parent / "stranger").public])
    message = str(caught.value)
    for part in ("unknown key", "missing: data/train-00000-of-00003.parquet", "changed: index.html", "extra: more"):
        assert part in message
    assert caught.value.exit_code == 4
    del signer


def test_no_manifest_is_no_release(copy: Path, signer: Signer) -> None:
    (copy / "manifest.dsse").unlink()
    refuse(copy, signer, "manifest.dsse is missing.*not a release")
    (copy / "manifest.json").unlink()
    refuse(copy, signer, "no manifest: not a release")


def test_a_key_that_is_not_trusted(release: Path, tmp_path: Path) -> None:
    stranger = new_key(tmp_path / "stranger")
    with pytest.raises(VerificationFailed, match="unknown key"):
        verify(str(release), [stranger.public])
    with pytest.raises(VerificationFailed, match="unknown key"):
        verify(str(release), [])


def test_a_strangers_signature_under_a_trusted_name(copy: Path, signer: Signer, tmp_path: Path) -> None:
    stranger = new_key(tmp_path / "stranger")
    envelope = json.loads((copy / "manifest.dsse").read_bytes())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    forged = json.loads(seal(statement, stranger))
    forged["signatures"][0]["keyid"] = signer.key_id
    (copy / "manifest.dsse").write_bytes(compact(forged) + b"\n")
    refuse(copy, signer, "wrong signature")


def test_another_manifest_of_the_same_key(copy: Path, signer: Signer) -> None:
    body = json.loads((copy / "manifest.json").read_bytes())
    other = Manifest(body | {"release": "garments/2.0.0"})
    (copy / "manifest.dsse").write_bytes(seal(other.in_toto(), signer))
    refuse(copy, signer, "changed: manifest.json")


@pytest.mark.parametrize("spoil", ["field", "space", "unpadded", "second", "statement", "type", "deep"])
def test_an_envelope_in_another_form(spoil: str, copy: Path, signer: Signer) -> None:
    whole = (copy / "manifest.dsse").read_bytes()
    envelope = json.loads(whole)
    if spoil == "field":
        whole = compact(envelope | {"note": "harmless"}) + b"\n"
    elif spoil == "space":
        whole = json.dumps(envelope, sort_keys=True).encode()
    elif spoil == "unpadded":
        whole = compact(envelope | {"payload": envelope["payload"] + "===="}) + b"\n"
    elif spoil == "second":
        whole = compact(envelope | {"signatures": envelope["signatures"] * 2}) + b"\n"
    elif spoil == "statement":
        whole = compact(envelope | {"signatures": [envelope["signatures"][0] | {"cert": "x"}]}) + b"\n"
    elif spoil == "type":
        whole = compact(envelope | {"payloadType": "text/plain"}) + b"\n"
    else:
        whole = b"[" * 100_000
    (copy / "manifest.dsse").write_bytes(whole)
    refuse(copy, signer, "envelope")


def resign(folder: Path, signer: Signer, change: Callable[[dict], None]) -> None:
    """What a dishonest or mistaken publisher with the right key could write."""
    body = json.loads((folder / "manifest.json").read_bytes())
    change(body)
    manifest = Manifest(body)
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    (folder / "manifest.dsse").write_bytes(seal(manifest.in_toto(), signer))


def test_a_signed_manifest_must_agree_with_claim_sums_and_statement(copy: Path, signer: Signer) -> None:
    keep = (copy / "manifest.json").read_bytes()
    resign(copy, signer, lambda body: body.update(plan_digest="00" * 32))
    refuse(copy, signer, "claim.json is not the one of this release")
    (copy / "manifest.json").write_bytes(keep)
    resign(copy, signer, lambda body: body["statement"].update(more="words"))
    refuse(copy, signer, "statement.json is not the one of this release")
    (copy / "manifest.json").write_bytes(keep)
    resign(copy, signer, lambda body: body["files"].pop(0))
    refuse(copy, signer, "extra: README.md")
    (copy / "manifest.json").write_bytes(keep)
    resign(copy, signer, lambda body: body["files"][0].update(size=1))
    refuse(copy, signer, "changed: README.md has .* bytes, the manifest says 1")
    (copy / "manifest.json").write_bytes(keep)
    resign(copy, signer, lambda body: body.update(schema=2))
    refuse(copy, signer, "upgrade cadp")


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "data/../index.html", "a\\b"])
def test_a_signed_path_cannot_leave_the_release(path: str, copy: Path, signer: Signer) -> None:
    def add(body: dict) -> None:
        body["files"] = sorted(
            [*body["files"], {"path": path, "size": 1, "sha256": "00" * 32}], key=lambda f: f["path"]
        )

    resign(copy, signer, add)
    refuse(copy, signer, "unreadable|refused")


def test_another_release_in_its_place(release: Path, signer: Signer) -> None:
    verify(str(release), [signer.public], expect="garments/1.0.0")
    with pytest.raises(VerificationFailed, match=r"this is garments/1\.0\.0, not garments/1\.0\.1"):
        verify(str(release), [signer.public], expect="garments/1.0.1")


def test_killed_before_the_manifest(
    records: list[Released],
    facts: ReleaseFacts,
    signer: Signer,
    release: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever object the publisher dies before, there is no release; the next run makes the same one."""
    for dies_before in [*FILES, layout.ENVELOPE]:
        target = Store.open(str(tmp_path / dies_before.replace("/", "_")))
        real = Store.put

        def put(self: Store, key: str, data: bytes | Path, at: str = dies_before, real: Callable = real) -> object:
            if key == at:
                raise KeyboardInterrupt
            return real(self, key, data)

        with monkeypatch.context() as patched:
            patched.setattr(Store, "put", put)
            with pytest.raises(KeyboardInterrupt):
                finish(target, publish_records(target, records, facts, tmp_path), records, facts, signer)
        with pytest.raises(VerificationFailed, match="not a release"):
            verify(target, [signer.public])
    finish(target, publish_records(target, records, facts, tmp_path), records, facts, signer)
    verify(target, [signer.public])
    assert target.get("manifest.dsse") == (release / "manifest.dsse").read_bytes()


def test_a_store_that_cannot_list_is_told(release: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    from cadp.errors import StoreError

    def refuse_listing(self: Store, prefix: str = "") -> list[tuple[str, int]]:
        raise StoreError(f"{self.url}{prefix}: listing is denied")

    monkeypatch.setattr(Store, "list", refuse_listing)
    assert not verify(str(release), [signer.public]).listed


def untrue(facts: ReleaseFacts, lie: str) -> ReleaseFacts:
    """Facts whose statement or charges are not true."""
    said = json.loads(pretty(dict(facts.statement)))
    if lie == "smaller epsilon":
        said["components"][1]["epsilon"] = said["loss"]["epsilon"] = 0.5
    elif lie == "smaller event":
        said["components"][1]["event"]["epsilon"] = 0.5
    elif lie == "missing component":
        del said["components"][0]
    elif lie == "other release":
        said["release"]["version"] = "0.9.0"
    elif lie == "no release":
        del said["release"]
    elif lie == "seeded":
        said["guarantee"] = "NOT PRIVATE: a seeded test run"
    elif lie == "empty":
        said = {}
    elif lie == "unstated charge":
        return replace(facts, charges=(*facts.charges, "c-4"))
    return replace(facts, statement=said)


LIES = [
    "smaller epsilon",
    "smaller event",
    "missing component",
    "other release",
    "no release",
    "seeded",
    "empty",
    "unstated charge",
]


@pytest.mark.parametrize("lie", LIES)
def test_an_untrue_statement_is_not_signed(
    lie: str, records: list[Released], facts: ReleaseFacts, signer: Signer, tmp_path: Path
) -> None:
    target = Store.open(str(tmp_path / "release"))
    files = publish_records(target, records, facts, tmp_path)
    with pytest.raises(VerificationFailed):
        finish(target, files, records, untrue(facts, lie), signer)
    assert not target.exists("manifest.json")


@pytest.mark.parametrize("lie", LIES)
def test_an_untrue_statement_that_was_signed_fails(lie: str, copy: Path, facts: ReleaseFacts, signer: Signer) -> None:
    false = untrue(facts, lie)

    def change(body: dict) -> None:
        body.update(statement=dict(false.statement), charges=sorted(false.charges))
        data = pretty(dict(false.statement))
        (copy / "statement.json").write_bytes(data)
        entries = {entry["path"]: entry for entry in body["files"]}
        entries["statement.json"].update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
        lines = sums({path: entry["sha256"] for path, entry in entries.items()})
        (copy / "SHA256SUMS").write_bytes(lines)
        entries["SHA256SUMS"].update(size=len(lines), sha256=hashlib.sha256(lines).hexdigest())

    resign(copy, signer, change)
    with pytest.raises(VerificationFailed) as caught:
        verify(str(copy), [signer.public])
    (problem,) = str(caught.value).splitlines()[1:]
    assert "privacy statement" in problem


def test_openssl_and_sha256sum_verify_without_this_program(
    shelf: Path, release: Path, signer: Signer, tmp_path: Path
) -> None:
    """The commands printed in the card, run as printed, on a good and on a forged release."""
    blocks = re.findall(r"```sh\n(.*?)```", (release / "README.md").read_text(), re.DOTALL)
    assert blocks[0].startswith("cadp verify")
    from cryptography.hazmat.primitives import serialization

    shutil.copytree(shelf, tmp_path / "shelf")
    pem = signer.public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "shelf" / "publisher.pub").write_bytes(pem)

    def run(block: str) -> int:
        done = subprocess.run(["bash", "-ec", block], cwd=tmp_path / "shelf", capture_output=True, check=False)
        return done.returncode

    assert [run(block) for block in blocks[1:]] == [0, 0]
    manifest = tmp_path / "shelf" / "garments/1.0.0/manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b" ")
    assert [run(block) for block in blocks[1:]] == [0, 1]
    other = new_key(tmp_path / "other")
    pem = other.public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "shelf" / "publisher.pub").write_bytes(pem)
    assert run(blocks[2]) == 1


def test_statement_file_is_the_facts(release: Path, facts: ReleaseFacts) -> None:
    assert (release / "statement.json").read_bytes() == pretty(dict(facts.statement))
