import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cadp.errors import RejectedInput, SourceError
from cadp.records import Record
from cadp.sources import PublicFacts
from cadp.sources.imagefolder import ImageFolderSource, decode

GREY = np.random.default_rng(0).integers(0, 256, (6, 4, 1)).astype(np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (6, 4, 3)).astype(np.uint8)


def encode(image: np.ndarray, kind: str = "PNG", mode: str | None = None, **options: object) -> bytes:
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    stream = io.BytesIO()
    (picture.convert(mode) if mode else picture).save(stream, kind, **options)
    return stream.getvalue()


def read(root: Path, facts: PublicFacts, split: str = "train") -> tuple[list[Record], dict[str, str]]:
    rejects: dict[str, str] = {}
    return list(ImageFolderSource(root, facts).records(split, rejects.__setitem__)), rejects


def test_reads_classes_in_the_specs_order_and_files_by_name(picture_folder: Path, facts: PublicFacts) -> None:
    turned = replace(facts, classes=("c", "a", "b"))
    records, rejects = read(picture_folder, turned)
    assert rejects == {}
    names = ["0.png", "1.JPG", "2.png", "3.JPG"]
    assert [record.key for record in records] == [f"train/{name}/{file}" for name in "cab" for file in names]
    assert [record.label for record in records] == [0] * 4 + [1] * 4 + [2] * 4
    assert all(record.unit == record.key for record in records)
    assert all(record.image is not None and record.image.shape == (6, 4, 1) for record in records)
    assert len(read(picture_folder, facts, "test")[0]) == 3


def test_the_inventory_lists_pictures_without_reading_them(picture_folder: Path, facts: PublicFacts) -> None:
    (picture_folder / "train" / "a" / "0.png").write_bytes(b"broken")
    (picture_folder / "train" / "a" / ".hidden.png").write_bytes(b"x")
    (picture_folder / "train" / "a" / "notes.txt").write_bytes(b"x")
    files = ImageFolderSource(picture_folder, facts).files()
    assert [len(files["train"]), len(files["test"])] == [12, 3]
    assert files["train"][0].path == "train/a/0.png"
    assert files["train"][0].size == 6
    assert [file.path for file in files["train"]] == sorted(file.path for file in files["train"])


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def claimed(width: int, height: int) -> bytes:
    """A few bytes that claim to be a picture of any size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", head)
        + png_chunk(b"IDAT", zlib.compress(b""))
        + png_chunk(b"IEND", b"")
    )


def text_bomb() -> bytes:
    bomb = b"k\0\0" + zlib.compress(bytes(80 << 20))
    good = encode(GREY)
    return good[:33] + png_chunk(b"zTXt", bomb) + good[33:]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a PNG or JPEG"),
        (b"hello", "not a PNG or JPEG"),
        (encode(GREY, "GIF"), "not a PNG or JPEG"),
        (encode(GREY, "TIFF"), "not a PNG or JPEG"),
        (encode(GREY)[:50], "damaged"),
        (encode(GREY, "JPEG")[:-40], "damaged"),
        (encode(GREY)[:45] + b"\xff\xff\xff" + encode(GREY)[48:], "damaged"),
        (encode(np.vstack([GREY, GREY])), "12×4 pixels; the spec says 6×4"),
        (encode(np.moveaxis(GREY, 0, 1).copy()), "4×6 pixels"),
        (claimed(100_000, 100_000), "pixels"),
        (claimed(2**31 - 1, 2**31 - 1), "pixels"),
        (claimed(0, 0), "picture"),
        (text_bomb(), "damaged"),
        (encode(COLOUR), "mode RGB; the spec says 1 channels"),
        (encode(GREY, mode="LA"), "mode LA"),
        (encode(GREY, mode="I;16"), "mode I;16"),
    ],
)
def test_a_picture_that_will_not_do_is_set_aside_with_its_reason(
    picture_folder: Path, facts: PublicFacts, data: bytes, says: str
) -> None:
    (picture_folder / "train" / "b" / "1.JPG").write_bytes(data)
    records, rejects = read(picture_folder, facts)
    assert list(rejects) == ["train/b/1.JPG"]
    assert says in rejects["train/b/1.JPG"]
    assert "\n" not in rejects["train/b/1.JPG"]
    assert len(records) == 12
    (empty,) = [record for record in records if record.image is None]
    assert (empty.key, empty.label) == ("train/b/1.JPG", 1)


def test_links_and_folders_are_set_aside_never_followed(picture_folder: Path, facts: PublicFacts) -> None:
    folder = picture_folder / "train" / "a"
    (folder / "7.png").symlink_to(folder / "0.png")
    (folder / "8.png").symlink_to(folder / "nowhere")
    (folder / "9.png").mkdir()
    records, rejects = read(picture_folder, facts)
    assert rejects == {f"train/a/{i}.png": "not a regular file" for i in (7, 8, 9)}
    assert len(records) == 15


def test_a_file_too_large_to_be_a_picture_is_not_read(picture_folder: Path, facts: PublicFacts) -> None:
    with (picture_folder / "train" / "a" / "0.png").open("r+b") as stream:
        stream.truncate(65 << 20)
    assert "the most is" in read(picture_folder, facts)[1]["train/a/0.png"]


def test_a_name_that_is_not_text_gets_a_key_that_is(picture_folder: Path, facts: PublicFacts) -> None:
    target = bytes(picture_folder / "train" / "a") + b"/\xff\xfe.png"
    Path(target.decode("utf-8", "surrogateescape")).write_bytes(encode(GREY))
    keys = [record.key for record in read(picture_folder, facts)[0]]
    assert "train/a/\\xff\\xfe.png" in keys
    assert all(key.encode("utf-8") for key in keys)


def test_folders_that_are_not_the_specs_classes_stop_the_run(picture_folder: Path, facts: PublicFacts) -> None:
    (picture_folder / "train" / "d").mkdir()
    with pytest.raises(SourceError, match="unknown: d; missing: none"):
        read(picture_folder, facts)
    (picture_folder / "train" / "d").rmdir()
    with pytest.raises(SourceError, match="unknown: none; missing: e"):
        read(picture_folder, replace(facts, classes=("a", "b", "c", "e")))
    with pytest.raises(SourceError, match="no folder 'valid'"):
        read(picture_folder, facts, "valid")
    with pytest.raises(SourceError, match="1 or 3 channels"):
        ImageFolderSource(picture_folder, replace(facts, shape=(6, 4, 4)))


def test_colour_takes_what_converts_without_loss() -> None:
    shape = (6, 4, 3)
    assert np.array_equal(decode(encode(COLOUR), shape), COLOUR)
    assert np.array_equal(decode(encode(GREY), shape), np.repeat(GREY, 3, axis=2))
    assert decode(encode(COLOUR, mode="P"), shape).shape == shape
    for data in (encode(COLOUR, mode="RGBA"), encode(COLOUR, mode="P", transparency=3), encode(COLOUR, "JPEG", "CMYK")):
        with pytest.raises(RejectedInput, match="mode"):
            decode(data, shape)


def test_a_units_id_is_in_the_file_name(picture_folder: Path, facts: PublicFacts) -> None:
    source = ImageFolderSource(picture_folder, facts, unit_pattern=r"(\d)\.(?:png|JPG)")
    records = list(source.records("train", lambda *_: None))
    assert [record.unit for record in records] == ["0", "1", "2", "3"] * 3
    assert len({record.key for record in records}) == 12


@pytest.mark.parametrize("pattern", [r"(\d)\.png", r"(\d)", r"(\d?).*"], ids=["some", "a part", "empty"])
def test_a_name_without_a_unit_is_refused_and_not_shown(picture_folder: Path, facts: PublicFacts, pattern: str) -> None:
    (picture_folder / "train" / "c" / "maria.png").write_bytes(encode(GREY))
    with pytest.raises(SourceError, match="finds no unit") as refused:
        list(ImageFolderSource(picture_folder, facts, unit_pattern=pattern).records("train", lambda *_: None))
    assert "maria" not in str(refused.value)


def test_private_labels_are_in_no_key(picture_folder: Path, facts: PublicFacts) -> None:
    source = ImageFolderSource(picture_folder, facts, labels_private=True)
    with pytest.raises(SourceError, match="8 pictures of split train have a name that stands in another class"):
        list(source.records("train", lambda *_: None))
    for name in "abc":
        for path in (picture_folder / "train" / name).iterdir():
            path.rename(path.with_name(f"{name}{path.name}"))
    before = {record.key: record for record in source.records("train", lambda *_: None)}
    assert len(before) == 12
    assert all(record.unit == record.key for record in before.values())
    # A neighbour may have another label: its name, its unit and so its range are the same.
    (picture_folder / "train" / "a" / "a0.png").rename(picture_folder / "train" / "b" / "a0.png")
    after = {record.key: record for record in source.records("train", lambda *_: None)}
    assert before.keys() == after.keys()
    assert (before["train/a0.png"].label, after["train/a0.png"].label) == (0, 1)
