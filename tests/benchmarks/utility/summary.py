"""Means over seeds, as the report shows them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tests.benchmarks.utility.cells import Cell
from tests.benchmarks.utility.results import Result

NONE = "–"
FIT = ("fit", "sample")  # what the CPU seconds of a release are of


@dataclass(frozen=True)
class Seeds:
    """One figure over the seeds that were measured; there may be none."""

    values: tuple[float, ...]

    @property
    def known(self) -> bool:
        """Whether there is a figure."""
        return bool(self.values)

    @property
    def mean(self) -> float:
        """The mean; NaN of nothing, which meets no target."""
        return float(np.mean(self.values)) if self.values else float("nan")

    def text(self, digits: int = 3) -> str:
        """The mean, and the spread of more than one seed: half the range."""
        if not self.values:
            return NONE
        spread = (max(self.values) - min(self.values)) / 2
        return f"{self.mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if len(self.values) > 1 else "")


class Summary:
    """The figures of cells over the seeds."""

    def __init__(self, results: Iterable[Result]) -> None:
        self._by_cell: dict[Cell, list[Result]] = {}
        for result in results:
            self._by_cell.setdefault(result.cell, []).append(result)

    def accuracy(self, cell: Cell) -> Seeds:
        """On the test originals."""
        return self.of(cell, "accuracy")

    def of(self, cell: Cell, figure: str) -> Seeds:
        """One figure of a cell."""
        found = (result.values["figures"].get(figure) for result in self.results(cell))
        return Seeds(tuple(value for value in found if value is not None))

    def cpu_seconds(self, cell: Cell, parts: Sequence[str]) -> Seeds:
        """Processor seconds that parts of the work took together."""
        return Seeds(tuple(sum(r.values["cpu_seconds"].get(p, 0.0) for p in parts) for r in self.results(cell)))

    def results(self, cell: Cell) -> list[Result]:
        """The results of a cell, one a seed."""
        return self._by_cell.get(cell, [])

    def first(self, cell: Cell) -> Result | None:
        """Any result of a cell: plan and data are the same for all seeds."""
        return next(iter(self.results(cell)), None)

    def measured(self) -> list[Result]:
        """All results."""
        return [result for results in self._by_cell.values() for result in results]
