"""Who holds a lease: a process, named so that another process can tell whether it still lives.

Judging a process dead only saves waiting. Being wrong costs nothing but a repeated range: whoever takes a lease over
gets a higher token, and only the highest token can seal.
"""

import os
import socket
from pathlib import Path

_PROC = Path("/proc")


def process_owner(worker: str = "") -> str:
    """Return `machine|pid|start` of this process, with `|worker` for one of several workers inside it."""
    pid = os.getpid()
    return "|".join([_machine(), str(pid), _status(pid)[0], *([worker] if worker else [])])


def is_dead(owner: str) -> bool:
    """Return whether `owner` is surely a process of this machine that is gone; any doubt means it lives."""
    parts = owner.split("|")
    if len(parts) < 3 or parts[0] != _machine() or not (parts[1].isascii() and parts[1].isdigit()):
        return False
    pid = int(parts[1])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    # The number may belong to a younger process by now, or to one that has died and was not waited for.
    started, state = _status(pid)
    return state in {"Z", "X"} or (started != "" and started != parts[2])


def _machine() -> str:
    """Name this boot and this namespace of process numbers; the host's name alone where the system tells neither."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        namespace = (_PROC / "self/ns/pid").stat().st_ino
    except OSError:
        return socket.gethostname()
    return f"{socket.gethostname()}/{boot}/{namespace}"


def _status(pid: int) -> tuple[str, str]:
    """Return when a process started, in the kernel's ticks, and its state letter; empty where the system is silent."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return "", ""
    # The name in parentheses may hold anything; behind it come the state and, 19 fields on, the start time.
    fields = stat.rpartition(")")[2].split()
    return fields[19], fields[0]
