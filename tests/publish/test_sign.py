"""Keys are made once and kept private; an envelope is verified by anyone."""

import json
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from cadp.errors import SettingsError, VerificationFailed
from cadp.publish.sign import load_public, load_signer, new_key, public_path, seal, unseal


def test_a_key_is_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "publisher"
    umask = os.umask(0)
    try:
        signer = new_key(path)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_signer(path).key_id == signer.key_id
    private, public = path.read_bytes(), public_path(path).read_bytes()
    with pytest.raises(SettingsError, match="never overwritten"):
        new_key(path)
    path.unlink()
    with pytest.raises(SettingsError, match="never overwritten"):
        new_key(path)
    assert public_path(path).read_bytes() == public
    assert private.decode() not in repr(signer)
    assert signer.key_id in repr(signer)


def test_key_id_is_the_digest_of_the_raw_key(tmp_path: Path) -> None:
    import hashlib

    signer = new_key(tmp_path / "publisher")
    raw = load_public(tmp_path / "publisher.pub").public_bytes_raw()
    assert signer.key_id == hashlib.sha256(raw).hexdigest()


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    new_key(tmp_path / "publisher")
    (tmp_path / "publisher").chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        load_signer(tmp_path / "publisher")


def test_wrong_keys_are_one_clear_line(tmp_path: Path) -> None:
    other = rsa.generate_private_key(65537, 2048)
    formats = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    (tmp_path / "rsa").write_bytes(other.private_bytes(*formats, serialization.NoEncryption()))
    locked = ed25519.Ed25519PrivateKey.generate()
    secret = serialization.BestAvailableEncryption(b"secret")
    (tmp_path / "locked").write_bytes(locked.private_bytes(*formats, secret))
    (tmp_path / "junk").write_bytes(b"junk")
    for name in ("rsa", "locked", "junk"):
        (tmp_path / name).chmod(0o600)
    for name in ("rsa", "locked", "junk", "missing"):
        with pytest.raises(SettingsError, match="cadp keys new"):
            load_signer(tmp_path / name)
    for name in ("rsa", "junk", "missing"):
        with pytest.raises(SettingsError):
            load_public(tmp_path / name)


def test_an_envelope_opens_for_its_key_only(tmp_path: Path) -> None:
    signer, stranger = new_key(tmp_path / "one"), new_key(tmp_path / "two")
    statement = {"_type": "x", "ε": 1}
    envelope = seal(statement, signer)
    assert unseal(envelope, [stranger.public, signer.public]) == (statement, signer.key_id)
    assert seal(statement, signer) == envelope
    with pytest.raises(VerificationFailed, match="unknown key"):
        unseal(envelope, [stranger.public])


@pytest.mark.parametrize(
    "junk", [b"", b"{}", b"[]", b"null", b'{"payload": 1, "signatures": [{}]}', b"\xff", b"[" * 9999]
)
def test_junk_is_no_envelope(junk: bytes, tmp_path: Path) -> None:
    with pytest.raises(VerificationFailed):
        unseal(junk, [new_key(tmp_path / "one").public])


def test_an_envelope_holds_only_a_statement(tmp_path: Path) -> None:
    signer = new_key(tmp_path / "one")
    body = json.loads(seal({"a": 1}, signer))
    assert set(body) == {"payload", "payloadType", "signatures"}
    assert body["payloadType"] == "application/vnd.in-toto+json"
    with pytest.raises(VerificationFailed, match="not an in-toto statement"):
        unseal(seal([1], signer), [signer.public])
