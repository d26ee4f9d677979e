"""Scratch of killed processes is swept, that of living ones is not."""

import subprocess
import sys
from pathlib import Path

from cadp.steps.scratch import own_scratch, sweep_scratch

LEAVE = """
import os, signal, sys
from pathlib import Path
from cadp.steps.scratch import own_scratch
(own_scratch(Path(sys.argv[1])) / "images").write_bytes(b"private")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_nothing(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", LEAVE, str(tmp_path)], timeout=60, check=False)
    assert killed.returncode < 0
    (own_scratch(tmp_path) / "mine").write_bytes(b"in use")
    assert len(list(tmp_path.glob("*/images"))) == 1

    sweep_scratch(tmp_path)

    assert list(tmp_path.glob("*/images")) == []
    assert len(list(tmp_path.glob("*/mine"))) == 1
    assert own_scratch(tmp_path).stat().st_mode & 0o077 == 0
