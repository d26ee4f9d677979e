"""What every part of the network is: a bijection given a condition.

`forward(x, c)` returns `(z, log_det)`, and `inverse(z, c)` returns x. Row i of a result is a function of row i alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from cadp.cinn.architecture import Conditions


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """What n records are conditioned on, given to every layer alike.

    Attributes:
        labels: `(n,)` int64; layers that hold a table by class look it up.
        vector: `(n, v)`; what subnets see: the label one-hot, attributes, and numbers in [-1, 1].
    """

    labels: Tensor
    vector: Tensor

    @classmethod
    def of(
        cls,
        conditions: Conditions,
        labels: Tensor,
        attributes: Tensor | None = None,
        values: Tensor | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> "Condition":
        """Encode the conditions of n records.

        Args:
            conditions: which there are, and the public bounds of numbers.
            labels: `(n,)` int64; zeros where there is a single class.
            attributes: `(n, a)` of zeros and ones, if there are any.
            values: `(n, b)` numbers, if there are any; clipped to their bounds, and NaN counts as the middle.
            dtype: of the vector.
        """
        columns = [one_hot(labels, conditions.classes).to(dtype)] if conditions.classes > 1 else []
        if conditions.attributes:
            columns.append(_shaped("attributes", attributes, labels, conditions.attributes).to(dtype))
        if conditions.bounds:
            low, high = torch.tensor(conditions.bounds, dtype=torch.float64, device=labels.device).T
            given = _shaped("values", values, labels, len(conditions.bounds)).to(torch.float64)
            columns.append((2 * (given - low) / (high - low) - 1).clamp(-1, 1).nan_to_num(nan=0.0).to(dtype))
        return cls(labels, torch.cat(columns, dim=1) if columns else labels.new_empty(len(labels), 0, dtype=dtype))


def _shaped(name: str, given: Tensor | None, labels: Tensor, columns: int) -> Tensor:
    if given is None or given.shape != (len(labels), columns):
        found = None if given is None else tuple(given.shape)
        raise ValueError(f"{name} of shape {found}: the network takes ({len(labels)}, {columns})")
    return given.to(labels.device)


class Layer(nn.Module):
    """A bijection given a condition: `x (n, …)` → `z (n, …)` and `log|det ∂z/∂x| (n,)`, in nats."""

    def forward(self, x: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """Map records towards latents; returns `(z, log_det)`."""
        raise NotImplementedError

    def inverse(self, z: Tensor, c: Condition) -> Tensor:
        """Undo `forward`."""
        raise NotImplementedError


class Chain(Layer):
    """One layer after another; the log-dets add up."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """From first to last."""
        total = x.new_zeros(len(x))
        for layer in self.layers:
            x, log_det = layer(x, c)
            total = total + log_det
        return x, total

    def inverse(self, z: Tensor, c: Condition) -> Tensor:
        """From last to first."""
        for layer in reversed(self.layers):
            z = cast(Layer, layer).inverse(z, c)
        return z


class OnFirst(Layer):
    """A layer that acts on the first `dims` of a row's coordinates; the others stay as they are."""

    def __init__(self, dims: int, layer: Layer) -> None:
        super().__init__()
        self.dims, self.layer = dims, layer

    def forward(self, x: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """Map the first coordinates."""
        z, log_det = self.layer(x[:, : self.dims], c)
        return torch.cat([z, x[:, self.dims :]], dim=1), log_det

    def inverse(self, z: Tensor, c: Condition) -> Tensor:
        """Map them back."""
        return torch.cat([self.layer.inverse(z[:, : self.dims], c), z[:, self.dims :]], dim=1)
