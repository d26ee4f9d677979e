"""The tables: what the migrations make is what the code declares, and the database itself refuses nonsense."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import CheckConstraint, create_engine, inspect
from sqlalchemy.exc import IntegrityError

from cadp.ledger import Ledger, schema
from cadp.ledger.migrate import upgrade


def test_the_newest_migration_is_the_one_that_the_code_needs() -> None:
    config = Config()
    config.set_main_option("script_location", "cadp.ledger:migrations")
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_current_head() == schema.REVISION


def test_migrations_make_the_tables_that_the_code_declares(ledger: Ledger) -> None:
    with ledger._database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        # Alembic's own table is all that the code does not declare.
        differences = [
            item for item in compare_metadata(context, schema.metadata) if "alembic_version" not in str(item)
        ]
        assert differences == []
        for table in schema.metadata.sorted_tables:
            declared = {str(item.name) for item in table.constraints if isinstance(item, CheckConstraint)}
            found = {str(check["name"]) for check in inspect(connection).get_check_constraints(table.name)}
            assert found == declared, table.name


def test_on_a_file_they_are_the_same_to_the_letter(tmp_path: Path) -> None:
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
        "INSERT INTO ledger (\"only\", id, at) VALUES (2, 'x', 'x')",
        "INSERT INTO chain (seq, kind, entry, hash) VALUES (0, 'x', 'x', 'x')",
        "INSERT INTO chain SELECT 99, kind, entry, hash FROM chain WHERE seq = 1",
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
    with ledger._database.engine.connect() as connection, pytest.raises(IntegrityError):
        connection.exec_driver_sql(statement)
