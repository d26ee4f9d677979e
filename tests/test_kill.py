"""SIGKILL at any moment: run again, it is the same release, charged once, and nothing partial was ever public."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cadp.ledger import Ledger
from cadp.publish.sign import load_public, public_path
from cadp.publish.verify import verify
from cadp.steps.publish import is_published, signing_key_path
from cadp.store import Store
from tests.small_release import Place, at, build

# Runs a release and kills its own process at the n-th time that a labelled point is reached. A point is a call of the
# program's own: before it, or after it, nothing else happens.
DRIVER = """
import os, signal, sys, threading
from cadp.ledger import Ledger
from cadp.release import Job, run_release
from cadp.reporter import Silent
from cadp.settings import Settings
from cadp.store import Store

home, spec, when, what, part, nth = sys.argv[1:]
lock, seen = threading.Lock(), [0]

def reached(text):
    with lock:
        if part in text:
            seen[0] += 1
            if seen[0] == int(nth):
                os.kill(os.getpid(), signal.SIGKILL)

def wrap(owner, name, describe):
    original = getattr(owner, name)
    def wrapped(self, *args, **kwargs):
        text = describe(*args, **kwargs)
        if when == "before" and what == name:
            reached(text)
        result = original(self, *args, **kwargs)
        if when == "after" and what == name:
            reached(text)
        return result
    setattr(owner, name, wrapped)

wrap(Store, "put", lambda key, data: key)
wrap(Ledger, "charge", lambda population, **kw: kw["key"])
wrap(Ledger, "seal", lambda lease, **kw: f"{lease.range_id}")
wrap(Ledger, "finish", lambda charge, ranges: charge)
wrap(Ledger, "answer", lambda charge, answer: charge)
wrap(Ledger, "publish", lambda release: release)

run_release(Job.open(spec, Settings.load({"CADP_HOME": home})), Silent())
"""

# Stage at whose end the places are copied, so that each kill runs on from there: when, which call, on what, which time.
POINTS = [
    ("nothing", "before", "put", "raw/train-", 2),
    ("nothing", "after", "charge", "/train", 1),
    ("shard", "before", "seal", "0", 1),
    ("shard", "after", "seal", "0", 1),
    ("train", "after", "charge", "/records", 1),
    ("train", "after", "put", ".run", 2),
    ("train", "after", "seal", "2", 1),
    ("train", "before", "finish", "", 1),
    ("privatize", "after", "charge", "/gate", 1),
    ("privatize", "before", "answer", "", 1),
    ("privatize", "after", "answer", "", 1),
    ("validate", "after", "put", "claim.json", 1),
    ("validate", "before", "put", ".tar", 3),
    ("validate", "after", "put", "published/00001", 1),
    ("validate", "before", "put", "manifest.json", 1),
    ("validate", "before", "put", "manifest.dsse", 1),
    ("validate", "before", "publish", "", 1),
    ("validate", "after", "publish", "", 1),
    ("validate", "after", "put", "manifest.json", 1),
    ("validate", "after", "put", "manifest.dsse", 1),
]
STAGES = ("nothing", "shard", "train", "privatize", "validate")


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A release stopped at the end of each step."""
    from cadp.release import STEPS, run_step
    from cadp.reporter import Silent
    from cadp.steps.audit import require_audit

    place = build(tmp_path_factory.mktemp("stages") / "live")
    place.open_budget()
    job = place.job()
    require_audit(job.plan, job.private, Silent())  # once, by hand: not again after every kill
    kept = {}
    for name in STAGES:
        if name != "nothing":
            run_step(next(step for step in STEPS if step.name == name), place.job(), Silent())
        kept[name] = tmp_path_factory.mktemp("stages") / name
        # The places are moved back to where they were made when they are used: a ledger knows where its anchors are.
        subprocess.run(["cp", "-a", str(place.folder), str(kept[name])], check=True, timeout=60)
    kept["live"] = place.folder
    return kept


def restore(stages: dict[str, Path], stage: str) -> Place:
    """Put the places back as they were at the end of `stage`."""
    live = stages["live"]
    subprocess.run(["rm", "-rf", str(live)], check=True, timeout=60)
    subprocess.run(["cp", "-a", str(stages[stage]), str(live)], check=True, timeout=60)
    return at(live)


def drive(place: Place, *point: str) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", DRIVER, str(place.settings.home), str(place.spec), *point]
    environ = {**place.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(arguments, env=environ, stderr=subprocess.PIPE, cwd=place.folder)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def charges(place: Place) -> list[tuple[str, str]]:
    ledger = Ledger.open(place.settings.ledger_url, Store.open(place.settings.anchors_url))
    return [(charge.key, charge.id) for charge in ledger.charges()]


def check_completes(place: Place) -> None:
    """Run again after a kill, and compare what there was with what there is."""
    before, charged = digests(place.public), charges(place)
    place.release()

    after = digests(place.public)
    assert all(after[name] == digest for name, digest in before.items()), "a file was visible before it was whole"
    job = place.job()
    assert is_published(job)
    trusted = [load_public(public_path(signing_key_path(place.settings)))]
    assert verify(str(place.public), trusted).records == job.plan.facts.records

    now = charges(place)
    assert now[: len(charged)] == charged, "the rerun charged under another id"
    assert [key for key, _ in now] == [f"shapes/1.0.0/{name}" for name in ("train", "records", "gate")]
    assert {str(charge.state) for charge in job.ledger.charges()} == {"PUBLISHED"}
    assert sorted(job.ledger.seals(now[1][1])) == list(range(job.plan.ranges))


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS, ids=lambda p: "-".join(str(part).strip("/.") for part in p))
def test_killed_at_a_point(stages: dict[str, Path], point: tuple[str, str, str, str, int]) -> None:
    stage, when, what, part, nth = point
    place = restore(stages, stage)
    process = drive(place, when, what, part, str(nth))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, errors.decode()[-2000:]
    assert (place.public / "manifest.dsse").exists() == (point == POINTS[-1])
    if (when, what) == ("before", "publish"):
        assert not (place.public / "manifest.json").exists()
    check_completes(place)


@pytest.mark.slow
def test_killed_at_random_moments(stages: dict[str, Path]) -> None:
    """A release that is killed again and again still gets there, and still charges once."""
    place = restore(stages, "nothing")
    chance = random.Random(os.urandom(8))
    for _ in range(4):
        process = drive(place, "never", "", "", "0")
        time.sleep(chance.uniform(1.0, 6.0))
        process.kill()
        process.communicate(timeout=60)
    check_completes(place)
