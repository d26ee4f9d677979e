"""The classifier of every figure, fixed in advance, and the one alternative front that it is shown beside."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cadp.cinn.layers.transforms import cosine_matrix
from cadp.reporter import Silent
from cadp.utility.classifier import Classifier, ClassifierRecipe, train_classifier
from tests.benchmarks.utility.data import CLASSES, Pictures

LOW = 14
Front = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


def as_is(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The images themselves."""
    return images


def low_pass(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What the lowest `LOW`×`LOW` cosine frequencies say of each image, clamped and rounded to 8 bits.

    A public map of one image, which both released records and test originals go through.
    """
    rows = cosine_matrix(images.shape[1])[:LOW]
    keep = rows.T @ rows
    smooth = np.einsum("ij,njk,kl->nil", keep, images[..., 0].astype(np.float64), keep, optimize=True)
    return np.asarray(np.rint(smooth.clip(0, 255))[..., None], dtype=np.uint8)


FRONTS: dict[str, Front] = {"as is": as_is, "low-pass": low_pass}


def trained(pictures: Pictures, seed: int, front: str) -> Classifier:
    """`ClassifierRecipe` as `cadp` has it, with this seed, behind a front."""
    images = FRONTS[front](pictures.images)
    return train_classifier(images, pictures.labels, CLASSES, ClassifierRecipe(seed=seed), Silent())


def accuracy(classifier: Classifier, pictures: Pictures, front: str) -> float:
    """The share of pictures that get their own label."""
    return float(np.mean(classifier.predict(FRONTS[front](pictures.images)) == pictures.labels))
