"""How much a released record keeps of the original it came from, beside another original of the same class."""

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.utility.data import CLASSES, Pictures
from tests.benchmarks.utility.releasing import cosine


def retention(originals: Pictures, released: Pictures) -> dict[str, float]:
    """Compare every released record with its own original and with a random other original of its class.

    Args:
        originals: in the order of the records.
        released: one for each of them.

    Returns:
        `nearer`: the share of records nearer, by the distance of pixels, to their own original (chance: .50);
        `cosine_own` and `cosine_other`: mean cosine to either, each picture without the mean of its class.
    """
    own, out = _rows(originals), _rows(released)
    other = own[others(originals.labels)]
    nearer = np.square(out - own).sum(axis=1) < np.square(out - other).sum(axis=1)
    for label in range(CLASSES):
        members = originals.labels == label
        if members.any():
            mean = own[members].mean(axis=0)
            for rows in (own, other, out):
                rows[members] -= mean
    return {
        "nearer": float(nearer.mean()),
        "cosine_own": float(cosine(own, out).mean()),
        "cosine_other": float(cosine(other, out).mean()),
    }


def others(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """For every record the index of another of its class: the next one in a random order of the class, always the same.

    A class of one record has no other, and is given itself.
    """
    draw, index = np.random.default_rng(0), np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        order = draw.permutation(np.flatnonzero(labels == label))
        index[order] = np.roll(order, -1)
    return index


def _rows(pictures: Pictures) -> NDArray[np.float64]:
    return pictures.images.reshape(len(pictures), -1) / 255.0
