"""The ledger's history, line by line: what changed a budget, when, and the ε of the population after it.

What changed a budget comes from the hash chain, which is anchored outside of the database: such a line has an entry
number. What only happened beside it (a refused attempt, a lease taken over, a threshold passed) comes from the notices.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from heapq import merge
from typing import Any

from cadp.ledger import Entry, Ledger
from cadp.privacy.accountant import Curve
from cadp.privacy.plain_words import scientific

# What an entry of each kind does, in a word.
_WORDS = {
    "ledger": "made",
    "population": "limit set",
    "charge": "reserved",
    "begin": "begun",
    "finish": "sealed",
    "answer": "sealed",
    "publish": "published",
    "burn": "burned",
    "void": "voided",
    "upgrade": "upgraded",
    "recover": "recovered",
}
# Notices of other kinds tell what the chain says already.
_FROM_NOTICES = {"refused": "refused", "takeover": "takeover", "threshold": "threshold"}


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the history.

    Attributes:
        at: when, ISO 8601 UTC.
        change: what, in one or two words.
        population: whose budget; None for what concerns the whole ledger.
        release: whose charge.
        key: the charge's key.
        charge: the charge's id.
        epsilon: ε of the charge alone at the population's δ.
        after: ε of everything that counts after this line, at the same δ.
        entry: the number of the chain entry that says so; None for a notice.
        text: what else is to be known.
    """

    at: str
    change: str
    population: str | None = None
    release: str | None = None
    key: str | None = None
    charge: str | None = None
    epsilon: float | None = None
    after: float | None = None
    entry: int | None = None
    text: str = ""

    def to_json(self) -> dict[str, Any]:
        """For scripts; an infinite ε, for which JSON has no number, is null."""
        return {
            "at": self.at,
            "change": self.change,
            "population": self.population,
            "release": self.release,
            "key": self.key,
            "charge": self.charge,
            "epsilon": _finite(self.epsilon),
            "after": _finite(self.after),
            "entry": self.entry,
            "text": self.text,
        }


def changes(ledger: Ledger) -> list[Change]:
    """Return the whole history, oldest first: every change of every charge, and the notices between them."""
    book = _Book()
    lines: list[Change] = []
    # Each of the two is in its own order whatever a clock said; the time only says how they lie between each other.
    for item in merge(_chained(ledger.history()), _noticed(ledger), key=lambda item: item[0]):
        lines.extend(book.read(item[1]) if isinstance(item[1], Entry) else [book.beside(item[1])])
    return lines


def _chained(history: list[Entry]) -> Iterator[tuple[str, Entry | Change]]:
    for entry in history:
        yield str(entry.value["at"]), entry


def _noticed(ledger: Ledger) -> Iterator[tuple[str, Entry | Change]]:
    for notice in ledger.notices():
        if notice.kind in _FROM_NOTICES:
            line = Change(
                at=notice.at,
                change=_FROM_NOTICES[notice.kind],
                population=notice.population,
                release=notice.release,
                text=notice.text,
            )
            yield notice.at, line


@dataclass(frozen=True, slots=True)
class _Charged:
    population: str
    release: str
    key: str
    curve: Curve


@dataclass
class _Book:
    """The chain, replayed: what every population has charged after the entries that were read."""

    deltas: dict[str, float] = field(default_factory=dict)
    totals: dict[str, Curve] = field(default_factory=dict)
    charges: dict[str, _Charged] = field(default_factory=dict)

    def read(self, entry: Entry) -> list[Change]:
        """Return the lines of one entry: one a charge that it changes."""
        value = entry.value
        body, line = value["body"], Change(at=value["at"], change=_WORDS.get(entry.kind, entry.kind), entry=entry.seq)
        changed: list[str] = []
        match entry.kind:
            case "population":
                return [self._limit(line, body)]
            case "void":
                return [self._void(line, body["charge"])]
            case "charge":
                changed = [self._reserve(body)]
            case "begin" | "finish" | "answer":
                changed = [body["charge"]]
            case "publish":
                changed = body["charges"]
            case "burn":
                changed, line = body["charges"], replace(line, text=str(body["reason"]))
            case "upgrade":
                line = replace(line, text=f"schema {body['from']} to {body['to']}")
            case "recover":
                return self._recovered(line, body)
        return [self._of(charge, line) for charge in changed] or [line]

    def beside(self, line: Change) -> Change:
        """Return a notice with what its population has charged by then."""
        return replace(line, after=self._after(line.population))

    def _limit(self, line: Change, body: Mapping[str, Any]) -> Change:
        name, delta = body["name"], body["delta"]
        self.deltas[name], self.totals[name] = delta, Curve.zero()
        limit = f"limit ε {body['epsilon']:g} at δ {scientific(delta)}"
        return replace(line, population=name, after=0.0, text=limit)

    def _reserve(self, body: Mapping[str, Any]) -> str:
        charge = _Charged(body["population"], body["release"], body["key"], Curve.from_json(body["curve"]))
        self.charges[body["id"]] = charge
        self.totals[charge.population] += charge.curve
        return str(body["id"])

    def _void(self, line: Change, identity: str) -> Change:
        name = self.charges[identity].population
        voided = self._of(identity, line)
        del self.charges[identity]
        counting = (charge.curve for charge in self.charges.values() if charge.population == name)
        self.totals[name] = sum(counting, Curve.zero())
        return replace(voided, after=self._after(name))

    def _recovered(self, line: Change, body: Mapping[str, Any]) -> list[Change]:
        first, last = body["reentered"]
        text = f"entries {first} to {last} came back from the anchors" if first <= last else "leases were forgotten"
        if body["dropped"]:
            text += f"; entries of this copy that were never anchored are gone: {len(body['dropped'])}"
        burned = replace(line, change="burned", text="the ledger had lost a part of its past and was recovered")
        return [replace(line, text=text), *(self._of(charge, burned) for charge in body["burned"])]

    def _of(self, identity: str, line: Change) -> Change:
        charge = self.charges[identity]
        return replace(
            line,
            population=charge.population,
            release=charge.release,
            key=charge.key,
            charge=identity,
            epsilon=charge.curve.epsilon(self.deltas[charge.population]),
            after=self._after(charge.population),
        )

    def _after(self, population: str | None) -> float | None:
        return self.totals[population].epsilon(self.deltas[population]) if population in self.totals else None


def _finite(epsilon: float | None) -> float | None:
    return None if epsilon is None or math.isinf(epsilon) else epsilon
