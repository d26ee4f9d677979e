"""The measuring of tables: its figures are what they say, and its page has them all."""

import re
from pathlib import Path

import numpy as np
import pytest

from cadp.records import Batch
from cadp.sources.fetch import fetch
from cadp.spec import parse_spec
from tests.benchmarks.tables.draw import draw
from tests.benchmarks.tables.measuring import EPSILONS, KINDS, Originals, accuracies, apart, measure, nearer, originals
from tests.benchmarks.tables.report import _FORM, report


@pytest.fixture(scope="module")
def diabetes(tmp_path_factory: pytest.TempPathFactory) -> Originals:
    data = tmp_path_factory.mktemp("data")
    fetch("diabetes", data, lambda line: None)
    return originals("diabetes", data)


def test_originals_are_not_apart_from_themselves_and_nearest_to_themselves(diabetes: Originals) -> None:
    assert apart(diabetes, diabetes.rows) == 0
    assert nearer(diabetes, diabetes.rows) == 1


def test_rows_of_other_records_are_as_near_as_any(diabetes: Originals) -> None:
    order = np.concatenate([np.roll(np.flatnonzero(diabetes.rows.labels == y), 5) for y in range(3)])
    back = np.argsort(np.concatenate([np.flatnonzero(diabetes.rows.labels == y) for y in range(3)]))
    shuffled = Batch(diabetes.rows.images[order[back]], diabetes.rows.labels, diabetes.rows.valid)
    assert apart(diabetes, shuffled) == 0
    assert 0.35 < nearer(diabetes, shuffled) < 0.65


def test_a_release_costs_what_it_says_and_the_page_has_every_figure(diabetes: Originals, tmp_path: Path) -> None:
    found = {carry: measure(diabetes, 8.0, carry=carry) for carry in (True, False)}
    for figures in found.values():
        assert 7.5 < figures.epsilon <= 8.0
        assert set(figures.accuracy) == set(KINDS)
        assert 0 < figures.apart < 1
    assert found[True].nearer > found[False].nearer
    measured = {(epsilon, carry): [found[carry]] for epsilon in EPSILONS for carry in (True, False)}
    text = report([(diabetes, accuracies(diabetes, diabetes.rows), 0.25, measured)], 1, "Here.")
    assert text.count("p/o, ε = ") == text.count("resample, ε = ") == len(EPSILONS)
    assert max(map(len, text.splitlines())) <= 160
    draw(diabetes, diabetes.rows, "diabetes", tmp_path / "images" / "diabetes.png")
    assert (tmp_path / "images" / "diabetes.png").read_bytes().startswith(b"\x89PNG")


def test_the_form_in_the_page_is_one_that_is_read() -> None:
    source = re.sub(r"```(yaml)?\n?", "", _FORM)
    rest = """
name: visits
version: 1.0.0
license: MIT
population: visits
spend:     {epsilon: 8, delta: 1e-5}
model:     {train: {epsilon: 4}}
mechanism: {kind: privunit, epsilon: 1, content_dims: 2}
validate:  {classifier: boosting, holdout: test, epsilon: 1, accuracy_at_least: 0.5}
"""
    table = parse_spec(source + rest).source.table
    assert table is not None
    assert [column.kind for column in table.columns] == ["integer", "category", "number"]
