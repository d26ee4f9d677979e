"""One pass writes both forms of an interval: deterministic, near-equal, and with nothing that rides along."""

import io
import struct
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from cadp.errors import PublishConflict, RejectedInput
from cadp.publish.facts import ReleaseFacts
from cadp.publish.interval import PublishedFile, intervals, publish_interval
from cadp.publish.png import check_plain, chunks
from cadp.records import Released
from cadp.shards import encode_png
from cadp.store import Store

from .conftest import make_facts, make_records, publish_records


def test_intervals_are_dense_and_hold_every_record(
    records: list[Released], facts: ReleaseFacts, tmp_path: Path
) -> None:
    target = Store.open(str(tmp_path / "release"))
    files = publish_records(target, records, facts, tmp_path, of=4)
    assert [file.path for file in files if file.path.endswith("tar")] == [f"shards/train-{i:06d}.tar" for i in range(4)]
    assert [file.path for file in files if file.path.endswith("parquet")] == [
        f"data/train-{i:05d}-of-00004.parquet" for i in range(4)
    ]
    for form in ("tar", "parquet"):
        mine = [file for file in files if file.path.endswith(form)]
        assert sum(file.records for file in mine) == len(records)
        counts = np.sum([file.class_counts for file in mine], axis=0)
        assert counts.tolist() == np.bincount([record.label for record in records]).tolist()
    for file in files:
        assert PublishedFile.from_json(file.to_json()) == file
        assert target.size(file.path) == file.size
        assert target.sha256(file.path) == file.sha256
    assert not list(tmp_path.glob("publish-*")), "scratch is left behind"


def test_same_records_same_bytes(records: list[Released], facts: ReleaseFacts, tmp_path: Path) -> None:
    one, two = (Store.open(str(tmp_path / name)) for name in ("one", "two"))
    first = publish_records(one, records, facts, tmp_path)
    assert publish_records(two, records, facts, tmp_path) == first
    assert publish_records(one, records, facts, tmp_path) == first
    other = replace(records[0], label=(records[0].label + 1) % 5)
    with pytest.raises(PublishConflict, match="immutable"):
        publish_records(one, [other, *records[1:]], facts, tmp_path)


def test_records_are_streamed(facts: ReleaseFacts, tmp_path: Path) -> None:
    """The writer never holds more than a row group of what it was given."""
    alive = peak = 0

    class Counted(bytes):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    png = make_records(1)[0].data

    def stream() -> object:
        nonlocal alive, peak
        for index in range(1, 1001):
            alive += 1
            peak = max(peak, alive)
            yield Released(index.to_bytes(16, "big"), 0, Counted(png))

    publish_interval(Store.open(str(tmp_path / "release")), 0, 1, stream(), facts, scratch=tmp_path)
    assert peak <= 110


def test_a_tar_says_nothing_of_who_made_it_and_when(release: Path) -> None:
    for shard in (release / "shards").glob("*.tar"):
        with tarfile.open(shard) as tar:
            members = tar.getmembers()
        for member in members:
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
            assert member.isreg()
            assert member.mode == 0o644
            assert not member.pax_headers
            key, dot, form = member.name.partition(".")
            assert len(bytes.fromhex(key)) == 16
            assert (dot, form) in {(".", "png"), (".", "cls")}
        names = [member.name for member in members]
        assert [name[:32] for name in names[::2]] == sorted({name[:32] for name in names})
        assert [name[:32] for name in names[::2]] == [name[:32] for name in names[1::2]]


def test_released_pngs_have_pixels_only(release: Path) -> None:
    for path in (release / "data").glob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            kinds = {kind for kind, _, _ in chunks(row["image"]["bytes"])}
            assert kinds == {b"IHDR", b"IDAT", b"IEND"}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tainted() -> dict[str, bytes]:
    png = make_records(1)[0].data
    image = Image.open(io.BytesIO(png))
    text = PngImagePlugin.PngInfo()
    text.add_text("PatientName", "Doe^Jane")
    with_text, with_exif, palette, deep = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    image.save(with_text, "PNG", pnginfo=text)
    exif = Image.Exif()
    exif[0x010E] = "Doe^Jane"
    image.save(with_exif, "PNG", exif=exif)
    image.convert("P").save(palette, "PNG")
    image.convert("I;16").save(deep, "PNG")
    end = png.index(b"IEND") - 4
    return {
        "text": with_text.getvalue(),
        "exif": with_exif.getvalue(),
        "palette": palette.getvalue(),
        "sixteen bits": deep.getvalue(),
        "private chunk": png[:end] + chunk(b"prVt", b"Doe^Jane") + png[end:],
        "time": png[:end] + chunk(b"tIME", b"\x07\xea\x01\x02\x03\x04\x05") + png[end:],
        "after the end": png + b"Doe^Jane",
        "data in the end": png[:end] + chunk(b"IEND", b"Doe^Jane"),
        "truncated": png[:-3],
        "no image data": png[:33] + png[end:],
        "not a PNG": b"GIF89a" + png,
        "another shape": encode_png(np.zeros((27, 28, 1), np.uint8)),
        "colour": encode_png(np.zeros((28, 28, 3), np.uint8)),
    }


@pytest.mark.parametrize("taint", list(tainted()))
def test_a_tainted_png_is_never_published(taint: str, facts: ReleaseFacts, tmp_path: Path) -> None:
    target = Store.open(str(tmp_path / "release"))
    record = Released(bytes(16), 0, tainted()[taint])
    with pytest.raises(RejectedInput):
        publish_interval(target, 0, 1, [record], facts, scratch=tmp_path)
    assert target.list() == []


def test_colour_images_are_plain_too(tmp_path: Path) -> None:
    facts = make_facts(shape=(32, 48, 3))
    records = make_records(20, (32, 48, 3))
    files = publish_records(Store.open(str(tmp_path / "release")), records, facts, tmp_path, of=1)
    assert files[0].records == 20
    check_plain(records[0].data, (32, 48, 3))


@pytest.mark.parametrize(
    ("ids", "label", "reason"),
    [
        ([2, 1], 0, "out of order"),
        ([1, 1], 0, "duplicate"),
        ([1], 5, "label 5"),
        ([1], -1, "label -1"),
        ([1 << 127], 0, "outside its interval"),
    ],
)
def test_a_record_out_of_place_is_refused(
    ids: list[int], label: int, reason: str, facts: ReleaseFacts, tmp_path: Path
) -> None:
    target = Store.open(str(tmp_path / "release"))
    png = make_records(1)[0].data
    records = [Released(identity.to_bytes(16, "big"), label, png) for identity in ids]
    with pytest.raises(RejectedInput, match=reason):
        publish_interval(target, 0, 2, records, facts, scratch=tmp_path)
    assert target.list() == []


def test_how_many_intervals() -> None:
    assert intervals(60_000, 784, workers=8) == 8
    assert intervals(50, 784, workers=8) == 1
    assert intervals(10**7, 128 * 128 * 3) * (256 << 20) >= 10**7 * 128 * 128 * 3
