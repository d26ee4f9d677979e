"""Tars and PNGs: what is written is plain and the same every time; what is read may be hostile."""

import io
import json
import os
import struct
import subprocess
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from cadp.errors import RejectedInput
from cadp.records import Record
from cadp.shards import TarLimits, decode_png, encode_png, read_raw_shard, read_tar, write_raw_shard, write_tar

MIB = 1 << 20


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    """Fail if what is done meanwhile holds more than `limit` bytes of Python's memory at any time."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit


def image(seed: int, shape: tuple[int, int, int] = (28, 28, 1)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def chunks(png: bytes) -> list[bytes]:
    """The names of a PNG's chunks, to the last byte of the file."""
    names, at = [], 8
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        names.append(png[at + 4 : at + 8])
        at += 12 + length
    assert at == len(png)
    return names


def tar_of(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.USTAR_FORMAT) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=form) as tar:
        for member, data in members:
            tar.addfile(member, io.BytesIO(data))
    return sink.getvalue()


def member(name: str, data: bytes = b"x", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.size = len(data)
    for field, value in fields.items():
        setattr(made, field, value)
    return made, data


def read(data: bytes, limits: TarLimits | None = None) -> list[tuple[str, dict[str, bytes]]]:
    return list(read_tar(io.BytesIO(data), limits))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
class TestPng:
    @settings(max_examples=60, deadline=None)
    @given(st.data(), st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.integers(0, 9))
    def test_pixels_come_back_and_nothing_else_is_there(
        self, data: st.DataObject, h: int, w: int, c: int, level: int
    ) -> None:
        pixels = data.draw(arrays(np.uint8, (h, w, c)))
        png = encode_png(pixels, level)
        assert chunks(png) == [b"IHDR", b"IDAT", b"IEND"]
        assert np.array_equal(decode_png(png, (h, w, c)), pixels)

    def test_a_large_image_has_no_other_chunks_either(self) -> None:
        png = encode_png(image(0, (1000, 1000, 3)))
        assert set(chunks(png)) == {b"IHDR", b"IDAT", b"IEND"}

    def test_a_view_with_strides_is_encoded_as_it_looks(self) -> None:
        pixels = image(0, (30, 30, 3))[::-2, ::3]
        assert np.array_equal(decode_png(encode_png(pixels), (15, 10, 3)), pixels)

    @pytest.mark.parametrize("shape", [(28, 28), (28, 28, 2), (28, 28, 4), (0, 28, 1), (1, 28, 28, 1)])
    def test_another_shape_is_not_encoded(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(RejectedInput, match="cannot encode"):
            encode_png(np.zeros(shape, dtype=np.uint8))
        with pytest.raises(RejectedInput, match="float64"):
            encode_png(np.zeros((28, 28, 1)))  # type: ignore[arg-type]

    def test_metadata_is_ignored_and_does_not_ride_along(self) -> None:
        about = PngImagePlugin.PngInfo()
        about.add_text("PatientName", "Jane Doe", zip=True)
        sink = io.BytesIO()
        Image.fromarray(image(1)[:, :, 0]).save(sink, "PNG", pnginfo=about, dpi=(72, 72), exif=Image.Exif().tobytes())
        assert len(chunks(sink.getvalue())) > 3
        again = encode_png(decode_png(sink.getvalue(), (28, 28, 1)))
        assert chunks(again) == [b"IHDR", b"IDAT", b"IEND"]
        assert b"Jane" not in again

    @staticmethod
    def _saved(mode: str, form: str = "PNG", size: tuple[int, int] = (28, 28), **options: object) -> bytes:
        sink = io.BytesIO()
        Image.new(mode, size).save(sink, form, **options)
        return sink.getvalue()

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "not a readable PNG"),
            (b"\x89PNG\r\n\x1a\n", "not a readable PNG"),
            (encode_png(image(2))[:-30], "not a readable PNG"),
            (encode_png(image(2))[:60] + b"\0\0" + encode_png(image(2))[62:], "not a readable PNG"),
            (_saved("L", "GIF"), "not a readable PNG"),
            (_saved("L", "BMP"), "not a readable PNG"),
            (_saved("RGBA"), "of mode RGBA"),
            (_saved("P"), "of mode P"),
            (_saved("1"), "of mode 1"),
            (_saved("I;16"), "of mode I"),
            (_saved("L", append_images=[Image.new("L", (28, 28), 9)], save_all=True), "still image"),
            (_saved("RGB"), r"of shape \(28, 28, 3\)"),
            (_saved("L", size=(28, 27)), r"of shape \(27, 28, 1\)"),
            (_saved("L", size=(1 << 14, 1 << 13)), "at most"),
        ],
    )
    def test_what_is_no_such_png_is_rejected(self, data: bytes, reason: str) -> None:
        with pytest.raises(RejectedInput, match=reason):
            decode_png(data, (28, 28, 1))

    def test_a_bomb_is_rejected_before_its_pixels_take_memory(self) -> None:
        head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
        png = b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
            for name, body in [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(MIB))), (b"IEND", b"")]
        )
        with memory_below(MIB), pytest.raises(RejectedInput):
            decode_png(png, (60_000, 60_000, 3))

    @settings(max_examples=150, deadline=None)
    @given(st.integers(0, 10_000), st.binary(min_size=1, max_size=8))
    def test_a_damaged_png_is_rejected_or_decoded_but_never_an_accident(self, at: int, damage: bytes) -> None:
        png = bytearray(encode_png(image(3)))
        at %= len(png)
        png[at : at + len(damage)] = damage
        with suppress(RejectedInput):
            assert decode_png(bytes(png), (28, 28, 1)).shape == (28, 28, 1)


class TestTar:
    def samples(self) -> list[tuple[str, dict[str, bytes]]]:
        return [(f"{i:032x}", {"png": encode_png(image(i)), "cls": b"7", "json": b"{}"}) for i in range(20)]

    def test_samples_come_back_in_order(self, tmp_path: Path) -> None:
        assert write_tar(tmp_path / "a.tar", self.samples()) == 20
        with (tmp_path / "a.tar").open("rb") as stream:
            assert list(read_tar(stream)) == self.samples()

    def test_headers_say_nothing_about_when_where_and_who(self, tmp_path: Path) -> None:
        write_tar(tmp_path / "a.tar", self.samples())
        os.utime(tmp_path / "a.tar", (0, 0))
        write_tar(tmp_path / "b.tar", iter(self.samples()))
        assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
        with tarfile.open(tmp_path / "a.tar", "r:") as tar:
            members = tar.getmembers()
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.type) for m in members} == {
            (0, 0, 0, "", "", 0o644, tarfile.REGTYPE)
        }
        assert [m.name for m in members] == [f"{key}.{end}" for key, parts in self.samples() for end in parts]
        assert not any(m.pax_headers for m in members)

    @pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves it to the collector
    def test_webdataset_and_plain_tar_read_it(self, tmp_path: Path) -> None:
        write_tar(tmp_path / "a.tar", self.samples())
        found = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
        assert [sample["__key__"] for sample in found] == [key for key, _ in self.samples()]
        assert [sample["png"] for sample in found] == [parts["png"] for _, parts in self.samples()]
        listed = subprocess.run(["tar", "tf", tmp_path / "a.tar"], capture_output=True, text=True, check=True)
        assert len(listed.stdout.splitlines()) == 60

    def test_what_others_write_is_read(self, tmp_path: Path) -> None:
        with webdataset.TarWriter(str(tmp_path / "w.tar")) as writer:
            writer.write({"__key__": "train/000", "png": b"1", "seg.png": b"2", "cls": 3})
        with (tmp_path / "w.tar").open("rb") as stream:
            assert list(read_tar(stream)) == [("train/000", {"cls": b"3", "png": b"1", "seg.png": b"2"})]
        long = "d" * 120 + "/" + "k" * 100
        for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
            assert read(tar_of(member(f"{long}.png", mtime=1.5), form=form)) == [(long, {"png": b"x"})]

    @pytest.mark.parametrize(
        ("key", "extension"),
        [("a.b", "png"), ("../a", "png"), ("", "png"), ("a", ""), ("a", "../x"), ("k" * 91, "png")],
    )
    def test_a_name_that_would_not_come_back_is_not_written(self, tmp_path: Path, key: str, extension: str) -> None:
        with pytest.raises(RejectedInput, match="no WebDataset name"):
            write_tar(tmp_path / "a.tar", [(key, {extension: b""})])

    def test_reading_holds_one_sample_at_a_time(self, tmp_path: Path) -> None:
        write_tar(tmp_path / "a.tar", ((f"{i}", {"bin": os.urandom(MIB)}) for i in range(32)))
        with memory_below(6 * MIB), (tmp_path / "a.tar").open("rb") as stream:
            assert sum(1 for _ in read_tar(stream)) == 32


def header_that_claims(size: bytes, kind: bytes = b"0", name: bytes = b"a.png") -> bytes:
    """A tar header with any size field, its checksum right."""
    head = bytearray(tar_of(member(name.decode()))[:512])
    head[124:136] = size
    head[156:157] = kind
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


GOOD = tar_of(member("a.png"), member("b.png"))
LINK = {"linkname": "/etc/passwd"}
HOSTILE: dict[str, tuple[bytes, str]] = {
    "symbolic_link": (tar_of(member("a.png", b"", type=tarfile.SYMTYPE, **LINK)), "not a regular file"),
    "hard_link": (tar_of(member("a.png", b"", type=tarfile.LNKTYPE, **LINK)), "not a regular file"),
    "character_device": (tar_of(member("a.png", b"", type=tarfile.CHRTYPE)), "not a regular file"),
    "block_device": (tar_of(member("a.png", b"", type=tarfile.BLKTYPE)), "not a regular file"),
    "fifo": (tar_of(member("a.png", b"", type=tarfile.FIFOTYPE)), "not a regular file"),
    "directory": (tar_of(member("a.png", b"", type=tarfile.DIRTYPE)), "not a regular file"),
    "contiguous_file": (tar_of(member("a.png", type=tarfile.CONTTYPE)), "not a regular file"),
    "unknown_type": (tar_of(member("a.png", type=b"Z")), "not a regular file"),
    "gnu_sparse_file": (header_that_claims(b"00000001000\0", b"S") + bytes(2048), "not a regular file"),
    "pax_sparse_file": (
        tar_of(
            member("a.png", b"1\n0\n1\n", pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": "99999999999"}),
            form=tarfile.PAX_FORMAT,
        ),
        "not a regular file",
    ),
    "parent_folder": (tar_of(member("../a.png")), "leads elsewhere"),
    "parent_folder_inside": (tar_of(member("a/../../b.png")), "leads elsewhere"),
    "absolute_path": (tar_of(member("/etc/a.png")), "leads elsewhere"),
    "backslash": (tar_of(member("..\\a.png")), "leads elsewhere"),
    "control_character": (tar_of(member("a\x1b[2J.png")), "leads elsewhere"),
    "absolute_path_in_pax": (tar_of(member("a.png", pax_headers={"path": "/etc/a.png"}), form=1 << 1), "elsewhere"),
    "no_extension": (tar_of(member("README")), "no WebDataset name"),
    "no_key": (tar_of(member(".png")), "no WebDataset name"),
    "empty_folder_name": (tar_of(member("a//b.png")), "no WebDataset name"),
    "name_too_long": (tar_of(member("d/" * 200 + "a.png"), form=tarfile.GNU_FORMAT), "no WebDataset name"),
    "duplicate_member": (tar_of(member("a.png"), member("a.png")), "two members a.png"),
    "too_many_members": (tar_of(*(member(f"{i}.png") for i in range(101))), "more than 100 members"),
    "member_too_large": (tar_of(member("a.png", bytes(MIB + 1))), "has 1048577 bytes"),
    "member_claims_to_be_huge": (header_that_claims(b"77777777777\0") + bytes(1024), "has 8589934591 bytes"),
    "member_claims_a_negative_size": (header_that_claims(b"\xff" * 12) + bytes(1024), "damaged|has -1 bytes|readable"),
    "sample_too_large": (tar_of(*(member(f"a.{i}", bytes(MIB)) for i in range(3))), "sample 'a' has more than"),
    "total_too_large": (tar_of(*(member(f"{i}.png", bytes(MIB)) for i in range(5))), "more than 4194304 bytes"),
    "long_name_claims_to_be_huge": (header_that_claims(b"77777777777\0", b"L") + bytes(3 * MIB), "header is larger"),
    "pax_header_claims_to_be_huge": (header_that_claims(b"77777777777\0", b"x") + bytes(3 * MIB), "header is larger"),
    "global_header_claims_to_be_huge": (
        header_that_claims(b"77777777777\0", b"g") + bytes(3 * MIB),
        "header is larger",
    ),
    "header_after_header": (header_that_claims(b"00000000000\0", b"L") * 1000, "tar"),
    "pax_header_that_lies": (header_that_claims(b"00000000012\0", b"x") + b"99 path=a\n".ljust(512, b"\0"), "tar"),
    "name_that_is_no_text": (header_that_claims(b"00000000001\0").replace(b"a.png", b"\xff.png"), "tar"),
    "nothing": (b"", "damaged or truncated"),
    "not_a_tar": (b"PK\x03\x04" + os.urandom(2000), "damaged or truncated"),
    "compressed": (zlib.compress(GOOD, wbits=31), "damaged or truncated"),
    "truncated_in_a_header": (GOOD[:700], "damaged or truncated|not a readable"),
    "truncated_in_data": (tar_of(member("a.png", bytes(5000)))[:3000], "tar"),
    "truncated_between_members": (GOOD[:1024], "damaged or truncated"),
    "garbage_between_members": (GOOD[:1024] + b"?" * 512 + GOOD[1024:], "damaged or truncated"),
    "wrong_checksum": (b"b" + GOOD[1:], "damaged or truncated"),
}
LIMITS = TarLimits(members=100, member_bytes=MIB, sample_bytes=2 * MIB, total_bytes=4 * MIB)


class TestHostileTars:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_each_is_rejected_for_its_reason(self, name: str) -> None:
        data, reason = HOSTILE[name]
        with pytest.raises(RejectedInput, match=reason):
            read(data, LIMITS)

    @pytest.mark.parametrize("name", HOSTILE)
    def test_none_takes_more_memory_than_its_limits(self, name: str) -> None:
        stream = io.BytesIO(HOSTILE[name][0])
        with memory_below(5 * MIB), pytest.raises(RejectedInput):
            for _ in read_tar(stream, LIMITS):
                pass

    def test_an_endless_header_is_left_early(self) -> None:
        class Endless(io.RawIOBase):
            taken = 0

            def read(self, length: int = -1) -> bytes:
                head = header_that_claims(b"77777777777\0", b"L") if self.taken == 0 else b""
                self.taken += length
                return head + b"n" * (length - len(head))

        stream = Endless()
        with pytest.raises(RejectedInput, match="header is larger"):
            list(read_tar(stream))  # type: ignore[arg-type]
        assert stream.taken < MIB

    @settings(max_examples=200, deadline=None)
    @given(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=16))
    def test_damage_is_rejected_or_read_but_never_an_accident(self, at: int, damage: bytes) -> None:
        data = bytearray(tar_of(member("a.png", b"1" * 600, pax_headers={"k": "v" * 50}), member("b.cls"), form=2))
        at %= len(data)
        data[at : at + len(damage)] = damage
        with suppress(RejectedInput):
            read(bytes(data), LIMITS)


class TestRawShards:
    def records(self) -> list[Record]:
        return [
            Record("img/1.png", "patient 7", 3, image(1)),
            Record("img/2.png\n", "пациент", 0, None),
            Record("", "", 9, image(2, (5, 7, 3))),
        ]

    @staticmethod
    def written(records: Iterable[Record], path: Path) -> Path:
        write_raw_shard(path, records)
        return path

    def test_records_come_back(self, tmp_path: Path) -> None:
        assert write_raw_shard(tmp_path / "raw.tar", iter(self.records())) == 3
        with (tmp_path / "raw.tar").open("rb") as stream:
            found = list(read_raw_shard(stream))
        for record, original in zip(found, self.records(), strict=True):
            assert (record.key, record.unit, record.label) == (original.key, original.unit, original.label)
            assert (record.image is None) == (original.image is None)
            assert original.image is None or np.array_equal(record.image, original.image)

    @pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
    def test_plain_webdataset_reads_them(self, tmp_path: Path) -> None:
        path = self.written(self.records(), tmp_path / "raw.tar")
        found = list(webdataset.WebDataset(str(path), shardshuffle=False).decode("pil"))
        assert [sample["__key__"] for sample in found] == ["00000000", "00000001", "00000002"]
        assert [sample["cls"] for sample in found] == [3, 0, 9]
        assert found[0]["json"] == {"key": "img/1.png", "unit": "patient 7"}
        assert found[2]["png"].size == (7, 5)
        assert "png" not in found[1]

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda parts: parts.pop("cls"),
            lambda parts: parts.pop("json"),
            lambda parts: parts.update(cls=b"shirt"),
            lambda parts: parts.update(json=b"{"),
            lambda parts: parts.update(json=b"[]"),
            lambda parts: parts.update(json=json.dumps({"key": "k"}).encode()),
            lambda parts: parts.update(json=b"\xff"),
            lambda parts: parts.update(png=b"GIF89a"),
        ],
    )
    def test_what_is_no_raw_record_is_rejected(self, tmp_path: Path, spoil: Callable[[dict[str, bytes]], None]) -> None:
        parts = {"cls": b"1", "json": b'{"key": "k", "unit": "u"}', "png": encode_png(image(0))}
        spoil(parts)
        write_tar(tmp_path / "raw.tar", [("0", parts)])
        with (tmp_path / "raw.tar").open("rb") as stream, pytest.raises(RejectedInput):
            list(read_raw_shard(stream))
