"""The count behind the gate: holdout units whose one record a classifier gets right."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cadp.records import Record, stack
from cadp.utility.gate import one_per_unit

if TYPE_CHECKING:
    from cadp.utility.classifier import Classifier


def count_hits(classifier: "Classifier", holdout: Sequence[Record], shape: tuple[int, int, int], key: bytes) -> int:
    """Score one record of each unit, chosen by the keyed hash of its name, whatever it shows."""
    chosen = one_per_unit([r.unit for r in holdout], [r.key for r in holdout], key)
    # A rejected record keeps its place in the batch, so that the others are computed alike, and never scores.
    return classifier.correct(stack([holdout[i] for i in chosen], shape))
