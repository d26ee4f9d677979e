"""The two synthetic records that a mechanism should find hardest to hide: opposite contents, far outside the clip."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cadp.privacy.audit.path import CodePath, Images
from cadp.privacy.lattice import clip_l1, clip_l2, to_sphere
from cadp.privacy.mechanisms import Mechanism

Floats = NDArray[np.float64]

_BEYOND = 1.25  # of the clip's radius
_DIRECTIONS = 12
_REACHED = 0.9


@dataclass(frozen=True)
class WorstPair:
    """Two images for each class.

    Attributes:
        images: `(2, classes, h, w, c)`.
        distance: between the clipped contents of the closest pair, as a share of the diameter: 1 is the worst case.
    """

    images: Images
    distance: float


def worst_pair(path: CodePath, mechanism: Mechanism) -> WorstPair:
    """Return the pair whose clipped contents are farthest apart in every class, along one latent if that can be.

    Candidates along each of some latent directions: the decodings of two opposite codes beyond the clip, and their
    extremes, white wherever a latent brightens and black elsewhere (of all images these have the largest such latent,
    for a decoder that is linear before its clamp).
    """
    labels = np.arange(path.classes, dtype=np.int64)
    radius = _radius(mechanism)
    latents, k = math.prod(path.shape), mechanism.content_dims or 1
    best, rank = WorstPair(np.zeros((2, path.classes, *path.shape), dtype=path.kind), -1.0), (-1.0, -1.0)
    # Public directions, the same at every audit.
    directions = np.concatenate([np.eye(k)[:_DIRECTIONS], to_sphere(np.random.default_rng(31).normal(size=(4, k)))])
    for direction in directions:
        code = np.zeros((path.classes, latents))
        code[:, :k] = _BEYOND * radius * direction
        mild = np.stack([path.decode(code, labels), path.decode(-code, labels)])
        brighter = np.stack([mild[0] > mild[1], mild[0] < mild[1]])
        extreme = np.where(brighter, path.white, 0).astype(path.kind)
        for pair in (mild, extreme):
            ends = [_clipped(path.encode(images, labels)[:, :k], mechanism, radius) for images in pair]
            gaps = ends[0] - ends[1]
            distance = float((_size(gaps, mechanism) / (2 * radius)).min())
            # Of equally distant pairs the one along an axis: there one latent alone shows the whole loss of Laplace.
            along = float((np.abs(gaps).max(axis=1) / _size(gaps, mechanism).clip(1e-9)).mean())
            if (round(distance, 2), along) > rank:
                best, rank = WorstPair(pair, distance), (round(distance, 2), along)
    return best


def is_far(pair: WorstPair) -> bool:
    """Whether the pair is near enough to the worst case to give the statistical layers their power."""
    return pair.distance >= _REACHED


def _clipped(content: Floats, mechanism: Mechanism, radius: float) -> Floats:
    if mechanism.kind == "laplace":
        return clip_l1(content, radius)
    if mechanism.kind == "gaussian":
        return clip_l2(content, radius)
    return to_sphere(content)


def _size(gaps: Floats, mechanism: Mechanism) -> Floats:
    if mechanism.kind == "laplace":
        return np.asarray(np.abs(gaps).sum(axis=1))
    return np.asarray(np.sqrt((gaps**2).sum(axis=1)))


def _radius(mechanism: Mechanism) -> float:
    """Return the clip's radius; 1 on the sphere. The parameters of PrivUnit take a while to compute."""
    radius = mechanism.parameters().get("clip_norm")
    return radius if isinstance(radius, float) else 1.0
