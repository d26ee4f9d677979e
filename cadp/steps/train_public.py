"""Train on public data: a declared source → a memory map → maximum likelihood → a checkpoint with its origin.

Nothing is charged and nothing is protected. The checkpoint loads only where a spec declares it public, and never for a
release of the source that it was trained on, whose address it carries. Killed, the same command goes on after the last
whole epoch.
"""

import hashlib
import hmac
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cadp.cinn.architecture import Architecture, Conditions, architecture_from_json
from cadp.cinn.multi_scale import multi_scale
from cadp.errors import SourceError, SpecError
from cadp.planned_model import plan_training
from cadp.reporter import Reporter
from cadp.settings import Settings
from cadp.sources import open_source, public_facts
from cadp.sources.address import addresses
from cadp.spec import canonical_json, load_spec
from cadp.steps.scratch import own_scratch, sweep_scratch
from cadp.steps.shard import TRAIN
from cadp.steps.train_public_spec import PublicModel, load_public_model
from cadp.zones import private_zone

if TYPE_CHECKING:
    from cadp.cinn.public_training import PublicFit

_SUBSET = b"cadp public subset 1"


@dataclass(frozen=True, slots=True)
class Trained:
    """What came out: the checkpoint's digest, and the course of its training."""

    digest: str
    fit: "PublicFit"


def train_public_model(path: Path, settings: Settings, reporter: Reporter, processes: int = 1) -> Trained:
    """Train the network of a `model.yaml` and keep it in the private zone.

    Args:
        path: the file.
        settings: where things are.
        reporter: told of images a second and time left.
        processes: how many share the work, one a device where there are so many, else on the processor.

    Raises:
        SpecError: the file, or what it names, cannot be used.
        SourceError: a record cannot be read, or there are none.
        CheckpointRefused: the trained network does not invert.
    """
    import torch  # noqa: PLC0415  (torch only where a step runs)

    from cadp.cinn.checkpoint import Origin, save_public  # noqa: PLC0415
    from cadp.cinn.public_training import PublicRecipe  # noqa: PLC0415
    from cadp.steps.train_public_processes import PublicTask, train_alone, train_together  # noqa: PLC0415

    spec = load_public_model(path)
    settings.make_private_folders()
    architecture = planned_architecture(spec, path.parent, settings)
    recipe = PublicRecipe(**spec.recipe.model_dump())
    files = [file.to_json() for file in open_source(spec.source, data_dir=settings.data_dir).files()[TRAIN]]
    # Anything else, or the same of files that were changed, is another training.
    told = [spec.model_dump(mode="json"), architecture.to_json(), files]
    name = hashlib.sha256(canonical_json(told)).hexdigest()
    course = settings.scratch.parent / "public-training" / f"{name[:32]}.safetensors"
    course.parent.mkdir(parents=True, exist_ok=True)
    sweep_scratch(settings.scratch)
    with tempfile.TemporaryDirectory(dir=own_scratch(settings.scratch)) as folder:
        _decode(spec, settings, Path(folder), reporter)
        task = PublicTask(Path(folder), architecture, recipe, course)
        flow, fit = train_together(task, processes) if processes > 1 else train_alone(task, reporter)
    origin = Origin(spec.provenance, source=addresses(spec.source.url, settings.data_dir)[0])
    models = private_zone(settings).child("models")
    digest = save_public(models, flow, origin, {"torch": torch.__version__})
    course.unlink(missing_ok=True)
    reporter.event("trained", f"model {digest[:12]}, best after epoch {fit.best + 1}, round trip {fit.round_trip:.1e}")
    return Trained(digest, fit)


def planned_architecture(spec: PublicModel, folder: Path, settings: Settings) -> Architecture:
    """Return the architecture that is asked for, which fits the source's records.

    Raises:
        SpecError: it names a release that trains nothing, or does not fit.
        CheckpointRefused: it is no architecture.
    """
    asked, own = spec.architecture, open_source(spec.source, data_dir=settings.data_dir).facts
    if set(asked) == {"like"}:
        release = load_spec(folder / str(asked["like"]))
        if release.model.train is None:
            raise SpecError(f"architecture.like {asked['like']}: {release.release} loads its model")
        facts, private = public_facts(release.source), release.source.labels.kind != "public"
        architecture: Architecture = plan_training(release.model.train, release, facts, private).architecture
    elif asked == {"multi_scale": True}:
        architecture = multi_scale(own.shape, Conditions(len(own.classes)))
    else:
        architecture = architecture_from_json(json.loads(json.dumps(asked)))
    if architecture.shape != own.shape or architecture.classes < len(own.classes):
        raise SpecError(
            f"architecture {architecture.shape} of {architecture.classes} classes does not fit the source's records, "
            f"{own.shape} of {len(own.classes)} classes"
        )
    return architecture


def in_subset(name: str, fraction: float) -> Callable[[str], bool]:
    """Return which units are read: a hash of the id below `fraction`, under a public key, so that anybody can tell."""
    key, bound = hmac.digest(_SUBSET, name.encode(), "sha256"), math.floor(fraction * 2.0**64)
    return lambda unit: int.from_bytes(hmac.digest(key, unit.encode(), "sha256")[:8], "big") < bound


def _decode(spec: PublicModel, settings: Settings, folder: Path, reporter: Reporter) -> None:
    """Decode the chosen units of the split `train` into a memory map; a record that cannot be read is left out."""
    source = open_source(spec.source, data_dir=settings.data_dir)
    facts, chosen = source.facts, in_subset(spec.name, spec.fraction)
    images = np.lib.format.open_memmap(
        folder / "all.npy", mode="w+", dtype=facts.kind, shape=(facts.records + facts.over_cap, *facts.shape)
    )
    labels: list[int] = []
    with reporter.progress("decode", len(images), "images" if facts.table is None else "rows") as advance:
        for record in source.records(TRAIN, lambda key, reason: None):
            advance(1)
            if record.image is None or not chosen(record.unit):
                continue
            if len(labels) == len(images):
                raise SourceError(f"{spec.source.url} holds more than the {len(images):,} records that were declared")
            images[len(labels)] = record.image
            labels.append(record.label)
    if len(labels) < 2:
        raise SourceError(f"{spec.source.url} has {len(labels)} records of the chosen units: too few to train on")
    np.save(folder / "labels.npy", np.array(labels, dtype=np.int64))
