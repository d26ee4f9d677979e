import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cadp.errors import RejectedInput
from cadp.records import Released
from cadp.utility.expectations import ExpectationReport, check_release
from cadp.utility.gate import GatePlan
from cadp.utility.released_frame import ReleasedFrame

FACTS = {"records": 40, "classes": ("a", "b", "c", "d"), "shape": (8, 8, 1), "class_counts": (10, 10, 10, 10)}
GATE = GatePlan(0.5, 100, 0.75)


def check(frame: Any, **facts: Any) -> ExpectationReport:
    return check_release(frame, **{**FACTS, "gate": GATE.read(80), **facts})


def test_a_sound_release_meets_every_expectation(release_frame: Callable[..., Any]) -> None:
    report = check(release_frame())
    assert report.success, report.failures
    assert report.failures == ()
    result = json.loads(report.result_json)
    assert result["success"] is True
    assert [one["meta"]["name"] for one in result["results"]] == [
        "columns", "record-count", "key-form", "key-unique", "label", "height", "width", "mode", "not-blank",
        "brightness", "not-repeated", "class-counts", "gate",
    ]  # fmt: skip
    assert all(one["success"] for one in result["results"])


def wrong_label(i: int, key: Any, label: int, image: NDArray[np.uint8]) -> Any:
    return i, key, 4 if i == 3 else label, image


def moved_label(i: int, key: Any, label: int, image: NDArray[np.uint8]) -> Any:
    return i, key, 2 if i == 3 else label, image


def duplicate_key(i: int, key: Any, label: int, image: NDArray[np.uint8]) -> Any:
    return i, (1).to_bytes(16, "big") if i == 3 else key, label, image


def missing(i: int, key: Any, label: int, image: NDArray[np.uint8]) -> Any:
    return None if i == 3 else (i, key, label, image)


def wide(i: int, key: Any, label: int, image: NDArray[np.uint8]) -> Any:
    return i, key, label, np.pad(image, ((0, 0), (0, 1), (0, 0))) if i == 3 else image


def tall(i: int, key: Any, label: int, image: NDArray[np.uint8]) -> Any:
    return i, key, label, np.pad(image, ((0, 1), (0, 0), (0, 0))) if i == 3 else image


def coloured(i: int, key: Any, label: int, image: NDArray[np.uint8]) -> Any:
    return i, key, label, np.repeat(image, 3, axis=2) if i == 3 else image


def blank(i: int, key: Any, label: int, image: NDArray[np.uint8]) -> Any:
    return i, key, label, np.full_like(image, 40 + i) if i < 3 else image


def black(i: int, key: Any, label: int, image: NDArray[np.uint8]) -> Any:
    return i, key, label, image // 250 + (np.arange(64).reshape(8, 8, 1) == i).astype(np.uint8)


def repeated(i: int, key: Any, label: int, image: NDArray[np.uint8]) -> Any:
    return i, key, label, np.arange(64, dtype=np.uint8).reshape(8, 8, 1) if i < 5 else image


@pytest.mark.parametrize(
    ("change", "names", "says"),
    [
        (wrong_label, {"label", "class-counts"}, "such as 4"),
        (moved_label, {"class-counts"}, "name c released 11"),
        (duplicate_key, {"key-unique"}, "2 of 40 differ"),
        (missing, {"record-count", "class-counts"}, "observed 39; expected value 40"),
        (wide, {"width"}, "such as 9; expected value_set [8]"),
        (tall, {"height"}, "such as 9; expected value_set [8]"),
        (coloured, {"mode"}, "such as RGB"),
        (blank, {"not-blank"}, "3 of 40"),
        (black, {"brightness"}, "expected min_value 1"),
        (repeated, {"not-repeated"}, "observed 0.9"),
    ],
)
def test_a_planted_fault_fails_the_expectation_that_is_meant_for_it(
    release_frame: Callable[..., Any], change: Callable[..., Any], names: set[str], says: str
) -> None:
    report = check(release_frame(change))
    assert not report.success
    assert {line.split(":")[0] for line in report.failures} == names
    assert any(says in line for line in report.failures), report.failures
    broken = {one["meta"]["name"] for one in json.loads(report.result_json)["results"] if not one["success"]}
    assert broken == names
    assert report.page.count(b'class="broken"') == len(names)


def test_a_key_that_is_not_an_id_fails(release_frame: Callable[..., Any]) -> None:
    frame = release_frame()
    frame.loc[0, "key"] = "train-000001"  # a source's own key must never appear
    assert [line.split(":")[0] for line in check(frame).failures] == ["key-form"]


def test_a_missing_fact_fails_in_words(release_frame: Callable[..., Any]) -> None:
    report = check(release_frame().drop(columns=["deviation"]))
    assert {line.split(":")[0] for line in report.failures} == {"columns", "not-blank"}
    assert any('"deviation"' in line and "could not be computed" in line for line in report.failures)


def test_the_gate_holds_a_release_back(release_frame: Callable[..., Any]) -> None:
    report = check(release_frame(), gate=GATE.read(74))
    assert report.failures == (
        "gate: the charged gate's noisy count reaches the threshold: 1 of 1 differ, "
        "such as n 100 needed 75 noisy_correct 74",
    )
    assert check(release_frame(), gate=GATE.read(75)).success


def test_without_public_labels_or_a_gate_those_suites_are_left_out(release_frame: Callable[..., Any]) -> None:
    report = check(release_frame(moved_label), class_counts=None, gate=None)
    assert report.success
    assert [suite["name"] for suite in json.loads(report.suite_json)["suites"]] == ["records"]


@pytest.mark.parametrize(
    ("ranges", "broken"),
    [
        ([(5, 15)] * 4, set()),
        ([(10, 10)] * 4, set()),
        ([(5, 15), (11, 15), (5, 15), (5, 15)], {"class-sizes-least"}),
        ([(5, 15), (5, 9), (5, 15), (5, 15)], {"class-sizes-most"}),
    ],
    ids=["within", "at the ends", "too few", "too many"],
)
def test_sizes_of_classes_lie_within_what_private_labels_allow(
    release_frame: Callable[..., Any], ranges: list[tuple[int, int]], broken: set[str]
) -> None:
    report = check(release_frame(), class_counts=None, class_ranges=ranges)
    assert {failure.partition(":")[0] for failure in report.failures} == broken
    names = [one["meta"]["name"] for one in json.loads(report.result_json)["results"]]
    assert "class-counts" not in names
    assert {"class-sizes-least", "class-sizes-most"} <= {*names}


def test_an_empty_release_fails(release_frame: Callable[..., Any]) -> None:
    assert not check(release_frame(lambda *record: None)).success


def test_what_is_published_is_stable_and_holds_no_path_time_or_id(release_frame: Callable[..., Any]) -> None:
    first, second = (check(release_frame(moved_label), gate=GATE.read(3)) for _ in range(2))
    assert first.files == second.files
    assert set(first.files) == {"index.html", "result.json", "suite.json"}
    for name, data in first.files.items():
        text = data.decode()
        assert "site-packages" not in text, name
        assert not re.search(r"/(home|work|tmp|root|usr)\b|\d{4}-\d\d-\d\d[T ]|\d\d:\d\d:\d\d", text), name
        assert not re.search(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-", text), name
        assert "batch_id" not in text, name


def test_the_page_asks_nothing_of_another_host(release_frame: Callable[..., Any]) -> None:
    page = check(release_frame(), classes=("<script>alert(1)</script>", "b", "c", "d")).page.decode()
    assert not re.search(r"https?://|<script|<link|<img|@import|url\(", page)
    assert re.findall(r'href="([^"]+)"', page) == ["suite.json", "result.json"]
    assert "default-src 'none'" in page


def test_importing_the_module_loads_neither_great_expectations_nor_pandas() -> None:
    code = (
        "import sys, cadp.utility.expectations, cadp.utility.gate\n"
        "sys.exit(any(name in sys.modules for name in ('great_expectations', 'pandas', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_is_asked_of_the_network_and_the_home_stays_empty(tmp_path: Path) -> None:
    code = (
        "import socket\n"
        "asked = []\n"
        "socket.socket.connect = lambda self, address: asked.append(address)\n"
        "socket.getaddrinfo = lambda *host, **options: asked.append(host) or []\n"
        "from cadp.utility.expectations import check_release\n"
        "from cadp.utility.released_frame import ReleasedFrame\n"
        "check_release(ReleasedFrame().frame(), records=0, classes=('a', 'b'), shape=(8, 8, 1),"
        " class_counts=None, gate=None)\n"
        "raise SystemExit(str(asked) if asked else 0)"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GX_")}
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env={**environment, "HOME": str(tmp_path)}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    assert list(tmp_path.iterdir()) == []


def test_a_released_record_that_is_no_png_is_refused() -> None:
    with pytest.raises(RejectedInput, match="not a PNG"):
        ReleasedFrame().add(Released(bytes(16), 0, b"GIF89a" + bytes(60)), np.zeros((8, 8, 1), dtype=np.uint8))
