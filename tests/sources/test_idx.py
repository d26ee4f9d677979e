import gzip
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cadp.errors import SourceError
from cadp.sources import PublicFacts
from cadp.sources.idx import IdxSource

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


def read(folder: Path, facts: PublicFacts, split: str = "train") -> list[Any]:
    return list(IdxSource(folder, facts).records(split, lambda key, reason: None))


@pytest.mark.parametrize("packed", [True, False])
def test_reads_both_splits_in_order(idx_folder: Callable[..., Path], facts: PublicFacts, packed: bool) -> None:
    folder = idx_folder(packed=packed)
    rng = np.random.default_rng(0)
    for split, n in (("train", 25), ("test", 5)):
        expected = rng.integers(0, 256, (n, 6, 4)).astype(np.uint8)
        records = read(folder, facts, split)
        assert [record.key for record in records] == [f"{split}-{i:06d}" for i in range(n)]
        assert all(record.unit == record.key for record in records)
        assert [record.label for record in records] == [i % 3 for i in range(n)]
        for record, image in zip(records, expected, strict=True):
            assert record.image.shape == (6, 4, 1)
            assert np.array_equal(record.image[:, :, 0], image)


def test_reads_past_one_block(tmp_path: Path, facts: PublicFacts) -> None:
    n = 2_345
    images = np.random.default_rng(2).integers(0, 256, (n, 6, 4)).astype(np.uint8)
    (tmp_path / IMAGES).write_bytes(gzip.compress(struct.pack(">4I", 0x803, n, 6, 4) + images.tobytes()))
    (tmp_path / LABELS).write_bytes(gzip.compress(struct.pack(">2I", 0x801, n) + bytes(i % 3 for i in range(n))))
    records = read(tmp_path, facts)
    assert len(records) == n
    assert all(np.array_equal(record.image[:, :, 0], image) for record, image in zip(records, images, strict=True))


def test_the_inventory_reads_no_content(idx_folder: Callable[..., Path], facts: PublicFacts) -> None:
    folder = idx_folder(replace={IMAGES: b"not gzip", LABELS: b""})
    files = IdxSource(folder, facts).files()
    assert {split: [file.path for file in some] for split, some in files.items()} == {
        "train": [IMAGES, LABELS],
        "test": ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"],
    }
    assert [file.size for file in files["train"]] == [8, 0]
    before = files["train"][0].etag
    (folder / IMAGES).write_bytes(b"other!!!")
    assert IdxSource(folder, facts).files()["train"][0].etag != before
    assert IdxSource(folder, facts, etags={IMAGES: "pin"}).files()["train"][0].etag == "pin"


def test_a_label_beyond_the_classes_is_set_aside_and_still_counts(idx_folder: Callable[..., Path]) -> None:
    labels = bytes([0, 1, 2, 200, 3] * 5)
    folder = idx_folder(replace={LABELS: gzip.compress(struct.pack(">2I", 0x801, 25) + labels)})
    facts = PublicFacts(25, 5, (6, 4, 1), ("a", "b", "c"))
    rejects: list[tuple[str, str]] = []
    records = list(IdxSource(folder, facts).records("train", lambda *reject: rejects.append(reject)))
    assert len(records) == 25
    assert len(rejects) == 10
    assert rejects[0] == ("train-000003", "label 200 of 3 classes")
    assert [record.key for record in records if record.image is None] == [key for key, _ in rejects]
    assert all(0 <= record.label < 3 for record in records)
    # The stand-in depends on position alone: another bad label gives the same one.
    other = gzip.compress(struct.pack(">2I", 0x801, 25) + labels.replace(bytes([200]), bytes([77])))
    (folder / LABELS).write_bytes(other)
    assert [record.label for record in read(folder, facts)] == [record.label for record in records]


def pixels(n: int = 25, height: int = 6, width: int = 4, magic: int = 0x803, body: int | None = None) -> bytes:
    content = bytes(n * height * width if body is None else body)
    return gzip.compress(struct.pack(">4I", magic, n, height, width) + content)


def named(n: int = 25, magic: int = 0x801, body: int | None = None) -> bytes:
    return gzip.compress(struct.pack(">2I", magic, n) + bytes(n if body is None else body))


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({IMAGES: None}, "train-images-idx3-ubyte"),
        ({LABELS: None}, "train-labels-idx1-ubyte"),
        ({IMAGES: b""}, "truncated"),
        ({IMAGES: b"this is no gzip file"}, "cannot be read"),
        ({IMAGES: pixels(magic=0x801)}, "magic 0x00000801, not 0x00000803"),
        ({LABELS: named(magic=0xD01)}, "magic 0x00000d01"),
        ({IMAGES: gzip.compress(b"abc")}, "truncated"),
        ({IMAGES: pixels(body=599)}, "truncated: 1 bytes missing"),
        ({IMAGES: pixels(body=601)}, "longer than its header says"),
        ({LABELS: named(body=24)}, "truncated"),
        ({LABELS: named(body=26)}, "longer"),
        ({LABELS: named(24)}, "holds 25 images but train-labels-idx1-ubyte.gz 24 labels"),
        ({IMAGES: pixels(height=4, width=6)}, "images of 4×6; the spec says 6×4"),
        ({IMAGES: pixels()[:-12]}, "cannot be read"),
        ({IMAGES: pixels()[:-8] + bytes(8)}, "CRC"),
        ({IMAGES: pixels(2**32 - 1, body=0), LABELS: named(2**32 - 1, body=0)}, "over 200 times"),
    ],
)
def test_hostile_files_get_one_line(
    idx_folder: Callable[..., Path], facts: PublicFacts, bad: dict[str, bytes | None], says: str
) -> None:
    with pytest.raises(SourceError) as caught:
        read(idx_folder(replace=bad), facts)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sparse_plain_file_that_promises_too_much_is_refused_before_it_is_read(
    idx_folder: Callable[..., Path], facts: PublicFacts
) -> None:
    folder = idx_folder(packed=False)
    (folder / IMAGES[:-3]).write_bytes(struct.pack(">4I", 0x803, 2**31, 6, 4))
    (folder / LABELS[:-3]).write_bytes(struct.pack(">2I", 0x801, 2**31))
    with pytest.raises(SourceError, match="truncated: 16 bytes"):
        read(folder, facts)


def test_a_folder_in_place_of_a_file_and_colour_are_refused(tmp_path: Path, facts: PublicFacts) -> None:
    (tmp_path / IMAGES).mkdir()
    with pytest.raises(SourceError, match="has no train-images"):
        read(tmp_path, facts)
    with pytest.raises(SourceError, match="grey"):
        IdxSource(tmp_path, replace(facts, shape=(6, 4, 3)))


def test_pinned_content_is_verified_once_before_the_first_record(
    idx_folder: Callable[..., Path], facts: PublicFacts
) -> None:
    calls: list[int] = []
    source = IdxSource(idx_folder(), facts, verify=lambda: calls.append(1))
    source.files()
    assert calls == []
    for split in ("train", "test"):
        list(source.records(split, lambda key, reason: None))
    assert calls == [1]

    def refuse() -> None:
        raise SourceError("not the pinned file")

    with pytest.raises(SourceError, match="pinned"):
        next(IdxSource(idx_folder(), facts, verify=refuse).records("train", lambda key, reason: None))
