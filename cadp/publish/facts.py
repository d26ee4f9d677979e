"""Everything public that a release's documents are made from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from cadp.columns import Table
from cadp.errors import PrivacyError, SpecError


class GateFigures(TypedDict):
    """The charged accuracy gate, as it may be read by anyone.

    Attributes:
        accuracy: noisy accuracy on the holdout, in [0, 1].
        low: lower end of the interval around it, at `confidence`.
        high: upper end.
        confidence: for example 0.95.
        threshold: the accuracy that the spec asked for beforehand.
        epsilon: what the answer cost the holdout's units.
        n: units that were scored, public.
        passed: whether the noisy accuracy reached the threshold.
    """

    accuracy: float
    low: float
    high: float
    confidence: float
    threshold: float
    epsilon: float
    n: int
    passed: bool


@dataclass(frozen=True)
class ReleaseFacts:
    """The public facts of one release; every document is a function of these, the released bytes and nothing else.

    Attributes:
        name: the release's name, as in the spec.
        version: its version; a version is immutable.
        title: one line for people.
        description: a paragraph: what the records are.
        license: SPDX id of the terms of use.
        population: whose budget paid.
        shape: `(h, w, c)` of every image; of a table's rows `(1, 1, d)`.
        classes: label names, by class index.
        records: number of released records (public by declaration).
        statement: the privacy statement, JSON-ready.
        statement_lines: the same in a few lines of plain words.
        accuracy: the gate's charged figures, None where no gate ran.
        charges: ids of the ledger's charges behind this release.
        plan_digest: keyed hash of the plan, hex: names it, and cannot be computed from a guess.
        versions: library name → version, as run.
        date: ISO date, fixed once so that a rerun writes the same bytes.
        publisher: who answers for the release.
        url: where it is published, if that is known.
        expectations: path below `expectations/` → bytes.
        source_note: where the original data come from, in words.
        citation: how to cite the release (BibTeX or a sentence).
        audit: bytes of `audit.json`, figures on synthetic records alone; None if no audit was run.
        table: what the columns are, if the records are rows of a table.
        stamp: set by a run that must not be published, for example `NOT PRIVATE`; publishing refuses it.
    """

    name: str
    version: str
    title: str
    description: str
    license: str
    population: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    records: int
    statement: Mapping[str, object]
    statement_lines: tuple[str, ...]
    accuracy: GateFigures | None
    charges: tuple[str, ...]
    plan_digest: str
    versions: Mapping[str, str]
    date: str
    publisher: str
    url: str | None = None
    expectations: Mapping[str, bytes] = field(default_factory=dict)
    source_note: str = ""
    citation: str = ""
    audit: bytes | None = None
    table: Table | None = None
    stamp: str | None = None

    def __post_init__(self) -> None:
        if self.stamp is not None:
            raise PrivacyError(f"this run is stamped {self.stamp!r}: it cannot be published; run it without that mode")
        fits = self.shape[2] in {1, 3} if self.table is None else self.shape == self.table.shape
        if self.records < 0 or not self.classes or min(self.shape) < 1 or not fits:
            raise SpecError(
                f"a release needs records >= 0, class names and a (h, w, 1|3) shape, or its table's; got "
                f"{self.records} records, {len(self.classes)} classes, shape {self.shape}"
            )

    @property
    def release(self) -> str:
        """`name/version`, the release's id."""
        return f"{self.name}/{self.version}"

    @property
    def cited(self) -> str:
        """How to cite the release: the given citation, or one made of its title, version, publisher and year."""
        return self.citation or f"{self.title}, version {self.version}, {self.publisher}, {self.date[:4]}."
