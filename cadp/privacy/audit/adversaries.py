"""Latents chosen to hurt: hostile numbers, antipodal points, the edge of the clip and the corners of the lattice."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# What the other rows of a batch are made of, to see whether a row feels them.
NEIGHBOURS = (0.0, 1.0, -3.0, math.nan, math.inf, -math.inf, 1e38, -1e308, 5e-324)
_RANDOM = 24


def adversarial_rows(content_dims: int, parameters: Mapping[str, object]) -> Floats:
    """Return `(n, k)` contents, NaN and infinities among them; every finite row's antipode is there too.

    Args:
        content_dims: k.
        parameters: the mechanism's public parameters: `clip_norm` and `lattice_step`, where it has them.
    """
    k = content_dims
    generator = np.random.default_rng(17)  # public: these are records, not noise
    directions = np.concatenate([np.eye(k)[: min(k, 8)], np.ones((1, k)), generator.normal(size=(_RANDOM, k))])
    alternate = np.where(np.arange(k) % 2, -1.0, 1.0)[None]
    directions = np.concatenate([directions, alternate, np.eye(k)[-1:] + 1e-9])
    rows = [directions * size for size in (1.0, 1e-160, 1e6, 1e38, 1e300)]
    rows.append(np.full((1, k), 5e-324))
    rows.append(np.full((1, k), 1e308))
    if (radius := _number(parameters, "clip_norm")) is not None:
        rows += _at_the_clip(directions, radius)
        if (step := _number(parameters, "lattice_step")) is not None:
            rows += _lattice_corners(k, radius, step)
    finite = np.concatenate(rows)
    return np.concatenate([finite, -finite, hostile_rows(k)])


def hostile_rows(content_dims: int) -> Floats:
    """Return `(n, k)` rows that must be treated as the zero latent: each is zero, or holds a NaN or an infinity."""
    rows = np.zeros((6, content_dims))
    rows[1] = np.nan
    rows[2, 0] = np.inf
    rows[3, -1] = -np.inf
    rows[4] = 1e308
    rows[4, 0] = np.nan
    rows[5] = -0.0
    return rows


def _at_the_clip(directions: Floats, radius: float) -> list[Floats]:
    """Rows of an L1 and of an L2 norm just inside, at and just outside `radius`."""
    rows = []
    for norm in (np.abs(directions).sum(axis=1), np.sqrt((directions**2).sum(axis=1))):
        unit = directions / norm[:, None]
        for factor in (1 - 2.0**-30, 1 - 2.0**-31, 1 - 2.0**-52, 1.0, 1 + 2.0**-52, 1 + 2.0**-29):
            rows.append(unit * (radius * factor))
    return rows


def _lattice_corners(k: int, radius: float, step: float) -> list[Floats]:
    """Rows within the balls whose coordinates all lie just beyond half a step, so that rounding moves all outwards."""
    rows = []
    for size in (radius / k, radius / math.sqrt(k), step):
        half = (max(0.0, math.floor(size / step - 0.5)) + 0.5) * step
        corner = np.full((1, k), half)
        signs = np.where(np.arange(k) % 2, -1.0, 1.0)
        rows += [corner * factor for factor in (1 + 2.0**-40, 1.0, 1 - 2.0**-40)]
        rows.append(corner * (1 + 2.0**-40) * signs)
    return rows


def _number(parameters: Mapping[str, object], name: str) -> float | None:
    value = parameters.get(name)
    return float(value) if isinstance(value, int | float) else None
