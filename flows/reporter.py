"""Prefect's `Reporter`: artifacts and logs of the run for the UI; all of it is passed on to the terminal, if any."""

import base64
import contextvars
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import httpx
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.exceptions import MissingContextError, PrefectException
from prefect.logging import get_run_logger

from cadp.reporter import Advance, Reporter, Silent
from flows.progress import Progress

WATCHER: contextvars.ContextVar[Reporter | None] = contextvars.ContextVar("watcher", default=None)
"""Who watches this process's terminal; a worker has nobody."""


WARNINGS = frozenset({"burned", "recovered", "refused", "takeover", "threshold", "withheld"})
"""Kinds of events that the operator should look at."""


class PrefectReporter:
    """Reports to the flow run in which it was made; any thread may call its methods until it is closed.

    Contexts of `progress` under one label share one artifact and one bar, which stay until the reporter closes.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._watcher = WATCHER.get() or Silent()
        # A step's own threads do not know the run: what is sent goes through the context in which we are now.
        self._context = contextvars.copy_context()
        self._logger = get_run_logger()
        self._lock = threading.Lock()
        self._bars: dict[str, tuple[Progress, Advance]] = {}
        self._open = ExitStack()
        self._lost = False

    def __enter__(self) -> Self:
        """Open; the terminal's bars live until the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show the last of every progress and close the terminal's bars."""
        for progress, _ in self._bars.values():
            progress.show()
        self._open.close()

    @contextmanager
    def progress(self, label: str, total: int | None, things: str, done: int = 0) -> Iterator[Advance]:
        """A progress artifact, and a bar in the terminal."""
        with self._lock:
            if label not in self._bars:
                watching = self._watcher.progress(label, total, things, done)
                artifact = Progress(self._key(label), label, total, things, done=done, send=self._send)
                self._bars[label] = (artifact, self._open.enter_context(watching))
                artifact.show()
            progress, tell = self._bars[label]

        def advance(done: int = 1) -> None:
            tell(done)
            progress.advance(done)

        yield advance
        progress.show()

    def table(self, key: str, title: str, rows: Sequence[Mapping[str, str]]) -> None:
        """A table artifact."""
        self._watcher.table(key, title, rows)
        table = [dict(row) for row in rows]
        if table:
            self._send(lambda: create_table_artifact(table, key=self._key(key), description=title))

    def picture(self, key: str, title: str, png: bytes) -> None:
        """A markdown artifact that holds the picture itself, so that it outlives the file it came from."""
        self._watcher.picture(key, title, png)
        data = base64.b64encode(png).decode()
        self.markdown(key, title, f"![{title}](data:image/png;base64,{data})")

    def figure(self, key: str, title: str, value: str) -> None:
        """A markdown artifact with the number."""
        self._watcher.figure(key, title, value)
        self.markdown(key, title, f"# {value}\n\n{title}")

    def event(self, kind: str, message: str) -> None:
        """A line in the log of the run, or of the task that says it."""
        self._watcher.event(kind, message)
        try:
            logger = get_run_logger()
        except MissingContextError:
            logger = self._logger
        logger.log(logging.WARNING if kind in WARNINGS else logging.INFO, "%s: %s", kind, message)

    def markdown(self, key: str, title: str, text: str) -> None:
        """A markdown artifact that the terminal does not see."""
        self._send(lambda: create_markdown_artifact(text, key=self._key(key), description=title))

    def _send(self, call: Callable[[], Any]) -> UUID | None:
        """Call Prefect's client in the flow run; a server that is away costs the picture, not the release."""
        try:
            made = self._context.copy().run(call)
        except (httpx.HTTPError, PrefectException) as error:
            if not self._lost:
                self._lost = True
                self._watcher.event("unseen", f"the Prefect server takes no artifacts: {error or type(error).__name__}")
            return None
        return made if isinstance(made, UUID) else None

    def _key(self, key: str) -> str:
        return slug(f"{self._name}-{key}")


def slug(text: str) -> str:
    """What Prefect takes as an artifact's key: lowercase letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
