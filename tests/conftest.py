"""Fixtures of the whole suite: real S3 and PostgreSQL servers, and places of its own for every release."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.small_release import Place, build

pytest_plugins = [
    "tests.audited_once",
    "tests.few_steps",
    "tests.command",
    "tests.servers.postgres",
    "tests.servers.seaweedfs",
]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch on one thread: what a test compares then has the same bits, and processes do not wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A small private source, its spec, and a home in which nothing has run yet."""
    yield build(tmp_path)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A small release that is published. Tests read it; one that would change it copies it first."""
    made = build(tmp_path_factory.mktemp("published"))
    made.open_budget()
    made.release()
    return made
