"""How the released rows are distributed, column by column and class by class: figures of released records alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadp.columns import Column, Table
from cadp.publish.rows import columns_of
from cadp.records import Released

Integers = NDArray[np.int64]

BINS = 24
WIDTH, HEIGHT = 240, 72  # of a histogram, in pixels


@dataclass(frozen=True, slots=True)
class Bar:
    """One class's part of one bin, in pixels from the top left."""

    x: float
    y: float
    width: float
    height: float
    label: int


@dataclass(frozen=True, slots=True)
class Histogram:
    """One column of the released rows.

    Attributes:
        name: the column's.
        words: what its ends are, or its levels.
        bars: of each bin the classes' parts, one on top of the other.
    """

    name: str
    words: str
    bars: tuple[Bar, ...]


def histograms(table: Table, classes: Sequence[str], records: Sequence[Released]) -> list[Histogram]:
    """One histogram a column, over the declared bounds or levels."""
    if not records:
        return []
    columns = columns_of(table, classes, records)
    labels = np.array([record.label for record in records], dtype=np.int64)
    return [_histogram(column, counts(column, columns[column.name], labels, len(classes))) for column in table.columns]


def counts(column: Column, values: Sequence[Any], labels: Integers, classes: int) -> Integers:
    """How many values of each class are in each bin: `(classes, bins)`, one a level, or of equal width.

    Integers of a few values have one a value: others would be combs.
    """
    low, high = column.interval
    if column.levels is not None:
        places = np.array([column.levels.index(str(value)) for value in values])
        size = len(column.levels)
    elif column.kind == "integer" and round(high) - round(low) < BINS:
        size = round(high) - round(low) + 1
        places = np.clip(np.asarray(values, dtype=np.int64) - round(low), 0, size - 1)
    else:
        size, numbers = BINS, np.asarray(values, dtype=np.float64)
        if column.scale == "log":
            low, high, numbers = math.log(low), math.log(high), np.log(np.maximum(numbers, low))
        places = np.clip(((numbers - low) / (high - low) * size).astype(np.int64), 0, size - 1)
    return np.bincount(labels * size + places, minlength=classes * size).reshape(classes, size)


def _histogram(column: Column, found: Integers) -> Histogram:
    classes, size = found.shape
    unit, step = HEIGHT / max(int(found.sum(axis=0).max()), 1), WIDTH / size
    tops = np.cumsum(found, axis=0)
    bars = tuple(
        Bar(
            round(place * step, 2),
            round(HEIGHT - tops[label, place] * unit, 2),
            round(step - 1, 2),
            round(found[label, place] * unit, 2),
            label,
        )
        for label in range(classes)
        for place in range(size)
        if found[label, place]
    )
    return Histogram(column.name, column.words, bars)
