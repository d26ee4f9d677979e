"""The tables that ship with scikit-learn, written out as a source: `train.csv.gz` and `test.csv.gz`.

Which row is held out is declared here and depends on its number alone: about a fifth, those whose SHA-256 of
`<name>/<number>` begins with a byte below 51. Contents are pinned in the catalogue, so they are the same everywhere.
"""

import csv
import gzip
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cadp.errors import SourceError

_HELD_OUT = 51  # of 256

Row = Sequence[str]


def write_splits(name: str, loader: str, into: Path) -> None:
    """Write the table of `sklearn.datasets.<loader>` below `into`.

    Raises:
        SourceError: scikit-learn is not installed, or has no such table.
    """
    header, rows = _TABLES[loader]() if loader in _TABLES else _none(loader)
    held_out = [hashlib.sha256(f"{name}/{number}".encode()).digest()[0] < _HELD_OUT for number in range(len(rows))]
    for split, wanted in (("train", False), ("test", True)):
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(header)
        lines.writerows(row for row, held in zip(rows, held_out, strict=True) if held is wanted)
        (into / f"{split}.csv.gz").write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def _breast_cancer() -> tuple[Row, list[Row]]:
    """Wolberg's 569 fine-needle aspirates: thirty measures of cell nuclei and the diagnosis."""
    found = _datasets().load_breast_cancer()
    names = [str(name) for name in found.target_names]
    rows: list[Row] = [[*map(_text, row), names[label]] for row, label in zip(found.data, found.target, strict=True)]
    return [*map(str, found.feature_names), "diagnosis"], rows


def _diabetes() -> tuple[Row, list[Row]]:
    """Efron and others' 442 patients: age, sex, body mass index, blood pressure, six serum measures and progression."""
    found = _datasets().load_diabetes(scaled=False)
    rows: list[Row] = [[*map(_text, row), _text(target)] for row, target in zip(found.data, found.target, strict=True)]
    return [*map(str, found.feature_names), "progression"], rows


def _datasets() -> Any:  # noqa: ANN401  (scikit-learn has no types)
    try:
        from sklearn import datasets  # noqa: PLC0415  (part of the `release` extra)
    except ImportError as error:
        raise SourceError("scikit-learn is not installed: `pip install cadp[release]`") from error
    return datasets


def _none(loader: str) -> tuple[Row, list[Row]]:
    raise SourceError(f"no table {loader!r} of scikit-learn is known; there are: {', '.join(_TABLES)}")


def _text(number: float) -> str:
    return f"{float(number):.10g}"


_TABLES = {"load_breast_cancer": _breast_cancer, "load_diabetes": _diabetes}
