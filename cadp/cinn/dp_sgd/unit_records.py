"""What DP-SGD reads: whitened content, unit by unit, in rows of microbatches."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cadp.cinn.dp_sgd.sample import EMPTY

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class UnitRecords:
    """What DP-SGD reads: the whitened content of records, unit by unit. Private.

    Attributes:
        content: `(n, k)` float32, a memory map where it is large; what is not finite counts as a rejected record.
        labels: `(n,)` int64.
        valid: `(n,)` bool; a rejected record contributes nothing.
        starts: `(units + 1,)` int64; unit i has the records `starts[i]` to `starts[i + 1]`.
    """

    content: NDArray[np.float32]
    labels: Integers
    valid: NDArray[np.bool_]
    starts: Integers

    @property
    def units(self) -> int:
        """How many units there are."""
        return len(self.starts) - 1

    def gather(self, index: Integers) -> tuple[NDArray[np.float32], Integers, NDArray[np.bool_]]:
        """Content and labels of a microbatch and which rows count; the others are zeros of class 0."""
        safe = np.maximum(index, 0)
        content = np.asarray(self.content[safe], dtype=np.float32)
        mask = (index != EMPTY) & self.valid[safe] & np.isfinite(content).all(axis=1)
        return np.where(mask[:, None], content, np.float32(0)), np.where(mask, self.labels[safe], 0), mask


def record_rows(units: Integers, starts: Integers, records: int) -> Integers:
    """Record indices of a microbatch `(slots·m,)`, m rows a slot, `EMPTY` where a unit has fewer or there is none."""
    place = np.arange(records)[None, :]
    known = np.maximum(units, 0)
    index = starts[known][:, None] + place
    real = (units != EMPTY)[:, None] & (index < starts[known + 1][:, None])
    return np.where(real, index, EMPTY).ravel()
