"""Raw shards: private records as WebDataset tars, in the private zone alone."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cadp.errors import RejectedInput
from cadp.records import ENTRIES, Record, Values
from cadp.shards.tars import read_tar, write_tar
from cadp.shards.values import decode_png, encode_png


def write_raw_shard(path: Path, records: Iterable[Record]) -> int:
    """Write private records as a WebDataset tar and return how many.

    A record is `KEY.png`, `KEY.cls` and `KEY.json` (its source key and unit), KEY being its place in the shard in hex.
    A row of a table has no `.png`; its entries are a list in the `.json`. A rejected record has neither.
    """
    return write_tar(path, ((f"{place:08x}", _raw_members(record)) for place, record in enumerate(records)))


def read_raw_shard(stream: BinaryIO) -> Iterator[Record]:
    """Yield the records of a raw shard, in order.

    Raises:
        RejectedInput: the stream is no such shard.
    """
    for place, members in read_tar(stream):
        try:
            about = json.loads(members["json"])
            image = decode_png(members["png"]) if "png" in members else _row(about.get("row"))
            yield Record(key=about["key"], unit=about["unit"], label=int(members["cls"]), image=image)
        except (KeyError, TypeError, ValueError) as error:
            raise RejectedInput(f"sample {place!r} is no raw record: {type(error).__name__} {error}") from error


def _row(entries: object) -> Values | None:
    """Return the entries of a row; None where there are none.

    Raises:
        ValueError: it is no list of 16-bit integers.
    """
    if entries is None:
        return None
    if not isinstance(entries, list) or not entries or not all(type(entry) is int for entry in entries):
        raise ValueError("a row is a list of integers")
    if min(entries) < 0 or max(entries) > np.iinfo(ENTRIES).max:
        raise ValueError("the entries of a row have 16 bits")
    return np.array(entries, dtype=ENTRIES).reshape(1, 1, -1)


def _raw_members(record: Record) -> dict[str, bytes]:
    about: dict[str, object] = {"key": record.key, "unit": record.unit}
    pixels = {}
    if record.image is not None and record.image.dtype == ENTRIES:
        about["row"] = record.image.ravel().tolist()
    elif record.image is not None:
        pixels["png"] = encode_png(record.image)
    return {**pixels, "cls": str(record.label).encode(), "json": json.dumps(about).encode()}
