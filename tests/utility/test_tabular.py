"""The classifiers of rows: they learn what is there, take categories as such, and judge each row by itself."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cadp.columns import TOP, Table
from cadp.errors import RejectedInput
from cadp.records import Batch
from cadp.utility.tabular import Kind, TabularRecipe, features, train_tabular

TABLE = Table.model_validate(
    {
        "columns": [
            {"name": "a", "bounds": [0, 10]},
            {"name": "b", "bounds": [1, 100], "scale": "log"},
            {"name": "c", "levels": ["x", "y", "z"]},
        ],
        "label": {"column": "y"},
        "outside": "clamp",
    }
)
KINDS: tuple[Kind, ...] = ("linear", "boosting")


def rows(count: int, seed: int = 0) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Two classes that differ in the number a and, not by its order, in the category."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 2
    vectors = np.zeros((count, 1, 1, TABLE.width), dtype=np.uint16)
    vectors[:, 0, 0, 0] = (generator.normal(0.35 + 0.3 * labels, 0.15).clip(0, 1) * TOP).astype(np.uint16)
    vectors[:, 0, 0, 1] = generator.integers(0, TOP, count)
    middle = generator.random(count) < 0.1 + 0.8 * labels
    level = np.where(middle, 1, generator.choice([0, 2], count))
    vectors[np.arange(count), 0, 0, 1 + level] = np.where(level, TOP, vectors[np.arange(count), 0, 0, 1 + level])
    return vectors, labels


def trained(kind: Kind, **changes: Any) -> Any:
    return train_tabular(*rows(400), 2, TABLE, TabularRecipe(kind, **changes))


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns(kind: Kind) -> None:
    vectors, labels = rows(400, seed=1)
    assert (trained(kind).predict(vectors) == labels).mean() > 0.88


@pytest.mark.parametrize("kind", KINDS)
def test_the_recipe_gives_the_same_answers_again(kind: Kind) -> None:
    vectors, _ = rows(200, seed=2)
    assert np.array_equal(trained(kind).predict(vectors), trained(kind).predict(vectors))


@pytest.mark.parametrize("kind", KINDS)
def test_a_rows_answer_does_not_depend_on_the_others(kind: Kind) -> None:
    classifier = trained(kind)
    vectors, _ = rows(60, seed=3)
    changed = vectors.copy()
    changed[1::2] = TOP
    assert np.array_equal(classifier.predict(vectors)[::2], classifier.predict(changed)[::2])


@pytest.mark.parametrize("kind", KINDS)
def test_a_rejected_row_is_never_right(kind: Kind) -> None:
    classifier, (vectors, labels) = trained(kind), rows(50, seed=4)
    right = classifier.predict(vectors) == labels
    valid = np.arange(50) % 5 != 0
    assert classifier.correct(Batch(vectors, labels, valid)) == int((right & valid).sum())


def test_features_are_what_a_reader_sees() -> None:
    vectors = np.array([[[[TOP, TOP // 2, 0, TOP]]]], dtype=np.uint16)
    assert features(TABLE, vectors).tolist() == [[10.0, pytest.approx(10.0, rel=1e-3), 2.0]]


@pytest.mark.parametrize("kind", KINDS)
def test_one_class_alone_is_what_it_says(kind: Kind) -> None:
    vectors, _ = rows(30)
    classifier = train_tabular(vectors, np.ones(30, dtype=np.int64), 2, TABLE, TabularRecipe(kind))
    assert set(classifier.predict(vectors)) == {1}


def test_what_is_no_row_of_the_table_is_refused() -> None:
    vectors, labels = rows(10)
    recipe = TabularRecipe("linear")
    for images, truth in (
        (vectors[..., 1:], labels),
        (vectors.astype(np.uint8), labels),
        (vectors, labels[1:]),
        (vectors, labels + 1),
        (vectors[:0], labels[:0]),
    ):
        with pytest.raises(RejectedInput):
            train_tabular(images, truth, 2, TABLE, recipe)
