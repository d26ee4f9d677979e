"""Layers that are fixed and public: the orthonormal cosine transform and the order of its coefficients."""

import math
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cadp.cinn.architecture import Shape
from cadp.cinn.layers.layer import Condition, Layer


def cosine_matrix(size: int) -> NDArray[np.float64]:
    """The orthonormal DCT-II as a `(size, size)` matrix: row u is frequency u (Ahmed, Natarajan and Rao 1974)."""
    u, i = np.arange(size)[:, None], np.arange(size)[None, :]
    rows = np.sqrt(2 / size) * np.cos(math.pi * (2 * i + 1) * u / (2 * size))
    rows[0] /= math.sqrt(2)
    return np.asarray(rows, dtype=np.float64)


def radial_frequency(shape: Shape) -> NDArray[np.float64]:
    """Frequency of every DCT coefficient, `(h·w·c,)` in `[0, 1)`: √((u/h)² + (v/w)²)/√2, whatever the channel."""
    h, w, c = shape
    u, v = np.arange(h)[:, None, None] / h, np.arange(w)[None, :, None] / w
    return np.broadcast_to(np.sqrt((u**2 + v**2) / 2), (h, w, c)).reshape(-1).copy()


def coefficient_order(shape: Shape, block: int) -> NDArray[np.int64]:
    """Permutation of `(h, w, c)` coefficients: low `block`×`block` of all channels first, each part by frequency."""
    h, w, c = shape
    low = (np.arange(h)[:, None, None] < block) & (np.arange(w)[None, :, None] < block)
    high = ~np.broadcast_to(low, (h, w, c)).reshape(-1)
    return np.lexsort((radial_frequency(shape), high)).astype(np.int64)


def band_of_coefficients(shape: Shape, block: int, bands: int) -> NDArray[np.int64]:
    """Band `0 … bands-1` of every coefficient, in `coefficient_order`: equal steps of radial frequency."""
    frequency = radial_frequency(shape)[coefficient_order(shape, block)]
    edges = frequency.max() / bands if frequency.max() > 0 else 1.0
    return np.minimum((frequency / edges).astype(np.int64), bands - 1)


class CosineTransform(Layer):
    """The two-dimensional orthonormal DCT of every channel, low block first; orthogonal: its log-det is exactly 0."""

    rows: Tensor
    columns: Tensor
    order: Tensor
    place: Tensor

    def __init__(self, shape: Shape, block: int) -> None:
        super().__init__()
        self.shape = shape
        order = coefficient_order(shape, block)
        # Public constants: derived from the architecture, so they are no part of a checkpoint.
        self.register_buffer("rows", torch.from_numpy(cosine_matrix(shape[0])), persistent=False)
        self.register_buffer("columns", torch.from_numpy(cosine_matrix(shape[1])), persistent=False)
        self.register_buffer("order", torch.from_numpy(order), persistent=False)
        self.register_buffer("place", torch.from_numpy(np.argsort(order)), persistent=False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """After a cast, take the constants afresh: float32 cosines widened to float64 would not be orthogonal."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.rows.copy_(torch.from_numpy(cosine_matrix(self.shape[0])))
        self.columns.copy_(torch.from_numpy(cosine_matrix(self.shape[1])))
        return self

    def _separable(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """`rows · X · columnsᵀ` for every image and channel."""
        h, w, c = self.shape
        images = x.reshape(-1, h, w * c)
        half = (rows @ images).reshape(-1, h, w, c)
        return torch.einsum("vw,nhwc->nhvc", columns, half).reshape(-1, h * w * c)

    def forward(self, x: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """Pixels to coefficients."""
        del c
        z = self._separable(x, self.rows, self.columns)[:, self.order]
        return z, x.new_zeros(len(x))

    def inverse(self, z: Tensor, c: Condition) -> Tensor:
        """Coefficients to pixels."""
        del c
        return self._separable(z[:, self.place], self.rows.T, self.columns.T)
