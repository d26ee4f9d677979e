"""The privacy statement in plain words, for readers who are not mathematicians.

The wording promises exactly what the figures do. It never calls a release "without persons in it": differential privacy
bounds what one unit's data can change, no more.
"""

import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from cadp.privacy.precision import decimal

NEIGHBOURS = (
    "Two datasets are neighbours if they differ in the contents of all records of one unit and agree in everything "
    "else: the unit's id, its side of the holdout, its number of records and, where labels are public, its labels "
    "(replace-one)."
)
ZERO_OUT_MEANING = (
    "A second figure, for comparison with literature that adds or removes a unit: the unit's contribution is replaced "
    "by a fixed null contribution. It is computed beside the charged loss and never added to it."
)
TRUST = (
    "The holder of the source runs the mechanisms and is trusted with it. Records go through a local mechanism, each "
    "on its own; training is central, on sums with noise. Nothing else leaves the private zone."
)
RANDOMNESS = {
    "source": "the operating system's CSPRNG, for every draw; no seed",
    "samplers": "discrete Gaussian, discrete Laplace and coins are exact; noise is added on integer lattices",
}
ACCESS = {
    "public": "the release's prefix: records, statement, manifest, public utility figures",
    "private": "source, shards, unsealed output, ledger, model checkpoints, operator's logs",
}
LABELS = {
    "public": {
        "done": "Every released record has the label of its own record.",
        "encoded_with": "own label",
        "decoded_with": "own label",
    },
    "randomized-response": {
        "done": "A released label is the record's own with a known probability, else another: any may be wrong. Class "
        "counts are known to the training through noise alone.",
        "encoded_with": "own label",
        "decoded_with": "released label",
    },
    "resample": {
        "done": "Released labels are drawn from public weights: no record's label is released. Class counts are known "
        "to the training through noise alone.",
        "encoded_with": "own label",
        "decoded_with": "released label",
    },
}
_LOSS = re.compile(r"(?:\b(epsilon|delta) ?=|\be ?\^) ?(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", re.IGNORECASE)
HAZARDS = [
    "The promise is per unit: what is true of many units at once, a group or a population, can be learned.",
    "Losses add up over everything released about the same units; the cumulative figure is for this ledger only, and "
    "releases made elsewhere come on top.",
    "Membership in the source, counts and whatever is listed as unprotected are not hidden.",
    "A stop that an operator decides after looking at private checks is outside the promise.",
    "Side channels of the machines (time, memory, storage access) are outside the promise.",
    "Released records are synthetic: they may mislead about rare cases, and errors may fall unevenly on groups.",
]


def scientific(delta: float) -> str:
    """Return δ in scientific form, as short as it can be exactly.

    Example:
        >>> scientific(1e-06), scientific(2.5e-7)
        ('1e-06', '2.5e-07')
    """
    for digits in range(17):
        text = f"{delta:.{digits}e}"
        if float(text) == delta:
            return text
    return repr(delta)


def nats(epsilon: float) -> str:
    """Return ε with at most three decimals, rounded up.

    Example:
        >>> nats(8.0), nats(7.996976), nats(0.1000001)
        ('8', '7.997', '0.101')
    """
    return f"{Decimal(math.ceil(decimal(epsilon, 'epsilon') * 1000)) / 1000:f}"


def lines(document: Mapping[str, Any]) -> list[str]:
    """Return five lines: who is protected, the promise, its parts, what is not protected, what is left and checked.

    A sixth gives the second figure, for shuffled records, where there is one.

    The wording may change; what stays within schema 1 is how losses are written, `epsilon = 8`, `delta = 1e-06` and
    `e^8`, and that no others are: by that, whoever checks a release years later finds them (`losses_in`).
    """
    released = document["populations"][0]
    return [
        _who(released),
        _promise(document, released),
        _parts(document["components"], released["name"]),
        f"Not protected, because declared public: {'; '.join(document['unprotected'])}.",
        _budget(document, released),
        *_shuffled(document["shuffled"]),
    ]


def losses_in(text: Sequence[str]) -> list[tuple[str, str]]:
    """Return every loss that the lines of a statement write, sorted.

    Example:
        >>> losses_in(["at most e^8 times (epsilon = 8, delta = 1e-06).", "Spent: epsilon = 2.5 of 16."])
        [('delta', '1e-06'), ('e^', '8'), ('epsilon', '2.5'), ('epsilon', '8')]
    """
    return sorted((name or "e^", value) for line in text for name, value in _LOSS.findall(line))


def losses_of(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the losses that the lines of a statement must write, sorted: those of its figures."""
    released = document["populations"][0]
    figures = [released["epsilon"], released["cumulative_epsilon"], *(c["epsilon"] for c in document["components"])]
    promise = [("e^", nats(released["epsilon"])), *[("delta", released["delta_text"])] * 2]
    shuffled = document["shuffled"]
    if shuffled is not None and shuffled["epsilon"] is not None:
        promise += [("epsilon", nats(shuffled["epsilon"])), ("delta", shuffled["delta_text"])]
    return sorted([*promise, *(("epsilon", nats(figure)) for figure in figures)])


def _who(population: Mapping[str, Any]) -> str:
    m, unit = population["max_records_per_unit"], population["unit"]
    why = f" ({population['why']})" if population["why"] else ""
    of = f"{population['records']:,} records of {population['name']}"
    if unit == "record":
        return f"Protected: each single record{why} of the {of}."
    share = "one record" if m == 1 else f"up to {m} records, which are protected together"
    return f"Protected: each {unit}{why} behind the {of}; one {unit} contributes {share}."


def _promise(document: Mapping[str, Any], released: Mapping[str, Any]) -> str:
    if document["guarantee"].startswith("NOT PRIVATE"):
        return "NOT PRIVATE: this run was seeded for a test. It protects nobody and must not be published."
    zero_out = released["zero_out_epsilon"]
    beside = "" if zero_out is None else f"; {nats(zero_out)} if it is replaced by a null contribution instead"
    epsilon, delta = nats(released["epsilon"]), released["delta_text"]
    return (
        f"Promise: had one {released['unit']}'s contents been entirely different, no result, including a refusal to "
        f"publish, would be more than e^{epsilon} times as likely, up to an exceptional probability of {delta} "
        f"(epsilon = {epsilon}, delta = {delta}, replace-one{beside})."
    )


def _parts(components: Sequence[Mapping[str, Any]], released: str) -> str:
    spent = []
    for c in components:
        payer = "" if c["population"] == released else f", paid by the separate population {c['population']}"
        spent.append(f"{c['what']} by {c['mechanism']}, epsilon = {nats(c['epsilon'])}{payer}")
    return f"What it was spent on: {'; '.join(spent) or 'nothing'}. The parts are composed, not simply added."


def _budget(document: Mapping[str, Any], released: Mapping[str, Any]) -> str:
    count = released["releases"]
    after = "this release" if count == 1 else f"{count} releases, this one included"
    return (
        f"In all: after {after}, the source has spent epsilon = {nats(released['cumulative_epsilon'])} of its limit of "
        f"{released['limit_epsilon']:g} at delta = {released['delta_text']}; {_audit(document['audit'])}."
    )


def _shuffled(row: Mapping[str, Any] | None) -> list[str]:
    if row is None or row["epsilon"] is None:
        return []
    return [
        f"A second figure, which is not charged and stands on premises that the statement lists: for whoever sees the "
        f"release alone, and nothing of the order in which records were processed, epsilon = {nats(row['epsilon'])} at "
        f"delta = {row['delta_text']}, since each record hides among {row['records']['n']:,}."
    ]


def _audit(audit: Mapping[str, Any]) -> str:
    if not audit["run"]:
        return "no audit of the running code accompanies this release"
    return (
        f"an audit of the running code on synthetic records did not refute it at {audit['trials']:,} trials "
        f"(lower bound {audit['epsilon_lower_bound']:g}; so many trials could show at most {audit['ceiling']:g})"
    )
