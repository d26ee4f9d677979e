"""`index.html`: the release for people, in one file that asks the network for nothing."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cadp.privacy.plain_words import nats
from cadp.publish.card import class_counts
from cadp.publish.facts import GateFigures, ReleaseFacts
from cadp.publish.histograms import HEIGHT, WIDTH, histograms
from cadp.publish.interval import PublishedFile
from cadp.publish.loading import snippets
from cadp.publish.sheet import pick
from cadp.publish.templating import render
from cadp.records import Released

COLUMNS = 10


@dataclass(frozen=True, slots=True)
class Row:
    """One class of the contact sheet: its name, how often it was released, and data URIs of released images."""

    name: str
    count: int
    images: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """A number to print large, with what it is of in a few words."""

    symbol: str
    value: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A labelled position on the utility figure's axis, in percent of its width."""

    at: float
    anchor: str


def page(facts: ReleaseFacts, files: Sequence[PublishedFile], sample: Sequence[Released], key_id: str) -> bytes:
    """The file's bytes; `sample` are released records: the first few images a class, or histograms of all rows."""
    table = facts.table
    return render(
        "page.html.j2",
        {
            "facts": facts,
            "loss": headline(facts.statement),
            "rows": contact_rows(facts, files, sample),
            "histograms": [] if table is None else histograms(table, facts.classes, sample),
            "shown": len(sample),
            "width": WIDTH,
            "height": HEIGHT,
            "columns": COLUMNS,
            "figure": None if facts.accuracy is None else figure(facts.accuracy, len(facts.classes)),
            "gate": facts.accuracy,
            "snippets": snippets(facts, files),
            "files": files,
            "key_id": key_id,
            "pixels": max(facts.shape[:2]) <= 64,
        },
    )


def contact_rows(facts: ReleaseFacts, files: Sequence[PublishedFile], sample: Sequence[Released]) -> list[Row]:
    """The contact sheet's rows: released PNGs as they are; of a table the classes alone."""
    counts = class_counts(files, len(facts.classes))
    if facts.table is not None:
        return [Row(name, count, ()) for name, count in zip(facts.classes, counts, strict=True)]
    chosen = pick([record.label for record in sample], len(facts.classes), COLUMNS)
    return [
        Row(name, count, tuple(data_uri(sample[position].data) for position in positions))
        for name, count, positions in zip(facts.classes, counts, chosen, strict=True)
    ]


def data_uri(png: bytes) -> str:
    """The PNG inside a URI, so that the page needs no second file."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def figure(gate: GateFigures, classes: int) -> dict[str, Mark]:
    """Where chance, threshold, accuracy and its interval stand on an axis from 0 to 1."""
    values = {
        "chance": 1 / classes,
        "threshold": gate["threshold"],
        "accuracy": gate["accuracy"],
        "low": gate["low"],
        "high": gate["high"],
    }
    return {name: _mark(min(max(value, 0.0), 1.0)) for name, value in values.items()}


def _mark(value: float) -> Mark:
    """Labels near an end lean inwards, so that none is cut off on a narrow screen."""
    anchor = "start" if value < 0.25 else "end" if value > 0.75 else "middle"
    return Mark(round(2 + 96 * value, 3), anchor)


def headline(statement: Mapping[str, object]) -> list[Figure]:
    """The loss to print large: ε rounded up and δ under replace-one, and ε of the zero-out relation if it is stated."""
    loss = statement["loss"]
    if not isinstance(loss, dict):
        return []
    figures = [
        Figure("ε", nats(loss["epsilon"]), "if all contents of one unit were replaced by any others"),
        Figure("δ", str(loss["delta_text"]), "the probability left out of the promise"),
    ]
    if loss["zero_out_epsilon"] is not None:
        figures.append(Figure("ε", nats(loss["zero_out_epsilon"]), "if they were replaced by a null contribution"))
    return figures
