"""The measuring of tables: its figures are what they say, and its page has them all."""

import re
from pathlib import Path

import numpy as np
import pytest

from cadp.columns import rows_in_columns
from cadp.records import Batch
from cadp.sources.fetch import fetch
from cadp.spec import parse_spec
from tests.benchmarks.tables.draw import draw
from tests.benchmarks.tables.marginals import columns_alone
from tests.benchmarks.tables.measuring import (
    ALONE,
    CARRIED,
    EPSILONS,
    KINDS,
    RESAMPLED,
    ROOT,
    WAYS,
    Originals,
    accuracies,
    apart,
    measure,
    nearer,
    originals,
    planned,
    untied,
    ways,
)
from tests.benchmarks.tables.report import _FORM, _declaring, _limits, report


@pytest.fixture(scope="module")
def diabetes(tmp_path_factory: pytest.TempPathFactory) -> Originals:
    data = tmp_path_factory.mktemp("data")
    fetch("diabetes", data, lambda line: None)
    return originals("diabetes", data)


def test_originals_are_not_apart_from_themselves_and_nearest_to_themselves(diabetes: Originals) -> None:
    assert apart(diabetes, diabetes.rows) == 0
    assert untied(diabetes, diabetes.rows) == 0
    assert nearer(diabetes, diabetes.rows) == 1


def test_rows_of_other_records_are_as_near_as_any(diabetes: Originals) -> None:
    order = np.concatenate([np.roll(np.flatnonzero(diabetes.rows.labels == y), 5) for y in range(3)])
    back = np.argsort(np.concatenate([np.flatnonzero(diabetes.rows.labels == y) for y in range(3)]))
    shuffled = Batch(diabetes.rows.images[order[back]], diabetes.rows.labels, diabetes.rows.valid)
    assert apart(diabetes, shuffled) == 0
    assert 0.35 < nearer(diabetes, shuffled) < 0.65


def test_a_release_costs_what_it_says_and_the_page_has_every_figure(diabetes: Originals, tmp_path: Path) -> None:
    found = {way: measure(diabetes, 8.0, way) for way in WAYS}
    for figures in found.values():
        assert 7.5 < figures.epsilon <= 8.0
        assert set(figures.accuracy) == set(KINDS)
        assert 0 < figures.apart < 1
    assert found[CARRIED].nearer > max(found[RESAMPLED].nearer, found[ALONE].nearer)
    measured = {(epsilon, way): [found[way]] for epsilon in EPSILONS for way in WAYS}
    text = report([(diabetes, accuracies(diabetes, diabetes.rows), (0.25, 0.1), measured)], 1, "Here.")
    assert ways(diabetes, 8.0) == [CARRIED, RESAMPLED, ALONE], "for so few rows the rule gives no mixtures"
    assert [text.count(f"| {way}, ε = ") for way in WAYS] == [len(EPSILONS), 0, len(EPSILONS), len(EPSILONS)]
    assert planned(diabetes, 4.8, mixtures=False).parameters() == planned(diabetes, 4.8).parameters()
    assert "Gaussians a class, one unless said" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 160
    draw(diabetes, diabetes.rows, "diabetes", tmp_path / "images" / "diabetes.png")
    assert (tmp_path / "images" / "diabetes.png").read_bytes().startswith(b"\x89PNG")


def test_columns_alone_are_those_of_the_originals_where_there_is_hardly_noise(diabetes: Originals) -> None:
    rows, cost = columns_alone(diabetes.table, diabetes.rows, 900.0, 1e-4)
    assert cost <= 900
    sexes = diabetes.table.columns[1]
    assert sexes.levels is not None
    assert apart(diabetes, rows) < 0.25, "as far as two samples of so many"
    told, drawn = (rows_in_columns(diabetes.table, b.images.reshape(len(b), -1)) for b in (diabetes.rows, rows))
    shares = [np.mean([level == sexes.levels[0] for level in side["sex"]]) for side in (told, drawn)]
    assert abs(shares[0] - shares[1]) < 0.15
    assert untied(diabetes, rows) > 0.15, "what columns have to do with each other is lost"


def test_what_the_page_says_beside_figures_is_what_would_be_written_now() -> None:
    written = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    assert _limits() in written
    assert _declaring() in written


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
