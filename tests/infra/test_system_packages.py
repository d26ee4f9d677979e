"""The system's packages: nothing is done when all is there, and a PostgreSQL is wished for but never needed.

The script runs on programs that only write down how they were called, and on folders of the test's own.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("bash", "cat", "find", "mkdir", "mktemp", "rm", "tail")


@dataclass(frozen=True)
class Machine:
    """A bare machine: `bin` is all of its PATH, `root` holds its /usr and /etc."""

    root: Path

    def program(self, name: str, script: str = "") -> None:
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)

    def has(self, path: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True)
        file.touch()

    def run(self) -> subprocess.CompletedProcess[str]:
        script = (ROOT / "infra" / "system-packages.sh").read_text()
        for folder in ("/etc/postgresql-common", "/usr/lib/postgresql", "/usr/share/fonts"):
            assert folder in script
            script = script.replace(folder, f"{self.root}{folder}")
        env = {**os.environ, "PATH": str(self.root / "bin")}
        bash = shutil.which("bash") or "/bin/bash"
        return subprocess.run([bash, "-c", script], env=env, capture_output=True, text=True, timeout=60, check=False)

    @property
    def calls(self) -> list[str]:
        log = self.root / "calls"
        return log.read_text().splitlines() if log.exists() else []

    @property
    def settings(self) -> list[Path]:
        return list(self.root.glob("etc/postgresql-common/createcluster.d/*"))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or f"/bin/{tool}")
    return Machine(tmp_path)


def complete(machine: Machine, server: str | None) -> None:
    machine.program("chromium")
    machine.has("usr/share/fonts/truetype/a.ttf")
    if server:
        machine.has(server)
        (machine.root / server).chmod(0o755)


def apt(machine: Machine, user: int, refuses: str = "nothing") -> None:
    machine.program("id", f"echo {user}")
    calls = machine.root / "calls"
    seen = f'{{ echo "$@"; cat {machine.root}/etc/postgresql-common/createcluster.d/*; }} >>{calls} 2>/dev/null'
    machine.program("apt-get", f'{seen}\n[[ "$*" != *{refuses}* ]] || {{ echo "E: no network"; exit 100; }}')


@pytest.mark.parametrize("server", ["usr/lib/postgresql/17/bin/postgres", "bin-of-postgres"])
def test_nothing_is_done_when_nothing_is_missing(machine: Machine, server: str) -> None:
    complete(machine, server if "/" in server else None)
    if "/" not in server:
        machine.program("postgres")
    apt(machine, user=0)
    ran = machine.run()
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert machine.calls == []


def test_root_installs_a_server_that_starts_no_cluster(machine: Machine) -> None:
    complete(machine, None)
    apt(machine, user=0)
    ran = machine.run()
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "installing postgresql\n", "")
    assert machine.calls[-2:] == ["install -y --no-install-recommends postgresql", "create_main_cluster = false"]
    assert machine.settings == []  # it is there for the installation alone


def test_a_server_that_cannot_be_installed_is_no_failure(machine: Machine) -> None:
    complete(machine, None)
    apt(machine, user=0, refuses="postgresql")
    ran = machine.run()
    assert ran.returncode == 0
    assert ran.stdout.endswith("no system PostgreSQL (E: no network): the tests use the wheel's\n")
    assert ran.stderr == ""


def test_others_do_without_a_server(machine: Machine) -> None:
    complete(machine, None)
    apt(machine, user=1000)
    ran = machine.run()
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert machine.calls == []


def test_others_are_told_what_is_missing(machine: Machine) -> None:
    apt(machine, user=1000)
    ran = machine.run()
    assert ran.returncode == 1
    assert ran.stderr == (
        "missing system packages: chromium fonts-dejavu-core; as root: apt-get install chromium fonts-dejavu-core\n"
    )
    assert machine.calls == []


def test_a_browser_that_cannot_be_installed_is_a_failure(machine: Machine) -> None:
    machine.has("usr/share/fonts/truetype/a.ttf")
    machine.program("postgres")
    apt(machine, user=0, refuses="chromium")
    ran = machine.run()
    assert ran.returncode == 1
    assert ran.stderr.startswith("E: no network\nmissing system packages: chromium;")
