"""Lives of a ledger: what callers do to it, copies of it on the way, and what a recovery must make of any of them."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from cadp.errors import LedgerError, LedgerRewound, StoreError
from cadp.ledger import Entry, Lease, Ledger, State
from cadp.ledger.anchored import read_anchors
from cadp.ledger.divergence import Recovery
from cadp.privacy.accountant import Curve, DeltaEvent, Event, GaussianEvent, PureEvent, admissible, curve
from cadp.store import Store
from tests.ledger.places import SHA, Place, add_population
from tests.ledger.test_crash import Faulty

LIMIT = (8.0, 1e-6)
EVENTS: tuple[Event, ...] = (PureEvent(0.3), GaussianEvent(0.2), DeltaEvent(1e-8), PureEvent(0.0))
UNFINISHED = ("RESERVED", "RUNNING", "SEALED")


@dataclass
class Life:
    """One ledger that is worked with, and its copies by the number of their newest entry."""

    place: Place
    leases: list[Lease] = field(default_factory=list)
    copies: list[tuple[int, str]] = field(default_factory=list)

    def open(self) -> Ledger:
        return self.place.open()

    def copy(self) -> None:
        """Keep a copy of the ledger as it is."""
        with self.place.open() as ledger:
            newest = ledger.history()[-1].seq
        self.copies.append((newest, self.place.twin()))

    def restore(self, index: int) -> int:
        """Put a copy back; return the number of its newest entry."""
        newest, twin = self.copies[index]
        self.place.restore(twin)
        return newest


def charge(ledger: Ledger, key: str, *, population: str = "people", event: Event = EVENTS[0]) -> str:
    release = key.rpartition("/")[0]
    return ledger.charge(population, release=release, key=key, event=event, parameters={"part": key}).id


def seal(life: Life, ledger: Ledger, identity: str, index: int) -> None:
    lease = ledger.lease(identity, index, "me", 60)
    life.leases.append(lease)
    ledger.seal(lease, key=f"{identity}/{index}.{lease.token}", sha256=SHA, facts={})


def scripted(life: Life) -> list[Callable[[Ledger], object]]:
    """A life of several releases as steps: one published, one abandoned, one voided, several at every stage."""
    ids: dict[str, str] = {}

    def pay(key: str, population: str = "people", event: Event = EVENTS[0]) -> Callable[[Ledger], object]:
        return lambda ledger: ids.__setitem__(key, charge(ledger, key, population=population, event=event))

    def begin(key: str) -> Callable[[Ledger], object]:
        return lambda ledger: ledger.begin(ids[key])

    def sealed(key: str, index: int) -> Callable[[Ledger], object]:
        return lambda ledger: seal(life, ledger, ids[key], index)

    def finish(key: str, count: int) -> Callable[[Ledger], object]:
        return lambda ledger: ledger.finish(ids[key], count)

    return [
        lambda ledger: add_population(ledger, "people", *LIMIT),
        lambda ledger: add_population(ledger, "people/holdout", 1.0, 1e-6),
        pay("a/1/train", event=GaussianEvent(0.3)),
        begin("a/1/train"),
        sealed("a/1/train", 0),
        finish("a/1/train", 1),
        pay("a/1/records"),
        pay("b/1/train"),
        begin("a/1/records"),
        sealed("a/1/records", 0),
        begin("b/1/train"),
        sealed("a/1/records", 1),
        finish("a/1/records", 2),
        pay("a/1/gate", "people/holdout", PureEvent(0.1)),
        begin("a/1/gate"),
        lambda ledger: ledger.answer(ids["a/1/gate"], {"correct": 7}),
        pay("c/1/train"),
        lambda ledger: ledger.void(ids["c/1/train"]),
        lambda ledger: ledger.publish("a/1"),
        sealed("b/1/train", 0),
        pay("c/1/train", event=DeltaEvent(2e-8)),
        finish("b/1/train", 1),
        pay("d/1/train"),
        begin("d/1/train"),
        lambda ledger: ledger.burn("d/1", "a test"),
        begin("c/1/train"),
        sealed("c/1/train", 0),
        pay("e/1/train"),
        lambda ledger: add_population(ledger, "others", 2.0, 1e-6),
        pay("f/1/train", "others"),
    ]


def fork(life: Life, at: int, entries: int) -> None:
    """Let the restored copy commit entries whose anchors it can never put: what a second copy does before it stops."""
    before = life.place.folder.parent / "before"
    shutil.rmtree(before, ignore_errors=True)
    shutil.copytree(life.place.anchors_folder, before)
    for file in before.glob("*/0*.json"):
        if int(file.stem) > at:
            file.unlink()
    anchors = Faulty(Store.open(str(before)))
    with Ledger.open(life.place.url, anchors) as ledger:  # type: ignore[arg-type]
        anchors.switch["fault"] = "before"
        acts: list[Callable[[], object]] = [
            *(lambda c=c: ledger.begin(c.id) for c in ledger.charges() if c.state is State.RESERVED),
            *(lambda p=p: charge(ledger, "z/1/train", population=p.name) for p in ledger.populations()[:1]),
            *(lambda c=c: ledger.burn(c.release, "fork") for c in ledger.charges() if c.state is State.SEALED),
            lambda: add_population(ledger, "forked"),
        ]
        for act in acts[:entries]:
            with pytest.raises(StoreError):
                act()
        assert len(ledger.history()) == at + min(entries, len(acts))


def require_recovered(life: Life, truth: list[Entry], at: int, recover: Callable[[], Recovery]) -> None:
    """Recover a copy that ends at entry `at`, and require all that a recovery promises; a fresh one may be worked on.

    What is expected is worked out here from the entries' text alone.
    """
    place = life.place
    done = recover()
    if at >= len(truth):
        assert done == Recovery()
        with place.open() as ledger:
            ledger.check()
            assert ledger.history()[: len(truth)] == truth
        return
    anchored = read_anchors(place.anchors)
    assert anchored[:-1] == truth
    assert anchored[-1].kind == "recover"
    assert done.entry == anchored[-1].seq
    assert done.reentered == (at + 1, len(truth))
    assert Ledger.recover(place.url, place.anchors) == Recovery()
    with place.open() as ledger:
        assert ledger.history() == anchored
        ledger.check()
        states = {c.id: str(c.state) for c in ledger.charges()}
        assert states == expected(truth, at)
        _require_sums(ledger, truth)
        assert {n.release for n in ledger.notices() if n.kind == "burned"} >= set(done.releases)
        assert [n for n in ledger.notices() if n.kind == "recovered"]
        for release in {c.release for c in ledger.charges() if c.state is State.BURNED}:
            for act in (
                lambda release=release: ledger.publish(release),
                lambda release=release: charge(ledger, f"{release}/more"),
            ):
                with pytest.raises(LedgerError):
                    act()
        for lease in life.leases:
            if lease.charge in states:
                with suppress(LedgerError):
                    ledger.renew(lease)
                    pytest.fail(f"{lease} outlived the recovery")
        assert not [c for c in ledger.charges() if c.state is State.RUNNING]
        ledger.check()


def expected(truth: list[Entry], at: int) -> dict[str, str]:
    """Return the state of every charge after a recovery of a copy that ends at entry `at`."""
    states: dict[str, str] = {}
    releases: dict[str, str] = {}
    touched: set[str] = set()
    for entry in truth:
        body = entry.value["body"]
        ids = [body["id"]] if entry.kind == "charge" else body.get("charges", [body.get("charge")])
        if entry.kind == "charge":
            releases[body["id"]] = body["release"]
        if entry.kind == "recover":
            states.update(dict.fromkeys(body["burned"], "BURNED"))
        to = {"charge": "RESERVED", "begin": "RUNNING", "finish": "SEALED", "answer": "SEALED"}.get(entry.kind)
        if to:
            touched |= set(ids) if entry.seq > at else set()
        to = to or {"publish": "PUBLISHED", "burn": "BURNED", "void": "VOIDED"}.get(entry.kind)
        if to:
            states.update(dict.fromkeys(ids, to))
    lost = {releases[i] for i, s in states.items() if s == "RUNNING" or (i in touched and s in UNFINISHED)}
    return {i: "BURNED" if releases[i] in lost and s in UNFINISHED else s for i, s in states.items()}


def _require_sums(ledger: Ledger, truth: list[Entry]) -> None:
    """Require that what is charged covers what the anchors say, exactly, and is within the limit."""
    voided = {entry.value["body"]["charge"] for entry in truth if entry.kind == "void"}
    bodies = [entry.value["body"] for entry in truth if entry.kind == "charge"]
    for population in ledger.populations():
        due = [b for b in bodies if b["population"] == population.name and b["id"] not in voided]
        total = sum((curve(Event.from_json(body["event"])) for body in due), Curve.zero())
        budget = ledger.budget(population.name)
        assert budget.charged == total.epsilon(population.delta) <= population.epsilon
        assert admissible(total, population.epsilon, population.delta)
        assert len([c for c in ledger.charges(population.name) if c.state is not State.VOIDED]) == len(due)


def require_rewound(place: Place) -> None:
    with pytest.raises(LedgerRewound):
        place.open()
