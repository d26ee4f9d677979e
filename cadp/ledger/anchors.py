"""Anchors: the chain's entries, put one by one outside the database, so that a rewound database is noticed.

Once committed, entry `seq` is put at `<ledger>/<seq:08d>.json` if absent, oldest first, before the call that made it
returns. A restored, copied, truncated or lagging database appends a *different* entry under a number that is taken,
finds its newest entry different from the anchor, or finds an anchor beyond its newest entry; each of them stops it
before anything is handed out. A process that dies between commit and anchor leaves a tail without anchors; whoever
comes next puts it. An anchor holds public values and keyed hashes only, never a digest of private bytes.
"""

import threading
import time
from collections.abc import Callable
from typing import NoReturn, TypeVar

from sqlalchemy import Connection, func, select

from cadp.errors import LedgerRewound, ObjectExists, ObjectMissing
from cadp.ledger import schema
from cadp.ledger.canonical import canonical
from cadp.ledger.chain import ENTRY_SCHEMA, Entry, anchor_end, anchor_key, anchor_numbers, entries, head, newest_first
from cadp.ledger.engine import Database
from cadp.ledger.notices import Notice
from cadp.ledger.written import Written, written
from cadp.store import Store

T = TypeVar("T")

CLAIM = "ledger.json"
_NEXT_STEP = (
    "stop every writer and put back the newest copy of the ledger, or, if there is none, run `cadp budget recover`; "
    "until then nothing is charged or released"
)

_LISTED = "0"
"""What the names of the first ten million anchors begin with, and of nothing else that lies beside them."""

_PATIENCE = 0.5
"""Seconds that a process waits for another's anchor before it puts it itself."""


class _Missing(Exception):
    """The anchor before an entry is not there."""


class AnchoredChain:
    """The chain of one open ledger with its anchors. Once it has seen a rewind it refuses everything."""

    def __init__(self, database: Database, anchors: Store) -> None:
        self.identity = database.read(lambda connection: str(connection.scalar(select(schema.ledger.c.id))))
        self._database = database
        self._claims = anchors
        self.anchors = anchors.child(self.identity)
        self._lock = threading.Lock()
        self._settled: Entry | None = None
        self._refusal: str | None = None

    def record(self, work: Callable[[Connection], T]) -> tuple[T, list[Notice]]:
        """Return what `work` returns from one write transaction, and its notices.

        What it appended is committed and anchored by then; so is all that it may have found in place.

        Raises:
            LedgerRewound: this database is not the ledger that the anchors know.
        """
        self.guard()

        def transaction(connection: Connection) -> tuple[T, Written, Entry | None]:
            result, said = work(connection), written(connection)
            return result, said, said.entries[-1] if said.entries else head(connection)

        result, said, newest = self._database.write(transaction)
        if said.entries:
            self._anchor(said.entries)
        elif newest is None or newest != self._settled:
            self.settle()
        return result, said.notices

    def _anchor(self, fresh: list[Entry]) -> None:
        """Anchor what this process has just committed; what others committed before it comes first."""
        if self._follows_settled(fresh[0]):
            for entry in fresh:
                self._put(entry)
            return
        try:
            # All wait for the one before them only when theirs is written: many writers sync at the same time.
            for entry in fresh:
                self._put(entry, after=self._await_before)
        except _Missing:
            self.settle()

    def _await_before(self, entry: Entry) -> None:
        """Wait until the anchor before `entry` is there.

        Whoever put it had seen to all before it, and by its hash it is this chain's; so there is never a gap.

        Raises:
            LedgerRewound: it is another chain's.
            _Missing: it did not come: its process may be dead.
        """
        before, until, pause = entry.value["prev"], time.monotonic() + _PATIENCE, 0.0005
        while True:
            try:
                found = self.anchors.get(anchor_key(entry.seq - 1))
            except ObjectMissing:
                if time.monotonic() > until:
                    raise _Missing from None
                time.sleep(pause)
                pause = min(1.5 * pause, 0.02)
            else:
                if not found.endswith(anchor_end(before)):
                    self._refuse_fork(entry)
                return

    def guard(self) -> None:
        """Refuse to go on after a rewind was seen.

        Raises:
            LedgerRewound: with the message of the first refusal.
        """
        if self._refusal is not None:
            raise LedgerRewound(self._refusal)

    def check_opening(self) -> None:
        """Compare the newest entry with the anchors, and anchor what a crash left without.

        Raises:
            LedgerRewound: the database is behind, ahead on its own, or the anchors are another ledger's.
        """
        # Listed before the chain is read: what was anchored by then was committed by then.
        listed = anchor_numbers(key for key, _ in self.anchors.list(_LISTED))
        newest, count = self._newest()
        if count != newest.seq:
            self.refuse(f"has {count} chain entries up to number {newest.seq}: entries were removed")
        self._check_claim(newest)
        # Not the next number alone: its own anchor may be lost as well.
        if listed and listed[-1] > newest.seq:
            self._refuse_behind(newest, next(number for number in listed if number > newest.seq))
        self.refuse_if_behind()
        self.settle()

    def refuse_if_behind(self) -> None:
        """Look for an anchor beyond the newest entry.

        Raises:
            LedgerRewound: there is one, so this database lost what the anchors remember.
        """
        self.guard()
        newest, _ = self._newest()
        while self.anchors.exists(anchor_key(newest.seq + 1)):
            # Another process may have committed and anchored in between; then its entry is visible by now.
            again, _ = self._newest()
            if again.seq == newest.seq:
                self._refuse_behind(newest, newest.seq + 1)
            newest = again

    def settle(self) -> None:
        """Anchor every committed entry that has no anchor yet, oldest first, so that anchors never have a gap.

        Raises:
            LedgerRewound: an entry's number is anchored with another entry, or the settled past has changed.
        """
        self.guard()
        for entry in self._unsettled():
            self._put(entry)

    def _put(self, entry: Entry, after: Callable[[Entry], None] | None = None) -> None:
        try:
            if after is None:
                self.anchors.put(entry.anchor_key, entry.anchor)
            else:
                self.anchors.put_after(lambda: after(entry), entry.anchor_key, entry.anchor)
        except ObjectExists:
            self._refuse_fork(entry)
        self._mark(entry)

    def _follows_settled(self, entry: Entry) -> bool:
        """Return whether the one before `entry` is the one whose anchor is known to be there."""
        settled = self._settled
        return settled is not None and entry.seq == settled.seq + 1 and entry.value["prev"] == settled.hash

    def _unsettled(self) -> list[Entry]:
        """Return what lies beyond the newest entry whose anchor is known to be this chain's, oldest first."""
        settled = self._settled
        if settled is None:
            return self._tail()
        tail = self._database.read(lambda connection: list(entries(connection, after=settled.seq - 1)))
        if not tail or tail[0] != settled:
            self.refuse(f"no longer holds entry {settled.seq} that this process has anchored: it was replaced")
        # All but the last may be other processes', most likely anchored already: reading is cheaper than a put. Whoever
        # anchored one had seen to all below it, so the walk ends at the first that is there.
        missing = tail[-1:] if len(tail) > 1 else []
        for entry in reversed(tail[1:-1]):
            if self._is_anchored(entry):
                break
            missing.append(entry)
        return missing[::-1]

    def _tail(self) -> list[Entry]:
        """Walk down from the newest entry to the first whose anchor is this chain's; return what lies above it."""
        tail: list[Entry] = []
        with self._database.reading() as connection:
            for entry in newest_first(connection):
                if self._is_anchored(entry):
                    self._mark(entry)
                    return tail[::-1]
                tail.append(entry)
        # Only the entry of the ledger's creation may be the first that is ever anchored.
        if len(tail) > 1:
            self.refuse(
                f"has {len(tail)} entries and none is anchored at {self.anchors.url}: the anchors were removed, "
                f"or this is not where they are"
            )
        return tail

    def _mark(self, entry: Entry) -> None:
        with self._lock:
            if self._settled is None or entry.seq > self._settled.seq:
                self._settled = entry

    def _is_anchored(self, entry: Entry) -> bool:
        try:
            found = self.anchors.get(entry.anchor_key)
        except ObjectMissing:
            return False
        if found != entry.anchor:
            self._refuse_fork(entry)
        return True

    def _check_claim(self, newest: Entry) -> None:
        """One anchors location serves one ledger: a second one beside it would grant every budget again."""
        claim = f"{canonical({'ledger': self.identity, 'schema': ENTRY_SCHEMA})}\n".encode()
        try:
            if newest.seq == 1:
                self._claims.put(CLAIM, claim)
                return
            found = self._claims.get(CLAIM)
        except ObjectMissing:
            self.refuse(
                f"has {newest.seq} entries and no anchors at {self._claims.url}: point the setting to where they are"
            )
        except ObjectExists:
            found = b""
        if found != claim:
            self.refuse(f"is not the ledger that the anchors at {self._claims.url} belong to")

    def _newest(self) -> tuple[Entry, int]:
        newest, count = self._database.read(
            lambda connection: (
                head(connection),
                connection.execute(select(func.count()).select_from(schema.chain)).scalar_one(),
            )
        )
        if newest is None:
            self.refuse("has an empty chain: its entries were removed")
        return newest, count

    def _refuse_behind(self, newest: Entry, anchored: int) -> NoReturn:
        self.refuse(
            f"ends at entry {newest.seq}, but entry {anchored} is anchored at {self.anchors.url}: an older copy was "
            f"restored, or its end was cut off"
        )

    def _refuse_fork(self, entry: Entry) -> NoReturn:
        self.refuse(
            f"has another entry {entry.seq} ({entry.kind}) than the one anchored at {self.anchors.url}: it was copied "
            f"or restored, and the other copy went on"
        )

    def refuse(self, what: str) -> NoReturn:
        """Refuse this, and everything after it.

        Raises:
            LedgerRewound: always.
        """
        self._refusal = f"the ledger {self._database.shown} {what}; {_NEXT_STEP}"
        raise LedgerRewound(self._refusal)
