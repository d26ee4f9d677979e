"""The part `shuffled` of a privacy statement: a second figure for the released records, or why there is none.

It holds what it was computed from, so that whoever receives a release can check it: `verify_shuffled`. It is at the δ
of the population whose records are released, of which the shuffled records take half and whatever else was spent on the
same units takes the other half; by basic composition the two losses add up.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cadp.errors import PrivacyError, VerificationFailed
from cadp.privacy.events import RELATION, Event
from cadp.privacy.plain_words import scientific
from cadp.privacy.precision import decimal, float_down
from cadp.privacy.shuffling import NO_SMALLER, is_bound, pure_loss, report_loss, shuffled_epsilon
from cadp.privacy.statement_rows import TOLERANCE, Component, Population, number, total

# The components that are local reports, one a record; all others of the population are central.
_LOCAL = ("records", "labels")


def shuffled_row(
    components: Sequence[Component], population: Population, *, labels: str, class_sizes: Sequence[int] | None
) -> dict[str, object]:
    """Return the central figure for the released records with its premises, as JSON values; or the reason for none.

    Args:
        components: every charge of the release.
        population: the one whose records are released.
        labels: what happens to labels: `public`, `randomized-response`, `resample`.
        class_sizes: how many records each class has, by index; only used where labels are public. None if not known.
    """
    try:
        return _figure(components, population, labels, class_sizes)
    except PrivacyError as reason:
        return {"epsilon": None, "reason": str(reason)}


def _figure(
    components: Sequence[Component], population: Population, labels: str, class_sizes: Sequence[int] | None
) -> dict[str, object]:
    delta = population.limit_delta
    local, others = _split(components, population.name)
    epsilon0 = report_loss(_local_events(local, labels), per_unit=population.max_records_per_unit)
    n = _hiding(population.records, labels, class_sizes)
    share, left = _shares(delta, others)
    hidden = shuffled_epsilon(epsilon0, n, share)
    if hidden.epsilon0 == 0:
        raise PrivacyError("the records cost nothing that shuffling could lower")
    if hidden.premises[-1] == NO_SMALLER:
        raise PrivacyError(NO_SMALLER)
    rest = total([component.event for component in others], RELATION).epsilon(left) if others else 0.0
    epsilon = _sum(hidden.epsilon, rest)
    if not epsilon < population.charged.epsilon(delta):
        raise PrivacyError("with what else was spent added, it would be no smaller than the loss that is charged")
    return {
        "epsilon": epsilon,
        "delta": delta,
        "delta_text": scientific(delta),
        "relation": RELATION,
        "population": population.name,
        "records": {
            "components": [component.name for component in local],
            "local_epsilon": hidden.epsilon0,
            "epsilon": hidden.epsilon,
            "delta": share,
            "n": n,
            "class_sizes": list(class_sizes) if class_sizes is not None and labels == "public" else None,
        },
        "others": {"components": [component.name for component in others], "epsilon": rest, "delta": left},
        "premises": list(hidden.premises),
    }


def verify_shuffled(document: Mapping[str, Any], components: Sequence[Component], population: Population) -> None:
    """Check the figure that a statement gives for shuffled records against its components; its premises are taken.

    The bound is evaluated once, at the stated ε, so this costs a fraction of a second.

    Args:
        document: the statement.
        components: its components, read back.
        population: its first population, read back.

    Raises:
        VerificationFailed: the figure does not follow.
        PrivacyError, KeyError, TypeError, ValueError: it is not a figure at all.
    """
    row = document["shuffled"]
    if not claims(document):
        return
    hidden, rest = row["records"], row["others"]
    local, others = _split(components, population.name)
    micro = TOLERANCE / 1e6
    epsilon0 = pure_loss(_local_events(local, document["labels"]))
    n = _hiding(population.records, document["labels"], hidden["class_sizes"])
    spent = decimal(number(hidden["delta"])) + decimal(number(rest["delta"]))
    others_epsilon = total([c.event for c in others], RELATION).epsilon(rest["delta"]) if others else 0.0
    holds = (
        population.max_records_per_unit == 1
        and row["population"] == population.name
        and row["relation"] == RELATION
        and number(row["delta"]) == population.limit_delta
        and row["delta_text"] == scientific(population.limit_delta)
        and spent <= decimal(population.limit_delta)
        and hidden["components"] == [component.name for component in local]
        and rest["components"] == [component.name for component in others]
        and hidden["n"] == n >= 2
        and math.isclose(number(hidden["local_epsilon"]), epsilon0, rel_tol=0, abs_tol=micro)
        and is_bound(number(hidden["epsilon"]), epsilon0, n, hidden["delta"])
        and number(rest["epsilon"]) + micro >= others_epsilon
        and number(row["epsilon"]) + micro >= hidden["epsilon"] + rest["epsilon"]
        and isinstance(row["premises"], list)
        and len(row["premises"]) > 0
    )
    if not holds:
        raise VerificationFailed("the privacy statement's figure for shuffled records is not what its events give")


def claims(document: Mapping[str, Any]) -> bool:
    """Return whether a statement gives a figure for shuffled records."""
    row = document["shuffled"]
    return row is not None and row["epsilon"] is not None


def _split(components: Sequence[Component], population: str) -> tuple[list[Component], list[Component]]:
    mine = [component for component in components if component.population == population]
    return [c for c in mine if c.name in _LOCAL], [c for c in mine if c.name not in _LOCAL]


def _local_events(local: Sequence[Component], labels: str) -> list[Event]:
    """Return what one report is charged with; its randomised label is a part of it."""
    # It is a component of its own, or composed into the records' event, whose parameters then say so.
    paid = any(component.name == "labels" or "labels" in component.parameters for component in local)
    if labels == "randomized-response" and not paid:
        raise PrivacyError("labels are randomised, and their loss is not among the charges")
    return [component.event for component in local]


def _hiding(records: int, labels: str, class_sizes: Sequence[int] | None) -> int:
    """Return how many records hide each other: those of the smallest class that has any, or all."""
    if labels != "public":
        return records
    if class_sizes is None:
        raise PrivacyError("labels are public, and how many records each class has is not known")
    sizes = list(class_sizes)
    if any(type(size) is not int or size < 0 for size in sizes) or sum(sizes) != records:
        raise PrivacyError(f"the sizes of the classes must add up to {records} records")
    return min(size for size in sizes if size > 0)


def _shares(delta: float, others: Sequence[Component]) -> tuple[float, float]:
    """Return the δ of the shuffled records and of the others: half each, if there are others."""
    if not others:
        return delta, 0.0
    share = float_down(decimal(delta) / 2)
    return share, float_down(decimal(delta) - decimal(share))


def _sum(first: float, second: float) -> float:
    """Return the sum in whole micro-nats, which both are."""
    if not math.isfinite(second):
        raise PrivacyError("what else was spent has no finite loss at half of delta")
    return (round(first * 1e6) + round(second * 1e6)) / 1e6
