"""The tone curve: a noisy histogram of every channel's values, and the curve that gives the model's values the same."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from cadp.cinn.fit.public_draws import public_normals
from cadp.cinn.fit.tones_plan import UNIT
from cadp.cinn.network import ConditionalFlow
from cadp.records import at_once

Array = NDArray[np.float64]

# The share of the identity in a curve, which is also its least slope. With less, pictures look more like the records
# and train a worse classifier under small budgets: a steep curve makes the noise between its ends loud.
FLATTEST = 0.25
SIMULATED = 256  # a thousand move a curve by as little: .01


def histograms(values: Array, valid: NDArray[np.bool_], channels: int, knots: int) -> NDArray[np.int64]:
    """The sum `(channels, knots)` of the records' contributions, in integers.

    Args:
        values: `(n, h·w·c)` in [0, 1]; a record with another value in it contributes nothing, as a rejected one.
        valid: `(n,)`.
        channels: c, the last axis of a record.
        knots: cells of a histogram.
    """
    inside = valid & ((values >= 0) & (values <= 1)).all(axis=1)
    cells = np.minimum((values[inside] * knots).astype(np.int64), knots - 1).reshape(-1, channels)
    flat = (cells + knots * np.arange(channels)).ravel()
    return UNIT * np.bincount(flat, minlength=channels * knots).reshape(channels, knots)


def simulated(flow: ConditionalFlow, counts: NDArray[np.int64]) -> Array:
    """Records `(n, d)` in [0, 1] that the model makes of public draws, classes in proportion to `counts`.

    There are `SIMULATED`, or fewer of large records. Post-processing: nothing private is read.
    """
    shape = flow.architecture.shape
    count = at_once(shape, SIMULATED)
    levels = np.cumsum(np.maximum(counts, 1)) / np.maximum(counts, 1).sum()
    labels = torch.from_numpy(np.searchsorted(levels, (np.arange(count) + 0.5) / count).astype(np.int64))
    latents = torch.from_numpy(public_normals("cadp tones", (count, math.prod(shape))))
    made = flow.decode(latents, labels).nan_to_num(nan=0.0).clamp(0, 1)
    return np.asarray(made.reshape(count, -1).numpy(), dtype=np.float64)


def curve(answer: NDArray[np.int64], simulated: NDArray[np.int64]) -> Array:
    """`(channels, K + 1)` heights of the curve that takes simulated values to those of the noisy histogram.

    At a knot it is the quantile of the records at the level that the model's values have there (histogram matching),
    a little of the identity added. A channel of which nothing is left of noise keeps the identity. Post-processing.

    Args:
        answer: `(channels, K)` noisy histogram of the records.
        simulated: `(channels, K)` of records that the model made up.
    """
    knots = answer.shape[1]
    at = np.linspace(0, 1, knots + 1)
    heights = np.tile(at, (len(answer), 1))
    for height, noisy, own in zip(heights, answer, simulated, strict=True):
        records, model = _levels(noisy), _levels(own)
        if records is None or model is None:
            continue
        matched = np.interp(model, records, at)
        matched[[0, -1]] = 0.0, 1.0
        height[:] = (1 - FLATTEST) * matched + FLATTEST * at
    return heights


def _levels(histogram: NDArray[np.int64]) -> Array | None:
    """The share of values below each knot, rising by a hair where there are none; None of an empty histogram."""
    cells = np.clip(histogram, 0, None).astype(np.float64)
    if not cells.any():
        return None
    cells = cells / cells.sum() + 1e-9
    return np.concatenate([[0.0], np.cumsum(cells / cells.sum())])
