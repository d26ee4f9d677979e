"""Fixed layers of convolutional networks: rows to images and back, half the resolution, and the split of a scale.

Images lie in memory one channel after the other, so that halves, permutations and rows of channels are whole blocks;
convolutions take channels last, and `ConvSubnet` alone knows of that.
"""

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from cadp.cinn.architecture import Shape
from cadp.cinn.layers.layer import Condition, Layer


class ToImage(Layer):
    """Rows `(n, h·w·c)` to images `(n, c, h, w)`, one channel after the other in memory; log-det 0."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """To images."""
        del c
        return x.reshape(-1, *self.shape).permute(0, 3, 1, 2).contiguous(), x.new_zeros(len(x))

    def inverse(self, z: Tensor, c: Condition) -> Tensor:
        """To rows."""
        del c
        return z.permute(0, 2, 3, 1).flatten(1)


class ToRow(Layer):
    """Images `(n, c, h, w)` to rows, channel after channel; log-det 0."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """To rows."""
        del c
        return x.flatten(1), x.new_zeros(len(x))

    def inverse(self, z: Tensor, c: Condition) -> Tensor:
        """To images."""
        del c
        h, w, channels = self.shape
        return z.reshape(-1, channels, h, w)


class Squares(Layer):
    """Every 2×2 square becomes four channels of one pixel, row by row: half the resolution; log-det 0."""

    def forward(self, x: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """Halve the resolution."""
        del c
        return pixel_unshuffle(x, 2), x.new_zeros(len(x))

    def inverse(self, z: Tensor, c: Condition) -> Tensor:
        """Double it."""
        del c
        return pixel_shuffle(z, 2)


class Haar(Layer):
    """The orthonormal Haar transform of every 2×2 square: averages of all channels first, then three differences.

    The 4×4 matrix is symmetric and orthogonal, so it is its own inverse, and its log-det is exactly 0.
    """

    def _mix(self, x: Tensor) -> Tensor:
        """`(n, c, 4, h, w)` times the matrix over the axis of four, by sums and differences."""
        a, b, c, d = x.unbind(2)
        top, bottom, left, right = a + b, c + d, a - b, c - d
        return torch.stack([top + bottom, left + right, top - bottom, left - right], dim=2) / 2

    def forward(self, x: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """Halve the resolution."""
        del c
        n, channels, h, w = x.shape
        squares = pixel_unshuffle(x, 2).reshape(n, channels, 4, h // 2, w // 2)
        z = self._mix(squares).transpose(1, 2).reshape(n, 4 * channels, h // 2, w // 2)
        return z, x.new_zeros(n)

    def inverse(self, z: Tensor, c: Condition) -> Tensor:
        """Double it."""
        del c
        n, channels, h, w = z.shape
        bands = z.reshape(n, 4, channels // 4, h, w).transpose(1, 2)
        return pixel_shuffle(self._mix(bands).reshape(n, channels, h, w), 2)


class Split(Layer):
    """Send the first channels on through `inner`; the others are latents as they are and go behind its rows.

    A multi-scale network is a chain that ends in one, which holds the chain of the next scale (Dinh et al. 2017).
    """

    def __init__(self, shape: Shape, keep: int, inner: Layer) -> None:
        super().__init__()
        h, w, channels = self.shape = shape
        self.keep, self.inner = keep, inner
        self.rest = ToRow((h, w, channels - keep))
        self.dims = h * w * keep

    def forward(self, x: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """Image to row."""
        z, log_det = self.inner(x[:, : self.keep], c)
        return torch.cat([z, self.rest(x[:, self.keep :], c)[0]], dim=1), log_det

    def inverse(self, z: Tensor, c: Condition) -> Tensor:
        """Row to image."""
        kept, rest = self.inner.inverse(z[:, : self.dims], c), self.rest.inverse(z[:, self.dims :], c)
        return torch.cat([kept, rest], dim=1)
