import math
from collections.abc import Callable
from typing import Self

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cadp.errors import RejectedInput
from cadp.records import Batch
from cadp.reporter import Silent
from cadp.utility.classifier import ClassifierRecipe, train_classifier

Pictures = tuple[NDArray[np.uint8], NDArray[np.int64]]
QUICK = ClassifierRecipe(least_steps=80, batch=32, threads=1)


class Counting(Silent):
    """Adds up what a progress bar is told."""

    def progress(self, label: str, total: int | None, things: str) -> Self:
        self.label, self.total, self.things, self.done = label, total, things, 0
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None: ...

    def __call__(self, done: int = 1) -> None:
        self.done += done


@pytest.mark.parametrize(
    ("shape", "classes"),
    [((8, 8, 1), 2), ((8, 8, 1), 4), ((28, 28, 1), 10), ((16, 12, 3), 3), ((64, 64, 3), 2), ((3, 1, 1), 3)],
)
def test_learns_an_obvious_class_at_every_shape(
    pictures: Callable[..., Pictures], shape: tuple[int, int, int], classes: int
) -> None:
    images, labels = pictures(200, classes, shape)
    classifier = train_classifier(images, labels, classes, QUICK, Silent())
    fresh, truth = pictures(100, classes, shape, seed=1)
    predicted = classifier.predict(fresh)
    assert np.count_nonzero(predicted == truth) >= 95
    assert predicted.shape == (100,)
    assert predicted.dtype == np.int64


def test_learns_nothing_from_labels_that_mean_nothing(pictures: Callable[..., Pictures]) -> None:
    images, labels = pictures(200, 4, (8, 8, 1))
    fresh, truth = pictures(200, 4, (8, 8, 1), seed=1)
    right = 0
    for seed in range(4):  # a whole class may fall to its own name by chance
        shuffled = np.random.default_rng(seed).permutation(labels)
        right += np.count_nonzero(train_classifier(images, shuffled, 4, QUICK, Silent()).predict(fresh) == truth)
    assert right < 400


def test_same_recipe_same_classifier_and_the_global_state_is_left_alone(pictures: Callable[..., Pictures]) -> None:
    images, labels = pictures(100, 3, (8, 8, 1))
    torch.manual_seed(11)
    expected = torch.rand(1).item()
    torch.manual_seed(11)
    threads = torch.get_num_threads()
    first, second = (train_classifier(images, labels, 3, QUICK, Silent()) for _ in range(2))
    assert torch.rand(1).item() == expected
    assert torch.get_num_threads() == threads
    noise = np.random.default_rng(0).integers(0, 256, (500, 8, 8, 1)).astype(np.uint8)
    assert np.array_equal(first.predict(noise), second.predict(noise))
    assert len(first.predict(noise[:0])) == 0


def test_progress_counts_every_image_of_every_pass(pictures: Callable[..., Pictures]) -> None:
    images, labels = pictures(70, 2, (8, 8, 1))
    reporter = Counting()
    train_classifier(images, labels, 2, QUICK, reporter)
    assert QUICK.passes(70) == math.ceil(80 / 3)
    assert (reporter.label, reporter.things) == ("train classifier", "images")
    assert reporter.done == reporter.total == 70 * QUICK.passes(70)
    assert ClassifierRecipe().passes(60_000) == ClassifierRecipe().epochs


def test_refuses_what_it_cannot_learn_from(pictures: Callable[..., Pictures]) -> None:
    images, labels = pictures(20, 2, (8, 8, 1))
    for bad_images, bad_labels, classes in (
        (images[:0], labels[:0], 2),
        (images.astype(np.float32), labels, 2),
        (images[..., 0], labels, 2),
        (images, labels[:-1], 2),
        (images, labels, 1),
        (images, labels + 1, 2),
        (images, labels - 1, 2),
    ):
        with pytest.raises(RejectedInput):
            train_classifier(bad_images, bad_labels, classes, QUICK, Silent())
    classifier = train_classifier(images, labels, 2, QUICK, Silent())
    with pytest.raises(RejectedInput, match="shape"):
        classifier.predict(np.zeros((3, 9, 8, 1), dtype=np.uint8))


def test_a_rejected_record_is_never_a_hit_and_one_record_moves_only_its_own_term(
    pictures: Callable[..., Pictures],
) -> None:
    images, labels = pictures(200, 4, (8, 8, 1))
    classifier = train_classifier(images, labels, 4, QUICK, Silent())
    # Pictures near the borders between classes, where the last bit of a score could turn an answer.
    rng = np.random.default_rng(9)
    n = 1_500
    grey = rng.integers(90, 110, (n, 8, 8, 1)).astype(np.uint8)
    valid = np.ones(n, dtype=np.bool_)
    before = classifier.predict(grey)
    whole = classifier.correct(Batch(grey, before, valid))
    assert whole == n
    for place in (0, 700, 1_023, 1_024, n - 1):
        for other in (0, 255):
            neighbour = grey.copy()
            neighbour[place] = other
            after = classifier.predict(neighbour)
            assert np.array_equal(np.delete(after, place), np.delete(before, place))
        without = valid.copy()
        without[place] = False
        assert classifier.correct(Batch(np.where(without[:, None, None, None], grey, 0), before, without)) == n - 1
