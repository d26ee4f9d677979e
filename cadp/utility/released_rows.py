"""What the expectations look at in a release of a table: its rows as a reader sees them."""

from typing import TYPE_CHECKING, Any

from cadp.columns import KEY, Table, rows_in_columns
from cadp.records import Released, Values

if TYPE_CHECKING:
    import pandas as pd

LABEL = "label"


class ReleasedRows:
    """Collects released rows.

    Columns: `key` (32 hex digits), `label` (class index), and `column:<name>` of each of the table's own.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._rows: list[tuple[str, int, Values]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, record: Released, image: Values) -> None:
        """Add one row with its entries `(1, 1, d)`."""
        self._rows.append((record.id.hex(), record.label, image))

    def frame(self) -> "pd.DataFrame":
        """The rows as a pandas DataFrame, in the order of `looked_at`."""
        import numpy as np  # noqa: PLC0415
        import pandas as pd  # noqa: PLC0415  (part of the `release` extra)

        if not self._rows:
            return pd.DataFrame(columns=looked_at(self._table))
        keys, labels, images = zip(*self._rows, strict=True)
        values: dict[str, Any] = {KEY: [*keys], LABEL: [*labels]}
        found = rows_in_columns(self._table, np.concatenate(images).reshape(len(images), self._table.width))
        return pd.DataFrame(values | {_own(name): column for name, column in found.items()})


def looked_at(table: Table) -> list[str]:
    """The columns of `ReleasedRows.frame`."""
    return [KEY, LABEL, *(_own(column.name) for column in table.columns)]


def _own(name: str) -> str:
    return f"column:{name}"
