"""The life of a ledger in a few dozen transactions: every kind of entry, on two releases of one population.

It may be lived again from any moment, as a worker does after a crash: what is done is found done. What it was handed
out is told as it comes, so that a test can hold the ledger to it.
"""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, event

from cadp.ledger import Ledger, State
from cadp.ledger.engine import Database
from cadp.ledger.tokens import PREFIX
from cadp.privacy.accountant import GaussianEvent, PureEvent
from cadp.store import Store
from tests.ledger.places import SHA, Place, add_population

Tell = Callable[[str], None]

RANGES = 2


def live(ledger: Ledger, tell: Tell = lambda text: None) -> None:
    """Live the whole life, or what is left of it."""
    add_population(ledger)
    tell("population")
    for key, ranges in (("train", 1), ("records", RANGES)):
        event = GaussianEvent(0.3) if key == "train" else PureEvent(1.0)
        charge = ledger.charge("people", release="r/1", key=f"r/1/{key}", event=event, parameters={"part": key})
        tell(f"charge {charge.id}")
        if charge.state is State.RESERVED:
            ledger.begin(charge.id)
            tell(f"begin {charge.id}")
        for index in range(ranges):
            if ledger.seal_of(charge.id, index) is None:
                lease = ledger.lease(charge.id, index, "worker", 60)
                attempt = f"{charge.id}/{index}.{lease.token}"
                seal = ledger.seal(lease, key=attempt, sha256=SHA, facts={"records": index})
                tell(f"seal {charge.id} {index} {seal.key}")
        ledger.finish(charge.id, ranges)
        tell(f"finish {charge.id}")
    gate = ledger.charge("people", release="r/1", key="r/1/gate", event=PureEvent(0.1), parameters={})
    tell(f"charge {gate.id}")
    if gate.state is State.RESERVED:
        ledger.begin(gate.id)
    answer = ledger.answer(gate.id, {"nonce": os.urandom(8).hex()})
    tell(f"answer {gate.id} {answer['nonce']}")
    if not any(charge.release == "r/2" for charge in ledger.charges()):
        wasted = ledger.charge("people", release="r/2", key="r/2/train", event=PureEvent(0.5), parameters={})
        tell(f"charge {wasted.id}")
    for wasted in ledger.charges(release="r/2"):
        if wasted.state is not State.VOIDED:
            ledger.void(wasted.id)
    ledger.publish("r/1")
    tell("publish r/1")
    if not any(charge.release == "r/3" for charge in ledger.charges()):
        ledger.charge("people", release="r/3", key="r/3/train", event=PureEvent(0.7), parameters={})
    ledger.burn("r/3", "a test")
    tell("burn r/3")


KINDS = Counter(
    {
        "ledger": 1,
        "population": 1,
        "charge": 5,
        "begin": 3,
        "finish": 2,
        "answer": 1,
        "publish": 1,
        "burn": 1,
        "void": 1,
    }
)
"""What the chain of a whole life holds."""


def require_whole(place: Place, told: list[str]) -> None:
    """Live what is left; then the ledger is as if nothing had happened, and holds everything that was handed out.

    Raises:
        AssertionError: it is not.
    """
    with place.open() as ledger:
        require_held(ledger, told)
        live(ledger)
        assert Counter(entry.kind for entry in ledger.history()) == KINDS
        assert [entry.anchor for entry in ledger.history()] == [file.read_bytes() for file in place.anchor_files()]
        states = {charge.key: charge.state for charge in ledger.charges()}
        assert states == {
            "r/1/train": State.PUBLISHED,
            "r/1/records": State.PUBLISHED,
            "r/1/gate": State.PUBLISHED,
            "r/2/train": State.VOIDED,
            "r/3/train": State.BURNED,
        }
        require_held(ledger, told)
        ledger.check()


def require_held(ledger: Ledger, told: list[str]) -> None:
    """What was handed out before a crash is still so: nothing that anybody saw is lost."""
    charges = {charge.id: charge for charge in ledger.charges()}
    for line in told:
        what, _, rest = line.partition(" ")
        match what, rest.split():
            case "charge" | "begin", [identity]:
                assert identity in charges
                assert what == "charge" or charges[identity].state is not State.RESERVED
            case "seal", [identity, index, key]:
                assert ledger.seals(identity)[int(index)].key == key
            case "finish", [identity]:
                assert charges[identity].state in (State.SEALED, State.PUBLISHED)
            case "answer", [identity, nonce]:
                assert ledger.recorded_answer(identity) == {"nonce": nonce}
            case "publish" | "burn", [release]:
                end = State.PUBLISHED if what == "publish" else State.BURNED
                assert {c.state for c in charges.values() if c.release == release} == {end}


@dataclass
class Points:
    """The labelled points of whatever runs: after each statement that writes, around each commit and each anchor."""

    reached: Callable[[str], None]

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Hook into the engine and the store while the context is open."""
        put, write = Store.put, Database.write

        def statement(connection: Any, cursor: Any, text: str, *_: Any) -> None:
            first = text.lstrip().split(None, 1)[0].upper()
            if first in {"INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "BEGIN"} or "FOR UPDATE" in text:
                self.reached(f"after {' '.join(text.split()[:3])}")

        def commit(connection: Any) -> None:
            self.reached("before COMMIT")

        def anchored(store: Store, key: str, data: Any) -> Any:
            what = "token" if key.startswith(PREFIX) else "anchor"
            self.reached(f"before {what}")
            result = put(store, key, data)
            self.reached(f"after {what}")
            return result

        def written(database: Database, work: Any) -> Any:
            result = write(database, work)
            self.reached("after COMMIT")
            return result

        event.listen(Engine, "after_cursor_execute", statement)
        event.listen(Engine, "commit", commit)
        Store.put, Database.write = anchored, written  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            event.remove(Engine, "after_cursor_execute", statement)
            event.remove(Engine, "commit", commit)
            Store.put, Database.write = put, write  # type: ignore[method-assign]


def die_at(number: int) -> Callable[[str], None]:
    """Kill this process at the n-th point, counted from 1."""
    seen = 0

    def reached(label: str) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return reached
