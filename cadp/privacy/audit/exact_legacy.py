"""The audit of `legacy`, whose ε is only said: every layer is there to refute it.

Its clip is over a batch, so a trial is a batch of one: among many records each has less of itself left. What lies under
the noise is read by watching the draws, as for the other mechanisms.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cadp.errors import PrivacyError
from cadp.privacy.audit.attack import Features
from cadp.privacy.audit.path import CodePath, Images
from cadp.privacy.audit.verdict import Check
from cadp.privacy.audit.watch import watched
from cadp.privacy.labels import PublicLabels
from cadp.privacy.legacy import STEP, Legacy

Floats = NDArray[np.float64]
Bits = NDArray[np.bool_]

MOST_TRIALS = 120
"""Batches of one are slow, and so many show more than enough."""


def legacy_checks(path: CodePath, mechanism: Legacy, pair: Images) -> tuple[Check, ...]:
    """Return the exact layer's findings: on the parameters, on a batch, and on a pair of pictures."""
    claimed = mechanism.nominal
    due = _due(mechanism)
    reached = _picture_loss(path, mechanism, pair)
    moved = _moved(mechanism)
    return (
        Check("event", due <= claimed, f"parameters cost {due:,.6g}, the claim is {claimed:g}", due, claimed),
        Check(
            "distance",
            reached <= claimed,
            f"two pictures, each alone in a batch, lose {reached:,.4g}, the claim is {claimed:g}",
            reached,
            claimed,
        ),
        Check("independence", moved == 0, f"{moved} of 8 records moved when only their neighbours changed"),
    )


def legacy_pair(path: CodePath, mechanism: Legacy) -> Images:
    """Return two images for each class, `(2, classes, h, w, c)`: of some candidates those that lose most."""
    labels = np.arange(path.classes, dtype=np.int64)
    generator = np.random.default_rng(37)  # public: these are records, not noise
    candidates = [np.stack([np.full((path.classes, *path.shape), grey, dtype=np.uint8) for grey in (0, 255)])]
    for size in (0.5, 1.0, 2.0):
        code = size * np.where(generator.integers(0, 2, (path.classes, mechanism.content_dims)) == 1, 1.0, -1.0)
        candidates.append(np.stack([path.decode(code, labels), path.decode(-code, labels)]))
    noise = generator.integers(0, 256, (path.classes, *path.shape), dtype=np.uint8)
    candidates.append(np.stack([noise, 255 - noise]))
    return max(candidates, key=lambda pair: _picture_loss(path, mechanism, pair))


def legacy_sample(
    path: CodePath, mechanism: Legacy, pair: Images, second: Bits, advance: Callable[[int], object]
) -> Features:
    """Return what an attacker sees of one record a bit, each in a batch of its own."""
    labels = (np.arange(len(second)) // 2) % path.classes
    images = []
    for label, side in zip(labels, second.astype(np.int64), strict=True):
        own = np.array([label])
        output = path.release(mechanism, PublicLabels(), pair[side, own], own, np.ones(1, dtype=np.bool_))
        images.append(output.images)
        advance(1)
    released = np.concatenate(images)
    return Features(path.encode(released, labels), released.reshape(len(released), -1) / 255.0)


def _due(mechanism: Legacy) -> float:
    """Return the loss of the parameters as published: 2·s in each of d columns, over the scale."""
    told = mechanism.parameters()
    norm, scale = told["clip_norm"], told["scale"]
    if not isinstance(norm, float) or not isinstance(scale, float):
        raise PrivacyError(f"legacy does not publish its clip norm and scale: {norm!r}, {scale!r}")
    return 2 * norm * mechanism.content_dims / scale


def _picture_loss(path: CodePath, mechanism: Legacy, pair: Images) -> float:
    """Return the least loss over the classes of a pair of pictures, each alone in its batch."""
    labels = np.arange(path.classes, dtype=np.int64)
    ends = [path.encode(images, labels)[:, : mechanism.content_dims] for images in pair]
    if not all(np.isfinite(end).all() for end in ends):
        return 0.0
    losses = []
    for row in range(path.classes):
        first, other = (_centres(mechanism, end[row : row + 1]) for end in ends)
        losses.append(float(np.abs(first - other).sum()) / mechanism.scale)
    return min(losses)


def _centres(mechanism: Legacy, z: Floats) -> Floats:
    """Return what of a batch is under the noise."""
    with watched() as draws:
        out = mechanism.privatize(z.copy(), np.ones(len(z), dtype=np.bool_))
    drawn = [draw for draw in draws if draw.sampler == "discrete_laplace"]
    if len(drawn) != 1 or not math.isclose(float(drawn[0].parameter) * STEP, mechanism.scale):
        raise PrivacyError(f"legacy drew other noise than it says: {[(d.sampler, d.parameter) for d in draws]}")
    return np.asarray(out[:, : mechanism.content_dims] - drawn[0].values * STEP)


def _moved(mechanism: Legacy) -> int:
    z = np.random.default_rng(41).normal(size=(16, mechanism.content_dims))  # public, as above
    other = z.copy()
    other[8:] *= 50
    gaps = np.abs(_centres(mechanism, z)[:8] - _centres(mechanism, other)[:8]).max(axis=1)
    return int((gaps > 1e-6 * mechanism.scale).sum())
