"""The conditional flow: a sequence of bijections of R^d given the label, and the check that it really is one."""

from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cadp.cinn.affine import ClassScale, ClassShift, ClassWhitening, InvertibleLinear
from cadp.cinn.architecture import Architecture
from cadp.cinn.transforms import CosineTransform, Layer

ROUND_TRIP_LIMIT = 1e-3


class ConditionalFlow(nn.Module):
    """`x → z = f(x; y)`, a bijection of R^d for every label, with latents ≈ N(0, I).

    The first `architecture.content` latents are the content, ordered by the variance they explain; the others are band
    noise. A new flow is the bare cosine transform; `fit_moments` gives it its tensors. All tensors are float64 until
    the module is cast with `.float()`.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        shape, classes, low, k = architecture.shape, architecture.classes, architecture.low_dims, architecture.content
        self.cosine = CosineTransform(shape, architecture.block)
        self.shift = ClassShift(classes, low)
        self.rotation = InvertibleLinear(low)
        self.whitening = ClassWhitening(classes, k)
        self.scale = ClassScale(classes, k, architecture.dims)

    def layers(self) -> Iterator[Layer]:
        """The layers from record to latent."""
        return (cast(Layer, layer) for layer in self.children())

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type in which this flow computes."""
        return self.rotation.weight.dtype

    def encode(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Records to latents.

        Args:
            x: `(n, h, w, c)` or `(n, d)` pixels in `[0, 1]`; cast to the flow's type.
            y: `(n,)` int64 labels.

        Returns:
            `z (n, d)` and `log|det ∂z/∂x| (n,)`, in nats.
        """
        z = x.reshape(len(x), self.architecture.dims).to(self.dtype)
        log_det = z.new_zeros(len(z))
        for layer in self.layers():
            z, change = layer(z, y)
            log_det = log_det + change
        return z, log_det

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """Latents `(n, d)` to pixels `(n, h, w, c)`, not clamped."""
        x = z.to(self.dtype)
        for layer in reversed(list(self.layers())):
            x = layer.inverse(x, y)
        return x.reshape(-1, *self.architecture.shape)

    @torch.no_grad()
    def encode_images(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Latents `(n, d)` float64 of `(n, h, w, c)` 8-bit images."""
        pixels = torch.from_numpy(images.reshape(len(images), -1) / 255.0)
        return self.encode(pixels, torch.from_numpy(labels))[0].to(torch.float64).numpy()

    @torch.no_grad()
    def decode_images(self, latents: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Images `(n, h, w, c)` of latents `(n, d)`: clamped to `[0, 1]` and rounded to 8 bits; NaN becomes black."""
        pixels = self.decode(torch.from_numpy(latents), torch.from_numpy(labels)).nan_to_num(nan=0.0).clamp(0, 1)
        return (pixels * 255).round().to(torch.uint8).numpy()


def synthetic_records(architecture: Architecture, count: int) -> Tensor:
    """`(count, h, w, c)` float64 in `[0, 1]`, always the same: black, white, half-and-half and even noise."""
    d = architecture.dims
    # Multiples of the golden ratio modulo 1 fill [0, 1) evenly and need no seed.
    x = (torch.arange(count * d, dtype=torch.float64) * ((5**0.5 - 1) / 2)).remainder(1).reshape(count, d)
    x[:1] = 0.0
    x[1:2] = 1.0
    x[2:3] = (torch.arange(d) < d // 2).to(torch.float64)
    return x.reshape(count, *architecture.shape)


def check_round_trip(flow: ConditionalFlow, images: int = 64) -> float:
    """The largest pixel error of decode(encode(x)) over synthetic records of every class, in the flow's own precision.

    It looks at no private record. A result that is not at most `ROUND_TRIP_LIMIT` (NaN is not) means that the flow must
    not be used.
    """
    x = synthetic_records(flow.architecture, images)
    errors = []
    with torch.no_grad():
        for label in range(flow.architecture.classes):
            y = torch.full((images,), label, dtype=torch.int64)
            errors.append((flow.decode(flow.encode(x, y)[0], y).to(torch.float64) - x).abs().max())
    # torch's maximum propagates NaN where Python's max() would lose it.
    return float(torch.stack(errors).max())
