"""Copying a ledger's rows between two databases of any kind, table by table in the order of references."""

from functools import cache

from sqlalchemy import Connection, MetaData, Table, create_engine, func, insert, inspect, select

from cadp.errors import LedgerError
from cadp.ledger.chain import head
from cadp.ledger.migrate import upgrade

_ROWS = 1000
"""Rows that are in memory at a time."""


def copy_ledger(source: Connection, target: Connection, revision: str) -> None:
    """Make the tables of `revision` in an empty database and fill them from a ledger of that revision.

    Both run inside their callers' transactions. What was copied is counted and its newest entry compared.

    Raises:
        LedgerError: the source's tables are not its revision's, or the copy is not whole.
    """
    upgrade(target, revision)
    for table in tables_of(revision):
        _copy_table(source, target, table, revision)
        _move_sequences(target, table)
    if head(source) != head(target):
        raise LedgerError("the copy of the ledger ends with another entry than the ledger: copy it again")


@cache
def tables_of(revision: str) -> tuple[Table, ...]:
    """Return the tables that the migrations up to `revision` make, those that are referred to first."""
    found = MetaData()
    engine = create_engine("sqlite://")
    try:
        with engine.begin() as connection:
            upgrade(connection, revision)
            found.reflect(connection)
    finally:
        engine.dispose()
    return tuple(table for table in found.sorted_tables if table.name != "alembic_version")


def _copy_table(source: Connection, target: Connection, table: Table, revision: str) -> None:
    _require_columns(source, table, revision)
    query = select(table).order_by(*table.primary_key.columns)
    copied = 0
    for rows in source.execute(query, execution_options={"yield_per": _ROWS}).mappings().partitions():
        target.execute(insert(table), [dict(row) for row in rows])
        copied += len(rows)
    there, here = (connection.scalar(select(func.count()).select_from(table)) for connection in (source, target))
    if not there == here == copied:
        raise LedgerError(f"the copy of table {table.name} has {here} of {there} rows: copy it again")


def _require_columns(source: Connection, table: Table, revision: str) -> None:
    """A column that this revision does not know would be lost without a word."""
    inspector = inspect(source)
    there = inspector.get_columns(table.name) if inspector.has_table(table.name) else []
    found, known = {str(column["name"]) for column in there}, {str(column.name) for column in table.columns}
    if found != known:
        raise LedgerError(
            f"table {table.name} is not what schema {revision} says: missing {sorted(known - found) or 'nothing'}, "
            f"unknown {sorted(found - known) or 'nothing'}; nothing was copied"
        )


def _move_sequences(target: Connection, table: Table) -> None:
    """Let PostgreSQL count on beyond the numbers that came with the rows; SQLite does so by itself."""
    if target.dialect.name != "postgresql":
        return
    for column in table.primary_key.columns:
        sequence = target.scalar(select(func.pg_get_serial_sequence(table.name, column.name)))
        newest = None if sequence is None else target.scalar(select(func.max(column)))
        if newest is not None:
            target.execute(select(func.setval(sequence, newest)))
