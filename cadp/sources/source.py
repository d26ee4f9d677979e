"""The seam between any source and the pipeline."""

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cadp.columns import Table
from cadp.records import ENTRIES, PIXELS, Record

SPLITS = ("train", "test")
"""The splits that a source must have: what is released, and the holdout."""

Shape = tuple[int, int, int]
"""`(height, width, channels)`, channels 1 or 3."""

Rejects = Callable[[str, str], None]
"""Called with the key of a record that cannot be read and the reason, one line; both are private."""


@dataclass(frozen=True, slots=True)
class PublicFacts:
    """What is public about a source by declaration; a plan needs it before anything is read.

    Attributes:
        records: in the split `train`, of which each is released: without those over their unit's cap.
        holdout_records: in the split `test`, which the classifier is scored on.
        shape: `(h, w, c)` of every image; of a table's rows `(1, 1, d)`.
        classes: label names in index order.
        class_counts: training records by class, where they are known beforehand.
        units: behind `records`; None where every record is a unit.
        holdout_units: behind `holdout_records`; None likewise.
        over_cap: records of `train` that are over their unit's cap and left out.
        table: what its columns are, if it is a table.
    """

    records: int
    holdout_records: int
    shape: Shape
    classes: tuple[str, ...]
    class_counts: tuple[int, ...] | None = None
    units: int | None = None
    holdout_units: int | None = None
    over_cap: int = 0
    table: Table | None = None

    @property
    def kind(self) -> np.dtype[Any]:
        """The type of a record's values: 8-bit pixels, or 16-bit entries of rows."""
        return PIXELS if self.table is None else ENTRIES

    @property
    def unit_count(self) -> int:
        """Units behind the released records."""
        return self.records if self.units is None else self.units

    @property
    def holdout_unit_count(self) -> int:
        """Units of the holdout, one record of each of which is scored."""
        return self.holdout_records if self.holdout_units is None else self.holdout_units

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        facts = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "table"}
        return facts if self.table is None else facts | {"table": self.table.model_dump(mode="json")}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a source as the inventory sees it, without reading its content.

    Attributes:
        path: relative to the source, '/'-separated.
        size: bytes.
        etag: changes when the content may have changed.
    """

    path: str
    size: int
    etag: str

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


class Source(Protocol):
    """Records of one private dataset in two declared splits, `train` and `test`."""

    @property
    def facts(self) -> PublicFacts:
        """What is public about it."""

    def files(self) -> dict[str, list[SourceFile]]:
        """Every file of each split, sorted by path; contents are not read.

        Raises:
            SourceError: a split is missing.
        """

    def records(self, split: str, rejects: Rejects) -> Iterator[Record]:
        """Stream a split's records in the source's own order, in bounded memory.

        A record that cannot be read is reported and yielded with `image=None`.

        Raises:
            SourceError: the split is missing, or the source as a whole cannot be read.
        """


def stand_in_label(number: int, classes: int) -> int:
    """The label of a record whose own is unusable: it depends on the record's position alone, never on content."""
    return number % classes


def inventory(root: Path, path: Path) -> SourceFile:
    """A local file's entry: modification time and size stand for its content."""
    status = path.stat()
    name = printable(os.fspath(path.relative_to(root)).replace(os.sep, "/"))
    return SourceFile(name, status.st_size, f"{status.st_mtime_ns:x}-{status.st_size:x}")


def printable(name: str) -> str:
    """A file name that can be stored anywhere: bytes that are not UTF-8 become escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
