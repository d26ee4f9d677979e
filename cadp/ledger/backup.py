"""A backup of a ledger, whichever database it is in: an SQLite file with the same tables, a ledger in itself.

Only the ledger's rows are in it. The anchors are not, and must not be: they are what tells an old copy from the newest.
Nor are the populations' secrets and the signing key.

A ledger moves from SQLite to PostgreSQL, or to another server, in two steps: stop every worker and back it up; restore
the backup at the new address, with the same anchors. The old one is a copy from then on. The anchors let one of the two
go on: whichever writes first takes the next entry's number, and the other is refused.
"""

import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, ExceptionContext, NullPool, create_engine, event, func, select

from cadp.errors import LedgerError, LedgerMissing, SettingsError
from cadp.ledger import schema
from cadp.ledger.chain import head
from cadp.ledger.copying import copy_ledger
from cadp.ledger.engine import Database
from cadp.ledger.migrate import require_ledger
from cadp.ledger.sqlite import blocked, sync_folder


@dataclass(frozen=True, slots=True)
class Contents:
    """What a backup holds.

    Attributes:
        ledger: the ledger's identity, 32 hex digits.
        revision: its schema.
        entries: how many entries its chain has.
        newest: number of the newest one.
        populations: how many there are.
        charges: how many there are, voided ones included.
        size: bytes of the file.
    """

    ledger: str
    revision: str
    entries: int
    newest: int
    populations: int
    charges: int
    size: int


def back_up(database: Database, target: Path) -> Path:
    """Write one snapshot of a ledger, of any schema that is known, to a new SQLite file and return its path.

    The file (mode 0600) appears whole or not at all, is on disk when this returns, and is checked before it appears.
    Others go on charging meanwhile; what they add after the snapshot is not in it.

    Raises:
        LedgerError: there is something at `target`, which is left alone; or the copy is not whole.
        SettingsError: the folder cannot be written.
    """
    with database.reading() as connection:
        return write_copy(connection, target, database.shown)


def write_copy(connection: Connection, target: Path, shown: str) -> Path:
    """Do what `back_up` does with what `connection` sees: inside a write transaction, the newest there is."""
    target = target.expanduser().absolute()
    revision = require_ledger(connection, shown)
    with _staged(target) as fresh:
        with _file(fresh, "rw") as copy:
            copy_ledger(connection, copy, revision)
        _require_sound(fresh, f"the ledger {shown}, or the disk below {target.parent},")
    return target


def restore(backup: Path, database: Database) -> Contents:
    """Fill an address at which there is no ledger with a backup's rows, in one transaction; return what they are.

    The schema stays the backup's. The anchors are not asked: whoever opens the ledger next compares it with them, and
    a copy that is older than they are is refused then.

    Args:
        backup: a file from `back_up`, or any ledger's SQLite file; it is only read.
        database: where; a PostgreSQL database must exist.

    Raises:
        LedgerMissing: there is no backup.
        LedgerError: it is no backup of a ledger or is damaged; or there is a ledger, which is left alone.
    """
    _require_sound(backup, f"the backup {backup}")
    with _file(backup, "ro") as source:
        revision = require_ledger(source, str(backup))
        if database.exists():
            raise LedgerError(
                f"there is a ledger, or something else, at {database.shown}: it is left as it is; to restore there, "
                f"move it away first"
            )
        database.create(lambda connection: copy_ledger(source, connection, revision))
        # If another process made a ledger there meanwhile, that one stayed.
        if database.read(head) != head(source):
            raise LedgerError(f"another process made a ledger at {database.shown} meanwhile: {backup} is not in it")
    return contents(backup)


def contents(backup: Path) -> Contents:
    """Return what a backup holds.

    Raises:
        LedgerMissing: there is none.
        LedgerError: it is no backup of a ledger, or a newer version's.
    """
    with _file(backup, "ro") as connection:
        revision = require_ledger(connection, str(backup))

        def count(table: str) -> int:
            return connection.execute(select(func.count()).select_from(schema.metadata.tables[table])).scalar_one()

        return Contents(
            ledger=connection.execute(select(schema.ledger.c.id)).scalar_one(),
            revision=revision,
            entries=count("chain"),
            newest=connection.execute(select(func.max(schema.chain.c.seq))).scalar_one() or 0,
            populations=count("populations"),
            charges=count("charges"),
            size=backup.stat().st_size,
        )


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """Yield a fresh file of mode 0600 beside `target`; link it there, durably, if nothing failed."""
    fresh = target.parent / f".{target.name}.{secrets.token_hex(8)}.new"
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _require_free(target)
        os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            yield fresh
            with fresh.open("rb") as file:
                os.fsync(file.fileno())
            _link(fresh, target)
            sync_folder(target.parent)
        finally:
            for suffix in ("", "-journal"):
                Path(f"{fresh}{suffix}").unlink(missing_ok=True)
    except OSError as error:
        raise SettingsError(f"cannot write the backup {target}: {blocked(target, error)}") from error


def _link(fresh: Path, target: Path) -> None:
    try:
        os.link(fresh, target)
    except FileExistsError as error:
        raise _taken(target) from error


def _require_free(target: Path) -> None:
    # Asked early to spare the work; the link decides.
    if os.path.lexists(target):
        raise _taken(target)


def _taken(target: Path) -> LedgerError:
    return LedgerError(f"there is something at {target}: it is left as it is; give the backup another name")


@contextmanager
def _file(path: Path, mode: str) -> Iterator[Connection]:
    """One transaction in an SQLite file that no other process writes: no write-ahead log, so any disk will do."""
    try:
        there = path.is_file()
    except (OSError, ValueError) as error:
        raise LedgerError(f"the backup {path} cannot be looked for: {error}") from error
    if not there:
        raise LedgerMissing(f"there is no backup at {path}: give the path of a file from `cadp budget backup`")

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(
            f"file:{quote(os.fsencode(path.absolute()))}?mode={mode}", uri=True, isolation_level=None
        )

    def explain(context: ExceptionContext) -> None:
        raise LedgerError(f"the backup {path}: {context.original_exception}") from context.original_exception

    engine = create_engine("sqlite+pysqlite://", creator=connect, poolclass=NullPool)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    event.listen(engine, "handle_error", explain)
    with engine.begin() as connection:
        yield connection


def _require_sound(path: Path, what: str) -> None:
    with _file(path, "ro") as connection:
        damage = [line for (line,) in connection.exec_driver_sql("PRAGMA integrity_check") if line != "ok"]
        lost = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    if damage or lost:
        found = [*damage, *(f"a row of {row[0]} refers to nothing" for row in lost)]
        raise LedgerError(f"{what} is damaged: {'; '.join(found)}; nothing was written")
