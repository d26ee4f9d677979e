"""A ledger's schema: its revision, and the packaged Alembic migrations that make and change it, on either database.

Everything here runs inside the caller's transaction, so a ledger is made or migrated whole or not at all.
"""

import secrets
import threading

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, inspect, text

from cadp.errors import LedgerError
from cadp.ledger import schema
from cadp.ledger.canonical import utc_now
from cadp.ledger.chain import append

_ONE_AT_A_TIME = threading.Lock()


class Outdated(LedgerError):
    """The ledger is an earlier version's: `Ledger.init` upgrades it."""


def create_ledger(connection: Connection) -> None:
    """Make every table, the ledger's identity and the first entry of its chain, inside the caller's transaction."""
    upgrade(connection)
    identity, now = secrets.token_hex(16), utc_now()
    connection.execute(schema.ledger.insert().values(only=1, id=identity, at=now))
    append(connection, "ledger", {"id": identity}, at=now)


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Run every migration that the database lacks up to `revision`, inside the caller's transaction.

    Raises:
        LedgerError: the database's revision, or the wanted one, is none of this version's.
    """
    config = Config()
    config.set_main_option("script_location", "cadp.ledger:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    # Alembic keeps the running migration in module globals.
    with _ONE_AT_A_TIME:
        try:
            command.upgrade(config, revision)
        except CommandError as error:
            raise LedgerError(f"no way to schema {revision}: {error}; nothing was changed") from error


def revision_of(connection: Connection) -> str | None:
    """Return the schema's revision, or None if this database is not a ledger."""
    tables = set(inspect(connection).get_table_names())
    if not {"alembic_version", "ledger", "chain"} <= tables:
        return None
    revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return None if revision is None else str(revision)


def require_current(connection: Connection, shown: str) -> None:
    """Refuse a database that is not a ledger, or whose schema is not this version's.

    Raises:
        Outdated: it is older; the message says what to do.
        LedgerError: it is no ledger, or a newer version's.
    """
    found = require_ledger(connection, shown)
    if found < schema.REVISION:
        raise Outdated(
            f"the ledger {shown} has schema {found}, this version needs {schema.REVISION}: run `cadp budget init`, "
            f"which makes a backup first"
        )


def require_ledger(connection: Connection, shown: str) -> str:
    """Return the schema's revision of a ledger that this version may touch.

    Raises:
        LedgerError: it is another database, or the ledger of a newer version.
    """
    found = revision_of(connection)
    if found is None:
        raise LedgerError(f"{shown} is a database but not a ledger: point the ledger's address at the right one")
    if found > schema.REVISION:
        raise LedgerError(
            f"the ledger {shown} has schema {found}, newer than {schema.REVISION}, the newest this version of cadp "
            f"knows: install the newer cadp"
        )
    return found
