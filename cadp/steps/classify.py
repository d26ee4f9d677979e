"""The classifier that a spec names, trained on released records: one kind for images, two for rows of tables."""

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from cadp.errors import SpecError
from cadp.records import Batch, Values
from cadp.reporter import Reporter
from cadp.sources import PublicFacts

Kind = Literal["cnn", "linear", "boosting"]


class Trained(Protocol):
    """What it takes to score a holdout."""

    def predict(self, images: Values) -> NDArray[np.int64]:
        """The most likely class of each record."""

    def correct(self, holdout: Batch) -> int:
        """How many records get their own label; a rejected one never does."""


def train(
    kind: Kind,
    facts: PublicFacts,
    images: Values,
    labels: NDArray[np.int64],
    reporter: Reporter,
    *,
    least_steps: int | None = None,
) -> Trained:
    """Train by the recipe that is fixed for `kind`; of images with as few gradient steps as `least_steps` says.

    Raises:
        SpecError: the kind does not fit the records.
    """
    if facts.table is not None and kind != "cnn":
        from cadp.utility.tabular import TabularRecipe, train_tabular  # noqa: PLC0415  (scikit-learn)

        return train_tabular(images, labels, len(facts.classes), facts.table, TabularRecipe(kind))
    if facts.table is not None or kind != "cnn":
        raise SpecError(f"classifier {kind} does not fit the records: images have cnn, tables linear or boosting")
    from cadp.utility.classifier import ClassifierRecipe, train_classifier  # noqa: PLC0415  (torch)

    recipe = ClassifierRecipe() if least_steps is None else ClassifierRecipe(epochs=1, least_steps=least_steps)
    return train_classifier(np.asarray(images, dtype=np.uint8), labels, len(facts.classes), recipe, reporter)
