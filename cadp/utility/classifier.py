"""The small convolutional classifier behind the p/o figure: trained on released records, tested on originals.

Two convolutions and two fully connected layers, as in the paper (arXiv 2207.14625). It sees released records only,
which makes it post-processing: any seed may be used, nothing is charged, and training may look at its data as it likes.
What is charged is the one count that it gives on the holdout (`cadp.utility.gate`).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cadp.errors import RejectedInput
from cadp.records import Batch, Values, at_once
from cadp.reporter import Reporter


@dataclass(frozen=True, slots=True)
class ClassifierRecipe:
    """How the classifier is trained: public, and fixed before any record is released.

    Attributes:
        epochs: passes over the released records.
        least_steps: small releases are passed over more often, until this many gradient steps are made.
        batch: images a step.
        learning_rate: the peak of a one-cycle schedule (Smith 2018): a fifth of it at first, zero at the end.
        warm_up: the share of steps that rise to the peak.
        weight_decay: AdamW's.
        grain: the most Gaussian noise on an image it learns from, in standard deviations of all pixels; every image has
            its own amount, uniform up to this. Released images carry noise that originals lack, and fine detail that
            is not theirs: with noise of its own on top (Bishop 1995), the classifier leans on neither.
        channels: feature maps of the two convolutions.
        kernel: their width and height.
        hidden: width of the first fully connected layer.
        seed: of the weights and of the order of records.
        threads: torch threads while it works. Layers this small gain nothing from a second one (18 s with one or with
            two on idle cores) and lose much on busy cores, where the threads wait for each other at every layer.

    Epochs, grain and kernel were chosen on Fashion-MNIST, which is public: on records of models at ε = 1 and 10, by the
    accuracy on training originals, never on test originals.
    """

    epochs: int = 4
    least_steps: int = 600
    batch: int = 128
    learning_rate: float = 4e-3
    warm_up: float = 0.2
    weight_decay: float = 1e-2
    grain: float = 1.0
    channels: tuple[int, int] = (16, 32)
    kernel: int = 5
    hidden: int = 128
    seed: int = 0
    threads: int = 1

    def to_json(self) -> dict[str, object]:
        """The recipe as public JSON."""
        return {**asdict(self), "channels": list(self.channels)}

    def passes(self, records: int) -> int:
        """Epochs for this many records: `epochs`, or more where they would make fewer than `least_steps` steps."""
        return max(self.epochs, math.ceil(self.least_steps / math.ceil(records / self.batch)))


class _Network(nn.Module):
    def __init__(self, shape: tuple[int, int, int], classes: int, recipe: ClassifierRecipe) -> None:
        super().__init__()
        height, width, colours = shape
        (first, second), kernel = recipe.channels, recipe.kernel
        # Each of two poolings halves a side, rounding up, so that even a 1×1 image passes; pictures larger than 28×28
        # are averaged down to the same 7×7 features, which keeps the dense layer's size.
        sides = [min(7, math.ceil(math.ceil(side / 2) / 2)) for side in (height, width)]
        self.features = nn.Sequential(
            nn.Conv2d(colours, first, kernel, padding=kernel // 2),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.ReLU(),
            nn.Conv2d(first, second, kernel, padding=kernel // 2),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d((sides[0], sides[1])),
        )
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(second * sides[0] * sides[1], recipe.hidden),
            nn.ReLU(),
            nn.Linear(recipe.hidden, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(self.features(images))
        return scores


class Classifier:
    """A trained classifier of `(h, w, c)` images."""

    def __init__(
        self, network: nn.Module, shape: tuple[int, int, int], scale: tuple[float, float], threads: int
    ) -> None:
        self._network = network
        self._shape = shape
        self._scale = scale
        self._threads = threads

    def predict(self, images: Values) -> NDArray[np.int64]:
        """The most likely class of each image, `(n,)` int64.

        Raises:
            RejectedInput: the images are not of the shape it was trained on.
        """
        if images.shape[1:] != self._shape:
            raise RejectedInput(f"images of shape {images.shape[1:]}; the classifier knows {self._shape}")
        answer = np.empty(len(images), dtype=np.int64)
        with _threads(self._threads), torch.inference_mode():
            step = at_once(self._shape, 1024)
            for start in range(0, len(images), step):
                block = _tensor(images[start : start + step], self._scale)
                answer[start : start + len(block)] = self._network(block).argmax(1).numpy()
        return answer

    def correct(self, holdout: Batch) -> int:
        """How many records get their own label; a rejected one never does.

        A rejected record keeps its place, so that every other record is computed in the same block at the same position
        whatever it holds: one record changes the count by its own term alone, down to the last bit.
        """
        return int(np.count_nonzero((self.predict(holdout.images) == holdout.labels) & holdout.valid))


def train_classifier(
    images: NDArray[np.uint8], labels: NDArray[np.int64], classes: int, recipe: ClassifierRecipe, reporter: Reporter
) -> Classifier:
    """Train on released records.

    Args:
        images: `(n, h, w, c)` uint8, c = 1 or 3.
        labels: `(n,)` integers, `0 <= label < classes`.
        classes: how many classes the release declares, 2 or more.
        recipe: fixed in advance.
        reporter: sees progress in images.

    Raises:
        RejectedInput: no records, fewer than two classes, or labels that do not fit.
    """
    _check(images, labels, classes)
    shape = (images.shape[1], images.shape[2], images.shape[3])
    scale = _scale(images)
    truth = torch.from_numpy(labels.astype(np.int64))
    passes = recipe.passes(len(images))
    with _threads(recipe.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = _Network(shape, classes, recipe)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=recipe.learning_rate,
            total_steps=passes * math.ceil(len(images) / recipe.batch),
            pct_start=recipe.warm_up,
            div_factor=5,
        )
        network.train()
        with reporter.progress("train classifier", len(images) * passes, "images") as advance:
            for _ in range(passes):
                order = torch.randperm(len(images))
                for chosen in torch.split(order, recipe.batch):
                    optimizer.zero_grad(set_to_none=True)
                    seen = _with_grain(_tensor(images[chosen.numpy()], scale), recipe.grain)
                    loss = functional.cross_entropy(network(seen), truth[chosen])
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    schedule.step()
                    advance(len(chosen))
    return Classifier(network.eval(), shape, scale, recipe.threads)


def _check(images: NDArray[np.uint8], labels: NDArray[np.int64], classes: int) -> None:
    if images.ndim != 4 or images.dtype != np.uint8 or 0 in images.shape:
        raise RejectedInput(f"the classifier needs (n, h, w, c) uint8 images; these are {images.shape} {images.dtype}")
    if labels.shape != (len(images),):
        raise RejectedInput(f"{len(images)} images with labels of shape {labels.shape}")
    if classes < 2:
        raise RejectedInput(f"a classifier needs 2 classes or more; the release declares {classes}")
    if labels.min() < 0 or labels.max() >= classes:
        raise RejectedInput(f"labels from {labels.min()} to {labels.max()}; the release declares {classes} classes")


def _scale(images: NDArray[np.uint8]) -> tuple[float, float]:
    """Mean and standard deviation of all pixels, at least 1; in integers, without a copy of all in floats."""
    total = square = 0
    step = at_once((images.shape[1], images.shape[2], images.shape[3]), 1024)
    for start in range(0, len(images), step):
        block = images[start : start + step].astype(np.int64)
        total, square = total + int(block.sum()), square + int(np.square(block).sum())
    mean = total / images.size
    return mean, max(math.sqrt(max(square / images.size - mean * mean, 0.0)), 1.0)


def _tensor(images: Values, scale: tuple[float, float]) -> Tensor:
    """Standardised `(n, c, h, w)` float32 in channels-last memory, which is how the pixels lie already."""
    mean, deviation = scale
    return torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2).sub_(mean).div_(deviation)


def _with_grain(images: Tensor, most: float) -> Tensor:
    """Each image with Gaussian noise of an amplitude of its own, uniform up to `most`."""
    amplitude = most * torch.rand(len(images), 1, 1, 1)
    return images.addcmul_(torch.randn_like(images), amplitude)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
