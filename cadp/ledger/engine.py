"""The database behind the ledger: how it is opened, how a transaction begins, and what its failures mean.

Python's `sqlite3` opens no transaction at a SELECT: with its default, eight processes that read the total and then
insert overspend without an error. So the driver's own transactions are switched off and every transaction is begun
here: plain for reading, IMMEDIATE (the file's write lock first) for anything that may write.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, IntegrityError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, QueuePool

from cadp.errors import LedgerError, SettingsError

BEGIN_READ = "BEGIN"
BEGIN_WRITE = "BEGIN IMMEDIATE"
BUSY_SECONDS = 30.0

_MEANING = {
    sqlite3.SQLITE_NOTADB: "it is not an SQLite database: point the ledger's address at the right file",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: stop all writers and put back the newest copy",
    sqlite3.SQLITE_BUSY: f"another process held its write lock for {BUSY_SECONDS:g} s: see who does, and run again",
    sqlite3.SQLITE_FULL: "the disk is full: nothing was recorded; make room and run again",
    sqlite3.SQLITE_READONLY: "it may not be written by this user: nothing was recorded",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check that it is a file and that this user may read and write it",
    sqlite3.SQLITE_IOERR: "the disk failed: nothing is certain until it is mended; open the ledger again then",
    sqlite3.SQLITE_PERM: "this user may not open it",
}


def ledger_path(url: str) -> Path:
    """Return the file of a ledger's address: `sqlite:///relative`, `sqlite:////absolute` or a plain path.

    Raises:
        SettingsError: the address is not that of an SQLite file.
    """
    if "://" not in url:
        return Path(url).absolute()
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise SettingsError(f"the ledger's address {url!r} cannot be read: use sqlite:////absolute/path") from error
    if parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
        shown = parsed.render_as_string(hide_password=True)
        raise SettingsError(f"the ledger's address {shown} is not a file: use sqlite:////absolute/path")
    return Path(str(parsed.database)).absolute()


class Database:
    """An existing ledger file, WAL, synchronous=FULL, foreign keys on. Safe for threads and after a fork."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # mode=rw: opening never creates the file.
        self._uri = f"file:{quote(str(path))}?mode=rw"
        self._engine = create_engine(
            "sqlite+pysqlite://", creator=self._connect, poolclass=QueuePool, pool_size=8, max_overflow=-1
        )
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "checkout", _refuse_inherited)
        event.listen(self._engine, "begin", _begin)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent snapshot."""
        with self._explained(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that holds the ledger's only write lock from its first statement; committed at the end."""
        with self._explained(), self._engine.connect() as connection:
            connection.execution_options(cadp_write=True)
            with connection.begin():
                yield connection

    def close(self) -> None:
        """Close every pooled connection; the last one folds the write-ahead log into the file."""
        self._engine.dispose()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError as error:
            raise LedgerError(
                f"the ledger {self.path} refused an entry that breaks its own constraints ({error.orig}): "
                f"nothing was recorded"
            ) from error
        except DBAPIError as error:
            code = getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            meaning = _MEANING.get(code, "nothing was recorded")
            raise LedgerError(f"the ledger {self.path}: {error.orig}; {meaning}") from error


def file_problems(connection: Connection) -> Iterator[str]:
    """Yield what the database itself finds wrong with the file."""
    for (line,) in connection.exec_driver_sql("PRAGMA integrity_check"):
        if line != "ok":
            yield f"the file is damaged: {line}"
    for row in connection.exec_driver_sql("PRAGMA foreign_key_check"):
        yield f"a row of {row[0]} refers to nothing"


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


def _refuse_inherited(connection: DBAPIConnection, entry: ConnectionPoolEntry, proxy: PoolProxiedConnection) -> None:
    # A connection must not cross a fork: the child drops what it inherited and opens its own.
    owner = entry.info.setdefault("pid", os.getpid())
    if owner != os.getpid():
        entry.dbapi_connection = proxy.dbapi_connection = None  # type: ignore[misc]
        raise DisconnectionError(f"connection belongs to process {owner}")


def _begin(connection: Connection) -> None:
    write = connection.get_execution_options().get("cadp_write", False)
    connection.exec_driver_sql(BEGIN_WRITE if write else BEGIN_READ)
