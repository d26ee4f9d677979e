"""The database behind the ledger: transactions, and what its failures mean.

A transaction is a function of a connection. Everything that the ledger does is idempotent, so that a transaction whose
connection was lost, even in the middle of COMMIT, is simply done again: if it was committed, it finds its own work.
"""

import os
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final, TypeVar
from weakref import WeakSet

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError

from cadp.errors import LedgerError
from cadp.ledger import written
from cadp.ledger.address import Address

T = TypeVar("T")

BUSY_SECONDS = 30.0
"""How long a writer waits for its turn."""

RETRY_SECONDS = 20.0
"""How long a transaction is tried again after its connection was lost."""


class Unavailable(LedgerError):
    """The connection was lost, or the database asks for the transaction again: it may be repeated."""


class Database(ABC):
    """One ledger's database. Safe for threads and after a fork."""

    def __init__(self, address: Address, engine: Engine) -> None:
        self.address: Final = address
        self.engine: Final = engine
        self._was_reached = False
        _OPEN.add(self)

    @property
    def shown(self) -> str:
        """The address, for messages."""
        return self.address.shown

    def read(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` makes of one consistent snapshot."""
        return self._repeat(self.reading, work)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction that no other writer can come between, and commit it.

        `work` may run again from its start, so it changes nothing but the database.
        """
        return self._repeat(self.writing, work)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent snapshot."""
        with self._explained(), self._snapshot() as connection:
            self._was_reached = True
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction under the ledger's only write lock, which it holds before its first statement."""
        with self._explained(), self._locked() as connection:
            self._was_reached = True
            yield connection

    def close(self) -> None:
        """Close every pooled connection; another call opens new ones."""
        self.engine.dispose()

    @abstractmethod
    def exists(self) -> bool:
        """Return whether there is a ledger; anything else that lies there counts as one, to be refused by name."""

    @abstractmethod
    def create(self, fill: Callable[[Connection], None]) -> None:
        """Make what `fill` writes the ledger, whole or not at all; if another process was faster, its ledger stays."""

    @abstractmethod
    def problems(self, connection: Connection) -> Iterator[str]:
        """Yield what the database itself finds wrong."""

    @abstractmethod
    def clock(self, connection: Connection) -> float:
        """Return the time that leases go by, seconds since the epoch: one clock for every process of the ledger."""

    @abstractmethod
    def _snapshot(self) -> AbstractContextManager[Connection]: ...

    @abstractmethod
    def _locked(self) -> AbstractContextManager[Connection]: ...

    @abstractmethod
    def _error(self, error: DBAPIError) -> LedgerError:
        """Say what a failure of the database means and what to do; `Unavailable` if trying again may help."""

    def _repeat(self, begin: Callable[[], AbstractContextManager[Connection]], work: Callable[[Connection], T]) -> T:
        until, pause = time.monotonic() + RETRY_SECONDS, 0.02
        while True:
            try:
                with begin() as connection:
                    written.begin(connection)
                    return work(connection)
            except Unavailable:
                # A server that was never there is a wrong address, more likely than one that comes back.
                if not self._was_reached or time.monotonic() + pause > until:
                    raise
                time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 (jitter)
                pause = min(2 * pause, 2.0)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError as error:
            raise LedgerError(
                f"the ledger {self.shown} refused an entry that breaks its own constraints "
                f"({str(error.orig).splitlines()[0]}): nothing was recorded"
            ) from error
        except DBAPIError as error:
            raise self._error(error) from error


_OPEN: WeakSet[Database] = WeakSet()


def _drop_inherited() -> None:
    """Keep connections from crossing a fork: the child drops what it inherited, unclosed, and opens its own."""
    for database in list(_OPEN):
        database.engine.dispose(close=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_inherited)
