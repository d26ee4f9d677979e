"""A measured figure and the target that it is held against."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Figure:
    """One line of the report.

    Attributes:
        what: what was measured.
        value: how much.
        unit: of what.
        target: at least (or, with `most`, at most) this much; None if there is no target.
        most: whether the target is an upper bound.
        note: what it should be read with.
    """

    what: str
    value: float
    unit: str
    target: float | None = None
    most: bool = False
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        if self.target is None:
            return True
        return self.value <= self.target if self.most else self.value >= self.target


def write_section(name: str, title: str, introduction: str, figures: Sequence[Figure], page: Path = PAGE) -> None:
    """Write a section of the page, in place of the one of that name or at the page's end."""
    begins, ends = f"<!-- begin {name} -->\n", f"<!-- end {name} -->\n"
    rows = ["| what | measured | target | |", "|---|---|---|---|"]
    for figure in figures:
        bound = "" if figure.target is None else f"{'≤' if figure.most else '≥'} {figure.target:,.6g}"
        bound += "" if figure.met else ": **not met**"
        rows.append(f"| {figure.what} | {figure.value:,.4g} {figure.unit}".rstrip() + f" | {bound} | {figure.note} |")
    introduction = "\n\n".join(textwrap.fill(part, 124) for part in introduction.split("\n\n"))
    section = begins + f"## {title}\n\n{introduction}\n\n" + "\n".join(rows) + "\n" + ends
    before, found, rest = page.read_text().partition(begins)
    after = rest.partition(ends)[2] if found else ""
    page.write_text(before.rstrip("\n") + "\n\n" + section + after)
