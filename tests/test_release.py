"""A small release from its source to its readers: what lies in it, what it cost, and what another run does."""

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from cadp.ledger import Charge, State
from cadp.privacy.accountant import Curve, curve
from cadp.publish.sign import new_key
from cadp.records import Batch
from cadp.steps.privatize import privatize_batch
from cadp.store import Store
from cadp.utility.classifier import train_classifier
from tests.command import Command, charges, public_files
from tests.servers.seaweedfs import S3Server
from tests.small_release import CLASSES, RECORDS, SIDE, Place, pictures

DOCUMENTS = {
    "README.md",
    "SHA256SUMS",
    "audit.json",
    "claim.json",
    "croissant.json",
    "expectations/index.html",
    "expectations/result.json",
    "expectations/suite.json",
    "index.html",
    "manifest.dsse",
    "manifest.json",
    "shards/index.json",
    "statement.json",
}


def tree(folder: Path) -> dict[str, str]:
    """Path → digest of every file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def cost(of: list[Charge], delta: float = 1e-6) -> float:
    """ε of charges together, by the ledger's accountant."""
    return sum((curve(charge.event) for charge in of), Curve.zero()).epsilon(delta)


@pytest.fixture
def copied(published: Place, tmp_path: Path) -> Place:
    """A copy of the published release that a test may spoil."""
    return published.copy(tmp_path / "copy")


def test_the_whole_tree_is_there(published: Place) -> None:
    found = set(tree(published.public))
    parts = {f"data/train-{i:05d}-of-00004.parquet" for i in range(4)} | {f"shards/train-{i:06d}.tar" for i in range(4)}
    assert found == DOCUMENTS | parts
    assert all((published.public / name).stat().st_size > 0 for name in found)


def test_nothing_else_is_in_the_public_zone(published: Place) -> None:
    entries = {path.name for path in (published.settings.home / "public").iterdir()}
    assert entries == {"shapes"}
    assert {path.name for path in published.public.parent.iterdir()} == {"1.0.0"}


def test_verify_accepts_it(published: Place, cadp: Command) -> None:
    done = cadp(published, "verify", published.public)
    assert done.code == 0, done.err
    assert "1,200 records" in done.out


@pytest.mark.parametrize("name", ["README.md", "statement.json", "shards/train-000002.tar", "manifest.dsse"])
def test_verify_refuses_a_flipped_bit(copied: Place, cadp: Command, name: str) -> None:
    path = copied.public / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    cadp(copied, "verify", copied.public).refused(4)


def test_verify_refuses_an_extra_and_a_missing_file(copied: Place, cadp: Command) -> None:
    extra = copied.public / "data" / "more.parquet"
    extra.write_bytes(b"")
    cadp(copied, "verify", copied.public).refused(4, "extra", "data/more.parquet")
    extra.unlink()
    (copied.public / "index.html").unlink()
    cadp(copied, "verify", copied.public).refused(4, "missing", "index.html")
    (copied.public / "manifest.json").unlink()
    cadp(copied, "verify", copied.public).refused(4, "no manifest")


def test_verify_refuses_another_publishers_key(published: Place, cadp: Command, tmp_path: Path) -> None:
    new_key(tmp_path / "other.pem")
    cadp(published, "verify", published.public, "--key", tmp_path / "other.pem.pub").refused(4)


def truth(place: Place) -> list[tuple[str, int, bytes]]:
    """(key, label, pixels) in the released order, read with nothing but pyarrow and Pillow."""
    rows = []
    for path in sorted((place.public / "data").glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
            assert pixels.shape == (SIDE, SIDE)
            rows.append((row["key"], row["label"], pixels.tobytes()))
    return rows


def test_webdataset_reads_it(published: Place) -> None:
    shards = sorted(str(path) for path in (published.public / "shards").glob("*.tar"))
    samples = webdataset.WebDataset(shards, shardshuffle=False).decode("pil")
    rows = [(row["__key__"], row["cls"], np.asarray(row["png"].convert("L")).tobytes()) for row in samples]
    assert rows == truth(published)
    assert len(rows) == RECORDS


LOAD = """
import hashlib, json, sys
import numpy as np
from datasets import load_dataset
release = load_dataset(sys.argv[1], split="train")
whole = hashlib.sha256()
for row in release:
    whole.update(f"{row['key']} {row['label']} ".encode() + np.asarray(row["image"]).tobytes())
print(json.dumps([whole.hexdigest(), release.features["label"].names]))
"""


def test_datasets_loads_it_offline(published: Place, tmp_path: Path) -> None:
    environ = {**published.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, published.public],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    whole = hashlib.sha256()
    for key, label, pixels in truth(published):
        whole.update(f"{key} {label} ".encode() + pixels)
    assert json.loads(done.stdout.splitlines()[-1]) == [whole.hexdigest(), list(CLASSES)]


def test_counts_of_labels_are_the_sources(published: Place) -> None:
    labels = [label for _, label, _ in truth(published)]
    assert np.bincount(labels).tolist() == [RECORDS // 3] * 3


def test_pictures_show_their_label(published: Place) -> None:
    # A bar is dark at the sides, a cross is not: that much must survive, or the release is worth nothing.
    rows = truth(published)
    mean = [np.mean([np.frombuffer(p, np.uint8) for _, y, p in rows if y == label], axis=0) for label in range(3)]
    source, labels = pictures(np.random.default_rng(7), RECORDS)
    for label in range(3):
        own = source[labels == label].mean(axis=0).ravel()
        nearest = min(range(3), key=lambda other: float(np.abs(mean[other] - own).sum()))
        assert nearest == label


def test_no_released_record_is_one_of_the_source(published: Place) -> None:
    source, _ = pictures(np.random.default_rng(7), RECORDS)
    own = {image.tobytes() for image in source}
    assert not own & {pixels for _, _, pixels in truth(published)}


def test_order_is_random_and_ids_are_fresh(published: Place) -> None:
    rows = truth(published)
    ids, labels = [key for key, _, _ in rows], [label for _, label, _ in rows]
    assert ids == sorted(ids)
    assert len(set(ids)) == RECORDS
    assert all(re.fullmatch("[0-9a-f]{32}", key) for key in ids)
    # The source's labels go 0 1 2 0 1 2 …; with a uniform permutation a third of neighbours are equal, ± 6 σ.
    equal = np.mean([a == b for a, b in pairwise(labels)])
    assert abs(equal - 1 / 3) < 6 * np.sqrt(2 / 9 / RECORDS)
    # Nor do ids come from the source's keys in any simple way: no key's digest is one of them.
    keys = [f"train-{i:06d}".encode() for i in range(RECORDS)]
    assert not {hashlib.new(name, key).hexdigest()[:32] for key in keys for name in ("md5", "sha256")} & set(ids)


def contents(place: Place) -> dict[str, bytes]:
    """Every released byte once packed and once unpacked: files, tar members and headers, Parquet cells, metadata."""
    found = {}
    for path in (path for path in place.public.rglob("*") if path.is_file()):
        name = path.relative_to(place.public).as_posix()
        found[name] = path.read_bytes()
        if path.suffix == ".tar":
            with tarfile.open(path) as tar:
                for member in tar:
                    assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
                    file = tar.extractfile(member)
                    found[f"{name}/{member.name}"] = member.name.encode() + (file.read() if file else b"")
        elif path.suffix == ".parquet":
            table = pq.read_table(path)
            text = repr(table.schema.metadata) + repr(
                [{**row, "image": row["image"]["path"]} for row in table.to_pylist()]
            )
            found[f"{name}/cells"] = text.encode()
    return found


def test_nothing_private_rides_along(published: Place) -> None:
    secret = published.settings.secrets_dir / "shapes.key"
    inventory = json.loads((published.private / "plan.json").read_text())["inventory"]
    forbidden = [
        rb"train-\d{6}(?!\.tar)",  # the source's keys; the tars have that pattern too
        rb"test-\d{6}",
        re.escape(str(published.folder).encode()),
        rb"ubyte",
        re.escape(secret.read_bytes()),
        secret.read_bytes().hex().encode(),
        rb"tEXt|iTXt|zTXt|tIME|eXIf",
        *(re.escape(file["etag"].encode()) for files in inventory.values() for file in files),
    ]
    found = contents(published)
    assert len(found) > 2 * RECORDS
    for name, data in found.items():
        for pattern in forbidden:
            # A table of PNG bytes may hold four letters by chance; the PNGs themselves are looked at one by one.
            if b"tEXt" in pattern and not name.endswith((".png", ".md", ".html", ".json")):
                continue
            hit = re.search(pattern, data)
            assert hit is None, (name, hit)


def test_no_digest_of_private_bytes(published: Place) -> None:
    """A digest of private bytes would let anyone check a guess of them."""
    private = [path for path in published.private.rglob("*") if path.is_file() and "expectations" not in path.parts]
    private += list((published.folder / "source").iterdir())
    digests = {hashlib.sha256(path.read_bytes()).hexdigest().encode() for path in private}
    public = b"".join(data for name, data in contents(published).items() if name in DOCUMENTS)
    assert not [digest for digest in digests if digest in public]


def test_statement_says_what_the_ledger_charged(published: Place) -> None:
    said = json.loads((published.public / "statement.json").read_text())
    made = charges(published)
    assert [charge.key for charge in made] == [f"shapes/1.0.0/{part}" for part in ("train", "records", "gate")]
    assert {charge.state for charge in made} == {State.PUBLISHED}
    own = cost([charge for charge in made if charge.population == "shapes"])
    assert said["loss"]["epsilon"] == pytest.approx(own, rel=1e-9)
    assert said["loss"]["delta"] == 1e-6
    for charge, component in zip(made, said["components"], strict=True):
        assert component["charge"] == charge.id
        assert component["population"] == charge.population
        assert component["epsilon"] == pytest.approx(cost([charge]), rel=1e-9)
    assert own <= 40
    manifest = json.loads((published.public / "manifest.json").read_text())
    assert manifest["statement"] == said
    assert sorted(manifest["charges"]) == sorted(charge.id for charge in made)


def test_the_statement_is_in_words_too(published: Place) -> None:
    said = json.loads((published.public / "statement.json").read_text())
    assert len(said["lines"]) == 5
    assert "epsilon = 38," in said["lines"][1]
    card, page = ((published.public / name).read_text() for name in ("README.md", "index.html"))
    assert all(line in card for line in said["lines"])
    assert "epsilon = 38," in page
    assert "anonym" not in (card + page + json.dumps(said)).lower()


def test_gate_was_asked_once_and_passed(published: Place) -> None:
    result = json.loads((published.public / "manifest.json").read_text())
    assert result["records"] == RECORDS
    answers = [c for c in charges(published) if c.key.endswith("gate")]
    assert len(answers) == 1
    assert answers[0].population == "shapes.holdout"


def test_second_run_does_nothing(published: Place, cadp: Command) -> None:
    before, made = tree(published.folder / "home" / "public"), charges(published)
    done = cadp(published, "release", published.spec)
    assert done.code == 0, done.err
    assert str(published.public) in done.out
    assert tree(published.folder / "home" / "public") == before
    assert charges(published) == made


@pytest.mark.parametrize("step", ["shard", "train", "privatize", "validate", "publish"])
def test_a_step_of_a_published_version_does_nothing(copied: Place, cadp: Command, step: str) -> None:
    before, made = tree(copied.public), charges(copied)
    # The copy lies elsewhere, so its source has another address; the original's is the one the budget is bound to.
    done = cadp(copied, step, copied.spec)
    assert done.code == 0, done.err
    assert tree(copied.public) == before
    assert charges(copied) == made


def test_a_published_version_cannot_be_abandoned(copied: Place, cadp: Command) -> None:
    before = tree(copied.public)
    cadp(copied, "abandon", copied.spec).refused(1, "is published")
    assert tree(copied.public) == before
    assert {charge.state for charge in charges(copied)} == {State.PUBLISHED}


def test_a_second_version_adds_up(copied: Place, cadp: Command) -> None:
    copied.write_spec(version="1.1.0", url=source_of(copied))
    done = cadp(copied, "release", copied.spec)
    assert done.code == 0, done.err
    own = [charge for charge in charges(copied) if charge.population == "shapes"]
    assert len(own) == 4
    second = [charge for charge in own if charge.release == "shapes/1.1.0"]
    said = json.loads((copied.public.parent / "1.1.0" / "statement.json").read_text())
    population = said["populations"][0]
    assert said["loss"]["epsilon"] == pytest.approx(cost(second), rel=1e-9)
    assert population["cumulative_epsilon"] == pytest.approx(cost(own), rel=1e-9)
    assert population["cumulative_epsilon"] > said["loss"]["epsilon"] + 8
    assert population["releases"] == 2
    first = json.loads((copied.public / "statement.json").read_text())
    assert first["populations"][0]["releases"] == 1
    assert cadp(copied, "verify", copied.public.parent / "1.1.0").code == 0
    assert cadp(copied, "verify", copied.public).code == 0
    # Fresh noise, fresh ids: nothing of the first version is in the second.
    old = {path.read_bytes() for path in copied.public.glob("shards/*.tar")}
    assert not old & {path.read_bytes() for path in copied.public.parent.glob("1.1.0/shards/*.tar")}
    over_the_limit(copied, cadp)


def over_the_limit(place: Place, cadp: Command) -> None:
    """A third version does not fit, and not even its training is charged."""
    before, made = public_files(place), charges(place)
    place.write_spec(version="1.2.0", url=source_of(place), train=50, spend=60)
    message = cadp(place, "release", place.spec).refused(3, "left", "too much", "asked", "Nothing was charged")
    figures = {word: float(re.search(rf"{word} (\d+\.\d+)", message)[1]) for word in ("asked", "left", "become")}
    excess = float(re.search(r"(\d+\.\d+) too much", message)[1])
    assert figures["asked"] - figures["left"] == pytest.approx(excess, abs=2e-6)
    assert figures["become"] - 100 == pytest.approx(excess, abs=2e-6)
    assert "shapes/1.1.0" in message
    assert "train+records" in message
    assert charges(place) == made
    assert public_files(place) == before


def source_of(place: Place) -> str:
    """The address in the place's spec, which a copy of a place keeps."""
    match = re.search(r"url: (\S+)", place.spec.read_text())
    assert match
    return match[1]


def test_what_the_gate_withholds_is_never_public(place: Place, cadp: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    # Labels of the holdout that have nothing to do with its pictures: no classifier is right more often than a third.
    trained = []

    def forgetful(images: np.ndarray, labels: np.ndarray, *rest: object) -> object:
        trained.append(len(labels))
        return train_classifier(images, np.roll(labels, 1)[np.random.default_rng(1).permutation(len(labels))], *rest)

    monkeypatch.setattr("cadp.utility.classifier.train_classifier", forgetful)
    place.open_budget()
    place.write_spec(floor=0.9)
    first = cadp(place, "release", place.spec).refused(5, "withheld", "0.9", "accuracy")
    made = charges(place)
    assert [charge.key for charge in made] == [f"shapes/1.0.0/{part}" for part in ("train", "records", "gate")]
    assert public_files(place) == []
    assert trained == [64, RECORDS]  # the audit's own, on noise, and the gate's
    monkeypatch.undo()
    assert cadp(place, "release", place.spec).refused(5) == first
    assert cadp(place, "publish", place.spec).refused(5) == first
    assert trained == [64, RECORDS]
    assert charges(place) == made
    assert public_files(place) == []
    done = cadp(place, "abandon", place.spec)
    assert done.code == 0
    assert "burned" in done.out
    assert {charge.state for charge in charges(place)} == {State.BURNED}
    cadp(place, "release", place.spec).refused(1)
    assert public_files(place) == []


def write_folder(root: Path, *, spoiled: int) -> None:
    """Write the small source as class folders; the first `spoiled` crosses of the training split are cut off."""
    generator = np.random.default_rng(3)
    for split, count in (("train", 300), ("test", 90)):
        images, labels = pictures(generator, count)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = root / split / CLASSES[label] / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    for path in sorted((root / "train" / "cross").iterdir())[:spoiled]:
        path.write_bytes(path.read_bytes()[:-60])


@pytest.fixture
def folder_place(place: Place) -> Place:
    """A place whose source is class folders, two pictures of which cannot be read."""
    shutil.rmtree(place.folder / "source")
    write_folder(place.folder / "source", spoiled=2)
    place.write_spec(records=300, holdout=90, floor=0, train=200, spend=210)
    text = place.spec.read_text().replace("format: idx", "format: imagefolder")
    place.spec.write_text(text.replace("range_records: 300", "range_records: 100"))
    place.open_budget(epsilon=1000)
    return place


def test_too_many_rejects_stop_before_any_charge(folder_place: Place, cadp: Command) -> None:
    done = cadp(folder_place, "release", folder_place.spec)
    done.refused(1, "2 of 300", "0.67%", "0.10%", "nothing was charged", "rejects.parquet")
    assert charges(folder_place) == []
    assert public_files(folder_place) == []


def test_a_rejected_record_enters_as_the_zero_latent(
    folder_place: Place, cadp: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = []

    def watched(flow: object, mechanism: object, batch: Batch, labels: object) -> object:
        entered.extend((int(batch.labels[i]), bool(batch.images[i].any())) for i in np.flatnonzero(~batch.valid))
        return privatize_batch(flow, mechanism, batch, labels)

    monkeypatch.setattr("cadp.steps.privatize.privatize_batch", watched)
    text = folder_place.spec.read_text()
    folder_place.spec.write_text(text.replace("  unit: record", "  unit: record\n  max_rejects: 0.01"))
    done = cadp(folder_place, "release", folder_place.spec)
    assert done.code == 0, done.err
    assert entered == [(CLASSES.index("cross"), False)] * 2
    rejects = pq.read_table(folder_place.private / "raw" / "rejects.parquet").to_pylist()
    assert [(row["split"], row["key"]) for row in rejects] == [
        ("train", "train/cross/0002.png"),
        ("train", "train/cross/0005.png"),
    ]
    assert all("damaged picture" in row["reason"] for row in rejects), rejects
    assert (folder_place.settings.home / "private").stat().st_mode & 0o077 == 0
    rows = truth(folder_place)
    assert np.bincount([label for _, label, _ in rows]).tolist() == [100, 100, 100]
    for name, data in contents(folder_place).items():
        assert not re.search(rb"damaged picture|cross/000[25]", data), name
    assert cadp(folder_place, "verify", folder_place.public).code == 0


def test_a_release_between_buckets(place: Place, cadp: Command, seaweedfs: S3Server) -> None:
    private, public = f"s3://{seaweedfs.bucket()}/zone", f"s3://{seaweedfs.bucket()}/releases"
    zones = {"CADP_PRIVATE": private, "CADP_PUBLIC": public, **seaweedfs.environment}
    place.open_budget()
    done = cadp(place, "release", place.spec, settings=zones)
    assert done.code == 0, done.err
    assert f"{public}/shapes/1.0.0" in done.out
    made = charges(place)
    assert len(made) == 3
    again = cadp(place, "release", place.spec, settings=zones)
    assert again.code == 0
    assert "reserved" not in again.err
    assert charges(place) == made
    assert cadp(place, "verify", f"{public}/shapes/1.0.0", settings=zones).code == 0
    # Nothing private is in the public bucket, and nothing of the records is left on this machine.
    names = {key for key, _ in Store.open(public, seaweedfs.options).list()}
    assert {name.removeprefix("shapes/1.0.0/") for name in names} >= DOCUMENTS
    assert all(name.startswith("shapes/1.0.0/") for name in names)
    assert any(key.endswith(".run") for key, _ in Store.open(private, seaweedfs.options).list())
    assert not (place.settings.home / "private" / "releases").exists()
    assert not any(path.is_file() for path in place.settings.scratch.rglob("*"))
    assert public_files(place) == []
    store = Store.open(public, seaweedfs.options)
    store.delete("shapes/1.0.0/index.html")
    cadp(place, "verify", f"{public}/shapes/1.0.0", settings=zones).refused(4, "missing: index.html")
