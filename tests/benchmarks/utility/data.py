"""The pictures that are measured on: Fashion-MNIST, which is public."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from cadp.records import Batch
from cadp.sources import catalogue
from cadp.sources.fetch import fetch
from cadp.sources.idx import IdxSource

CLASSES = 10
SHAPE = (28, 28, 1)
BATCH = 2048
DATASET = "fashion-mnist"


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
        train: the records that are released.
        test: originals that no model sees.
    """

    train: Pictures
    test: Pictures


def load(folder: Path, records: int | None) -> Originals:
    """Return the dataset, fetched into `folder` if need be; its first `records` training records if that is given."""
    source = IdxSource(fetch(DATASET, folder, Console(stderr=True).print), catalogue.get(DATASET).facts)
    train, test = (_collected(source, split) for split in ("train", "test"))
    return Originals(train.first(records), test)


def _collected(source: IdxSource, split: str) -> Pictures:
    records = list(source.records(split, lambda key, reason: None))
    images = np.stack([record.image for record in records if record.image is not None])
    return Pictures(images, np.array([record.label for record in records], dtype=np.int64))
