"""Backups: one snapshot, whole or not at all, of either database into a file, and back into either."""

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from cadp.errors import LedgerError, LedgerMissing, LedgerRewound, SettingsError
from cadp.ledger import Charge, Ledger
from cadp.ledger.backup import contents
from cadp.ledger.copying import tables_of
from cadp.privacy.accountant import PureEvent
from cadp.store import Store
from tests.command import Command
from tests.ledger.copies import old_file, rows
from tests.ledger.places import FilePlace, Place, add_population, seal_all
from tests.small_release import Place as ReleasePlace
from tests.small_release import build


def fill(ledger: Ledger) -> None:
    """A charge in every state, with ranges, seals, an answer and notices."""
    for name in ("people", "people/holdout"):
        add_population(ledger, name)
    for release, end in (("r/1", "publish"), ("r/2", "burn"), ("r/3", "seal"), ("r/4", "void"), ("r/5", "reserve")):
        charge = spend(ledger, release)
        if end in ("publish", "burn", "seal"):
            seal_all(ledger, charge, 2)
        if end == "publish":
            ledger.publish(release)
        if end == "burn":
            ledger.burn(release, "a test")
        if end == "void":
            ledger.void(charge.id)
    gate = ledger.charge("people/holdout", release="r/6", key="gate", event=PureEvent(0.5), parameters={"n": 3})
    ledger.begin(gate.id)
    ledger.answer(gate.id, {"correct": 3})


def spend(ledger: Ledger, release: str) -> Charge:
    return ledger.charge("people", release=release, key=f"train {release}", event=PureEvent(0.5), parameters={"ü": "é"})


@pytest.fixture
def filled(place: Place) -> Place:
    with place.open() as ledger:
        fill(ledger)
    return place


def test_a_backup_holds_every_row_and_is_a_ledger_in_itself(filled: Place, tmp_path: Path) -> None:
    with filled.open() as ledger:
        made = ledger.back_up(tmp_path / "safe" / "copy.db")
        history, charges = ledger.history(), ledger.charges()
    assert made == tmp_path / "safe" / "copy.db"
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.parent.stat().st_mode) == 0o700
    assert [file.name for file in made.parent.iterdir()] == ["copy.db"]
    found = contents(made)
    assert (found.entries, found.newest, found.charges) == (len(history), len(history), len(charges))
    assert (found.populations, found.size, found.revision) == (2, made.stat().st_size, "0002")
    there = rows(filled.url)
    assert all(there.values()), "a table without a row proves nothing"
    assert rows(str(made)) == there
    with Ledger.open(str(made), filled.anchors) as copy:
        copy.check()
        assert (copy.history(), copy.charges()) == (history, charges)


def test_a_relative_path_and_an_open_umask(filled: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    umask = os.umask(0)
    try:
        with filled.open() as ledger:
            made = ledger.back_up(Path("copy.db"))
    finally:
        os.umask(umask)
    assert made == tmp_path / "copy.db"
    assert stat.S_IMODE(made.stat().st_mode) == 0o600


@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_nothing_is_ever_written_over(filled: Place, tmp_path: Path, what: str) -> None:
    target = tmp_path / "safe" / "copy.db"
    target.parent.mkdir()
    {
        "file": lambda: target.write_text("mine"),
        "folder": target.mkdir,
        "link": lambda: target.symlink_to(tmp_path / "elsewhere"),
    }[what]()
    with filled.open() as ledger, pytest.raises(LedgerError, match="left as it is; give the backup another name"):
        ledger.back_up(target)
    assert [file.name for file in target.parent.iterdir()] == ["copy.db"]
    assert not (tmp_path / "elsewhere").exists()
    assert what != "file" or target.read_text() == "mine"


def test_a_name_that_is_taken_meanwhile_is_left_alone(
    filled: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "safe" / "copy.db"
    monkeypatch.setattr("cadp.ledger.backup._require_free", lambda _: target.write_text("mine"))
    with filled.open() as ledger, pytest.raises(LedgerError, match="left as it is"):
        ledger.back_up(target)
    assert [file.name for file in target.parent.iterdir()] == ["copy.db"]
    assert target.read_text() == "mine"


def test_a_folder_that_cannot_be_made_says_so(filled: Place, tmp_path: Path) -> None:
    (tmp_path / "occupied").touch()
    for target in (tmp_path / "occupied" / "copy.db", tmp_path / "occupied" / "below" / "copy.db"):
        with (
            filled.open() as ledger,
            pytest.raises(SettingsError, match=r"cannot write the backup .*/occupied is not a folder; name another"),
        ):
            ledger.back_up(target)


def test_a_backup_that_cannot_be_looked_for(nowhere: Place, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot be looked for: .*File name too long"):
        Ledger.restore(tmp_path / ("x" * 300), nowhere.url)


def test_a_backup_that_is_killed_leaves_no_file_of_its_name(filled: Place, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom cadp.ledger import Ledger, backup\n"
        "from cadp.store import Store\n"
        "backup.os.link = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Ledger.open(sys.argv[1], Store.open(sys.argv[2])).back_up(Path(sys.argv[3]))\n"
    )
    target = tmp_path / "safe" / "copy.db"
    command = [sys.executable, "-c", script, filled.url, str(filled.anchors_folder), str(target)]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
    assert not target.exists()
    with filled.open() as ledger:
        ledger.back_up(target)
        ledger.check()


def test_a_copy_that_is_not_whole_is_refused_and_removed(
    filled: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cadp.ledger.copying.head", id)
    with filled.open() as ledger, pytest.raises(LedgerError, match="ends with another entry"):
        ledger.back_up(tmp_path / "safe" / "copy.db")
    assert list((tmp_path / "safe").iterdir()) == []


def test_a_column_that_the_schema_does_not_know_is_not_lost_silently(filled: Place, tmp_path: Path) -> None:
    filled.execute("ALTER TABLE seals ADD COLUMN extra INTEGER")
    with filled.open() as ledger, pytest.raises(LedgerError, match=r"seals .* unknown \['extra'\]"):
        ledger.back_up(tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


def test_a_damaged_ledger_is_not_copied_as_if_it_were_sound(file_place: FilePlace, tmp_path: Path) -> None:
    with file_place.open() as ledger:
        fill(ledger)
    file_place.execute("DELETE FROM ranges")
    with file_place.open() as ledger, pytest.raises(LedgerError, match="is damaged: a row of seals refers to nothing"):
        ledger.back_up(tmp_path / "safe" / "copy.db")
    assert list((tmp_path / "safe").iterdir()) == []


def test_other_tables_of_the_same_database_are_not_copied(filled: Place, tmp_path: Path) -> None:
    filled.execute("CREATE TABLE another_programs (x INTEGER)", "INSERT INTO another_programs VALUES (1)")
    with filled.open() as ledger:
        made = ledger.back_up(tmp_path / "copy.db")
    assert "another_programs" not in rows(str(made))


def test_many_rows_are_copied_piece_by_piece(filled: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cadp.ledger.copying._ROWS", 3)
    with filled.open() as ledger:
        made = ledger.back_up(tmp_path / "copy.db")
    assert rows(str(made)) == rows(filled.url)


def test_one_snapshot_while_others_charge(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A charge that comes between two tables is in none of them."""
    with place.open() as ledger, place.open() as other:
        add_population(ledger)
        spend(ledger, "r/1")
        writer = threading.Thread(target=spend, args=(other, "r/2"))
        copy_table = Ledger.back_up.__globals__["backup"].copy_ledger.__globals__["_copy_table"]

        def copy(source: object, target: object, table: object, revision: str) -> None:
            copy_table(source, target, table, revision)
            if not writer.ident:
                writer.start()
                writer.join(30)

        monkeypatch.setattr("cadp.ledger.copying._copy_table", copy)
        made = ledger.back_up(tmp_path / "copy.db")
        assert len(ledger.charges()) == 2
    assert (contents(made).entries, contents(made).charges) == (3, 1)
    # One that is older than its anchors is refused, and refused only when it is opened with them.
    with pytest.raises(LedgerRewound, match="ends at entry 3, but entry 4 is anchored"):
        Ledger.open(str(made), place.anchors)


def test_references_come_first() -> None:
    names = [table.name for table in tables_of("0001")]
    assert set(names) == {"ledger", "chain", "populations", "accounts", "charges", "ranges", "seals", "answers"}
    for table in tables_of("0001"):
        for key in table.foreign_keys:
            assert names.index(key.column.table.name) < names.index(table.name)


# Restoring, in every direction


@pytest.fixture
def backup(filled: Place, tmp_path: Path) -> Path:
    with filled.open() as ledger:
        return ledger.back_up(tmp_path / "safe" / "copy.db")


def test_a_backup_is_restored_whole_and_the_ledger_goes_on(filled: Place, backup: Path, nowhere: Place) -> None:
    """File to file, file to server, server to file, server to server."""
    before, digest = rows(filled.url), backup.read_bytes()
    assert Ledger.restore(backup, nowhere.url) == contents(backup)
    assert backup.read_bytes() == digest
    assert [file.name for file in backup.parent.iterdir()] == ["copy.db"]
    assert rows(nowhere.url) == before
    with Ledger.init(nowhere.url, filled.anchors) as ledger:
        ledger.check()
        # PostgreSQL's own numbering goes on where the copied numbers end.
        add_population(ledger, "more people")
        spend(ledger, "r/7")
        ledger.check()
        assert [notice.id for notice in ledger.notices()] == list(range(1, len(ledger.notices()) + 1))
        assert len(ledger.notices()) > len(before["notices"])


def test_the_original_loses_against_the_restored_one_that_went_on(filled: Place, backup: Path, nowhere: Place) -> None:
    """A move: both addresses have the same ledger, both try to go on, exactly one does."""
    Ledger.restore(backup, nowhere.url)
    with Ledger.open(nowhere.url, filled.anchors) as moved, filled.open() as old:
        at_once = threading.Barrier(2)
        done: dict[str, object] = {}

        def go_on(name: str, ledger: Ledger) -> None:
            at_once.wait(30)
            try:
                done[name] = spend(ledger, f"after the move, {name}")
            except LedgerRewound as refusal:
                done[name] = refusal

        threads = [threading.Thread(target=go_on, args=pair) for pair in (("moved", moved), ("old", old))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(type(end).__name__ for end in done.values()) == ["Charge", "LedgerRewound"]
        winner, loser = (moved, old) if isinstance(done["moved"], Charge) else (old, moved)
        winner.check()
        spend(winner, "once more")
        with pytest.raises(LedgerRewound):
            spend(loser, "once more")
    url = filled.url if loser is old else nowhere.url
    with pytest.raises(LedgerRewound, match="until then nothing is charged"):
        Ledger.open(url, filled.anchors)


def test_an_older_copy_is_restored_but_not_opened(filled: Place, backup: Path, nowhere: Place) -> None:
    with filled.open() as ledger:
        spend(ledger, "r/8")
    Ledger.restore(backup, nowhere.url)
    for reopen in (Ledger.open, Ledger.init):
        with pytest.raises(LedgerRewound, match=r"an older copy was restored.*cadp budget recover"):
            reopen(nowhere.url, filled.anchors)


def test_nothing_is_restored_over_a_ledger(filled: Place, backup: Path) -> None:
    before = rows(filled.url)
    with pytest.raises(LedgerError, match="there is a ledger, or something else, at .* left as it is"):
        Ledger.restore(backup, filled.url)
    assert rows(filled.url) == before


def test_a_ledger_that_is_made_meanwhile_stays(
    file_place: FilePlace, nowhere: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with file_place.open() as ledger:
        made = ledger.back_up(tmp_path / "copy.db")
    nowhere.init().close()
    before = rows(nowhere.url)
    for kind in ("sqlite.SqliteDatabase", "postgres.PostgresDatabase"):
        monkeypatch.setattr(f"cadp.ledger.{kind}.exists", lambda _: False)
    with pytest.raises(LedgerError, match="another process made a ledger"):
        Ledger.restore(made, nowhere.url)
    assert rows(nowhere.url) == before


def test_a_restore_that_fails_leaves_nothing(backup: Path, nowhere: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("cadp.ledger.copying.head", id)
        with pytest.raises(LedgerError, match="ends with another entry"):
            Ledger.restore(backup, nowhere.url)
    if isinstance(nowhere, FilePlace):
        assert list(nowhere.file.parent.iterdir()) == []
    else:
        assert rows(nowhere.url) == {}
    Ledger.restore(backup, nowhere.url)


def test_what_is_no_backup_is_refused(nowhere: Place, tmp_path: Path) -> None:
    with pytest.raises(LedgerMissing, match="there is no backup at"):
        Ledger.restore(tmp_path / "none.db", nowhere.url)
    with pytest.raises(LedgerMissing):
        Ledger.restore(tmp_path, nowhere.url)
    (tmp_path / "garbage.db").write_bytes(b"garbage, many bytes of it " * 400)
    with pytest.raises(LedgerError, match="the backup .*garbage.db: file is not a database"):
        Ledger.restore(tmp_path / "garbage.db", nowhere.url)
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(LedgerError, match="not a ledger"):
        Ledger.restore(tmp_path / "other.db", nowhere.url)
    newer = old_file(tmp_path / "newer.db")
    with sqlite3.connect(newer) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0099'")
    connection.close()
    with pytest.raises(LedgerError, match="schema 0099, newer than"):
        Ledger.restore(newer, nowhere.url)
    with pytest.raises(LedgerMissing):
        nowhere.open()


def test_a_damaged_backup_is_refused(backup: Path, nowhere: Place) -> None:
    damaged = bytearray(backup.read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 8192] = b"\xff" * 8192
    bad = backup.with_name("damaged.db")
    bad.write_bytes(damaged)
    with pytest.raises(LedgerError, match="the backup .*damaged"):
        Ledger.restore(bad, nowhere.url)
    with pytest.raises(LedgerMissing):
        nowhere.open()


def test_a_backup_whose_rows_do_not_hang_together_is_refused(backup: Path, nowhere: Place) -> None:
    with sqlite3.connect(backup) as connection:
        connection.execute("DELETE FROM ranges")
    connection.close()
    with pytest.raises(LedgerError, match="copy.db is damaged: a row of seals refers to nothing"):
        Ledger.restore(backup, nowhere.url)
    with pytest.raises(LedgerMissing):
        nowhere.open()


def test_a_backup_on_a_disk_that_cannot_be_written_is_read(backup: Path, nowhere: Place) -> None:
    backup.chmod(0o400)
    backup.parent.chmod(0o500)
    try:
        Ledger.restore(backup, nowhere.url)
    finally:
        backup.parent.chmod(0o700)
    assert nowhere.execute("SELECT count(*) FROM ledger") == [(1,)]


def test_a_live_file_is_moved_to_a_server_as_it_is(file_place: FilePlace, pg_database: str) -> None:
    """Its newest rows are still in the write-ahead log."""
    with file_place.open() as ledger:
        fill(ledger)
        assert Path(f"{file_place.file}-wal").stat().st_size > 0
        Ledger.restore(file_place.file, pg_database)
        assert rows(pg_database) == rows(file_place.url)


def test_an_old_backup_is_restored_as_it_is(nowhere: Place, tmp_path: Path) -> None:
    old = old_file(tmp_path / "old.db")
    assert Ledger.restore(old, nowhere.url).revision == "0001"
    assert rows(nowhere.url) == rows(str(old))


def test_the_sequences_of_a_server_go_on(file_place: FilePlace, pg_database: str, tmp_path: Path) -> None:
    with file_place.open() as ledger:
        fill(ledger)
        Ledger.restore(ledger.back_up(tmp_path / "copy.db"), pg_database)
    with psycopg.connect(pg_database) as server:
        newest = server.execute("SELECT max(id) FROM notices").fetchall()[0][0]
        following = server.execute("SELECT nextval('populations_id_seq'), nextval('notices_id_seq')").fetchall()
    assert following == [(3, newest + 1)]


# The commands


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ReleasePlace]:
    """A deployment whose settings point to a small release's home, with a budget."""
    place = build(tmp_path / "release")
    place.open_budget()
    with Ledger.open(place.settings.ledger_url, Store.open(place.settings.anchors_url)) as ledger:
        ledger.charge("shapes", release="shapes/1.0.0", key="k", event=PureEvent(1.0), parameters={})
    yield place


def test_the_command_says_what_is_in_a_backup_and_what_is_not(
    home: ReleasePlace, cadp: Command, tmp_path: Path
) -> None:
    target = tmp_path / "safe" / "copy.db"
    done = cadp(home, "budget", "backup", target)
    assert done.code == 0, done.err
    facts = dict(line.split(maxsplit=1) for line in done.out.splitlines()[:1])
    assert facts["backup"] == str(target)
    said = " ".join(done.out.split())
    for part in ("entries 4", "newest entry 4", "populations 2", "charges 1", f"bytes {target.stat().st_size:,}"):
        assert part in said
    for place in (home.settings.anchors_url, home.settings.secrets_dir, home.settings.keys_dir):
        assert str(place) in done.out
    cadp(home, "budget", "backup", target).refused(1, str(target), "another name")


def test_the_command_restores_and_compares_with_the_anchors(home: ReleasePlace, cadp: Command, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    assert cadp(home, "budget", "backup", target).code == 0
    cadp(home, "budget", "restore", target).refused(1, "there is a ledger", "move it away")
    shown = cadp(home, "budget", "show", "--json").out
    remove(home)
    done = cadp(home, "budget", "restore", target)
    assert done.code == 0, done.err
    assert "The anchors at" in done.out
    assert "agree up to entry 4" in done.out
    assert cadp(home, "budget", "show", "--json").out == shown


def test_the_command_says_what_to_do_with_an_older_copy(home: ReleasePlace, cadp: Command, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    assert cadp(home, "budget", "backup", target).code == 0
    with Ledger.open(home.settings.ledger_url, Store.open(home.settings.anchors_url)) as ledger:
        ledger.charge("shapes", release="shapes/1.0.0", key="late", event=PureEvent(1.0), parameters={})
    remove(home)
    done = cadp(home, "budget", "restore", target)
    done.refused(1, "an older copy was restored", "cadp budget recover")
    assert "restored from" in done.out
    cadp(home, "budget", "show").refused(1, "cadp budget recover")


def test_the_command_moves_a_ledger_to_a_server(
    home: ReleasePlace, cadp: Command, tmp_path: Path, pg_database: str
) -> None:
    target = tmp_path / "copy.db"
    assert cadp(home, "budget", "backup", target).code == 0
    server = {"CADP_LEDGER": pg_database}
    done = cadp(home, "budget", "restore", target, settings=server)
    assert done.code == 0, done.err
    shown = cadp(home, "budget", "show", "--json", settings=server)
    assert shown.code == 0, shown.err
    assert shown.out == cadp(home, "budget", "show", "--json").out
    done = cadp(home, "budget", "backup", tmp_path / "from the server.db", settings=server)
    assert done.code == 0, done.err
    assert rows(str(tmp_path / "from the server.db")) == rows(str(target))


def remove(home: ReleasePlace) -> None:
    file = Path(home.settings.ledger_url.removeprefix("sqlite:///"))
    lost = home.folder / "lost"
    lost.mkdir()
    for path in file.parent.glob("ledger.db*"):
        shutil.move(path, lost)
