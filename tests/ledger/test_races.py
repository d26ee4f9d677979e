"""Processes and threads that race for one budget get exactly what it holds, and the race can tell."""

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from cadp.errors import BudgetExceeded, SealConflict
from cadp.ledger import Ledger
from cadp.privacy.accountant import Curve, PureEvent, admissible, curve
from tests.ledger.places import SHA, FilePlace, Place, ServerPlace, add_population
from tests.ledger.processes import ready, say, together

LIMIT, EVENT = (8.0, 1e-6), PureEvent(0.5)
RACER = Path(__file__).with_name("racer.py")
PROCESSES, ROUNDS = 16, 50


def most_charges() -> int:
    total, count = Curve.zero(), 0
    while admissible(total + curve(EVENT), *LIMIT):
        total, count = total + curve(EVENT), count + 1
    return count


def racers(place: Place, count: int, weakness: str) -> AbstractContextManager[list[subprocess.Popen[str]]]:
    """Processes that have the ledger open and wait for the name of a budget."""
    command = [sys.executable, str(RACER), place.url, str(place.anchors_folder)]
    return ready([[*command, f"racer-{i}", weakness] for i in range(count)])


def race(place: Place, rounds: int = ROUNDS, processes: int = PROCESSES, weakness: str = "none") -> None:
    """Let processes charge until each is refused, again and again: the ledger holds exactly what fits, every time."""
    with place.open() as ledger, racers(place, processes, weakness) as running:
        for number in range(rounds):
            name = f"people {number}"
            add_population(ledger, name, *LIMIT)
            say(running, name)
            results = [json.loads(process.stdout.readline()) for process in running if process.stdout]
            held = ledger.charges(name)
            assert len(held) == most_charges(), f"{len(held)} charges where {most_charges()} fit"
            assert sum(result["admitted"] for result in results) == len(held)
            assert [error for result in results for error in result["errors"]] == []
        ledger.check()
        assert len(place.anchor_files()) == 1 + rounds * (1 + most_charges())


def test_sixteen_processes_get_exactly_what_fits_fifty_times(place: Place) -> None:
    race(place)


@pytest.mark.parametrize("weakness", ["deferred", "driver-default", "driver-default + no second line"])
def test_with_weaker_isolation_the_race_fails_on_a_file(file_place: FilePlace, weakness: str) -> None:
    lose_the_race(file_place, weakness)


@pytest.mark.parametrize("weakness", ["read-committed", "read-committed + no second line"])
def test_with_weaker_isolation_the_race_fails_on_a_server(server_place: ServerPlace, weakness: str) -> None:
    lose_the_race(server_place, weakness)


def lose_the_race(place: Place, weakness: str) -> None:
    """The same race fails; whether it overspends depends on the second line of defence."""
    with pytest.raises(AssertionError):
        race(place, processes=8, weakness=weakness)
    most = max(count for (count,) in place.execute("SELECT count(*) FROM charges GROUP BY population_id"))
    assert (most > most_charges()) == ("no second line" in weakness)


def test_threads_of_one_ledger_get_exactly_what_fits(place: Place, ledger: Ledger) -> None:
    add_population(ledger, "people", *LIMIT)

    def charge(i: int) -> bool:
        try:
            ledger.charge("people", release="r", key=str(i), event=EVENT, parameters={})
        except BudgetExceeded:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        admitted = sum(threads.map(charge, range(2 * most_charges())))
    assert admitted == most_charges() == len(ledger.charges())
    ledger.check()


def test_threads_that_ask_for_the_same_charge_get_one(ledger: Ledger) -> None:
    add_population(ledger)
    with ThreadPoolExecutor(8) as threads:
        found = set(
            threads.map(
                lambda _: ledger.charge("people", release="r", key="k", event=EVENT, parameters={}).id, range(24)
            )
        )
    assert len(found) == len(ledger.charges()) == 1


def test_threads_that_fight_for_ranges_seal_each_once(ledger: Ledger) -> None:
    add_population(ledger)
    charge = ledger.charge("people", release="r", key="k", event=EVENT, parameters={})
    ledger.begin(charge.id)

    def work(i: int) -> int:
        try:
            lease = ledger.lease(charge.id, i % 6, f"worker {i}", 60 if i % 3 else 0.001)
            ledger.seal(lease, key=f"attempt {i}", sha256=SHA, facts={})
        except SealConflict:
            return 0
        return 1

    with ThreadPoolExecutor(8) as threads:
        sealed = sum(threads.map(work, range(48)))
    assert sealed == 6 == len(ledger.seals(charge.id))
    ledger.finish(charge.id, 6)


TOGETHER = """
import sys
from cadp.errors import LedgerError, SealConflict
from cadp.ledger import Ledger, process_owner
from cadp.privacy.accountant import PureEvent
from cadp.store import Store

ledger = Ledger.open(sys.argv[1], Store.open(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
ranges, seals = 6, 0
records = ledger.charge("people", release="r/1", key="records", event=PureEvent(0.5), parameters={})
gate = ledger.charge("people", release="r/1", key="gate", event=PureEvent(0.5), parameters={})
for charge in (records, gate):
    try:
        ledger.begin(charge.id)
    except LedgerError:  # another process is that far already; what it sealed and answered is found below
        pass
for index in range(ranges):
    try:
        lease = ledger.lease(records.id, index, process_owner(), 0.005)
        ledger.seal(lease, key=f"{process_owner()}/{index}", sha256="0" * 64, facts={})
        seals += 1
    except SealConflict:
        pass
    except LedgerError:  # finished by another process between two ranges
        break
while len(ledger.seals(records.id)) < ranges:
    pass
ledger.finish(records.id, ranges)
answer = ledger.answer(gate.id, {"by": process_owner()})
ledger.publish("r/1")
print(seals, answer["by"], flush=True)
"""


def test_processes_that_run_one_release_make_it_once(place: Place) -> None:
    with place.open() as ledger:
        add_population(ledger)
    command = [sys.executable, "-c", TOGETHER, place.url, str(place.anchors_folder)]
    results = together([command] * 4)
    assert sum(int(result.split()[0]) for result in results) == 6
    assert len({result.split()[1] for result in results}) == 1, "every process got the first answer"
    with place.open() as ledger:
        kinds = [entry.kind for entry in ledger.history()]
        assert sorted(kinds[2:]) == ["answer", "begin", "begin", "charge", "charge", "finish", "publish"]
        assert [entry.anchor for entry in ledger.history()] == [file.read_bytes() for file in place.anchor_files()]
        assert ledger.budget("people").charged == 1.0
        ledger.check()


def test_a_ledger_travels_to_another_process_by_its_address(ledger: Ledger) -> None:
    add_population(ledger)
    with pickle.loads(pickle.dumps(ledger)) as copy:
        copy.charge("people", release="r", key="k", event=EVENT, parameters={})
    assert len(ledger.charges()) == 1


def test_a_fork_drops_what_it_inherited(ledger: Ledger) -> None:
    import os

    add_population(ledger)
    with ledger._database.reading() as connection:
        inherited = connection.connection.dbapi_connection
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with ledger._database.reading() as connection:
                own = connection.connection.dbapi_connection is not inherited
            ledger.charge("people", release="child", key="child", event=EVENT, parameters={})
            code = 0 if own else 2
        finally:
            os._exit(code)
    ledger.charge("people", release="parent", key="parent", event=EVENT, parameters={})
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert {charge.key for charge in ledger.charges()} == {"child", "parent"}
    ledger.check()
