"""JSON text with one form per value, so that equal values have equal digests."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256

from cadp.errors import LedgerError


def canonical(value: object) -> str:
    """Return compact JSON with sorted keys; NaN and infinities are refused.

    >>> canonical({"b": 1, "a": [0.5, "ε"]})
    '{"a":[0.5,"ε"],"b":1}'

    Raises:
        LedgerError: the value is not JSON.
    """
    try:
        text = json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False, allow_nan=False)
        text.encode()  # half of a surrogate pair is text to Python, and to no database
    except (TypeError, ValueError, RecursionError) as error:
        raise LedgerError(f"the ledger records plain JSON only: {error}") from error
    return text


def digest(text: str) -> str:
    """Return the SHA-256 of the text's UTF-8 bytes, in hex."""
    return sha256(text.encode()).hexdigest()


def plain(value: Mapping[str, object]) -> dict[str, object]:
    """Return the value as JSON would give it back (tuples become lists), refusing what JSON cannot hold."""
    result: dict[str, object] = json.loads(canonical(dict(value)))
    return result


def utc_now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def name_text(what: str, value: str, longest: int = 200) -> str:
    """Return `value` if it can name something.

    Raises:
        LedgerError: it is empty, too long or holds control characters.
    """
    if not isinstance(value, str) or not 0 < len(value) <= longest or not value.isprintable():
        raise LedgerError(f"{what} must be 1 to {longest} printable characters, not {value!r}")
    return value
