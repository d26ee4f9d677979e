"""The form of released rows: Parquet columns with their real names and types, and the same row as JSON.

A column is a double, a 64-bit integer or a string; the label is a string under its own name; `key` is the random id.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cadp.columns import KEY, Table, rows_in_columns
from cadp.errors import RejectedInput
from cadp.publish.parquet import GroupedWriter
from cadp.records import Released
from cadp.shards import decode_values

ROW_GROUP = 10_000
_AT_ONCE = 1_000
_ARROW = {"number": pa.float64(), "integer": pa.int64(), "category": pa.string()}
_HUGGING_FACE = {"number": "float64", "integer": "int64", "category": "string"}


def vectors_of(table: Table, records: Sequence[Released]) -> Any:  # noqa: ANN401  (uint16 whatever numpy calls it)
    """The entries `(n, d)` of released rows.

    Raises:
        RejectedInput: a record is no row of this table.
    """
    found = np.empty((len(records), table.width), dtype=np.uint16)
    for place, record in enumerate(records):
        found[place] = decode_values(record.data, table.shape, np.uint16).ravel()
    return found


def columns_of(table: Table, classes: Sequence[str], records: Sequence[Released]) -> dict[str, list[Any]]:
    """Released rows by column: those of the table, its label and the key."""
    columns: dict[str, list[Any]] = {**rows_in_columns(table, vectors_of(table, records))}
    columns[table.label.column] = [classes[record.label] for record in records]
    columns[KEY] = [record.id.hex() for record in records]
    return columns


def rows_as_json(table: Table, classes: Sequence[str], records: Iterable[Released]) -> Iterator[tuple[Released, bytes]]:
    """Each released row with its JSON, in the order of its columns; the key is the name of its file."""
    rest = iter(records)
    while some := list(islice(rest, _AT_ONCE)):
        columns = columns_of(table, classes, some)
        del columns[KEY]
        for record, values in zip(some, zip(*columns.values(), strict=True), strict=True):
            row = dict(zip(columns, values, strict=True))
            yield record, json.dumps(row, ensure_ascii=False, allow_nan=False).encode()


def check_row(table: Table, data: bytes) -> None:
    """Refuse what is no row of this table: entries and nothing beside them.

    Raises:
        RejectedInput: the reason.
    """
    if len(data) != 2 * table.width:
        raise RejectedInput(f"a released row of {len(data)} bytes: {table.width} entries of 2 are needed")


def kinds(table: Table) -> dict[str, str]:
    """What Hugging Face calls the types of the released columns, in their order."""
    own = {column.name: _HUGGING_FACE[column.kind] for column in table.columns}
    return own | {table.label.column: "string", KEY: "string"}


def features(table: Table) -> dict[str, object]:
    """The Hugging Face features of a row."""
    return {name: {"dtype": kind, "_type": "Value"} for name, kind in kinds(table).items()}


def schema(table: Table) -> Any:  # noqa: ANN401  (pyarrow has no types)
    """The Arrow schema of the released rows; no cell is ever empty."""
    kinds = {column.name: _ARROW[column.kind] for column in table.columns}
    kinds |= {table.label.column: pa.string(), KEY: pa.string()}
    fields = [pa.field(name, kind, nullable=False) for name, kind in kinds.items()]
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features(table)}})})


class RowWriter(GroupedWriter):
    """Writes released rows."""

    def __init__(self, path: Path, table: Table, classes: Sequence[str]) -> None:
        self._table, self._classes = table, classes
        categories = [column.name for column in table.columns if column.kind == "category"]
        dictionaries = [*categories, table.label.column]
        super().__init__(path, schema(table), ROW_GROUP, compression="ZSTD", use_dictionary=dictionaries)

    def columns(self, records: Sequence[Released]) -> dict[str, list[Any]]:
        """Those of the table, its label and the key."""
        return columns_of(self._table, self._classes, records)
