"""The documents are functions of released bytes and charged figures: the same inputs give the same bytes."""

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from cadp.errors import CadpError, PrivacyError, PublishConflict, SpecError, VerificationFailed
from cadp.privacy.plain_words import nats
from cadp.publish.claim import claim
from cadp.publish.documents import finish
from cadp.publish.facts import ReleaseFacts
from cadp.publish.page import page
from cadp.publish.sample import read_sample
from cadp.publish.sheet import contact_sheet
from cadp.publish.sign import Signer
from cadp.records import Released
from cadp.store import Store

from .conftest import make_facts, publish_records


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_stores_get_equal_bytes_and_a_rerun_is_a_no_op(
    publish: Callable[[Path], Store], release: Path, facts: ReleaseFacts, tmp_path: Path
) -> None:
    publish(tmp_path)
    assert contents(tmp_path / facts.release) == contents(release)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    publish(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == times


@pytest.mark.parametrize("audit", [None, b"{}\n"], ids=["none", "one"])
def test_card_and_page_point_at_an_audit_that_is_there(
    records: list[Released], facts: ReleaseFacts, signer: Signer, tmp_path: Path, audit: bytes | None
) -> None:
    audited = replace(facts, audit=audit)
    target = Store.open(str(tmp_path / "release"))
    finish(target, publish_records(target, records, audited, tmp_path), records, audited, signer)
    assert [(b"audit.json" in target.get(name)) for name in ("README.md", "index.html")] == 2 * [audit is not None]


def test_the_manifest_is_written_last(
    records: list[Released], facts: ReleaseFacts, signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    real = Store.put

    def put(self: Store, key: str, data: bytes | Path) -> object:
        order.append(key)
        return real(self, key, data)

    monkeypatch.setattr(Store, "put", put)
    target = Store.open(str(tmp_path / "release"))
    finish(target, publish_records(target, records, facts, tmp_path), records, facts, signer)
    assert order[0] == "claim.json"
    assert order[-3:] == ["SHA256SUMS", "manifest.json", "manifest.dsse"]


def test_a_second_publisher_is_stopped(tmp_path: Path) -> None:
    target = Store.open(str(tmp_path / "release"))
    claim(target, "garments/1.0.0", "ab" * 32)
    claim(target, "garments/1.0.0", "ab" * 32)
    for other in (("garments/1.0.0", "cd" * 32), ("garments/1.0.1", "ab" * 32)):
        with pytest.raises(PublishConflict, match=r"claimed by garments/1\.0\.0 of plan abab"):
            claim(target, *other)
    junk = Store.open(str(tmp_path / "junk"))
    junk.put("claim.json", b"[]")
    with pytest.raises(PublishConflict):
        claim(junk, "garments/1.0.0", "ab" * 32)


def test_other_facts_cannot_replace_a_release(
    publish: Callable[[Path], Store], records: list[Released], facts: ReleaseFacts, signer: Signer, tmp_path: Path
) -> None:
    target = publish(tmp_path)
    before = contents(tmp_path)
    files = publish_records(target, records, facts, tmp_path)
    with pytest.raises(PublishConflict, match="immutable"):
        finish(target, files, records, replace(facts, title="Another title"), signer)
    assert contents(tmp_path) == before


def test_what_is_incomplete_or_not_alone_is_not_signed(
    records: list[Released], facts: ReleaseFacts, signer: Signer, tmp_path: Path
) -> None:
    target = Store.open(str(tmp_path / "release"))
    files = publish_records(target, records, facts, tmp_path)
    wrong: list[tuple[list, ReleaseFacts, type[CadpError]]] = [
        (files[:-1], facts, VerificationFailed),
        (files, replace(facts, records=299), VerificationFailed),
        (files, replace(facts, expectations={"a\nb": b""}), VerificationFailed),
        (files, replace(facts, plan_digest="00" * 32), PublishConflict),
    ]
    for some, said, error in wrong:
        with pytest.raises(error):
            finish(target, some, records, said, signer)
    target.put("left-over.txt", b"x")
    with pytest.raises(PublishConflict, match=r"left-over\.txt.*is not of this release"):
        finish(target, files, records, facts, signer)
    assert not target.exists("manifest.json")
    target.delete("left-over.txt")
    target.delete(files[0].path)
    with pytest.raises(VerificationFailed, match="not in place"):
        finish(target, files, records, facts, signer)
    assert not target.exists("manifest.json")


def test_a_seeded_run_cannot_be_published() -> None:
    with pytest.raises(PrivacyError, match="NOT PRIVATE"):
        make_facts(stamp="NOT PRIVATE")
    with pytest.raises(SpecError):
        make_facts(classes=())


class Page(HTMLParser):
    """What a browser would load, and the outline that a screen reader reads."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.loads += [value for name in ("src", "srcset", "data", "poster") if (value := values.get(name))]
        if tag in {"link", "script", "iframe", "object", "embed"}:
            self.loads.append(tag)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if tag == "a":
            self.targets.append(str(values["href"]))
        if tag == "img":
            self.images.append(values)


def test_the_page_asks_the_network_for_nothing(release: Path, records: list[Released]) -> None:
    text = (release / "index.html").read_text()
    page = Page()
    page.feed(text)
    assert page.loads
    assert all(each.startswith("data:image/png;base64,") for each in page.loads)
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"https?://", text)
    assert "default-src 'none'" in text
    for target in page.targets:
        assert target.removeprefix("#") in page.ids if target.startswith("#") else (release / target).is_file()
    assert len(page.images) == 50
    assert all(image["alt"] for image in page.images)
    shown = {str(image["src"]) for image in page.images}
    import base64

    assert shown <= {"data:image/png;base64," + base64.b64encode(record.data).decode() for record in records}


def test_the_page_is_escaped_and_ordered(release: Path, facts: ReleaseFacts) -> None:
    text = (release / "index.html").read_text()
    page = Page()
    page.feed(text)
    assert "Dress &amp; &lt;b&gt;" in text
    assert "<b>" not in text
    assert page.tags.count("h1") == page.tags.count("main") == 1
    first = facts.statement_lines[0].partition(": ")[2]
    assert text.index(first) < text.index("<img") < text.index("<pre")
    assert f"<i>ε</i> = {nats(facts.statement['loss']['epsilon'])}<" in text
    assert "<i>δ</i> = 1e-06<" in text
    assert len(page.ids) == len(set(page.ids))
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    for figure in ("0.812", "0.75", "0.20"):
        assert figure in text


@pytest.mark.parametrize(("threshold", "apart"), [(0.25, True), (0.9, False)], ids=["near chance", "far from it"])
def test_the_words_of_threshold_and_chance_do_not_meet(
    records: list[Released], facts: ReleaseFacts, threshold: float, apart: bool
) -> None:
    assert facts.accuracy is not None
    close = replace(facts, accuracy={**facts.accuracy, "threshold": threshold})
    text = page(close, [], records, "00").decode()
    heights = re.findall(r'class="note[^>]* y="(\d+)"', text)
    assert len(heights) == 2
    assert (heights[0] != heights[1]) is apart


def test_without_a_gate_no_accuracy_is_claimed(records: list[Released], signer: Signer, tmp_path: Path) -> None:
    facts = make_facts(accuracy=None)
    target = Store.open(str(tmp_path / "release"))
    finish(target, publish_records(target, records, facts, tmp_path), records, facts, signer)
    for name in ("index.html", "README.md", "croissant.json"):
        assert "No accuracy was measured" in target.get(name).decode()
        assert "0.812" not in target.get(name).decode()


def test_the_cards_head(release: Path, facts: ReleaseFacts) -> None:
    _, head, body = (release / "README.md").read_text().split("---\n", 2)
    told = YAML(typ="safe").load(head)
    assert told["license"] == "mit"
    assert told["pretty_name"] == facts.title
    assert told["size_categories"] == ["n<1K"]
    assert told["configs"][0]["data_files"] == [{"split": "train", "path": "data/*.parquet"}]
    names = told["dataset_info"]["features"][1]["dtype"]["class_label"]["names"]
    assert list(names.values()) == list(facts.classes)
    assert body.index("What is promised") < body.index("What is inside")


def test_public_words_only(release: Path) -> None:
    for path in release.rglob("*"):
        if path.suffix in {".md", ".html", ".json"}:
            text = path.read_text()
            assert "anonym" not in text.lower(), path
            assert str(Path.home()) not in text, path
            assert str(release.parent) not in text, path


def test_manifest_lists_charges_and_versions(release: Path, facts: ReleaseFacts) -> None:
    body = json.loads((release / "manifest.json").read_bytes())
    assert body["schema"] == 1
    assert body["charges"] == sorted(facts.charges)
    assert body["versions"] == dict(facts.versions)
    assert [file["path"] for file in body["files"]] == sorted(file["path"] for file in body["files"])


def test_the_sample_is_read_back_from_the_release(records: list[Released], facts: ReleaseFacts, tmp_path: Path) -> None:
    target = Store.open(str(tmp_path / "release"))
    files = publish_records(target, records, facts, tmp_path)
    sample = read_sample(target, files, len(facts.classes), columns=4)
    for label in range(len(facts.classes)):
        mine = [record for record in records if record.label == label][:4]
        assert [record for record in sample if record.label == label] == mine
    assert len(sample) == 20


def test_contact_sheet_shows_one_row_a_class() -> None:
    images = np.zeros((40, 28, 28, 1), np.uint8)
    labels = np.repeat(np.arange(4), 10)
    for label in range(4):
        images[labels == label] = 50 + 50 * label
    sheet = Image.open(io.BytesIO(contact_sheet(images, labels, ["a", "b", "c", "d"])))
    pixels = np.asarray(sheet.convert("L"))
    for label in range(4):
        row = pixels[4 + label * 60 : 60 + label * 60]
        assert (row == 50 + 50 * label).sum() >= 10 * 56 * 56
    colour = contact_sheet(np.zeros((3, 64, 32, 3), np.uint8), np.zeros(3, np.int64), ["only", "empty"], columns=2)
    assert Image.open(io.BytesIO(colour)).format == "PNG"
