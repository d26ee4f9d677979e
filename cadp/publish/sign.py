"""Ed25519 keys, and the DSSE envelope that carries an in-toto statement about a release.

The signature is a plain Ed25519 signature over the pre-authentication encoding (PAE) of the payload, so that any
implementation checks it. With OpenSSL 3, where `pae` holds the PAE's bytes and `sig` the decoded signature::

    openssl pkeyutl -verify -pubin -inkey publisher.pub -rawin -in pae -sigfile sig

Sources: Dead Simple Signing Envelope v1 (secure-systems-lab/dsse), in-toto Attestation Framework v1, RFC 8032.
"""

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cadp.errors import SettingsError, VerificationFailed
from cadp.publish.canonical import compact

PAYLOAD_TYPE = "application/vnd.in-toto+json"


def key_id(public: Ed25519PublicKey) -> str:
    """The key's name: sha256 of its 32 raw bytes, hex."""
    raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()


@dataclass(frozen=True)
class Signer:
    """A private key, ready to sign; its repr does not show it."""

    _private: Ed25519PrivateKey

    @property
    def public(self) -> Ed25519PublicKey:
        """The public half."""
        return self._private.public_key()

    @property
    def key_id(self) -> str:
        """`key_id` of the public half."""
        return key_id(self.public)

    def sign(self, message: bytes) -> bytes:
        """64 bytes; the same message gives the same signature."""
        return self._private.sign(message)

    def __repr__(self) -> str:
        return f"Signer(key_id={self.key_id!r})"


def new_key(path: Path) -> Signer:
    """Make a key: the private PEM at `path`, for its owner's eyes only, and the public PEM at `path` + `.pub`.

    Raises:
        SettingsError: one of the two files exists; a key is never overwritten.
    """
    signer = Signer(Ed25519PrivateKey.generate())
    private = signer._private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = signer.public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    beside = public_path(path)
    if path.exists() or beside.exists():
        raise SettingsError(
            f"{path if path.exists() else beside} exists; a key is never overwritten: choose another path"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for where, data, mode in ((path, private, 0o600), (beside, public, 0o644)):
            with os.fdopen(os.open(where, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(data)
    except OSError as error:
        raise SettingsError(f"cannot write the key {path}: {error.strerror}") from error
    return signer


def public_path(path: Path) -> Path:
    """Where the public half of the private key at `path` lies."""
    return path.with_name(path.name + ".pub")


def load_signer(path: Path) -> Signer:
    """Read a private key that `new_key` wrote.

    Raises:
        SettingsError: missing, not an Ed25519 key, or readable by others.
    """
    data = _read(path)
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise SettingsError(f"private key {path} can be read by others; run: chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"{path} is not an unencrypted PEM private key; make one with: cadp keys new") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError(f"{path} is not an Ed25519 key; make one with: cadp keys new")
    return Signer(key)


def load_public(path: Path) -> Ed25519PublicKey:
    """Read a public PEM.

    Raises:
        SettingsError: missing, or not an Ed25519 public key.
    """
    try:
        key = serialization.load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"{path} is not a PEM public key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise SettingsError(f"{path} is not an Ed25519 public key")
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read the key {path}: {error.strerror}; make one with: cadp keys new") from error


def pae(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """DSSE's pre-authentication encoding: what is signed.

    >>> pae(b"hello world", "http://example.com/HelloWorld")
    b'DSSEv1 29 http://example.com/HelloWorld 11 hello world'
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def seal(statement: Mapping[str, object], signer: Signer) -> bytes:
    """The envelope's bytes around an in-toto statement; the same statement and key give the same bytes."""
    payload = compact(statement)
    return _envelope(payload, signer.key_id, signer.sign(pae(payload)))


def unseal(envelope: bytes, trusted: Sequence[Ed25519PublicKey]) -> tuple[dict[str, object], str]:
    """The statement in an envelope, and the id of the trusted key that signed it.

    The envelope must be byte for byte what `seal` writes: a field, a space or a second signature that nobody checks
    is refused.

    Raises:
        VerificationFailed: malformed, not canonical, from a key that is not trusted, or a wrong signature.
    """
    try:
        outer = json.loads(envelope)
        payload = base64.b64decode(outer["payload"], validate=True)
        (only,) = outer["signatures"]
        signed_by, signature = only["keyid"], base64.b64decode(only["sig"], validate=True)
        canonical = _envelope(payload, signed_by, signature)
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error, RecursionError) as error:
        raise VerificationFailed("the signature's envelope is malformed") from error
    if canonical != envelope:
        raise VerificationFailed(
            "the signature's envelope is not in its canonical form: something was added or changed"
        )
    keys = {key_id(key): key for key in trusted}
    if signed_by not in keys:
        known = ", ".join(sorted(keys)) or "none"
        raise VerificationFailed(f"signed by unknown key {signed_by}; trusted: {known}")
    try:
        keys[signed_by].verify(signature, pae(payload))
    except InvalidSignature as error:
        raise VerificationFailed(f"wrong signature: it is not of key {signed_by} over this payload") from error
    try:
        statement = json.loads(payload)
    except ValueError as error:
        raise VerificationFailed("the signed payload is not JSON") from error
    if not isinstance(statement, dict):
        raise VerificationFailed("the signed payload is not an in-toto statement")
    return statement, signed_by


def _envelope(payload: bytes, signed_by: str, signature: bytes) -> bytes:
    body = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": signed_by, "sig": base64.b64encode(signature).decode()}],
    }
    return compact(body) + b"\n"
