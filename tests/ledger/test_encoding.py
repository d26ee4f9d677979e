"""A database in which the ledger's words cannot be written is refused before anything is made in it."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from cadp.errors import LedgerError, SettingsError
from cadp.ledger import Ledger
from cadp.store import Store
from tests.servers.postgres import PostgresServer


@pytest.fixture(params=["LATIN1", "WIN1252", "SQL_ASCII"])
def other(request: pytest.FixtureRequest, postgres: PostgresServer) -> Iterator[tuple[str, str]]:
    """A database's URL and its encoding."""
    name = f"cadp_{request.param.lower()}"
    statement = sql.SQL("CREATE DATABASE {} ENCODING {} TEMPLATE template0").format(
        sql.Identifier(name), sql.Literal(request.param)
    )
    with psycopg.connect(postgres.url(postgres.maintenance), autocommit=True) as connection:
        connection.execute(statement)
    try:
        yield postgres.url(name), request.param
    finally:
        postgres.drop(name)


def test_another_encoding_than_utf8_is_refused(other: tuple[str, str], tmp_path: Path) -> None:
    url, encoding = other
    anchors = Store.open(str(tmp_path))
    for act in (Ledger.open, Ledger.init):
        with pytest.raises(SettingsError, match=f"is encoded in {encoding}, .* with ENCODING 'UTF8'"):
            act(url, anchors)
    assert list(anchors.list()) == []
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() in [
            (0,),
            (b"0",),
        ]


@pytest.mark.parametrize("option", ["foo=bar", "sslmode=perhaps", "keepalives=many"])
def test_an_option_that_the_client_refuses_is_a_wrong_address(pg_database: str, tmp_path: Path, option: str) -> None:
    with pytest.raises(LedgerError, match=r"invalid .*; the address \(CADP_LEDGER\) is wrong") as refusal:
        Ledger.open(f"{pg_database}?{option}", Store.open(str(tmp_path)))
    assert "run the same command again" not in str(refusal.value)
