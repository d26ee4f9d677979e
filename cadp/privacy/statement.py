"""The privacy statement of a release: what is promised to whom, what it cost, and what is not protected.

It is built from public values alone and holds the events themselves, so whoever receives a release can recompute every
figure: `verify_statement` does. Nothing in it depends on a private byte.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cadp.errors import PrivacyError, VerificationFailed
from cadp.privacy.accountant import ADDITIVE_SHARE, ORDERS, curve
from cadp.privacy.events import RELATION, ComposedEvent
from cadp.privacy.label_attributes import MOST_ATTRIBUTES
from cadp.privacy.plain_words import (
    ACCESS,
    HAZARDS,
    LABELS,
    NEIGHBOURS,
    RANDOMNESS,
    TRUST,
    ZERO_OUT_MEANING,
    lines,
    losses_in,
    losses_of,
)
from cadp.privacy.seeded import SEEDED
from cadp.privacy.statement_rows import (
    TOLERANCE,
    Component,
    Population,
    agree,
    component_row,
    headline_row,
    number,
    population_row,
    read_component,
    read_population,
    total,
)
from cadp.privacy.statement_shuffled import claims, shuffled_row, verify_shuffled

__all__ = [
    "Circumstances",
    "Component",
    "Population",
    "shuffled_row",
    "statement",
    "statement_lines",
    "verify_statement",
]

SCHEMA = 1
GUARANTEE = "(epsilon, delta)-differential privacy"


@dataclass(frozen=True)
class Circumstances:
    """What else a statement says about a release.

    Attributes:
        labels: what happens to labels: `public`, `randomized-response`, `resample`.
        label_parameters: its public parameters as run, where there are any: ε, the probability that a label is kept.
        model: where the decoder comes from: `dp`, or `public` (declared, not verified).
        unprotected: further public facts, in words, beside those that always are.
        versions: library versions by name.
        audit: the audit's public figures, or None if none was run.
        shuffled: the central figure with its premises, or why there is none (`shuffled_row`); None says nothing.
        tabular: whether the records are rows of a table, not images.
        seeded: True in a run with a test's seed, which protects nobody.
    """

    labels: str
    model: str
    label_parameters: Mapping[str, object] = field(default_factory=dict)
    unprotected: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    audit: Mapping[str, object] | None = None
    shuffled: Mapping[str, object] | None = None
    tabular: bool = False
    seeded: bool = False


def statement(
    *,
    name: str,
    version: str,
    date: str,
    components: Sequence[Component],
    populations: Sequence[Population],
    circumstances: Circumstances,
) -> dict[str, object]:
    """Return the privacy statement of a release as JSON values, `schema: 1`; its `lines` are the plain ones.

    The first population is the one whose records are released. A unit is in one population only, so the release costs
    a unit what its population pays, and the headline is the dearest population.

    Args:
        name: the release's name.
        version: its version.
        date: day of the release, ISO.
        components: every charge of the release.
        populations: every population that paid; the sum of its components is checked against the ledger's.
        circumstances: labels, model, versions, audit.

    Raises:
        PrivacyError: the components don't add up to what the ledger charged, name a population that isn't there, or
            words of the spec would be read as a loss.
    """
    by_name = {population.name: population for population in populations}
    strangers = {component.population for component in components} - set(by_name)
    if strangers or not populations or len({c.name for c in components}) != len(components):
        raise PrivacyError(f"components must have unique names and known populations, not {sorted(strangers)}")
    for population in populations:
        added = total([c.event for c in components if c.population == population.name], RELATION)
        if added != population.charged:
            raise PrivacyError(f"the components of {population.name} do not add up to what its ledger charged")
    paid = [population_row(p, [c for c in components if c.population == p.name]) for p in populations]
    document: dict[str, object] = {
        "schema": SCHEMA,
        "kind": "privacy-statement",
        "guarantee": SEEDED if circumstances.seeded else GUARANTEE,
        "release": {"name": name, "version": version, "date": date},
        "definition": {"relation": RELATION, "neighbours": NEIGHBOURS, "zero_out": ZERO_OUT_MEANING},
        "loss": headline_row(paid),
        "populations": paid,
        "components": [component_row(c, by_name[c.population].limit_delta) for c in components],
        "labels": circumstances.labels,
        "label_release": dict(circumstances.label_parameters) | LABELS[circumstances.labels],
        "model": circumstances.model,
        "unprotected": _unprotected(circumstances),
        "trust": TRUST,
        "shuffled": None if circumstances.shuffled is None else dict(circumstances.shuffled),
        "randomness": RANDOMNESS,
        "accounting": {
            "method": "Rényi filter on a fixed grid of orders (Feldman, Zrnic 2021; Canonne, Kamath, Steinke 2020)",
            "orders": ["inf" if math.isinf(order) else order for order in ORDERS],
            "delta_for_samplers": float(ADDITIVE_SHARE),
        },
        "audit": {"run": False} if circumstances.audit is None else {"run": True, **circumstances.audit},
        "access": ACCESS,
        "hazards": HAZARDS,
        "versions": dict(circumstances.versions),
    }
    document["lines"] = said = statement_lines(document)
    if not circumstances.seeded and losses_in(said) != losses_of(document):
        raise PrivacyError("a name or a reason in words writes a loss (epsilon =, delta =, e^): only figures may")
    return document


def statement_lines(document: Mapping[str, object]) -> list[str]:
    """Return the statement in five lines of plain words; a sixth if it gives a figure for shuffled records."""
    return lines(document)


def verify_statement(document: Mapping[str, object]) -> None:
    """Recompute every loss in a statement from the events in it, and find those losses, and no others, in its lines.

    A release outlives the program that made it. What its lines say in other words than ours is therefore left to the
    signature; the losses in them are not.

    Raises:
        VerificationFailed: a figure, a sum or a loss in a line is not what the events give, or a limit is exceeded.
    """
    try:
        if document["schema"] != SCHEMA or document["kind"] != "privacy-statement":
            raise VerificationFailed(f"the privacy statement has schema {document['schema']!r}: only {SCHEMA} is known")
        _verify(document)
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError, IndexError, PrivacyError) as error:
        raise VerificationFailed(f"the privacy statement cannot be recomputed: {error!r}") from error


def _verify(document: Mapping[str, object]) -> None:
    if document["guarantee"] != GUARANTEE:
        raise VerificationFailed(f"the privacy statement promises nothing: {document['guarantee']}")
    components, populations = _rows(document["components"]), _rows(document["populations"])
    names = [p["name"] for p in populations]
    if len(set(names)) != len(names) or {c["population"] for c in components} - set(names):
        raise VerificationFailed("the privacy statement's components and populations do not match")
    for population in populations:
        mine = [read_component(c) for c in components if c["population"] == population["name"]]
        rebuilt = population_row(read_population(population, mine), mine)
        _same(f"population {population['name']}", population, rebuilt)
        if not number(rebuilt["cumulative_epsilon"]) <= number(population["limit_epsilon"]) + TOLERANCE / 1e6:
            raise VerificationFailed(f"population {population['name']} has spent more than its limit")
    deltas = {p["name"]: number(p["delta"]) for p in populations}
    for row in components:
        _same(f"component {row['name']}", row, component_row(read_component(row), deltas[row["population"]]))
    _same("loss", document["loss"], headline_row(populations))
    first = [read_component(c) for c in components if c["population"] == names[0]]
    _verify_labels(document, first, read_population(populations[0], first).max_records_per_unit)
    verify_shuffled(document, first, read_population(populations[0], first))
    said, expected = document["lines"], 6 if claims(document) else 5
    if not isinstance(said, list) or len(said) != expected or losses_in(said) != losses_of(document):
        raise VerificationFailed("the privacy statement's lines do not say the losses that its events give")


def _verify_labels(document: Mapping[str, Any], components: Sequence[Component], records: int) -> None:
    """Find the loss that is stated of one record's label in the event of the records, which it is a part of."""
    said = document.get("label_release", {})  # the first statements had none
    if "epsilon" not in said:
        return
    told = {key: value for key, value in said.items() if key not in LABELS[document["labels"]]}
    for component in components:
        if component.parameters.get("labels") == told and isinstance(component.event, ComposedEvent):
            paid = curve(component.event.events[0]).micro[-1]  # labels first: `cadp.privacy.labels.both`
            stated = records * number(said["epsilon"]) * 1e6
            # The events of up to so many attributes are rounded up one by one.
            if (
                paid is not None
                and abs(paid - stated) <= TOLERANCE + MOST_ATTRIBUTES
                and told["kind"] == document["labels"]
            ):
                return
    raise VerificationFailed("the privacy statement's loss of a label is not what its events give")


def _same(what: str, stated: object, computed: Mapping[str, object]) -> None:
    if not isinstance(stated, Mapping) or not agree(stated, computed):
        raise VerificationFailed(f"the privacy statement's {what} is not what its events give")


def _unprotected(circumstances: Circumstances) -> list[str]:
    facts = [
        "the release's specification and this statement",
        "the number of records and of units, and how many records each unit has",
        "the names, bounds and levels of the columns and the names of the labels"
        if circumstances.tabular
        else "the shape of the images and the names of the labels",
        "whether a unit belongs to the source at all, if its id is known",
    ]
    if circumstances.labels == "public":
        facts.insert(2, "the label of every record, and so the size of every class")
    if circumstances.labels == "resample":
        facts.insert(2, "the weights that released labels are drawn from")
    return [*facts, *circumstances.unprotected]


def _rows(value: object) -> list[Mapping[str, object]]:
    if not isinstance(value, list) or not value or not all(isinstance(row, Mapping) for row in value):
        raise TypeError("a list of objects was expected")
    return value
