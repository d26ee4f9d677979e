"""The Fréchet distance between released and original pictures in the features of a classifier of held-out data.

Features are the hidden layer of the plain classifier, trained on the 10,000 test originals, which no model and no
released record sees: d² = |μ₁ − μ₂|² + Tr(C₁ + C₂ − 2·(C₁C₂)^½) (Heusel et al. 2017, with Inception's features, which
were learnt on colour photographs). Grain that a p/o hardly shows moves features, so it shows here. The floor is the
distance between two halves of the originals.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg
from torch import nn

from cadp.utility.classifier import Classifier
from tests.benchmarks.utility.data import Pictures
from tests.benchmarks.utility.recipe import trained

_BLOCK = 1000


@dataclass(frozen=True)
class Gaussian:
    """Mean `(f,)` and covariance `(f, f)` of features."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


class Features:
    """The features of pictures, standardised by the held-out ones, and the distance of a release from originals."""

    def __init__(self, held_out: Pictures, originals: Pictures) -> None:
        self._classifier = trained(held_out, 0, "plain")  # the other one learns to overlook grain
        # A common unit, so that the distance does not depend on how large the classifier's weights grew.
        self._scale = max(float(self._rows(held_out).std()), 1e-9)
        self._originals = self._gaussian(originals)

    def distance(self, pictures: Pictures) -> float:
        """Return the distance of these pictures' features from those of the originals."""
        return frechet(self._gaussian(pictures), self._originals)

    def floor(self, originals: Pictures) -> float:
        """Return the distance between every other original and the rest."""
        halves = [Pictures(originals.images[side::2], originals.labels[side::2]) for side in (0, 1)]
        return frechet(*map(self._gaussian, halves))

    def _gaussian(self, pictures: Pictures) -> Gaussian:
        rows = self._rows(pictures) / self._scale
        return Gaussian(rows.mean(axis=0), np.cov(rows.T))

    def _rows(self, pictures: Pictures) -> NDArray[np.float64]:
        return hidden(self._classifier, pictures)


def hidden(classifier: Classifier, pictures: Pictures) -> NDArray[np.float64]:
    """What the layer before a classifier's last gives for each picture, `(n, hidden)`."""
    rows: list[NDArray[np.float64]] = []
    last = [module for module in classifier._network.modules() if isinstance(module, nn.Linear)][-1]
    hook = last.register_forward_pre_hook(lambda _, given: rows.append(given[0].detach().to(torch.float64).numpy()))
    for start in range(0, len(pictures), _BLOCK):
        classifier.predict(pictures.images[start : start + _BLOCK])
    hook.remove()
    return np.concatenate(rows)


def frechet(a: Gaussian, b: Gaussian) -> float:
    """Return the squared Fréchet distance of two Gaussians."""
    # (C₁C₂)^½ has the trace of (S·C₂·S)^½ with S = C₁^½, which is symmetric and needs no complex numbers.
    root = _root(a.covariance)
    values = linalg.eigvalsh(root @ b.covariance @ root)
    overlap = float(np.sqrt(np.maximum(values, 0)).sum())
    apart = float(np.square(a.mean - b.mean).sum())
    return apart + float(np.trace(a.covariance) + np.trace(b.covariance)) - 2 * overlap


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)
