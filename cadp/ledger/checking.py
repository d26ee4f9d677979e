"""The audit of a ledger: the chain is the book, and everything else must follow from it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from cadp.errors import LedgerError, LedgerRewound
from cadp.ledger.anchored import fetch
from cadp.ledger.book import Book
from cadp.ledger.canonical import digest
from cadp.ledger.chain import ENTRY_SCHEMA, GENESIS, Entry, anchor_key, anchor_numbers, entries
from cadp.ledger.comparing import differences
from cadp.ledger.rows import Tables, read_tables
from cadp.ledger.tokens import forgotten
from cadp.store import Store

_MOST = 20
"""How many wrong links or anchors are named."""


class Inconsistent(LedgerError):
    """The ledger is not what its chain says; `problems` holds every difference."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("the ledger's tables are not what its chain says: " + "; ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check has seen and found right."""

    entries: int
    populations: int
    charges: int
    seals: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What one snapshot of the database holds.

    Attributes:
        links: the chain.
        tables: everything else that is checked.
        damage: what the database itself found wrong.
        forgotten: ranges of running charges of which a newer token was given than it knows.
    """

    links: list[Entry]
    tables: Tables
    damage: list[str]
    forgotten: list[tuple[str, int]]


def see(
    connection: Connection, problems: Callable[[Connection], Iterable[str]], given: Mapping[tuple[str, int], int]
) -> Seen:
    """Read a ledger; nothing is compared yet, so that no snapshot stays open while the anchors are fetched.

    `given` are the newest tokens that were anchored before.
    """
    return Seen(
        links=list(entries(connection)),
        tables=read_tables(connection),
        damage=list(problems(connection)),
        forgotten=forgotten(connection, given),
    )


def check(seen: Seen, identity: str, anchors: Store, anchored: Iterable[str]) -> Checked:
    """Check the chain, every anchor, and the tables against the chain.

    Every curve is computed again from its event, every cap from its limit, every sum from its charges.

    Args:
        seen: the ledger. Other processes may go on meanwhile.
        identity: which ledger it is.
        anchors: where this ledger's anchors are; every entry that was seen has one by now.
        anchored: the keys that were listed there before the snapshot was taken.

    Raises:
        LedgerRewound: a link or an anchor is missing or differs; the tables have nothing to be compared with then.
        Inconsistent: the tables are not what the chain says; every difference is listed.
    """
    broken = [
        *_links(seen.links, identity),
        *_anchors(seen.links, anchors, anchored),
        *(
            f"range {index} of charge {charge} has lost a lease: an older copy was restored"
            for charge, index in seen.forgotten
        ),
    ]
    if broken:
        more = [f"{len(broken) - _MOST} more entries or anchors are not as they were"] if len(broken) > _MOST else []
        raise LedgerRewound("; ".join([*broken[:_MOST], *more, *seen.damage]))
    book = Book(seen.links)
    problems = [*seen.damage, *book.problems, *differences(seen.tables, book)]
    if problems:
        raise Inconsistent(problems)
    return Checked(
        entries=len(seen.links),
        populations=len(book.populations),
        charges=len(book.charges),
        seals=len(seen.tables.seals),
    )


def _links(links: list[Entry], identity: str) -> Iterator[str]:
    """Yield every link that is not what its hash, its number and the one before it say."""
    previous = GENESIS
    for seq, link in enumerate(links, start=1):
        if link.hash != digest(link.text) or not _is_said(link, identity, seq, previous):
            yield f"entry {seq} of the chain was changed or removed: put back the newest copy"
        previous = link.hash


def _is_said(link: Entry, identity: str, seq: int, previous: str) -> bool:
    try:
        value = link.value
    except LedgerRewound:
        return False
    said = (value["schema"], value["ledger"], value["seq"], value["kind"], value["prev"])
    return link.seq == seq and said == (ENTRY_SCHEMA, identity, seq, link.kind, previous)


def _anchors(links: list[Entry], anchors: Store, anchored: Iterable[str]) -> Iterator[str]:
    for link, found in zip(links, fetch(anchors, (link.anchor_key for link in links)), strict=True):
        if found is None:
            yield f"the anchor of entry {link.seq} is missing at {anchors.url}"
        elif found != link.anchor:
            yield f"the anchor of entry {link.seq} at {anchors.url} is another entry's"
    beyond = [number for number in anchor_numbers(anchored) if number > len(links)]
    if beyond:
        first = anchor_key(beyond[0])
        yield f"{anchors.url} has {len(beyond)} anchors beyond entry {len(links)}, the first {first}"
