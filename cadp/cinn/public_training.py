"""Plain maximum likelihood on public data, for every architecture. Nothing here protects anybody.

Only for records that are public: there is no clip and no noise, epochs are chosen by a validation split, and its result
has an origin instead of a privacy record (`checkpoint.save_public`), so it loads only where a spec declares it public.
8-bit images are moved within their cells by fresh noise at every step (Theis et al. 2016), so the likelihood is that of
a density; columns of a table are taken as they are.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cadp.cinn.architecture import Coupled, Whitening
from cadp.cinn.layers.layer import Condition
from cadp.cinn.layers.pixels import LEVELS, dequantised
from cadp.cinn.likelihood import log_likelihood
from cadp.cinn.network import ROUND_TRIP_LIMIT, ConditionalFlow, check_round_trip
from cadp.cinn.public_whitening import fit_public_whitening
from cadp.errors import CheckpointRefused
from cadp.reporter import Reporter

_CHUNK = 256


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
        records: `(n, h, w, c)` uint8 images, or `(n, d)` floats in [0, 1], the columns of a table.
        condition: of all n, float64.
    """

    records: NDArray[np.uint8] | NDArray[np.float64]
    condition: Condition

    def __len__(self) -> int:
        return len(self.records)

    def rows(self, index: Tensor, noise: torch.Generator | None, dtype: torch.dtype) -> tuple[Tensor, Condition]:
        """Some records `(n, d)` with their condition; images at the centres of their cells without `noise`."""
        some = self.records[index.numpy()]
        x = torch.from_numpy(some.reshape(len(some), -1)).to(torch.float64)
        if self.records.dtype == np.uint8:
            x = x / (LEVELS - 1)
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


def train_public(flow: ConditionalFlow, data: PublicRecords, recipe: PublicRecipe, reporter: Reporter) -> PublicFit:
    """Train a float64 flow in place: closed-form whitening where it has one, then Adam on all parameters in float32.

    Returns:
        The course of the training; the flow has the weights of its best epoch, float64.

    Raises:
        CheckpointRefused: it does not invert on synthetic records; the flow must not be used.
    """
    training, _ = _split(len(data), recipe)
    if isinstance(flow.architecture, Whitening | Coupled):
        fit_public_whitening(
            flow, lambda: (data.rows(part, None, torch.float64) for part in torch.split(training, _CHUNK))
        )
    course: list[float] = []
    best = -1
    if any(True for _ in flow.parameters()):
        course, best = _descend(flow, data, recipe, reporter)
    error = check_round_trip(flow)
    if not error <= ROUND_TRIP_LIMIT:
        raise CheckpointRefused(f"the network does not invert: round-trip error {error:.1e} on synthetic records")
    return PublicFit(tuple(course), best, error)


def _split(n: int, recipe: PublicRecipe) -> tuple[Tensor, Tensor]:
    """Indices to train on, and of the validation."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(recipe.seed))
    held = max(1, round(recipe.validation * n))
    if held >= n:
        raise ValueError(f"{n} records: none is left to train on after {held} for validation")
    return order[held:], order[:held]


def _descend(
    flow: ConditionalFlow, data: PublicRecords, recipe: PublicRecipe, reporter: Reporter
) -> tuple[list[float], int]:
    """Adam until validation says so; returns its course and the epoch whose weights the flow has."""
    training, validation = _split(len(data), recipe)
    draw = torch.Generator().manual_seed(recipe.seed + 1)
    flow.float().use_compute_dtype(torch.bfloat16 if recipe.low_precision else None)
    optimizer = torch.optim.Adam(flow.parameters(), lr=recipe.learning_rate)
    warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / recipe.warm_up))
    lowest, best, kept, course = (
        _loss(flow, data, validation, recipe),
        -1,
        copy.deepcopy(flow.state_dict()),
        list[float](),
    )
    with reporter.progress("likelihood", recipe.epochs * len(training), "records") as advance:
        for epoch in range(recipe.epochs):
            for x, c in _batches(data, training, recipe, draw):
                optimizer.zero_grad(set_to_none=True)
                loss = -log_likelihood(flow, x, c).mean()
                loss.backward()  # type: ignore[no-untyped-call]
                norm = torch.nn.utils.clip_grad_norm_(flow.parameters(), recipe.gradient_norm)
                if bool(torch.isfinite(norm)):
                    optimizer.step()
                warm.step()
                advance(len(x))
            course.append(_loss(flow, data, validation, recipe))
            if course[-1] < lowest:
                lowest, best, kept = course[-1], epoch, copy.deepcopy(flow.state_dict())
            if epoch - best >= recipe.patience:
                break
    flow.load_state_dict(kept)
    flow.use_compute_dtype(None).to(torch.float64)
    return course, best


def _batches(
    data: PublicRecords, training: Tensor, recipe: PublicRecipe, draw: torch.Generator
) -> Iterator[tuple[Tensor, Condition]]:
    for part in torch.split(training[torch.randperm(len(training), generator=draw)], recipe.batch):
        yield data.rows(part, draw, torch.float32)


@torch.no_grad()
def _loss(flow: ConditionalFlow, data: PublicRecords, index: Tensor, recipe: PublicRecipe) -> float:
    """Mean negative log-likelihood, nats per record, at the same points of the cells every time."""
    noise = torch.Generator().manual_seed(recipe.seed)
    parts = [
        log_likelihood(flow, *data.rows(part, noise, torch.float32)).double() for part in torch.split(index, _CHUNK)
    ]
    mean = -float(torch.cat(parts).mean())
    return mean if math.isfinite(mean) else math.inf
