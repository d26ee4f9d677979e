"""The classifier of every figure, fixed in advance, and the plainer one that it is shown beside."""

from dataclasses import replace

import numpy as np

from cadp.reporter import Silent
from cadp.utility.classifier import Classifier, ClassifierRecipe, train_classifier
from tests.benchmarks.utility.cells import RecipeName
from tests.benchmarks.utility.data import CLASSES, Pictures

RECIPES: dict[RecipeName, ClassifierRecipe] = {
    "gate": ClassifierRecipe(),
    "plain": ClassifierRecipe(epochs=3, grain=0.0, kernel=3),
}


def trained(pictures: Pictures, seed: int, recipe: RecipeName) -> Classifier:
    """A classifier of these pictures with this seed."""
    chosen = replace(RECIPES[recipe], seed=seed)
    return train_classifier(pictures.images, pictures.labels, CLASSES, chosen, Silent())


def accuracy(classifier: Classifier, pictures: Pictures) -> float:
    """The share of pictures that get their own label."""
    return float(np.mean(classifier.predict(pictures.images) == pictures.labels))
