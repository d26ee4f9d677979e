"""JSON with one byte form per value, so that equal facts give equal files and a reader can re-derive the bytes."""

import json


def pretty(value: object) -> bytes:
    r"""Two-space indented, keys sorted, UTF-8, one final newline: for files that people open.

    >>> pretty({"b": 1, "a": "ε"}).decode()
    '{\n  "a": "ε",\n  "b": 1\n}\n'
    """
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def compact(value: object) -> bytes:
    """No white space, keys sorted, UTF-8: for bytes that are signed."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
