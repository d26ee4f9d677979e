"""A ledger in an SQLite file: one machine, any number of its processes.

Python's `sqlite3` opens no transaction at a SELECT: with its default, eight processes that read the total and then
insert overspend without an error. So the driver's own transactions are switched off and every transaction is begun
here: plain for reading, IMMEDIATE (the file's write lock first) for anything that may write.
"""

import contextlib
import glob
import os
import random
import secrets
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from cadp.errors import LedgerError, SettingsError
from cadp.ledger import declared, engine
from cadp.ledger.address import Address
from cadp.ledger.engine import Database
from cadp.ledger.mounts import network_file_system

BEGIN_READ = "BEGIN"
BEGIN_WRITE = "BEGIN IMMEDIATE"

_MEANING = {
    sqlite3.SQLITE_NOTADB: "it is not an SQLite database: point the ledger's address at the right file",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: stop all writers and put back the newest copy",
    sqlite3.SQLITE_BUSY: "another process held its write lock too long: see which one does, and run again",
    sqlite3.SQLITE_FULL: "the disk is full: nothing was recorded; make room and run again",
    sqlite3.SQLITE_READONLY: "this user may not write it: nothing was recorded; run as the ledger's owner, or let the "
    "owner give this user the right to write the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check that it is a file and that this user may read and write it",
    sqlite3.SQLITE_IOERR: "the disk failed: nothing is certain until it is mended; open the ledger again then",
    sqlite3.SQLITE_PERM: "this user may not open it",
}


class SqliteDatabase(Database):
    """An SQLite file: WAL, synchronous=FULL, foreign keys on."""

    def __init__(self, address: Address) -> None:
        """Point at a file; nothing is opened or created.

        Raises:
            SettingsError: it lies, or would lie, on a file system of another machine.
        """
        if address.path is None:
            raise SettingsError(f"the ledger {address} is not a file")
        self.path = address.path
        if kind := network_file_system(self.path):
            raise SettingsError(
                f"the ledger {self.path} would lie on {kind}, where SQLite's locks do not hold between machines: "
                f"use a local disk, or PostgreSQL (CADP_LEDGER=postgresql://…)"
            )
        # mode=rw: opening never creates the file.
        self._uri = f"file:{quote(os.fsencode(self.path))}?mode=rw"
        made = create_engine(
            "sqlite+pysqlite://", creator=self._connect, poolclass=QueuePool, pool_size=8, max_overflow=-1
        )
        super().__init__(address, made)
        event.listen(made, "connect", _configure)
        event.listen(made, "begin", _begin)

    def exists(self) -> bool:
        """Return whether there is a file.

        Raises:
            SettingsError: it cannot be looked for, or a link leads nowhere.
            LedgerError: it is no file, or one with several names.
        """
        if self._status(follow=False) is None:
            return False
        found = self._status()
        if found is None:
            raise SettingsError(
                f"the ledger {self.path} is a link to {os.path.realpath(self.path)}, where nothing is: bring back what "
                f"it points to, or remove the link"
            )
        if not stat.S_ISREG(found.st_mode):
            what = "a folder" if stat.S_ISDIR(found.st_mode) else "a device, pipe or socket"
            raise LedgerError(f"the ledger {self.path} cannot be opened: it is {what}, not a file; see CADP_LEDGER")
        if self._other_names():
            raise LedgerError(
                f"the ledger {self.path} has {found.st_nlink} names (hard links), and SQLite keeps a log beside each "
                f"name: work under two of them damages the file. Remove the others (find -samefile lists them); to "
                f"copy a ledger, use `cadp budget backup`"
            )
        return True

    def _status(self, *, follow: bool = True) -> os.stat_result | None:
        try:
            return self.path.stat(follow_symlinks=follow)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise SettingsError(
                f"the ledger {self.path} cannot be looked for: {why}; check CADP_LEDGER, and that this user may enter "
                f"every folder above it"
            ) from error

    def _other_names(self) -> bool:
        """Return whether the file has a name besides its own and the one that `create` holds for a moment."""
        while (found := self._status()) is not None and found.st_nlink > 1:
            real = self.path.resolve()
            fresh = list(real.parent.glob(f".{glob.escape(real.name)}.*.new"))
            held = sum(_inode(path) == found.st_ino for path in fresh)
            again = self._status()
            if again is not None and again.st_nlink == found.st_nlink:
                return found.st_nlink - held > 1
        return False

    def create(self, fill: Callable[[Connection], None]) -> None:
        """Create the file (mode 0600) beside its place and link it there; never over another file.

        Raises:
            SettingsError: the folder cannot be written, or a log of another ledger lies in it.
        """
        fresh = self.path.parent / f".{self.path.name}.{secrets.token_hex(8)}.new"
        log = Path(f"{self.path}-wal")
        if os.path.lexists(log) and not self.exists():
            raise SettingsError(
                f"{log} is left of a lost ledger and would be read into the new one: move it away first"
            )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            try:
                database = SqliteDatabase(Address.parse(str(fresh)))
                try:
                    database.write(fill)
                finally:
                    database.close()
                # A race of two creations has one winner; the loser's file is forgotten.
                with contextlib.suppress(FileExistsError):
                    os.link(fresh, self.path)
                sync_folder(self.path.parent)
            finally:
                for suffix in ("", "-wal", "-shm"):
                    Path(f"{fresh}{suffix}").unlink(missing_ok=True)
        except OSError as error:
            raise SettingsError(f"cannot create the ledger {self.path}: {blocked(self.path, error)}") from error

    def problems(self, connection: Connection) -> Iterator[str]:
        """Yield what SQLite's own checks of pages, indexes and references find, and what is not as it was declared."""
        for (line,) in connection.exec_driver_sql("PRAGMA integrity_check"):
            if line != "ok":
                yield f"the file is damaged: {line}"
        for row in connection.exec_driver_sql("PRAGMA foreign_key_check"):
            yield f"a row of {row[0]} refers to nothing"
        yield from declared.changes(declared.in_file(connection), declared.in_new_file())

    def clock(self, connection: Connection) -> float:
        """Return this machine's clock: every process of the ledger is on this machine."""
        del connection
        return time.time()

    @contextmanager
    def _snapshot(self) -> Iterator[Connection]:
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def _locked(self) -> Iterator[Connection]:
        with self.engine.connect() as connection:
            connection.execution_options(cadp_write=True)
            with connection.begin():
                yield connection

    def _error(self, error: DBAPIError) -> LedgerError:
        code = getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        return LedgerError(f"the ledger {self.shown}: {error.orig}; {_MEANING.get(code, 'nothing was recorded')}")

    def _connect(self) -> sqlite3.Connection:
        # A log that a reader made would be the reader's own, and would keep the ledger's owner from writing.
        log = Path(f"{self.path}-shm")
        if os.access(self.path, os.R_OK) and not os.access(self.path, os.W_OK) and not log.exists():
            raise LedgerError(
                f"this user may read the ledger {self.path} but not write it, and SQLite cannot read it so while no "
                f"other process has it open: run as its owner, or read a copy: its owner gives you a file from "
                f"`cadp budget backup` and a copy of the anchors, for CADP_LEDGER and CADP_ANCHORS"
            )
        return sqlite3.connect(
            self._uri, uri=True, timeout=engine.BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )


def _configure(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA foreign_keys = ON")
        # FULL: a commit is on disk before it returns, so a power cut cannot give budget back.
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA journal_mode = WAL")
        (mode,) = cursor.fetchone() or ("?",)
        if mode != "wal":
            raise LedgerError(f"the ledger's file system has no write-ahead log (got {mode}): use a local disk")
    finally:
        cursor.close()


def _begin(connection: Connection) -> None:
    if connection.get_execution_options().get("cadp_write", False):
        _begin_write(connection)
    else:
        connection.exec_driver_sql(BEGIN_READ)


def _begin_write(connection: Connection) -> None:
    """Take the write lock, asking again and again.

    SQLite's own waiting sleeps ever longer, up to 100 ms, while a charge takes 2 ms: the lock would lie idle most of
    the time when many wait for it.
    """
    raw = connection.connection.dbapi_connection
    if raw is None:
        raise LedgerError("the connection to the ledger is gone")
    cursor = raw.cursor()
    until = time.monotonic() + engine.BUSY_SECONDS
    cursor.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                connection.exec_driver_sql(BEGIN_WRITE)
            except DBAPIError as error:
                code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
                if code != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(random.uniform(0.0002, 0.002))  # noqa: S311 (jitter)
            else:
                return
    finally:
        # An interrupt may have closed the connection; then its own error is the one to be seen.
        with contextlib.suppress(sqlite3.Error):
            cursor.execute(f"PRAGMA busy_timeout = {engine.BUSY_SECONDS * 1000:.0f}")
            cursor.close()


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def blocked(path: Path, error: OSError) -> str:
    """Say why a file cannot be made; of a file where a folder should be the system says only that it exists."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        for folder in path.parents:
            if folder.exists() and not folder.is_dir():
                return f"{folder} is not a folder; name another place"
    return f"{error.strerror}; name another place, or ask for the right to write into {path.parent}"


def _inode(path: Path) -> int | None:
    with contextlib.suppress(OSError):
        return path.stat(follow_symlinks=False).st_ino
    return None
