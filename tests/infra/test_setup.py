"""The set-up's refusals: one line that says what to do, and nothing made. The set-up itself runs before any test."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def setup(venv: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "TORCH_VERSION": "2.13.0", **variables}
    command = ["bash", "infra/setup.sh", str(venv)]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"TORCH": "rocm"}, "setup: TORCH=rocm: cpu or cuda\n"),
        (
            {"PYTHON": "/bin/false"},
            "setup: /bin/false is not Python 3.11 to 3.13 with venv: install one or pass PYTHON=…\n",
        ),
        ({"PATH": "/nonexistent:/bin", "PYTHON": "python9"}, "setup: python9 is not Python 3.11 to 3.13 with venv"),
    ],
)
def test_a_wrong_choice_is_one_line_and_makes_nothing(tmp_path: Path, variables: dict[str, str], message: str) -> None:
    refused = setup(tmp_path / "venv", **variables)
    assert refused.returncode == 1
    assert refused.stderr.startswith(message)
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "venv").exists()


def test_help_lists_every_target() -> None:
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True).stdout
    phony = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY:"))
    for target in phony.split()[1:]:
        assert f"make {target} " in said
