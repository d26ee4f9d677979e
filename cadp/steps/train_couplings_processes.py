"""DP-SGD of the couplings in several processes: they compute, this process alone keeps lease and states.

The processes read the memory map of whitened content and the columns beside it, which lie in this process's scratch.
The first of them trains and hands over the state of each step that is saved, as a file; this process puts it into the
private zone. No other process knows the ledger, the stores or the population's secret.

Of several hosts this one runs the first processes; the others are `cadp.steps.assist_training`.
"""

import os
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import distributed

from cadp.cinn.dp_sgd.handing_over import hand_over
from cadp.cinn.dp_sgd.plan import SgdPlan
from cadp.cinn.dp_sgd.processes import Processes
from cadp.cinn.dp_sgd.start import stack_of
from cadp.cinn.dp_sgd.state import read_state, state_bytes
from cadp.cinn.dp_sgd.training import Training, assist, check_training, train_couplings, trained
from cadp.cinn.dp_sgd.unit_records import UnitRecords
from cadp.cinn.network import ConditionalFlow
from cadp.errors import CadpError
from cadp.reporter import Advance, Reporter, Silent
from cadp.steps.processes import Meeting, run_together

if TYPE_CHECKING:
    from cadp.steps.train_couplings import SavedTraining

_COLUMNS = ("labels", "valid", "starts")
_WAIT = 0.1
_READY = "it goes on from the last saved state, under the same charge"


@dataclass(frozen=True)
class CouplingsTask:
    """What the processes train, on what.

    Attributes:
        folder: holds `content`, a file of each other column of the records, and the state of `step`; private.
        plan: of the training.
        step: the one that it goes on from.
        save_every: of how many steps the state is handed over.
        size: how many processes there are, on all hosts.
        meeting: where they find each other.
        told: where the first process says that it took a step: its loss, 8 bytes of float64.
    """

    folder: Path
    plan: SgdPlan
    step: int
    save_every: int
    size: int
    meeting: Meeting
    told: Connection

    def saves(self, step: int) -> bool:
        """Whether the state behind a step is handed over."""
        return not step % self.save_every or step == self.plan.steps

    def state(self, step: int) -> Path:
        """The file in which it is."""
        return self.folder / f"state-{step:07d}.safetensors"

    def records(self) -> UnitRecords:
        """What is trained on, by memory maps."""
        labels, valid, starts = (np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in _COLUMNS)
        shape = (max(1, len(labels)), self.plan.architecture.content)
        content = np.memmap(self.folder / "content", dtype=np.float32, mode="r", shape=shape)
        return UnitRecords(content[: len(labels)], labels, valid, starts)


def train_together(
    saved: "SavedTraining",
    flow: ConditionalFlow,
    records: UnitRecords,
    folder: Path,
    reporter: Reporter,
    *,
    processes: int,
    save_every: int,
) -> ConditionalFlow:
    """Train the couplings of `flow` in several processes, from the last saved state if there is one.

    Args:
        saved: the states of the charge; keeps the lease after every step.
        flow: its whitening fitted, its couplings as they start.
        records: of the file `content` in `folder`.
        folder: scratch, which the caller removes.
        reporter: told of progress, in public numbers.
        processes: how many.
        save_every: the steps from one saved state to the next.

    Returns:
        The flow, float64, its couplings the average of the weights: what one process gives, to the same bits by the
        same coins and noise on as many threads.

    Raises:
        PrivacyError: records or flow are not the plan's.
        CadpError: a process died; the others were ended. The next attempt goes on from the last saved state.
    """
    plan = saved.plan
    check_training(flow, records, plan)
    for name in _COLUMNS:
        np.save(folder / f"{name}.npy", getattr(records, name))
    state = saved.training
    if state is None:
        state = Training.start(stack_of(flow).float())
        saved.after_step(state)
    hears, told = get_context("spawn").Pipe(duplex=False)
    meeting = Meeting.of_hosts(os.environ) or Meeting.in_folder(folder)
    task = CouplingsTask(folder, plan, state.step, save_every, processes, meeting, told)
    task.state(state.step).write_bytes(state_bytes(flow, state))
    here = min(processes, meeting.here or processes)
    if processes > here:
        reporter.event(
            "waiting",
            f"for processes {here} to {processes - 1} of {processes}, of other hosts: there `python -m "
            f"cadp.steps.assist_training`",
        )
    total, done = (round(step * plan.expected_batch) for step in (plan.steps, state.step))
    with reporter.progress("couplings", total, "units", done) as advance, hears, told:
        heard = _Heard(task, hears, state, saved, advance)
        run_together(_work, task, here, ready=_READY, tend=heard.tend)
        heard.tend()
    if heard.state.step != plan.steps:
        raise CadpError(
            f"the processes of the training ended at step {heard.state.step:,} of {plan.steps:,}. Next: the same "
            f"command again; {_READY}"
        )
    return trained(flow, heard.state)


class _Heard:
    """The training as the first process tells of it, step by step."""

    def __init__(
        self, task: CouplingsTask, hears: Connection, state: Training, saved: "SavedTraining", advance: Advance
    ) -> None:
        self.state = state
        self._task, self._hears, self._saved, self._advance = task, hears, saved, advance

    def tend(self) -> None:
        """Hear of the steps that were taken since, or wait a little for one; vectors are those of the last state."""
        while self._hears.poll(_WAIT):
            losses = [*self.state.losses, float(np.frombuffer(self._hears.recv_bytes())[0])]
            before, self.state.step = self.state.step, self.state.step + 1
            if self._task.saves(self.state.step):
                file = self._task.state(self.state.step)
                self.state = read_state(file.read_bytes(), self._task.plan)[1]
                file.unlink()
            self.state.losses = losses
            batch = self._task.plan.expected_batch
            self._advance(round(self.state.step * batch) - round(before * batch))
            self._saved.after_step(self.state)
        self._saved.renew()


def _work(rank: int, here: int, task: CouplingsTask) -> None:
    flow, state = read_state(task.state(task.step).read_bytes(), task.plan)
    records = task.records()
    task.meeting.join(rank, task.size)
    if rank == 0:
        for other in range(here, task.size):
            hand_over(task.plan, records, other)
    processes = Processes(task.plan, records)

    def tell(state: Training) -> None:
        if task.saves(state.step):
            beside = task.state(state.step).with_suffix(".part")
            beside.write_bytes(state_bytes(flow, state))
            beside.replace(task.state(state.step))
        task.told.send_bytes(np.float64(state.losses.pop()).tobytes())

    if rank == 0:
        train_couplings(flow, records, task.plan, Silent(), resumed=state, after_step=tell, processes=processes)
    else:
        assist(flow, records, task.plan, processes)
    distributed.destroy_process_group()
