"""SIGKILL at every point at which the ledger can die, on both databases: it heals, and nothing handed out is lost."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from cadp.ledger import Ledger
from tests.ledger.life import RANGES, Points, die_at, live, require_whole
from tests.ledger.places import FilePlace, Place, ServerPlace
from tests.servers.postgres import PostgresServer

PARTS = 4


def in_a_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process and return its exit code; negative if a signal ended it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def labels_of(work: Callable[[], None]) -> list[str]:
    """Return the points that `work` passes, in order."""
    labels: list[str] = []
    with Points(labels.append).watch():
        work()
    return labels


def test_the_points_cover_every_write(file_place: FilePlace, server_place: ServerPlace) -> None:
    for place in (file_place, server_place):
        with place.open() as ledger:
            labels = labels_of(lambda ledger=ledger: live(ledger))
            entries = len(ledger.history()) - 1
        assert labels.count("before anchor") == labels.count("after anchor") == entries
        assert labels.count("before token") == labels.count("after token") == 1 + RANGES
        assert labels.count("before COMMIT") >= entries
        for statement in ("INSERT INTO chain", "INSERT INTO charges", "UPDATE accounts SET", "INSERT INTO seals"):
            assert f"after {statement}" in labels
        require_whole(place, [])


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_death_at_any_point_of_a_life_heals(template: Place, tmp_path: Path, part: int) -> None:
    counted = template.copy(tmp_path / "counted")
    with counted.open() as ledger:
        labels = labels_of(lambda: live(ledger))
    for number in range(1 + part, len(labels) + 1, PARTS):
        place = template.copy(tmp_path / f"{number}")
        told = place.folder / "told"

        def doomed(place: Place = place, told: Path = told, number: int = number) -> None:
            with told.open("a", buffering=1) as file, place.open() as ledger, Points(die_at(number)).watch():
                live(ledger, lambda text: print(text, file=file))

        assert in_a_child(doomed) == -signal.SIGKILL, labels[number - 1]
        require_whole(place, told.read_text().splitlines())
        forget(place)


@pytest.mark.slow
def test_death_at_any_point_of_a_creation_leaves_a_ledger_or_none(
    tmp_path: Path, postgres: PostgresServer, nowhere: Place
) -> None:
    def another(name: str) -> Place:
        if isinstance(nowhere, FilePlace):
            return FilePlace(tmp_path / name)
        return ServerPlace.fresh(tmp_path / name, postgres)

    labels = labels_of(lambda: nowhere.init().close())
    assert "before COMMIT" in labels
    for number in range(1, len(labels) + 1):
        place = another(str(number))

        def doomed(place: Place = place, number: int = number) -> None:
            with Points(die_at(number)).watch():
                place.init()

        assert in_a_child(doomed) == -signal.SIGKILL
        place.init().close()
        require_whole(place, [])
        forget(place)


def forget(place: Place) -> None:
    if isinstance(place, ServerPlace):
        place.server.drop(place.database)


def test_a_life_that_forgets_to_charge_is_noticed(place: Place) -> None:
    """The check itself can fail: a seal that nobody charged for, an answer that was lost."""
    with place.open() as ledger:
        live(ledger)
        gate = next(charge for charge in ledger.charges() if charge.key == "r/1/gate")
    with pytest.raises(AssertionError):
        require_whole(place, ["charge 0123456789abcdef"])
    with pytest.raises(AssertionError):
        require_whole(place, [f"answer {gate.id} another"])
    with pytest.raises(AssertionError), Ledger.open(place.url, place.anchors) as ledger:
        ledger.charge("people", release="r/9", key="k", event=gate.event, parameters={})
        require_whole(place, [])
