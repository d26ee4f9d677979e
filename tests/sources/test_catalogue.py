import gzip
import hashlib
from pathlib import Path

import pytest

from cadp.errors import SourceError
from cadp.sources import PublicFacts, catalogue
from cadp.sources.catalogue import PinnedFile, PublicDataset


@pytest.fixture
def tiny(tmp_path: Path) -> PublicDataset:
    """A dataset of one file whose content is pinned."""
    content = b"content" * 100
    return PublicDataset(
        name="tiny",
        format="idx",
        facts=PublicFacts(1, 1, (1, 1, 1), ("a", "b")),
        license="MIT",
        description="tiny",
        homepage="tiny",
        files=(PinnedFile("a.gz", len(content), hashlib.sha256(content).hexdigest()),),
        debian_package="dataset-tiny",
        debian_folder=tmp_path / "debian",
        addresses=(),
    )


def test_fashion_mnists_facts_are_consistent() -> None:
    known = catalogue.get("fashion-mnist")
    assert sum(known.facts.class_counts or ()) == known.facts.records == 60_000
    assert len(known.facts.classes) == len(known.facts.class_counts or ()) == 10
    sizes = {file.name: file.size for file in known.files}
    assert sizes["train-images-idx3-ubyte.gz"] == 16 + 60_000 * 28 * 28
    assert sizes["t10k-images-idx3-ubyte.gz"] == 16 + 10_000 * 28 * 28
    assert sizes["train-labels-idx1-ubyte.gz"] == 8 + 60_000
    assert sizes["t10k-labels-idx1-ubyte.gz"] == 8 + 10_000
    assert all(len(bytes.fromhex(file.sha256)) == 32 for file in known.files)


def test_a_repacked_file_is_the_same_content(tiny: PublicDataset, tmp_path: Path) -> None:
    for level, time in ((1, 0), (9, 12345)):
        (tmp_path / "a.gz").write_bytes(gzip.compress(b"content" * 100, level, mtime=time))
        catalogue.verify(tiny, tmp_path)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "missing"),
        (b"", "not the pinned file"),
        (b"junk", "unreadable"),
        (gzip.compress(b"content" * 99 + b"Content", mtime=0), "not the pinned file"),
        (gzip.compress(b"content" * 99, mtime=0), "not the pinned file"),
        (gzip.compress(b"content" * 100 + b"!", mtime=0), "not the pinned file"),
        (gzip.compress(b"content" * 100, mtime=0)[:-9], "unreadable"),
        (gzip.compress(b"content" * 100, mtime=0) + gzip.compress(bytes(300 << 20), mtime=0), "not the pinned file"),
    ],
)
def test_any_other_content_is_refused(tiny: PublicDataset, tmp_path: Path, data: bytes | None, says: str) -> None:
    if data is not None:
        (tmp_path / "a.gz").write_bytes(data)
    with pytest.raises(SourceError, match=says) as caught:
        catalogue.verify(tiny, tmp_path)
    assert "make data" in str(caught.value)


def test_looks_in_the_data_folder_first_then_where_debian_puts_it(
    tiny: PublicDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "_DATASETS", (tiny,))
    with pytest.raises(SourceError, match=r"make data.*apt install dataset-tiny"):
        catalogue.locate("tiny", tmp_path / "data")
    for folder in (tiny.debian_folder, tmp_path / "data" / "tiny"):
        folder.mkdir(parents=True)
        (folder / "a.gz").write_bytes(b"")
        assert catalogue.locate("tiny", tmp_path / "data") == folder
    with pytest.raises(SourceError, match="no catalogued dataset 'other'; there are: tiny"):
        catalogue.locate("other", tmp_path)
