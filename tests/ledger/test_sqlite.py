"""What is particular to a ledger in a file."""

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from cadp.errors import LedgerError, LedgerRewound, SettingsError
from cadp.ledger import Ledger
from cadp.ledger.mounts import network_file_system
from cadp.privacy.accountant import PureEvent
from tests.ledger.places import FilePlace, add_population


def spend(ledger: Ledger, key: str) -> None:
    ledger.charge("people", release="r/1", key=key, event=PureEvent(0.5), parameters={})


def test_the_file_is_its_owners_alone_even_under_an_open_umask(tmp_path: Path) -> None:
    place, umask = FilePlace(tmp_path / "new"), os.umask(0)
    try:
        with place.init() as ledger:
            add_population(ledger)
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in place.file.parent.iterdir()}
    finally:
        os.umask(umask)
    assert modes == dict.fromkeys(("ledger.db", "ledger.db-wal", "ledger.db-shm"), 0o600)
    assert stat.S_IMODE(place.file.parent.stat().st_mode) == 0o700


def test_every_connection_is_durable_and_checks_references(file_place: FilePlace) -> None:
    with file_place.open() as ledger:
        add_population(ledger)
        with ledger._database.writing() as connection:
            found = [
                connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            ]
    assert found == ["wal", 2, 1, 30_000]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"garbage, many bytes of it " * 400, "is not an SQLite database", id="garbage"),
        pytest.param(b"", "is a database but not a ledger", id="empty"),
    ],
)
def test_a_foreign_file_is_refused_and_left_alone(tmp_path: Path, content: bytes, message: str) -> None:
    place = FilePlace(tmp_path)
    place.file.parent.mkdir()
    place.file.write_bytes(content)
    for act in (place.open, place.init):
        with pytest.raises(LedgerError, match=message):
            act()
    assert not place.anchor_files()
    assert not content or place.file.read_bytes() == content


def test_a_folder_is_refused(tmp_path: Path) -> None:
    place = FilePlace(tmp_path)
    place.file.mkdir(parents=True)
    with pytest.raises(LedgerError, match="cannot be opened"):
        place.open()


def test_a_lost_file_is_not_replaced_by_an_empty_one(file_place: FilePlace) -> None:
    file_place.file.unlink()
    with pytest.raises(LedgerRewound, match="put the newest copy"):
        file_place.init()
    assert not file_place.file.exists()


def test_a_failed_creation_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = FilePlace(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cadp.ledger.sqlite.os.link", fail)
    with pytest.raises(SettingsError, match="cannot create the ledger .*No space left"):
        place.init()
    assert list(place.file.parent.iterdir()) == []


def test_a_log_that_a_lost_ledger_left_is_not_read_into_a_new_one(tmp_path: Path) -> None:
    place = FilePlace(tmp_path)
    with place.init() as ledger:
        add_population(ledger)
        # A deleted file whose last writer was killed leaves its log behind.
        log = Path(f"{place.file}-wal").read_bytes()
    place.file.unlink()
    Path(f"{place.file}-wal").write_bytes(log)
    fresh = FilePlace(place.folder)
    for file in fresh.anchors_folder.rglob("*.json"):
        file.unlink()
    with pytest.raises(SettingsError, match="is left of a lost ledger"):
        fresh.init()
    Path(f"{place.file}-wal").unlink()
    with fresh.init() as ledger:
        assert ledger.populations() == []


def test_a_locked_ledger_says_so(file_place: FilePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cadp.ledger.engine.BUSY_SECONDS", 0.05)
    with file_place.open() as ledger:
        other = sqlite3.connect(file_place.file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="write lock"):
            add_population(ledger)
        other.execute("ROLLBACK")
        other.close()
        add_population(ledger)


MOUNTS = """\
/dev/vda / ext4 rw 0 0
tmpfs /tmp tmpfs rw 0 0
server:/export /mnt/share nfs4 rw,vers=4.2 0 0
/dev/vdb /mnt/share/local xfs rw 0 0
//server/x /mnt/with\\040space cifs rw 0 0
someone@host:/ /mnt/far fuse.sshfs rw 0 0
overlay /mnt/near fuse.fuse-overlayfs rw 0 0
tmpfs /mnt/shadowed tmpfs rw 0 0
server:/export /mnt/shadowed nfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/ledger.db", None),
        ("/tmp/ledger.db", None),
        ("/mnt/share/ledger.db", "nfs4"),
        ("/mnt/share", "nfs4"),
        ("/mnt/shared/ledger.db", None),
        ("/mnt/share/local/ledger.db", None),
        ("/mnt/with space/ledger.db", "cifs"),
        ("/mnt/far/deep/ledger.db", "fuse.sshfs"),
        ("/mnt/near/ledger.db", None),
        ("/mnt/shadowed/ledger.db", "nfs"),
    ],
)
def test_the_file_system_of_a_path_is_its_longest_mount(tmp_path: Path, path: str, kind: str | None) -> None:
    table = tmp_path / "mounts"
    table.write_text(MOUNTS)
    assert network_file_system(Path(path), table) == kind
    assert network_file_system(Path(path), tmp_path / "no table of mounts") is None


def test_a_ledger_on_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, table = FilePlace(tmp_path), tmp_path / "mounts"
    table.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/export {tmp_path.resolve()} nfs4 rw 0 0\n")
    monkeypatch.setattr("cadp.ledger.sqlite.network_file_system", lambda path: network_file_system(path, table))
    for act in (place.open, place.init):
        with pytest.raises(SettingsError, match=r"would lie on nfs4, .*use a local disk, or PostgreSQL"):
            act()
    assert not place.file.exists()


def test_a_relative_and_a_plain_path_are_addresses_too(file_place: FilePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file_place.file.parent)
    for url in ("sqlite:///ledger.db", "ledger.db", str(file_place.file)):
        Ledger.open(url, file_place.anchors).close()


def test_a_write_ahead_log_that_was_deleted_is_noticed(file_place: FilePlace) -> None:
    with file_place.open() as ledger:
        add_population(ledger)
        spend(ledger, "earlier")
    with file_place.open() as ledger:
        spend(ledger, "later")
        # What a crash leaves behind: the newest entries are in the log alone.
        crashed = file_place.twin()
    log = Path(f"{crashed.removeprefix('sqlite:///')}-wal")
    assert log.stat().st_size > 0
    whole = log.read_bytes()
    for left in (b"", whole[: len(whole) // 2]):
        file_place.restore(crashed)
        Path(f"{file_place.file}-wal").write_bytes(left)
        with pytest.raises(LedgerRewound, match=r"ends at entry 3, but entry 4 is anchored"):
            file_place.open()
    file_place.restore(crashed)
    with file_place.open() as ledger:
        assert len(ledger.charges()) == 2
        ledger.check()


def test_a_file_that_was_cut_short_is_refused(file_place: FilePlace) -> None:
    with file_place.open() as ledger:
        add_population(ledger)
    whole = file_place.file.read_bytes()
    file_place.file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LedgerError), file_place.open() as ledger:
        ledger.check()
    assert len(file_place.anchor_files()) == 2
