"""The Prefect server of one machine: on the loopback, on SQLite, started for you and found again.

The last one started is remembered in `server.json` of the server's home. A server counts as ours when the process that
the file names is the one that was started, by number, start time and command line.
"""

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from cadp.errors import CadpError
from flows.environment import scrubbed, variables
from flows.process import Process

_HOST = "127.0.0.1"
_COMMAND = "prefect server start"
_CHILDREN: list[subprocess.Popen[bytes]] = []  # kept: the servers outlive this process, and nobody waits for them


class ServerError(CadpError):
    """The Prefect server cannot be started or reached."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    Attributes:
        url: its UI; the API is below `/api`.
        home: folder of its database, log and state.
        process: the process that serves it.
    """

    url: str
    home: Path
    process: Process

    def ours(self) -> bool:
        """Whether the process that was started here still runs, and no other one has got its number."""
        return self.process.alive() and _COMMAND in self.process.command()


def up(home: Path, *, seconds: float = 120.0) -> Server:
    """Return the server of `home`, starting it if it does not run.

    Raises:
        ServerError: it did not answer within `seconds`; the message ends with the tail of its log.
    """
    home = home.absolute()
    _make(home)
    with _lock(home):
        server = _remembered(home)
        if server is not None and server.ours():
            # A busy server may be slow to answer while a release runs on it: patience before it is replaced.
            if _wait(server, min(seconds, 30.0)):
                return server
            server.process.stop(10.0)
        return _start(home, seconds)


def status(home: Path) -> Server | None:
    """The server of `home` if it runs and answers."""
    server = _remembered(home.absolute())
    return server if server is not None and server.ours() and _answers(server.url) else None


def down(home: Path, *, grace: float = 10.0) -> bool:
    """Stop the server of `home`; return whether one ran. A second call does nothing."""
    home = home.absolute()
    if not home.is_dir():
        return False
    with _lock(home):
        server = _remembered(home)
        if server is None or not server.ours():
            return False
        server.process.stop(grace)
        return True


def log_tail(home: Path, lines: int = 12) -> str:
    """The last lines of the server's log."""
    try:
        return "\n".join((home / "server.log").read_text(errors="replace").strip().splitlines()[-lines:])
    except OSError:
        return ""


def _start(home: Path, seconds: float) -> Server:
    port = _free_port(home)
    url = f"http://{_HOST}:{port}"
    command = [sys.executable, "-m", *_COMMAND.split(), "--host", _HOST, "--port", str(port)]
    with (home / "server.log").open("wb") as log:
        child = subprocess.Popen(  # noqa: S603  (our own interpreter, no shell)
            command,
            cwd=home,
            env={**scrubbed(os.environ), **variables(home, url), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _CHILDREN.append(child)
    process = Process.of(child.pid)
    if process is None:
        raise ServerError(_failed("ended at once", home))
    server = Server(url=url, home=home, process=process)
    _remember(server)
    if not _wait(server, seconds):
        ended = child.poll()
        server.process.stop(10.0)
        what = f"did not answer on {url} within {seconds:g} s" if ended is None else f"ended with status {ended}"
        raise ServerError(_failed(what, home))
    return server


def _failed(what: str, home: Path) -> str:
    tail = log_tail(home)
    return f"the Prefect server {what}; its log, {home / 'server.log'}, " + (f"ends\n{tail}" if tail else "is empty")


def _wait(server: Server, seconds: float) -> bool:
    """Wait until the server answers; return whether it did before it ended or the time was up."""
    deadline = time.monotonic() + seconds
    while not _answers(server.url):
        if not server.process.alive() or time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/api/health", timeout=5) as answer:  # noqa: S310  (our own http address)
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _free_port(home: Path) -> int:
    """The port that served this home last, so that open browser tabs stay good; else one that the system picks."""
    server = _remembered(home)
    last = server.url.rpartition(":")[2] if server else ""
    for port in (int(last) if last.isdigit() else 0, 0):
        with socket.socket() as probe:
            # Without this a port whose old connections linger would look taken; the server sets it too.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServerError(f"no free port on {_HOST}")


def _remembered(home: Path) -> Server | None:
    try:
        state = json.loads((home / "server.json").read_text())
        process = Process(pid=int(state["pid"]), started=str(state["started"]))
        return Server(url=str(state["url"]), home=home, process=process)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(server: Server) -> None:
    text = json.dumps({**asdict(server.process), "url": server.url}, indent=2) + "\n"
    part = server.home / "server.json.part"
    part.write_text(text)
    part.replace(server.home / "server.json")


def _make(home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o700)
    except OSError as error:
        raise ServerError(f"cannot use {home} for the Prefect server: {error.strerror}; set CADP_HOME") from error


@contextmanager
def _lock(home: Path) -> Iterator[None]:
    """One starter or stopper at a time, so that two runs never start two servers on one database."""
    with (home / "server.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
