"""Tables: `<folder>/<split>.csv[.gz]` with a header line, or `<folder>/<split>.parquet`, a row a record.

Of the columns only those are read that the spec declares, and the one that names units. Each row becomes a vector by
the public map of `cadp.columns`; one that does not is a reject. What becomes of a number beyond its bounds, the spec
says.
"""

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from cadp.columns import Table, encode_row, label_of
from cadp.errors import RejectedInput, SourceError
from cadp.records import Record
from cadp.sources.source import SPLITS, PublicFacts, Rejects, SourceFile, inventory, stand_in_label

_BLOCK = 1024
_ENDINGS = {"csv": (".csv", ".csv.gz"), "parquet": (".parquet",)}

Cells: TypeAlias = Sequence[object]


class TableSource:
    """Rows of a table. Keys are `<split>-000123`; a row is its own unit, or a column names whose it is.

    A row's place names it, whatever it holds. A row without a unit's id would have no budget: it stops the run.

    Args:
        folder: holds the files.
        facts: what is public, with the table's columns.
        file_format: `csv` or `parquet`.
        unit_column: names each row's unit; None if every row is one.
        etags: known etags by file name, for datasets whose content is pinned.
        verify: checks the pinned content; called once, before the first row is read.
    """

    def __init__(
        self,
        folder: Path,
        facts: PublicFacts,
        file_format: str,
        *,
        unit_column: str | None = None,
        etags: Mapping[str, str] | None = None,
        verify: Callable[[], None] | None = None,
    ) -> None:
        if facts.table is None:
            raise SourceError(f"{folder} is opened as a table, and no columns are declared")
        self._folder, self._facts, self._format = folder, facts, file_format
        self._table: Table = facts.table
        self._unit_column, self._etags, self._verify = unit_column, dict(etags or {}), verify

    @property
    def facts(self) -> PublicFacts:
        """What is public about it."""
        return self._facts

    def files(self) -> dict[str, list[SourceFile]]:
        """A split's one file."""
        found = {split: inventory(self._folder, self._find(split)) for split in SPLITS}
        return {split: [SourceFile(f.path, f.size, self._etags.get(f.path, f.etag))] for split, f in found.items()}

    def records(self, split: str, rejects: Rejects) -> Iterator[Record]:
        """Stream a split in the order of its rows.

        Raises:
            SourceError: the file is missing or no such table, lacks a declared column or has it twice, or a row does
                not name its unit.
        """
        if self._verify is not None:
            self._verify()
        path = self._find(split)
        units = () if self._unit_column is None else (self._unit_column,)
        wanted = (*self._table.source_columns, *units)
        rows = _parquet_rows(path, wanted, units) if self._format == "parquet" else _csv_rows(path, wanted)
        for number, cells in enumerate(rows):
            key = f"{split}-{number:06d}"
            unit = key if self._unit_column is None else _unit(cells, number, path, self._unit_column)
            yield self._record(key, unit, number, cells, rejects)

    def _record(self, key: str, unit: str, number: int, cells: Cells | None, rejects: Rejects) -> Record:
        columns, classes = len(self._table.columns), self._facts.classes
        label = stand_in_label(number, len(classes))
        if cells is None:
            rejects(key, "another number of cells than the header")
            return Record(key=key, unit=unit, label=label, image=None)
        try:
            label = label_of(self._table, cells[columns], classes)
            vector = encode_row(self._table, cells[:columns])
        except RejectedInput as error:
            rejects(key, str(error))
            return Record(key=key, unit=unit, label=label, image=None)
        return Record(key=key, unit=unit, label=label, image=vector.reshape(self._facts.shape))

    def _find(self, split: str) -> Path:
        paths = [self._folder / f"{split}{ending}" for ending in _ENDINGS[self._format]]
        found = [path for path in paths if path.is_file() and not path.is_symlink()]
        if not found:
            raise SourceError(f"{self._folder} has no {paths[0].name}, the {split} split")
        if len(found) > 1:
            names = " and ".join(path.name for path in found)
            raise SourceError(
                f"{self._folder} has {names}: a split is one file. Next: remove the one that is not meant"
            )
        return found[0]


def _unit(cells: Cells | None, number: int, path: Path, column: str) -> str:
    if cells is None:  # its cells may have moved: what stands in that column may be another one's id
        raise SourceError(
            f"row {number:,} of {path.name} has another number of cells than the header, so whose it is, by column "
            f"{column}, is not known: nothing was charged. Next: mend the file"
        )
    text = "" if cells[-1] is None else str(cells[-1]).strip()
    if not text:
        raise SourceError(f"row {number:,} of {path.name} has no unit in column {column}: every row is somebody's")
    return text


def _csv_rows(path: Path, wanted: Sequence[str]) -> Iterator[Cells | None]:
    """The wanted cells of each row, as text; None for a row with another number of cells than the header."""
    with ExitStack() as stack:
        try:
            opened = gzip.open if path.suffix == ".gz" else open
            text = stack.enter_context(opened(path, "rt", encoding="utf-8-sig", newline=""))
            lines = csv.reader(text, strict=True)
            header = next(lines, [])
            places = [_place(name, header, path) for name in wanted]
            for row in lines:
                if row:  # a blank line is no row
                    yield [row[place] for place in places] if len(row) == len(header) else None
        except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
            reason = " ".join(str(error).split())
            raise SourceError(
                f"{path.name} cannot be read as CSV: {reason}; nothing was charged. Next: mend the file: "
                f"UTF-8 text with a header line, commas and double quotes"
            ) from error


def _place(name: str, header: Sequence[str], path: Path) -> int:
    found = [place for place, title in enumerate(header) if title.strip() == name]
    if len(found) != 1:
        raise SourceError(
            f"{path.name} has {len(found) or 'no'} columns named {name!r}: each declared column must be there once; "
            f"nothing was charged. Next: correct the spec's source, or the file"
        )
    return found[0]


def _parquet_rows(path: Path, wanted: Sequence[str], units: Sequence[str]) -> Iterator[Cells]:
    try:
        with pq.ParquetFile(path) as file:
            header = file.schema_arrow.names
            for name in wanted:
                _place(name, header, path)
            for name in units:
                _check_ids(name, file.schema_arrow.field(name).type, path)
            for block in file.iter_batches(batch_size=_BLOCK, columns=list(wanted)):
                columns = [block.column(name).to_pylist() for name in wanted]
                yield from zip(*columns, strict=True)
    except (OSError, pa.ArrowException, ValueError, OverflowError) as error:  # the last two: no text, no such day
        reason = " ".join(str(error).split())
        raise SourceError(f"{path.name} cannot be read as Parquet: {reason}; nothing was charged") from error


def _check_ids(name: str, kind: pa.DataType, path: Path) -> None:
    """Refuse ids that a reader of the file may have changed: whole numbers with a gap become 7.0, and the gap a NaN."""
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_integer(values) or pa.types.is_string(values) or pa.types.is_large_string(values)):
        raise SourceError(
            f"column {name} of {path.name} is of type {kind}: ids of units are text or integers, the same in both "
            f"splits; nothing was charged. Next: write them so"
        )
