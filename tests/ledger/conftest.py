"""A fresh ledger for a test, in either database: one a session is made, the others are its copies."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cadp.ledger import Charge, Ledger, Population
from cadp.privacy.accountant import Event, PureEvent
from tests.ledger.places import FilePlace, Place, ServerPlace, add_population
from tests.servers.postgres import PostgresServer


@pytest.fixture(scope="session")
def file_template(tmp_path_factory: pytest.TempPathFactory) -> FilePlace:
    place = FilePlace(tmp_path_factory.mktemp("template") / "it")
    place.init().close()
    return place


@pytest.fixture(scope="session")
def server_template(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> ServerPlace:
    place = ServerPlace.fresh(tmp_path_factory.mktemp("server-template") / "it", postgres)
    place.init().close()
    return place


@pytest.fixture
def file_place(file_template: FilePlace, tmp_path: Path) -> FilePlace:
    return file_template.copy(tmp_path / "file")


@pytest.fixture
def server_place(server_template: ServerPlace, tmp_path: Path) -> Iterator[ServerPlace]:
    place = server_template.copy(tmp_path / "server")
    yield place
    place.server.drop(place.database)


@pytest.fixture(params=["sqlite", "postgresql"])
def template(request: pytest.FixtureRequest) -> Place:
    made: Place = request.getfixturevalue({"sqlite": "file_template", "postgresql": "server_template"}[request.param])
    return made


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest) -> Place:
    """An empty ledger; every test that asks for it runs on both databases."""
    made: Place = request.getfixturevalue({"sqlite": "file_place", "postgresql": "server_place"}[request.param])
    return made


@pytest.fixture(params=["sqlite", "postgresql"])
def nowhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An address, of either kind, at which there is no ledger yet."""
    if request.param == "sqlite":
        yield FilePlace(tmp_path / "nowhere")
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    place = ServerPlace.fresh(tmp_path / "nowhere", server)
    yield place
    server.drop(place.database)


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
