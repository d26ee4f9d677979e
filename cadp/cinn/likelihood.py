"""How well a model describes 8-bit records, in bits per dimension, and how much there is to its own samples."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cadp.cinn.layers.layer import Condition
from cadp.cinn.layers.pixels import LEVELS, dequantised
from cadp.cinn.network import ConditionalFlow, synthetic_condition

CHUNK = 64
_LOG_TWO_PI = math.log(2 * math.pi)


def log_likelihood(flow: ConditionalFlow, x: Tensor, y: Tensor | Condition) -> Tensor:
    """`log p(x | y) (n,)` in nats under N(0, I) latents: `-|z|²/2 - d/2·log 2π + log|det ∂z/∂x|`."""
    z, log_det = flow.encode(x, y)
    return -0.5 * (z.square().sum(dim=1) + z.shape[1] * _LOG_TWO_PI) + log_det


@torch.no_grad()
def bits_per_dimension(flow: ConditionalFlow, images: NDArray[np.uint8], c: Condition, seed: int = 0) -> float:
    """Mean bits per dimension of 8-bit records, each at one point of its cell (Theis et al. 2016).

    `-log2 p(x) / d + log2 255`, for x in units of the range 0 … 255: 8 is a model that knows nothing. On private
    records this figure is the operator's alone.

    Args:
        flow: the model.
        images: `(n, h, w, c)`.
        c: their condition.
        seed: of the points within the cells; they protect nobody.
    """
    draw = torch.Generator().manual_seed(seed)
    total = 0.0
    for start in range(0, len(images), CHUNK):
        rows = slice(start, start + CHUNK)
        pixels = torch.from_numpy(images[rows].reshape(len(images[rows]), -1) / float(LEVELS - 1))
        x = dequantised(pixels, torch.rand(pixels.shape, generator=draw, dtype=torch.float64))
        part = Condition(c.labels[rows], c.vector[rows])
        total += float(log_likelihood(flow, x, part).to(torch.float64).sum())
    return _bits(total / len(images), flow.architecture.dims)


@torch.no_grad()
def own_bits_per_dimension(flow: ConditionalFlow, count: int = CHUNK, seed: int = 0) -> float:
    """The model's own entropy in bits per dimension, in the units of `bits_per_dimension`, over all labels alike.

    Estimated on what it draws itself: a function of the model alone, so it costs no privacy. A model that is right
    about its records spends as many bits on them.
    """
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(count, flow.architecture.dims, generator=draw, dtype=torch.float64)
    c = synthetic_condition(flow, torch.arange(count) % flow.architecture.classes)
    likelihood = log_likelihood(flow, flow.decode(z, c), c).to(torch.float64)
    return _bits(float(likelihood.mean()), flow.architecture.dims)


def _bits(log_likelihood: float, dims: int) -> float:
    return (math.log(LEVELS - 1) - log_likelihood / dims) / math.log(2)
