"""What a process on another host computes with: the plan, the units, and the content of its own units alone.

It goes from the first process to each of the others by itself, through the process group of the training. Nothing is
unpickled: facts are JSON, columns are tensors of a length that was said before.
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from cadp.cinn.architecture import Coupled, architecture_from_json
from cadp.cinn.dp_sgd.plan import SgdPlan
from cadp.cinn.dp_sgd.processes import owner
from cadp.cinn.dp_sgd.unit_records import UnitRecords
from cadp.errors import CheckpointRefused

_ROWS = 1 << 16  # of content at a time


def hand_over(plan: SgdPlan, records: UnitRecords, to: int) -> None:
    """Send process `to`, of another host, what it computes with; it must `take_over` meanwhile."""
    facts = json.dumps({**asdict(plan), "architecture": plan.architecture.to_json()}).encode()
    columns = records.starts, records.labels, records.valid.astype(np.uint8)
    distributed.send(torch.tensor([len(facts), *(len(column) for column in columns)]), to)
    for column in (np.frombuffer(facts, dtype=np.uint8), *columns):
        distributed.send(torch.from_numpy(np.array(column)), to)
    for rows in _rows_of(plan, records.starts, to):
        distributed.send(torch.from_numpy(np.array(records.content[rows], dtype=np.float32)), to)


def take_over(folder: Path) -> tuple[SgdPlan, UnitRecords]:
    """Take what the first process hands over; content becomes a memory map in `folder`, empty where it is others'.

    Raises:
        CheckpointRefused: what came is no plan.
    """
    facts, starts, labels, valid = (
        _received(torch.zeros(length, dtype=kind)).numpy()
        for length, kind in zip(
            _received(torch.zeros(4, dtype=torch.int64)).tolist(),
            (torch.uint8, torch.int64, torch.int64, torch.uint8),
            strict=True,
        )
    )
    told = json.loads(facts.tobytes())
    architecture = architecture_from_json(told.pop("architecture"))
    if not isinstance(architecture, Coupled):
        raise CheckpointRefused(f"a network of kind {architecture.kind} has no couplings to train")
    plan = SgdPlan(architecture=architecture, **told)
    shape = (max(1, len(labels)), architecture.content)
    content = np.memmap(folder / "content", dtype=np.float32, mode="w+", shape=shape)
    for rows in _rows_of(plan, starts, distributed.get_rank()):
        content[rows] = _received(torch.zeros(len(rows), architecture.content)).numpy()
    return plan, UnitRecords(content[: len(labels)], labels, valid.astype(np.bool_), starts)


def _rows_of(plan: SgdPlan, starts: NDArray[np.int64], rank: int) -> list[NDArray[np.int64]]:
    """The rows of a process's own units, in parts."""
    own = owner(np.arange(len(starts) - 1), plan, distributed.get_world_size()) == rank
    rows = np.flatnonzero(np.repeat(own, np.diff(starts)))
    return np.split(rows, np.arange(_ROWS, len(rows), _ROWS))


def _received(tensor: Tensor) -> Tensor:
    distributed.recv(tensor, 0)
    return tensor
