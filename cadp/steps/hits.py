"""The count behind the gate: holdout units whose one record a classifier gets right."""

from collections.abc import Sequence

from cadp.records import Record, stack
from cadp.sources import PublicFacts
from cadp.steps.classify import Trained
from cadp.utility.gate import one_per_unit


def count_hits(classifier: Trained, holdout: Sequence[Record], facts: PublicFacts, key: bytes) -> int:
    """Score one record of each unit, chosen by the keyed hash of its name, whatever it shows."""
    chosen = one_per_unit([r.unit for r in holdout], [r.key for r in holdout], key)
    # A rejected record keeps its place in the batch, so that the others are computed alike, and never scores.
    return classifier.correct(stack([holdout[i] for i in chosen], facts.shape, facts.kind))
