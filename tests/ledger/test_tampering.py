"""Whoever can write to the database changes one thing: the audit names it, and nothing ends in a stack trace."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Column, Table

from cadp.errors import LedgerError, LedgerRewound
from cadp.ledger import Inconsistent, Ledger, schema
from cadp.ledger.canonical import digest
from cadp.privacy.accountant import PureEvent
from tests.ledger.places import FilePlace, Place, ServerPlace, add_population, seal_all

NOT_TOLD = {
    # Informing only.
    *(("notices", column.name) for column in schema.notices.columns),
    # Until when a lease was taken decides nothing any more, and how often the totals were swapped never does.
    ("ranges", "expires_ms"),
    ("accounts", "revision"),
}
"""All that the chain does not tell; who leased a range that is not sealed yet is not told either."""

COLUMNS = [
    (table, column)
    for table in schema.metadata.sorted_tables
    for column in table.columns
    if (table.name, column.name) not in NOT_TOLD
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Place], Place]:
    """Fill every table: a charge with two seals, one with an answer, one that only waits."""

    def fill(place: Place) -> Place:
        with place.open() as ledger:
            add_population(ledger)
            pay = {
                key: ledger.charge("people", release="a/1", key=key, event=PureEvent(0.5), parameters={"of": key})
                for key in ("train", "gate", "later")
            }
            seal_all(ledger, pay["train"], ranges=2)
            ledger.begin(pay["gate"].id)
            ledger.answer(pay["gate"].id, {"passed": True})
            ledger.check()
        return place

    return fill


@pytest.fixture
def whole(place: Place, finished: Callable[[Place], Place]) -> Place:
    return finished(place)


@pytest.fixture
def tampered_file(file_place: FilePlace, finished: Callable[[Place], Place]) -> FilePlace:
    finished(file_place)
    return file_place


def write(place: Place, *statements: str) -> None:
    """Change something that constraints forbid as well, where the database lets anybody switch them off."""
    switches = (
        ("PRAGMA foreign_keys = OFF", "PRAGMA ignore_check_constraints = ON") if isinstance(place, FilePlace) else ()
    )
    place.execute(*switches, *statements)


def found(place: Place) -> list[str]:
    """What the audit says, in whatever way it says it."""
    try:
        with place.open() as ledger:
            ledger.check()
    except Inconsistent as error:
        return list(error.problems)
    except LedgerError as error:
        return [str(error)]
    return []


def changed(column: Column[Any], old: object) -> str:
    """SQL for another value of the same kind."""
    if isinstance(old, str):
        return "'x" + old[1:].replace("'", "''") + "'" if len(old) > 1 else "'xy'"
    assert isinstance(old, (int, float)), column
    return repr(old + 1)


def test_a_change_of_any_column_is_found(whole: Place) -> None:
    missed = []
    backup = whole.twin()
    for table, column in COLUMNS:
        for row, keys in rows_of(whole, table):
            old = row[list(table.columns).index(column)]
            where = " AND ".join(f'"{name}" = {literal(value)}' for name, value in keys.items())
            try:
                write(whole, f'UPDATE {table.name} SET "{column.name}" = {changed(column, old)} WHERE {where}')
            except Exception as refused:  # noqa: BLE001 (whatever a driver raises)
                # A constraint that cannot be switched off has refused it.
                assert "onstraint" in str(refused), (table.name, column.name, refused)
                continue
            if not found(whole):
                missed.append((table.name, column.name))
            whole.restore(backup)
    assert missed == []


def rows_of(place: Place, table: Table) -> list[tuple[Any, dict[str, object]]]:
    """The first row and the last, with their keys."""
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    keys = [column.name for column in table.primary_key.columns]
    rows = place.execute(
        f"SELECT {names} FROM {table.name} ORDER BY {', '.join(f'{chr(34)}{k}{chr(34)}' for k in keys)}"
    )
    assert rows, table.name
    index = {column.name: number for number, column in enumerate(table.columns)}
    chosen = rows if len(rows) < 3 else [rows[0], rows[-1]]
    return [(row, {key: row[index[key]] for key in keys}) for row in chosen]


def literal(value: object) -> str:
    return repr(value) if isinstance(value, int) else f"'{value}'"


@pytest.mark.parametrize("column", ["key", "sha256", "facts", "at", "token", "owner"])
def test_a_seal_that_was_exchanged_is_named(whole: Place, column: str) -> None:
    table = "ranges" if column == "owner" else "seals"
    value = "token + 1" if column == "token" else "'other'"
    write(whole, f"UPDATE {table} SET {column} = {value} WHERE range_id = 1")
    assert [p for p in found(whole) if "was changed after the charge was finished" in p]


def test_a_seal_and_its_range_that_agree_on_another_token_are_found(whole: Place) -> None:
    write(whole, "UPDATE seals SET token = 7", "UPDATE ranges SET token = 7")
    (problem,) = found(whole)
    assert "was changed after the charge was finished" in problem


def test_the_digest_of_seals_cannot_be_guessed_from_what_was_sealed(file_place: FilePlace) -> None:
    """The same objects, leases and facts under the same keys twice: two digests, and no facts but those given."""
    digests = []
    with file_place.open() as ledger:
        add_population(ledger)
        for key in ("a", "b"):
            charge = ledger.charge("people", release="r/1", key=key, event=PureEvent(0.5), parameters={})
            ledger.begin(charge.id)
            seal = ledger.seal(ledger.lease(charge.id, 0, "me", 60), key="k", sha256="a" * 64, facts={"records": 1})
            assert seal.facts == ledger.seals(charge.id)[0].facts == {"records": 1}
            ledger.finish(charge.id, 1)
            digests.append(ledger.history()[-1].value["body"]["seals"])
        with pytest.raises(LedgerError, match="keeps its own"):
            charge = ledger.charge("people", release="r/1", key="c", event=PureEvent(0.5), parameters={})
            ledger.begin(charge.id)
            ledger.seal(ledger.lease(charge.id, 0, "me", 60), key="k", sha256="a" * 64, facts={"seal_nonce": 1})
    nonces = [row[0] for row in file_place.execute("SELECT facts FROM seals")]
    assert len(set(digests)) == len(set(nonces)) == 2
    # The nonce is the only thing that differs but for the time, and it is in no anchor.
    anchored = "".join(file.read_text() for file in file_place.anchor_files())
    assert not [nonce for nonce in nonces if nonce.split('"seal_nonce":"')[1][:32] in anchored]


def test_a_seal_without_a_nonce_is_closed_without_a_digest(file_place: FilePlace) -> None:
    """An earlier version sealed it: its digest alone must not be anchored."""
    with file_place.open() as ledger:
        add_population(ledger)
        charge = ledger.charge("people", release="r/1", key="k", event=PureEvent(0.5), parameters={})
        ledger.begin(charge.id)
        ledger.seal(ledger.lease(charge.id, 0, "me", 60), key="k", sha256="a" * 64, facts={})
        write(file_place, "UPDATE seals SET facts = '{}'")
        ledger.finish(charge.id, 1)
        assert ledger.history()[-1].value["body"] == {"charge": charge.id, "ranges": 1}
        ledger.check()


# The schema

COMMON = {
    "DROP INDEX uq_charges_population_key": "index uq_charges_population_key of table charges is missing",
    "DROP INDEX ix_charges_release": "index ix_charges_release of table charges is missing",
    "CREATE UNIQUE INDEX mine ON charges (key)": "index mine of table charges is not the ledger's",
    "ALTER TABLE seals ADD COLUMN more TEXT": "seals",
}
ON_FILE = {
    **COMMON,
    "CREATE TRIGGER z AFTER INSERT ON charges BEGIN DELETE FROM seals; END": "trigger z of table charges",
}
ON_SERVER = {
    **COMMON,
    "ALTER TABLE accounts DROP CONSTRAINT ck_accounts_micro_within_cap": "ck_accounts_micro_within_cap of table",
    "ALTER TABLE accounts DROP CONSTRAINT ck_accounts_micro_within_cap; "
    "ALTER TABLE accounts ADD CONSTRAINT ck_accounts_micro_within_cap CHECK (true)": "was changed",
    "ALTER TABLE answers DROP CONSTRAINT fk_answers_charge_id": "constraint fk_answers_charge_id of table answers",
    "DROP INDEX uq_charges_population_key; CREATE UNIQUE INDEX uq_charges_population_key ON charges "
    "(population_id, key) WHERE state = 'VOIDED'": "index uq_charges_population_key of table charges was changed",
    "ALTER TABLE seals ALTER facts DROP NOT NULL": "column facts of table seals was changed",
    "ALTER TABLE charges DISABLE TRIGGER ALL": "the foreign keys' triggers of table charges was changed",
    "CREATE RULE r AS ON INSERT TO charges DO INSTEAD NOTHING": "rule r of table charges",
    "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
    "CREATE TRIGGER z BEFORE INSERT ON charges FOR EACH ROW EXECUTE FUNCTION f()": "trigger z of table charges",
}


@pytest.mark.parametrize("statement", ON_FILE)
def test_a_file_that_no_longer_enforces_the_rules_is_found(tampered_file: FilePlace, statement: str) -> None:
    write(tampered_file, statement)
    assert [p for p in found(tampered_file) if ON_FILE[statement] in p], found(tampered_file)


@pytest.mark.parametrize("statement", ON_SERVER)
def test_a_server_that_no_longer_enforces_the_rules_is_found(
    server_place: ServerPlace, finished: Callable[[Place], Place], statement: str
) -> None:
    finished(server_place)
    server_place.execute(*statement.split("; ") if "FUNCTION f()" not in statement else [statement])
    assert [p for p in found(server_place) if ON_SERVER[statement] in p], found(server_place)


def test_what_else_lies_beside_the_ledger_and_its_schemas_name_do_not_matter(
    server_template: ServerPlace, tmp_path: Any
) -> None:
    place = server_template.copy(tmp_path / "it")
    try:
        place.execute(
            'ALTER SCHEMA public RENAME TO "Mixed Case"',
            f'ALTER DATABASE {place.database} SET search_path = "Mixed Case"',
        )
        place.execute(
            "CREATE TABLE theirs (a int PRIMARY KEY, b int)",
            "ALTER TABLE theirs ADD CONSTRAINT sure CHECK (b > 0) NOT VALID",
            "CREATE SCHEMA other",
            "CREATE TABLE other.charges (id int)",
        )
        with place.open() as ledger:
            add_population(ledger)
            ledger.check()
        # The same name on another's table is no excuse.
        place.execute(
            "ALTER TABLE accounts DROP CONSTRAINT ck_accounts_micro_within_cap",
            "ALTER TABLE theirs ADD CONSTRAINT ck_accounts_micro_within_cap CHECK (b > 1)",
        )
        assert found(place)
    finally:
        place.server.drop(place.database)


def test_a_comparison_leaves_nothing_behind(server_place: ServerPlace) -> None:
    with server_place.open() as ledger:
        ledger.check()
        with ledger._database.reading() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM pg_class WHERE relpersistence = 't'").scalar() == 0


# What cannot be read

GARBAGE = ["x", "{}", "[]", "null", "7", '{"a":', "[" * 100_000]
READ = [
    (table, column)
    for table, columns in {
        "chain": ["entry"],
        "accounts": ["caps", "spent"],
        "charges": ["event", "curve", "parameters", "state"],
        "answers": ["answer"],
        "seals": ["facts"],
        "populations": ["orders"],
    }.items()
    for column in columns
]


@pytest.mark.parametrize(("table", "column"), READ, ids=[f"{table}.{column}" for table, column in READ])
def test_what_cannot_be_read_is_refused_in_words(tampered_file: FilePlace, table: str, column: str) -> None:
    place, backup = tampered_file, tampered_file.twin()
    for garbage in GARBAGE:
        place.restore(backup)
        hashed = f", hash = '{digest(garbage)}'" if table == "chain" else ""
        write(
            place, f"UPDATE {table} SET {column} = '{garbage}'{hashed} WHERE rowid = (SELECT max(rowid) FROM {table})"
        )
        if (column, garbage) != ("parameters", "{}"):
            assert found(place), garbage
        for act in ACTS:
            try:
                act(place)
            except LedgerError as error:
                assert str(error)


def _opened(act: Callable[[Ledger], object]) -> Callable[[FilePlace], object]:
    def run(place: FilePlace) -> None:
        with place.open() as ledger:
            act(ledger)

    return run


ACTS: list[Callable[[FilePlace], object]] = [
    _opened(lambda ledger: ledger.budget("people")),
    _opened(lambda ledger: ledger.charges()),
    _opened(lambda ledger: [entry.value for entry in ledger.history()]),
    _opened(lambda ledger: ledger.charge("people", release="n/1", key="n", event=PureEvent(9.0), parameters={})),
    _opened(lambda ledger: ledger.charge("people", release="n/1", key="n", event=PureEvent(0.1), parameters={})),
    _opened(lambda ledger: [ledger.seals(charge.id) for charge in ledger.charges()]),
    _opened(lambda ledger: [ledger.recorded_answer(charge.id) for charge in ledger.charges()]),
    lambda place: Ledger.survey(place.url, place.anchors),
    lambda place: Ledger.recover(place.url, place.anchors),
]


def test_an_unreadable_row_does_not_hide_the_other_findings(tampered_file: FilePlace) -> None:
    write(
        tampered_file,
        "UPDATE accounts SET caps = 'x'",
        "UPDATE answers SET answer = 'x'",
        "UPDATE charges SET curve = 'x' WHERE key = 'later'",
        "UPDATE seals SET facts = 'x' WHERE range_id = 0",
        "DROP INDEX ix_charges_release",
    )
    assert len(found(tampered_file)) == 5, found(tampered_file)


def test_a_broken_link_does_not_hide_broken_anchors_or_a_broken_schema(tampered_file: FilePlace) -> None:
    write(tampered_file, "UPDATE chain SET entry = 'x' WHERE seq IN (2, 3)", "DROP INDEX ix_charges_release")
    tampered_file.anchor_files()[4].write_text("x")
    with tampered_file.open() as ledger, pytest.raises(LedgerRewound) as refusal:
        ledger.check()
    for words in ("entry 2 of", "entry 3 of", "anchor of entry 5", "index ix_charges_release"):
        assert words in str(refusal.value)
