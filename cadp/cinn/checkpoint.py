"""A model at rest: tensors in safetensors, everything else in one JSON record whose digest names the checkpoint.

The record holds the tensors' SHA-256, so one digest covers the network, its weights and what they cost. Nothing is ever
unpickled, and nothing in a checkpoint is believed before it has been checked.
"""

import hashlib
import json
import re
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from cadp.cinn.architecture import Architecture
from cadp.cinn.network import ConditionalFlow
from cadp.errors import CheckpointRefused, ObjectMissing, PrivacyError
from cadp.privacy.events import RELATION, Event
from cadp.privacy.seeded import is_seeded, stamped
from cadp.store import Store

SCHEMA = 1
LIMIT_RECORD = 16 << 20
LIMIT_TENSORS = 4 << 30
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FIELDS = {"schema", "architecture", "tensors", "privacy", "versions"}
_PRIVACY = {"relation", "population", "event"}


def save_checkpoint(
    store: Store, flow: ConditionalFlow, privacy: Mapping[str, object], versions: Mapping[str, str]
) -> str:
    """Put a model into the store.

    Args:
        store: a private zone.
        flow: the model; its tensors are kept in the type they have.
        privacy: `relation`, `population` and `event`, the JSON form of what training cost that population.
        versions: of the libraries that made it.

    Returns:
        The checkpoint's digest, 64 hex digits: the SHA-256 of `<digest>.json`, which names `<sha256>.safetensors`.

    Raises:
        CheckpointRefused: the privacy record is incomplete, or a tensor is not finite.
    """
    tensors = {name: tensor.detach().contiguous() for name, tensor in flow.state_dict().items()}
    _check_tensors(tensors, flow.architecture)
    data = save(tensors)
    sha256 = hashlib.sha256(data).hexdigest()
    record = {
        "schema": SCHEMA,
        "architecture": flow.architecture.to_json(),
        "tensors": {"sha256": sha256, "size": len(data)},
        "privacy": stamped(_check_privacy(privacy)),
        "versions": dict(versions),
    }
    encoded = json.dumps(record, sort_keys=True, indent=1, allow_nan=False).encode()
    digest = hashlib.sha256(encoded).hexdigest()
    # The record last: whoever finds it finds its tensors.
    store.put(f"{sha256}.safetensors", data)
    store.put(f"{digest}.json", encoded)
    return digest


def load_checkpoint(store: Store, digest: str) -> tuple[ConditionalFlow, dict[str, object]]:
    """Read a model and its privacy record.

    Raises:
        CheckpointRefused: it is absent, was altered, has no complete privacy record, is stamped by a mode that protects
            nobody, or is not a network known here.
    """
    if _DIGEST.fullmatch(digest) is None:
        raise CheckpointRefused(f"checkpoint {digest!r}: a digest is 64 hex digits")
    record = _parse(_read(store, f"{digest}.json", digest, LIMIT_RECORD), digest)
    privacy, tensors = _check_privacy(record["privacy"]), record["tensors"]
    if "stamp" in privacy and not is_seeded():
        raise CheckpointRefused(f"checkpoint {digest[:12]}… is stamped {privacy['stamp']}: train the model again")
    architecture = Architecture.from_json(record["architecture"])
    sha256 = tensors.get("sha256") if isinstance(tensors, dict) else None
    if not isinstance(sha256, str) or _DIGEST.fullmatch(sha256) is None:
        raise CheckpointRefused(f"checkpoint {digest[:12]}…: its record names no tensors")
    data = _read(store, f"{sha256}.safetensors", sha256, LIMIT_TENSORS)
    try:
        state = load(data)
    except SafetensorError as error:
        raise CheckpointRefused(f"checkpoint {digest[:12]}…: not safetensors: {error}") from error
    _check_tensors(state, architecture)
    flow = ConditionalFlow(architecture)
    flow.to(next(iter(state.values())).dtype)
    flow.load_state_dict(state)
    return flow, privacy


def _read(store: Store, key: str, sha256: str, limit: int) -> bytes:
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


def _check_privacy(privacy: object) -> dict[str, object]:
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
    return dict(privacy)


def _check_tensors(state: Mapping[str, torch.Tensor], architecture: Architecture) -> None:
    """Refuse tensors that are not exactly those of the architecture, of one floating type and finite."""
    expected = {name: tensor.shape for name, tensor in ConditionalFlow(architecture).state_dict().items()}
    found = {name: tensor.shape for name, tensor in state.items()}
    if found != expected:
        differ = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise CheckpointRefused(f"tensors do not fit the architecture: {', '.join(differ)}")
    kinds = {tensor.dtype for tensor in state.values()}
    if len(kinds) != 1 or not kinds <= {torch.float32, torch.float64}:
        raise CheckpointRefused(f"tensors of types {sorted(map(str, kinds))}: one of float32 and float64")
    broken = sorted(name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all()))
    if broken:
        raise CheckpointRefused(f"tensors that are not finite: {', '.join(broken)}")
