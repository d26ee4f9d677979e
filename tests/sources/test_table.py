"""Tables in CSV and Parquet files: what is read of them, what is rejected, and what stops a run."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadp import spec
from cadp.columns import Table, row_values
from cadp.errors import SourceError, SpecError
from cadp.records import Record
from cadp.sources import Source, catalogue, open_source
from cadp.sources.fetch import fetch

TABLE = Table.model_validate(
    {
        "columns": [{"name": "age", "bounds": [0, 100], "decimals": 0}, {"name": "kind", "levels": ["a", "b"]}],
        "label": {"column": "y"},
        "outside": "clamp",
    }
)
HEADER = "person,kind,y,secret,age"
LINES = ["p1,a,yes,s0,30", "p1,b,no,s1,40", "p2,a,yes,s2,200", "p3,b,no,s3,"]


def declared(folder: Path, **changes: Any) -> spec.Source:
    facts = {
        "format": "csv",
        "url": str(folder),
        "unit": "record",
        "why": "each row is another person",
        "labels": "public",
        "records": 4,
        "holdout_records": 1,
        "classes": ["no", "yes"],
        "table": TABLE.model_dump(exclude_none=True, exclude_defaults=True),
    }
    return spec.Source.model_validate(facts | changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.csv").write_text("\n".join([HEADER, *LINES]) + "\n")
    (tmp_path / "test.csv").write_text(f"{HEADER}\np4,a,no,s4,50\n")
    return tmp_path


def opened(folder: Path, **changes: Any) -> Source:
    return open_source(declared(folder, **changes), data_dir=folder)


def read(source: Source, split: str = "train") -> tuple[list[Record], dict[str, str]]:
    rejects = dict[str, str]()
    return list(source.records(split, rejects.__setitem__)), rejects


def values(record: Record) -> dict[str, Any] | None:
    return None if record.image is None else row_values(TABLE, record.image.ravel())


EXPECTED = [
    ("train-000000", 1, {"age": 30, "kind": "a"}),
    ("train-000001", 0, {"age": 40, "kind": "b"}),
    ("train-000002", 1, {"age": 100, "kind": "a"}),
    ("train-000003", 0, None),
]


def test_rows_become_records_by_column_name_in_any_order(folder: Path) -> None:
    records, rejects = read(opened(folder))
    assert [(record.key, record.label, values(record)) for record in records] == EXPECTED
    assert [record.unit for record in records] == [record.key for record in records]
    assert rejects == {"train-000003": "age: nothing there"}
    assert records[0].image is not None
    assert (records[0].image.shape, records[0].image.dtype) == ((1, 1, 2), np.uint16)


def test_gzip_and_a_byte_order_mark_change_nothing(folder: Path) -> None:
    text = (folder / "train.csv").read_bytes()
    (folder / "train.csv").unlink()
    (folder / "train.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n")))
    source = opened(folder)
    assert [(record.key, record.label, values(record)) for record in read(source)[0]] == EXPECTED
    assert [file.path for file in source.files()["train"]] == ["train.csv.gz"]


def test_parquet_has_the_same_rows(folder: Path) -> None:
    for split, lines in (("train", LINES), ("test", ["p4,a,no,s4,50"])):
        cells = [line.split(",") for line in lines]
        columns = {name: [row[i] or None for row in cells] for i, name in enumerate(HEADER.split(","))}
        columns["age"] = [None if age is None else float(age) for age in columns["age"]]
        pq.write_table(pa.table(columns), folder / f"{split}.parquet")
    records, rejects = read(opened(folder, format="parquet"))
    assert [(record.key, record.label, values(record)) for record in records] == EXPECTED
    assert list(rejects) == ["train-000003"]


def test_a_column_names_the_unit(folder: Path) -> None:
    units = {"unit": "person", "unit_column": "person", "units": 3, "holdout_units": 1, "max_records_per_unit": 2}
    source = opened(folder, **units)
    assert [record.unit for record in read(source)[0]] == ["p1", "p1", "p2", "p3"]
    assert declared(folder, **units).unit_text == "person by column person"
    (folder / "train.csv").write_text(f"{HEADER}\n ,a,yes,s0,30\n")
    with pytest.raises(SourceError, match="row 0 of train.csv has no unit in column person"):
        read(opened(folder, **units))


@pytest.mark.parametrize("line", ["a,yes,s,30", "p1,,a,yes,s,30", "p1"], ids=["short", "long", "one cell"])
def test_a_row_of_another_length_is_nobodys(folder: Path, line: str) -> None:
    """Its cells may have moved: whatever stands in the column of units may be another one's id, and cost them."""
    (folder / "train.csv").write_text("\n".join([HEADER, *LINES[:2], line]) + "\n")
    with pytest.raises(SourceError, match="row 2 of train.csv has another number of cells than the header, so whose"):
        read(opened(folder, unit="person", unit_column="person", units=3, holdout_units=1))


@pytest.mark.parametrize(
    ("ids", "kind"),
    [
        pytest.param([7, 7, 8, 9], pa.int32(), id="integers"),
        pytest.param(["7", "7", "8", "9"], pa.large_string(), id="text"),
        pytest.param(["7", "7", "8", "9"], pa.dictionary(pa.int8(), pa.string()), id="a dictionary"),
        pytest.param([7.0, 7.0, 8.0, None], pa.float64(), id="numbers with a gap"),
        pytest.param([True, True, False, False], pa.bool_(), id="truth values"),
    ],
)
def test_ids_in_parquet_are_text_or_integers(folder: Path, ids: list[Any], kind: pa.DataType) -> None:
    """Pandas writes integers with a gap as 7.0, and the gap as a NaN: two splits would disagree on who is who."""
    columns = {"person": pa.array(ids, kind), "kind": ["a"] * 4, "y": ["yes"] * 4, "age": [1, 2, 3, 4]}
    pq.write_table(pa.table(columns), folder / "train.parquet")
    source = opened(folder, format="parquet", unit="person", unit_column="person", units=3, holdout_units=1)
    if pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        with pytest.raises(SourceError, match="ids of units are text or integers"):
            read(source)
    else:
        assert [record.unit for record in read(source)[0]] == ["7", "7", "8", "9"]


@pytest.mark.parametrize(
    "cells",
    [
        pytest.param(pa.array([b"\xff", b"a"]).view(pa.string()), id="no text"),
        pytest.param(pa.array([2**62, 0]).cast(pa.int64()).view(pa.timestamp("us")), id="no such day"),
    ],
)
def test_cells_of_parquet_that_nothing_reads(folder: Path, cells: pa.Array) -> None:
    pq.write_table(pa.table({"kind": cells, "y": ["yes"] * 2, "age": [1, 2]}), folder / "train.parquet")
    with pytest.raises(SourceError, match="cannot be read as Parquet"):
        read(opened(folder, format="parquet"))


def test_two_files_of_one_split(folder: Path) -> None:
    (folder / "train.csv.gz").write_bytes(gzip.compress((folder / "train.csv").read_bytes()))
    with pytest.raises(SourceError, match=r"train\.csv and train\.csv\.gz: a split is one file"):
        opened(folder).files()


def test_quotes_hold_commas_lines_and_quotes(folder: Path) -> None:
    levels = ["north, upper", 'the "old" one', "süd"]
    columns = [{"name": "Größe", "bounds": [120, 220], "decimals": 1}, {"name": "Ort", "levels": levels}]
    table = {"columns": columns, "label": {"column": "y"}, "outside": "reject"}
    lines = [
        '"a, note\nof two lines",170.3,"north, upper",yes',
        '"",171,"the ""old"" one",no',
        "x, 172.5 , süd ,yes",
        "x,1_7_0,süd,no",
    ]
    (folder / "train.csv").write_text("\ufeff" + "\r\n".join(["note,Größe,Ort,y", *lines]), encoding="utf-8")
    records, rejects = read(opened(folder, table=table))
    found = [row_values(Table.model_validate(table), r.image.ravel()) for r in records if r.image is not None]
    expected = [{"Größe": x, "Ort": y} for x, y in zip((170.3, 171.0, 172.5), levels, strict=True)]
    assert found == expected
    assert rejects == {"train-000003": "Größe: '1_7_0' is no number"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param("p,a,yes,s", "another number of cells", id="short"),
        pytest.param("p,a,yes,s,30,31", "another number of cells", id="long"),
        pytest.param("p,a,yes,s,thirty", "no number", id="a word"),
        pytest.param("p,c,yes,s,30", "none of its 2 levels", id="a level"),
        pytest.param("p,a,maybe,s,30", "none of the 2 classes", id="a class"),
        pytest.param("p,a,unsure,s,30", "none of the 2 classes", id="another class"),
    ],
)
def test_a_row_that_cannot_be_read_is_rejected_and_kept(folder: Path, line: str, reason: str) -> None:
    (folder / "train.csv").write_text("\n".join([HEADER, *LINES[:3], line]) + "\n")
    records, rejects = read(opened(folder))
    assert (len(records), records[3].image) == (4, None)
    assert reason in rejects["train-000003"]
    if reason in ("another number of cells", "none of the 2 classes"):
        assert records[3].label == 3 % 2, "by its place alone"


def test_out_of_bounds_rejects_where_that_is_declared(folder: Path) -> None:
    table = TABLE.model_copy(update={"outside": "reject"}).model_dump(exclude_none=True, exclude_defaults=True)
    records, rejects = read(opened(folder, table=table))
    assert [record.image is None for record in records] == [False, False, True, True]
    assert "beyond its bounds 0 and 100" in rejects["train-000002"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"person,kind,y,secret\n", "no columns named 'age'", id="a column is missing"),
        pytest.param(b"person,kind,y,age,age\n", "2 columns named 'age'", id="a column twice"),
        pytest.param(b"", "no columns named 'age'", id="empty"),
        pytest.param(b"\xff\xfe\x00", "cannot be read as CSV", id="not text"),
        pytest.param(HEADER.encode() + b'\n"p,a,yes,s,1\n', "cannot be read as CSV", id="an open quote"),
        pytest.param(HEADER.encode() + b"\np," + b"a" * 200_000 + b",yes,s,1\n", "field larger", id="an endless cell"),
    ],
)
def test_a_file_that_is_no_such_table_stops_the_run(folder: Path, content: bytes, says: str) -> None:
    (folder / "train.csv").write_bytes(content)
    with pytest.raises(SourceError, match=says):
        read(opened(folder))


@pytest.mark.parametrize(("name", "form"), [("train.csv.gz", "csv"), ("train.parquet", "parquet")])
def test_damaged_files(folder: Path, name: str, form: str) -> None:
    (folder / "train.csv").unlink()
    (folder / "test.parquet").write_bytes(b"x")
    (folder / name).write_bytes(gzip.compress(b"x" * 1000)[:-9] if form == "csv" else b"PAR1 no")
    with pytest.raises(SourceError, match="cannot be read as"):
        read(opened(folder, format=form))


def test_a_missing_split(folder: Path) -> None:
    (folder / "test.csv").unlink()
    with pytest.raises(SourceError, match=r"no test\.csv, the test split"):
        opened(folder).files()


def test_a_link_is_no_file_of_the_source(folder: Path, tmp_path: Path) -> None:
    (folder / "test.csv").unlink()
    (folder / "test.csv").symlink_to(folder / "train.csv")
    with pytest.raises(SourceError, match=r"no test\.csv"):
        opened(folder).files()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"table": None}, "needs table and classes", id="no table"),
        pytest.param({"classes": None}, "needs table and classes", id="no classes"),
        pytest.param({"shape": [1, 1, 3]}, "leave shape out", id="a shape"),
        pytest.param({"classes": ["no", "yes "]}, "without spaces around", id="a class no cell can have"),
        pytest.param({"format": "idx"}, "table is for formats csv and parquet", id="a table of images"),
        pytest.param({"unit": "person", "units": 3, "holdout_units": 1}, "needs unit_column", id="whose rows"),
        pytest.param({"unit_column": "person"}, "leave out unit_column", id="units of single records"),
        pytest.param(
            {"unit": "person", "unit_column": "age", "units": 3, "holdout_units": 1}, "may not be a released", id="ids"
        ),
        pytest.param(
            {"table": {**TABLE.model_dump(exclude_none=True), "label": {"column": "y", "edges": [0, 1, 2, 3]}}},
            "2 classes have 3 edges",
            id="edges that do not fit",
        ),
        pytest.param(
            {
                "table": {
                    **TABLE.model_dump(exclude_none=True),
                    "columns": [{"name": "x", "levels": ["a", "b", "ε = 1"]}],
                }
            },
            "may not claim a loss",
            id="a claim in a level",
        ),
    ],
)
def test_a_spec_of_a_table_that_is_wrong(folder: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        declared(folder, **changes)


def test_public_counts_must_be_declared(folder: Path) -> None:
    with pytest.raises(SpecError, match="missing: source.holdout_records"):
        opened(folder, holdout_records=None)


def test_the_units_of_a_known_table_are_its_rows(tmp_path: Path) -> None:
    """It has no column of ids: rows of a patient would each be charged as somebody else's."""
    fetch("diabetes", tmp_path, lambda line: None)
    example = spec.load_spec(Path(__file__).parents[2] / "docs" / "examples" / "diabetes.yaml").source
    units = {"unit": "patient", "unit_column": "id", "units": 9, "holdout_units": 9, "max_records_per_unit": 99}
    by_patient = spec.Source.model_validate({**example.model_dump(exclude_none=True, by_alias=True), **units})
    with pytest.raises(SpecError, match="does not say whose records are whose, so its unit is record, not patient"):
        open_source(by_patient, data_dir=tmp_path)


@pytest.mark.parametrize("name", ["breast-cancer", "diabetes"])
def test_the_tables_of_scikit_learn_are_pinned(name: str, tmp_path: Path) -> None:
    folder = fetch(name, tmp_path, lambda line: None)
    known = catalogue.get(name)
    texts = [gzip.decompress((folder / f"{split}.csv.gz").read_bytes()) for split in ("train", "test")]
    counts = [text.count(b"\n") - 1 for text in texts]
    assert counts == [known.facts.records, known.facts.holdout_records]
    example = spec.load_spec(Path(__file__).parents[2] / "docs" / "examples" / f"{name}.yaml").source
    for split, count in zip(("train", "test"), counts, strict=True):
        records, rejects = read(open_source(example, data_dir=tmp_path), split)
        assert (len(records), rejects) == (count, {})
    (folder / "train.csv.gz").write_bytes(gzip.compress(b"age\n"))
    with pytest.raises(SourceError, match="not the pinned file"):
        read(open_source(example, data_dir=tmp_path))


def test_the_example_clamps_nothing() -> None:
    """Its bounds are the documented ranges, rounded outwards: `outside: reject` would reject no row either."""
    from cadp.sources import scikit_learn

    header, rows = scikit_learn._breast_cancer()
    table = spec.load_spec(Path(__file__).parents[2] / "docs" / "examples" / "breast-cancer.yaml").source.table
    assert table is not None
    for column in table.columns:
        numbers = [float(row[list(header).index(column.name)]) for row in rows]
        low, high = column.interval
        assert low <= min(numbers)
        assert max(numbers) <= high
