"""How many charges and seals a second the ledger takes, on both databases, beside what its parts cost alone."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cadp.ledger.engine import Database
from cadp.privacy.accountant import PureEvent
from cadp.store import Store
from tests.benchmarks.figures import Figure
from tests.ledger.places import SHA, FilePlace, Place, ServerPlace, add_population
from tests.servers.postgres import serve

SECONDS = 6.0
WRITERS = 8

WRITER = """
import sys, time
from cadp.ledger import Ledger
from cadp.privacy.accountant import PureEvent
from cadp.store import Store

url, anchors, name, seconds = sys.argv[1:]
ledger = Ledger.open(url, Store.open(anchors))
event = PureEvent(1e-6)
ledger.quote("people", event)
sys.stdout.write("ready\\n"); sys.stdout.flush()
sys.stdin.readline()
until, count = time.monotonic() + float(seconds), 0
while time.monotonic() < until:
    ledger.charge("people", release=name, key=f"{name}/{count}", event=event, parameters={"part": "records"})
    count += 1
sys.stdout.write(f"{count}\\n"); sys.stdout.flush()
"""


def charges() -> list[Figure]:
    """Charges a second, each committed and anchored before the next of its writer."""
    figures = []
    with places() as both:
        for name, place, target in both:
            for writers in (1, WRITERS):
                rate = charge_rate(place, writers)
                wanted = target if writers == WRITERS else None
                figures.append(Figure(f"{name}, {writers} writers", rate, "charges/s", wanted))
            figures.append(Figure(f"{name}: bare commits of one row, 1 writer", commit_rate(place), "commits/s"))
        with tempfile.TemporaryDirectory() as folder:
            figures.append(Figure("anchors alone, 1 writer", anchor_rate(Path(folder)), "puts/s"))
    return figures


def seals() -> list[Figure]:
    """Lease and seal thousands of ranges, as a release of a million raw shards has, under one charge."""
    figures, ranges = [], 5000
    with places() as both:
        for name, place, _ in both:
            with place.open() as ledger:
                charge = ledger.charge("people", release="r", key="records", event=PureEvent(1e-6), parameters={})
                ledger.begin(charge.id)
                began = time.monotonic()
                for index in range(ranges):
                    lease = ledger.lease(charge.id, index, "worker", 60)
                    ledger.seal(lease, key=f"sealed/{index:05d}.1-00000000.run", sha256=SHA, facts={"records": 6000})
                took = time.monotonic() - began
                ledger.finish(charge.id, ranges)
                figures.append(Figure(f"{name}, leases and seals", ranges / took, "ranges/s"))
                began = time.monotonic()
                ledger.check()
                figures.append(Figure(f"{name}, check of it all", time.monotonic() - began, "s"))
                figures.append(Figure(f"{name}, entries of the chain", len(ledger.history()), "", 10, most=True))
    return figures


@contextmanager
def places() -> Iterator[list[tuple[str, Place, float]]]:
    """A ledger with a budget in a file, and one in a server that flushes to disk."""
    with tempfile.TemporaryDirectory() as folder, serve() as server:
        both: list[tuple[str, Place, float]] = [
            ("SQLite", FilePlace(Path(folder) / "file"), 300),
            ("PostgreSQL", ServerPlace.fresh(Path(folder) / "server", server), 1000),
        ]
        for _, place, _ in both:
            with place.init() as ledger:
                add_population(ledger)
        yield both


def charge_rate(place: Place, writers: int) -> float:
    """Charges a second of so many processes together."""
    command = [sys.executable, "-c", WRITER, place.url, str(place.anchors_folder)]
    running = [
        subprocess.Popen(
            [*command, f"{writers}-{i}", str(SECONDS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for i in range(writers)
    ]
    for process in running:
        if process.stdout is None or process.stdout.readline() != "ready\n":
            raise RuntimeError("a writer did not start")
    done = [process.communicate(timeout=60)[0] for process in _started(running)]
    return sum(int(text) for text in done) / SECONDS


def _started(processes: list[subprocess.Popen[str]]) -> list[subprocess.Popen[str]]:
    for process in processes:
        if process.stdin is not None:
            process.stdin.write("go\n")
            process.stdin.flush()
    return processes


def commit_rate(place: Place) -> float:
    """Transactions a second that update one row, through the ledger's own engine."""
    with place.open() as ledger:
        database: Database = ledger._database
        began = time.monotonic()
        for _ in range(500):
            database.write(lambda c: c.exec_driver_sql("UPDATE accounts SET revision = revision"))
        return 500 / (time.monotonic() - began)


def anchor_rate(folder: Path) -> float:
    """Anchors put a second."""
    store = Store.open(str(folder))
    began = time.monotonic()
    for number in range(500):
        store.put(f"{number:08d}.json", b"x" * 900)
    return 500 / (time.monotonic() - began)
