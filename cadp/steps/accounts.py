"""The whole budget, recomputed: the ledger against its chain and anchors, and every published release against it.

Nothing is believed. What a population has lost is summed from the events of the anchored chain, and again from the
events in the signed manifests of the public zone; each manifest must say exactly what the ledger was charged for it.
Only the stores are read, and no released record.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cadp.errors import LedgerRewound, VerificationFailed
from cadp.ledger import Checked, Inconsistent, Ledger, State
from cadp.ledger.book import Book
from cadp.ledger.booked import Paid
from cadp.privacy.accountant import Curve, Event, curve
from cadp.publish.layout import ENVELOPE
from cadp.publish.manifest import Manifest
from cadp.publish.sign import load_public
from cadp.publish.verify import verify_manifest
from cadp.settings import Settings
from cadp.zones import anchor_zone, public_zone


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, or only said.

    Attributes:
        about: `ledger`, or a release or a place of the public zone.
        text: what.
        wrong: whether the accounts do not hold because of it.
    """

    about: str
    text: str
    wrong: bool = True


@dataclass(frozen=True, slots=True)
class Account:
    """One population; every ε is recomputed, at the limit's δ.

    Attributes:
        population: whose.
        limit_epsilon: the limit's ε.
        delta: the limit's δ.
        charged: ε of everything that counts, from the events of the chain.
        published: ε of what is published, from the same.
        manifests: ε of the events in the manifests alone.
    """

    population: str
    limit_epsilon: float
    delta: float
    charged: float
    published: float
    manifests: float


@dataclass(frozen=True, slots=True)
class Accounts:
    """What a verification of the whole budget has found.

    Attributes:
        checked: what the ledger's own check counted; None if it found something.
        manifests: releases whose signed manifest was read and holds.
        accounts: one a population, by name.
        findings: all of them.
    """

    checked: Checked | None
    manifests: tuple[str, ...]
    accounts: tuple[Account, ...]
    findings: tuple[Finding, ...]

    @property
    def hold(self) -> bool:
        """Whether nothing is wrong."""
        return not any(finding.wrong for finding in self.findings)


def verify_accounts(settings: Settings) -> Accounts:
    """Check the ledger, every manifest of the public zone, and the two against each other.

    Raises:
        LedgerMissing: there is no ledger.
        StoreError: a zone cannot be read.
    """
    # The manifests first: what is published meanwhile was charged before, so the ledger that is read later knows it.
    manifests, findings = _manifests(settings)
    try:
        with Ledger.open(settings.ledger_url, anchor_zone(settings)) as ledger:
            checked = _check(ledger, findings)
            book = Book(ledger.history())
    except LedgerRewound as error:
        return Accounts(None, tuple(manifests), (), (*findings, Finding("ledger", str(error))))
    for release, manifest in manifests.items():
        findings += [Finding(release, text) for text in _differences(manifest, book)]
    findings += _not_found(manifests, findings, book)
    return Accounts(checked, tuple(manifests), tuple(_accounts(manifests, book)), tuple(findings))


def _check(ledger: Ledger, findings: list[Finding]) -> Checked | None:
    try:
        return ledger.check()
    except Inconsistent as error:
        findings += [Finding("ledger", problem) for problem in error.problems]
    except LedgerRewound as error:
        findings.append(Finding("ledger", str(error)))
    return None


def _manifests(settings: Settings) -> tuple[dict[str, Manifest], list[Finding]]:
    """Return the manifests that hold, by release, and what is wrong with the others."""
    public = public_zone(settings)
    trusted = [load_public(path) for path in sorted(settings.keys_dir.glob("*.pub"))]
    found: dict[str, Manifest] = {}
    findings: list[Finding] = []
    places = [key.removesuffix(ENVELOPE).rstrip("/") for key, _ in public.list() if f"/{key}".endswith(f"/{ENVELOPE}")]
    for place in places:
        try:
            manifest, _ = verify_manifest(public.child(place) if place else public, trusted)
        except VerificationFailed as error:
            findings.append(Finding(place or public.url, str(error)))
            continue
        found.setdefault(manifest.release, manifest)
        if manifest.release != place:
            findings.append(Finding(place or public.url, f"this is {manifest.release}, published at another's place"))
    return found, findings


def _differences(manifest: Manifest, book: Book) -> Iterator[str]:
    """Yield what a manifest says otherwise than the ledger."""
    release, rows = manifest.release, _rows(manifest, "components")
    counted = {i: c for i, c in book.charges.items() if c.release == release and c.state is not State.VOIDED}
    stated = [str(row["charge"]) for row in rows]
    if not counted:
        yield "published but not charged: the ledger has no charge of this release"
    for row in rows:
        yield from _component(row, book.charges.get(str(row["charge"])), release)
    if len(set(stated)) != len(stated):
        yield "one charge pays for two components of its statement"
    for identity in sorted(counted.keys() - set(stated)):
        yield f"charge {identity} ({counted[identity].body['key']}) of it is not in its statement"
    for row in _rows(manifest, "populations"):
        owed = book.populations.get(str(row["name"]))
        if owed is None:
            yield f"population {row['name']} is not in the ledger"
        elif (row["limit_epsilon"], row["delta"]) != (owed.body["epsilon"], owed.body["delta"]):
            yield f"it says another limit of population {row['name']} than the ledger"


def _component(row: Mapping[str, Any], charge: Paid | None, release: str) -> Iterator[str]:
    name, identity = row["name"], row["charge"]
    if charge is None:
        yield f"published but not charged: {name} names charge {identity}, which the ledger does not know"
        return
    # A loaded model is charged once, by the release that trained it or loaded it first, whatever became of that.
    reused = row["parameters"].get("kind") == "loaded" and charge.release != release
    if reused and charge.state is State.VOIDED:
        yield f"published but not charged: {name} names charge {identity}, which was taken back"
    if charge.release != release and not reused:
        yield f"published but not charged: {name} names charge {identity}, which paid for {charge.release}"
    if charge.state is not State.PUBLISHED and not reused:
        yield f"published, but charge {identity} ({name}) is {charge.state} in the ledger"
    if charge.population != row["population"]:
        yield f"{name} is said to be paid by {row['population']}, charge {identity} was paid by {charge.population}"
    if Event.from_json(row["event"]) != Event.from_json(charge.body["event"]):
        yield f"the event of {name} is not the one that charge {identity} was made for"


def _not_found(manifests: Mapping[str, Manifest], findings: Sequence[Finding], book: Book) -> list[Finding]:
    known = {*manifests, *(finding.about for finding in findings)}
    published = dict.fromkeys(c.release for c in book.charges.values() if c.state is State.PUBLISHED)
    text = (
        "published in the ledger, its signed manifest is not found here: its publisher died just before it "
        "(run `cadp publish`), or it was moved away"
    )
    return [Finding(release, text, wrong=False) for release in published if release not in known]


def _accounts(manifests: Mapping[str, Manifest], book: Book) -> Iterator[Account]:
    # By charge: a model that several releases loaded was paid for once.
    rows = {row["charge"]: row for manifest in manifests.values() for row in _rows(manifest, "components")}.values()
    for name, owed in sorted(book.populations.items()):
        delta = owed.body["delta"]
        published = [c.cost for c in book.charges.values() if (c.population, c.state) == (name, State.PUBLISHED)]
        stated = [curve(Event.from_json(row["event"])) for row in rows if row["population"] == name]
        yield Account(
            population=name,
            limit_epsilon=owed.body["epsilon"],
            delta=delta,
            charged=owed.total.curve.epsilon(delta),
            published=sum(published, Curve.zero()).epsilon(delta),
            manifests=sum(stated, Curve.zero()).epsilon(delta),
        )


def _rows(manifest: Manifest, what: str) -> list[Mapping[str, Any]]:
    """Return rows of a statement that `verify_statement` has found whole."""
    rows: Any = manifest.privacy[what]
    return list(rows)
