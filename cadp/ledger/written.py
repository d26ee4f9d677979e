"""What the running transaction has written so far: chain entries to be anchored and notices to be told after COMMIT."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import Connection

if TYPE_CHECKING:
    from cadp.ledger.chain import Entry
    from cadp.ledger.notices import Notice

_KEY = "cadp_written"


@dataclass
class Written:
    """Kept with the connection while its transaction runs.

    Attributes:
        entries: appended to the chain, oldest first.
        notices: oldest first.
    """

    entries: "list[Entry]" = field(default_factory=list)
    notices: "list[Notice]" = field(default_factory=list)


def begin(connection: Connection) -> Written:
    """Start with nothing: the connection may have served another transaction, or an attempt that failed."""
    connection.info[_KEY] = fresh = Written()
    return fresh


def written(connection: Connection) -> Written:
    """Return what the running transaction has written."""
    found: Written = connection.info.setdefault(_KEY, Written())
    return found
