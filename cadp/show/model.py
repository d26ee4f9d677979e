"""A model for reading: its network, its digest, how well it describes records, and what it cost whom."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from zipfile import BadZipFile

import numpy as np
from rich.console import Console
from rich.markup import escape

from cadp.errors import CheckpointRefused, SpecError
from cadp.privacy.accountant import curve
from cadp.privacy.events import Event
from cadp.privacy.plain_words import nats, scientific
from cadp.settings import Settings
from cadp.store import Store
from cadp.zones import private_zone

if TYPE_CHECKING:
    from cadp.cinn.architecture import Architecture
    from cadp.cinn.network import ConditionalFlow

DELTA = 1e-5


def inspect_model(which: str, settings: Settings, data: Path | None = None) -> dict[str, Any]:
    """Return what there is to know of a model; JSON-ready.

    Args:
        which: the digest of a model in the private zone, or the path of its `<digest>.json`.
        settings: where the private zone is.
        data: an `.npz` of public records, `images (n, h, w, c)` uint8 and `labels (n,)`, to measure bits/dim on.

    Raises:
        CheckpointRefused: there is no such model, it was altered, or it does not fit the data.
        SpecError: the data cannot be read.
    """
    from cadp.cinn.checkpoint import load_flow, read_checkpoint  # noqa: PLC0415  (torch only where a model is read)
    from cadp.cinn.likelihood import own_bits_per_dimension  # noqa: PLC0415
    from cadp.cinn.network import check_round_trip  # noqa: PLC0415

    path = Path(which)
    store = Store.open(str(path.parent)) if path.suffix == ".json" else _models(settings)
    digest = path.name.removesuffix(".json")
    record = read_checkpoint(store, digest)
    flow = load_flow(store, record)
    return {
        "digest": digest,
        "architecture": flow.architecture.to_json(),
        "network": summary(flow.architecture),
        "parameters": sum(t.numel() for t in flow.state_dict().values() if t.is_floating_point()),
        "type": str(flow.dtype).removeprefix("torch."),
        "round_trip_error": _finite(check_round_trip(flow)),
        "bits_per_dimension": {
            "own": _finite(own_bits_per_dimension(flow)),
            "data": None if data is None else _finite(_measured(flow, data)),
        },
        "privacy": _privacy(record["privacy"]),
        "origin": record["origin"],
        "spec_digest": record["spec"],
        "versions": record["versions"],
    }


def import_model(
    path: Path,
    settings: Settings,
    *,
    shape: tuple[int, int, int],
    clamp: float,
    gin: bool,
    attributes: bool,
) -> str:
    """Read a checkpoint of the published code into the private zone, and return its digest there.

    Raises:
        CheckpointRefused: it holds anything but the tensors of such a network, or that network does not invert.
    """
    import torch  # noqa: PLC0415

    from cadp.cinn.checkpoint import Origin, save_public  # noqa: PLC0415
    from cadp.cinn.network import ROUND_TRIP_LIMIT, check_round_trip  # noqa: PLC0415
    from cadp.cinn.published import import_published, read_state  # noqa: PLC0415

    state = read_state(path)
    coupling: Literal["glow", "gin"] = "gin" if gin else "glow"
    flow = import_published(state, shape=shape, clamp=clamp, coupling=coupling, attributes=attributes)
    error = check_round_trip(flow)
    if not error <= ROUND_TRIP_LIMIT:
        raise CheckpointRefused(
            f"{path} does not invert: round-trip error {error:.1e} on synthetic records, at most "
            f"{ROUND_TRIP_LIMIT:.0e} is accepted"
        )
    settings.make_private_folders()
    origin = Origin(f"imported from {path.name}, a checkpoint of the published code")
    return save_public(_models(settings), flow, origin, {"torch": torch.__version__})


def parse_shape(text: str) -> tuple[int, int, int]:
    """Read `HxWxC`.

    Raises:
        SpecError: it is none.
    """
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})x([1-9]\d{0,2})", text, re.ASCII)
    if match is None:
        raise SpecError(f"shape {text!r}: height, width and channels, as in 28x28x1")
    return int(match[1]), int(match[2]), int(match[3])


def print_model(document: Mapping[str, Any], console: Console) -> None:
    """Print an inspected model."""
    bits, privacy = document["bits_per_dimension"], document["privacy"]
    if privacy is None:
        cost = f"no record ({document['origin']['words']}); it may be used only where a spec declares it public"
    else:
        cost = (
            f"ε {privacy['epsilon']} at δ {scientific(DELTA)}, {privacy['relation']}, paid by {privacy['population']}"
        )
    measured = "" if bits["data"] is None else f"; {_told(bits['data'], '.3f')} on the data"
    stamp = f", {privacy['stamp']}" if privacy and privacy["stamp"] else ""
    facts = {
        "model": document["digest"],
        "network": document["network"],
        "parameters": f"{document['parameters']:,} {document['type']}",
        "round trip": f"{_told(document['round_trip_error'], '.1e')}, the largest pixel error on synthetic records",
        "bits/dim": f"{_told(bits['own'], '.3f')}, of its own samples{measured}",
        "privacy": cost + stamp,
        "spec": document["spec_digest"] or "none",
        "made with": ", ".join(f"{name} {version}" for name, version in document["versions"].items()),
    }
    for name, value in facts.items():
        console.print(escape(f"{name:12}{value}"), highlight=False, soft_wrap=True)


def summary(architecture: "Architecture") -> str:
    """One line of words."""
    from cadp.cinn.architecture import Convolutional, Coupled, Couplings, Dense  # noqa: PLC0415

    def stack(couplings: Couplings) -> str:
        return f"{couplings.blocks} {couplings.coupling} of width {couplings.width}"

    h, w, c = architecture.shape
    match architecture:
        case Convolutional(scales=scales, head=head):
            parts = f"{', '.join(stack(scale.couplings) for scale in scales)}, then dense {stack(head)}"
        case Dense(couplings=couplings) | Coupled(couplings=couplings):
            parts = stack(couplings)
        case _:
            parts = f"block {architecture.block}, {architecture.bands} bands"
    conditions = architecture.conditions
    given = f"{conditions.classes} classes, {conditions.attributes} attributes, {len(conditions.bounds)} numbers"
    return f"{architecture.kind}, {h}×{w}×{c}, content {architecture.content}, {given}; {parts}"


def _finite(value: float) -> float | None:
    """JSON has no NaN and no infinity: a model that does not work has no such figure."""
    return value if math.isfinite(value) else None


def _told(value: float | None, form: str) -> str:
    return "not finite" if value is None else format(value, form)


def _models(settings: Settings) -> Store:
    return private_zone(settings).child("models")


def _privacy(record: object) -> dict[str, object] | None:
    if not isinstance(record, dict):
        return None
    event = Event.from_json(record["event"])
    loss = {"relation": record["relation"], "population": record["population"], "stamp": record.get("stamp")}
    epsilon = curve(event).epsilon(DELTA)
    return {
        **loss,
        "epsilon": nats(epsilon) if math.isfinite(epsilon) else "∞",
        "delta": DELTA,
        "event": record["event"],
    }


def _measured(flow: "ConditionalFlow", data: Path) -> float:
    import torch  # noqa: PLC0415

    from cadp.cinn.likelihood import bits_per_dimension  # noqa: PLC0415

    try:
        with data.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, AttributeError, TypeError) as error:
        raise SpecError(f"{data} is no .npz of `images` and `labels`: {error}") from error
    architecture = flow.architecture
    if images.dtype != np.uint8 or images.shape[1:] != architecture.shape or labels.shape != images.shape[:1]:
        raise SpecError(
            f"{data} holds {images.dtype} images {images.shape} and labels {labels.shape}: the model takes uint8 "
            f"images (n, {', '.join(map(str, architecture.shape))}) and (n,) labels"
        )
    conditions = architecture.conditions
    if conditions.attributes or conditions.bounds:
        raise SpecError("bits/dim on data is measured for models of one label; this one has other conditions")
    if len(labels) == 0 or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= conditions.classes:
        raise SpecError(f"{data} needs labels from 0 to {conditions.classes - 1}, one or more")
    return bits_per_dimension(flow, images, flow.condition(torch.from_numpy(labels.astype(np.int64))))
