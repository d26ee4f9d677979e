"""Noise that can be repeated, for tests alone: it protects nobody.

No spec, setting, option or variable leads here, and nothing in `cadp` or `flows` calls `seeded`. It works only where
pytest is loaded, and has no way back: a process in which it was ever used stamps whatever it makes from then on, and
publishing refuses what is stamped. Where a stamp is kept: the parameters of a charge, a checkpoint's privacy record,
the facts of a seal, the gate's recorded answer, the verdict of the expectations, the privacy statement. What was
charged in one mode is not gone on with in the other.
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


def require_same_mode(facts: Mapping[str, object], what: str) -> None:
    """Refuse to go on in this process with what was begun in the other mode.

    Args:
        facts: what `stamped` gave when it was begun.
        what: it, in words.

    Raises:
        PrivacyError: it was begun seeded and this process is not, or the other way round.
    """
    before = "stamp" in facts
    if before != is_seeded():
        begun, now = (f"is stamped {SEEDED}", "is not seeded") if before else ("was begun without a seed", "is seeded")
        raise PrivacyError(
            f"{what} {begun}, and this process {now}: neither goes on with what the other began. "
            f"Next: `cadp abandon`, and a new version"
        )


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
