"""The measured figures: a JSON line for every cell and seed, so that a run that ended goes on where it was."""

import json
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.benchmarks.utility.cells import Cell, from_json, to_json


@dataclass(frozen=True)
class Result:
    """One line.

    Attributes:
        cell: what was measured.
        seed: of the classifier.
        values: what `Bench.measure` returned.
        where: the machine, in words.
    """

    cell: Cell
    seed: int
    values: dict[str, Any]
    where: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The line."""
        return {"cell": to_json(self.cell), "seed": self.seed, **self.values, "where": self.where}

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> "Result":
        """Read a line."""
        rest = {key: value for key, value in line.items() if key not in ("cell", "seed", "where")}
        return cls(from_json(line["cell"]), line["seed"], rest, line["where"])


class Results:
    """A file of results, one for each cell and seed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        self._known = {(one.cell, one.seed): one for one in map(Result.from_json, map(json.loads, lines))}

    def __iter__(self) -> Iterator[Result]:
        """All of them."""
        return iter(self._known.values())

    def find(self, cell: Cell, seed: int) -> Result | None:
        """The result of a cell and seed, if there is one."""
        return self._known.get((cell, seed))

    def put(self, result: Result) -> None:
        """Keep a result, in the place of an older one of the same cell and seed; the file is whole at any time."""
        self._known[result.cell, result.seed] = result
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        new.write_text("".join(json.dumps(one.to_json(), ensure_ascii=False) + "\n" for one in self._known.values()))
        new.replace(self._path)


def here() -> dict[str, Any]:
    """Where a figure was measured."""
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "load": round(os.getloadavg()[0], 1),
    }


def _processor() -> str:
    """The processor's name, where Linux tells it."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "a processor")
