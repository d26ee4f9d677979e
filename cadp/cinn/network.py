"""The conditional flow: a sequence of bijections of R^d given the condition, and the check that it really is one."""

from collections.abc import Iterator
from itertools import chain
from typing import cast

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor, nn

from cadp.cinn.architecture import Architecture, Convolutional
from cadp.cinn.build import layers_of
from cadp.cinn.layers.affine import ClassScale, ClassShift, ClassWhitening, InvertibleLinear
from cadp.cinn.layers.layer import Condition, Layer
from cadp.cinn.layers.mixture import MixtureTransport
from cadp.cinn.layers.subnets import ConvSubnet, Subnet
from cadp.cinn.layers.tone import ToneCurve
from cadp.cinn.layers.transforms import CosineTransform
from cadp.records import PIXELS, Values, top

ROUND_TRIP_LIMIT = 1e-3
# Of one activation: large enough for a convolution's full speed, and below what glibc maps afresh each time.
LIMIT_ACTIVATION = 24 << 20
# The largest block that raises glibc's own thresholds (mallopt(3): DEFAULT_MMAP_THRESHOLD_MAX), less its header.
_LARGEST_BLOCK = (32 << 20) - (64 << 10)


class ConditionalFlow(nn.Module):
    """`x → z = f(x; c)`, a bijection of R^d for every condition, with latents ≈ N(0, I).

    The first `architecture.content` latents are the content. A new flow is the identity up to fixed public transforms;
    `fit_moments` gives a whitening network its tensors, gradients give couplings theirs. All tensors are float64 until
    the module is cast with `.float()`.
    """

    # The layers that a fit fills, where the architecture has them.
    tones: ToneCurve
    cosine: CosineTransform
    shift: ClassShift
    rotation: InvertibleLinear
    whitening: ClassWhitening
    mixture: MixtureTransport
    scale: ClassScale

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        for name, layer in layers_of(architecture).items():
            self.add_module(name, layer)
        if isinstance(architecture, Convolutional):
            keep_freed_memory()

    def layers(self) -> Iterator[Layer]:
        """The layers from record to latent."""
        return (cast(Layer, layer) for layer in self.children())

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type in which this flow computes."""
        tensors = chain(self.parameters(), self.buffers())
        return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float64)

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return next((tensor.device for tensor in chain(self.parameters(), self.buffers())), torch.device("cpu"))

    def use_compute_dtype(self, dtype: torch.dtype | None) -> "ConditionalFlow":
        """Let subnets compute in `dtype`, or as the flow does if None; see `Subnet`. Weights and coordinates stay."""
        for module in self.modules():
            if isinstance(module, Subnet):
                module.compute_dtype = dtype
        return self

    def in_channels_last(self) -> "ConditionalFlow":
        """Lay the weights of convolutions out as images are, channels last; a loaded state has lost that order."""
        for module in self.modules():
            if isinstance(module, ConvSubnet):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def condition(self, labels: Tensor, attributes: Tensor | None = None, values: Tensor | None = None) -> Condition:
        """What the layers of this flow are conditioned on; see `Condition.of`."""
        return Condition.of(self.architecture.conditions, labels, attributes, values, dtype=self.dtype)

    def encode(self, x: Tensor, y: Tensor | Condition) -> tuple[Tensor, Tensor]:
        """Records to latents.

        Args:
            x: `(n, h, w, c)` or `(n, d)` in `[0, 1]`; cast to the flow's type.
            y: `(n,)` int64 labels where they are the only condition, else what `condition` returns.

        Returns:
            `z (n, d)` and `log|det ∂z/∂x| (n,)`, in nats.
        """
        c = y if isinstance(y, Condition) else self.condition(y)
        z = x.reshape(len(x), self.architecture.dims).to(self.dtype)
        log_det = z.new_zeros(len(z))
        for layer in self.layers():
            z, change = layer(z, c)
            log_det = log_det + change
        return z, log_det

    def decode(self, z: Tensor, y: Tensor | Condition) -> Tensor:
        """Latents `(n, d)` to records `(n, h, w, c)`, not clamped."""
        c = y if isinstance(y, Condition) else self.condition(y)
        x = z.to(self.dtype)
        for layer in reversed(list(self.layers())):
            x = layer.inverse(x, c)
        return x.reshape(-1, *self.architecture.shape)

    @torch.no_grad()
    def encode_images(self, images: Values, labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Latents `(n, d)` float64 of `(n, h, w, c)` images or rows, some at once; see `records_at_once`."""
        white = top(images.dtype)
        latents = np.empty((len(images), self.architecture.dims))
        for part in self._parts(len(images)):
            pixels = torch.from_numpy(images[part].reshape(-1, self.architecture.dims) / white)
            z, _ = self.encode(pixels.to(self.device), torch.from_numpy(labels[part]).to(self.device))
            latents[part] = z.to("cpu", torch.float64).numpy()
        return latents

    @torch.no_grad()
    def decode_images(
        self, latents: NDArray[np.float64], labels: NDArray[np.int64], kind: DTypeLike = PIXELS
    ) -> Values:
        """Images or rows `(n, h, w, c)` of latents `(n, d)`: clamped to `[0, 1]`, rounded to `kind`; NaN becomes 0."""
        white = top(kind)
        images: Values = np.empty((len(latents), *self.architecture.shape), dtype=kind)
        for part in self._parts(len(latents)):
            z, y = torch.from_numpy(latents[part]).to(self.device), torch.from_numpy(labels[part]).to(self.device)
            pixels = self.decode(z, y).nan_to_num(nan=0.0).clamp(0, 1)
            images[part] = (pixels * white).round().cpu().numpy()
        return images

    def _parts(self, rows: int) -> Iterator[slice]:
        """Slices of so many rows, of a length that the architecture alone decides."""
        compute = next((module.compute_dtype for module in self.modules() if isinstance(module, Subnet)), None)
        step = records_at_once(self.architecture, (compute or self.dtype).itemsize)
        return (slice(start, start + step) for start in range(0, rows, step))


def records_at_once(architecture: Architecture, itemsize: int) -> int:
    """How many records go through the network together, so that no activation is larger than `LIMIT_ACTIVATION`.

    It bounds memory whatever the resolution and the batch, and depends on public facts alone.

    Args:
        architecture: whose widest activation counts: the hidden channels at the resolution of the first scale.
        itemsize: bytes of one number in the subnets' precision.
    """
    h, w, _ = architecture.shape
    widest = architecture.dims
    if isinstance(architecture, Convolutional):
        sizes = (h * w // 4 ** (i + 1) * scale.couplings.width for i, scale in enumerate(architecture.scales))
        widest = max(widest, *sizes)
    return max(1, LIMIT_ACTIVATION // (itemsize * widest))


def keep_freed_memory() -> None:
    """Let glibc keep the memory that activations free, up to 64 MiB, instead of giving it back to the system.

    Every layer frees and takes tens of megabytes. Given back each time, they come again page by page, which takes a
    fifth of a pass (FrEIA's: a third). Once one large block was freed, glibc raises its threshold by itself
    (mallopt(3), "dynamic mmap threshold"). The block is never touched; other allocators do not care.
    """
    np.empty(_LARGEST_BLOCK, dtype=np.uint8)


def synthetic_records(architecture: Architecture, count: int) -> Tensor:
    """`(count, h, w, c)` float64 in `[0, 1]`, always the same: black, white, half-and-half and even noise."""
    d = architecture.dims
    # Multiples of the golden ratio modulo 1 fill [0, 1) evenly and need no seed.
    x = (torch.arange(count * d, dtype=torch.float64) * ((5**0.5 - 1) / 2)).remainder(1).reshape(count, d)
    x[:1] = 0.0
    x[1:2] = 1.0
    x[2:3] = (torch.arange(d) < d // 2).to(torch.float64)
    return x.reshape(count, *architecture.shape)


def synthetic_condition(flow: ConditionalFlow, labels: Tensor) -> Condition:
    """Every other attribute, and numbers in the middle of their bounds: what a check needs besides labels."""
    conditions, n = flow.architecture.conditions, len(labels)
    attributes = torch.arange(n * conditions.attributes).reshape(n, conditions.attributes) % 2
    middle = torch.tensor([(low + high) / 2 for low, high in conditions.bounds], dtype=torch.float64)
    return flow.condition(labels, attributes, middle.expand(n, -1))


def check_round_trip(flow: ConditionalFlow, images: int | None = None) -> float:
    """The largest pixel error of decode(encode(x)) over synthetic records of every class, in the flow's own precision.

    It looks at no private record, but at `images` of every class: 64, or 8 where convolutions make them dear. A result
    that is not at most `ROUND_TRIP_LIMIT` (NaN is not) means that the flow must not be used.
    """
    images = images or (8 if isinstance(flow.architecture, Convolutional) else 64)
    x = synthetic_records(flow.architecture, images).to(flow.device)
    errors = []
    with torch.no_grad():
        for label in range(flow.architecture.classes):
            c = synthetic_condition(flow, torch.full((images,), label, device=flow.device))
            errors.append((flow.decode(flow.encode(x, c)[0], c).to(torch.float64) - x).abs().max())
    # torch's maximum propagates NaN where Python's max() would lose it.
    return float(torch.stack(errors).max())
