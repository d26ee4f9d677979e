"""Noise that can be repeated, for tests alone: it protects nobody.

No spec, setting, option or variable leads here, and nothing in `cadp` or `flows` calls `seeded`. It works only where
pytest is loaded, and has no way back: a process in which it was ever used stamps whatever it makes from then on, and
publishing refuses what is stamped. Where a stamp is kept: a checkpoint's privacy record, the facts of a seal, the
gate's recorded answer, the privacy statement.
"""

import hashlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from cadp.errors import PrivacyError

SEEDED = "NOT PRIVATE: a seeded test run"


class _State:
    """What this process has done: `used` never falls back to False."""

    used = False
    stream: "_Stream | None" = None


class _Stream:
    """SHAKE-256 of the seed and a counter: one block a call, so threads share it without sharing bits."""

    def __init__(self, seed: int) -> None:
        self._seed, self._calls, self._lock = str(seed).encode(), 0, threading.Lock()

    def read(self, size: int) -> bytes:
        with self._lock:
            self._calls += 1
            return hashlib.shake_256(b"cadp test seed %s block %d" % (self._seed, self._calls)).digest(size)


def stream() -> Callable[[int], bytes] | None:
    """Return what gives a test its repeatable bytes, or None: then they are the operating system's."""
    return None if _State.stream is None else _State.stream.read


def is_seeded() -> bool:
    """Return whether this process ever used `seeded`: then nothing that it makes is private."""
    return _State.used


def stamped(facts: Mapping[str, object]) -> dict[str, object]:
    """Return `facts`, with the stamp if this process was ever seeded."""
    return {**facts, "stamp": SEEDED} if is_seeded() else dict(facts)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw all noise and all names of records from `seed` while the context is open; the process is stamped for good.

    Raises:
        PrivacyError: pytest is not loaded.
    """
    if "pytest" not in sys.modules:
        raise PrivacyError("noise can be seeded in tests only: this process does not run under pytest")
    _State.used, before, _State.stream = True, _State.stream, _Stream(seed)
    try:
        yield
    finally:
        _State.stream = before
