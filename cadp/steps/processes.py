"""Training in several processes, none of which outlives another.

Where one dies, the rest are ended by the process that started them; where that one dies, by itself, each of them. On
one host they meet in a file and talk through the loopback device. On several, others than these are started there, and
end with these: what they say passes between hosts as it is, so that network must be private.
"""

import multiprocessing
import os
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import distributed
from torch.multiprocessing.spawn import ProcessException, spawn

from cadp.errors import CadpError, SettingsError

T = TypeVar("T")
Work = Callable[[int, int, T], None]

_LOOPBACK = ("lo", "lo0")


def run_together(work: Work[T], task: T, processes: int, *, ready: str, tend: Callable[[], None] | None = None) -> None:
    """Run `work(rank, size, task)` in so many processes, and wait for all of them.

    Args:
        work: a function of a module, for each process is a fresh interpreter.
        task: what it works on; it is pickled.
        processes: how many.
        ready: what the same command does when it is run again, for the error.
        tend: called in this process over and over until all have ended; it waits a little. What it raises ends them.

    Raises:
        CadpError: a process died; the others were ended.
    """
    context = spawn(_begin, (work, processes, task), nprocs=processes, join=False)  # type: ignore[no-untyped-call]
    try:
        while not context.join(timeout=None if tend is None else 0):
            if tend is not None:
                tend()
    except ProcessException as error:
        # Of a worker's own exception the last line says what it was.
        why = str(error).strip().splitlines()[-1]
        raise CadpError(
            f"process {error.error_index} of {processes} of the training died: {why}. Next: the same command again; "
            f"{ready}"
        ) from error
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
            process.join()


@dataclass(frozen=True)
class Meeting:
    """Where the processes of a training find each other.

    Attributes:
        address: `file://` of a folder that all of them see, or `tcp://` of the first one's host and a free port there.
        here: how many of them this host runs, the first ones of all; None if all.
    """

    address: str
    here: int | None = None

    @classmethod
    def in_folder(cls, folder: Path) -> "Meeting":
        """Of processes of this host alone."""
        return cls(f"file://{folder}/rendezvous")

    @classmethod
    def of_hosts(cls, environ: Mapping[str, str]) -> "Meeting | None":
        """Of processes of several hosts, by the names that torchrun has for it; None if `MASTER_ADDR` is not set.

        Raises:
            SettingsError: a number is none.
        """
        if not (host := environ.get("MASTER_ADDR")):
            return None
        port, here = environ.get("MASTER_PORT", "29500"), environ.get("LOCAL_WORLD_SIZE", "1")
        for name, text in (("MASTER_PORT", port), ("LOCAL_WORLD_SIZE", here)):
            if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 16):
                raise SettingsError(f"{name} is {text!r}: a whole number from 1 to 65535")
        return cls(f"tcp://{f'[{host}]' if ':' in host else host}:{port}", int(here))

    def join(self, rank: int, size: int, backend: Literal["gloo", "nccl"] = "gloo") -> None:
        """Make this process one of torch's process group; they wait half an hour for each other.

        That is far beyond what a step takes: whether somebody waited too long says nothing of the records.
        """
        loopback = [name for _, name in socket.if_nameindex() if name in _LOOPBACK]
        if loopback and self.here is None:
            os.environ["GLOO_SOCKET_IFNAME"] = loopback[0]
        distributed.init_process_group(
            backend, init_method=self.address, rank=rank, world_size=size, timeout=timedelta(minutes=30)
        )


def _begin(rank: int, work: Work[T], size: int, task: T) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // size))
    work(rank, size, task)


def _end_with_parent() -> None:
    """End this process once its parent is gone, however it went: nobody else would, and it would train for nobody."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
