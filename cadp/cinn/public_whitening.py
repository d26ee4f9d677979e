"""The whitening layers fitted to public records: the moments of `cadp.cinn.fit.moments` without clips and noise."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cadp.cinn.architecture import Coupled, Whitening
from cadp.cinn.fit.estimate import class_factors, class_means, principal_axes, residual_stds
from cadp.cinn.layers.layer import Condition
from cadp.cinn.layers.transforms import band_of_coefficients
from cadp.cinn.network import ConditionalFlow

Rows = tuple[Tensor, Condition]
# Wider than any vector of pixels: nothing is clipped here.
_UNBOUNDED = 1e6


@torch.no_grad()
def fit_public_whitening(flow: ConditionalFlow, batches: Callable[[], Iterable[Rows]]) -> None:
    """Fit class means, rotation, class whitening and band scales in place, in three passes; couplings stay.

    Args:
        flow: of a whitening network, with or without couplings, float64; a mixture stays as it is.
        batches: opens one pass over public records `(n, d)` in [0, 1] with their conditions.
    """
    whitening = _whitening(flow)
    size, k, low_dims = whitening.classes, whitening.content, whitening.low_dims
    counts, sums = np.zeros(size, dtype=np.int64), np.zeros((size, low_dims))
    for x, c in batches():
        hot = _one_hot(c.labels, size)
        counts += hot.sum(axis=0).astype(np.int64)
        sums += hot.T @ flow.cosine(x, c)[0][:, :low_dims].numpy()
    flow.shift.mean.copy_(torch.from_numpy(class_means(sums, 0.0, counts, _UNBOUNDED)))

    covariance = np.zeros((low_dims, low_dims))
    for x, c in batches():
        low = _centred(flow, x, c)[:, :low_dims].numpy()
        covariance += low.T @ low
    axes, stds = principal_axes(covariance / max(int(counts.sum()), 1), k, 0.0, _UNBOUNDED)
    flow.rotation.weight.copy_(torch.from_numpy(axes))

    bands = band_of_coefficients(whitening.shape, whitening.block, whitening.bands)
    in_band = np.eye(whitening.bands)[bands]
    outer, energies = np.zeros((size, k, k)), np.zeros((size, whitening.bands))
    for x, c in batches():
        centred, labels = _centred(flow, x, c).numpy(), c.labels.numpy()
        low, content = centred[:, :low_dims], centred[:, :low_dims] @ axes[:k].T
        rest = np.concatenate([low - content @ axes[:k], centred[:, low_dims:]], axis=1)
        energies += _one_hot(c.labels, size).T @ (np.square(rest) @ in_band)
        for label in range(size):
            rows = content[labels == label] / stds
            outer[label] += rows.T @ rows
    average = outer / np.maximum(counts, 1)[:, None, None]
    factors = stds[:, None] * class_factors(average, np.zeros(size))
    flow.whitening.lower.copy_(torch.from_numpy(np.tril(factors, -1)))
    flow.whitening.log_diagonal.copy_(torch.from_numpy(np.log(np.diagonal(factors, axis1=1, axis2=2))))
    scales = residual_stds(class_means(energies, 0.0, counts, _UNBOUNDED), axes, k, bands)
    flow.scale.log_scale.copy_(torch.from_numpy(np.log(scales)))


def _whitening(flow: ConditionalFlow) -> Whitening:
    architecture = flow.architecture
    if isinstance(architecture, Coupled):
        return architecture.whitening
    if isinstance(architecture, Whitening):
        return architecture
    raise TypeError(f"a network of kind {architecture.kind} has no whitening to fit")


def _centred(flow: ConditionalFlow, x: Tensor, c: Condition) -> Tensor:
    centred: Tensor = flow.shift(flow.cosine(x, c)[0], c)[0]
    return centred


def _one_hot(labels: Tensor, size: int) -> NDArray[np.float64]:
    return np.asarray(np.eye(size)[labels.numpy()], dtype=np.float64)
