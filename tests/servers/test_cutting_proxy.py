"""The cutting proxy: what it passes on, what it loses, and what the server has done by then."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.servers.cutting_proxy import CuttingProxy
from tests.servers.postgres import PostgresServer

INSERT = "INSERT INTO notes VALUES (%s)"


@pytest.fixture
def proxy(postgres: PostgresServer, pg_database: str) -> Iterator[CuttingProxy]:
    with psycopg.connect(pg_database) as connection:
        connection.execute("CREATE TABLE notes (text text)")
    with CuttingProxy(postgres.host, postgres.port) as proxy:
        yield proxy


def notes(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT text FROM notes ORDER BY text")]


def write(url: str, *texts: str) -> None:
    """One transaction of `1 + len(texts)` round trips and its COMMIT."""
    with psycopg.connect(url) as connection:
        for text in texts:
            connection.execute(INSERT, [text])


def test_what_is_not_cut_passes_both_ways(proxy: CuttingProxy, pg_database: str) -> None:
    write(proxy.url(pg_database), "a" * 100_000, "b")
    seen = proxy.messages
    assert seen > 4  # BEGIN, COMMIT, and several for each insert
    assert notes(proxy.url(pg_database)) == ["a" * 100_000, "b"]
    assert proxy.messages > seen
    assert proxy.cuts == 0


def test_a_commit_cut_before_is_not_done(proxy: CuttingProxy, pg_database: str) -> None:
    proxy.cut(b"COMMIT", "before")
    with pytest.raises(psycopg.OperationalError):
        write(proxy.url(pg_database), "a")
    assert proxy.cuts == 1
    assert notes(pg_database) == []


def test_a_commit_cut_after_is_done_and_the_client_does_not_know(proxy: CuttingProxy, pg_database: str) -> None:
    proxy.cut(b"COMMIT", "after")
    with pytest.raises(psycopg.OperationalError):
        write(proxy.url(pg_database), "a")
    assert proxy.cuts == 1
    assert notes(pg_database) == ["a"]


@pytest.mark.parametrize(
    ("match", "moment", "left"),
    [
        (b"INSERT", "before", []),  # in its Parse
        (b"INSERT", "after", ["needle"]),
        (b"needle", "before", []),  # in its Bind
        (b"needle", "after", ["needle"]),
    ],
    ids=["parse-before", "parse-after", "bind-before", "bind-after"],
)
def test_a_statement_with_parameters_is_cut(
    proxy: CuttingProxy, pg_database: str, match: bytes, moment: str, left: list[str]
) -> None:
    connection = psycopg.connect(proxy.url(pg_database), autocommit=True)
    proxy.cut(match, moment)  # type: ignore[arg-type]
    with pytest.raises(psycopg.OperationalError):
        connection.execute(INSERT, ["needle"])
    assert connection.closed
    assert notes(pg_database) == left


def test_a_cut_after_waits_until_the_server_is_done(proxy: CuttingProxy, pg_database: str) -> None:
    connection = psycopg.connect(proxy.url(pg_database), autocommit=True)
    proxy.cut(b"pg_sleep", "after")
    with pytest.raises(psycopg.OperationalError):  # the first answer is sent long before the last
        connection.execute("SELECT repeat('x', 100000); SELECT pg_sleep(0.3); INSERT INTO notes VALUES ('late')")
    assert notes(pg_database) == ["late"]


def test_count_and_skip_choose_among_the_matches(proxy: CuttingProxy, pg_database: str) -> None:
    proxy.cut(b"COMMIT", "before", count=2, skip=1)
    outcomes = []
    for text in ("a", "b", "c", "d"):
        try:
            write(proxy.url(pg_database), text)
            outcomes.append("kept")
        except psycopg.OperationalError:
            outcomes.append("lost")
    assert outcomes == ["kept", "lost", "lost", "kept"]
    assert notes(pg_database) == ["a", "d"]


def test_cutting_before_every_message_in_turn_never_leaves_half(proxy: CuttingProxy, pg_database: str) -> None:
    before = proxy.messages
    write(proxy.url(pg_database), "0", "0")
    length = proxy.messages - before
    for n in range(1, length + 1):
        proxy.cut_nth(n)
        with pytest.raises(psycopg.OperationalError):
            write(proxy.url(pg_database), f"{n}", f"{n}")
    assert proxy.cuts == length
    proxy.cut_nth(length + 1)
    write(proxy.url(pg_database), "whole", "whole")
    assert notes(pg_database) == ["0", "0", "whole", "whole"]


def test_message_zero_is_refused(proxy: CuttingProxy) -> None:
    with pytest.raises(ValueError, match="n = 0"):
        proxy.cut_nth(0)


def test_other_connections_live_on(proxy: CuttingProxy, pg_database: str) -> None:
    with psycopg.connect(proxy.url(pg_database)) as other:
        proxy.cut(b"COMMIT", "after")
        with pytest.raises(psycopg.OperationalError):
            write(proxy.url(pg_database), "a")
        assert other.execute("SELECT count(*) FROM notes").fetchone() == (1,)


def test_a_client_that_prefers_encryption_goes_on_without(proxy: CuttingProxy, pg_database: str) -> None:
    url = proxy.url(pg_database).replace("sslmode=disable", "sslmode=prefer")
    assert notes(url) == []
    with pytest.raises(psycopg.OperationalError, match="SSL"):
        psycopg.connect(url.replace("sslmode=prefer", "sslmode=require"))


def test_a_server_that_is_gone_is_a_refused_connection(postgres: PostgresServer, pg_database: str) -> None:
    with CuttingProxy(postgres.host, 1) as proxy, pytest.raises(psycopg.OperationalError):
        psycopg.connect(proxy.url(pg_database))


def test_leaving_the_proxy_ends_its_connections(postgres: PostgresServer, pg_database: str) -> None:
    with CuttingProxy(postgres.host, postgres.port) as proxy:
        connection = psycopg.connect(proxy.url(pg_database))
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(proxy.url(pg_database))
