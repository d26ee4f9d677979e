"""What scripts and people get from the command line: JSON, tables, exit codes, and help without the heavy imports."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.command import Command, charges
from tests.small_release import Place

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "fashion-mnist.yaml"
COMMANDS = [
    "plan",
    "release",
    "shard",
    "train",
    "privatize",
    "validate",
    "publish",
    "abandon",
    "verify",
    "budget",
    "keys",
]


def test_help_names_every_command(place: Place, cadp: Command) -> None:
    done = cadp(place, "--help")
    assert done.code == 0
    for command in COMMANDS:
        assert f" {command} " in done.out
        assert cadp(place, command, "--help").code == 0


def test_plan_as_json(place: Place, cadp: Command) -> None:
    done = cadp(place, "plan", place.spec, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["release"] == "shapes/1.0.0"
    assert [step["step"] for step in told["steps"]] == ["shard", "train", "privatize", "validate", "publish"]
    assert told["plan"]["ranges"] == 4
    assert cadp(place, "plan", place.spec, "--json").out == done.out
    assert not place.settings.home.exists()


def test_plan_for_people(place: Place, cadp: Command) -> None:
    done = cadp(place, "plan", place.spec)
    assert done.code == 0, done.err
    text = " ".join(done.out.split())
    for part in ("Plan of shapes/1.0.0", "shard", "train", "privatize", "validate", "publish", "ε = 38", "budget init"):
        assert part in text, part


def test_plan_of_the_example(place: Place, cadp: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    # Empty files of the right names are enough: a plan opens none of them.
    folder = place.folder / "empty"
    folder.mkdir()
    for split in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (folder / f"{split}-{kind}-ubyte.gz").touch()
    monkeypatch.setattr("cadp.sources.catalogue.locate", lambda name, data_dir: folder)
    done = cadp(place, "plan", EXAMPLE, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["release"] == "fashion-mnist/1.0.0"
    assert told["plan"]["ranges"] == 10
    spent = sum(float(step["ε"]) for step in told["steps"] if step["step"] in {"train", "privatize"})
    assert spent == pytest.approx(8, abs=0.01)


def test_budget_show_and_history(published: Place, cadp: Command) -> None:
    shown = json.loads(cadp(published, "budget", "show", "--json").out)
    assert [(row["population"], row["spent ε"], row["left ε"]) for row in shown] == [
        ("shapes", "38", "62"),
        ("shapes.holdout", "1", "4"),
    ]
    history = json.loads(cadp(published, "budget", "history", "--json").out)
    assert [row["id"] for row in history] == [charge.id for charge in charges(published)]
    assert {row["state"] for row in history} == {"PUBLISHED"}
    table = cadp(published, "budget", "show")
    assert "shapes.holdout" in table.out
    assert "62" in table.out
    assert cadp(published, "budget", "history").code == 0


def test_budget_of_nothing_yet(place: Place, cadp: Command) -> None:
    place.open_budget()
    assert json.loads(cadp(place, "budget", "history", "--json").out) == []
    assert "nothing yet" in cadp(place, "budget", "history").out


def test_verify_as_json(published: Place, cadp: Command) -> None:
    told = json.loads(cadp(published, "verify", published.public, "--json").out)
    assert told["release"] == "shapes/1.0.0"
    assert told["records"] == 1200
    assert told["looked_for_extra_files"] is True
    assert told["statement"] == json.loads((published.public / "statement.json").read_text())


def test_end_of_a_release(published: Place, cadp: Command) -> None:
    done = cadp(published, "release", published.spec)
    said = json.loads((published.public / "statement.json").read_text())
    assert all(line in done.out for line in said["lines"])
    assert "at least 0.5 was asked for" in done.out
    assert "ε 62 left of 100" in done.out
    code = [line.strip() for line in done.out.rstrip().splitlines()[-3:]]
    assert code[0] == "from datasets import load_dataset"
    assert f'load_dataset("{published.public}"' in code[1]
    compile("\n".join(code), "the end", "exec")


def test_abandon_before_anything_is_charged(place: Place, cadp: Command) -> None:
    place.open_budget()
    assert cadp(place, "shard", place.spec).code == 0
    done = cadp(place, "abandon", place.spec)
    assert "forgotten" in done.out
    assert [path for path in place.private.rglob("*") if path.is_file()] == []
    assert charges(place) == []


def test_an_interrupt_is_one_line(place: Place, cadp: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cadp.show.plan_view", stop)
    done = cadp(place, "plan", place.spec)
    assert done.code != 0
    assert "Traceback" not in done.err


def test_a_shell_sees_the_same(place: Place) -> None:
    """The exit code and the one line, in a process of its own."""
    done = place.cadp("release", str(place.spec))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is no ledger")
    assert len(done.stderr.splitlines()) == 1


def test_planning_loads_nothing_heavy(place: Place) -> None:
    code = (
        "import sys; sys.argv = ['cadp', 'plan', sys.argv[1], '--json']\n"
        "from cadp.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'prefect', 'great_expectations', 'pandas', 'matplotlib', 's3fs'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, place.spec], env=place.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["plan"]["versions"]["numpy"] == version("numpy")
