"""A ledger in a PostgreSQL database: any number of machines.

Every write takes the lock of the one row of `ledger` first, and only then reads. Under READ COMMITTED each statement
sees what was committed before *it* began, so what is read after the lock is the newest there is, and nobody else
writes until the commit: the transactions are serial. (Under REPEATABLE READ the snapshot could be older than the lock.)
Readers take a REPEATABLE READ snapshot and no lock.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, create_engine, event, inspect, select, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, NoSuchModuleError
from sqlalchemy.pool import ConnectionPoolEntry

from cadp.errors import LedgerError, LedgerMissing, SettingsError
from cadp.ledger import declared, engine, schema
from cadp.ledger.address import Address
from cadp.ledger.engine import Database, Unavailable

LOCK = select(schema.ledger.c.id).with_for_update()
"""The first statement of every write."""

_CREATION = 0x63616470
"""Key of the advisory lock under which a ledger is created: there is no row to lock yet."""

_CONNECT_SECONDS = 10
# A writer that hangs, or whose machine is gone, must not hold everybody else up for ever.
_SESSION = {
    "application_name": "cadp ledger",
    "lock_timeout": f"{engine.BUSY_SECONDS:.0f}s",
    "idle_in_transaction_session_timeout": "60s",
    "client_encoding": "UTF8",
}

_MEANING = {
    "28P01": "the password or the role is refused: see PGPASSWORD, PGPASSFILE and the role's rights",
    "28000": "the server lets this role not in: see its pg_hba.conf and the role's rights",
    "42501": "the role lacks a right: it must own the ledger's tables or be granted what docs/operating.md lists",
    "25006": "it takes no writes: a standby, or default_transaction_read_only is on; point to the primary",
    "53100": "the server's disk is full: nothing was recorded; make room and run again",
    "53300": "the server has no connection left: raise max_connections, or run fewer workers",
    "55P03": "another process held the ledger's row too long: see which one does (pg_stat_activity), and run again",
    "57014": "the statement was cancelled: nothing was recorded",
    "XX001": "the database is damaged: stop all writers and put back the newest copy",
    "XX002": "an index is damaged: stop all writers, REINDEX and run `cadp budget verify`",
}
# The client itself refuses these before it reaches a server.
_WRONG_OPTION = re.compile(
    r"invalid connection option|invalid port number|invalid (integer|\S+) value|certificate file"
)
# Connection lost or refused, the server stops or starts, a serialization failure, a deadlock: done again.
_AGAIN = ("08", "57P0", "40001", "40P01", "25P03")


class PostgresDatabase(Database):
    """A PostgreSQL database; it must exist, cadp makes only its tables in it."""

    def __init__(self, address: Address) -> None:
        """Point at a database; nothing is contacted.

        Raises:
            SettingsError: the driver is not installed.
        """
        try:
            made = create_engine(
                address.url,
                connect_args={"connect_timeout": _CONNECT_SECONDS},
                pool_size=8,
                max_overflow=-1,
            )
        except (ImportError, NoSuchModuleError) as error:
            raise SettingsError("a ledger in PostgreSQL needs its driver: pip install 'cadp[postgres]'") from error
        super().__init__(address, made)
        # Before SQLAlchemy asks the server anything: it cannot read the answers of some encodings.
        event.listen(made, "connect", _require_utf8, insert=True)
        event.listen(made, "connect", _configure)

    def exists(self) -> bool:
        """Return whether the database holds a ledger, or something that has its tables' names.

        Raises:
            LedgerMissing: the server has no such database.
        """
        ours = {"alembic_version", *schema.metadata.tables}
        return self.read(lambda connection: not ours.isdisjoint(inspect(connection).get_table_names()))

    def create(self, fill: Callable[[Connection], None]) -> None:
        """Create the tables in one transaction, under a lock that keeps two creations apart."""

        def once(connection: Connection) -> None:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CREATION})
            if not inspect(connection).has_table(schema.ledger.name):
                fill(connection)

        self._repeat(self._unlocked, once)

    def problems(self, connection: Connection) -> Iterator[str]:
        """Yield where the ledger's tables are not, or are not enforced, as the migrations declare them."""
        try:
            wanted = self._declared()
        except Unavailable:
            raise
        except LedgerError as error:
            yield f"the tables cannot be compared with fresh temporary ones, which this role has to make here: {error}"
        else:
            yield from declared.changes(declared.on_server(connection), wanted)

    def _declared(self) -> declared.Declared:
        """Describe what the migrations make on this server; nothing of it stays."""
        with self._explained(), self.engine.connect() as connection:
            transaction = connection.begin()
            try:
                return declared.on_server_anew(connection)
            finally:
                transaction.rollback()

    def clock(self, connection: Connection) -> float:
        """Return the server's clock, whatever the clocks of the workers say."""
        return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())

    @contextmanager
    def _snapshot(self) -> Iterator[Connection]:
        with self.engine.connect() as connection:
            connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield connection

    @contextmanager
    def _locked(self) -> Iterator[Connection]:
        with self._read_committed() as connection:
            connection.execute(LOCK)
            yield connection

    @contextmanager
    def _unlocked(self) -> Iterator[Connection]:
        with self._explained(), self._read_committed() as connection:
            yield connection

    @contextmanager
    def _read_committed(self) -> Iterator[Connection]:
        with self.engine.connect() as connection:
            # Said for each transaction: the pool gives a connection back the database's own default, whatever that is.
            connection.execution_options(isolation_level="READ COMMITTED")
            with connection.begin():
                yield connection

    def _error(self, error: DBAPIError) -> LedgerError:
        code = str(getattr(error.orig, "sqlstate", None) or "")
        said = (str(error.orig).strip().splitlines() or ["the connection was lost"])[0]
        if code == "3D000" or (not code and 'database "' in said and "does not exist" in said):
            return LedgerMissing(
                f"there is no database {self.shown}: create it (docs/operating.md), then the ledger in it"
            )
        if "during recovery" in said:
            code = "25006"
        for known, meaning in _MEANING.items():
            if code == known or (not code and _refused(known, said)):
                return LedgerError(f"the ledger {self.shown}: {said}; {meaning}")
        if not code and _WRONG_OPTION.search(said):
            return LedgerError(f"the ledger {self.shown}: {said}; the address (CADP_LEDGER) is wrong: mend it there")
        if error.connection_invalidated or not code or code.startswith(_AGAIN):
            return Unavailable(
                f"the ledger {self.shown} cannot be reached or hung up: {said}; run the same command again: "
                f"what was recorded is found, nothing is charged twice"
            )
        return LedgerError(f"the ledger {self.shown}: {said} ({code}); nothing was recorded")


def _refused(code: str, said: str) -> bool:
    """Tell a refusal at the door, which comes without a code, from a server that is away."""
    words = {"28P01": "password authentication failed", "28000": "no pg_hba.conf entry", "53300": "too many c"}
    return code in words and words[code] in said


def _require_utf8(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    raw: Any = connection
    encoding = raw.info.parameter_status("server_encoding")
    if encoding not in ("UTF8", None):
        name = raw.info.dbname
        raw.close()
        raise SettingsError(
            f"the database {name} is encoded in {encoding}, which cannot hold what the ledger writes: create the "
            f"database with ENCODING 'UTF8' (docs/operating.md)"
        )


def _configure(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    raw: Any = connection
    with raw.cursor() as cursor:
        for name, value in _SESSION.items():
            cursor.execute("SELECT set_config(%s, %s, false)", (name, value))
        # A commit that has returned is on disk; a server that waits for its standbys too goes on doing so.
        cursor.execute(
            "SELECT set_config('synchronous_commit', 'on', false) "
            "WHERE current_setting('synchronous_commit') IN ('off', 'local')"
        )
    raw.commit()
