"""What a step tells whoever watches: progress, tables, pictures, figures and events.

A step knows only the `Reporter` protocol. The console's implementation is here; Prefect's lives in `flows/`.
Nothing that a reporter receives may hold private data beyond what the operator may see.
"""

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import Protocol, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

T = TypeVar("T")


class Advance(Protocol):
    """Call with the number of things just done."""

    def __call__(self, done: int = 1) -> None:
        """Add `done` to the progress."""


class Reporter(Protocol):
    """Whoever watches a release."""

    def progress(self, label: str, total: int | None, things: str, done: int = 0) -> AbstractContextManager[Advance]:
        """Show a bar for `total` things (records, images, bytes) with their rate while the context is open.

        Contexts that are open at the same time under one label share one bar, so that the ranges of a step count
        together; `done` things were done before, by an earlier attempt, when the bar is first opened.
        """

    def table(self, key: str, title: str, rows: Sequence[Mapping[str, str]]) -> None:
        """Show a small table; every row has the same columns. `key` is a slug that names it across reruns."""

    def picture(self, key: str, title: str, png: bytes) -> None:
        """Show a PNG made of released bytes or public figures only."""

    def figure(self, key: str, title: str, value: str) -> None:
        """Show one number, already formatted."""

    def event(self, kind: str, message: str) -> None:
        """Say that something happened: `charged`, `sealed`, `refused`, `withheld`, `published` …"""


def plain_table(title: str, rows: Sequence[Mapping[str, str]]) -> Table:
    """Return rows of one or more as a table; a bracket in a cell is a bracket, never markup."""
    table = Table(title=Text(title), title_justify="left")
    for column in rows[0]:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row.values()))
    return table


def counted(items: Iterable[T], advance: Advance, every: int = 100) -> Iterator[T]:
    """Pass items on, and tell `advance` of them by the hundred: a bar is not worth a call an item."""
    source = iter(items)
    while some := list(islice(source, every)):
        yield from some
        advance(len(some))


class Silent:
    """A reporter that shows nothing."""

    @contextmanager
    def progress(self, label: str, total: int | None, things: str, done: int = 0) -> Iterator[Advance]:
        """Count in silence."""

        def advance(done: int = 1) -> None:
            del done

        yield advance

    def table(self, key: str, title: str, rows: Sequence[Mapping[str, str]]) -> None:
        """Show nothing."""

    def picture(self, key: str, title: str, png: bytes) -> None:
        """Show nothing."""

    def figure(self, key: str, title: str, value: str) -> None:
        """Show nothing."""

    def event(self, kind: str, message: str) -> None:
        """Show nothing."""


class _Rate(ProgressColumn):
    """Things per second, since the bar began."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} {task.fields['things']}/s" if speed else "", style="cyan")


class ConsoleReporter(Silent):
    """Rich bars with rate and time left, tables and one-line events; plain lines where there is no terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._lock = threading.Lock()
        self._live: Progress | None = None
        self._bars: dict[str, TaskID] = {}
        self._open: Counter[str] = Counter()

    @contextmanager
    def progress(self, label: str, total: int | None, things: str, done: int = 0) -> Iterator[Advance]:
        """One bar a label in a shared display that stays while any of them is open."""
        with self._lock:
            live = self._live or self._start()
            if label not in self._bars:
                self._bars[label] = live.add_task(label, total=total, completed=done, things=things)
            bar = self._bars[label]
            self._open[label] += 1
        try:
            yield lambda done=1: live.advance(bar, done)
        finally:
            with self._lock:
                self._open[label] -= 1
                if self._live is live and not any(self._open.values()):
                    live.stop()
                    self._live = None
                    self._bars.clear()

    def _start(self) -> Progress:
        self._live = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<22}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=self.console,
        )
        self._live.start()
        return self._live

    def table(self, key: str, title: str, rows: Sequence[Mapping[str, str]]) -> None:
        """Print the table."""
        if not rows:
            return
        self.console.print(plain_table(title, rows))

    def figure(self, key: str, title: str, value: str) -> None:
        """Print the figure."""
        self.console.print(f"{escape(title)}: [bold]{escape(value)}[/bold]", highlight=False, soft_wrap=True)

    def event(self, kind: str, message: str) -> None:
        """Print the event as one line."""
        self.console.print(f"[dim]{escape(kind):>10}[/dim]  {escape(message)}", highlight=False, soft_wrap=True)
