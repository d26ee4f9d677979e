"""The chain as its anchors tell it: what was handed out, whatever a database says.

An entry is anchored before anything is handed out under it, and no two entries share a number there. So the anchors
hold every entry that a mechanism ever ran under, and they alone are believed when a database has lost its past.
"""

import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from cadp.errors import LedgerRewound, ObjectMissing
from cadp.ledger.anchors import CLAIM
from cadp.ledger.canonical import digest
from cadp.ledger.chain import ENTRY_SCHEMA, GENESIS, Entry, anchor_key, anchor_numbers
from cadp.store import Store

_AT_ONCE = 16
_BEFORE, _BETWEEN, _AFTER, _DIGITS = b'{"entry":', b',"hash":"', b'"}\n', 64
_NEXT_STEP = "bring the anchors back from their own copy; from broken anchors nothing is recovered"


def claimed_identity(anchors: Store) -> str:
    """Return the id of the ledger that the anchors belong to.

    Raises:
        LedgerRewound: they belong to none, or the claim cannot be read.
    """
    try:
        claim = json.loads(anchors.get(CLAIM))
        identity = claim["ledger"]
    except ObjectMissing as error:
        raise LedgerRewound(f"there are no anchors at {anchors.url}: set CADP_ANCHORS to where they are") from error
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerRewound(f"{anchors.url_of(CLAIM)} is not a ledger's claim: {_NEXT_STEP}") from error
    if not isinstance(identity, str) or not re.fullmatch("[0-9a-f]{32}", identity):
        raise LedgerRewound(f"{anchors.url_of(CLAIM)} is not a ledger's claim: {_NEXT_STEP}")
    return identity


def read_anchors(anchors: Store) -> list[Entry]:
    """Return the anchored chain of the ledger that the anchors belong to, oldest first; every link is checked.

    Raises:
        LedgerRewound: names the first anchor that is missing, damaged or does not follow the one before it.
    """
    identity = claimed_identity(anchors)
    store = anchors.child(identity)
    numbers = anchor_numbers(key for key, _ in store.list())
    chain: list[Entry] = []
    previous = GENESIS
    for wanted, (seq, data) in enumerate(zip(numbers, fetch(store, map(anchor_key, numbers)), strict=True), start=1):
        if seq != wanted or data is None:
            raise LedgerRewound(f"the anchor of entry {wanted} is missing at {store.url}: {_NEXT_STEP}")
        entry = _parse(data)
        if entry is None or not _follows(entry, identity, wanted, previous):
            raise LedgerRewound(
                f"the anchor of entry {wanted} at {store.url} was changed or is another entry's: {_NEXT_STEP}"
            )
        chain.append(entry)
        previous = entry.hash
    return chain


def fetch(store: Store, keys: Iterable[str]) -> Iterator[bytes | None]:
    """Yield what lies under each key, in order, reading several at once; None where nothing does."""

    def get(key: str) -> bytes | None:
        try:
            return store.get(key)
        except ObjectMissing:
            return None

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield from pool.map(get, keys)


def _parse(data: bytes) -> Entry | None:
    """Return the entry whose anchor is `data`, byte for byte; None if there is none."""
    end = len(data) - len(_AFTER) - _DIGITS
    try:
        text, found = data[len(_BEFORE) : end - len(_BETWEEN)].decode(), data[end : end + _DIGITS].decode()
        value = json.loads(text)
        entry = Entry(seq=value["seq"], kind=value["kind"], text=text, hash=found)
        _ = entry.value
    except (ValueError, KeyError, TypeError, RecursionError, LedgerRewound):
        return None
    return entry if entry.anchor == data and digest(text) == found else None


def _follows(entry: Entry, identity: str, seq: int, previous: str) -> bool:
    value = entry.value
    said = (value.get("schema"), value.get("ledger"), value.get("seq"), value.get("prev"))
    whole = isinstance(value.get("body"), dict) and all(isinstance(value.get(key), str) for key in ("kind", "at"))
    return whole and said == (ENTRY_SCHEMA, identity, seq, previous)
