"""Expectations on a release (Great Expectations), checked on released records and charged figures only.

A release that breaks one is withheld. That decision costs nothing: all that is looked at is released, declared public
or charged already. What is published of it is stripped of run ids, times and paths, so a rerun writes the same bytes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cadp.columns import Table
from cadp.utility.expectations_form import expect
from cadp.utility.expectations_page import render_page
from cadp.utility.expectations_rows import on_rows
from cadp.utility.expectations_run import run_suite
from cadp.utility.released_frame import COLUMNS
from cadp.utility.released_rows import looked_at

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
# Noise makes equal or constant images all but impossible; a decoder that is stuck or saturated makes many of them.
_MOSTLY = 0.99
_COLUMN_KWARGS = frozenset({"column", "column_A", "column_B", "or_equal"})

# A name, what is looked at, the expectations, and the column that names a row in examples.
_Suite = tuple[str, "pd.DataFrame", list[dict[str, Any]], str | None]


@dataclass(frozen=True, slots=True)
class ExpectationReport:
    """The verdict on a release; everything in it may be published.

    Attributes:
        success: every expectation holds.
        failures: one plain sentence for each that does not: what, observed, expected.
        suite_json: the suites as Great Expectations writes them, without ids.
        result_json: what was observed, in the suites' order.
        page: `index.html`, the same for people, without outside requests.
    """

    success: bool
    failures: tuple[str, ...]
    suite_json: bytes
    result_json: bytes
    page: bytes

    @property
    def files(self) -> dict[str, bytes]:
        """What belongs below `expectations/` of the release."""
        return {"index.html": self.page, "result.json": self.result_json, "suite.json": self.suite_json}


def check_release(
    frame: "pd.DataFrame",
    *,
    records: int,
    classes: Sequence[str],
    shape: tuple[int, int, int],
    class_counts: Sequence[int] | None,
    gate: Mapping[str, Any] | None,
    class_ranges: Sequence[tuple[int, int]] | None = None,
    table: Table | None = None,
) -> ExpectationReport:
    """Check a release against its declared public facts.

    Args:
        frame: `ReleasedFrame.frame()`.
        records: how many there must be.
        classes: label names, in index order.
        shape: `(h, w, c)` of every image.
        class_counts: how many records each class must have where labels are public, else None.
        gate: the gate's recorded answer, None where no gate ran.
        class_ranges: the least and most records of each class, from public probabilities, where labels are private.
        table: what the columns are, if the records are rows; then `frame` is `ReleasedRows.frame()`.
    """
    columns, own = ([*COLUMNS], _on_images(shape)) if table is None else (looked_at(table), on_rows(table))
    suites: list[_Suite] = [("records", frame, [*_on_records(records, classes, columns), *own], None)]
    if class_counts is not None:
        suites.append(("classes", _classes_frame(frame, classes, class_counts), _on_classes(), "name"))
    if class_ranges is not None:
        suites.append(("classes", _ranges_frame(frame, classes, class_ranges), _on_ranges(), "name"))
    if gate is not None:
        suites.append(("gate", _gate_frame(gate), _on_gate(), "n"))
    configured, results = list[dict[str, Any]](), list[dict[str, Any]]()
    for name, data, expectations, index in suites:
        suite, found = run_suite(name, data, expectations, index)
        configured.append(suite)
        results.extend({"suite": name, **one} for one in found)
    failures = tuple(_sentence(one) for one in results if not one["success"])
    verdict = {"schema": SCHEMA, "success": not failures, "failures": list(failures), "results": results}
    return ExpectationReport(
        success=not failures,
        failures=failures,
        suite_json=_json({"schema": SCHEMA, "suites": configured}),
        result_json=_json(verdict),
        page=render_page(verdict),
    )


def _on_records(records: int, classes: Sequence[str], columns: list[str]) -> list[dict[str, Any]]:
    return [
        expect("columns", "every record has its facts", "table_columns_to_match_ordered_list", column_list=columns),
        expect("record-count", "no record is missing or added", "table_row_count_to_equal", value=records),
        expect(
            "key-form", "keys are 128-bit ids in hex", "column_values_to_match_regex", "key", regex="^[0-9a-f]{32}$"
        ),
        expect("key-unique", "no two records share a key", "column_values_to_be_unique", "key"),
        expect("label", "labels are declared", "column_values_to_be_in_set", "label", value_set=[*range(len(classes))]),
    ]


def _on_images(shape: tuple[int, int, int]) -> list[dict[str, Any]]:
    height, width, channels = shape
    return [
        expect("height", "images have the declared height", "column_values_to_be_in_set", "height", value_set=[height]),
        expect("width", "images have the declared width", "column_values_to_be_in_set", "width", value_set=[width]),
        expect(
            "mode",
            "images have the declared channels, 8 bits each",
            "column_values_to_be_in_set",
            "mode",
            value_set=["L" if channels == 1 else "RGB"],
        ),
        expect(
            "not-blank",
            f"at least {_MOSTLY:.0%} of the images are not of one grey",
            "column_values_to_be_between",
            "deviation",
            min_value=0,
            strict_min=True,
            mostly=_MOSTLY,
        ),
        expect(
            "brightness",
            "images are neither all black nor all white on average",
            "column_mean_to_be_between",
            "mean",
            min_value=1,
            max_value=254,
        ),
        expect(
            "not-repeated",
            f"at least {_MOSTLY:.0%} of the images are distinct",
            "column_proportion_of_unique_values_to_be_between",
            "digest",
            min_value=_MOSTLY,
        ),
    ]


def _on_classes() -> list[dict[str, Any]]:
    return [
        expect(
            "class-counts",
            "every class has as many records as declared",
            "column_pair_values_to_be_equal",
            column_A="released",
            column_B="declared",
        )
    ]


def _on_ranges() -> list[dict[str, Any]]:
    """Labels are private: what is expected follows from the public probabilities of released labels alone."""
    pairs = (("least", "released", "least"), ("most", "most", "released"))
    return [
        expect(
            f"class-sizes-{name}",
            f"every class has at {name} as many records as the labels' public probabilities allow",
            "column_pair_values_a_to_be_greater_than_b",
            column_A=larger,
            column_B=smaller,
            or_equal=True,
        )
        for name, larger, smaller in pairs
    ]


def _on_gate() -> list[dict[str, Any]]:
    return [
        expect(
            "gate",
            "the charged gate's noisy count reaches the threshold",
            "column_pair_values_a_to_be_greater_than_b",
            column_A="noisy_correct",
            column_B="needed",
            or_equal=True,
        )
    ]


def _classes_frame(frame: "pd.DataFrame", classes: Sequence[str], class_counts: Sequence[int]) -> "pd.DataFrame":
    import pandas as pd  # noqa: PLC0415  (part of the `release` extra)

    return pd.DataFrame({"name": [*classes], "released": _sizes(frame, len(classes)), "declared": [*class_counts]})


def _ranges_frame(
    frame: "pd.DataFrame", classes: Sequence[str], class_ranges: Sequence[tuple[int, int]]
) -> "pd.DataFrame":
    import pandas as pd  # noqa: PLC0415  (part of the `release` extra)

    least, most = zip(*class_ranges, strict=True)
    columns = {"name": [*classes], "released": _sizes(frame, len(classes)), "least": [*least], "most": [*most]}
    return pd.DataFrame(columns)


def _sizes(frame: "pd.DataFrame", classes: int) -> list[int]:
    released = frame["label"].value_counts()
    return [int(released.get(label, 0)) for label in range(classes)]


def _gate_frame(gate: Mapping[str, Any]) -> "pd.DataFrame":
    import pandas as pd  # noqa: PLC0415  (part of the `release` extra)

    return pd.DataFrame([{key: gate[key] for key in ("noisy_correct", "needed", "n", "epsilon")}])


def _sentence(result: dict[str, Any]) -> str:
    seen = result["observed"]
    if "error" in seen:
        observed = f"it could not be computed ({seen['error']})"
    elif "unexpected_count" in seen:
        examples = ", ".join(_example(value) for value in seen.get("examples", []))
        observed = f"{seen['unexpected_count']:,} of {seen['element_count']:,} differ, such as {examples}"
    else:
        observed = f"observed {seen.get('observed_value')}"
    wanted = ", ".join(f"{key} {value}" for key, value in result["kwargs"].items() if key not in _COLUMN_KWARGS)
    expected = f"; expected {wanted}" if wanted else ""
    return f"{result['meta']['name']}: {result['meta']['says']}: {observed}{expected}"


def _example(value: object) -> str:
    return " ".join(f"{key} {value[key]}" for key in sorted(value)) if isinstance(value, dict) else str(value)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
