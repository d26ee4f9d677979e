"""Released records read back from the release itself, for its contact sheet: a rerun shows the same ones."""

from collections.abc import Sequence

import pyarrow.parquet as pq

from cadp.publish.interval import PublishedFile
from cadp.records import Released
from cadp.store import Store

_MOST_ROW_GROUPS = 200  # a class so rare that it is not met by then shows fewer images


def read_sample(target: Store, files: Sequence[PublishedFile], classes: int, columns: int = 10) -> list[Released]:
    """The first `columns` released records of each class in the release's random order, reading no more than needed."""
    wanted = [columns] * classes
    found: list[Released] = []
    groups = 0
    for file in sorted(files, key=lambda file: file.path):
        if not file.path.endswith(".parquet"):
            continue
        with target.open_read(file.path) as stream:
            table = pq.ParquetFile(stream)
            for group in range(table.num_row_groups):
                for row in table.read_row_group(group).to_pylist():
                    if wanted[row["label"]]:
                        wanted[row["label"]] -= 1
                        found.append(Released(bytes.fromhex(row["key"]), row["label"], row["image"]["bytes"]))
                groups += 1
                if not any(wanted) or groups == _MOST_ROW_GROUPS:
                    return found
    return found
