"""One cell, one seed: the figures. A seed is the classifier's; noise comes from the operating system every time."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cadp.privacy.accountant import Curve, curve
from cadp.privacy.events import RELATION, ZERO_OUT
from tests.benchmarks.utility import data, plans
from tests.benchmarks.utility.cells import DELTA, Cell, Pixelated, PrivateClassifier, RecipeName, Release, digest
from tests.benchmarks.utility.cells import Originals as OriginalsCell
from tests.benchmarks.utility.data import CLASSES, SHAPE, Originals, Pictures
from tests.benchmarks.utility.frechet import Features
from tests.benchmarks.utility.pixelated import pixelated
from tests.benchmarks.utility.private_classifier import noise_multiplier, private_accuracy
from tests.benchmarks.utility.recipe import RECIPES, accuracy, trained
from tests.benchmarks.utility.releasing import Clock, Kept, fitted, mechanism_of, released
from tests.benchmarks.utility.retention import retention


def recipe_of(cell: Cell) -> dict[str, object]:
    """The public facts of a cell's classifier; of a private one there is no recipe."""
    return {} if isinstance(cell, PrivateClassifier) else RECIPES[getattr(cell, "recipe", "gate")].to_json()


@dataclass
class Bench:
    """What cells are measured on.

    Attributes:
        folder: where datasets lie or are fetched to.
        records: the first so many training records; None for all.
    """

    folder: Path
    records: int | None = None

    @cached_property
    def originals(self) -> Originals:
        """The dataset."""
        return data.load(self.folder, self.records)

    @cached_property
    def features(self) -> Features:
        """Of held-out originals."""
        return Features(self.originals.test, self.originals.train)

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
        """Return `records`, `recipe`, `plan`, `figures` and `cpu_seconds`."""
        originals = self.originals
        clock = Clock()
        match cell:
            case Release():
                figures = self._release(cell, originals, seed, clock)
            case OriginalsCell():
                figures = _accuracies(originals.train, originals.test, seed, cell.recipe, clock)
                figures["frechet"] = self.features.floor(originals.train)
            case Pixelated(epsilon=epsilon):
                with clock("sample"):
                    pictures = pixelated(originals.train, epsilon)
                figures = _accuracies(pictures, originals.test, seed, "gate", clock)
                figures |= retention(originals.train, pictures)
                figures["frechet"] = self.features.distance(pictures)
            case PrivateClassifier():
                with clock("train"):
                    figures = {"accuracy": private_accuracy(cell, originals, seed)}
                figures["noise_multiplier"] = noise_multiplier(cell.epsilon, cell.relation)
        return {
            "records": len(originals.train),
            "recipe": digest(recipe_of(cell)),
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
        private, _ = released(flow, mechanism, originals.test)
        figures = _accuracies(pictures, originals.test, seed, cell.recipe, clock, private)
        figures |= retention(originals.train, pictures)
        if cosines is not None:
            figures |= {"cosine_latent": float(cosines.mean()), "cosine_expected": mechanism.expected_cosine()}
        figures["frechet"] = self.features.distance(pictures)
        return figures


def _accuracies(
    train: Pictures, test: Pictures, seed: int, recipe: RecipeName, clock: Clock, private: Pictures | None = None
) -> dict[str, float]:
    """p/o, and p/p, of a classifier trained on `train`; `private` is what a release makes of test records."""
    with clock("classifier"):
        classifier = trained(train, seed, recipe)
    figures = {"accuracy": accuracy(classifier, test)}
    return figures if private is None else {**figures, "p/p": accuracy(classifier, private)}
