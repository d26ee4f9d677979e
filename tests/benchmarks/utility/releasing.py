"""Fit a model and release records through it, by the code that a release runs; and what both take of the processor.

Left out are storage, ledger and PNG: they change no pixel. A record's latent is not computed where it is not used.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from cadp.cinn.dp_sgd import training as sgd
from cadp.cinn.dp_sgd.plan import SgdPlan
from cadp.cinn.dp_sgd.start import public_start
from cadp.cinn.dp_sgd.unit_records import UnitRecords
from cadp.cinn.fit.moments import fit_moments
from cadp.cinn.model_plan import ModelPlan
from cadp.cinn.network import ConditionalFlow
from cadp.privacy import noise
from cadp.privacy.mechanisms import Mechanism, Resample, plan_mechanism
from cadp.reporter import Silent
from tests.benchmarks.utility.cells import DELTA, Release
from tests.benchmarks.utility.data import CLASSES, Pictures

BATCH = 1024


@dataclass
class Clock:
    """Seconds of processor time by what they were spent on, all threads together."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Add the time inside to `what`."""
        began = time.process_time()
        yield
        self.seconds[what] = round(self.seconds.get(what, 0.0) + time.process_time() - began, 2)


@dataclass(frozen=True)
class Kept:
    """No mechanism: the content as it is, the rest from the prior. For comparison, never for a release."""

    content_dims: int

    def privatize(self, z: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Replace all but the content."""
        del valid
        rest = noise.standard_normal((len(z), z.shape[1] - self.content_dims))
        return np.concatenate([z[:, : self.content_dims], rest], axis=1)

    def expected_cosine(self) -> float:
        """All of it is kept."""
        return 1.0


def mechanism_of(cell: Release) -> Mechanism | Kept:
    """The mechanism of a cell, planned as a release plans it."""
    if cell.mechanism == "kept":
        return Kept(cell.dims)
    return plan_mechanism(cell.mechanism, epsilon=cell.epsilon, delta=DELTA, content_dims=cell.dims)  # type: ignore[arg-type]


def fitted(plan: ModelPlan, train: Pictures) -> ConditionalFlow:
    """The model of a plan."""
    counts = np.bincount(train.labels, minlength=CLASSES)
    flow = fit_moments(train.batches, plan.moments, counts, Silent())
    return flow if plan.couplings is None else _with_couplings(flow, plan.couplings, train)


def released(
    flow: ConditionalFlow, mechanism: Mechanism | Kept, pictures: Pictures
) -> tuple[Pictures, NDArray[np.float64] | None]:
    """One released record for each of `pictures`, same labels, same order.

    Returns:
        The records, and the cosine between each record's content and its noisy content, if it was looked at.
    """
    images, cosines = [], []
    for start in range(0, len(pictures), BATCH):
        own = Pictures(pictures.images[start : start + BATCH], pictures.labels[start : start + BATCH])
        z = np.zeros((len(own), flow.architecture.dims))
        if not isinstance(mechanism, Resample):
            z = flow.encode_images(own.images, own.labels)
        codes = mechanism.privatize(z, np.ones(len(own), dtype=np.bool_))
        images.append(flow.decode_images(codes, own.labels))
        if not isinstance(mechanism, Resample):
            cosines.append(cosine(z[:, : mechanism.content_dims], codes[:, : mechanism.content_dims]))
    return Pictures(np.concatenate(images), pictures.labels), np.concatenate(cosines) if cosines else None


def cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cosine of every row of `a` with that of `b`; 0 where one of them is zero."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny))


def _with_couplings(flow: ConditionalFlow, plan: SgdPlan, train: Pictures) -> ConditionalFlow:
    """Train the couplings of the plan behind a fitted whitening, every record a unit of its own."""
    coupled = ConditionalFlow(plan.architecture)
    coupled.load_state_dict(flow.state_dict(), strict=False)
    public_start(coupled)
    before = [layer for name, layer in coupled.named_children() if name != "couplings"]
    content = np.empty((len(train), coupled.architecture.content), dtype=np.float32)
    at = 0
    with torch.no_grad():
        for batch in train.batches():
            x = torch.from_numpy(batch.images.reshape(len(batch), -1) / 255.0)
            condition = coupled.condition(torch.from_numpy(batch.labels))
            for layer in before:
                x, _ = layer(x, condition)
            content[at : at + len(batch)] = x[:, : content.shape[1]].numpy()
            at += len(batch)
    records = UnitRecords(content, train.labels, np.ones(at, dtype=np.bool_), np.arange(at + 1))
    return sgd.train_couplings(coupled, records, plan, Silent())
