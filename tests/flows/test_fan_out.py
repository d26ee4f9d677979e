"""Ranges on a work pool: two real workers take one release, and one of them is killed in the middle of a range."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cadp.ledger import Ledger
from cadp.steps.privatize import sealed_runs
from cadp.zones import anchor_zone
from tests.servers.prefect import BIN, ROOT, PrefectServer
from tests.small_release import RECORDS, Place, build

PARENT = """\
import sys
import flows.fan_out as fan_out
fan_out.LOST_AFTER = float(sys.argv[3])
fan_out.POLL = 0.3
from flows.privatize import privatize
from cadp.errors import CadpError
try:
    privatize(sys.argv[1], workers=2, pool=sys.argv[2])
except CadpError as error:
    sys.exit(f"{type(error).__name__} {error}")
"""


@dataclass(frozen=True)
class Floor:
    """Where the work is done: a release that waits to be privatized, and the server whose workers do it."""

    prefect: PrefectServer
    place: Place

    @property
    def environ(self) -> dict[str, str]:
        """Of workers and of parents."""
        own = {"PREFECT_WORKER_QUERY_SECONDS": "1", "PYTHONPATH": str(ROOT), **self.place.environ}
        return self.prefect.tied | own

    @contextmanager
    def parent(self, lost_after: float = 60.0) -> Iterator["subprocess.Popen[str]"]:
        """Whoever privatizes by way of the pool; gone at the end."""
        command = [sys.executable, "-c", PARENT, str(self.place.spec), "cpu", str(lost_after)]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, cwd=ROOT, env=self.environ, **pipes)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    @contextmanager
    def worker(self, name: str, **environ: str) -> Iterator["subprocess.Popen[bytes]"]:
        """A worker that takes one run at a time; it and what it started are gone at the end."""
        command = [str(BIN / "prefect"), "worker", "start", "--pool", "cpu", "--name", name, "--limit", "1"]
        log = (self.place.folder / f"{name}.log").open("wb")
        with log:
            env = self.environ | environ
            process = subprocess.Popen(command, cwd=self.place.folder, env=env, stdout=log, stderr=log)
        try:
            yield process
        finally:
            kill(process)

    def runs(self, name: str) -> list[dict[str, Any]]:
        """Flow runs by what their name begins with, oldest first."""
        wanted = {"flow_runs": {"name": {"like_": name}}, "sort": "START_TIME_ASC"}
        runs = [dict(run) for run in self.prefect.ask("flow_runs/filter", wanted)]
        return [run for run in runs if run["parameters"].get("spec") == str(self.place.spec)]

    def ledger(self) -> Ledger:
        """Of the release."""
        return Ledger.open(self.place.settings.ledger_url, anchor_zone(self.place.settings))


def kill(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL a worker and whatever it started, the worker first so that it reports nothing."""
    descendants = _descendants(process.pid)
    for pid in (process.pid, *descendants):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait(10)


def _descendants(pid: int) -> list[int]:
    found = list[int]()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *_descendants(child)]
    return found


def wait_for(what: Callable[[], Any], seconds: float = 90.0) -> Any:
    """The first true answer; the workers have processes to start, so it may take a while."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if answer := what():
            return answer
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds:g} s")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A release of three ranges, sharded and trained; one record at a time, so that a range takes seconds."""
    place = build(tmp_path_factory.mktemp("trained") / "place")
    text = place.spec.read_text().replace("range_records: 300, workers: 2", "range_records: 400, batch: 1")
    place.spec.write_text(text)
    place.open_budget()
    for step in ("shard", "train"):
        done = place.cadp(step, str(place.spec))
        assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def floor(prefect: PrefectServer, deployed: object, trained: Place, tmp_path: Path) -> Floor:
    """A copy of that release, and the server with everything deployed."""
    assert deployed
    return Floor(prefect, trained.copy(tmp_path / "copy"))


def test_two_workers_share_a_release_whose_parent_and_a_worker_are_killed(floor: Floor) -> None:
    with floor.parent():  # it is killed at the end, with its two runs still to be begun
        wait_for(lambda: len(floor.runs("privatize range%")) == 2)
    with ExitStack() as open_until_the_end:
        workers = [open_until_the_end.enter_context(floor.worker(f"worker-{i}")) for i in range(2)]
        parent = open_until_the_end.enter_context(floor.parent(lost_after=12.0))
        holders = processes(wait_for(lambda: leases(floor.place)))
        kill(next(worker for worker in workers if holders & set(_descendants(worker.pid))))
        out, err = parent.communicate(timeout=150)
    assert parent.returncode == 0, out + err

    with floor.ledger() as ledger:
        charge = next(c for c in ledger.charges(release="shapes/1.0.0") if c.key.endswith("records"))
        seals = ledger.seals(charge.id)
        assert len(ledger.charges(release="shapes/1.0.0")) == 2
    assert sorted(seals) == [0, 1, 2]
    assert sum(int(str(seal.facts["records"])) for seal in seals.values()) == RECORDS
    assert sorted(token for token, _ in leases(floor.place).values()) == [1, 1, 2]
    runs = floor.runs("privatize range % of shapes 1.0.0")
    states = sorted(run["state"]["type"] for run in runs)
    assert states == ["COMPLETED"] * 3 + ["CRASHED"], "the second parent starts nothing that the first one had started"
    crashed = next(run for run in runs if run["state"]["type"] == "CRASHED")
    assert "no sign of life" in crashed["state"]["message"]
    assert all(run["parent_task_run_id"] for run in runs)
    job = floor.place.job()
    assert len(sealed_runs(job)) == 3


def test_a_worker_that_is_set_up_wrongly_stops_its_parent_with_its_own_error(floor: Floor, tmp_path: Path) -> None:
    with floor.parent() as parent:
        wait_for(lambda: len(floor.runs("privatize range%")) == 2)
        with floor.worker("elsewhere", CADP_HOME=str(tmp_path / "elsewhere")):
            out, err = parent.communicate(timeout=150)
    assert parent.returncode != 0
    assert re.search(r"LedgerMissing privatize range 0\d of shapes 1\.0\.0: there is no ledger", err), out + err
    assert leases(floor.place) == {}
    states = {run["state"]["type"] for run in floor.runs("privatize range%")}
    assert states == {"FAILED", "CANCELLED"}, "what nobody has begun is called back"


def test_a_worker_with_another_plan_refuses(floor: Floor) -> None:
    parameters = [f"spec={floor.place.spec}", "index=0", "plan=" + "0" * 64]
    arguments = [word for parameter in parameters for word in ("--param", parameter)]
    floor.prefect.cli("deployment", "run", "privatize-range/cpu", *arguments)
    with floor.worker("other"):
        message = wait_for(lambda: [run["state"]["message"] for run in floor.runs("privatize range 00%") if ended(run)])
    assert "give all workers the same spec" in message[0]
    assert leases(floor.place) == {}


def ended(run: dict[str, Any]) -> bool:
    """Whether it failed."""
    return bool(run["state"]["type"] == "FAILED")


def leases(place: Place) -> dict[int, tuple[int, str]]:
    """Token and owner by range of the records' charge, as the ledger has them."""
    query = """
        SELECT ranges.range_id, ranges.token, ranges.owner FROM ranges JOIN charges ON charges.id = ranges.charge_id
        WHERE charges.key = 'shapes/1.0.0/records'
    """
    with closing(sqlite3.connect(place.settings.ledger_url.removeprefix("sqlite:///"), timeout=30)) as connection:
        return {index: (token, owner) for index, token, owner in connection.execute(query)}


def processes(held: dict[int, tuple[int, str]]) -> set[int]:
    """The numbers of the processes that hold leases: an owner is `machine|pid|start`."""
    return {int(owner.split("|")[1]) for _, owner in held.values()}
