"""Reading what a row holds: the ledger wrote it, but whoever can write to its database may have changed it since."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

from cadp.errors import LedgerError, PrivacyError

T = TypeVar("T")


def parsed(what: str, text: str, read: Callable[[Any], T]) -> T:
    """Return what `read` makes of a column's JSON.

    Args:
        what: whose column it is, for the message.
        text: the column.
        read: takes the JSON value; whatever it cannot take was not written by the ledger.

    Raises:
        LedgerError: the text is not JSON, or not what the ledger writes there.
    """
    try:
        return read(json.loads(text))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, PrivacyError) as error:
        raise LedgerError(
            f"{what} was changed and cannot be read ({error}): stop every writer, run `cadp budget verify` and put "
            f"back the newest copy"
        ) from error


def mapping(value: object) -> dict[str, Any]:
    """Return a JSON object as it is, for `parsed`.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, dict):
        raise TypeError(f"not an object: {value!r}")
    return value
