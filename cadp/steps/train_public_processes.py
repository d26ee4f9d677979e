"""Public training in one process, or in several by torch DDP, over the same memory map of records."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import distributed

from cadp.cinn.architecture import Architecture
from cadp.cinn.network import ConditionalFlow
from cadp.cinn.public_state import course_bytes, read_course
from cadp.cinn.public_training import PublicFit, PublicRecipe, PublicRecords, train_public
from cadp.errors import CheckpointRefused
from cadp.reporter import ConsoleReporter, Reporter, Silent
from cadp.spec import canonical_json
from cadp.steps.processes import Meeting, run_together

if TYPE_CHECKING:
    from cadp.cinn.public_training import PublicCourse


@dataclass(frozen=True)
class PublicTask:
    """What is trained on what.

    Attributes:
        folder: holds `all.npy` and `labels.npy`, public records.
        architecture: of the network.
        recipe: how.
        course: the file of an unfinished training.
    """

    folder: Path
    architecture: Architecture
    recipe: PublicRecipe
    course: Path

    @property
    def text(self) -> str:
        """What a saved course must be of, to go on from it."""
        told = {"architecture": self.architecture.to_json(), "recipe": asdict(self.recipe)}
        return canonical_json(told).decode()

    def keep(self, course: "PublicCourse") -> None:
        """Put a course in the place of the one before it, whole or not at all."""
        beside = self.course.with_suffix(f".{os.getpid()}.part")
        beside.write_bytes(course_bytes(course, self.text))
        beside.replace(self.course)


def train_alone(task: PublicTask, reporter: Reporter) -> tuple[ConditionalFlow, PublicFit]:
    """Train in this process, on its GPU if it has one.

    Raises:
        CheckpointRefused: the network does not invert.
    """
    return _train(task, reporter, torch.device("cuda" if torch.cuda.is_available() else "cpu"), keep=True)


def train_together(task: PublicTask, processes: int) -> tuple[ConditionalFlow, PublicFit]:
    """Train in processes of their own, one a GPU if there are so many (NCCL), else on the processor (gloo).

    Raises:
        CheckpointRefused: the network does not invert.
        CadpError: a process died; the others were ended.
    """
    run_together(_work, task, processes, ready="it goes on after the last whole epoch")
    done = json.loads((task.folder / "fit.json").read_text())
    if "refused" in done:
        raise CheckpointRefused(done["refused"])
    flow = ConditionalFlow(task.architecture)
    flow.load_state_dict(load_file(task.folder / "flow.safetensors"))
    return flow, PublicFit(tuple(done["validation"]), done["best"], done["round_trip"])


def _work(rank: int, size: int, task: PublicTask) -> None:
    gpus = torch.cuda.is_available() and torch.cuda.device_count() >= size
    device = torch.device("cuda", rank) if gpus else torch.device("cpu")
    Meeting.in_folder(task.folder).join(rank, size, "nccl" if gpus else "gloo")
    try:
        flow, fit = _train(task, ConsoleReporter() if rank == 0 else Silent(), device, keep=rank == 0)
        done = asdict(fit)
        if rank == 0:
            save_file(
                {name: tensor.contiguous() for name, tensor in flow.state_dict().items()},
                task.folder / "flow.safetensors",
            )
    except CheckpointRefused as error:
        done = {"refused": str(error)}
    if rank == 0:
        (task.folder / "fit.json").write_text(json.dumps(done))
    distributed.destroy_process_group()


def _train(
    task: PublicTask, reporter: Reporter, device: torch.device, *, keep: bool
) -> tuple[ConditionalFlow, PublicFit]:
    torch.manual_seed(task.recipe.seed)
    flow = ConditionalFlow(task.architecture)
    labels = np.load(task.folder / "labels.npy", allow_pickle=False)
    images = np.load(task.folder / "all.npy", mmap_mode="r", allow_pickle=False)[: len(labels)]
    data = PublicRecords(images, flow.condition(torch.from_numpy(labels)))
    resumed = read_course(task.course, flow, task.text) if task.course.exists() else None
    if resumed is not None and keep:
        reporter.event("resumed", f"training goes on after epoch {resumed.epoch}")
    after = task.keep if keep else None
    fit = train_public(flow, data, task.recipe, reporter, device=device, resumed=resumed, after_epoch=after)
    return flow, fit
