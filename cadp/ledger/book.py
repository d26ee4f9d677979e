"""The book: the chain, replayed. What every charge is, where it stands and what every population owes.

The book trusts no entry. It recomputes every curve from its event and every cap from its limit, allows only the steps
of the state machine, and adds up in exact integers; whatever an entry may not say is a problem with its number.
"""

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from cadp.errors import LedgerError, PrivacyError
from cadp.ledger.booked import Fate, Owed, Paid
from cadp.ledger.canonical import canonical, digest
from cadp.ledger.chain import Entry
from cadp.ledger.populations import orders_text
from cadp.ledger.states import State, require_step
from cadp.privacy.accountant import Curve, cap, curve, delta_cap
from cadp.privacy.events import Event

UNFINISHED = (State.RESERVED, State.RUNNING, State.SEALED)
_CLOSED = (State.PUBLISHED, State.BURNED)


class Book:
    """What the entries read so far say, and what is wrong with them.

    Attributes:
        populations: by name.
        charges: by id, in the order in which they were made.
        lost_seals: charges whose seals a recovery lost.
        reentered: numbers of the entries that came back from their anchors.
        at: when the ledger was made, ISO 8601 UTC.
        schema: the schema that the newest `upgrade` entry names, or empty.
        problems: what no entry may say, with its number.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.populations: dict[str, Owed] = {}
        self.charges: dict[str, Paid] = {}
        self.lost_seals: set[str] = set()
        self.reentered: set[int] = set()
        self.at = ""
        self.schema = ""
        self.problems: list[str] = []
        self._releases: dict[str, list[str]] = {}
        self._sources: set[str] = set()
        self._closed: set[str] = set()
        self._keys: dict[tuple[str, str], str] = {}
        self._touched: dict[int, str] = {}
        self._kinds: dict[int, str] = {}
        for entry in entries:
            self.read(entry)

    def read(self, entry: Entry) -> None:
        """Take the next entry in."""
        self._kinds[entry.seq] = entry.kind
        try:
            value = entry.value
            self._take(entry.kind, entry.seq, str(value["at"]), value["body"])
        except (LedgerError, PrivacyError) as error:
            self.problems.append(self._named(entry.seq, str(error)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self.problems.append(self._named(entry.seq, f"it is malformed ({error!r})"))

    def fate(self, first: int, last: int) -> Fate:
        """Return what becomes of charges when entries `first` to `last` come back from their anchors.

        Burned is every unfinished release of which a charge was made, begun, finished or answered in these entries, or
        is running. The database knows nothing of what was done under them after it was copied: seals have no entries
        of their own. A range that was sealed and forgotten must not be drawn again under the same charge, since what
        was seen of the first draw may be why there is a second; so a running charge is burned although no entry of it
        is missing. Nothing ran under a RESERVED charge (its `begin` would be anchored); all seals of a SEALED one are
        older than its `finish`; so releases of such charges alone go on, if none of their entries is missing. After
        this no charge is running: whoever holds a lease from before can neither renew it nor seal.

        Lost are the seals of every charge whose `finish` is among the entries: of those in the database nobody knows
        whether they are the ones that were published, since a forked copy may have sealed others.
        """
        touched = {charge for seq, charge in self._touched.items() if first <= seq <= last}
        stopped = {
            charge.release
            for identity, charge in self.charges.items()
            if charge.state in UNFINISHED and (charge.state is State.RUNNING or identity in touched)
        }
        burned = (i for i, charge in self.charges.items() if charge.state in UNFINISHED and charge.release in stopped)
        lost = (i for i, charge in self.charges.items() if charge.finished and first <= charge.finished <= last)
        return Fate(tuple(burned), tuple(lost))

    def _take(self, kind: str, seq: int, at: str, body: Mapping[str, Any]) -> None:
        if (seq == 1) != (kind == "ledger"):
            raise LedgerError("the first entry, and no other, makes the ledger")
        match kind:
            case "ledger":
                self.at = at
            case "population":
                self._population(seq, at, body)
            case "charge":
                self._charge(seq, at, body)
            case "begin" | "finish" | "answer":
                self._work(kind, seq, at, body)
            case "void":
                self._void(body["charge"])
            case "publish":
                self._close(body, State.PUBLISHED)
            case "burn":
                self._close(body, State.BURNED)
            case "upgrade":
                if not body["from"] < body["to"]:
                    raise LedgerError(f"schema {body['from']} cannot be upgraded to {body['to']}")
                self.schema = body["to"]
            case "recover":
                self._recover(seq, body)
            case _:
                raise LedgerError("this version does not know its kind: install the newer cadp")

    def _population(self, seq: int, at: str, body: Mapping[str, Any]) -> None:
        name, (caps, cap_delta_atto) = body["name"], _caps(body["epsilon"], body["delta"])
        if name in self.populations:
            raise LedgerError(f"population {name} was made before")
        if body["source_hmac"] in self._sources:
            raise LedgerError(f"the source of population {name} is bound to another")
        self._sources.add(body["source_hmac"])
        self.populations[name] = Owed(seq, at, body, tuple(body["caps"]), body["cap_delta_atto"])
        if (tuple(body["caps"]), body["cap_delta_atto"]) != (caps, cap_delta_atto) or body["orders"] != orders_text():
            raise LedgerError(f"the caps of population {name} are not those of its limit")

    def _charge(self, seq: int, at: str, body: Mapping[str, Any]) -> None:
        identity, key, owner = body["id"], (body["population"], body["key"]), self.populations[body["population"]]
        cost = _curve(canonical(body["event"]))
        if identity in self.charges:
            raise LedgerError(f"charge {identity} was made before")
        closed, taken = body["release"] in self._closed, self._keys.get(key)
        self.charges[identity] = Paid(seq, at, body, cost)
        self._touched[seq] = identity
        self._releases.setdefault(body["release"], []).append(identity)
        self._keys[key] = identity
        owner.total.add(cost)
        wrong = (
            (body["curve"] != cost.to_json(), f"the curve of charge {identity} is not that of its event"),
            (_other_parameters(body), f"the parameters of charge {identity} are not those of their digest"),
            (closed, f"release {body['release']} was closed before it"),
            (taken is not None, f"key {body['key']} of population {body['population']} was charged before"),
            (owner.is_over, f"population {body['population']} is over its limit"),
        )
        self.problems += [self._named(seq, what) for is_wrong, what in wrong if is_wrong]

    def _work(self, kind: str, seq: int, at: str, body: Mapping[str, Any]) -> None:
        identity = body["charge"]
        charge = self.charges[identity]
        self._touched[seq] = identity
        if kind == "finish":
            charge.finished, charge.ranges, charge.seals = seq, int(body["ranges"]), body.get("seals")
        if kind == "answer":
            charge.answered, charge.answered_at, charge.answer = seq, at, body["answer"]
        self._step(identity, State.RUNNING if kind == "begin" else State.SEALED)

    def _void(self, identity: str) -> None:
        charge = self.charges[identity]
        if charge.state is not State.VOIDED:
            self._keys.pop((charge.population, charge.body["key"]), None)
            self.populations[charge.population].total.add(charge.cost, -1)
        self._step(identity, State.VOIDED)

    def _close(self, body: Mapping[str, Any], state: State) -> None:
        listed = list(body["charges"])
        live = [i for i in self._releases[body["release"]] if self.charges[i].state is not State.VOIDED]
        for identity in listed:
            self._step(identity, state)
        if sorted(listed) != sorted(live):
            raise LedgerError(f"it does not close every charge of {body['release']}")

    def _recover(self, seq: int, body: Mapping[str, Any]) -> None:
        first, last = body["reentered"]
        between = {self._kinds.get(number) for number in range(last + 1, seq)}
        # None at all (first = last + 1) if it was leases that were forgotten.
        if not 1 <= first <= last + 1 <= seq or not between <= {"upgrade"}:
            raise LedgerError(f"it cannot bring back entries {first} to {last}")
        fate = self.fate(first, last)
        self.reentered |= set(range(first, last + 1))
        self.lost_seals |= set(body["lost_seals"])
        for identity in body["burned"]:
            self._step(identity, State.BURNED)
        if (tuple(body["burned"]), tuple(body["lost_seals"])) != (fate.burned, fate.lost_seals):
            raise LedgerError(f"bringing back entries {first} to {last} burns other charges, or loses other seals")

    def _step(self, identity: str, state: State) -> None:
        charge = self.charges[identity]
        now, charge.state = charge.state, state
        if state in _CLOSED:
            self._closed.add(charge.release)
        require_step(identity, now, state)

    def _named(self, seq: int, what: str) -> str:
        return f"entry {seq} ({self._kinds[seq]}): {what}"


def _other_parameters(body: Mapping[str, Any]) -> bool:
    # An older version kept the digest alone.
    return "parameters" in body and digest(canonical(body["parameters"])) != body["parameters_sha256"]


@lru_cache(maxsize=4096)
def _curve(event: str) -> Curve:
    return curve(Event.from_json(json.loads(event)))


@lru_cache(maxsize=64)
def _caps(epsilon: float, delta: float) -> tuple[tuple[int, ...], int]:
    return cap(epsilon, delta), delta_cap(delta)
