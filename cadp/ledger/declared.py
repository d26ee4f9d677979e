"""Whether a database still enforces what the migrations declare: its tables, columns, constraints, indexes, triggers.

The measure is a second set of the same tables, made by the same migrations beside the ledger's, in memory or as
temporary tables, and described by the same query. Only the ledger's own tables are looked at; what else lies in the
database, or how its schema is called, does not matter.
"""

from collections.abc import Iterator, Mapping

from sqlalchemy import Connection, create_engine, text

from cadp.ledger import schema
from cadp.ledger.migrate import upgrade

Declared = Mapping[tuple[str, str], str]
"""What each thing is, by the table it belongs to and its kind and name."""


def changes(found: Declared, wanted: Declared) -> Iterator[str]:
    """Yield what the ledger's tables lack, what was changed, and what nobody declared."""
    for table, what in sorted(wanted.keys() - found.keys()):
        yield f"{what} of table {table} is missing"
    for table, what in sorted(found.keys() - wanted.keys()):
        yield f"{what} of table {table} is not the ledger's"
    for table, what in sorted(found.keys() & wanted.keys()):
        if found[table, what] != wanted[table, what]:
            yield f"{what} of table {table} was changed: it is {found[table, what]}, not {wanted[table, what]}"


def in_file(connection: Connection) -> Declared:
    """Describe the ledger's tables in an SQLite database, by the statements that made them."""
    rows = connection.exec_driver_sql("SELECT type, name, tbl_name, sql FROM sqlite_master").all()
    return {
        # A name means the same in quotes: the first version of the first migration wrote one without.
        (row.tbl_name, f"{row.type} {row.name}"): " ".join(str(row.sql).replace('"', "").split())
        for row in rows
        if row.tbl_name in schema.metadata.tables
    }


def in_new_file() -> Declared:
    """Describe the tables of a ledger that is made now, in memory."""
    engine = create_engine("sqlite://")
    try:
        with engine.begin() as connection:
            upgrade(connection)
            return in_file(connection)
    finally:
        engine.dispose()


def on_server(connection: Connection) -> Declared:
    """Describe the ledger's tables in a PostgreSQL database: those that its statements find by their names."""
    found: dict[tuple[str, str], str] = {}
    for table in schema.metadata.tables:
        for row in connection.execute(_DESCRIPTION, {"name": table}):
            found[table, row.what] = " ".join(str(row.definition).split())
    return found


def on_server_anew(connection: Connection) -> Declared:
    """Describe the tables of a ledger that is made now, as temporary tables of the caller's transaction."""
    connection.execute(text("SET LOCAL search_path = pg_temp"))
    upgrade(connection)
    return on_server(connection)


# Names are resolved as every statement resolves them, by the search path. What a temporary table says otherwise than a
# lasting one, its schema and its persistence, is left out or translated.
_DESCRIPTION = text(
    """
    WITH it AS (
        SELECT c.*, n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = to_regclass(quote_ident(:name))
    )
    SELECT 'the table' AS what, concat_ws(' ', 'kind', relkind, CASE relpersistence WHEN 'u' THEN 'unlogged' END,
        CASE WHEN relrowsecurity THEN 'with row security' END,
        CASE WHEN relhassubclass THEN 'with children' END,
        CASE WHEN EXISTS (SELECT FROM pg_inherits WHERE inhrelid = it.oid) THEN 'with parents' END) AS definition
    FROM it
    UNION ALL
    SELECT 'column ' || attname, concat_ws(' ', format_type(atttypid, atttypmod),
        CASE WHEN attnotnull THEN 'not null' END, attidentity::text, attgenerated::text,
        CASE WHEN attcollation <> 0 THEN attcollation::regcollation::text END, pg_get_expr(adbin, adrelid))
    FROM it JOIN pg_attribute ON attrelid = it.oid LEFT JOIN pg_attrdef ON adrelid = it.oid AND adnum = attnum
    WHERE attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT 'constraint ' || conname, concat_ws(' ', pg_get_constraintdef(pg_constraint.oid),
        CASE WHEN NOT convalidated THEN '(not validated)' END)
    FROM it JOIN pg_constraint ON conrelid = it.oid WHERE contype IN ('c', 'f', 'p', 'u', 'x')
    UNION ALL
    SELECT 'index ' || i.relname, concat_ws(' ',
        replace(replace(pg_get_indexdef(indexrelid), ' ON ' || quote_ident(it.nspname) || '.', ' ON '),
            ' ON pg_temp.', ' ON '),
        CASE WHEN NOT (indisvalid AND indisready AND indislive) THEN '(not valid)' END)
    FROM it JOIN pg_index ON indrelid = it.oid JOIN pg_class i ON i.oid = indexrelid
    UNION ALL
    SELECT 'trigger ' || tgname, pg_get_triggerdef(pg_trigger.oid)
    FROM it JOIN pg_trigger ON tgrelid = it.oid WHERE NOT tgisinternal
    UNION ALL
    SELECT 'the foreign keys'' triggers', string_agg(DISTINCT tgenabled::text, ' ')
    FROM it JOIN pg_trigger ON tgrelid = it.oid WHERE tgisinternal HAVING count(*) > 0
    UNION ALL
    SELECT 'rule ' || rulename, pg_get_ruledef(pg_rewrite.oid)
    FROM it JOIN pg_rewrite ON ev_class = it.oid
    UNION ALL
    SELECT 'policy ' || polname, 'a policy' FROM it JOIN pg_policy ON polrelid = it.oid
    """
)
