"""DP-SGD of a linear classifier on fixed features of the originals (Tramèr and Boneh 2021): the baseline of a release.

It answers one question and releases no record. The accountant and the events are `cadp`'s; sums and noise are floating
point, which a benchmark that publishes no model may use and a release may not. The settings were chosen on public
digits, under the noise a record that ε = 3 buys 60,000 records.
"""

import numpy as np
from numpy.typing import NDArray

from cadp.privacy.accountant import curve
from cadp.privacy.events import SampledGaussianEvent
from tests.benchmarks.utility.cells import DELTA, PrivateClassifier
from tests.benchmarks.utility.data import CLASSES, Originals
from tests.benchmarks.utility.oriented import features

SAMPLING_RATE = 1 / 8
STEPS = 400
CLIP_NORM = 1.0
LEARNING_RATE = 16.0
MOMENTUM = 0.9
_GRID = 64


def noise_multiplier(epsilon: float, relation: str) -> float:
    """Return the least noise over clip norm, on a grid, with which all steps cost at most ε at `DELTA`."""

    def fits(multiplier: int) -> bool:
        event = SampledGaussianEvent(SAMPLING_RATE, multiplier / _GRID, STEPS, relation=relation)
        return curve(event).epsilon(DELTA) <= epsilon

    low, high = 0, _GRID
    while not fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high / _GRID


def private_accuracy(cell: PrivateClassifier, originals: Originals, seed: int) -> float:
    """Train on the training originals and return the accuracy on the test originals."""
    rows, labels = features(originals.train.images), originals.train.labels
    sigma = noise_multiplier(cell.epsilon, cell.relation) * CLIP_NORM
    draw = np.random.default_rng(seed)
    weight = np.zeros((CLASSES, rows.shape[1]))
    velocity, average = np.zeros_like(weight), np.zeros_like(weight)
    for step in range(STEPS):
        drawn = np.flatnonzero(draw.random(len(rows)) < SAMPLING_RATE)
        total = clipped_sum(weight, rows[drawn], labels[drawn]) + sigma * draw.standard_normal(weight.shape)
        velocity = MOMENTUM * velocity + total / (SAMPLING_RATE * len(rows))
        weight = weight - LEARNING_RATE * velocity
        average += weight if step >= STEPS // 2 else 0  # of the second half of the steps
    scores = features(originals.test.images) @ average.T
    return float(np.mean(scores.argmax(axis=1) == originals.test.labels))


def clipped_sum(
    weight: NDArray[np.float64], rows: NDArray[np.float32], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the sum of the records' gradients, each clipped to `CLIP_NORM`.

    A record's gradient is error ⊗ features, whose norm is the product of both norms.
    """
    scores = rows @ weight.T
    error = np.exp(scores - scores.max(axis=1, keepdims=True))
    error /= error.sum(axis=1, keepdims=True)
    error[np.arange(len(labels)), labels] -= 1
    norms = np.linalg.norm(error, axis=1) * np.linalg.norm(rows, axis=1)
    error *= np.minimum(1, CLIP_NORM / np.maximum(norms, np.finfo(np.float64).tiny))[:, None]
    return np.asarray(error.T @ rows, dtype=np.float64)
