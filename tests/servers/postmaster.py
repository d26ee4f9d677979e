"""The process of a PostgreSQL server: started, killed, started again, and gone when the tests are."""

import ctypes
import os
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tests.servers.postgres_programs import Programs

SERVES_WITHIN = 60.0
STOPS_WITHIN = 10.0
PR_SET_PDEATHSIG = 1
IPC_RMID = 0

_libc = ctypes.CDLL(None)
# The kernel ends a child with the thread that started it, so this one stays until the tests end.
_starter = ThreadPoolExecutor(1, thread_name_prefix="postmaster")


def free_port() -> int:
    """A port of the loopback that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Postmaster:
    """A server on `folder/data`; it writes to `folder/log`, and is of one port from one start to the next."""

    def __init__(self, programs: Programs, folder: Path, fsync: bool) -> None:
        self.programs = programs
        self.folder = folder
        self.fsync = fsync
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process that was started last."""
        if self._process is None:
            raise RuntimeError(f"the server on {self.folder} was not started yet")
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it serves; raise `RuntimeError` with the end of its log if it does not."""
        self._process = process = _starter.submit(self._run).result()
        until = time.monotonic() + SERVES_WITHIN
        while time.monotonic() < until and process.poll() is None:
            if self._is_ready():
                return
            time.sleep(0.02)
        self.stop()
        log = (self.folder / "log").read_text(errors="replace").splitlines()[-15:]
        raise RuntimeError(f"PostgreSQL did not start on port {self.port}:\n" + "\n".join(log))

    def stop(self) -> None:
        """Stop it: fast, else at once, else by force. Nothing happens if it does not run."""
        for request in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if self._process is None or self._process.poll() is not None:
                return
            self._process.send_signal(request)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOPS_WITHIN)

    def kill(self) -> None:
        """Kill it and its children, none of which can say goodbye to a client."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGSTOP)  # no child is born while they are listed
        children: list[int] = []
        with suppress(OSError):  # without this list of the kernel they find themselves orphans and leave
            listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            children = [int(child) for child in listed.split()]
        for pid in (process.pid, *children):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(STOPS_WITHIN)

    def close(self) -> None:
        """Stop it and free what a killed server leaves in the kernel: the segment that guards its data folder."""
        self.stop()
        left = self.folder / "data" / "postmaster.pid"
        if left.exists():
            lines = left.read_text().splitlines()
            if len(lines) > 6 and lines[6].strip():
                _libc.shmctl(int(lines[6].split()[1]), IPC_RMID, None)
            left.unlink()

    def _is_ready(self) -> bool:
        """Whether it says so itself: the last line but the port's of its pid file is its state."""
        with suppress(FileNotFoundError):
            lines = (self.folder / "data" / "postmaster.pid").read_text().splitlines()
            return len(lines) > 7 and lines[0].strip() == str(self.pid) and lines[7].strip() == "ready"
        return False

    def _run(self) -> "subprocess.Popen[bytes]":
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "on" if self.fsync else "off",
            "shared_buffers": "16MB",
            "max_connections": 200,
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [str(self.programs.folder / "postgres"), "-D", str(self.folder / "data"), *options],
                **self.programs.options,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                process_group=0,
                preexec_fn=_die_with_the_tests,  # noqa: PLW1509 - it is one system call, and takes no lock
            )


def _die_with_the_tests() -> None:
    """Have the kernel stop the server at once if the tests are killed. After the change of account, which undoes it."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGQUIT, 0, 0, 0)
