"""The Parquet form of released records: one schema that pyarrow, DuckDB, Polars and Hugging Face `datasets` decode."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from cadp.records import Released

ROW_GROUP = 100  # images: small enough for random access, large enough for a scan


def features(classes: Sequence[str]) -> dict[str, object]:
    """The Hugging Face features of a record: an image, a named label and the record's public key."""
    return {
        "image": {"_type": "Image"},
        "label": {"names": list(classes), "_type": "ClassLabel"},
        "key": {"dtype": "string", "_type": "Value"},
    }


def schema(classes: Sequence[str]) -> Any:  # noqa: ANN401 - pyarrow has no types
    """The Arrow schema; label names ride in the `huggingface` metadata, as a JSON string, in every file.

    `datasets` reads that key only, and decodes images only from `struct<bytes: binary, path: string>`: with
    `large_binary` it silently hands out bytes.
    """
    image = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
    metadata = {"huggingface": json.dumps({"info": {"features": features(classes)}})}
    return pa.schema(
        [pa.field("image", image), pa.field("label", pa.int64()), pa.field("key", pa.string())], metadata=metadata
    )


class GroupedWriter(ABC):
    """Writes released records to one Parquet file, a row group at a time; a context manager.

    Args:
        path: of the file.
        schema: Arrow's, of every row group.
        group: rows in a row group.
        options: further ones of `pyarrow.parquet.ParquetWriter`.
    """

    def __init__(self, path: Path, schema: Any, group: int, **options: Any) -> None:  # noqa: ANN401
        self._schema, self._group = schema, group
        self._records: list[Released] = []
        self._writer = pq.ParquetWriter(path, schema, write_page_index=True, **options)

    @abstractmethod
    def columns(self, records: Sequence[Released]) -> dict[str, list[Any]]:
        """The columns of a row group."""

    def write(self, record: Released) -> None:
        """Append one record."""
        self._records.append(record)
        if len(self._records) == self._group:
            self._flush()

    def _flush(self) -> None:
        if not self._records:
            return
        table = pa.Table.from_pydict(self.columns(self._records), schema=self._schema)
        self._writer.write_table(table, row_group_size=self._group)
        self._records.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()


class RecordWriter(GroupedWriter):
    """Writes released images."""

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        super().__init__(
            path,
            schema(classes),
            ROW_GROUP,
            compression={"image.bytes": "NONE", "image.path": "ZSTD", "label": "ZSTD", "key": "ZSTD"},
            use_dictionary=["label"],
            write_statistics=["label", "key"],
        )

    def columns(self, records: Sequence[Released]) -> dict[str, list[Any]]:
        """Image, label and key."""
        keys = [record.id.hex() for record in records]
        image = [{"bytes": record.data, "path": f"{key}.png"} for record, key in zip(records, keys, strict=True)]
        return {"image": image, "label": [record.label for record in records], "key": keys}
