"""Seeded mode: only a test can ask for it, it stamps everything, and nothing that it made is loaded or published."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cadp
from cadp.errors import PrivacyError
from cadp.privacy.seeded import SEEDED
from cadp.release import STEPS, run_step
from cadp.reporter import Silent
from cadp.settings import Settings
from cadp.spec import ReleaseSpec
from cadp.steps import privatize
from cadp.steps.stamps import require_no_stamp, stamp_of
from tests.command import Command, charges, public_files
from tests.needles import Needles
from tests.small_release import Place

pytestmark = pytest.mark.audits

SEED = 918273645546372819
ROOT = Path(cadp.__file__).resolve().parents[1]

REPEATABLE = """
import numpy as np
import pytest
from cadp.privacy.mechanisms import plan_mechanism
from cadp.privacy.seeded import is_seeded, seeded, stamped

def draw():
    mechanism = plan_mechanism("privunit", epsilon=4.0, delta=0.0, content_dims=4)
    return mechanism.privatize(np.ones((50, 9)), np.ones(50, dtype=bool)).tobytes()

assert not is_seeded() and stamped({"records": 3}) == {"records": 3}
before = draw()
with seeded(7):
    first = draw()
with seeded(7):
    again = draw()
with seeded(8):
    other = draw()
after = draw()
assert first == again and len({before, first, other, after}) == 4
assert is_seeded() and stamped({"records": 3})["stamp"].startswith("NOT PRIVATE")
"""

WITHOUT_PYTEST = """
from cadp.errors import PrivacyError
from cadp.privacy.seeded import is_seeded, seeded
try:
    with seeded(7):
        raise SystemExit("it was allowed")
except PrivacyError as error:
    assert "in tests only" in str(error)
assert not is_seeded()
"""


def python(*arguments: str, timeout: int = 60) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=timeout, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_repeats_and_has_no_way_back() -> None:
    python("-c", REPEATABLE)


def test_it_works_under_pytest_alone() -> None:
    python("-c", WITHOUT_PYTEST)


def test_nothing_that_is_installed_asks_for_it() -> None:
    callers = []
    for folder in ("cadp", "flows"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
                if name == "seeded" and path.name not in ("seeded.py", "bits.py"):
                    callers.append((path.name, node.lineno))
    # `Circumstances.seeded`, which says that a run was, in the statement.
    assert {name for name, _ in callers} <= {"statement.py"}
    fields = json.dumps(ReleaseSpec.model_json_schema()) + repr(Settings.load({}))
    assert "seed" not in fields.lower()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, dict[str, Any]]:
    from tests.small_release import build

    place = build(tmp_path_factory.mktemp("seeded"))
    place.open_budget()
    said = python("-m", "tests.steps.seeded_release", str(place.folder), str(SEED), timeout=300)
    return place, json.loads(said.splitlines()[-1])


def test_everything_is_stamped(run: tuple[Place, dict[str, Any]]) -> None:
    _, said = run
    assert said["is_seeded"]
    assert len(said["seals"]) == 5  # the model and four ranges
    assert {facts["stamp"] for facts in said["seals"]} == {SEEDED}
    assert len(said["charges"]) == 3
    assert {parameters["stamp"] for parameters in said["charges"]} == {SEEDED}
    assert {said["answer"], said["model"]["stamp"], said["verdict"]["stamp"], said["guarantee"]} == {SEEDED}
    assert said["promise"].startswith("NOT PRIVATE")


def test_the_seed_is_written_nowhere(run: tuple[Place, dict[str, Any]]) -> None:
    place, said = run
    needles = Needles(plain={"the seed": str(SEED).encode(), "in hex": f"{SEED:x}".encode()})
    needles.add_secret("the seed", SEED.to_bytes(8, "big"))
    needles.add_secret("the seed, little-endian", SEED.to_bytes(8, "little"))
    files = [path for path in place.folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert needles.found_in((str(path), path.read_bytes()) for path in files) == []
    assert needles.found_in([("stdout", json.dumps(said).encode())]) == []


def test_it_cannot_publish(run: tuple[Place, dict[str, Any]]) -> None:
    place, said = run
    assert len(said["refusals"]) == 3  # the step, the documents' facts, the statement's own check
    assert all("NOT PRIVATE" in refusal for refusal in said["refusals"])
    assert public_files(place) == []


def test_no_other_process_loads_or_publishes_it(run: tuple[Place, dict[str, Any]], cadp: Command) -> None:
    place, _ = run
    cadp(place, "publish", place.spec).refused(1, "NOT PRIVATE", "cannot be published")
    cadp(place, "privatize", place.spec).refused(1, "NOT PRIVATE", "train the model again")
    cadp(place, "release", place.spec).refused(1, "NOT PRIVATE")
    assert public_files(place) == []


def test_neither_mode_goes_on_with_what_the_other_began(place: Place, cadp: Command) -> None:
    place.open_budget()
    job = place.job()
    for step in STEPS[:2]:
        run_step(step, job, Silent())
    tried = python("-m", "tests.steps.seeded_release", str(place.folder), str(SEED), "train", "privatize", timeout=300)
    refused = json.loads(tried.splitlines()[-1])
    # The model was trained without a seed; the records, which nobody had begun, are now seeded ones for ever.
    assert set(refused) == {"train"}
    assert "was begun without a seed, and this process is seeded" in refused["train"]
    stamps = {charge.key: charge.parameters.get("stamp") for charge in charges(place)}
    assert stamps == {"shapes/1.0.0/train": None, "shapes/1.0.0/records": SEEDED}
    assert stamp_of(job) == SEEDED
    for step in ("privatize", "release", "publish"):
        cadp(place, step, place.spec).refused(1, "NOT PRIVATE", "Next: `cadp abandon`")
    with pytest.raises(PrivacyError, match="NOT PRIVATE"):
        STEPS[2].run(job, 0, Silent())
    assert [charge.key for charge in charges(place)] == [*stamps]  # no further charge was made on the way
    assert public_files(place) == []


def test_a_stamp_on_a_seal_alone_is_seen(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.open_budget()
    job = place.job()
    for step in STEPS[:2]:
        run_step(step, job, Silent())
    monkeypatch.setattr(privatize, "stamped", lambda facts: {**facts, "stamp": SEEDED})
    run_step(STEPS[2], job, Silent())
    with pytest.raises(PrivacyError, match="NOT PRIVATE"):
        require_no_stamp(job)
