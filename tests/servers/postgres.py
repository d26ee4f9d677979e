"""A real PostgreSQL for tests: on a free port of the loopback, its data in a temporary folder, nobody's but the test's.

Two variables of the environment choose another one:
    TEST_POSTGRES_URL   a server that runs already, as a role that may create databases, which `postgres` then is.
    TEST_POSTGRES_FROM  "system" or "wheel": where the programs may come from (either, in this order, by default).
"""

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import quote, unquote, urlsplit

import psycopg
import pytest
from psycopg import sql

from tests.servers.postgres_programs import find, unprivileged
from tests.servers.postmaster import Postmaster, free_port

STARTS = 3
USER = "tests"


@dataclass(frozen=True)
class PostgresServer:
    """A running server: its address, a superuser's name and password, and its process if we started it."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    postmaster: Postmaster | None = field(default=None, repr=False)
    maintenance: str = "postgres"
    query: str = ""

    def url(self, database: str) -> str:
        """A URL that `psycopg.connect` takes, password and all."""
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return f"postgresql://{login}@{self.host}:{self.port}/{quote(database, safe='')}" + (
            f"?{self.query}" if self.query else ""
        )

    def create(self, name: str | None = None, template: str | None = None) -> str:
        """Create a database, under a fresh name unless one is given, and return its URL.

        Args:
            name: its name.
            template: the name of a database whose copy it is. Nobody may be connected to that one.
        """
        name = name or f"cadp_{secrets.token_hex(8)}"
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        self._maintain(statement)
        return self.url(name)

    def drop(self, name: str) -> None:
        """Drop a database if it is there, with every connection to it. A URL of it does as well."""
        if "://" in name:
            name = unquote(urlsplit(name).path.lstrip("/"))
        self._maintain(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    @property
    def pid(self) -> int:
        """The process of the postmaster. It changes with `restart`."""
        return self._own().pid

    def kill(self) -> None:
        """Kill the postmaster and all its children at once, as a power cut does; committed rows stay."""
        self._own().kill()

    def restart(self) -> None:
        """Start again on the same port and data, after a fast stop if it still runs; returns when it serves."""
        own = self._own()
        own.stop()
        for attempt in range(STARTS):
            try:
                own.start()
                break
            except RuntimeError:  # a connection of someone else may hold the port for a moment
                if attempt == STARTS - 1:
                    raise
                time.sleep(1)

    def _own(self) -> Postmaster:
        if self.postmaster is None:
            raise RuntimeError("a server given by TEST_POSTGRES_URL is not ours to stop: take one from `serve()`")
        return self.postmaster

    def ask(self, query: LiteralString, *parameters: object, database: str | None = None) -> Any:
        """The first value that a query answers, asked on a connection of its own."""
        with psycopg.connect(self.url(database or self.maintenance), autocommit=True) as connection:
            row = connection.execute(query, parameters or None).fetchone()
        return row[0] if row else None

    def _maintain(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.url(self.maintenance), autocommit=True) as connection:
            connection.execute(statement)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server for the whole session (one a worker under xdist). Do not kill it: `serve()` gives one to kill."""
    given = os.environ.get("TEST_POSTGRES_URL")
    if given:
        yield from_url(given)
        return
    with serve(fsync=False) as server:  # a DROP DATABASE waits for a checkpoint: 10 ms without fsync, 300 ms with it
        yield server


@pytest.fixture
def pg_database(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a fresh, empty database, dropped after the test."""
    url = postgres.create()
    try:
        yield url
    finally:
        postgres.drop(url)


def from_url(url: str) -> PostgresServer:
    """A server that runs already, by the URL of a database of it."""
    parts = urlsplit(url)
    return PostgresServer(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 5432,
        user=unquote(parts.username or "postgres"),
        password=unquote(parts.password or ""),
        maintenance=unquote(parts.path.lstrip("/")) or "postgres",
        query=parts.query,
    )


@contextmanager
def serve(folder: Path | None = None, fsync: bool = True) -> Iterator[PostgresServer]:
    """Start a server, wait until it serves, and stop it whatever happens.

    Args:
        folder: where its data, password and log lie; the same folder again finds the same databases. Started by
            root, its parents must let others pass (pytest's do not). A temporary one, removed after, by default.
        fsync: whether commits reach the disk: a killed server keeps them either way, a cut-off machine only with it.
    """
    with place(folder) as chosen:
        programs = find(chosen)
        password = chosen / "password"
        data = chosen / "data"
        if not (data / "PG_VERSION").exists():
            password.touch(mode=0o600)
            password.write_text(secrets.token_hex(16))
            programs.own(password)
            how = ("-A", "scram-sha-256", f"--pwfile={password}", "-E", "UTF8", "--locale=C", "--no-sync")
            programs.run("initdb", "-D", str(data), "-U", USER, *how, cwd=chosen)
        with running(Postmaster(programs, chosen, fsync), password.read_text()) as server:
            yield server


@contextmanager
def place(folder: Path | None) -> Iterator[Path]:
    """The folder itself, made if need be, or a temporary one that is removed after; the server's account owns it."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        _hand_over(folder)
        yield folder
        return
    # Root hands the folder to an account that may not pass below root's own TMPDIR.
    made = Path(tempfile.mkdtemp(prefix="cadp-postgres-", dir="/tmp" if os.geteuid() == 0 else None))
    try:
        _hand_over(made)
        yield made
    finally:
        shutil.rmtree(made)


def _hand_over(folder: Path) -> None:
    account = unprivileged()
    if account is not None:
        os.chown(folder, *account)


@contextmanager
def running(postmaster: Postmaster, password: str) -> Iterator[PostgresServer]:
    """Run a server on prepared data while the context is open."""
    try:
        for attempt in range(STARTS):
            postmaster.port = free_port()
            try:
                postmaster.start()
                break
            except RuntimeError:  # a free port can be taken between choosing and binding
                if attempt == STARTS - 1:
                    raise
        yield PostgresServer("127.0.0.1", postmaster.port, USER, password, postmaster)
    finally:
        postmaster.close()
