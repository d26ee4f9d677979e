"""The functions inside a coupling: any network of passive coordinates and condition will do, none is ever inverted.

The last layer starts at zero, so a fresh coupling is the identity.
"""

from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call

_Key: TypeAlias = tuple[torch.dtype, tuple[tuple[int, int], ...]]


class Subnet(nn.Module):
    """Passive coordinates and the condition's vector → twice as many numbers as there are active coordinates.

    With a `compute_dtype`, input and weights are cast to it, and the result back. That costs no exactness as long as
    the coordinates themselves are float64: the inverse then sees the bits that the map saw, but for rounding errors of
    1e-16, which hardly ever reach a number that is rounded to bfloat16. In float32 they are 1e-7 and do: then every
    coupling loses digits, so a low `compute_dtype` belongs to a float64 flow. (Round trip of the published MNIST
    network with bfloat16 subnets: 2e-15 with float64 coordinates, 4e-3 with float32 ones.)
    """

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        last = layers[-1]
        for tensor in (last.weight, last.bias):
            nn.init.zeros_(tensor)  # type: ignore[arg-type]
        self.layers = layers
        self.compute_dtype: torch.dtype | None = None
        self._cast: tuple[_Key, dict[str, Tensor]] | None = None

    def joined(self, passive: Tensor, vector: Tensor) -> Tensor:
        """The input of the first layer."""
        raise NotImplementedError

    def forward(self, passive: Tensor, vector: Tensor) -> Tensor:
        """Compute; the result has the type of `passive`."""
        if self.compute_dtype is None:
            return self.layers(self.joined(passive, vector)).contiguous()  # type: ignore[no-any-return]
        low = self.joined(passive.to(self.compute_dtype), vector.to(self.compute_dtype))
        out: Tensor = functional_call(self.layers, self._weights(self.compute_dtype), (low,))
        return out.to(passive.dtype, memory_format=torch.contiguous_format)

    def _weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The weights in `dtype`; kept until one of them changes, unless a gradient must pass through the cast."""
        named = dict(self.layers.named_parameters())
        graded = torch.is_grad_enabled() and any(weight.requires_grad for weight in named.values())
        if graded or any(weight.is_inference() for weight in named.values()):  # the latter do not count their changes
            return {name: weight.to(dtype) for name, weight in named.items()}
        key = (dtype, tuple((weight.data_ptr(), weight._version) for weight in named.values()))
        if self._cast is None or self._cast[0] != key:
            self._cast = (key, {name: self._layout(weight.detach().to(dtype)) for name, weight in named.items()})
        return self._cast[1]

    def _layout(self, weight: Tensor) -> Tensor:
        return weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight


class DenseSubnet(Subnet):
    """Linear layers with ReLU between them, for rows `(n, d)`."""

    def __init__(self, dims_in: int, dims_out: int, condition: int, width: int, hidden: int) -> None:
        widths = [dims_in + condition, *[width] * hidden]
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b, dtype=torch.float64), nn.ReLU()]
        super().__init__(nn.Sequential(*layers, nn.Linear(width, dims_out, dtype=torch.float64)))

    def joined(self, passive: Tensor, vector: Tensor) -> Tensor:
        """Beside each other."""
        return torch.cat([passive, vector], dim=1)


class ConvSubnet(Subnet):
    """3×3 convolutions with ReLU between them, for images `(n, c, h, w)`.

    Convolutions run in channels-last order, the fastest on CPU and GPU alike; what comes in and out does not.
    """

    def __init__(self, dims_in: int, dims_out: int, condition: int, width: int, hidden: int) -> None:
        widths = [dims_in + condition, *[width] * hidden]
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Conv2d(a, b, 3, padding=1, dtype=torch.float64), nn.ReLU(inplace=True)]
        super().__init__(nn.Sequential(*layers, nn.Conv2d(width, dims_out, 3, padding=1, dtype=torch.float64)))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def joined(self, passive: Tensor, vector: Tensor) -> Tensor:
        """The same vector at every pixel."""
        n, _, h, w = passive.shape
        spread = vector[:, :, None, None].expand(n, vector.shape[1], h, w)
        return torch.cat([passive, spread], dim=1).contiguous(memory_format=torch.channels_last)
