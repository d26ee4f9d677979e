"""The ledger: the one door to the budget. Every method is one transaction; every change is anchored when it returns."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NoReturn, TypeVar

from sqlalchemy import Connection

from cadp.errors import BudgetExceeded, LedgerError, LedgerMissing, LedgerRewound
from cadp.ledger import backup, budget, charges, checking, closing, notices, populations, ranges, recovery, tokens
from cadp.ledger.anchors import CLAIM, AnchoredChain
from cadp.ledger.budget import Budget, Quote
from cadp.ledger.chain import Entry, entries
from cadp.ledger.charges import Charge
from cadp.ledger.checking import Checked
from cadp.ledger.divergence import Recovery
from cadp.ledger.engine import Database
from cadp.ledger.migrate import create_ledger, require_current
from cadp.ledger.newest import newest_changes
from cadp.ledger.notices import Notice
from cadp.ledger.opening import database_at
from cadp.ledger.populations import Population
from cadp.ledger.ranges import Lease, Seal
from cadp.ledger.refusals import DoesNotFit, explained
from cadp.ledger.upgrading import upgrade_ledger
from cadp.ledger.written import written
from cadp.privacy.accountant import Event, curve
from cadp.store import Store

T = TypeVar("T")
Watcher = Callable[[Notice], None]


class Ledger:
    """One global budget per population, in a database whose history is anchored outside of it.

    Use `open`; only `init` creates. Safe for threads and for any number of processes; pickling reopens it.
    """

    def __init__(self, url: str, anchors: Store) -> None:
        """Open an existing ledger, as `Ledger.open` says."""
        self._url = url
        self._anchors = anchors
        self._database = database_at(url)
        self._watchers: list[Watcher] = []
        try:
            _require_there(self._database)
            self._database.read(lambda connection: require_current(connection, self._database.shown))
            self._chain = AnchoredChain(self._database, anchors)
            self._chain.check_opening()
        except BaseException:
            self._database.close()
            raise

    @classmethod
    def open(cls, url: str, anchors: Store) -> "Ledger":
        """Open the ledger at `url`, compare it with its anchors and heal a crash.

        Args:
            url: `sqlite:////absolute/path`, a plain path, or `postgresql://user@host:port/database`.
            anchors: where its anchors are; outside its database.

        Raises:
            LedgerMissing: there is none; nothing is created.
            LedgerRewound: it was restored, copied or cut off, it lags, or these are not its anchors.
            LedgerError: it is no ledger, or is a newer version's.
        """
        return cls(url, anchors)

    @classmethod
    def init(cls, url: str, anchors: Store, backups: Path | None = None) -> "Ledger":
        """Create the ledger, or bring an older one to this version's schema, and open it. Safe to repeat.

        Args:
            url: as for `open`; a PostgreSQL database must exist, its tables are made.
            anchors: where its anchors are, or will be.
            backups: folder for the backup that precedes an upgrade; the ledger's own folder if it is a file.

        Raises:
            LedgerRewound: the anchors belong to a ledger that is not at `url`: a new one would forget its charges.
            LedgerError: as for `open`.
        """
        database = database_at(url)
        try:
            # Asked in this order, another process that creates it meanwhile is not taken for a loss.
            claimed = anchors.exists(CLAIM)
            if database.exists():
                upgrade_ledger(database, anchors, backups)
            elif claimed:
                raise LedgerRewound(
                    f"the anchors at {anchors.url} belong to a ledger, and there is none at {database.shown}: put the "
                    f"newest copy of that ledger back (`cadp budget restore`), or, if there is none, "
                    f"`cadp budget recover --rebuild`; a new one would forget what was spent"
                )
            else:
                database.create(create_ledger)
        finally:
            database.close()
        return cls(url, anchors)

    @classmethod
    def restore(cls, file: Path, url: str) -> backup.Contents:
        """Fill `url`, where there is no ledger, with a backup's rows; what they are is returned, nothing is opened.

        `init` opens it then, upgrades it if it is older, and refuses it if the anchors know of more.

        Raises:
            LedgerMissing: there is no backup.
            LedgerError: it is none or is damaged; or there is a ledger, which is left alone.
        """
        database = database_at(url)
        try:
            return backup.restore(file, database)
        finally:
            database.close()

    @classmethod
    def survey(cls, url: str, anchors: Store, *, rebuild: bool = False) -> Recovery:
        """Return what `recover` would do now; nothing is changed. Raises as `recover` does."""
        with _database(url) as database:
            return recovery.survey(database, anchors, rebuild=rebuild)

    @classmethod
    def recover(cls, url: str, anchors: Store, *, rebuild: bool = False, shown: Recovery | None = None) -> Recovery:
        """Bring back from the anchors what a restored, copied or lost ledger has forgotten; `open` works after it.

        Everything anchored counts again; whatever was at work is burned. Nothing missing changes nothing.

        Args:
            url: as for `open`; a ledger that `open` refuses may lie there.
            anchors: where its anchors are.
            rebuild: make the ledger anew from its anchors: there is no copy of it.
            shown: what `survey` returned, if somebody has agreed to that and to nothing else.

        Raises:
            LedgerMissing: there is no ledger, and `rebuild` was not asked for.
            LedgerRewound: the anchors are broken or another ledger's.
            LedgerError: `rebuild` was asked for and there is a ledger; its tables contradict its own chain; or it would
                do something else than `shown`.
        """
        with _database(url) as database:
            return recovery.recover(database, anchors, rebuild=rebuild, shown=shown)

    def __reduce__(self) -> tuple[type["Ledger"], tuple[str, Store]]:
        return (type(self), (self._url, self._anchors))

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def identity(self) -> str:
        """Which ledger this is: 32 hex digits, the same in every copy and backup."""
        return self._chain.identity

    def close(self) -> None:
        """Close the database; another call opens it again."""
        self._database.close()

    # Populations and their budgets

    def create_population(
        self,
        name: str,
        *,
        unit: str,
        epsilon: float,
        delta: float,
        source_hmac: str,
        secret_fingerprint: str,
        refuse: Callable[[list[Population]], None] | None = None,
    ) -> Population:
        """Create a population with its limit, for ever; the same again is the same.

        `refuse` sees every population there is, raises to refuse one more, and runs under the ledger's write lock.

        Raises:
            LedgerError: the name or the source has other parameters.
        """
        wanted = populations.describe(
            name,
            unit=unit,
            epsilon=epsilon,
            delta=delta,
            source_hmac=source_hmac,
            secret_fingerprint=secret_fingerprint,
        )
        return self._record(lambda connection: populations.create_population(connection, wanted, refuse))

    def populations(self) -> list[Population]:
        """Return every population by name."""
        return self._database.read(lambda connection: list(populations.all_populations(connection)))

    def population(self, name: str) -> Population:
        """Return one population.

        Raises:
            LedgerError: there is none of this name.
        """
        return self._database.read(lambda connection: populations.find_population(connection, name)[1])

    def bound_to(self, source_hmac: str) -> Population | None:
        """Return the population that a source is bound to, or None."""
        return self._database.read(lambda connection: populations.bound_to(connection, source_hmac))

    def budget(self, population: str, release: str | None = None) -> Budget:
        """Return what a population has spent and has left; with `release`, only that release's share is listed."""
        return self._database.read(lambda connection: budget.read_budget(connection, population, release))

    def quote(self, population: str, event: Event) -> Quote:
        """Return what a charge would do to the budget now; nothing is charged or promised."""
        return self._database.read(lambda connection: budget.quote(connection, population, curve(event)))

    # Charges

    def charge(
        self, population: str, *, release: str, key: str, event: Event, parameters: Mapping[str, object]
    ) -> Charge:
        """Charge an event once per (population, key); committed and anchored when this returns.

        The same call again returns the same charge, until the release is abandoned; a voided charge frees its key.

        Raises:
            BudgetExceeded: it does not fit; the message has requested, left, difference and the holders.
            LedgerError: the key is taken for another event, release or parameters; the release was abandoned; or it
                is published and this would be one more charge.
        """
        try:
            return self._record(
                lambda connection: charges.make_charge(
                    connection, population, release=release, key=key, event=event, parameters=parameters
                )
            )
        except DoesNotFit as refused:
            text, quote = str(refused), refused.quote
            with suppress(LedgerError):
                text = self._database.read(lambda connection: explained(connection, release, key, quote))
            self.note_refusal(population, release, text)
            raise BudgetExceeded(text) from None

    def note_refusal(self, population: str, release: str, text: str) -> None:
        """Note down the first sentence of a refusal. It stands whether or not it can be noted."""
        short = text.partition(". ")[0]
        with suppress(LedgerError):
            self._write(lambda c: notices.write(c, "refused", short, population=population, release=release))

    def charges(self, population: str | None = None, release: str | None = None) -> list[Charge]:
        """Return charges in the order in which they were made."""
        return self._database.read(lambda connection: charges.find_charges(connection, population, release))

    def begin(self, charge_id: str) -> Charge:
        """Say that the mechanism may read from now on: RESERVED → RUNNING; running already is fine.

        Raises:
            LedgerError: it is past that.
        """
        return self._record(lambda connection: charges.begin_charge(connection, charge_id))

    def void(self, charge_id: str) -> None:
        """Take back a charge that has not begun: RESERVED → VOIDED; its cost and key are free again."""
        self._record(lambda connection: charges.void_charge(connection, charge_id))

    # Ranges

    def lease(self, charge_id: str, range_id: int, owner: str, seconds: float) -> Lease:
        """Take a range of a running charge; see `process_owner` for owners whose death is noticed at once.

        Raises:
            LeaseHeld: another owner's lease is alive; it has `owner` and `seconds_left`.
            SealConflict: the range is sealed.
        """
        # What a lease is taken under is anchored first, and the anchors know of nothing beyond it.
        self._chain.settle()
        self._chain.refuse_if_behind()
        clock = self._database.clock
        lease = self._write(
            lambda connection: ranges.take_lease(connection, charge_id, range_id, owner, seconds, now=clock(connection))
        )
        if not tokens.put_token(self._chain.anchors, lease):
            self._refuse_token(lease, lease.token)
        return lease

    def renew(self, lease: Lease) -> Lease:
        """Keep a lease for as long again from now.

        Raises:
            SealConflict: it was lost.
        """
        self._chain.guard()
        clock = self._database.clock
        return self._write(lambda connection: ranges.renew_lease(connection, lease, now=clock(connection)))

    def seal(self, lease: Lease, *, key: str, sha256: str, facts: Mapping[str, object]) -> Seal:
        """Make an object the one output of a range; the same again gives the same seal.

        Raises:
            SealConflict: the lease was lost or the range has another output: delete the object unread.
        """
        self._chain.guard()
        if not tokens.is_newest(self._chain.anchors, lease) and not self._knows_newer(lease):
            self._refuse_token(lease, lease.token + 1)
        return self._write(lambda connection: ranges.seal_range(connection, lease, key=key, sha256=sha256, facts=facts))

    def seals(self, charge_id: str) -> dict[int, Seal]:
        """Return the seals of a charge by range."""
        return self._database.read(lambda connection: ranges.find_seals(connection, charge_id))

    def seal_of(self, charge_id: str, range_id: int) -> Seal | None:
        """Return the seal of one range, or None."""
        return self._database.read(lambda connection: ranges.find_seal(connection, charge_id, range_id))

    def tokens(self, charge_id: str) -> dict[int, int]:
        """Return the newest fencing token of every range that was ever leased: an older one can never seal."""
        return self._database.read(lambda connection: ranges.find_tokens(connection, charge_id))

    def finish(self, charge_id: str, count: int) -> None:
        """Close a charge whose `count` ranges are all sealed: RUNNING → SEALED; finished already is fine."""
        self._record(lambda connection: ranges.finish_charge(connection, charge_id, count))

    # Ends

    def answer(self, charge_id: str, answer: Mapping[str, object]) -> dict[str, object]:
        """Record a gate's answer before anyone sees it (RUNNING → SEALED) and return the one that is recorded first."""
        return self._record(lambda connection: closing.record_answer(connection, charge_id, answer))

    def recorded_answer(self, charge_id: str) -> dict[str, object] | None:
        """Return a gate's recorded answer, or None."""
        answer = self._database.read(lambda connection: closing.find_answer(connection, charge_id))
        self._chain.settle()
        return answer

    def publish(self, release: str) -> None:
        """Say that a release is bound to become public: every charge SEALED → PUBLISHED.

        From here on it cannot be abandoned, so this comes before the signature that makes it a release.
        """
        self._record(lambda connection: closing.publish_release(connection, release))

    def burn(self, release: str, reason: str) -> None:
        """Abandon a release: every charge → BURNED, spent for ever."""
        self._record(lambda connection: closing.burn_release(connection, release, reason))

    # History

    def history(self) -> list[Entry]:
        """Return every entry of the chain, oldest first."""
        return self._database.read(lambda connection: list(entries(connection)))

    def newest(self) -> dict[tuple[str, str], str]:
        """Return when each (population, release) last changed what it holds, ISO 8601 UTC."""
        return self._database.read(newest_changes)

    def notices(self, after: int = 0) -> list[Notice]:
        """Return what the operator was told beyond number `after`, oldest first."""
        return self._database.read(lambda connection: notices.find_notices(connection, after))

    @contextmanager
    def watched(self, watcher: Watcher) -> Iterator[None]:
        """Pass every notice that is written through this object to `watcher`, once it is committed and anchored."""
        self._watchers.append(watcher)
        try:
            yield
        finally:
            self._watchers.remove(watcher)

    def back_up(self, target: Path) -> Path:
        """Write one snapshot of the ledger, without its anchors, to a new SQLite file, which is a ledger in itself.

        Raises:
            LedgerError: there is something at `target`.
        """
        return backup.back_up(self._database, target)

    def check(self) -> Checked:
        """Check everything against everything: database, chain, anchors, states, sums and seals.

        Raises:
            LedgerRewound: the chain and its anchors disagree.
            LedgerError: the tables are not what the chain says; every difference is listed.
        """
        self._chain.refuse_if_behind()
        anchored = [key for key, _ in self._chain.anchors.list()]
        # What it sees is read at once: a snapshot that stayed open while all anchors are fetched would be ended.
        given = tokens.newest_tokens(anchored)
        seen = self._database.read(lambda connection: checking.see(connection, self._database.problems, given))
        self._chain.settle()
        return checking.check(seen, self._chain.identity, self._chain.anchors, anchored)

    def _knows_newer(self, lease: Lease) -> bool:
        known = self._database.read(lambda connection: ranges.find_tokens(connection, lease.charge))
        return known.get(lease.range_id, 0) > lease.token

    def _refuse_token(self, lease: Lease, token: int) -> NoReturn:
        self._chain.refuse(
            f"forgot token {token} of range {lease.range_id} of charge {lease.charge}, which was given: an older copy "
            f"was restored"
        )

    def _record(self, work: Callable[[Connection], T]) -> T:
        """Run a transaction that may append to the chain; committed, anchored and told when this returns."""
        result, told = self._chain.record(work)
        self._tell(told)
        return result

    def _write(self, work: Callable[[Connection], T]) -> T:
        """Run a transaction that appends nothing to the chain; committed and told when this returns."""
        result, told = self._database.write(lambda connection: (work(connection), written(connection).notices))
        self._tell(told)
        return result

    def _tell(self, told: list[Notice]) -> None:
        for notice in told:
            for watcher in list(self._watchers):
                watcher(notice)


@contextmanager
def _database(url: str) -> Iterator[Database]:
    """The database at an address, its connections closed at the end."""
    database = database_at(url)
    try:
        yield database
    finally:
        database.close()


def _require_there(database: Database) -> None:
    if not database.exists():
        raise LedgerMissing(
            f"there is no ledger at {database.shown}: `cadp budget init` makes one; if there was one, put it back, "
            f"since a new one would forget what was spent"
        )
