"""One publish task: an interval of the key space becomes one Parquet file and one WebDataset tar, in one pass.

One tar an interval keeps the numbering dense and unique without a task knowing another's sizes. Ids are uniform, so
intervals, and with them tars, are near-equal; `intervals` says how many a release needs.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

from cadp.errors import ObjectExists, PublishConflict, RejectedInput
from cadp.exchange import interval as key_interval
from cadp.publish.facts import ReleaseFacts
from cadp.publish.layout import parquet_path, shard_path
from cadp.publish.parquet import RecordWriter
from cadp.publish.png import check_plain
from cadp.publish.rows import RowWriter, check_row, rows_as_json
from cadp.records import Released
from cadp.shards import write_tar
from cadp.store import Store


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A file of the release that is in place.

    Attributes:
        path: below the release's prefix.
        size: bytes.
        sha256: hex.
        records: how many released records it holds.
        class_counts: of its released labels, by class index.
        md5: hex, for the readers of `shards/index.json`, which knows no other digest; no security rests on it.
    """

    path: str
    size: int
    sha256: str
    records: int
    class_counts: tuple[int, ...]
    md5: str

    def to_json(self) -> dict[str, object]:
        """JSON-ready; `from_json` reads it back."""
        return {
            "path": self.path,
            "size": self.size,
            "sha256": self.sha256,
            "records": self.records,
            "class_counts": list(self.class_counts),
            "md5": self.md5,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> "PublishedFile":
        """Read what `to_json` wrote."""
        counts = value["class_counts"]
        if not isinstance(counts, list):
            raise RejectedInput(f"class_counts of a published file is a list, not {counts!r}")
        return cls(
            path=str(value["path"]),
            size=int(str(value["size"])),
            sha256=str(value["sha256"]),
            records=int(str(value["records"])),
            class_counts=tuple(int(count) for count in counts),
            md5=str(value["md5"]),
        )


def intervals(records: int, record_bytes: int, *, shard_bytes: int = 256 << 20, workers: int = 1) -> int:
    """How many intervals give tars of about `shard_bytes`, and at least one tar for each of the readers' `workers`.

    `record_bytes` is a public bound, for example the raw size of an image. Every tar gets 100 records or more on
    average, so that none is empty.

    >>> intervals(60_000, 28 * 28, workers=8)
    8
    >>> intervals(1_000_000, 128 * 128 * 3)
    191
    """
    tar_overhead = 2048  # two headers and padding
    wanted = max(ceil(records * (record_bytes + tar_overhead) / shard_bytes), workers)
    return max(1, min(wanted, records // 100))


def publish_interval(
    target: Store, index: int, of: int, records: Iterable[Released], facts: ReleaseFacts, *, scratch: Path
) -> list[PublishedFile]:
    """Write interval `index` of `of` to `target`; returns the Parquet file and the tar, in this order.

    `records` come in id order, all from this interval. Both files are finished below `scratch` before either is put,
    so nothing partial is ever visible; the same records give the same bytes, and putting them again is fine.

    Raises:
        RejectedInput: a record out of order or place, with a label that has no name, or whose PNG is not plain, or
            that is no row of the table.
        PublishConflict: other bytes are published under this name already.
    """
    if not 0 <= index < of:
        raise RejectedInput(f"there is no interval {index} of {of}")
    counts = [0] * len(facts.classes)
    with TemporaryDirectory(dir=scratch, prefix="publish-") as folder:
        table, tar = Path(folder, "table"), Path(folder, "tar")
        with _writer(table, facts) as writer:
            checked = _check(records, *key_interval(index, of), facts)
            write_tar(tar, _tee(checked, writer, counts, facts))
        return [
            _put(target, parquet_path(index, of), table, counts),
            _put(target, shard_path(index), tar, counts),
        ]


def _check(records: Iterable[Released], low: bytes, high: bytes | None, facts: ReleaseFacts) -> Iterator[Released]:
    previous = b""
    for record in records:
        if len(record.id) != 16 or record.id <= previous or record.id < low or (high is not None and record.id >= high):
            raise RejectedInput(
                f"record {record.id.hex()} is a duplicate, out of order or outside its interval "
                f"(after {previous.hex() or 'none'})"
            )
        if not 0 <= record.label < len(facts.classes):
            raise RejectedInput(f"label {record.label} of record {record.id.hex()} has no name")
        if facts.table is None:
            check_plain(record.data, facts.shape)
        else:
            check_row(facts.table, record.data)
        previous = record.id
        yield record


def _writer(path: Path, facts: ReleaseFacts) -> RecordWriter | RowWriter:
    return RecordWriter(path, facts.classes) if facts.table is None else RowWriter(path, facts.table, facts.classes)


def _tee(
    records: Iterable[Released], writer: RecordWriter | RowWriter, counts: list[int], facts: ReleaseFacts
) -> Iterator[tuple[str, Mapping[str, bytes]]]:
    """Hand each record to the Parquet writer on its way to the tar, so that the records are read once."""
    images = facts.table is None
    pairs = ((r, r.data) for r in records) if facts.table is None else rows_as_json(facts.table, facts.classes, records)
    for record, content in pairs:
        writer.write(record)
        counts[record.label] += 1
        yield record.id.hex(), {"png" if images else "json": content, "cls": str(record.label).encode()}


def _put(target: Store, path: str, file: Path, counts: list[int]) -> PublishedFile:
    try:
        stored = target.put(path, file)
    except ObjectExists as error:
        raise PublishConflict(
            f"{target.url_of(path)} holds other bytes; a version is immutable: publish a new one"
        ) from error
    return PublishedFile(
        path=path,
        size=stored.size,
        sha256=stored.sha256,
        records=sum(counts),
        class_counts=tuple(counts),
        md5=md5_of(file),
    )


def md5_of(file: Path) -> str:
    """The file's md5 as the shard index wants it."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
