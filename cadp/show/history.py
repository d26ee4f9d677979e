"""A ledger's history for reading: one table a population, one line a change."""

from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cadp.errors import LedgerError
from cadp.ledger.budget import figure
from cadp.settings import Settings
from cadp.show.budget import families, holdout_of
from cadp.show.changes import Change, changes
from cadp.show.opening import open_ledger

SCHEMA = 1
_COLOURS = {"burned": "red", "refused": "red", "threshold": "yellow", "takeover": "yellow", "published": "green"}
_HEADS = ("no.", "when (UTC)", "change", "release and charge", "ε alone", "ε after")
_NUMBERS = {0, 4, 5}
_CHANGE, _CHARGE = 2, 3
_NOTE = (
    "ε alone is the charge's own; ε after is that of everything that counts by then, at the limit's δ. A line with a "
    "number is an entry of the hash chain (`cadp budget verify` checks it); a line without one is a notice."
)


def history_view(settings: Settings, population: str | None = None, release: str | None = None) -> list[Change]:
    """Read the history, oldest first; of one population and its holdout, of one release, or of everything.

    Raises:
        LedgerMissing: there is no ledger.
        LedgerError: there is no population, or no line of a release, of this name.
    """
    with open_ledger(settings) as ledger:
        if population is not None:
            ledger.population(population)
        lines = changes(ledger)
    if population is not None:
        lines = [
            line for line in lines if line.population and population in (line.population, holdout_of(line.population))
        ]
    if release is not None:
        known = dict.fromkeys(line.release for line in lines if line.release)
        if release not in known:
            raise LedgerError(
                f"there is no release {release!r} in this history: known are {', '.join(known) or 'none'}; "
                f"a release is called name/version"
            )
        lines = [line for line in lines if line.release == release]
    return lines


def history_json(lines: list[Change]) -> dict[str, Any]:
    """For scripts: every line, oldest first, every ε a number."""
    return {"schema": SCHEMA, "relation": "replace-one", "changes": [line.to_json() for line in lines]}


def print_history(lines: list[Change], console: Console) -> None:
    """Print one table a population, a holdout behind its own, and one of what concerns the whole ledger."""
    if not lines:
        console.print("History: nothing yet", highlight=False)
        return
    names = sorted({line.population for line in lines if line.population}, key=families)
    page = _Page(console, lines)
    if whole := [line for line in lines if line.population is None]:
        page.table("The ledger", whole)
    for name in names:
        page.table(f"History of {name} (replace-one)", [line for line in lines if line.population == name])
    console.print(Text(_NOTE))


class _Page:
    """Lines under each other in columns that are as wide as the widest cell of the whole page.

    Every line is laid out by itself, since what there is to say about it needs the whole width below it.
    """

    def __init__(self, console: Console, lines: list[Change]) -> None:
        rows = [_HEADS, *map(_cells, lines)]
        self._console = console
        self._widths = [max(len(row[place]) for row in rows) for place in range(len(_HEADS))]
        others = sum(width + 2 for place, width in enumerate(self._widths) if place != _CHARGE)
        self._widths[_CHARGE] = max(min(self._widths[_CHARGE], console.width - others), len(_HEADS[_CHARGE]))

    def table(self, title: str, lines: list[Change]) -> None:
        """Print lines under a title."""
        self._console.print(Text(title, style="bold"))
        self._row(_HEADS, dict.fromkeys(range(len(_HEADS)), "bold"))
        self._console.print(Text("─" * (sum(self._widths) + 2 * len(self._widths) - 2)))
        for line, following in zip(lines, [*lines[1:], None], strict=True):
            self._row(_cells(line), {_CHANGE: _COLOURS.get(line.change, "")})
            # One reason for several charges is said once, under the last of them.
            if line.text and (following is None or (following.entry, following.text) != (line.entry, line.text)):
                self._console.print(Padding(Text(line.text), (0, 0, 0, self._widths[0] + 2)))
        self._console.print()

    def _row(self, cells: tuple[str, ...], styles: dict[int, str]) -> None:
        row = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        for place, width in enumerate(self._widths):
            row.add_column(width=width, justify="right" if place in _NUMBERS else "left", overflow="fold")
        row.add_row(*(Text(cell, style=styles.get(place, "")) for place, cell in enumerate(cells)))
        self._console.print(row)


def _cells(line: Change) -> tuple[str, ...]:
    return (
        "–" if line.entry is None else str(line.entry),
        line.at[:16].replace("T", " "),
        line.change,
        line.key or line.release or "",
        "" if line.epsilon is None else figure(line.epsilon),
        "" if line.after is None else figure(line.after),
    )
