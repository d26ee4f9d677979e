"""What opens, what is made, and what is refused without a trace: the same on both databases."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import event

from cadp.errors import LedgerError, LedgerMissing, LedgerRewound, SettingsError
from cadp.ledger import Ledger, schema
from cadp.ledger.address import Address
from cadp.store import Store
from tests.ledger.places import Place, add_population


def test_a_missing_ledger_is_an_error_and_creates_nothing(nowhere: Place) -> None:
    for _ in range(2):
        with pytest.raises(LedgerMissing, match="there is no ledger at .*budget init") as missing:
            nowhere.open()
    assert missing.value.exit_code == 2
    assert nowhere.anchor_files() == []
    assert not nowhere.folder.exists() or list(nowhere.folder.iterdir()) == []


def test_init_is_safe_to_repeat_and_forgets_nothing(place: Place, ledger: Ledger) -> None:
    add_population(ledger)
    with place.init() as again:
        assert [population.name for population in again.populations()] == ["people"]
        assert len(again.history()) == 2


def test_racing_creations_make_one_ledger(nowhere: Place) -> None:
    with ThreadPoolExecutor(4) as threads:
        ledgers = list(threads.map(lambda _: nowhere.init(), range(4)))
    add_population(ledgers[0])
    assert all(len(ledger.populations()) == 1 for ledger in ledgers)
    ledgers[0].check()
    for ledger in ledgers:
        ledger.close()


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:secret@h/d",
        "mysql://u@h/d?password=secret",
        "postgresql://u:secret@h",
        "postgresql://u@h/?password=secret",
        "postgresql://u@h/d?password=secret",
        "postgresql://u@h/d?passfile=/secret",
        "postgresql://u:pw@secret@h/d",
        "postgresql://u:pw@h/secret@h/d",
        "postgresql://u:pw@h?secret@h/d",
        "postgresql://u:secret@h:54x2/d",
        "postgresql://u:secret@h1:1,h2:2/d",
        "postgresql://u:secret@[::1/d",
        "postgresql://u:secret@h:99999/d",
        "postgresql://u:secret@h:0/d",
        "postgresql:u:secret@h/d",
        "u:secret@h/d",
        "host=h password=secret dbname=d",
        "dbname=secret",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:////tmp/secret?mode=ro",
        "sqlite://u:secret@h/d",
        "~secret-nobody/ledger.db",
        "file:///tmp/secret",
        "secret\0",
        "://",
        "",
    ],
)
def test_what_is_no_address_is_refused_and_no_password_is_shown(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match="the ledger's address .*use sqlite:////absolute/path") as refusal:
        Ledger.init(url, Store.open(str(tmp_path)))
    assert "secret" not in str(refusal.value)
    # Nor in the error below it, which a flow's log would show.
    assert (refusal.value.__cause__, refusal.value.__suppress_context__ or refusal.value.__context__) in [
        (None, True),
        (None, None),
    ]


def test_an_address_shows_no_password_and_no_user() -> None:
    address = Address.parse("postgresql://someone:secret@db.example:6432/budget?sslmode=require")
    assert str(address) == "budget on db.example:6432"
    assert "secret" not in repr(address)
    assert address.url.drivername == "postgresql+psycopg"
    assert Address.parse("postgres://h/d").shown == "d on h"
    assert Address.parse("postgresql:///d").shown == "d on the local socket"


def test_a_newer_schema_is_refused_and_an_older_one_asks_for_init(place: Place) -> None:
    newer = f"{int(schema.REVISION) + 1:04d}"
    for revision, message in ((newer, "newer than 0002.*install the newer"), ("0000", "run `cadp budget init`")):
        place.execute(f"UPDATE alembic_version SET version_num = '{revision}'")
        with pytest.raises(LedgerError, match=message):
            place.open()
    place.execute(f"UPDATE alembic_version SET version_num = '{newer}'")
    with pytest.raises(LedgerError, match="newer"):
        place.init()


def test_another_programs_database_is_refused(nowhere: Place) -> None:
    if hasattr(nowhere, "file"):
        nowhere.file.parent.mkdir(parents=True)
    nowhere.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
    for act in (nowhere.open, nowhere.init):
        with pytest.raises(LedgerError, match="is a database but not a ledger"):
            act()


def test_anchors_that_belong_to_a_lost_ledger_are_not_given_to_a_new_one(place: Place, nowhere: Place) -> None:
    place.open().close()
    with pytest.raises(LedgerRewound, match=r"put the newest copy .* recover --rebuild"):
        Ledger.init(nowhere.url, place.anchors)
    with pytest.raises(LedgerMissing):
        nowhere.open()


def test_opening_for_reading_does_not_wait_for_a_writer(place: Place, ledger: Ledger) -> None:
    statements: list[str] = []
    with ledger._database.writing(), place.open() as reader:
        event.listen(reader._database.engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
        assert reader.populations() == []
    assert statements
    assert not any("FOR UPDATE" in statement or "IMMEDIATE" in statement for statement in statements)
