"""One Prefect server for the tests of the flows."""

from collections.abc import Iterator

import pytest

from tests.servers.prefect import PrefectServer, prefect_server


@pytest.fixture(scope="session")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    with prefect_server(tmp_path_factory.mktemp("prefect")) as server:
        yield server
