"""What is expected of the rows of a table, beside what is expected of every release."""

from typing import Any

from cadp.columns import Column, Table
from cadp.utility.expectations_form import expect

# A number of few values, as a rare yes written as 1, may honestly come out the same in every row.
_MANY = 100


def on_rows(table: Table) -> list[dict[str, Any]]:
    """Every column is within its declared bounds or levels, and no number of many values is the same everywhere."""
    numbers = [column for column in table.columns if column.levels is None and _values(column) >= _MANY]
    return [*(_within(column) for column in table.columns), *(_not_constant(column) for column in numbers)]


def _within(column: Column) -> dict[str, Any]:
    name, where = f"within: {column.name}", f"column:{column.name}"
    if column.levels is not None:
        says = f"{column.name} is one of its declared levels"
        return expect(name, says, "column_values_to_be_in_set", where, value_set=list(column.levels))
    low, high = column.released_interval
    says = f"{column.name} is within its declared bounds"
    return expect(name, says, "column_values_to_be_between", where, min_value=low, max_value=high)


def _not_constant(column: Column) -> dict[str, Any]:
    """A decoder that is stuck or saturated makes columns of one value."""
    name, says = f"not-constant: {column.name}", f"{column.name} has more than one value"
    return expect(name, says, "column_unique_value_count_to_be_between", f"column:{column.name}", min_value=2)


def _values(column: Column) -> float:
    """How many values a released number may have."""
    low, high = column.released_interval
    return (high - low) * 10.0**column.digits + 1
