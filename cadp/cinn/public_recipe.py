"""What maximum likelihood on public data is given, how it is trained, and what comes out."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cadp.cinn.layers.layer import Condition
from cadp.cinn.layers.pixels import dequantised
from cadp.records import PIXELS, top


@dataclass(frozen=True, slots=True)
class PublicRecipe:
    """How a network is trained on public data.

    Attributes:
        epochs: at most so many passes.
        batch: records a step; the last of an epoch may be fewer.
        learning_rate: of Adam.
        warm_up: steps over which the learning rate rises to it.
        validation: share of the records that choose the epoch; never trained on.
        patience: epochs without a better validation likelihood before training stops.
        gradient_norm: gradients are scaled to at most this norm.
        low_precision: whether subnets compute in bfloat16 while training; weights and coordinates stay float32.
        seed: of the split, the order of records and the noise within cells.
    """

    epochs: int = 50
    batch: int = 128
    learning_rate: float = 1e-3
    warm_up: int = 100
    validation: float = 0.1
    patience: int = 5
    gradient_norm: float = 10.0
    low_precision: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: a value is out of its range.
        """
        if min(self.epochs, self.batch, self.patience, self.warm_up) < 1 or not 0 < self.validation < 1:
            raise ValueError(f"{self}: epochs, batch, patience and warm-up at least 1, validation between 0 and 1")
        if not (self.learning_rate > 0 and self.gradient_norm > 0):
            raise ValueError(f"{self}: learning rate and gradient norm above 0")


@dataclass(frozen=True, slots=True)
class PublicRecords:
    """Public records and what they are conditioned on.

    Attributes:
        records: `(n, h, w, c)` uint8 images, or a table: uint16 entries of rows, or `(n, d)` floats in [0, 1].
        condition: of all n, float64.
    """

    records: NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float64]
    condition: Condition

    def __len__(self) -> int:
        return len(self.records)

    def rows(self, index: Tensor, noise: torch.Generator | None, dtype: torch.dtype) -> tuple[Tensor, Condition]:
        """Some records `(n, d)` with their condition; images at the centres of their cells without `noise`."""
        some = self.records[index.numpy()]
        x = torch.from_numpy(some.reshape(len(some), -1)).to(torch.float64)
        if self.records.dtype != np.float64:
            x = x / top(self.records.dtype)
        if self.records.dtype == PIXELS:
            x = x if noise is None else dequantised(x, torch.rand(x.shape, generator=noise, dtype=torch.float64))
        return x.to(dtype), Condition(self.condition.labels[index], self.condition.vector[index].to(dtype))


@dataclass(frozen=True, slots=True)
class PublicFit:
    """What came out.

    Attributes:
        validation: mean negative log-likelihood of the validation records after each epoch, nats per record.
        best: index of the epoch whose weights were kept; -1 for what was there before the first.
        round_trip: the largest pixel error on synthetic records.
    """

    validation: tuple[float, ...]
    best: int
    round_trip: float


@dataclass
class PublicCourse:
    """Where a training stands after an epoch: everything that the next one depends on.

    Attributes:
        epoch: how many were taken.
        best: whose weights are kept; -1 for those before the first.
        losses: of the validation: before the first epoch, then after each.
        weights: of the flow.
        kept: its weights at the best epoch.
        moments: Adam's two averages by parameter, and its number of steps.
        draw: state of the generator of order and noise.
    """

    epoch: int
    best: int
    losses: list[float]
    weights: dict[str, Tensor]
    kept: dict[str, Tensor]
    moments: dict[str, Tensor]
    draw: Tensor
