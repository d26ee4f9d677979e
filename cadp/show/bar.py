"""A limit as a bar of signs: what is spent, what is reserved, what is left."""

from math import ceil

from rich.text import Text

from cadp.ledger import Budget

# The signs differ, so that the bar reads without colour too.
SPENT, RESERVED, LEFT = ("▓", "red"), ("▒", "yellow"), ("░", "green")


def bar(budget: Budget, width: int) -> Text:
    """Return the limit as `width` cells; whatever is above 0 gets a cell, and what is left is never drawn too large."""
    spent, used = cells(budget.spent, budget.reserved, budget.left, width)
    return Text.assemble(*_run(SPENT, spent), *_run(RESERVED, used - spent), *_run(LEFT, width - used))


def legend() -> Text:
    """Return what the signs mean."""
    parts = ((SPENT, "spent"), (RESERVED, "reserved"), (LEFT, "left"))
    return Text("  ").join(Text.assemble(sign, f" {name}") for sign, name in parts)


def cells(spent: float, reserved: float, left: float, width: int) -> tuple[int, int]:
    """Return the number of cells up to the end of what is spent, and up to the end of what is reserved.

    >>> cells(8.0, 0.0, 8.0, 10), cells(0.001, 0.001, 15.998, 10), cells(16.0, 0.0, 0.0, 10), cells(15.9, 0.0, 0.1, 10)
    ((5, 5), (1, 2), (10, 10), (9, 9))
    """
    total = spent + reserved + left
    if total <= 0:  # a limit below the micro-nat that the ledger counts in
        return 0, 0
    used = max(ceil((spent + reserved) / total * width), (spent > 0) + (reserved > 0))
    used = min(used, width - (left > 0))
    return min(ceil(spent / total * width), used - (reserved > 0)), used


def _run(sign: tuple[str, str], count: int) -> list[tuple[str, str]]:
    return [(sign[0] * count, sign[1])]
