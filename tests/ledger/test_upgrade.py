"""A ledger of the earlier version is brought to this one, on either database, whatever happens on the way."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cadp.errors import LedgerError, LedgerRewound, SettingsError
from cadp.ledger import Ledger, schema
from cadp.ledger.backup import contents
from cadp.ledger.canonical import digest
from cadp.ledger.migrate import upgrade
from cadp.ledger.opening import database_at
from cadp.privacy.accountant import PureEvent
from cadp.secret import PopulationSecret, make_secret
from tests.command import Command
from tests.ledger.copies import OLD_ENTRIES, put_old, rows
from tests.ledger.places import FilePlace, Place, ServerPlace
from tests.ledger.processes import together
from tests.servers.cutting_proxy import CuttingProxy, Moment
from tests.small_release import build

UPGRADED = OLD_ENTRIES + 1


@pytest.fixture
def old(nowhere: Place) -> Place:
    """The earlier version's ledger, with charges in every state."""
    return put_old(nowhere)


def backups(place: Place) -> list[Path]:
    """The finished backups of the place's upgrades."""
    return sorted((place.folder / "backups").glob("*.db"))


def without_history(found: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The rows that an upgrade to this version leaves as they are."""
    return {name: rows for name, rows in found.items() if name not in ("alembic_version", "chain", "notices")}


def require_upgraded(place: Place, before: dict[str, list[Any]]) -> None:
    """The ledger has this version's schema, every row it had, one new entry with its anchor, and can go on."""
    with place.open() as ledger:
        checked = ledger.check()
        assert (checked.entries, checked.populations, checked.charges, checked.seals) == (UPGRADED, 2, 7, 3)
        newest = ledger.history()[-1]
        assert (newest.kind, newest.value["body"]) == ("upgrade", {"from": "0001", "to": schema.REVISION})
        after = rows(place.url)
        assert after["alembic_version"] == [(schema.REVISION,)]
        assert after["notices"] == []
        assert without_history(after) == without_history(before)
        assert [row for row in after["chain"] if row[0] <= OLD_ENTRIES] == before["chain"][:OLD_ENTRIES]
        assert len(place.anchor_files()) == UPGRADED
        ledger.charge("people", release="r/9", key="new", event=PureEvent(0.01), parameters={"a": 1})
        ledger.check()


def test_an_old_ledger_is_backed_up_and_upgraded(old: Place) -> None:
    before = rows(old.url)
    with pytest.raises(LedgerError, match=r"schema 0001, this version needs 0002: run `cadp budget init`"):
        old.open()
    assert rows(old.url) == before
    old.init().close()
    (backup,) = backups(old)
    assert backup.name.startswith(f"ledger-{contents(backup).ledger[:8]}-schema-0001-")
    found = rows(str(backup))
    # It ends with the entry that announces the upgrade, so that it can be put back.
    assert without_history(found) == without_history(before)
    assert found["alembic_version"] == [("0001",)]
    assert len(found["chain"]) == UPGRADED
    assert "notices" not in found
    # Again is no upgrade and no backup.
    old.init().close()
    assert backups(old) == [backup]
    require_upgraded(old, before)


def test_old_charges_have_no_parameters_in_their_entries_and_go_on(old: Place) -> None:
    with old.init() as ledger:
        assert not any("parameters" in entry.value["body"] for entry in ledger.history())
        (running,) = [charge for charge in ledger.charges() if charge.state == "RUNNING"]
        (reserved,) = [charge for charge in ledger.charges() if charge.state == "RESERVED"]
        ledger.seal(ledger.lease(running.id, 0, "me", 60), key="k", sha256=digest("x"), facts={})
        ledger.void(reserved.id)
        ledger.burn(running.release, "a test")
        ledger.check()


def test_the_backup_of_a_file_lies_beside_it_unless_a_folder_is_given(tmp_path: Path) -> None:
    place = FilePlace(tmp_path)
    put_old(place)
    Ledger.init(place.url, place.anchors).close()
    assert len(list(place.file.parent.glob("ledger-*-schema-0001-*.db"))) == 1
    assert not (tmp_path / "backups").exists()


def test_a_server_needs_a_folder_for_the_backup(tmp_path: Path, pg_database: str) -> None:
    place = FilePlace(tmp_path)
    put_old(place)
    Ledger.restore(place.file, pg_database)
    before = rows(pg_database)
    with pytest.raises(SettingsError, match="give a folder for the backup"):
        Ledger.init(pg_database, place.anchors)
    assert rows(pg_database) == before
    assert len(place.anchor_files()) == OLD_ENTRIES


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_command_upgrades_and_backs_up_below_the_private_folder(
    tmp_path: Path, cadp: Command, pg_database: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the earlier ledger says of its populations' secrets.
    monkeypatch.setattr(PopulationSecret, "fingerprint", lambda _: "f1")
    place = build(tmp_path / "release")
    place.settings.make_private_folders()
    put_old(FilePlace(place.settings.home))
    settings = {"CADP_LEDGER": pg_database} if kind == "postgresql" else {}
    if settings:
        Ledger.restore(place.settings.home / "private" / "ledger.db", pg_database)
    make_secret(place.settings.secrets_dir, "people")
    (place.settings.secrets_dir / "people").mkdir()
    (place.settings.secrets_dir / "people" / "holdout.key").write_bytes(bytes(range(32)))
    limits = ("--epsilon", 8, "--delta", 1e-6, "--if-absent")
    cadp(place, "budget", "show", settings=settings).refused(1, "schema 0001", "run `cadp budget init`")
    done = cadp(place, "budget", "init", place.spec, *limits, settings=settings)
    assert done.code == 0, done.err
    assert "people" in done.out
    assert "shapes" in done.out
    assert len(list((place.settings.home / "private" / "backups").glob("*.db"))) == 1
    url = settings.get("CADP_LEDGER", place.settings.ledger_url)
    assert rows(url)["alembic_version"] == [(schema.REVISION,)]


def put_back(place: Place, backup: Path) -> None:
    """Replace the closed ledger with a backup."""
    if isinstance(place, FilePlace):
        for suffix in ("", "-wal", "-shm"):
            Path(f"{place.file}{suffix}").unlink(missing_ok=True)
    elif isinstance(place, ServerPlace):
        place.server.drop(place.database)
        place.server.create(place.database)
    Ledger.restore(backup, place.url)


def test_the_backup_can_be_put_back_and_upgraded_again(old: Place) -> None:
    before = rows(old.url)
    old.init().close()
    (backup,) = backups(old)
    with pytest.raises(LedgerError, match="run `cadp budget init`"):
        Ledger.open(str(backup), old.anchors)
    put_back(old, backup)
    with pytest.raises(LedgerError, match="run `cadp budget init`"):
        old.open()
    old.init().close()
    assert len(backups(old)) == 2
    require_upgraded(old, before)


def test_the_backup_is_refused_once_the_ledger_went_on(old: Place) -> None:
    with old.init() as ledger:
        ledger.charge("people", release="r/9", key="new", event=PureEvent(0.01), parameters={})
    (backup,) = backups(old)
    put_back(old, backup)
    with pytest.raises(LedgerRewound, match="an older copy was restored"):
        old.init()
    assert rows(old.url)["alembic_version"] == [("0001",)]


def test_a_ledger_that_disagrees_with_its_anchors_is_not_upgraded(old: Place) -> None:
    before = rows(old.url)
    newest = old.anchor_files()[-1]
    newest.with_name(f"{OLD_ENTRIES + 1:08d}.json").write_bytes(newest.read_bytes())
    with pytest.raises(LedgerRewound):
        old.init()
    assert rows(old.url) == before
    assert backups(old) == []


@pytest.mark.parametrize("revision", ["0000", "x"])
def test_a_schema_that_never_was_is_an_error_and_changes_nothing(old: Place, revision: str) -> None:
    old.execute(f"UPDATE alembic_version SET version_num = '{revision}'")
    with pytest.raises(LedgerError):
        old.init()
    assert "notices" not in rows(old.url)


def test_a_newer_schema_is_refused_before_anything_is_written(old: Place) -> None:
    old.execute("UPDATE alembic_version SET version_num = '0099'")
    before = rows(old.url)
    for act in (old.open, old.init):
        with pytest.raises(LedgerError, match="schema 0099, newer than 0002.*install the newer cadp"):
            act()
    assert rows(old.url) == before
    assert len(old.anchor_files()) == OLD_ENTRIES
    assert backups(old) == []


# What goes wrong on the way


@pytest.mark.parametrize("batch", [False, True], ids=["table", "batch"])
def test_a_migration_that_fails_changes_nothing(old: Place, monkeypatch: pytest.MonkeyPatch, batch: bool) -> None:
    from alembic import op

    create = op.create_table

    def fail(name: str, *arguments: Any, **options: Any) -> Any:
        made = create(name, *arguments, **options)
        if name != "notices":
            return made
        if batch:
            # On SQLite a table that is altered is made anew, copied and renamed: still one transaction.
            with op.batch_alter_table("answers", recreate="auto") as table:
                table.alter_column("answer", nullable=True)
            op.execute("DELETE FROM seals")
        raise RuntimeError("the migration failed")

    before = rows(old.url)
    with monkeypatch.context() as patch:
        patch.setattr(op, "create_table", fail)
        with pytest.raises(RuntimeError, match="the migration failed"):
            old.init()
    after = rows(old.url)
    assert without_history(after) == without_history(before)
    assert "notices" not in after
    assert after["alembic_version"] == [("0001",)]
    assert not [name for name in after if name.startswith("_alembic")]
    old.init().close()
    require_upgraded(old, before)


def test_a_failed_backup_stops_the_upgrade(old: Place) -> None:
    before = rows(old.url)
    (old.folder / "backups").write_text("no folder")
    with pytest.raises(SettingsError, match="cannot write the backup"):
        old.init()
    assert rows(old.url)["alembic_version"] == [("0001",)]
    (old.folder / "backups").unlink()
    old.init().close()
    require_upgraded(old, before)


KILLED = """
import os, signal, sys
from pathlib import Path
from cadp.ledger import Ledger, backup, copying, ledger, upgrading
from cadp.store import Store

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def wrap(owner, name, moment, when=lambda *a: True):
    real = getattr(owner, name)
    def deadly(*arguments, **options):
        if moment == "before" and when(*arguments):
            die()
        result = real(*arguments, **options)
        if when(*arguments):
            die()
        return result
    setattr(owner, name, deadly)

where, moment = sys.argv[4].split()
if where == "announced":
    wrap(upgrading, "_announce", moment)
if where == "anchor":
    wrap(Store, "put", moment, lambda store, key, data: key.endswith("22.json"))
if where == "copy":
    wrap(copying, "_copy_table", moment, lambda source, target, table, revision: table.name == "charges")
if where == "link":
    wrap(backup, "_link", moment)
if where == "migration":
    wrap(upgrading, "upgrade", moment)
if where == "commit":
    wrap(ledger, "upgrade_ledger", moment)
Ledger.init(sys.argv[1], Store.open(sys.argv[2]), Path(sys.argv[3]))
"""
MOMENTS = [
    "announced after",
    "anchor before",
    "anchor after",
    "copy before",
    "copy after",
    "link before",
    "link after",
    "migration before",
    "migration after",
    "commit after",
]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.replace(" ", "-"))
def test_sigkill_at_every_moment_and_once_more_completes(old: Place, moment: str) -> None:
    before = rows(old.url)
    folder = old.folder / "backups"
    command = [sys.executable, "-c", KILLED, old.url, str(old.anchors_folder), str(folder), moment]
    ended = subprocess.run(command, check=False, timeout=60, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    reached = moment.split(maxsplit=1)[0]
    assert rows(old.url)["alembic_version"] == [("0002" if reached == "commit" else "0001",)]
    assert len(backups(old)) == (reached in ("migration", "commit") or moment == "link after")
    old.init().close()
    for backup in backups(old):
        assert (contents(backup).revision, contents(backup).entries) == ("0001", UPGRADED)
    assert backups(old)
    require_upgraded(old, before)


@pytest.mark.parametrize("skip", range(1, 5))
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_connection_that_is_lost_at_a_commit_is_taken_up_again(
    server_place: ServerPlace, tmp_path: Path, moment: Moment, skip: int
) -> None:
    place = ServerPlace.fresh(tmp_path / "old", server_place.server)
    put_old(place)
    before = rows(place.url)
    with CuttingProxy(place.server.host, place.server.port) as proxy:
        proxy.cut(b"COMMIT", moment, skip=skip)
        Ledger.init(proxy.url(place.url), place.anchors, place.folder / "backups").close()
        assert proxy.cuts == 1
    require_upgraded(place, before)
    place.server.drop(place.database)


# Several at once

AT_ONCE = """
import sys
from pathlib import Path
from cadp.ledger import Ledger
from cadp.store import Store
print("ready", flush=True)
sys.stdin.readline()
with Ledger.init(sys.argv[1], Store.open(sys.argv[2]), Path(sys.argv[3])) as ledger:
    print(ledger.history()[0].value["ledger"], ledger.history()[-1].kind, flush=True)
    ledger.create_population("late", unit="person", epsilon=1.0, delta=1e-6, source_hmac="late",
                             secret_fingerprint="f")
"""


def init_at_once(place: Place, count: int) -> set[str]:
    """Let processes run `init` in the same moment; return the ledgers that they found."""
    command = [sys.executable, "-c", AT_ONCE, place.url, str(place.anchors_folder), str(place.folder / "backups")]
    return {out.split()[0] for out in together([command] * count)}


def test_processes_that_upgrade_at_once_make_one_migration(old: Place) -> None:
    before = rows(old.url)
    assert len(init_at_once(old, 4)) == 1
    after = rows(old.url)
    # One that saw the old schema and came late announces nothing and backs nothing up.
    assert [row[1] for row in after["chain"] if row[0] > OLD_ENTRIES] == ["upgrade", "population"]
    assert len(backups(old)) == 1
    assert {name: after[name] for name in ("charges", "seals", "ranges", "answers")} == {
        name: before[name] for name in ("charges", "seals", "ranges", "answers")
    }
    with old.open() as ledger:
        ledger.check()


def test_one_that_comes_late_announces_and_migrates_nothing(old: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its first look and its turn, another process upgraded the ledger and went on."""
    from cadp.ledger import upgrading

    real = upgrading.AnchoredChain

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.undo()
        with old.init() as ledger:
            ledger.charge("people", release="r/9", key="new", event=PureEvent(0.01), parameters={})
        return real(*arguments)

    monkeypatch.setattr(upgrading, "AnchoredChain", overtaken)
    with old.init() as ledger:
        assert [entry.kind for entry in ledger.history()][OLD_ENTRIES:] == ["upgrade", "charge"]
        ledger.check()
    assert len(backups(old)) == 1


def test_eight_processes_that_create_at_once_make_one_ledger(nowhere: Place) -> None:
    assert len(init_at_once(nowhere, 8)) == 1
    with nowhere.open() as ledger:
        assert [entry.kind for entry in ledger.history()] == ["ledger", "population"]
        ledger.check()
    assert backups(nowhere) == []


def test_the_old_tables_and_the_new_ones_are_what_a_fresh_ledger_has(old: Place, tmp_path: Path) -> None:
    """Column by column and row by row: an upgraded ledger's backup is restored as any other's."""
    with old.init() as ledger:
        copy = ledger.back_up(tmp_path / "copy.db")
    assert rows(str(copy)) == rows(old.url)
    database = database_at(str(tmp_path / "fresh.db"))
    database.create(upgrade)
    database.close()
    assert set(rows(str(tmp_path / "fresh.db"))) == set(rows(str(copy)))
