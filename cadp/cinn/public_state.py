"""The course of an unfinished public training as bytes: safetensors, never unpickled, checked before it is believed."""

import json
import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save

from cadp.cinn.network import ConditionalFlow
from cadp.cinn.public_training import PublicCourse
from cadp.errors import CheckpointRefused

_GROUPS = ("weights", "kept", "moments")


def course_bytes(course: PublicCourse, recipe: str) -> bytes:
    """Return the course of a training under a recipe, named by any text that is equal for equal trainings."""
    tensors = {f"{group}/{name}": t.contiguous() for group in _GROUPS for name, t in getattr(course, group).items()}
    losses = [loss if math.isfinite(loss) else None for loss in course.losses]
    facts = {"epoch": course.epoch, "best": course.best, "losses": losses, "recipe": recipe}
    return save({**tensors, "draw": course.draw}, {"course": json.dumps(facts)})


def read_course(path: Path, flow: ConditionalFlow, recipe: str) -> PublicCourse | None:
    """Read what `course_bytes` wrote into a file; None if it is a course of another recipe.

    Raises:
        CheckpointRefused: it is no course of such a network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("course", "{}"))
        tensors = load(path.read_bytes())
    except (SafetensorError, ValueError) as error:
        raise CheckpointRefused(f"{path} is no saved training: {error}") from error
    if facts.get("recipe") != recipe:
        return None
    found = {
        group: {name.removeprefix(f"{group}/"): t for name, t in tensors.items() if name.startswith(f"{group}/")}
        for group in _GROUPS
    }
    expected = {name: tensor.shape for name, tensor in flow.state_dict().items()}
    shapes = [{name: tensor.shape for name, tensor in found[group].items()} for group in ("weights", "kept")]
    sizes = {f"{kind}/{name}": p.shape for kind in ("first", "second") for name, p in flow.named_parameters()}
    moments = {name: t.shape for name, t in found["moments"].items() if name != "step"}
    sound = shapes == [expected, expected] and moments in (sizes, {}) and "step" in found["moments"]
    if not sound or "draw" not in tensors or tensors["draw"].dtype != torch.uint8:
        raise CheckpointRefused(f"{path} is no saved training of this network: its tensors are others")
    losses = [math.inf if loss is None else float(loss) for loss in facts["losses"]]
    return PublicCourse(
        int(facts["epoch"]),
        int(facts["best"]),
        losses,
        found["weights"],
        found["kept"],
        found["moments"],
        tensors["draw"],
    )
