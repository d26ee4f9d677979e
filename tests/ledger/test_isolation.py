"""A server whose default isolation is another one: the ledger's own is what counts, in every transaction."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cadp.errors import LedgerError, SealConflict
from cadp.ledger import Ledger, closing, ranges
from cadp.privacy.accountant import PureEvent
from tests.ledger.places import SHA, ServerPlace, add_population
from tests.ledger.test_races import race
from tests.servers.postgres import PostgresServer

DEFAULTS = ("read committed", "repeatable read", "serializable")


@pytest.fixture(params=DEFAULTS)
def other_place(request: pytest.FixtureRequest, postgres: PostgresServer, tmp_path: Path) -> Iterator[ServerPlace]:
    place = ServerPlace.fresh(tmp_path / "place", postgres)
    place.execute(f"ALTER DATABASE {place.database} SET default_transaction_isolation = '{request.param}'")
    place.init().close()
    yield place
    postgres.drop(place.database)


def running(ledger: Ledger, release: str) -> str:
    charge = ledger.charge("people", release=release, key=release, event=PureEvent(0.5), parameters={})
    return ledger.begin(charge.id).id


def in_the_middle(zombie: Ledger, act: object, other: Ledger, work: object) -> list[str]:
    """Let `zombie` act while `other` holds the write lock and works; return what became of it."""
    came_of_it: list[str] = []

    def try_it() -> None:
        try:
            act()  # type: ignore[operator]
            came_of_it.append("done")
        except LedgerError as error:
            came_of_it.append(type(error).__name__)

    # Its pooled connection has served a reader before: it comes back with the database's default.
    zombie.budget("people")
    with other._database.writing() as connection:
        work(connection)  # type: ignore[operator]
        thread = threading.Thread(target=try_it)
        thread.start()
        time.sleep(0.3)
    thread.join()
    return came_of_it


def test_a_zombie_that_waited_for_the_lock_sees_the_new_token(other_place: ServerPlace) -> None:
    with other_place.open() as one, other_place.open() as two:
        add_population(one)
        charge = running(one, "r/1")
        one.budget("people")
        lease = one.lease(charge, 0, "one", 60)
        outcome = in_the_middle(
            one,
            lambda: one.seal(lease, key="zombie", sha256=SHA, facts={}),
            two,
            lambda connection: ranges.take_lease(connection, charge, 0, "two", 60, now=time.time() + 3000),
        )
        assert outcome == [SealConflict.__name__]
        assert one.seals(charge) == {}


def test_a_zombie_that_waited_for_the_lock_sees_the_burn(other_place: ServerPlace) -> None:
    with other_place.open() as one, other_place.open() as two:
        add_population(one)
        charge = running(one, "r/1")
        lease = one.lease(charge, 0, "one", 60)
        outcome = in_the_middle(
            one,
            lambda: one.seal(lease, key="zombie", sha256=SHA, facts={}),
            two,
            lambda connection: closing.burn_release(connection, "r/1", "a test"),
        )
        assert outcome == [LedgerError.__name__]
        assert one.seals(charge) == {}


def test_the_race_is_won_under_any_default(other_place: ServerPlace) -> None:
    race(other_place, rounds=5, processes=4)
