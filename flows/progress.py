"""Progress for the UI: one artifact a label, with rate and time left, touched at most once a second."""

import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

_SECONDS = 1.0

Send = Callable[[Callable[[], Any]], UUID | None]
"""Makes a call of Prefect's client where the run is known; None when the server could not be reached."""


class Progress:
    """Things done of a total, shown as one progress artifact; any thread may advance it."""

    def __init__(self, key: str, label: str, total: int | None, things: str, *, done: int, send: Send) -> None:
        self._key, self._label, self._total, self._things, self._send = key, label, total, things, send
        self._before = self._done = done
        self._began = time.monotonic()
        self._counting = threading.Lock()
        self._showing = threading.Lock()
        self._next = 0.0
        self._artifact: UUID | None = None

    def advance(self, done: int = 1) -> None:
        """Add `done` things, and show them unless the last update is younger than a second."""
        with self._counting:
            self._done += done
        # Who finds another thread updating goes on with its work.
        if time.monotonic() >= self._next and self._showing.acquire(blocking=False):
            try:
                self._show()
            finally:
                self._showing.release()

    def show(self) -> None:
        """Show where it stands, now."""
        with self._showing:
            self._show()

    def _show(self) -> None:
        """Send the newest values; one thread at a time, so that an older update never comes last."""
        self._next = time.monotonic() + _SECONDS
        percent, line, artifact = self.percent(), self.line(), self._artifact
        if artifact is None:
            self._artifact = self._send(lambda: create_progress_artifact(percent, key=self._key, description=line))
        else:
            self._send(lambda: update_progress_artifact(artifact, percent, description=line))

    def percent(self) -> float:
        """Between 0 and 100; 0 while the total is not known."""
        return min(100 * self._done / self._total, 100.0) if self._total else 0.0

    def line(self) -> str:
        """Label, count, rate and time left in words; the rate is that of this attempt."""
        seconds, new = time.monotonic() - self._began, self._done - self._before
        rate = new / seconds if seconds > 0 else 0.0
        text = f"{self._label}: {self._done:,}" + (f" of {self._total:,}" if self._total else "") + f" {self._things}"
        if rate > 0:
            text += f", {rate:,.0f} {self._things}/s"
            if self._total and self._done < self._total:
                left = (self._total - self._done) / rate
                text += f", {left:,.0f} s left" if left < 120 else f", {left / 60:,.0f} min left"
        return text
