"""A model at rest: tensors in safetensors, everything else in one JSON record whose digest names the checkpoint.

The record holds the tensors' SHA-256, so one digest covers the network, its weights and what they cost. Nothing is ever
unpickled, and nothing in a checkpoint is believed before it has been checked. A model that came from elsewhere has an
origin in words instead of a privacy record: it loads only where a spec declares it public.
"""

import hashlib
import json
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from cadp.cinn.architecture import Architecture, architecture_from_json
from cadp.cinn.checkpoint_record import (
    DIGEST,
    SCHEMA,
    Origin,
    check_origin,
    check_privacy,
    read_checkpoint,
    read_object,
)
from cadp.cinn.network import ConditionalFlow
from cadp.errors import CheckpointRefused
from cadp.privacy.seeded import is_seeded, stamped
from cadp.store import Store

__all__ = ["Origin", "flow_of", "load_checkpoint", "load_flow", "read_checkpoint", "save_checkpoint", "save_public"]

LIMIT_TENSORS = 4 << 30


def save_checkpoint(
    store: Store,
    flow: ConditionalFlow,
    privacy: Mapping[str, object],
    versions: Mapping[str, str],
    spec: str | None = None,
) -> str:
    """Put a model into the store.

    Args:
        store: a private zone.
        flow: the model; its tensors are kept in the type they have.
        privacy: `relation`, `population` and `event`, the JSON form of what training cost that population; and what
            else is known of it: the `zero_out` event, the `unit`, and whether `labels` were public or private.
        versions: of the libraries that made it.
        spec: digest of the spec that asked for it.

    Returns:
        The checkpoint's digest, 64 hex digits: the SHA-256 of `<digest>.json`, which names `<sha256>.safetensors`.

    Raises:
        CheckpointRefused: the privacy record is incomplete, or a tensor is not finite.
    """
    checked = stamped(check_privacy(privacy))
    return _save(store, flow, {"privacy": checked, "origin": None, "spec": spec, "versions": dict(versions)})


def save_public(store: Store, flow: ConditionalFlow, origin: Origin, versions: Mapping[str, str]) -> str:
    """Put a model without a privacy record into the store: it loads only where a spec declares it public.

    Returns:
        The checkpoint's digest.

    Raises:
        CheckpointRefused: the origin says nothing, or a tensor is not finite.
    """
    facts = {"privacy": None, "origin": check_origin(origin.to_json()), "spec": None, "versions": dict(versions)}
    return _save(store, flow, facts)


def _save(store: Store, flow: ConditionalFlow, facts: Mapping[str, object]) -> str:
    tensors = {name: tensor.detach().contiguous() for name, tensor in flow.state_dict().items()}
    _check_tensors(tensors, flow)
    data = save(tensors)
    sha256 = hashlib.sha256(data).hexdigest()
    record = {
        "schema": SCHEMA,
        "architecture": flow.architecture.to_json(),
        "tensors": {"sha256": sha256, "size": len(data)},
        **facts,
    }
    encoded = json.dumps(record, sort_keys=True, indent=1, allow_nan=False).encode()
    digest = hashlib.sha256(encoded).hexdigest()
    # The record last: whoever finds it finds its tensors.
    store.put(f"{sha256}.safetensors", data)
    store.put(f"{digest}.json", encoded)
    return digest


def load_checkpoint(
    store: Store, digest: str, *, public_for: str | None = None
) -> tuple[ConditionalFlow, dict[str, object]]:
    """Read a model and its privacy record.

    Args:
        store: a private zone.
        digest: what `save_checkpoint` returned.
        public_for: the population that is released, where its spec declares the model public. Only then may a model
            have no privacy record, and `{}` is returned; but never one that was trained on these very people.

    Raises:
        CheckpointRefused: it is absent, was altered, has no complete privacy record, is stamped by a mode that protects
            nobody, was trained without DP on the population, or is not a network known here.
    """
    record = read_checkpoint(store, digest)
    privacy, origin = record["privacy"], record["origin"]
    if isinstance(origin, dict) and public_for is None:
        raise CheckpointRefused(
            f"checkpoint {digest[:12]}… has no privacy record ({origin['words']}): it may be used only where a spec "
            f"declares it public"
        )
    if isinstance(origin, dict) and origin["population"] == public_for:
        raise CheckpointRefused(
            f"checkpoint {digest[:12]}… was trained without DP on {public_for}: no release of theirs may use it, "
            f"whatever a spec declares"
        )
    if isinstance(privacy, dict) and "stamp" in privacy and not is_seeded():
        raise CheckpointRefused(f"checkpoint {digest[:12]}… is stamped {privacy['stamp']}: train the model again")
    return load_flow(store, record), privacy if isinstance(privacy, dict) else {}


def load_flow(store: Store, record: Mapping[str, object]) -> ConditionalFlow:
    """Load the network that a checked record names, in the type in which it was saved.

    Raises:
        CheckpointRefused: its tensors are absent, were altered, or are not those of its architecture.
    """
    architecture = architecture_from_json(record["architecture"])
    key, data = read_tensors(store, record)
    try:
        state = load(data)
    except SafetensorError as error:
        raise CheckpointRefused(f"{key[:12]}….safetensors: not safetensors: {error}") from error
    return flow_of(architecture, state)


def read_tensors(store: Store, record: Mapping[str, object]) -> tuple[str, bytes]:
    """Return the key and the bytes of the tensors that a checked record names, which hash to what it says.

    Raises:
        CheckpointRefused: they are absent or were altered.
    """
    tensors = record["tensors"]
    sha256 = tensors.get("sha256") if isinstance(tensors, dict) else None
    if not isinstance(sha256, str) or DIGEST.fullmatch(sha256) is None:
        raise CheckpointRefused("the checkpoint's record names no tensors")
    key = f"{sha256}.safetensors"
    return key, read_object(store, key, sha256, LIMIT_TENSORS)


def flow_of(architecture: Architecture, state: Mapping[str, torch.Tensor]) -> ConditionalFlow:
    """The network of an architecture with these tensors, in their type.

    Raises:
        CheckpointRefused: they are not exactly those of the architecture, of one floating type, and sound.
    """
    # Nothing is allocated for an architecture before tensors of its shapes are there.
    with torch.device("meta"):
        flow = ConditionalFlow(architecture)
    _check_tensors(state, flow)
    flow.load_state_dict(state, assign=True)
    dtype = next(tensor.dtype for tensor in state.values() if tensor.is_floating_point())
    return flow.to(dtype).in_channels_last()


def _check_tensors(state: Mapping[str, torch.Tensor], flow: ConditionalFlow) -> None:
    """Refuse tensors that are not exactly those of the network: finite, of one floating type, orders permutations."""
    expected = {name: (tensor.shape, tensor.is_floating_point()) for name, tensor in flow.state_dict().items()}
    found = {name: (tensor.shape, tensor.is_floating_point()) for name, tensor in state.items()}
    if found != expected:
        differ = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise CheckpointRefused(f"tensors do not fit the architecture: {', '.join(differ)}")
    kinds = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if len(kinds) != 1 or not kinds <= {torch.float32, torch.float64}:
        raise CheckpointRefused(f"tensors of types {sorted(map(str, kinds))}: one of float32 and float64")
    broken = sorted(name for name, tensor in state.items() if not _is_sound(tensor))
    if broken:
        raise CheckpointRefused(f"tensors that are not finite, or no permutations: {', '.join(broken)}")


def _is_sound(tensor: torch.Tensor) -> bool:
    if tensor.is_floating_point():
        return bool(torch.isfinite(tensor).all())
    return tensor.dtype == torch.int64 and torch.equal(tensor.sort().values, torch.arange(len(tensor)))
