"""What is particular to a ledger in a file."""

import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cadp.errors import CadpError, LedgerError, LedgerRewound, SettingsError
from cadp.ledger import Ledger
from cadp.ledger.mounts import memory_file_system, network_file_system
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


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("/dev/null", LedgerError, "it is a device, pipe or socket, not a file"),
        ("/dev/null/ledger.db", SettingsError, "cannot be looked for: Not a directory"),
        (f"/{'x' * 300}/ledger.db", SettingsError, "cannot be looked for: File name too long"),
    ],
    ids=["device", "below a file", "too long"],
)
def test_a_place_where_no_ledger_can_be(tmp_path: Path, path: str, error: type[Exception], message: str) -> None:
    for act in (Ledger.open, Ledger.init):
        with pytest.raises(error, match=message):
            act(path, FilePlace(tmp_path).anchors)


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    place = FilePlace(tmp_path)
    place.file.parent.mkdir()
    place.file.symlink_to(tmp_path / "gone.db")
    for act in (place.open, place.init):
        with pytest.raises(SettingsError, match="is a link to .*gone.db, where nothing is"):
            act()
    assert place.file.is_symlink()
    assert not (tmp_path / "gone.db").exists()


def test_a_second_name_of_the_file_is_refused_but_not_the_one_of_its_creation(file_place: FilePlace) -> None:
    fresh = file_place.file.with_name(f".{file_place.file.name}.0123456789abcdef.new")
    fresh.hardlink_to(file_place.file)
    file_place.open().close()
    other = file_place.file.with_name("other.db")
    other.hardlink_to(file_place.file)
    for act in (file_place.open, file_place.init):
        with pytest.raises(LedgerError, match=r"has 3 names \(hard links\)"):
            act()
    other.unlink()
    fresh.unlink()
    file_place.open().close()


def as_another_user(work: Callable[[], object]) -> str:
    """Return what `work` says to a user who owns nothing here: in a child, as only root can become one."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = "it died"
        try:
            os.setgid(65534)
            os.setuid(65534)
            said = str(work())
        except CadpError as error:
            said = f"{type(error).__name__}: {error}"
        finally:
            os.write(writing, said.encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


@pytest.fixture
def readable() -> Iterator[FilePlace]:
    """A ledger that another user may read, in a folder that such a user can enter (pytest's are closed)."""
    folder = Path(tempfile.mkdtemp(prefix="cadp-readable-", dir="/tmp"))
    place = FilePlace(folder / "it")
    try:
        with place.init() as ledger:
            add_population(ledger)
            spend(ledger, "a")
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield place
    finally:
        shutil.rmtree(folder)


@contextmanager
def reader(place: FilePlace) -> Iterator[Callable[[Callable[[Ledger], object]], str]]:
    """Asks the ledger as somebody who may read its files and write none."""

    def opened(ask: Callable[[Ledger], object]) -> object:
        with place.open() as ledger:
            return ask(ledger)

    if os.geteuid() == 0:
        yield lambda ask: as_another_user(lambda: opened(ask))
        return

    def here(ask: Callable[[Ledger], object]) -> str:
        files = list(place.file.parent.iterdir())
        for path in (*files, place.file.parent):
            path.chmod(0o555 if path.is_dir() else 0o444)
        try:
            return str(opened(ask))
        except CadpError as error:
            return f"{type(error).__name__}: {error}"
        finally:
            place.file.parent.chmod(0o755)
            for path in files:
                path.chmod(0o644)

    yield here


def test_a_reader_without_the_right_to_write_reads_along(readable: FilePlace) -> None:
    with readable.open(), reader(readable) as ask:
        assert ask(lambda ledger: ledger.budget("people").charged) == "0.5"
        assert ask(lambda ledger: len(ledger.history())) == "3"
        assert "entries=3" in ask(lambda ledger: ledger.check())
        refused = ask(lambda ledger: spend(ledger, "b"))
        assert "this user may not write it: nothing was recorded; run as the ledger's owner" in refused


def test_a_reader_is_told_what_to_read_instead_and_leaves_nothing(readable: FilePlace) -> None:
    # Even into a folder that lets it: a log of its own would keep the owner from writing.
    readable.file.parent.chmod(0o777)
    with reader(readable) as ask:
        said = ask(lambda ledger: ledger.populations())
    assert "may read the ledger" in said
    assert "`cadp budget backup` and a copy of the anchors" in said
    assert [file.name for file in readable.file.parent.iterdir()] == ["ledger.db"]


def test_a_closed_folder_is_no_missing_ledger(readable: FilePlace) -> None:
    readable.file.parent.chmod(0)
    try:
        if os.geteuid() == 0:
            said = as_another_user(readable.open)
        else:
            with pytest.raises(SettingsError) as refusal:
                readable.open()
            said = f"SettingsError: {refusal.value}"
    finally:
        readable.file.parent.chmod(0o755)
    assert said.startswith("SettingsError")
    assert "cannot be looked for: Permission denied" in said


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


@pytest.mark.parametrize(("path", "kind"), [("/tmp/ledger.db", "tmpfs"), ("/home/x", None), ("/mnt/shadowed/x", None)])
def test_a_file_system_in_memory(tmp_path: Path, path: str, kind: str | None) -> None:
    table = tmp_path / "mounts"
    table.write_text(MOUNTS)
    assert memory_file_system(Path(path), table) == kind
    assert memory_file_system(Path(path), tmp_path / "no table of mounts") is None


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
