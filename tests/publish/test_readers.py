"""The tools that consortia have already read a release as it is, offline, and get exactly the released records."""

import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import duckdb
import numpy as np
import polars
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image
from torch.utils.data import DataLoader

from cadp.publish.facts import ReleaseFacts
from cadp.records import Released


def python(code: str, folder: Path, environment: dict[str, str], *arguments: object) -> object:
    """Run a reader in its own process, with no network and a home of its own; its last line is JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def digest(rows: list[tuple[str, int, bytes]]) -> str:
    """One digest of (key, label, pixels), the same in every process."""
    whole = hashlib.sha256()
    for key, label, pixels in rows:
        whole.update(f"{key} {label} ".encode() + pixels)
    return whole.hexdigest()


@pytest.fixture(scope="module")
def truth(records: list[Released]) -> list[tuple[str, int, bytes]]:
    return [
        (record.id.hex(), record.label, np.asarray(Image.open(io.BytesIO(record.data))).tobytes()) for record in records
    ]


DATASETS = """
import hashlib, json, sys
import numpy as np
from datasets import ClassLabel, Features, Image, Value, load_dataset
release = sys.argv[1]

def read(rows, label, image, key):
    whole = hashlib.sha256()
    for row in rows:
        assert type(row[image]).__module__.startswith("PIL"), type(row[image])
        whole.update(f"{row[key]} {row[label]} ".encode() + np.asarray(row[image]).tobytes())
    return whole.hexdigest()

out = {}
card = load_dataset(release, split="train")
out["card"] = read(card, "label", "image", "key")
out["names"] = card.features["label"].names
folder = load_dataset(release + "/data", split="train")
out["folder"] = read(folder, "label", "image", "key")
out["folder_names"] = folder.features["label"].names
streamed = load_dataset(release, split="train", streaming=True)
out["streamed"] = read(streamed, "label", "image", "key")
tars = load_dataset(release + "/shards", split="train")
out["tars"] = read(tars, "cls", "png", "__key__")
named = Features({"png": Image(), "cls": ClassLabel(names=out["names"]), "__key__": Value("string"),
                  "__url__": Value("string")})
tars = load_dataset("webdataset", data_files=release + "/shards/*.tar", split="train", features=named)
out["named_tars"] = read(tars, "cls", "png", "__key__")
out["tar_names"] = [tars.features["cls"].int2str(row["cls"]) for row in tars.select(range(5))]
print(json.dumps(out))
"""


def test_datasets_decodes_images_and_names_labels(
    release: Path, tmp_path: Path, offline: dict[str, str], truth: list[tuple[str, int, bytes]], facts: ReleaseFacts
) -> None:
    out = python(DATASETS, tmp_path, offline, release)
    names = list(facts.classes)
    assert out["names"] == out["folder_names"] == names
    assert out["tar_names"] == [names[label] for _, label, _ in truth[:5]]
    for form in ("card", "folder", "streamed", "tars", "named_tars"):
        assert out[form] == digest(truth), form


CROISSANT = """
import hashlib, json, sys
import numpy as np
import mlcroissant
release = mlcroissant.Dataset(sys.argv[1] + "/croissant.json")
whole, labels = [], {}
for row in release.records("records"):
    image = row["records/image"]
    assert type(image).__module__.startswith("PIL"), type(image)
    key = row["records/key"]
    whole.append((key.decode() if isinstance(key, bytes) else key, row["records/label"], np.asarray(image).tobytes()))
total = hashlib.sha256()
for key, label, pixels in sorted(whole):
    total.update(f"{key} {label} ".encode() + pixels)
for row in release.records("classes"):
    name = row["classes/name"]
    labels[int(row["classes/label"])] = name.decode() if isinstance(name, bytes) else name
issues = release.metadata.ctx.issues
print(json.dumps({
    "records": total.hexdigest(), "labels": labels, "errors": list(issues.errors), "warnings": list(issues.warnings),
    "version": str(release.metadata.ctx.conforms_to),
}))
"""


def test_mlcroissant_validates_and_iterates(
    release: Path, tmp_path: Path, offline: dict[str, str], truth: list[tuple[str, int, bytes]], facts: ReleaseFacts
) -> None:
    out = python(CROISSANT, tmp_path, offline, release)
    assert out["errors"] == []
    assert out["warnings"] == []
    assert out["records"] == digest(truth)
    assert out["labels"] == {str(index): name for index, name in enumerate(facts.classes)}
    assert out["version"] == "CroissantVersion.V_1_1"


def test_croissant_has_the_digest_of_every_file(release: Path) -> None:
    body = json.loads((release / "croissant.json").read_bytes())
    objects = [entry for entry in body["distribution"] if entry["@type"] == "cr:FileObject"]
    described = {entry["contentUrl"] for entry in objects}
    held = {path.relative_to(release).as_posix() for path in release.rglob("train-*")}
    assert held <= described
    for entry in objects:
        assert hashlib.sha256((release / entry["contentUrl"]).read_bytes()).hexdigest() == entry["sha256"]
    for field in ("personalSensitiveInformation", "dataLimitations", "dataBiases"):
        assert body[f"rai:{field}"]
    for field in ("name", "description", "license", "url", "creator", "datePublished", "citeAs", "version"):
        assert body[field]


def test_webdataset(release: Path, truth: list[tuple[str, int, bytes]]) -> None:
    shards = sorted(str(path) for path in (release / "shards").glob("*.tar"))
    samples = webdataset.WebDataset(shards, shardshuffle=False).decode("pil")
    rows = [(row["__key__"], row["cls"], np.asarray(row["png"].convert("L")).tobytes()) for row in samples]
    assert rows == truth


def test_data_loader_over_webdataset(release: Path, records: list[Released]) -> None:
    shards = sorted(str(path) for path in (release / "shards").glob("*.tar"))
    samples = webdataset.WebDataset(shards, shardshuffle=False).decode("torchl").to_tuple("png", "cls").batched(32)
    labels = []
    for images, batch in DataLoader(samples, batch_size=None, num_workers=2):
        assert tuple(images.shape[1:]) == (28, 28)
        labels += batch.tolist()
    assert sorted(labels) == sorted(record.label for record in records)


def test_pyarrow_dataset_and_row_groups(release: Path, truth: list[tuple[str, int, bytes]]) -> None:
    table = pyarrow.dataset.dataset(release / "data", format="parquet").to_table()
    rows = table.to_pylist()
    assert [(row["key"], row["label"]) for row in rows] == [(key, label) for key, label, _ in truth]
    assert all(row["image"]["path"] == f"{row['key']}.png" for row in rows)
    for path in (release / "data").glob("*.parquet"):
        file = pq.ParquetFile(path)
        metadata = file.metadata
        assert all(metadata.row_group(i).num_rows <= 100 for i in range(metadata.num_row_groups))
        assert all(metadata.row_group(0).column(c).has_offset_index for c in range(metadata.num_columns))
        told = json.loads(file.schema_arrow.metadata[b"huggingface"])
        assert told["info"]["features"]["label"]["_type"] == "ClassLabel"
        assert str(file.schema_arrow.field("image").type) == "struct<bytes: binary, path: string>"


def test_duckdb(release: Path, truth: list[tuple[str, int, bytes]]) -> None:
    query = "SELECT key, label, image.bytes FROM read_parquet(?) ORDER BY key"
    rows = duckdb.execute(query, [str(release / "data" / "*.parquet")]).fetchall()
    decoded = [(key, label, np.asarray(Image.open(io.BytesIO(png))).tobytes()) for key, label, png in rows]
    assert decoded == truth


def test_polars(release: Path, truth: list[tuple[str, int, bytes]]) -> None:
    frame = polars.read_parquet(release / "data" / "*.parquet")
    assert frame["label"].to_list() == [label for _, label, _ in truth]
    first = Image.open(io.BytesIO(frame["image"][0]["bytes"]))
    assert np.asarray(first).tobytes() == truth[0][2]


def test_plain_tar(release: Path, records: list[Released], tmp_path: Path) -> None:
    names = []
    for shard in sorted((release / "shards").glob("*.tar")):
        listed = subprocess.run(["tar", "-tf", shard], capture_output=True, text=True, check=True)
        names += listed.stdout.split()
        subprocess.run(["tar", "-xf", shard, "-C", tmp_path], check=True)
    assert names == [f"{record.id.hex()}.{form}" for record in records for form in ("png", "cls")]
    assert (tmp_path / f"{records[0].id.hex()}.png").read_bytes() == records[0].data


def test_sha256sum(release: Path) -> None:
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=release, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    checked = {line.rpartition(": ")[0] for line in done.stdout.splitlines()}
    held = {path.relative_to(release).as_posix() for path in release.rglob("*") if path.is_file()}
    assert held - checked == {"SHA256SUMS", "manifest.json", "manifest.dsse"}


def test_shard_index_is_a_wids_index(release: Path) -> None:
    index = json.loads((release / "shards" / "index.json").read_bytes())
    assert index["__kind__"] == "wids-shard-index-v1"
    assert index["wids_version"] == 1
    assert len(index["shardlist"]) == 3
    for entry in index["shardlist"]:
        shard = release / "shards" / entry["url"]
        assert entry["filesize"] == shard.stat().st_size
        assert entry["md5sum"] == hashlib.md5(shard.read_bytes()).hexdigest()
        with tarfile.open(shard) as tar:
            assert entry["nsamples"] == sum(name.endswith(".png") for name in tar.getnames())


def test_code_in_the_card_runs(shelf: Path, release: Path, offline: dict[str, str], tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (release / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        python(block + "\nprint('\\n{}')", shelf, offline)
    assert not (tmp_path / "home" / ".cache" / "huggingface").exists()
