"""Colour pictures made by a formula: shapes in some colours on a slope, with grain. They are nobody's."""

import numpy as np
from numpy.typing import NDArray

CLASSES = ("disc", "ring", "stripes", "checks")


def pictures(count: int, side: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return `(n, side, side, 3)` pictures and their labels, the same for the same seed."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    images, labels = np.empty((count, side, side, 3), dtype=np.uint8), np.arange(count, dtype=np.int64) % len(CLASSES)
    for image, label in zip(images, labels, strict=True):
        (cy, cx), size, angle = draw.uniform(0.3, 0.7, 2), draw.uniform(0.15, 0.3), draw.uniform(0, np.pi)
        far, along = np.hypot(y - cy, x - cx) / size, np.cos(angle) * x + np.sin(angle) * y
        across = np.cos(angle) * y - np.sin(angle) * x
        waves = np.sin(12 * along / size) if label == 2 else np.sin(8 * along / size) * np.sin(8 * across / size)
        inside = (far < 1, abs(far - 0.8) < 0.25, (far < 1.2) & (waves > 0), (far < 1.2) & (waves > 0))[label]
        ground, colour = draw.uniform(0.1, 0.5, 3), draw.uniform(0.5, 1.0, 3)
        value = np.where(inside[..., None], colour, ground + 0.2 * along[..., None])
        image[:] = ((value + draw.normal(0, 0.03, value.shape)).clip(0, 1) * 255).round()
    return images, labels
