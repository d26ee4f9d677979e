"""A ledger of schema 0001 as the earlier version left it, and every row of a ledger, to compare copies by."""

import json
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import inspect, text

from cadp.ledger import Ledger
from cadp.ledger.opening import database_at
from tests.ledger.places import FilePlace, Place

FIXTURES = Path(__file__).parent / "fixtures"
OLD_ENTRIES = 21


def old_file(path: Path) -> Path:
    """Write the earlier version's ledger to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    connection.executescript((FIXTURES / "ledger-0001.sql").read_text())
    connection.close()
    return path


def put_old(place: Place) -> Place:
    """Put the earlier version's ledger and its anchors at a place where there is none."""
    for key, content in json.loads((FIXTURES / "ledger-0001.anchors.json").read_text()).items():
        anchor = place.anchors_folder / key
        anchor.parent.mkdir(parents=True, exist_ok=True)
        anchor.write_text(content)
    if isinstance(place, FilePlace):
        old_file(place.file)
    else:
        Ledger.restore(old_file(place.folder / "old.db"), place.url)
    return place


def rows(url: str) -> dict[str, list[Any]]:
    """Every row of every table."""
    database = database_at(url)
    try:
        with database.reading() as connection:
            return {
                name: sorted(map(tuple, connection.execute(text(f'SELECT * FROM "{name}"'))), key=repr)
                for name in inspect(connection).get_table_names()
            }
    finally:
        database.close()
