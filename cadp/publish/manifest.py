"""The manifest: every other file of a release with its size and digest, and the public facts behind it.

It is signed through an in-toto statement whose one subject is the manifest's own digest; so the chain is signature →
manifest → every byte of every file.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cadp.errors import VerificationFailed
from cadp.privacy.statement import verify_statement
from cadp.publish.canonical import pretty
from cadp.publish.facts import ReleaseFacts
from cadp.publish.layout import MANIFEST
from cadp.store import StoredObject

SCHEMA = 1
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:cadp:release:v1"

_TYPES = {
    "release": str,
    "name": str,
    "version": str,
    "charges": list,
    "plan_digest": str,
    "statement": dict,
    "records": int,
    "files": list,
}
_ENTRY_TYPES = {"path": str, "size": int, "sha256": str}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `manifest.json` says.

    Attributes:
        body: the JSON object: `schema`, `release`, `plan_digest`, `charges`, `versions`, `statement`, … and `files`.
    """

    body: Mapping[str, object]

    @property
    def release(self) -> str:
        """`name/version`."""
        return str(self.body["release"])

    @property
    def plan_digest(self) -> str:
        """Keyed hash of the plan, hex: names it, and cannot be computed from a guess."""
        return str(self.body["plan_digest"])

    @property
    def privacy(self) -> dict[str, object]:
        """The privacy statement."""
        statement = self.body["statement"]
        return statement if isinstance(statement, dict) else {}

    @property
    def files(self) -> tuple[StoredObject, ...]:
        """Every other file, sorted by path."""
        entries = self.body["files"]
        if not isinstance(entries, list):
            raise VerificationFailed("the manifest's list of files is malformed")
        return tuple(StoredObject(entry["path"], entry["size"], entry["sha256"]) for entry in entries)

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        return pretty(self.body)

    def in_toto(self) -> dict[str, object]:
        """The in-toto statement that the envelope carries: its one subject is the digest of these bytes."""
        return {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": MANIFEST, "digest": {"sha256": hashlib.sha256(self.to_bytes()).hexdigest()}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {"release": self.release, "plan_digest": self.plan_digest},
        }


def build(facts: ReleaseFacts, files: Sequence[StoredObject]) -> Manifest:
    """The manifest over `files`, which are all files of the release but the manifest and its envelope."""
    return Manifest(
        {
            "schema": SCHEMA,
            "release": facts.release,
            "name": facts.name,
            "version": facts.version,
            "date": facts.date,
            "publisher": facts.publisher,
            "url": facts.url,
            "license": facts.license,
            "population": facts.population,
            "records": facts.records,
            "shape": list(facts.shape),
            **({} if facts.table is None else {"columns": list(facts.table.source_columns)}),
            "classes": list(facts.classes),
            "plan_digest": facts.plan_digest,
            "charges": sorted(facts.charges),
            "versions": dict(facts.versions),
            "accuracy": facts.accuracy,
            "statement": dict(facts.statement),
            "files": [
                {"path": file.key, "size": file.size, "sha256": file.sha256}
                for file in sorted(files, key=lambda file: file.key)
            ],
        }
    )


def parse(data: bytes) -> Manifest:
    """Read `manifest.json`, strictly: the schema, the types, sorted unique paths, and no byte that `build` omits.

    Raises:
        VerificationFailed: it is not a manifest of a schema that this program knows.
    """
    try:
        body = json.loads(data)
        if body["schema"] != SCHEMA:
            raise VerificationFailed(
                f"manifest.json has schema {body['schema']!r}, this program knows {SCHEMA}: upgrade cadp"
            )
        typed = all(isinstance(body[name], kind) for name, kind in _TYPES.items()) and all(
            isinstance(entry[name], kind) for entry in body["files"] for name, kind in _ENTRY_TYPES.items()
        )
        paths = [entry["path"] for entry in body["files"]]
        exact = pretty(body) == data
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise VerificationFailed("manifest.json is malformed") from error
    if not typed or not exact or paths != sorted(set(paths)):
        raise VerificationFailed("manifest.json is malformed: wrong types, stray bytes, or paths unsorted or repeated")
    return Manifest(body)


def check_statement(body: Mapping[str, object]) -> None:
    """Recompute the privacy statement, and check that it speaks of this release and of exactly its charges.

    Raises:
        VerificationFailed: it does not hold, or is another release's.
    """
    statement = body["statement"]
    if not isinstance(statement, dict):
        raise VerificationFailed("the privacy statement is malformed")
    verify_statement(statement)
    try:
        about = f"{statement['release']['name']}/{statement['release']['version']}"
        stated = sorted({component["charge"] for component in statement["components"]})
    except (KeyError, TypeError) as error:
        raise VerificationFailed("the privacy statement does not say which release and charges it is of") from error
    if about != body["release"]:
        raise VerificationFailed(f"the privacy statement is of {about}")
    if stated != body["charges"]:
        raise VerificationFailed(
            f"the privacy statement accounts for charges {stated}, the release has {body['charges']}"
        )
