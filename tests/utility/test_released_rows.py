"""What is expected of released rows: they hold it as they are made, and a decoder that is stuck does not."""

import numpy as np
from numpy.typing import NDArray

from cadp.columns import TOP, Table
from cadp.records import Released
from cadp.shards import encode_values
from cadp.utility.expectations import ExpectationReport, check_release
from cadp.utility.released_rows import ReleasedRows, looked_at

TABLE = Table.model_validate(
    {
        # Rounded to one decimal, the bounds themselves become 0 and 0.2.
        "columns": [
            {"name": "narrow", "bounds": [0.04, 0.16], "decimals": 1},
            {"name": "kind", "levels": ["x", "y", "z"]},
            {"name": "wide", "bounds": [0, 1], "decimals": 2},
        ],
        "label": {"column": "y"},
        "outside": "clamp",
    }
)


def check(entries: NDArray[np.uint16]) -> ExpectationReport:
    rows = ReleasedRows(TABLE)
    for place, row in enumerate(entries):
        image = row.reshape(1, 1, -1)
        rows.add(Released(place.to_bytes(16, "big"), place % 2, encode_values(image)), image)
    assert list(rows.frame().columns) == looked_at(TABLE)
    half = len(entries) // 2
    return check_release(
        rows.frame(),
        records=len(entries),
        classes=("a", "b"),
        shape=TABLE.shape,
        class_counts=(half, half),
        gate=None,
        table=TABLE,
    )


def test_every_vector_makes_a_row_that_meets_them() -> None:
    entries = np.random.default_rng(5).integers(0, TOP + 1, (40, 4), dtype=np.uint16)
    entries[:2, 0] = (0, TOP)
    assert check(entries).failures == ()


def test_a_column_of_one_value_does_not() -> None:
    entries = np.random.default_rng(5).integers(0, TOP + 1, (40, 4), dtype=np.uint16)
    entries[:, 3] = 0
    (failure,) = check(entries).failures
    assert failure.startswith("not-constant: wide: wide has more than one value")


def test_a_number_of_few_values_may_be_the_same_everywhere() -> None:
    """A rare yes written as 1 would else withhold a release that has spent its budget."""
    entries = np.random.default_rng(5).integers(0, TOP + 1, (40, 4), dtype=np.uint16)
    entries[:, 0] = 0
    assert check(entries).failures == ()


def test_no_rows_have_the_same_columns() -> None:
    assert list(ReleasedRows(TABLE).frame().columns) == looked_at(TABLE)
