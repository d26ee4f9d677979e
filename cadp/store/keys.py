"""What a key may look like, the same on every kind of storage."""

import unicodedata

from cadp.errors import StoreError

STAGING = ".incoming"
"""Names that begin like this hold files still being written; they are never keys and never listed."""

_LONGEST_KEY = 1024
_LONGEST_PART = 255
_REFUSED_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})  # controls, lone surrogates, line and paragraph separators


def check_key(key: str) -> str:
    """Return `key` unchanged if it is a relative, '/'-separated path that means the same on every storage.

    Raises:
        StoreError: it is empty, absolute, too long, or has an empty part, `.`, `..`, a backslash, a control character,
            a reserved name or a version selector.
    """
    problem = _problem(key)
    if problem:
        raise StoreError(f"refused key {key!r}: {problem}; use a relative path such as 'data/part-0.tar'")
    return key


def check_prefix(prefix: str) -> str:
    """Return `prefix` if it could begin a key; empty, or ending in '/', is fine.

    Raises:
        StoreError: no key can begin like this.
    """
    if prefix:
        check_key(prefix.removesuffix("/"))
    return prefix


def is_staging(key: str) -> bool:
    """Whether any part of `key` is reserved for files still being written."""
    return any(part.startswith(STAGING) for part in key.split("/"))


def _problem(key: str) -> str | None:
    if any(unicodedata.category(character) in _REFUSED_CATEGORIES for character in key):
        return "it has a control character"  # first: a lone surrogate has no bytes to count
    parts = key.split("/")
    refusals = {
        "it is empty": not key,
        "it is absolute": key.startswith("/"),
        "it has a backslash": "\\" in key,
        "it selects a version": "?versionId=" in key,
        "a part of it is empty, '.' or '..'": not {"", ".", ".."}.isdisjoint(parts),
        f"it is longer than {_LONGEST_KEY} bytes": len(key.encode()) > _LONGEST_KEY,
        f"a part of it is longer than {_LONGEST_PART} bytes": max(len(part.encode()) for part in parts) > _LONGEST_PART,
        f"names that begin with {STAGING!r} are reserved": is_staging(key),
    }
    return next((reason for reason, refused in refusals.items() if refused), None)
