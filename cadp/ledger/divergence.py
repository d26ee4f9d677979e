"""Where a database's chain leaves the anchored one, and what bringing it back does."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cadp.errors import LedgerError, LedgerRewound
from cadp.ledger.book import Book
from cadp.ledger.chain import Entry


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a recovery did, or would do.

    Attributes:
        entry: the number of its `recover` entry; None before it, or if there was nothing to do.
        reentered: the first and the last entry that came back from the anchors; None if none is missing.
        dropped: entries of this copy that were never anchored: `seq`, `kind` and, if it is about one, `charge`.
        burned: charges that it burned.
        releases: the releases of these, which can never be published.
        lost_seals: charges, published or burned, of which nobody knows the sealed objects any more.
    """

    entry: int | None = None
    reentered: tuple[int, int] | None = None
    dropped: tuple[Mapping[str, Any], ...] = ()
    burned: tuple[str, ...] = ()
    releases: tuple[str, ...] = ()
    lost_seals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a database's chain leaves the anchored one.

    Attributes:
        common: the last entry that both have.
        first: the first entry whose return decides what is burned; not always the one after `common`.
        missing: anchored entries that the database lacks.
        dropped: entries of the database that were never anchored.
    """

    common: int
    first: int
    missing: list[Entry]
    dropped: list[Entry]


def compare(local: list[Entry], truth: list[Entry]) -> Difference | None:
    """Return where the chains part; None if the database has everything that is anchored.

    Raises:
        LedgerRewound: they have not even the first entry in common.
    """
    common = 0
    for mine, anchored in zip(local, truth, strict=False):
        if mine != anchored:
            break
        common += 1
    if common == len(truth):
        return None
    if local and not common:
        raise LedgerRewound("the ledger's first entry is not the one that is anchored: it is another ledger")
    known = set(truth)
    dropped = [entry for entry in local[common:] if entry not in known]
    # A recovery that lost its anchor brought entries back but its burning goes with it: it is done again from there.
    again = (_reentered_from(entry) for entry in dropped if entry.kind == "recover")
    return Difference(common, min([common + 1, *again]), truth[common:], dropped)


def anchored_book(truth: list[Entry]) -> Book:
    """Replay the anchored chain.

    Raises:
        LedgerRewound: it breaks a rule of the ledger.
    """
    book = Book(truth)
    if book.problems:
        raise LedgerRewound(
            f"the anchors tell what cannot be: {'; '.join(book.problems)}; from these nothing is recovered"
        )
    return book


def require_shown(found: Recovery, shown: Recovery | None) -> None:
    """Refuse to do anything else than what somebody was shown and has agreed to.

    Raises:
        LedgerError: it is something else by now.
    """
    if shown is not None and replace(found, entry=None) != replace(shown, entry=None):
        raise LedgerError(
            "others went on meanwhile, so recovering would do something else than what was shown, and nothing was "
            "recovered: stop every writer and look again (`cadp budget recover`)"
        )


def outcome(book: Book, found: Difference) -> Recovery:
    """Return what bringing the missing entries back does; `book` has read them."""
    last = found.common + len(found.missing)
    fate = book.fate(found.first, last)
    return Recovery(
        reentered=(found.first, last),
        dropped=tuple(map(_described, found.dropped)),
        burned=fate.burned,
        releases=tuple(dict.fromkeys(book.charges[identity].release for identity in fate.burned)),
        lost_seals=fate.lost_seals,
    )


def _described(entry: Entry) -> dict[str, object]:
    try:
        body: Mapping[str, Any] = entry.value["body"]
    except LedgerRewound:
        body = {}  # it was changed, and is dropped whatever it said
    charge = body.get("charge", body.get("id"))
    about = {} if charge is None or entry.kind == "ledger" else {"charge": charge}
    return {"seq": entry.seq, "kind": entry.kind, **about}


def _reentered_from(entry: Entry) -> int:
    """Return where the recovery that an entry tells of began; the very first entry if the entry was changed."""
    try:
        first = entry.value["body"]["reentered"][0]
    except (LedgerRewound, KeyError, TypeError, IndexError):
        return 1
    return first if type(first) is int and first > 0 else 1
