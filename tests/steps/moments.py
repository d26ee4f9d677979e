"""Labelled moments of a release: something else happens before or after a call of the program's own."""

from collections.abc import Callable
from typing import Any

import pytest

from cadp.ledger import Ledger
from cadp.store import Store

CALLS: tuple[tuple[type, str, Callable[..., str]], ...] = (
    (Store, "put", lambda key, data: key),
    (Store, "delete", lambda key: key),
    (Ledger, "charge", lambda population, **kw: kw["key"]),
    (Ledger, "lease", lambda charge, index, *rest: str(index)),
    (Ledger, "seal", lambda lease, **kw: str(lease.range_id)),
    (Ledger, "finish", lambda charge, count: charge),
    (Ledger, "answer", lambda charge, answer: charge),
    (Ledger, "publish", lambda release: release),
    (Ledger, "burn", lambda release, reason: release),
)


def at_every_moment(patch: pytest.MonkeyPatch, act: Callable[[str, str, str], None]) -> None:
    """Call `act(when, call, what)` before and after every labelled call, but not from within itself."""
    inside = [False]

    def wrap(owner: type, name: str, describe: Callable[..., str]) -> None:
        original = getattr(owner, name)

        def wrapped(self: object, *args: Any, **kwargs: Any) -> object:
            if inside[0]:
                return original(self, *args, **kwargs)
            what = describe(*args, **kwargs)
            inside[0] = True
            try:
                act("before", name, what)
            finally:
                inside[0] = False
            result = original(self, *args, **kwargs)
            inside[0] = True
            try:
                act("after", name, what)
            finally:
                inside[0] = False
            return result

        patch.setattr(owner, name, wrapped)

    for owner, name, describe in CALLS:
        wrap(owner, name, describe)


def at_moment(
    patch: pytest.MonkeyPatch, moment: tuple[str, str, str, int], act: Callable[[], None]
) -> Callable[[], bool]:
    """Call `act` once: before or after (`when`) the `nth` call of `call` whose label has `part`; returns: did it?"""
    when, call, part, nth = moment
    seen = [0]

    def reached(at: str, name: str, what: str) -> None:
        if (at, name) == (when, call) and part in what:
            seen[0] += 1
            if seen[0] == nth:
                act()

    at_every_moment(patch, reached)
    return lambda: seen[0] >= nth
