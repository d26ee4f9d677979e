"""What the flows need on this machine, looked at without changing anything."""

import os
import shutil
import sqlite3
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cadp.settings import Settings
from flows import server

_PACKAGES = ("prefect", "fastapi", "torch", "great_expectations", "pyarrow", "webdataset")
_SPACE = 2 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: what, whether it will do, and what was found."""

    what: str
    good: bool
    found: str


def examine(settings: Settings, home: Path) -> list[Finding]:
    """Look at Python, packages, the folder, the disk, SQLite and the server."""
    return [
        _python(),
        *(_package(name) for name in _PACKAGES),
        Finding("SQLite", sqlite3.sqlite_version_info >= (3, 24), sqlite3.sqlite_version),
        *_folder(settings.home),
        _server(home),
    ]


def _python() -> Finding:
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Finding("Python", good, f"{sys.version.split()[0]} (3.11 to 3.13 will do)")


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, version(name))
    except PackageNotFoundError:
        return Finding(name, False, "not installed; make setup installs it")


def _folder(home: Path) -> list[Finding]:
    there = next(folder for folder in (home, *home.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    return [
        Finding("home", os.access(there, os.W_OK | os.X_OK), f"{home} (CADP_HOME)"),
        Finding("disk", free >= _SPACE, f"{free / 2**30:.1f} GiB free, {_SPACE / 2**30:.0f} GiB needed"),
    ]


def _server(home: Path) -> Finding:
    running = server.status(home)
    if running is not None:
        return Finding("server", True, running.url)
    return Finding("server", True, "not running; python -m flows up starts it")
