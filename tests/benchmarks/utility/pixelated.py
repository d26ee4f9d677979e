"""Pixel noise: DP-Pix (Fan 2018), at record level.

A picture is averaged over 4×4 cells, and every mean gets Laplace noise. Two pictures may differ in all 49 means by all
255 grey levels: that is the sensitivity, replace-one, and zero-out as well, since a black picture is one of them.
"""

from fractions import Fraction

import numpy as np

from cadp.privacy.noise import discrete_laplace
from tests.benchmarks.utility.data import Pictures

CELL = 4


def pixelated(pictures: Pictures, epsilon: float) -> Pictures:
    """Return the noisy pictures, clamped to 8 bits."""
    n, h, w, _ = pictures.images.shape
    means = pictures.images.reshape(n, h // CELL, CELL, w // CELL, CELL).mean(axis=(2, 4))
    levels = np.rint(means).astype(np.int64)
    sensitivity = 255 * levels[0].size
    noisy = levels + discrete_laplace(Fraction(sensitivity) / Fraction(epsilon), levels.shape)
    cells = noisy.clip(0, 255).astype(np.uint8)
    return Pictures(cells.repeat(CELL, axis=1).repeat(CELL, axis=2)[..., None], pictures.labels)
