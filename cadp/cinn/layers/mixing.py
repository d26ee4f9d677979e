"""What stands between couplings so that every coordinate is active and passive in turn."""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cadp.cinn.layers.layer import Condition, Layer


def public_permutation(size: int, index: int) -> NDArray[np.int64]:
    """The permutation that sorts `size` 64-bit words of SHAKE-256 of the index: the same on every machine, for ever."""
    stream = hashlib.shake_256(f"cadp permutation {index} of {size}".encode()).digest(8 * size)
    return np.argsort(np.frombuffer(stream, dtype="<u8"), kind="stable").astype(np.int64)


class Permutation(Layer):
    """Reorder coordinates, or channels: `z_j = x_order[j]`; log-det 0."""

    order: Tensor

    def __init__(self, order: NDArray[np.int64], *, stored: bool = False) -> None:
        """Take an order; one that is `stored` is kept with the tensors, others are public constants."""
        super().__init__()
        self.register_buffer("order", torch.from_numpy(order), persistent=stored)

    def forward(self, x: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """Reorder."""
        del c
        return x.index_select(1, self.order), x.new_zeros(len(x))

    def inverse(self, z: Tensor, c: Condition) -> Tensor:
        """Put everything back in its place."""
        del c
        return z.index_select(1, self.order.argsort())


class Rotation(Layer):
    """Multiply coordinates, or the channels of every pixel, by a learned orthogonal matrix; log-det 0.

    The matrix is `exp(A - Aᵀ)` with A strictly lower triangular: orthogonal whatever A is, so training and
    perturbation cannot spoil it, and its inverse is its transpose. A = 0 is the identity.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.skew = nn.Parameter(torch.zeros(size * (size - 1) // 2, dtype=torch.float64))

    def matrix(self) -> Tensor:
        """`(size, size)`, computed in float64 whatever the layer's type: float32 would be orthogonal to 1e-6 only."""
        rows, columns = torch.tril_indices(self.size, self.size, -1)
        lower = self.skew.new_zeros(self.size, self.size, dtype=torch.float64)
        lower = lower.index_put((rows, columns), self.skew.to(torch.float64))
        matrix: Tensor = torch.linalg.matrix_exp(lower - lower.T)
        return matrix.to(self.skew.dtype)

    def forward(self, x: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """Rotate."""
        del c
        return _multiply(x, self.matrix()), x.new_zeros(len(x))

    def inverse(self, z: Tensor, c: Condition) -> Tensor:
        """Rotate back."""
        del c
        return _multiply(z, self.matrix().T)


def _multiply(x: Tensor, matrix: Tensor) -> Tensor:
    if x.ndim == 4:
        return (matrix @ x.flatten(2)).reshape(x.shape)
    return x @ matrix.T
