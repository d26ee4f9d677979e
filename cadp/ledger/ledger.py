"""The ledger: the one door to the budget. Every method is one transaction; every change is anchored when it returns."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from cadp.errors import LedgerMissing, LedgerRewound
from cadp.ledger import budget, charges, checking, closing, populations
from cadp.ledger.anchors import CLAIM, AnchoredChain
from cadp.ledger.budget import Budget, Quote
from cadp.ledger.chain import Entry, entries
from cadp.ledger.charges import Charge
from cadp.ledger.checking import Checked
from cadp.ledger.engine import Database, ledger_path
from cadp.ledger.migrate import create_file, require_current, upgrade_file
from cadp.ledger.populations import Population
from cadp.ledger.ranges import Lease, Seal, find_seals, finish_charge, renew_lease, seal_range, take_lease
from cadp.ledger.states import State
from cadp.privacy.accountant import Event, curve
from cadp.store import Store


class Ledger:
    """One global budget per population, in a database whose history is anchored outside of it.

    Use `open`; only `init` creates. Safe for threads and for any number of processes; pickling reopens it.
    """

    def __init__(self, path: Path, anchors: Store) -> None:
        """Open an existing ledger; `Ledger.open` takes an address."""
        if not path.exists():
            raise LedgerMissing(
                f"there is no ledger at {path}: `cadp budget init` makes one; if there was one, put it back, "
                f"since a new one would forget what was spent"
            )
        self._path = path
        self._anchors = anchors
        self._database = Database(path)
        try:
            with self._database.read() as connection:
                require_current(connection, path)
            self._chain = AnchoredChain(self._database, anchors)
            self._chain.check_opening()
        except BaseException:
            self._database.close()
            raise

    @classmethod
    def open(cls, url: str, anchors: Store) -> "Ledger":
        """Open the ledger at `url` (`sqlite:////absolute/path`), compare it with its anchors and heal a crash.

        Raises:
            LedgerMissing: there is none; nothing is created.
            LedgerRewound: it was restored, copied or cut off, or these are not its anchors.
            LedgerError: the file is no ledger, or is a newer version's.
        """
        return cls(ledger_path(url), anchors)

    @classmethod
    def init(cls, url: str, anchors: Store) -> "Ledger":
        """Create the ledger, or bring an older one to this version's schema, and open it. Safe to repeat.

        Raises:
            LedgerRewound: the anchors belong to a ledger that is not at `url`: a new one would forget its charges.
            LedgerError: as for `open`.
        """
        path = ledger_path(url)
        # Asked in this order, another process that creates it meanwhile is not taken for a loss.
        claimed = anchors.exists(CLAIM)
        if path.exists():
            upgrade_file(path)
        elif claimed:
            raise LedgerRewound(
                f"the anchors at {anchors.url} belong to a ledger, and there is none at {path}: put the newest copy of "
                f"that ledger back; a new one would forget what was spent"
            )
        else:
            create_file(path)
        return cls(path, anchors)

    def __reduce__(self) -> tuple[type["Ledger"], tuple[Path, Store]]:
        return (type(self), (self._path, self._anchors))

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the database; another call opens it again."""
        self._database.close()

    # Populations and their budgets

    def create_population(
        self, name: str, *, unit: str, epsilon: float, delta: float, source_hmac: str, secret_fingerprint: str
    ) -> Population:
        """Create a population with its limit, for ever; the same again is the same.

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
        with self._chain.recording() as connection:
            return populations.create_population(connection, wanted)

    def populations(self) -> list[Population]:
        """Return every population by name."""
        with self._database.read() as connection:
            return list(populations.all_populations(connection))

    def population(self, name: str) -> Population:
        """Return one population.

        Raises:
            LedgerError: there is none of this name.
        """
        with self._database.read() as connection:
            return populations.find_population(connection, name)[1]

    def bound_to(self, source_hmac: str) -> Population | None:
        """Return the population that a source is bound to, or None."""
        with self._database.read() as connection:
            return populations.bound_to(connection, source_hmac)

    def budget(self, population: str, release: str | None = None) -> Budget:
        """Return what a population has spent and has left; with `release`, only that release's share is listed."""
        with self._database.read() as connection:
            return budget.read_budget(connection, population, release)

    def quote(self, population: str, event: Event) -> Quote:
        """Return what a charge would do to the budget now; nothing is charged or promised."""
        with self._database.read() as connection:
            return budget.quote(connection, population, curve(event))

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
        with self._chain.recording() as connection:
            return charges.make_charge(
                connection, population, release=release, key=key, event=event, parameters=parameters
            )

    def charges(self, population: str | None = None, release: str | None = None) -> list[Charge]:
        """Return charges in the order in which they were made."""
        with self._database.read() as connection:
            return charges.find_charges(connection, population, release)

    def begin(self, charge_id: str) -> Charge:
        """Say that the mechanism may read from now on: RESERVED → RUNNING; running already is fine.

        Raises:
            LedgerError: it is past that.
        """
        with self._chain.recording() as connection:
            if charges.get_charge(connection, charge_id).state is not State.RUNNING:
                charges.move(connection, charge_id, State.RUNNING, "begin", {})
            return charges.get_charge(connection, charge_id)

    def void(self, charge_id: str) -> None:
        """Take back a charge that has not begun: RESERVED → VOIDED; its cost and key are free again."""
        with self._chain.recording() as connection:
            charges.void_charge(connection, charge_id)

    # Ranges

    def lease(self, charge_id: str, range_id: int, owner: str, seconds: float) -> Lease:
        """Take a range of a running charge; see `process_owner` for owners whose death is noticed at once.

        Raises:
            LeaseHeld: another owner's lease is alive; it has `owner` and `seconds_left`.
            SealConflict: the range is sealed.
        """
        self._chain.refuse_if_behind()
        with self._database.write() as connection:
            return take_lease(connection, charge_id, range_id, owner, seconds)

    def renew(self, lease: Lease) -> Lease:
        """Keep a lease for as long again from now.

        Raises:
            SealConflict: it was lost.
        """
        self._chain.guard()
        with self._database.write() as connection:
            return renew_lease(connection, lease)

    def seal(self, lease: Lease, *, key: str, sha256: str, facts: Mapping[str, object]) -> Seal:
        """Make an object the one output of a range; the same again gives the same seal.

        Raises:
            SealConflict: the lease was lost or the range has another output: delete the object unread.
        """
        self._chain.guard()
        with self._database.write() as connection:
            return seal_range(connection, lease, key=key, sha256=sha256, facts=facts)

    def seals(self, charge_id: str) -> dict[int, Seal]:
        """Return the seals of a charge by range."""
        with self._database.read() as connection:
            return find_seals(connection, charge_id)

    def finish(self, charge_id: str, ranges: int) -> None:
        """Close a charge whose ranges are all sealed: RUNNING → SEALED; finished already is fine."""
        with self._chain.recording() as connection:
            finish_charge(connection, charge_id, ranges)

    # Ends

    def answer(self, charge_id: str, answer: Mapping[str, object]) -> dict[str, object]:
        """Record a gate's answer before anyone sees it (RUNNING → SEALED) and return the one that is recorded first."""
        with self._chain.recording() as connection:
            return closing.record_answer(connection, charge_id, answer)

    def recorded_answer(self, charge_id: str) -> dict[str, object] | None:
        """Return a gate's recorded answer, or None."""
        with self._database.read() as connection:
            answer = closing.find_answer(connection, charge_id)
        self._chain.settle()
        return answer

    def publish(self, release: str) -> None:
        """Say that a release is public: every charge SEALED → PUBLISHED."""
        with self._chain.recording() as connection:
            closing.publish_release(connection, release)

    def burn(self, release: str, reason: str) -> None:
        """Abandon a release: every charge → BURNED, spent for ever."""
        with self._chain.recording() as connection:
            closing.burn_release(connection, release, reason)

    # History

    def history(self) -> list[Entry]:
        """Return every entry of the chain, oldest first."""
        with self._database.read() as connection:
            return list(entries(connection))

    def check(self) -> Checked:
        """Check everything against everything: file, chain, anchors, states, sums and seals.

        Raises:
            LedgerRewound: the chain and its anchors disagree.
            LedgerError: the tables are not what the chain says; every difference is listed.
        """
        self._chain.refuse_if_behind()
        anchored = [key for key, _ in self._chain.anchors.list()]
        with self._database.read() as connection:
            links = list(entries(connection))
            self._chain.settle()
            return checking.check(connection, links, self._chain.anchors, anchored)
