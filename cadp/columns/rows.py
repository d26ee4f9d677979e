"""The public map between a row and its vector of 16-bit integers, entry by entry within [0, 1].

    a number x within [a, b]:   u = (x − a)/(b − a), or (ln x − ln a)/(ln b − ln a),   stored as round(65,535·u)
    a category:                 one entry a level but the first, 65,535 at its own and 0 at the others

and back: a + u·(b − a) rounded to the declared decimals, and the level whose entry is largest, the first of equals,
where the first level's entry is what the others leave of 1: with an entry of its own, rows would lie in a plane, which
no network can whiten.

The map is fixed by the spec, so encoding reads nothing but the row itself and decoding is post-processing. Entries are
never negative and never above 1, whatever a row holds: the sensitivities of the moments rest on that, as for pixels.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cadp.columns.declared import Column, Table, plain
from cadp.errors import RejectedInput

TOP = 65_535
"""The entry that stands for 1."""

Vector = NDArray[np.uint16]


def encode_row(table: Table, cells: Sequence[object]) -> Vector:
    """The vector `(d,)` of a row.

    Args:
        table: what is declared.
        cells: one value a declared column, in their order: text, numbers, or None where there is nothing.

    Raises:
        RejectedInput: a cell is empty, no finite number, of no declared level, or beyond its bounds where those rows
            are rejected. The reason names the column; it is private.
    """
    vector = np.zeros(table.width, dtype=np.uint16)
    at = 0
    for column, cell in zip(table.columns, cells, strict=True):
        if column.levels is not None:
            if level := _level(column, cell):
                vector[at + level - 1] = TOP
        else:
            vector[at] = round(TOP * _position(column, _number(column.name, cell), clamp=table.outside == "clamp"))
        at += column.width
    return vector


def label_of(table: Table, cell: object, classes: Sequence[str]) -> int:
    """The class of a row, from its label column.

    Raises:
        RejectedInput: it is none of the classes, or a number beyond the first or last edge.
    """
    name, edges = table.label.column, table.label.edges
    if edges is None:
        text = _text(name, cell)
        if text not in classes:
            raise RejectedInput(f"{name}: {text!r} is none of the {len(classes)} classes")
        return classes.index(text)
    number = _number(name, cell)
    if not edges[0] <= number <= edges[-1]:
        raise RejectedInput(f"{name}: {plain(number)} is beyond the edges {plain(edges[0])} and {plain(edges[-1])}")
    return min(int(np.searchsorted(edges, number, side="right")) - 1, len(classes) - 1)


def row_values(table: Table, vector: Vector) -> dict[str, float | int | str]:
    """A row by column, from its vector `(d,)`."""
    return {name: values[0] for name, values in rows_in_columns(table, vector[None]).items()}


def rows_in_columns(table: Table, vectors: Vector) -> Mapping[str, list[float] | list[int] | list[str]]:
    """Rows by column, from their vectors `(n, d)`: numbers within their bounds, levels by name."""
    found: dict[str, list[float] | list[int] | list[str]] = {}
    at = 0
    for column in table.columns:
        entries = vectors[:, at : at + column.width]
        at += column.width
        if column.levels is not None:
            others = entries.astype(np.int64)
            every = np.concatenate([TOP - others.sum(axis=1, keepdims=True), others], axis=1)
            found[column.name] = [column.levels[index] for index in every.argmax(axis=1)]
        else:
            numbers = _numbers(column, entries[:, 0] / TOP)
            found[column.name] = [int(number) for number in numbers] if column.kind == "integer" else numbers.tolist()
    return found


def _position(column: Column, number: float, *, clamp: bool) -> float:
    low, high = column.interval
    if not low <= number <= high:
        if not clamp:
            raise RejectedInput(f"{column.name}: {plain(number)} is beyond its bounds {plain(low)} and {plain(high)}")
        number = min(max(number, low), high)
    if column.scale == "log":
        low, high, number = math.log(low), math.log(high), math.log(number)
    return min(max((number - low) / (high - low), 0.0), 1.0)


def _numbers(column: Column, positions: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = column.interval
    if column.scale == "log":
        numbers = np.exp(math.log(low) + positions * (math.log(high) - math.log(low)))
    else:
        numbers = low + positions * (high - low)
    # Rounding may leave the bounds by less than one digit; and there is one zero.
    return np.asarray(np.round(np.clip(numbers, low, high), column.digits) + 0.0, dtype=np.float64)


def _number(name: str, cell: object) -> float:
    text = _text(name, cell)
    try:
        number = float(text)
    except ValueError:
        raise RejectedInput(f"{name}: {text!r} is no number") from None
    if "_" in text:  # Python reads 1_5 as 15; who wrote it meant something else
        raise RejectedInput(f"{name}: {text!r} is no number")
    if not math.isfinite(number):
        raise RejectedInput(f"{name}: {text} is no finite number")
    return number


def _level(column: Column, cell: object) -> int:
    text, levels = _text(column.name, cell), column.levels or ()
    if text not in levels:
        raise RejectedInput(f"{column.name}: {text!r} is none of its {len(levels)} levels")
    return levels.index(text)


def _text(name: str, cell: object) -> str:
    text = "" if cell is None else str(cell).strip()
    if not text:
        raise RejectedInput(f"{name}: nothing there")
    return text[:200]
