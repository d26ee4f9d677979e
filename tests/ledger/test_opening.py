"""What opens, what is made, and what is refused without a trace."""

import os
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, event
from sqlalchemy.exc import IntegrityError

from cadp.errors import LedgerError, LedgerMissing, LedgerRewound, SettingsError
from cadp.ledger import Ledger, schema
from cadp.ledger.migrate import upgrade
from tests.ledger.places import Place, add_population


def test_a_missing_ledger_is_an_error_and_creates_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with pytest.raises(LedgerMissing, match="budget init") as missing:
        place.open()
    assert missing.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_init_is_safe_to_repeat_and_forgets_nothing(place: Place, ledger: Ledger) -> None:
    add_population(ledger)
    with Ledger.init(place.url, place.anchors) as again:
        assert [population.name for population in again.populations()] == ["people"]
        assert len(again.history()) == 2


def test_the_file_is_its_owners_alone_even_under_an_open_umask(tmp_path: Path) -> None:
    place, umask = Place(tmp_path / "new"), os.umask(0)
    try:
        with Ledger.init(place.url, place.anchors) as ledger:
            add_population(ledger)
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in place.file.parent.iterdir()}
    finally:
        os.umask(umask)
    assert modes == dict.fromkeys(("ledger.db", "ledger.db-wal", "ledger.db-shm"), 384)
    assert stat.S_IMODE(place.file.parent.stat().st_mode) == 0o700


def test_every_connection_is_durable_and_checks_references(ledger: Ledger) -> None:
    with ledger._database.read() as connection:
        found = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert found == ["wal", 2, 1, 30_000]


def test_racing_creations_make_one_ledger(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with ThreadPoolExecutor(4) as threads:
        ledgers = list(threads.map(lambda _: Ledger.init(place.url, place.anchors), range(4)))
    add_population(ledgers[0])
    assert all(len(ledger.populations()) == 1 for ledger in ledgers)
    assert [file.name for file in place.file.parent.glob(".*")] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"garbage, many bytes of it " * 400, "is not an SQLite database"),
        (b"", "is a database but not a ledger"),
    ],
)
def test_a_foreign_file_is_refused_and_left_alone(tmp_path: Path, content: bytes, message: str) -> None:
    place = Place(tmp_path)
    place.file.parent.mkdir()
    place.file.write_bytes(content)
    for act in (place.open, lambda: Ledger.init(place.url, place.anchors)):
        with pytest.raises(LedgerError, match=message):
            act()
    assert not place.anchor_files()
    assert not content or place.file.read_bytes() == content


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.file.parent.mkdir()
    with sqlite3.connect(place.file) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
    connection.close()
    with pytest.raises(LedgerError, match="not a ledger"):
        Ledger.init(place.url, place.anchors)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.file.mkdir(parents=True)
    with pytest.raises(LedgerError, match="cannot be opened"):
        place.open()


@pytest.mark.parametrize("url", ["postgresql://u:secret@h/d", "sqlite://", "sqlite:///:memory:", "://"])
def test_only_files_are_addresses(place: Place, url: str) -> None:
    with pytest.raises(SettingsError, match="ledger's address") as refusal:
        Ledger.init(url, place.anchors)
    assert "secret" not in str(refusal.value)


def test_a_newer_schema_is_refused_and_an_older_one_asks_for_init(place: Place) -> None:
    for revision, message in (("0002", "newer than 0001.*install the newer"), ("0000", "run `cadp budget init`")):
        with sqlite3.connect(place.file) as connection:
            connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        connection.close()
        with pytest.raises(LedgerError, match=message):
            place.open()
    with sqlite3.connect(place.file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0002'")
    connection.close()
    with pytest.raises(LedgerError, match="newer"):
        Ledger.init(place.url, place.anchors)


def test_a_lost_ledger_is_not_replaced_by_an_empty_one(place: Place) -> None:
    place.file.unlink()
    with pytest.raises(LedgerRewound, match="put the newest copy"):
        Ledger.init(place.url, place.anchors)
    assert not place.file.exists()


def test_the_newest_migration_is_the_one_that_the_code_needs() -> None:
    config = Config()
    config.set_main_option("script_location", "cadp.ledger:migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == schema.REVISION


def test_migrations_make_the_tables_that_the_code_declares(tmp_path: Path) -> None:
    def tables(name: str, make: object) -> dict[str, str]:
        engine = create_engine(f"sqlite:///{tmp_path / name}")
        with engine.begin() as connection:
            make(connection)  # type: ignore[operator]
            rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").all()
        return {name: str(sql) for name, sql in rows if name != "alembic_version"}

    def clauses(sql: str) -> list[str]:
        return sorted(part.strip().rstrip(",") for part in sql.replace("CREATE", "\nCREATE").splitlines())

    declared, made = tables("a", schema.metadata.create_all), tables("b", upgrade)
    assert {k: clauses(v) for k, v in made.items()} == {k: clauses(v) for k, v in declared.items()}


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO ledger (only, id, at) VALUES (2, 'x', 'x')",
        "INSERT INTO chain (seq, kind, entry, hash) VALUES (0, 'x', 'x', 'x')",
        "UPDATE accounts SET headroom = '-1'",
        "UPDATE accounts SET spent_delta_atto = cap_delta_atto + 1",
        "UPDATE accounts SET spent_delta_atto = -1",
        "UPDATE charges SET state = 'FREE'",
        "INSERT INTO ranges VALUES ('none', 0, 1, 'me', 0)",
        "UPDATE ranges SET token = 0",
        "UPDATE ranges SET range_id = -1",
        "INSERT INTO seals SELECT charge_id, 7, 1, 'k', 'h', '{}', 'x' FROM ranges",
        "INSERT INTO charges SELECT 'copy', population_id, release, key, event, curve, parameters, parameters_sha256,"
        " state, at, seq FROM charges",
    ],
)
def test_constraints_hold_against_any_client(ledger: Ledger, pay: object, statement: str) -> None:
    charge = pay("a")  # type: ignore[operator]
    ledger.begin(charge.id)
    ledger.lease(charge.id, 0, "me", 1)
    with ledger._database._engine.connect() as connection, pytest.raises(IntegrityError):
        connection.exec_driver_sql(statement)


def test_a_locked_ledger_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cadp.ledger.engine.BUSY_SECONDS", 0.05)
    with place.open() as ledger:
        other = sqlite3.connect(place.file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="write lock"):
            add_population(ledger)
        other.execute("ROLLBACK")
        other.close()
        add_population(ledger)


def test_opening_for_reading_does_not_wait_for_a_writer(place: Place, ledger: Ledger) -> None:
    statements: list[str] = []
    with ledger._database.write(), place.open() as reader:
        event.listen(reader._database._engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
        assert reader.populations() == []
    assert statements
    assert statements[0] == "BEGIN"
