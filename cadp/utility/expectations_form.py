"""One expectation as Great Expectations reads it."""

from typing import Any


def expect(name: str, says: str, kind: str, column: str | None = None, **kwargs: object) -> dict[str, Any]:
    """An expectation of type `expect_<kind>`, with a name of its own and what it says in words."""
    target = {} if column is None else {"column": column}
    return {"type": f"expect_{kind}", "kwargs": {**target, **kwargs}, "meta": {"name": name, "says": says}}
