"""What a checkpoint says of itself: the JSON record whose digest names it, checked without its tensors.

A plan needs no more than this of a model: its architecture, and what it cost whom. So nothing here knows torch.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from cadp.errors import CheckpointRefused, ObjectMissing, PrivacyError
from cadp.privacy.events import RELATION, ZERO_OUT, Event
from cadp.store import Store

SCHEMA = 2
LIMIT_RECORD = 16 << 20
DIGEST = re.compile(r"[0-9a-f]{64}")
_FIELDS = {"schema", "architecture", "tensors", "privacy", "origin", "spec", "versions"}
_PRIVACY = {"relation", "population", "event"}


@dataclass(frozen=True, slots=True)
class Origin:
    """Whence a model without a privacy record came.

    Attributes:
        words: for people: who trained it, on what.
        population: whose records it was trained on without DP, if that is a population of ours.
        source: the address of those records, if it is known: no population of that source may be released through it.
    """

    words: str
    population: str | None = None
    source: str | None = None

    def to_json(self) -> dict[str, object]:
        """JSON-ready; the source is left out where it is not known."""
        known = {} if self.source is None else {"source": self.source}
        return {"words": self.words, "population": self.population, **known}


def read_checkpoint(store: Store, digest: str) -> dict[str, object]:
    """Read and check a checkpoint's record, without its tensors and without a decision whether it may be used.

    Raises:
        CheckpointRefused: it is absent, was altered, or is no record of this version's.
    """
    if DIGEST.fullmatch(digest) is None:
        raise CheckpointRefused(f"checkpoint {digest!r}: a digest is 64 hex digits")
    record = _parse(read_object(store, f"{digest}.json", digest, LIMIT_RECORD), digest)
    if record["privacy"] is None and record["origin"] is not None:
        return {**record, "origin": check_origin(record["origin"])}
    if record["origin"] is not None:
        raise CheckpointRefused(f"checkpoint {digest[:12]}… has both a privacy record and an origin")
    return {**record, "privacy": check_privacy(record["privacy"])}


def require_one_record(models: Store, digest: str, record: Mapping[str, object]) -> None:
    """Refuse a model whose very tensors lie in the zone under another record that says something else of their cost.

    One of the two is wrong, and neither says which. A record that was written by hand is found where the true one lies.

    Raises:
        CheckpointRefused: there is such a record.
    """
    for key, _ in models.list():
        other = key.removesuffix(".json")
        if DIGEST.fullmatch(other) is None or other in (digest, key):
            continue
        try:
            found = read_checkpoint(models, other)
        except CheckpointRefused:
            continue  # nothing can be loaded by it
        if found["tensors"] == record["tensors"] and _cost(found) != _cost(record):
            raise CheckpointRefused(
                f"model {digest[:12]}… has the tensors of model {other[:12]}… and another record of what they cost "
                f"whom: one of the two is wrong. Next: find out which, and delete its .json from {models.url}"
            )


def _cost(record: Mapping[str, object]) -> object:
    """What a record says of whom its training was about, and at which cost."""
    origin = record["origin"]
    return record["privacy"] if origin is None else cast(Mapping[str, object], origin)["population"]


def read_object(store: Store, key: str, sha256: str, limit: int) -> bytes:
    """The bytes under `key`, which must hash to `sha256`."""
    try:
        if store.size(key) > limit:
            raise CheckpointRefused(f"{key} is larger than {limit} bytes")
        data = store.get(key)
    except ObjectMissing as error:
        raise CheckpointRefused(f"no checkpoint object {key} in {store.url}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise CheckpointRefused(f"{key} was altered: its SHA-256 is {found}")
    return data


def _parse(data: bytes, digest: str) -> dict[str, object]:
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:  # nested a thousand deep, it is no record either
        raise CheckpointRefused(f"checkpoint {digest[:12]}…: the record is not JSON: {error}") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        schema = record.get("schema") if isinstance(record, dict) else None
        raise CheckpointRefused(f"checkpoint {digest[:12]}…: schema {schema!r}, this version reads {SCHEMA}")
    if set(record) != _FIELDS:
        missing = ", ".join(sorted(_FIELDS ^ set(record)))
        raise CheckpointRefused(f"checkpoint {digest[:12]}…: fields missing or unknown: {missing}")
    return record


def check_privacy(privacy: object) -> dict[str, object]:
    """Refuse a privacy record that does not say what was spent, on whom, and under which relation."""
    if not isinstance(privacy, Mapping) or not set(privacy) >= _PRIVACY:
        raise CheckpointRefused(f"no complete privacy record: it holds {', '.join(sorted(_PRIVACY))}")
    if privacy["relation"] != RELATION:
        raise CheckpointRefused(f"privacy record under {privacy['relation']!r}, losses here are under {RELATION!r}")
    if not isinstance(privacy["population"], str) or not privacy["population"]:
        raise CheckpointRefused("a privacy record names the population that paid")
    if not isinstance(privacy["event"], Mapping):
        raise CheckpointRefused("a privacy record holds the event of its training")
    try:
        event = Event.from_json(privacy["event"])
    except (PrivacyError, RecursionError) as error:
        raise CheckpointRefused(f"privacy record without a sound event: {error}") from error
    if event.relation != RELATION:
        raise CheckpointRefused(f"privacy record's event is under {event.relation!r}, not {RELATION!r}")
    _check_more(privacy)
    return dict(privacy)


def _check_more(privacy: Mapping[str, object]) -> None:
    """Refuse what a record need not say, where it says it wrongly: the second figure, the unit, the labels."""
    if "zero_out" in privacy:
        try:
            companion = Event.from_json(privacy["zero_out"])  # type: ignore[arg-type]
        except (PrivacyError, RecursionError) as error:
            raise CheckpointRefused(f"privacy record without a sound zero-out event: {error}") from error
        if companion.relation != ZERO_OUT:
            raise CheckpointRefused(f"privacy record's second event is under {companion.relation!r}, not {ZERO_OUT!r}")
    if "unit" in privacy and (not isinstance(privacy["unit"], str) or not privacy["unit"]):
        raise CheckpointRefused("a privacy record names the unit that it protects")
    started = privacy.get("started_from", "declared public")
    if not isinstance(started, str) or not started:
        raise CheckpointRefused("a privacy record says in words which public model its training started from")
    if privacy.get("labels", "public") not in ("public", "private"):
        raise CheckpointRefused(f"privacy record's labels are {privacy['labels']!r}: public or private")


def check_origin(origin: object) -> dict[str, object]:
    """Refuse an origin that does not say whence a model came."""
    if not isinstance(origin, Mapping) or set(origin) - {"source"} != {"words", "population"}:
        raise CheckpointRefused("no complete origin: it holds words and population")
    if not isinstance(origin["words"], str) or not origin["words"]:
        raise CheckpointRefused("an origin says in words where the model came from")
    if origin["population"] is not None and (not isinstance(origin["population"], str) or not origin["population"]):
        raise CheckpointRefused("an origin's population is a name, or none")
    if "source" in origin and (not isinstance(origin["source"], str) or not origin["source"]):
        raise CheckpointRefused("an origin's source is an address, or left out")
    return dict(origin)
