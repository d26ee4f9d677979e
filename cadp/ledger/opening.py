"""Which database an address means."""

from cadp.ledger.address import Address
from cadp.ledger.engine import Database
from cadp.ledger.postgres import PostgresDatabase
from cadp.ledger.sqlite import SqliteDatabase


def database_at(url: str) -> Database:
    """Return the database at `url`; nothing is contacted or created.

    Raises:
        SettingsError: the address is none, its driver is missing, or it is a file on a network file system.
    """
    address = Address.parse(url)
    return PostgresDatabase(address) if address.path is None else SqliteDatabase(address)
