"""Every command of README.md is run, and every link leads somewhere."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.small_release import Place

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def inline_commands() -> set[str]:
    return {text for text in re.findall(r"`([^`\n]+)`", README) if re.match(r"(make|cadp) \w", text)}


def make(place: Place, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "-C", str(ROOT), *arguments],
        env=place.environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_by_hand(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block of `cadp` commands, in its order, on a small source in place of Fashion-MNIST."""
    (place.folder / "docs" / "examples").mkdir(parents=True)
    place.spec.rename(place.folder / "docs" / "examples" / "fashion-mnist.yaml")
    block = [command for command in commands() if command.startswith("cadp")]
    assert [shlex.split(command)[1] for command in block].count("release") == 1
    for command in block:
        words = [
            word.replace("--epsilon", "--epsilon")
            .replace(".cadp/public/fashion-mnist", f"{place.settings.public_url}/shapes")
            .replace("16", "100")
            for word in shlex.split(command)[1:]
        ]
        result = place.cadp(*words)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"


def test_make_demo_of_another_spec_then_down(place: Place) -> None:
    """`make demo SPEC=…` and `make down`, on the environment that runs this test."""
    place.write_spec(spend=16, train=8)
    try:
        demo = make(place, "demo", f"SPEC={place.spec}")
        assert demo.returncode == 0, demo.stdout[-3000:] + demo.stderr[-3000:]
        said = demo.stdout
        order = ["Release ", "Protected:", "Accuracy ", "Budget ", "load_dataset", "Prefect UI"]
        places = [said.index(word) for word in order]
        assert places[:2] == sorted(places[:2]) and min(places) >= 0
        again = make(place, "demo", f"SPEC={place.spec}")
        assert again.returncode == 0
        assert "Release " in again.stdout
    finally:
        down = make(place, "down")
    assert down.returncode == 0
    assert "stopped" in down.stdout
    assert list((place.folder / "user").iterdir()) == [], "the user's home was touched"


@pytest.mark.parametrize("target", ["test", "setup", "demo", "down"])
def test_make_knows_its_targets(place: Place, target: str) -> None:
    """`make test` runs this test, so here it is only asked what it would do."""
    assert f"make {target}" in README
    assert make(place, "-n", target).returncode == 0


def test_every_command_is_one_that_is_run_here() -> None:
    known = {"make demo", "make test"} | {c for c in commands() if c.startswith("cadp ")}
    assert set(commands()) == known
    inline = {
        "make demo",
        "make down",
        "make demo SPEC=FILE",
        "make setup",
        "make setup TORCH=cuda",
        "cadp gc",
        "cadp verify",
    }
    assert inline_commands() == inline


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert len(links) >= 4
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_pictures_are_pictures() -> None:
    for link in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README):
        assert (ROOT / link).read_bytes().startswith(b"\x89PNG")
