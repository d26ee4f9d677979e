"""What scripts and people get from the command line: JSON, tables, exit codes, and help without the heavy imports."""

import json
import os
import pty
import re
import subprocess
import sys
import termios
from importlib.metadata import version
from pathlib import Path

import pytest

from cadp.cli import budget_init
from cadp.ledger import Ledger
from cadp.privacy.accountant import PureEvent
from cadp.store import Store
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
    "audit",
    "abandon",
    "verify",
    "budget",
    "model",
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
    assert shown["schema"] == 1
    assert [(told["population"], told["epsilon"], told["reserved"]) for told in shown["populations"]] == [
        ("shapes", 100.0, 0.0),
        ("shapes.holdout", 5.0, 0.0),
    ]
    assert [told["spent"] for told in shown["populations"]] == pytest.approx([38, 1], abs=1e-3)
    assert [told["left"] for told in shown["populations"]] == pytest.approx([62, 4], abs=1e-3)
    history = json.loads(cadp(published, "budget", "history", "--json").out)
    assert history["schema"] == 1
    closed = [line["charge"] for line in history["changes"] if line["change"] == "published"]
    assert closed == [charge.id for charge in charges(published)]
    table = cadp(published, "budget", "show")
    for part in ("Budget of shapes", "shapes.holdout", "62.00", "1e-06", "▓", "░", "shapes/1.0.0", "PUBLISHED"):
        assert part in table.out, part
    lines = cadp(published, "budget", "history")
    assert lines.out.count("published") == 3


def test_budget_of_one_population_or_release(published: Place, cadp: Command) -> None:
    shown = json.loads(cadp(published, "budget", "show", "shapes.holdout", "--json").out)
    assert [told["population"] for told in shown["populations"]] == ["shapes.holdout"]
    arguments = ("history", "shapes", "--release", "shapes/1.0.0", "--json")
    lines = json.loads(cadp(published, "budget", *arguments).out)["changes"]
    assert {line["release"] for line in lines} == {"shapes/1.0.0"}
    cadp(published, "budget", "show", "shape").refused(1, "'shape'", "known are shapes, shapes.holdout")
    cadp(published, "budget", "history", "--release", "shapes").refused(1, "'shapes'", "known are shapes/1.0.0")


def test_budget_of_nothing_yet(place: Place, cadp: Command) -> None:
    place.open_budget()
    lines = json.loads(cadp(place, "budget", "history", "--json").out)["changes"]
    assert [line["change"] for line in lines] == ["made", "limit set", "limit set"]
    assert "shapes: no release yet" in cadp(place, "budget", "show").out


@pytest.fixture
def nearly_spent(place: Place) -> Place:
    """A place whose budget of ε 50 is held by two other releases, so that its release does not fit."""
    place.open_budget(50.0)
    settings = place.settings
    with Ledger.open(settings.ledger_url, Store.open(settings.anchors_url)) as ledger:
        for version in ("0.8.0", "0.9.0"):
            release = f"shapes/{version}"
            ledger.charge("shapes", release=release, key=f"{release}/records", event=PureEvent(10.0), parameters={})
        ledger.burn("shapes/0.8.0", "a mistake")
    return place


def test_a_refusal_says_all(nearly_spent: Place, cadp: Command) -> None:
    """Requested, left, the difference, who holds it, δ in scientific form; exit code 3; nothing is charged."""
    before = charges(nearly_spent)
    message = cadp(nearly_spent, "release", nearly_spent.spec).refused(3, "population shapes", "Nothing was charged")
    found = re.search(r"asked (\S+) more .*left (\S+); ε would become (\S+), (\S+) too much", message)
    assert found, message
    asked, left, after, excess = map(float, found.groups())
    assert left == 30.0
    assert asked == pytest.approx(after - 20, abs=1e-6)
    assert excess == pytest.approx(asked - left, abs=1e-6)
    assert "limit ε 50.00 at δ 1e-06; held by (ε of each alone): " in message
    assert "shapes/0.8.0 10.00 (records; BURNED), shapes/0.9.0 10.00 (records; RESERVED)" in message
    assert "`cadp plan` shows each part" in message
    assert charges(nearly_spent) == before


def test_a_refusal_on_a_screen_of_80_columns(nearly_spent: Place) -> None:
    code, screen = on_a_screen(nearly_spent, "release", str(nearly_spent.spec))
    assert code == 3
    lines = screen[screen.index("error:") :].splitlines()
    assert 5 < len(lines) < 12
    assert max(map(len, lines)) <= 80
    # Lines end between words: put together again they are the one line that scripts get.
    told = nearly_spent.cadp("release", str(nearly_spent.spec)).stderr.splitlines()[-1]
    assert " ".join(line.strip() for line in lines) == told


def on_a_screen(place: Place, *arguments: str, columns: int = 80) -> tuple[int, str]:
    """Run `cadp` under a terminal of its own; return its exit code and what the screen got, without the colours."""
    master, slave = pty.openpty()
    try:
        termios.tcsetwinsize(slave, (24, columns))
        with subprocess.Popen(
            [sys.executable, "-c", "from cadp.cli import main; main()", *arguments],
            env=place.environ | {"TERM": "xterm-256color"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=place.folder,
        ) as running:
            os.close(slave)
            slave = -1
            got = b"".join(iter(lambda: _read(master), b""))
            code = running.wait(timeout=60)
    finally:
        os.close(master)
        if slave >= 0:
            os.close(slave)
    return code, re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", got.decode()).replace("\r", "")


def _read(master: int) -> bytes:
    try:
        return os.read(master, 65536)
    except OSError:  # Linux says EIO where the last writer has closed the terminal
        return b""


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
    assert "shapes: ε 62.000206 left of 100.00 (spent 37.999794, reserved 0.00)" in done.out
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


def test_a_ledger_in_memory_is_warned_of(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cadp.show.opening.memory_file_system", lambda _: "tmpfs")
    for name, value in place.environ.items():
        monkeypatch.setenv(name, value)
    budget_init(place.spec, epsilon=8.0, delta=1e-6)
    said = capsys.readouterr()
    assert "warning: the ledger at " in said.err
    assert "lies in memory (tmpfs): a restart of this machine loses it" in said.err
    assert "Budget of shapes" in said.out
