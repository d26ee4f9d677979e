"""Steps of DP-SGD a second, in one process and in two, with one thread each."""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from cadp.cinn.architecture import Whitening
from cadp.cinn.dp_sgd.plan import SgdPlan, coupled
from cadp.cinn.dp_sgd.processes import Processes
from cadp.cinn.dp_sgd.start import public_start
from cadp.cinn.dp_sgd.training import Training, assist, train_couplings
from cadp.cinn.dp_sgd.unit_records import UnitRecords
from cadp.cinn.network import ConditionalFlow
from cadp.reporter import Silent
from cadp.steps.processes import Meeting, run_together
from tests.benchmarks.figures import Figure

UNITS, CONTENT, CLASSES = 60_000, 32, 10
STEPS, WARM = 24, 4  # the first ones are slower, and are not counted


def several() -> list[Figure]:
    """The quotient says what a second process is worth; where other work has the cores, it says nothing."""
    alone, together = (_rate(processes) for processes in (1, 2))
    return [
        Figure("DP-SGD, one process", alone, "steps/s"),
        Figure("DP-SGD, two processes", together, "steps/s"),
        Figure("two processes over one", together / alone, "×", note="one thread each"),
    ]


def _rate(processes: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        run_together(_work, Path(folder), processes, ready="")
        return float((Path(folder) / "rate").read_text())


def _work(rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    plan = SgdPlan.with_noise(1.5, coupled(Whitening((28, 28, 1), CLASSES, 16, CONTENT, 8)), UNITS)
    draw = np.random.default_rng(0)
    content = draw.standard_normal((UNITS, CONTENT)).astype(np.float32)
    labels = draw.integers(0, CLASSES, UNITS)
    records = UnitRecords(content, labels, np.ones(UNITS, dtype=np.bool_), np.arange(UNITS + 1))
    flow = ConditionalFlow(plan.architecture)
    public_start(flow)
    processes = None
    if size > 1:
        Meeting.in_folder(folder).join(rank, size)
        processes = Processes(plan, records)
    if processes is not None and rank:
        assist(flow, records, plan, processes)
        return
    times: list[float] = []

    class Enough(Exception):
        """As many steps as are counted."""

    def after(state: Training) -> None:
        times.append(time.perf_counter())
        if state.step == STEPS:
            raise Enough

    try:
        train_couplings(flow, records, plan, Silent(), after_step=after, processes=processes)
    except Enough:
        if processes is not None:
            processes.dismiss()
    (folder / "rate").write_text(str((STEPS - WARM) / (times[-1] - times[WARM])))
