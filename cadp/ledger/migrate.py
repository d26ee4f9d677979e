"""Creating the ledger's file and bringing its schema to this version, by the packaged Alembic migrations."""

import contextlib
import os
import secrets
import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, inspect, text

from cadp.errors import LedgerError, SettingsError
from cadp.ledger import schema
from cadp.ledger.canonical import utc_now
from cadp.ledger.chain import append
from cadp.ledger.engine import Database

_ONE_AT_A_TIME = threading.Lock()


def create_file(path: Path) -> None:
    """Create a ledger (mode 0600) with its first chain entry; whole or not at all, and never over another file.

    Raises:
        SettingsError: the folder cannot be written.
    """
    fresh = path.parent / f".{path.name}.{secrets.token_hex(8)}.new"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            _fill(fresh)
            # A race of two creations has one winner; the loser's file is forgotten.
            with contextlib.suppress(FileExistsError):
                os.link(fresh, path)
            _sync_folder(path.parent)
        finally:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{fresh}{suffix}").unlink(missing_ok=True)
    except OSError as error:
        raise SettingsError(f"cannot create the ledger {path}: {error.strerror}") from error


def upgrade_file(path: Path) -> None:
    """Bring an existing ledger to this version's schema.

    Raises:
        LedgerError: the file is no ledger, or a newer version's.
    """
    database = Database(path)
    try:
        with database.read() as connection:
            found = require_ledger(connection, path)
        if found < schema.REVISION:
            with database.write() as connection:
                upgrade(connection)
    finally:
        database.close()


def upgrade(connection: Connection) -> None:
    """Run every migration that the database lacks, inside the caller's transaction."""
    config = Config()
    config.set_main_option("script_location", "cadp.ledger:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    # Alembic keeps the running migration in module globals.
    with _ONE_AT_A_TIME:
        command.upgrade(config, "head")


def revision_of(connection: Connection) -> str | None:
    """Return the schema's revision, or None if this database is not a ledger."""
    tables = set(inspect(connection).get_table_names())
    if not {"alembic_version", "ledger", "chain"} <= tables:
        return None
    revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return None if revision is None else str(revision)


def require_current(connection: Connection, path: Path) -> None:
    """Refuse a database that is not a ledger, or whose schema is not this version's.

    Raises:
        LedgerError: says which, and what to do.
    """
    found = require_ledger(connection, path)
    if found < schema.REVISION:
        raise LedgerError(
            f"the ledger {path} has schema {found}, this version needs {schema.REVISION}: run `cadp budget init`"
        )


def require_ledger(connection: Connection, path: Path) -> str:
    """Return the schema's revision of a ledger that this version may touch.

    Raises:
        LedgerError: the file is another database, or the ledger of a newer version.
    """
    found = revision_of(connection)
    if found is None:
        raise LedgerError(f"{path} is a database but not a ledger: point the ledger's address at the right file")
    if found > schema.REVISION:
        raise LedgerError(
            f"the ledger {path} has schema {found}, newer than {schema.REVISION}, the newest this version of cadp "
            f"knows: install the newer cadp"
        )
    return found


def _fill(path: Path) -> None:
    database = Database(path)
    try:
        with database.write() as connection:
            upgrade(connection)
            identity = secrets.token_hex(16)
            connection.execute(schema.ledger.insert().values(only=1, id=identity, at=utc_now()))
            append(connection, "ledger", {"id": identity})
    finally:
        database.close()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
