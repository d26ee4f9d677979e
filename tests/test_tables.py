"""A table released end to end: real readers, its documents, what may not leave, and every mechanism."""

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import webdataset

from cadp.columns import Table
from cadp.errors import RejectedInput, SpecError
from cadp.publish.sign import load_public, public_path
from cadp.publish.verify import verify
from cadp.release import run_release
from cadp.reporter import Silent
from cadp.spec import load_spec
from cadp.steps.publish import signing_key_path
from cadp.steps.shard import read_facts, read_shard
from tests import small_table
from tests.small_release import Place

COLUMNS = ["age", "ward", "marker level", "pressure", "smoker", "outcome", "key"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = small_table.build(tmp_path_factory.mktemp("table") / "place")
    small_table.open_budget(place)
    run_release(place.job(), Silent())
    return place


@pytest.fixture(scope="module")
def release(made: Place) -> Path:
    return Path(made.settings.public_url) / "visits" / "1.0.0"


@pytest.fixture(scope="module")
def table(made: Place) -> Table:
    found = load_spec(made.spec).source.table
    assert found is not None
    return found


def test_it_verifies(made: Place, release: Path) -> None:
    key = load_public(public_path(signing_key_path(made.settings)))
    assert verify(str(release), [key]).release == "visits/1.0.0"
    assert json.loads((release / "manifest.json").read_bytes())["columns"] == COLUMNS[:-1]


def test_a_unit_gives_no_more_rows_than_its_cap_and_pays_for_all(made: Place, release: Path) -> None:
    job = made.job()
    counted = read_facts(job)["train"]
    assert counted["units"] == small_table.PATIENTS
    assert counted["over_cap"] == small_table.PATIENTS // 3
    records = [record for index in range(job.plan.ranges) for record in read_shard(job, index)]
    assert len(records) == counted["records"] == job.plan.facts.records
    assert max(sum(r.unit == u for r in records) for u in {r.unit for r in records}) == small_table.MOST
    statement = json.loads((release / "statement.json").read_bytes())
    costs = {row["name"]: row["epsilon"] for row in statement["components"]}
    assert 15.9 < costs["records"] <= 16.0001, "two rows of one patient at ε = 8"


def test_columns_have_their_names_and_types(release: Path, table: Table) -> None:
    files = sorted((release / "data").glob("*.parquet"))
    found = ds.dataset(files, format="parquet").to_table()
    assert found.schema.names == COLUMNS
    assert not any(pq.ParquetFile(path).schema_arrow.field(name).nullable for path in files for name in COLUMNS)
    types = ["int64", "string", "double", "double", "string", "string", "string"]
    assert [str(kind) for kind in found.schema.types] == types
    rows = found.to_pylist()
    assert len(rows) == 500
    assert len({row["key"] for row in rows}) == 500
    for column in table.columns:
        low, high = column.released_interval
        for value in found[column.name].to_pylist():
            assert value in column.levels if column.levels else low <= value <= high


def test_the_classes_differ_as_the_originals_do(release: Path) -> None:
    rows = polars.read_parquet(release / "data" / "*.parquet")
    ill, well = (rows.filter(polars.col("outcome") == name) for name in ("ill", "well"))
    assert ill["age"].mean() > well["age"].mean() + 10
    assert ill["marker level"].median() > 4 * well["marker level"].median()
    assert (ill["ward"] == "south").mean() > (well["ward"] == "south").mean() + 0.2


def test_duckdb_reads_it(release: Path) -> None:
    query = f"SELECT outcome, count(*) FROM '{release}/data/*.parquet' GROUP BY outcome"
    assert sum(count for _, count in duckdb.sql(query).fetchall()) == 500


def test_webdataset_reads_the_same_rows(release: Path) -> None:
    shards = [str(path) for path in sorted((release / "shards").glob("*.tar"))]
    samples = webdataset.WebDataset(shards, shardshuffle=False).decode().to_tuple("__key__", "json", "cls")
    found = {key: (row, label) for key, row, label in samples}
    for row in ds.dataset(release / "data", format="parquet").to_table().to_pylist():
        told, label = found[row.pop("key")]
        assert told == row
        assert small_table.CLASSES[label] == row["outcome"]


def test_hugging_face_reads_it(release: Path, tmp_path: Path) -> None:
    import datasets

    rows = datasets.load_dataset(str(release), split="train", cache_dir=str(tmp_path))
    assert rows.column_names == COLUMNS
    told = datasets.load_dataset_builder(str(release), cache_dir=str(tmp_path / "again")).info.splits
    size = sum(path.stat().st_size for path in (release / "data").glob("*.parquet"))
    assert (told["train"].num_examples, told["train"].num_bytes) == (500, size), "without sizes it warns"
    assert {name: rows.features[name].dtype for name in ("age", "ward", "pressure")} == {
        "age": "int64",
        "ward": "string",
        "pressure": "float64",
    }


def test_croissant_reads_it(release: Path) -> None:
    import mlcroissant

    row = next(iter(mlcroissant.Dataset(str(release / "croissant.json")).records("records")))
    assert set(row) == {f"records/{name.replace(' ', '_')}" for name in COLUMNS}


def test_the_documents_speak_of_columns_and_not_of_images(release: Path) -> None:
    page, card = (release / "index.html").read_text(), (release / "README.md").read_text()
    for text in (page, card):
        assert "marker level" in text
        assert "PNG" not in text
        assert "data:image" not in text
    assert "0.1 to 1000, log scale" in page
    assert "| ward | category | `north`, `south`, `west` |" in card
    assert page.count("<figure>") == 5, "one histogram a column"
    statement = (release / "statement.json").read_text()
    assert "the names, bounds and levels of the columns and the names of the labels" in statement
    assert "the shape of the images" not in statement


def test_the_gates_classifier_is_trained_on_released_rows_alone(made: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one row held out would move the count by more than itself."""
    from cadp.shards import decode_values
    from cadp.steps import validate
    from cadp.steps.privatize import released_records

    job, shown, honest = made.job(), list[Any](), validate.train

    def watched(kind: Any, facts: Any, images: Any, labels: Any, reporter: Any) -> Any:
        shown.append((np.array(images), np.array(labels)))
        return honest(kind, facts, images, labels, reporter)

    monkeypatch.setattr(validate, "train", watched)
    validate._hits(job, *validate._released(job, Silent())[:2], Silent())
    ((images, labels),) = shown
    out, facts = list(released_records(job)), job.plan.facts
    assert np.array_equal(images, [decode_values(one.data, facts.shape, facts.kind) for one in out])
    assert labels.tolist() == [one.label for one in out]


def test_a_histogram_of_few_integers_has_a_bar_each() -> None:
    from cadp.columns import Column
    from cadp.publish.histograms import counts

    visits = Column(name="visits", bounds=(1, 4), decimals=0)
    assert counts(visits, [1, 2, 2, 4], np.zeros(4, dtype=np.int64), 1).tolist() == [[1, 2, 0, 1]]
    half = Column(name="half", bounds=(0.5, 2.5), decimals=0)  # released: 0, 1 and 2
    assert counts(half, [0, 1, 2, 2], np.zeros(4, dtype=np.int64), 1).tolist() == [[1, 1, 2]]


def test_declared_numbers_stand_in_documents_as_they_were_declared(release: Path) -> None:
    from cadp.columns import Column

    assert Column(name="x", bounds=(0, 1_234_567)).words == "0 to 1234567"
    assert "0.1 to 1000, log scale" in (release / "README.md").read_text()
    assert (
        "A number, 0.1 to 1000, log scale"
        in json.loads((release / "croissant.json").read_bytes())["recordSet"][1]["field"][3]["description"]
    )


def test_a_plan_says_what_becomes_of_columns(made: Place) -> None:
    from cadp.show import plan_view

    (line,) = (line for line in plan_view(made.spec, made.settings).lines if line.startswith("Columns: "))
    assert line == (
        "Columns: 3 of numbers and 2 of categories, by declared bounds and levels, in 6 entries; numbers beyond their "
        "bounds are moved to the nearer bound. Label: outcome."
    )


def test_histograms_hold_every_released_row(release: Path) -> None:
    from cadp.columns import Column
    from cadp.publish.histograms import counts

    rows = polars.read_parquet(release / "data" / "*.parquet")
    labels = rows["outcome"].replace_strict({"well": 0, "ill": 1}).to_numpy()
    ages = counts(Column(name="age", bounds=(0, 110)), rows["age"].to_list(), labels, 2)
    assert ages.sum(axis=1).tolist() == [sum(labels == 0), sum(labels == 1)]


def test_the_end_of_a_release_loads_rows(made: Place) -> None:
    from cadp.release import summary

    assert summary(made.job()).load_lines[-1] == "release[0]"


def test_the_operator_sees_histograms(made: Place, tmp_path: Path) -> None:
    from PIL import Image

    from cadp.steps import publish

    sheet = Image.open(io.BytesIO(publish._sheet(made.job(), publish.sample(made.job()))))
    colours = {colour for count, colour in sheet.getcolors(1 << 16) or [] if count > 500}
    assert {(11, 110, 95), (163, 84, 26)} <= colours, "both classes"


def test_nothing_of_a_column_that_is_not_declared_leaves(made: Place, release: Path) -> None:
    with (made.folder / "source" / "train.csv").open(newline="") as stream:
        originals = list(csv.DictReader(stream))
    needles = {row[name] for row in originals for name in ("name", "patient id")}
    seen = 0
    for path in release.rglob("*"):
        if path.is_file():
            texts = [path.read_bytes()]
            if path.suffix == ".tar":
                with tarfile.open(path) as tar:
                    texts += [member.name.encode() for member in tar]
            if path.suffix == ".parquet":
                texts.append(json.dumps(pq.read_table(path).to_pylist()).encode())
            seen += 1
            assert not [needle for needle in needles for text in texts if needle.encode() in text], path
    assert seen > 10


def test_a_rerun_is_a_no_op(made: Place, release: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in release.rglob("*")}
    run_release(made.job(), Silent())
    assert {path: path.stat().st_mtime_ns for path in release.rglob("*")} == before


def test_expectations_were_checked_on_columns(release: Path) -> None:
    verdict = json.loads((release / "expectations" / "result.json").read_bytes())
    names = {one["meta"]["name"] for one in verdict["results"]}
    assert verdict["success"] is True
    assert {"within: ward", "within: marker level", "not-constant: age", "class-counts", "gate"} <= names
    assert "height" not in names


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"mechanism": "{kind: gaussian, epsilon: 8, content_dims: 3}"}, id="gaussian"),
        pytest.param({"mechanism": "{kind: laplace, epsilon: 8, content_dims: 3}"}, id="laplace"),
        pytest.param({"mechanism": "{kind: resample}"}, id="resample"),
        pytest.param(
            {"labels": "{randomized-response: {epsilon: 3}}", "classifier": "boosting"}, id="private labels, boosting"
        ),
    ],
)
def test_every_mechanism_gives_rows(changes: dict[str, Any], tmp_path: Path) -> None:
    from cadp.release import STEPS, run_step

    place = small_table.build(tmp_path / "place", **changes)
    small_table.open_budget(place)
    job = place.job()
    for step in STEPS[:3]:
        run_step(step, job, Silent())
    from cadp.steps.privatize import released_records

    rows = list(released_records(job))
    assert len(rows) == 500
    assert {len(row.data) for row in rows} == {2 * 6}
    assert len({row.data for row in rows}) > 450


def test_rows_go_through_a_dense_network_that_is_declared_public(tmp_path: Path) -> None:
    """`model: load`: couplings over all columns instead of a whitening, whatever trained them."""
    from cadp.cinn.architecture import Conditions, Couplings, Dense
    from cadp.cinn.checkpoint import Origin, save_public
    from cadp.release import STEPS, run_step
    from cadp.steps.privatize import released_records
    from cadp.store import Store
    from tests.cinn.architectures import perturbed_flow

    place = small_table.build(tmp_path / "place")
    small_table.open_budget(place)
    network = Dense(6, Conditions(2), Couplings(3, 8), content=3, logit=0.01)
    models = Store.open(place.settings.private_url).child("models")
    digest = save_public(models, perturbed_flow(network, size=0.05), Origin("random weights, of nothing"), {})
    place.spec.write_text(
        place.spec.read_text().replace("{train: {epsilon: 40}}", f"{{load: {digest}, public: made of random weights}}")
    )
    job = place.job()
    for step in STEPS[:3]:
        run_step(step, job, Silent())
    assert [part.name for part in job.plan.parts()] == ["records", "gate"], "a public model costs nothing"
    rows = list(released_records(job))
    assert len({row.data for row in rows}) > 450


def test_rows_out_of_bounds_stop_a_release_before_it_charges_where_they_are_rejects(tmp_path: Path) -> None:
    place = small_table.build(tmp_path / "place", outside="reject")
    source = tmp_path / "place" / "source" / "train.csv"
    text = source.read_text().splitlines()
    changed = [line.rsplit(",", 4) for line in text[1:40]]
    source.write_text("\n".join([text[0], *(f"{a},{b},999,{d},{e}" for a, b, _, d, e in changed), *text[40:]]) + "\n")
    small_table.open_budget(place)
    with pytest.raises(RejectedInput, match="cannot be read"):
        run_release(place.job(), Silent())
    assert place.job().find_charge("train") is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"classifier": "cnn"}, "tables linear or boosting", id="a classifier of images"),
        pytest.param({"mechanism": "{kind: legacy, epsilon: 1}"}, "legacy reproduces", id="the published mechanism"),
        pytest.param({"outside": "drop"}, r"release.yaml:\d+: source.table.outside", id="another rule"),
    ],
)
def test_a_spec_that_is_wrong_is_told_where(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    place = small_table.build(tmp_path / "place", **changes)
    with pytest.raises(SpecError, match=says):
        load_spec(place.spec)


def test_the_tar_holds_json_and_class_alone(release: Path) -> None:
    path = next(iter((release / "shards").glob("*.tar")))
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as tar:
        members = tar.getmembers()
    assert {member.name.partition(".")[2] for member in members} == {"json", "cls"}
    assert {(member.mtime, member.uid, member.uname) for member in members} == {(0, 0, "")}
