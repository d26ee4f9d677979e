"""A fresh ledger for a test in a few milliseconds: one a session is made, the others are its copies."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cadp.ledger import Charge, Ledger, Population
from cadp.privacy.accountant import Event, PureEvent
from tests.ledger.places import Place, add_population


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("template") / "it")
    Ledger.init(place.url, place.anchors).close()
    return place


@pytest.fixture
def place(template: Place, tmp_path: Path) -> Place:
    return template.copy(tmp_path / "here")


@pytest.fixture
def ledger(place: Place) -> Iterator[Ledger]:
    with place.open() as opened:
        yield opened


@pytest.fixture
def population(ledger: Ledger) -> Population:
    return add_population(ledger)


@pytest.fixture
def pay(ledger: Ledger, population: Population) -> Callable[..., Charge]:
    """Charge something small, or what the test says."""

    def charge(key: str = "train", *, release: str = "r/1", event: Event | None = None, **parameters: object) -> Charge:
        return ledger.charge(
            population.name, release=release, key=key, event=event or PureEvent(0.5), parameters=parameters
        )

    return charge
