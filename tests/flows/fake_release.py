"""Run `python -m flows` with a release of a few steps that only count: `fake_release.py MODE ARGUMENTS…`.

The spec is real; the job behind it is not, so that no data, ledger or model is needed. MODE says what goes wrong.
"""

import struct
import sys
import threading
import time
import zlib
from contextlib import nullcontext
from types import SimpleNamespace

from cadp import release
from cadp.errors import BudgetExceeded, StoreError, Withheld
from cadp.reporter import Reporter
from cadp.spec import load_spec

RANGES = 4


def png(width: int, height: int) -> bytes:
    """A grey picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes((x * y) % 256 for x in range(width)) for y in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


class Counting:
    """A step that charges nothing and counts a hundred records a range, in threads of its own."""

    def __init__(self, name: str, mode: str) -> None:
        self.name = name
        self.mode = mode
        self.title = name.capitalize()
        self.ranges = 1 if name in {"train", "validate"} else RANGES

    def prepare(self, job: SimpleNamespace, reporter: Reporter) -> list[int]:
        if self.name == "train" and self.mode == "refused":
            raise BudgetExceeded("requested ε = 4, remaining 1.5, difference 2.5: ask the data protection officer")
        reporter.event("reserved", f"{self.name}: ε = 1")
        return list(range(self.ranges))

    def run(self, job: SimpleNamespace, index: int, reporter: Reporter) -> None:
        if self.name == "privatize" and self.mode == "broken" and index == 2:
            raise StoreError("the bucket went away: run the release again")
        if self.name == "privatize" and self.mode == "fault":
            raise ZeroDivisionError("a fault of the program")

        def work() -> None:
            with reporter.progress(self.name, 100 * self.ranges, "records") as advance:
                for _ in range(10):
                    time.sleep(0.002)
                    advance(10)
            reporter.event("sealed", f"range {index}")

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    def finish(self, job: SimpleNamespace, reporter: Reporter) -> None:
        if self.name == "validate":
            reporter.figure("accuracy", "p/o accuracy (charged)", "0.83")
            if self.mode == "withheld":
                raise Withheld("accuracy 0.61 is below 0.75: nothing is published")
        if self.name == "publish":
            reporter.table("budget", "Budget", [{"release": job.spec.name, "ε": "8.00"}])
            reporter.picture("contact-sheet", "Released records", png(96, 48))


def open_job(path: str) -> SimpleNamespace:
    """A job with the real spec."""
    return SimpleNamespace(spec=load_spec(path), workers=2, telling=lambda reporter: nullcontext())


def replace_release(mode: str) -> None:
    """Put the counting steps where the flows look for the real ones."""
    release.STEPS = tuple(Counting(name, mode) for name in ("shard", "train", "privatize", "validate", "publish"))
    release.Job = SimpleNamespace(open=open_job)
    release.remaining_steps = lambda job: () if mode == "published" else release.STEPS
    release.begin_step = lambda step, job, reporter: None
    release.summary = lambda job: release.Summary(
        release_url="file:///public/fake/1.0.0",
        statement_lines=("ε = 8 for one record",),
        accuracy="0.83, the gate asks for 0.75",
        budget_rows=[{"population": "fake", "left ε": "8", "limit ε": "16", "spent ε": "8", "reserved ε": "0"}],
        load_lines=("import webdataset", "data = …", "next(iter(data))"),
    )


if __name__ == "__main__":
    replace_release(sys.argv.pop(1))
    # The flows take what they need from cadp.release when they are imported.
    from flows.cli import main

    main()
