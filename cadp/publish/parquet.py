"""The Parquet form of released records: one schema that pyarrow, DuckDB, Polars and Hugging Face `datasets` decode."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

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


class RecordWriter:
    """Writes released records to one Parquet file, a row group at a time; a context manager."""

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        self._schema = schema(classes)
        self._rows: list[Released] = []
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            compression={"image.bytes": "NONE", "image.path": "ZSTD", "label": "ZSTD", "key": "ZSTD"},
            use_dictionary=["label"],
            write_statistics=["label", "key"],
            write_page_index=True,
        )

    def write(self, record: Released) -> None:
        """Append one record."""
        self._rows.append(record)
        if len(self._rows) == ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        keys = [row.id.hex() for row in self._rows]
        image = [{"bytes": row.data, "path": f"{key}.png"} for row, key in zip(self._rows, keys, strict=True)]
        columns = {"image": image, "label": [row.label for row in self._rows], "key": keys}
        self._writer.write_table(pa.Table.from_pydict(columns, schema=self._schema), row_group_size=ROW_GROUP)
        self._rows.clear()

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()
