from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cadp import spec
from cadp.errors import SourceError, SpecError
from cadp.sources import catalogue, open_source
from cadp.sources.idx import IdxSource
from cadp.sources.imagefolder import ImageFolderSource


def declare(**fields: Any) -> spec.Source:
    base = {"format": "idx", "unit": "record", "why": "each image is another person", "labels": "public"}
    return spec.Source.model_validate({**base, **fields})


def declared(url: object, **fields: Any) -> spec.Source:
    facts = {"records": 25, "holdout_records": 5, "shape": [6, 4, 1], "classes": ["a", "b", "c"]}
    return declare(url=str(url), **{**facts, **fields})


def test_opens_folders_by_path_and_by_address(idx_folder: Callable[..., Path]) -> None:
    folder = idx_folder()
    for url in (str(folder), f"file://{folder}"):
        source = open_source(declared(url), data_dir=folder)
        assert isinstance(source, IdxSource)
        assert len(list(source.records("test", lambda key, reason: None))) == 5
        assert source.facts.to_json()["classes"] == ("a", "b", "c")


def test_opens_picture_folders(picture_folder: Path) -> None:
    source = open_source(declared(picture_folder, format="imagefolder"), data_dir=picture_folder)
    assert isinstance(source, ImageFolderSource)


def test_says_which_public_facts_are_missing(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"missing: source\.holdout_records, source\.shape"):
        open_source(declared(tmp_path, holdout_records=None, shape=None), data_dir=tmp_path)


def test_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no folder .*nowhere.*fashion-mnist"):
        open_source(declared(tmp_path / "nowhere"), data_dir=tmp_path)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"format": "imagefolder"}, "source.format of fashion-mnist is idx"),
        ({"records": 59_999}, "source.records of fashion-mnist is 60000, not 59999"),
        ({"shape": [28, 28, 3]}, "source.shape"),
        ({"classes": ["a", "b"]}, "source.classes"),
        ({"holdout_records": 1}, "source.holdout_records"),
    ],
)
def test_a_spec_that_contradicts_the_catalogue_is_wrong(tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says.replace(".", r"\.")):
        open_source(declare(url="fashion-mnist", **fields), data_dir=tmp_path)


def test_a_catalogued_source_keeps_its_facts_and_pins(tmp_path: Path) -> None:
    known = catalogue.get("fashion-mnist")
    folder = tmp_path / known.name
    folder.mkdir()
    for file in known.files:
        (folder / file.name).write_bytes(b"")
    source = open_source(declare(url="fashion-mnist"), data_dir=tmp_path)
    assert source.facts == known.facts
    etags = {file.path: file.etag for files in source.files().values() for file in files}
    assert etags == {file.name: f"sha256:{file.sha256}" for file in known.files}
    with pytest.raises(SourceError, match="make data"):
        next(source.records("train", lambda key, reason: None))
