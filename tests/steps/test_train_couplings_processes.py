"""Couplings trained in several processes: none outlives another, and this process alone keeps lease and states."""

import multiprocessing
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cadp.cinn.dp_sgd.start import stack_of
from cadp.cinn.dp_sgd.training import Training
from cadp.cinn.dp_sgd.unit_records import UnitRecords
from cadp.cinn.network import ConditionalFlow
from cadp.errors import CadpError, PrivacyError, SealConflict, SettingsError
from cadp.reporter import Silent
from cadp.steps.assist_training import assist_training
from cadp.steps.train_couplings_processes import train_together
from tests.cinn.dp_sgd.checks import plan_of, some_flow, some_records

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[2]
STEPS, EVERY = 8, 3


class Saved:
    """States as a release keeps them, in memory."""

    def __init__(self, at: Callable[[Training], None] = lambda state: None, steps: int = STEPS) -> None:
        self.plan, self.training, self._at = plan_of(3, steps=steps), None, at
        self.steps, self.losses = list[int](), list[int]()
        self.last: Training | None = None
        self.renewed = 0

    def renew(self) -> None:
        self.renewed += 1

    def after_step(self, state: Training) -> None:
        self.steps.append(state.step)
        if state.step % EVERY == 0 or state.step == self.plan.steps:
            self.losses.append(len(state.losses))
            self.last = state
            state.losses.clear()
        self._at(state)


def train(saved: Any, folder: Path, reporter: Silent | None = None) -> ConditionalFlow:
    records = some_records(3)
    content = np.memmap(folder / "content", dtype=np.float32, mode="w+", shape=records.content.shape)
    content[:] = records.content
    read = UnitRecords(content, records.labels, records.valid, records.starts)
    return train_together(saved, some_flow(), read, folder, reporter or Silent(), processes=2, save_every=EVERY)


class Counting(Silent):
    """Keeps what progress it is told."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def progress(self, label: str, total: int | None, things: str, done: int = 0) -> Any:
        self.told += [total or 0, done]
        told, outer = self.told, super().progress(label, total, things, done)

        class Bar:
            def __enter__(self) -> Callable[[int], None]:
                outer.__enter__()
                return lambda done=1: told.append(done)

            def __exit__(self, *_: object) -> None:
                outer.__exit__(None, None, None)

        return Bar()


def test_every_step_is_told_and_some_are_saved(tmp_path: Path) -> None:
    saved, watching = Saved(), Counting()
    flow = train(saved, tmp_path, watching)
    assert saved.steps == list(range(STEPS + 1))
    assert saved.losses == [0, 3, 3, 2]
    # Whoever watches sees what one process shows: multiples of the expected batch.
    assert watching.told == [24 * STEPS, 0, *[24] * STEPS]
    assert saved.last is not None
    weights = torch.cat([parameter.detach().flatten() for parameter in stack_of(flow).parameters()])
    assert torch.equal(weights, saved.last.average.double())
    assert {parameter.dtype for parameter in flow.parameters()} == {torch.float64}
    assert not list(tmp_path.glob("*.part"))


ENDS = {
    "the first is killed": (0, signal.SIGKILL, "SIGKILL"),
    "another is killed": (1, signal.SIGKILL, "died"),
    "another leaves as if all were well": (1, signal.SIGINT, "died"),
    "the first leaves as if all were well": (0, signal.SIGINT, "ended|died"),
}
USUAL = ("another is killed", "the first leaves as if all were well")


@pytest.mark.parametrize(
    "end", [name if name in USUAL else pytest.param(name, marks=pytest.mark.slow) for name in ENDS]
)
def test_a_process_that_goes_ends_the_others_and_the_training(end: str, tmp_path: Path) -> None:
    rank, sent, words = ENDS[end]

    def send(state: Training) -> None:
        if state.step == 4:
            process = sorted(multiprocessing.active_children(), key=lambda child: child.pid or 0)[rank]
            assert process.pid is not None
            os.kill(process.pid, sent)

    saved = Saved(send, steps=10_000)
    with pytest.raises(CadpError, match=rf"(?s){words}.*Next: the same command again; it goes on from the last saved"):
        train(saved, tmp_path)
    assert saved.steps[-1] < 10_000
    assert not multiprocessing.active_children()


def test_a_lost_lease_ends_all(tmp_path: Path) -> None:
    def lose(state: Training) -> None:
        if state.step == 4:
            raise SealConflict("another worker has it")

    with pytest.raises(SealConflict):
        train(Saved(lose, steps=10_000), tmp_path)
    assert not multiprocessing.active_children()


def test_what_is_not_the_plans_is_refused_before_a_process_begins(tmp_path: Path) -> None:
    saved = Saved()
    saved.plan = plan_of(2)
    with pytest.raises(PrivacyError, match="its plan is for"):
        train(saved, tmp_path)
    assert saved.steps == []


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """The other process as docs/models.md starts it, in a place of its own; this one has the variables of the first."""
    page = (ROOT / "docs" / "models.md").read_text().split("## On several processes")[1]
    first, other = re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL)[0].splitlines()
    port = str(free_port())

    def variables(line: str) -> dict[str, str]:
        said = dict(word.split("=") for word in shlex.split(line, comments=True) if "=" in word)
        return {**said, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}

    for name, value in variables(first).items():
        monkeypatch.setenv(name, value)
    path = os.pathsep.join([str(ROOT), *(path for path in sys.path if path)])
    there = {**variables(other), "CADP_HOME": str(tmp_path / "there"), "PATH": os.environ["PATH"], "PYTHONPATH": path}
    command = [word for word in shlex.split(other, comments=True) if "=" not in word]
    assert command.pop(0) == "python"
    process = subprocess.Popen(
        [sys.executable, *command], env=there, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    yield process
    process.kill()
    process.communicate(timeout=60)


def test_another_host_takes_its_share_without_ledger_store_or_secret(
    tmp_path: Path, helper: subprocess.Popen[str]
) -> None:
    home = tmp_path / "there"
    (tmp_path / "here").mkdir()
    saved = Saved()
    train(saved, tmp_path / "here")
    said, _ = helper.communicate(timeout=120)
    assert helper.returncode == 0, said
    assert saved.steps == list(range(STEPS + 1))
    # Nothing of the records is left there, and nothing else was ever made.
    assert [path for path in home.rglob("*") if path.is_file()] == []
    assert {path.name for path in home.iterdir()} == {"scratch"}


@pytest.mark.slow
def test_another_host_ends_with_the_training(tmp_path: Path, helper: subprocess.Popen[str]) -> None:
    def lose(state: Training) -> None:
        if state.step == 4:
            raise SealConflict("another worker has it")

    with pytest.raises(SealConflict):
        train(Saved(lose, steps=10_000), tmp_path)
    helper.communicate(timeout=120)
    assert helper.returncode > 0


@pytest.mark.slow
def test_a_training_ends_with_another_host(tmp_path: Path, helper: subprocess.Popen[str]) -> None:
    saved = Saved(lambda state: helper.kill() if state.step == 4 else None, steps=10_000)
    with pytest.raises(CadpError, match=r"(?s)process 0 of 1 of the training died.*Next: the same command again"):
        train(saved, tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"RANK": "2"}, "RANK 2 of 2"),
        ({"RANK": "0"}, "RANK is '0'"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR"),
        ({"MASTER_PORT": "0"}, "MASTER_PORT is '0'"),
        ({"LOCAL_WORLD_SIZE": "-1"}, "LOCAL_WORLD_SIZE is '-1'"),
    ],
    ids=["rank", "first", "size", "address", "port", "here"],
)
def test_a_helper_that_cannot_join_says_why(change: dict[str, str], words: str, tmp_path: Path) -> None:
    there = {"CADP_HOME": str(tmp_path), "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "RANK": "1"}
    with pytest.raises(SettingsError, match=re.escape(words)):
        assist_training({**there, **change})


ALONE = """
import sys
from pathlib import Path
from tests.steps.test_train_couplings_processes import Saved, train
if __name__ == "__main__":
    train(Saved(lambda state: print(state.step, flush=True), steps=10_000), Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_no_process_outlives_the_one_that_started_it(tmp_path: Path) -> None:
    script = tmp_path / "together.py"
    script.write_text(ALONE)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *(path for path in sys.path if path)])}
    command = [sys.executable, str(script), str(tmp_path)]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while process.stdout.readline() != "3\n":
        assert process.poll() is None
    process.kill()
    process.communicate(timeout=60)  # whoever is left holds the other end of the pipe
    assert process.returncode == -signal.SIGKILL
