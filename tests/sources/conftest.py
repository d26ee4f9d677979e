"""Small idx folders and picture folders, made on the spot."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cadp.sources import PublicFacts

FACTS = PublicFacts(records=25, holdout_records=5, shape=(6, 4, 1), classes=("a", "b", "c"))


def idx_images(images: NDArray[np.uint8]) -> bytes:
    return struct.pack(">4I", 0x803, *images.shape) + images.tobytes()


def idx_labels(labels: NDArray[np.uint8]) -> bytes:
    return struct.pack(">2I", 0x801, len(labels)) + labels.tobytes()


@pytest.fixture
def facts() -> PublicFacts:
    return FACTS


@pytest.fixture
def idx_folder(tmp_path: Path) -> Callable[..., Path]:
    """A folder with both splits; `replace` maps file names to other bytes, or to None for a missing file."""

    def make(*, packed: bool = True, replace: dict[str, bytes | None] | None = None) -> Path:
        rng = np.random.default_rng(0)
        for prefix, n in (("train", 25), ("t10k", 5)):
            images = rng.integers(0, 256, (n, 6, 4)).astype(np.uint8)
            for suffix, data in (
                ("images-idx3-ubyte", idx_images(images)),
                ("labels-idx1-ubyte", idx_labels((np.arange(n) % 3).astype(np.uint8))),
            ):
                content: bytes | None = gzip.compress(data) if packed else data
                name = f"{prefix}-{suffix}{'.gz' if packed else ''}"
                content = (replace or {}).get(name, content)
                if content is not None:
                    (tmp_path / name).write_bytes(content)
        return tmp_path

    return make


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    """Two splits of three classes, PNG and JPEG, 6×4 grey."""
    rng = np.random.default_rng(1)
    for split, n in (("train", 4), ("test", 1)):
        for name in FACTS.classes:
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                image = rng.integers(0, 256, (6, 4, 1)).astype(np.uint8)
                kind, ending = (("PNG", "png"), ("JPEG", "JPG"))[i % 2]
                Image.fromarray(image[:, :, 0]).save(folder / f"{i}.{ending}", kind)
    return tmp_path
