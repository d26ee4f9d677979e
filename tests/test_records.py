"""A row's way between the steps: packed, in a raw shard, stacked and released, with its 16 bits."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from cadp.errors import RejectedInput
from cadp.records import (
    ENTRIES,
    PIXELS,
    Record,
    Released,
    pack_record,
    pack_released,
    stack,
    top,
    unpack_record,
    unpack_released,
)
from cadp.shards import decode_values, encode_values, read_raw_shard, write_raw_shard, write_tar

ROW = np.array([[[0, 1, 255, 256, 65_535]]], dtype=np.uint16)
PICTURE = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
RECORDS = [Record("r", "u", 1, ROW), Record("p", "u", 0, PICTURE), Record("x", "v", 1, None)]


def same(one: Record, other: Record) -> bool:
    if (one.key, one.unit, one.label) != (other.key, other.unit, other.label):
        return False
    if one.image is None or other.image is None:
        return one.image is other.image
    return one.image.dtype == other.image.dtype and np.array_equal(one.image, other.image)


@pytest.mark.parametrize("record", RECORDS, ids=["row", "picture", "rejected"])
def test_packed_and_unpacked(record: Record) -> None:
    assert same(unpack_record(pack_record(record)), record)


def test_a_raw_shard_holds_rows_and_pictures(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    assert write_raw_shard(path, RECORDS) == 3
    with path.open("rb") as stream:
        assert all(same(a, b) for a, b in zip(read_raw_shard(stream), RECORDS, strict=True))


@pytest.mark.parametrize(
    "row",
    [[], [-1], [65_536], [1.5], [True], ["1"], {"0": 1}, "12", [[1]]],
    ids=["empty", "negative", "17 bits", "a float", "a truth", "text", "a mapping", "a string", "nested"],
)
def test_what_is_no_row_is_refused(row: object, tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    about = json.dumps({"key": "r", "unit": "u", "row": row}).encode()
    write_tar(path, [("0", {"cls": b"0", "json": about})])
    with pytest.raises(RejectedInput, match="no raw record"):
        list(read_raw_shard(io.BytesIO(path.read_bytes())))


def test_released_rows_are_their_entries() -> None:
    data = encode_values(ROW)
    assert len(data) == 10
    assert np.array_equal(decode_values(data, (1, 1, 5), ENTRIES), ROW)
    record = Released(bytes(16), 3, data)
    assert unpack_released(bytes(16), pack_released(record)) == record
    with pytest.raises(RejectedInput, match="5 entries of 2"):
        decode_values(data[:-1], (1, 1, 5), ENTRIES)
    with pytest.raises(RejectedInput, match=r"\(1, 1, d\)"):
        encode_values(ROW.reshape(1, 5, 1))


def test_released_pictures_are_png() -> None:
    data = encode_values(PICTURE)
    assert data.startswith(b"\x89PNG")
    assert np.array_equal(decode_values(data, (2, 2, 3), PIXELS), PICTURE)


def test_stacked_rows_keep_their_type_even_if_all_are_rejected() -> None:
    batch = stack([RECORDS[2]], (1, 1, 5), ENTRIES)
    assert (batch.images.dtype, batch.images.sum(), batch.valid.tolist()) == (ENTRIES, 0, [False])


def test_the_value_that_stands_for_one() -> None:
    assert (top(np.uint8), top(np.uint16)) == (255, 65_535)
    for kind in (np.int16, np.float32, np.uint32, np.bool_):
        with pytest.raises(RejectedInput, match="are needed"):
            top(kind)
