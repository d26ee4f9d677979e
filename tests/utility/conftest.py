"""Small pictures with an obvious class, and what a release of them looks like."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cadp.records import Released
from cadp.utility.released_frame import ReleasedFrame

Pictures = tuple[NDArray[np.uint8], NDArray[np.int64]]


@pytest.fixture
def pictures() -> Callable[..., Pictures]:
    """Noisy pictures whose bright band tells the class: `make(n, classes, shape)`."""

    def make(n: int, classes: int, shape: tuple[int, int, int], seed: int = 0) -> Pictures:
        rng = np.random.default_rng(seed)
        labels = np.arange(n) % classes
        images = rng.integers(0, 60, (n, *shape))
        band = -(-shape[0] // classes)
        for i, label in enumerate(labels):
            images[i, label * band : (label + 1) * band] += 150
        return images.astype(np.uint8), labels.astype(np.int64)

    return make


def as_png(image: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(stream, "png")
    return stream.getvalue()


@pytest.fixture
def release_frame(pictures: Callable[..., Pictures]) -> Callable[..., Any]:
    """The frame of a release of 40 records in 4 classes, 8×8 grey, that meets every expectation."""

    def make(change: Callable[[int, bytes, int, NDArray[np.uint8]], Any] = lambda *record: record) -> Any:
        images, labels = pictures(40, 4, (8, 8, 1))
        frame = ReleasedFrame()
        for i in range(40):
            changed = change(i, (i + 1).to_bytes(16, "big"), int(labels[i]), images[i])
            if changed is not None:
                _, key, label, image = changed
                frame.add(Released(key, label, as_png(image)), image)
        return frame.frame()

    return make
