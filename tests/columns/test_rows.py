"""The public map between rows and vectors: inside [0, 1] whatever a cell holds, and back to what was declared."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadp.columns import TOP, Column, Table, encode_row, label_of, row_values, rows_in_columns
from cadp.errors import RejectedInput

COLUMNS = (
    Column(name="age", bounds=(0, 100), decimals=0),
    Column(name="dose", bounds=(0.01, 1000), scale="log", decimals=3),
    Column(name="kind", levels=("a", "b", "c")),
    Column(name="depth", bounds=(-5.5, 5.5)),
)


def table(outside: str = "clamp", **label: Any) -> Table:
    return Table.model_validate({"columns": COLUMNS, "label": {"column": "y", **label}, "outside": outside})


def test_a_row_by_hand() -> None:
    vector = encode_row(table(), ["25", 1.0, "b", -5.5])
    assert vector.dtype == np.uint16
    assert vector.tolist() == [round(0.25 * TOP), round(0.4 * TOP), TOP, 0, 0]
    assert row_values(table(), vector) == {"age": 25, "dose": 1.0, "kind": "b", "depth": -5.5}
    assert isinstance(row_values(table(), vector)["age"], int)


@given(
    age=st.integers(0, 100),
    dose=st.floats(0.01, 1000),
    kind=st.sampled_from("abc"),
    depth=st.floats(-5.5, 5.5),
)
def test_a_row_comes_back_within_its_declared_digits(age: int, dose: float, kind: str, depth: float) -> None:
    back = row_values(table(), encode_row(table(), [age, dose, kind, depth]))
    assert (back["age"], back["kind"]) == (age, kind)
    assert abs(float(back["dose"]) / dose - 1) < 1e-4 + 0.0005 / dose
    assert abs(float(back["depth"]) - depth) < 11 / TOP + 0.5e-3


@given(cells=st.tuples(*[st.floats() | st.text(max_size=8) | st.none() | st.integers()] * 4))
def test_whatever_a_row_holds_its_entries_stay_in_range_or_it_is_rejected(cells: tuple[Any, ...]) -> None:
    try:
        vector = encode_row(table(), cells)
    except RejectedInput:
        return
    assert vector.dtype == np.uint16
    assert vector[2:4].sum() in (0, TOP), "one level and no other"


@given(entries=st.lists(st.integers(0, TOP), min_size=5, max_size=5))
def test_every_vector_is_a_row_within_its_bounds(entries: list[int]) -> None:
    found = row_values(table(), np.array(entries, dtype=np.uint16))
    for column in COLUMNS:
        low, high = column.released_interval
        assert found[column.name] in (column.levels or ()) or low <= float(found[column.name]) <= high


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        pytest.param([None, 1, "a", 0], "age: nothing there", id="nothing"),
        pytest.param(["", 1, "a", 0], "age: nothing there", id="empty"),
        pytest.param(["many", 1, "a", 0], "no number", id="a word"),
        pytest.param([math.nan, 1, "a", 0], "no finite number", id="nan"),
        pytest.param(["inf", 1, "a", 0], "no finite number", id="infinity"),
        pytest.param([1, 1, "d", 0], "none of its 3 levels", id="an unknown level"),
        pytest.param([1, 1, "A", 0], "none of its 3 levels", id="a level in another case"),
    ],
)
def test_what_is_no_row_is_rejected_and_the_column_named(cells: list[Any], says: str) -> None:
    with pytest.raises(RejectedInput, match=says):
        encode_row(table(), cells)


def test_out_of_bounds_is_clamped_or_rejected_as_declared() -> None:
    assert row_values(table(), encode_row(table(), [200, 1, "a", -9])) == {
        "age": 100, "dose": 1.0, "kind": "a", "depth": -5.5,
    }  # fmt: skip
    assert row_values(table(), encode_row(table(), [1, -3, "a", 0]))["dose"] == 0.01, "below a log scale, too"
    with pytest.raises(RejectedInput, match="age: 200 is beyond its bounds 0 and 100"):
        encode_row(table("reject"), [200, 1, "a", 0])
    assert encode_row(table("reject"), [100, 1000, "a", 5.5])[0] == TOP, "the bounds are inside"


def test_there_is_one_zero() -> None:
    column = Column(name="x", bounds=(-1, 1), decimals=1)
    own = Table.model_validate({"columns": [column, COLUMNS[2]], "label": {"column": "y"}, "outside": "clamp"})
    entries = np.array([[round(0.499 * TOP), TOP, 0]], dtype=np.uint16)
    assert str(rows_in_columns(own, entries)["x"]) == "[0.0]"


@pytest.mark.parametrize(
    ("entries", "level"),
    [
        pytest.param((0, 0), "a", id="nothing of the others"),
        pytest.param((TOP, 0), "b", id="all of one"),
        pytest.param((0.2 * TOP, 0.35 * TOP), "a", id="most is left"),
        pytest.param((0.2 * TOP, 0.45 * TOP), "c", id="more than is left"),
        pytest.param((TOP, TOP), "b", id="the first of equals"),
    ],
)
def test_a_released_category_is_the_largest_entry(entries: tuple[float, float], level: str) -> None:
    vectors = np.array([[0, 0, *entries, 0]]).astype(np.uint16)
    assert rows_in_columns(table(), vectors)["kind"] == [level]


def test_the_map_depends_on_nothing_but_the_row() -> None:
    one = encode_row(table(), [1, 2, "a", 3])
    encode_row(table(), [100, 1000, "c", 5])
    assert np.array_equal(encode_row(table(), [1, 2, "a", 3]), one)


def test_labels_are_names_of_classes() -> None:
    assert label_of(table(), " benign ", ("malignant", "benign")) == 1
    with pytest.raises(RejectedInput, match="none of the 2 classes"):
        label_of(table(), "other", ("malignant", "benign"))


@pytest.mark.parametrize(
    ("number", "label"),
    [
        pytest.param("0", 0, id="the first edge"),
        pytest.param(9.99, 0, id="below"),
        pytest.param(10, 1, id="an edge belongs to the class above"),
        pytest.param("20", 1, id="but for the last"),
    ],
)
def test_labels_of_numbers_lie_between_edges(number: object, label: int) -> None:
    assert label_of(table(edges=[0, 10, 20]), number, ("low", "high")) == label


@pytest.mark.parametrize("number", [-0.1, 20.1, "nan", None], ids=["below", "above", "nan", "nothing"])
def test_a_label_beyond_the_edges_is_rejected(number: object) -> None:
    with pytest.raises(RejectedInput):
        label_of(table(edges=[0, 10, 20]), number, ("low", "high"))
