"""Alembic's entry: runs on the connection, and inside the transaction, of whoever called."""

from alembic import context
from sqlalchemy import Connection

from cadp.errors import LedgerError
from cadp.ledger.schema import metadata


def run() -> None:
    """Run the migrations that Alembic selected."""
    connection = context.config.attributes.get("connection")
    if not isinstance(connection, Connection):
        raise LedgerError("the ledger's migrations are run by `cadp budget init`, not by the alembic command")
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


run()
