"""Fixed features of one picture: averages and oriented edges, as the first layers of a scattering network see them.

Each group of features is divided by its own length, picture by picture, so that nothing about them is learnt and every
picture's features have the same norm.
"""

import numpy as np
from numpy.typing import NDArray

DIRECTIONS = 8
CELLS = 7


def features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return `(n, f)` float32 features of `(n, 28, 28, 1)` images, of norm 2 with their last entry, a constant 1."""
    pixels = np.asarray(images[..., 0] / np.float32(255), dtype=np.float32)
    groups = [_cells(pixels)]
    for scale in (1, 2):
        groups.append(np.concatenate([_cells(edge) for edge in _edges(_shrunk(pixels, scale))], axis=1))
    unit = [group / np.maximum(np.linalg.norm(group, axis=1, keepdims=True), 1e-3) for group in groups]
    return np.concatenate([*unit, np.ones((len(pixels), 1), dtype=np.float32)], axis=1)


def _edges(pixels: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The positive part of the slope in each direction: an edge and its opposite are two features."""
    down, right = np.gradient(pixels, axis=(1, 2))
    turns = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
    return [np.maximum(np.float32(np.cos(t)) * right + np.float32(np.sin(t)) * down, 0) for t in turns]


def _shrunk(pixels: NDArray[np.float32], scale: int) -> NDArray[np.float32]:
    n, side, _ = pixels.shape
    return np.asarray(pixels.reshape(n, side // scale, scale, side // scale, scale).mean(axis=(2, 4)))


def _cells(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Averages over 7×7 cells, as rows."""
    return _shrunk(pixels, pixels.shape[1] // CELLS).reshape(len(pixels), -1)
