"""Pieces of a Markdown page."""

import textwrap
from collections.abc import Sequence

WIDTH = 118


def paragraph(text: str) -> str:
    """The words of a text in lines of at most `WIDTH` characters."""
    return textwrap.fill(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells under their heads."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def section(title: str, *parts: str) -> str:
    """A heading and what stands under it; empty parts are left out."""
    return "\n\n".join([f"## {title}", *(part for part in parts if part)])
