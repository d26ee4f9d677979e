"""What a spec may declare of a table's columns, and what it is told when it is wrong."""

from typing import Any

import pytest
from pydantic import ValidationError

from cadp.columns import Column, Label, Table

AGE = {"name": "age", "bounds": [0, 100], "decimals": 0}
KIND = {"name": "kind", "levels": ["a", "b", "c"]}
TABLE = {"label": {"column": "outcome"}, "outside": "clamp", "columns": [AGE, KIND]}


def table(**changes: Any) -> Table:
    return Table.model_validate({**TABLE, **changes})


def test_a_row_has_an_entry_a_number_and_one_a_level_but_the_first() -> None:
    assert (table().width, table().shape) == (3, (1, 1, 3))
    assert table().source_columns == ("age", "kind", "outcome")
    assert [column.kind for column in table().columns] == ["integer", "category"]


@pytest.mark.parametrize(
    ("column", "says"),
    [
        pytest.param({"name": "age"}, "needs bounds", id="no bounds"),
        pytest.param({**AGE, "levels": ["1", "2"]}, "one of the two", id="bounds and levels"),
        pytest.param({"name": "age", "bounds": [5, 5]}, "not below", id="empty bounds"),
        pytest.param({"name": "age", "bounds": [9, 5]}, "not below", id="bounds that fall"),
        pytest.param({"name": "age", "bounds": [0, float("inf")]}, "finite number", id="an infinite bound"),
        pytest.param({"name": "age", "bounds": [0, 1, 2]}, "at most 2 items", id="three bounds"),
        pytest.param({"name": "age", "bounds": [0, 9], "scale": "log"}, "must be above 0", id="a logarithm of 0"),
        pytest.param({"name": "age", "bounds": [0, 9], "scale": "root"}, "'linear' or 'log'", id="another scale"),
        pytest.param({"name": "age", "bounds": [0.1, 0.2], "decimals": 0}, "more decimals", id="nothing left of it"),
        pytest.param({**KIND, "levels": ["a", "a"]}, "repeat", id="a level twice"),
        pytest.param({**KIND, "levels": ["a"]}, "at least 2 items", id="one level"),
        pytest.param({**KIND, "levels": ["a", ""]}, "pattern", id="an empty level"),
        pytest.param({**KIND, "levels": [1, 2]}, "put it in quotes", id="levels that are numbers"),
        pytest.param({**KIND, "levels": [True, "no"]}, "put it in quotes", id="a level that is a truth value"),
        pytest.param({**KIND, "levels": ["a", " b"]}, "begins or ends with a space", id="a level no cell can have"),
        pytest.param({**KIND, "levels": [*map(str, range(256))]}, "at most 255", id="more levels than trees take"),
        pytest.param({"name": "x", "bounds": [0, 1e-12]}, "another unit", id="numbers too small for nine decimals"),
        pytest.param(
            {"name": "x", "bounds": [0.05, 9], "scale": "log", "decimals": 0}, "has no logarithm", id="rounded to zero"
        ),
        pytest.param({"name": "x", "bounds": [1234567, 1234566]}, "1234567 is not below 1234566", id="large bounds"),
        pytest.param({**KIND, "decimals": 2}, "are of numbers", id="decimals of a category"),
        pytest.param({**AGE, "unit": "years"}, "Extra inputs", id="an unknown setting"),
        pytest.param({**AGE, "name": "a.b"}, "pattern", id="a name with a dot"),
        pytest.param({**AGE, "name": "age "}, "pattern", id="a name that ends in a space"),
        pytest.param({**AGE, "name": "a=b"}, "pattern", id="a name that claims"),
    ],
)
def test_a_column_that_is_wrong(column: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Column.model_validate(column)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"columns": [AGE, {**KIND, "name": "Age"}]}, "two columns are named Age", id="one name twice"),
        pytest.param({"columns": [AGE, {**KIND, "name": "outcome"}]}, "named outcome", id="the label as a column"),
        pytest.param({"columns": [AGE, {**KIND, "name": "Key"}]}, "named key", id="the release's own column"),
        pytest.param({"columns": [AGE]}, "between 2 and 1024", id="too narrow"),
        pytest.param({"columns": []}, "at least 1 item", id="none"),
        pytest.param({"outside": "ignore"}, "'clamp' or 'reject'", id="another rule"),
        pytest.param({"label": {"column": "y", "edges": [0, 2, 1]}}, "must rise", id="edges that fall"),
        pytest.param({"label": {"column": "y", "edges": [0, 2]}}, "at least 3 items", id="one class"),
    ],
)
def test_a_table_that_is_wrong(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        table(**changes)


def test_the_rule_for_what_is_out_of_bounds_must_be_said() -> None:
    with pytest.raises(ValidationError, match="outside"):
        Table.model_validate({name: value for name, value in TABLE.items() if name != "outside"})


@pytest.mark.parametrize(
    ("column", "digits"),
    [
        pytest.param({"bounds": [0, 100]}, 2, id="a hundred"),
        pytest.param({"bounds": [0, 1]}, 4, id="one"),
        pytest.param({"bounds": [0.001, 0.003]}, 7, id="thousandths"),
        pytest.param({"bounds": [0.1, 10_000], "scale": "log"}, 5, id="by the least of a log scale"),
        pytest.param({"bounds": [0, 1e7]}, 0, id="millions"),
        pytest.param({"bounds": [0, 1], "decimals": 2}, 2, id="declared"),
    ],
)
def test_decimals_follow_from_the_bounds_unless_declared(column: dict[str, Any], digits: int) -> None:
    assert Column.model_validate({"name": "x", **column}).digits == digits


def test_edges_are_of_a_label() -> None:
    assert Label(column="y", edges=(0, 1, 2)).edges == (0.0, 1.0, 2.0)
