"""Between 8-bit values and the line: dequantisation and logit, with exact log-dets.

A pixel `x = i/255` stands for the cell of width 1/256 around `u = (i + ½)/256`. The record path encodes its centre, so
encoding is a function; training draws a point of the cell (`dequantised`), so likelihoods are those of a density.
"""

import math

import torch
from torch import Tensor

from cadp.cinn.layers.layer import Condition, Layer

LEVELS = 256


class Dequantise(Layer):
    """Pixels `x` in [0, 1] to points of cells in (0, 1): `u = (255·x + ½)/256`; log-det `d·log(255/256)`."""

    def forward(self, x: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """To (0, 1)."""
        del c
        log_det = x.shape[1] * math.log((LEVELS - 1) / LEVELS)
        return ((LEVELS - 1) * x + 0.5) / LEVELS, x.new_full((len(x),), log_det)

    def inverse(self, z: Tensor, c: Condition) -> Tensor:
        """To pixels."""
        del c
        return (LEVELS * z - 0.5) / (LEVELS - 1)


class Logit(Layer):
    """(0, 1) to the line: `z = logit(α + (1 - 2α)·u)` (Dinh et al. 2017); log-det `Σ log(1-2α) - log v - log(1-v)`."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """To the line."""
        del c
        v = self.alpha + (1 - 2 * self.alpha) * x
        low, high = v.log(), torch.log1p(-v)
        return low - high, x.shape[1] * math.log(1 - 2 * self.alpha) - (low + high).sum(dim=1)

    def inverse(self, z: Tensor, c: Condition) -> Tensor:
        """To (0, 1)."""
        del c
        return (z.sigmoid() - self.alpha) / (1 - 2 * self.alpha)


def dequantised(pixels: Tensor, noise: Tensor) -> Tensor:
    """Pixels `i/255` moved within their cells by `noise` in [0, 1), for training and for likelihoods only.

    The noise may come from any generator: it hides nothing, and no private statistic is drawn from it.
    """
    return pixels + (noise - 0.5) / (LEVELS - 1)
