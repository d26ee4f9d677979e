"""Bringing an older ledger to this version's schema, on either database.

Its chain gets an `upgrade` entry, which is anchored. Then, under the write lock and in one transaction, it is backed
up and migrated: the backup ends where the migration began, nobody comes between, and a failure leaves the ledger as it
was. Cut off anywhere, the same again goes on.
"""

import secrets
from pathlib import Path

from sqlalchemy import Connection

from cadp.errors import SettingsError
from cadp.ledger import schema
from cadp.ledger.anchors import AnchoredChain
from cadp.ledger.backup import write_copy
from cadp.ledger.chain import append, head
from cadp.ledger.engine import Database
from cadp.ledger.migrate import require_ledger, upgrade
from cadp.store import Store


def upgrade_ledger(database: Database, anchors: Store, backups: Path | None) -> Path | None:
    """Bring an existing ledger to this version's schema; return the backup that was made, None if it is current.

    Args:
        database: where the ledger is.
        anchors: where its anchors are.
        backups: folder for the backup; None for the ledger's own folder, which only a file has.

    Raises:
        LedgerError: it is no ledger, or a newer version's.
        LedgerRewound: it disagrees with its anchors.
        SettingsError: there is no folder for the backup.
    """
    found = database.read(lambda connection: require_ledger(connection, database.shown))
    if found >= schema.REVISION:
        return None
    folder = backups or (database.address.path.parent if database.address.path else None)
    if folder is None:
        raise SettingsError(
            f"the ledger {database.shown} has schema {found} and is backed up before it is brought to "
            f"{schema.REVISION}: give a folder for the backup"
        )
    chain = AnchoredChain(database, anchors)
    chain.check_opening()
    chain.record(lambda connection: _announce(connection, database.shown))
    made: list[Path] = []

    def migrate(connection: Connection) -> None:
        before = require_ledger(connection, database.shown)
        if before >= schema.REVISION:
            return
        # Another name each time: one that an interrupted upgrade left may lack what was sealed since.
        name = f"ledger-{chain.identity[:8]}-schema-{before}-{secrets.token_hex(4)}.db"
        made.append(write_copy(connection, folder / name, database.shown))
        upgrade(connection)

    database.write(migrate)
    return made[-1] if made else None


def _announce(connection: Connection, shown: str) -> None:
    found, newest = require_ledger(connection, shown), head(connection)
    body = {"from": found, "to": schema.REVISION}
    # Asked again after an interruption, or by another process, the entry or even the migration is there already.
    announced = newest is not None and newest.kind == "upgrade" and newest.value["body"] == body
    if found < schema.REVISION and not announced:
        append(connection, "upgrade", body)
