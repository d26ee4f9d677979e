"""A population's running totals, and the filter that decides whether one more charge fits.

A charge fits if at *some* Rényi order the integer sum of all charges stays within that order's cap, and the sum of
additive δ's stays within its own; `cadp.privacy.accountant` proves that this keeps the whole within (ε, δ). Decision
and charge are one write transaction. Behind it stand two more lines: the totals are swapped only if nobody else swapped
them since they were read, and CHECK constraints refuse totals beyond the caps.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select

from cadp.errors import LedgerError
from cadp.ledger import schema
from cadp.ledger.canonical import canonical
from cadp.ledger.parsing import parsed
from cadp.privacy.accountant import ORDERS, Curve

_NO_ROOM = -1


@dataclass(frozen=True, slots=True)
class Account:
    """The totals of one population as one transaction read them.

    Attributes:
        population_id: whose they are.
        caps: the most micro-nats at each order; negative where the order can hold nothing.
        cap_delta_atto: the most additive δ, in 1e-18.
        spent: the sum of everything that counts.
        revision: raised by every change.
    """

    population_id: int
    caps: tuple[int, ...]
    cap_delta_atto: int
    spent: Curve
    revision: int

    def admits(self, total: Curve) -> bool:
        """Return whether charges that sum to `total` are within the caps: the filter."""
        return headroom(total, self.caps) >= 0 and total.delta_atto <= self.cap_delta_atto


def headroom(total: Curve, caps: tuple[int, ...]) -> int:
    """Return the most micro-nats that any order has left under `total`; negative if every order is exceeded."""
    left = (most - spent for spent, most in zip(total.micro, caps, strict=True) if spent is not None)
    return max(left, default=_NO_ROOM)


def open_account(connection: Connection, population_id: int, *, caps: tuple[int, ...], cap_delta_atto: int) -> None:
    """Open the account of a new population, with nothing spent."""
    zero = Curve.zero()
    connection.execute(
        schema.accounts.insert().values(
            population_id=population_id,
            caps=canonical(caps),
            spent=canonical(zero.to_json()),
            cap_delta_atto=cap_delta_atto,
            spent_delta_atto=0,
            headroom=str(headroom(zero, caps)),
            revision=1,
        )
    )


def read_account(connection: Connection, population_id: int) -> Account:
    """Read the totals of a population."""
    row = connection.execute(select(schema.accounts).where(schema.accounts.c.population_id == population_id)).one()
    return account_of(row)


def account_of(row: Row[Any]) -> Account:
    """Return the account that a row of `accounts`, or of a join with it, holds.

    Raises:
        LedgerError: it is damaged.
    """
    if not all(type(value) is int for value in (row.cap_delta_atto, row.spent_delta_atto, row.revision)):
        raise LedgerError(
            f"the account of population number {row.population_id} was changed: it holds other things than whole "
            f"numbers; stop every writer, run `cadp budget verify` and put back the newest copy"
        )
    whose = f"of the account of population number {row.population_id}"
    return Account(
        population_id=row.population_id,
        caps=parsed(f"`caps` {whose}", row.caps, _caps),
        cap_delta_atto=row.cap_delta_atto,
        spent=parsed(f"`spent` {whose}", row.spent, Curve.from_json),
        revision=row.revision,
    )


def _caps(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) != len(ORDERS) or not all(type(most) is int for most in value):
        raise TypeError("not one whole number for each order")
    return tuple(value)


_SWAP = schema.accounts.update().where(
    schema.accounts.c.population_id == bindparam("of"), schema.accounts.c.revision == bindparam("read")
)


def replace_total(connection: Connection, account: Account, total: Curve) -> None:
    """Swap the totals that `account` read for `total`.

    Raises:
        LedgerError: somebody else changed them in between, or they break a CHECK; the transaction must not go on.
    """
    values = {
        "of": account.population_id,
        "read": account.revision,
        "spent": canonical(total.to_json()),
        "spent_delta_atto": total.delta_atto,
        "headroom": str(headroom(total, account.caps)),
        "revision": account.revision + 1,
    }
    swapped = connection.execute(_SWAP, values)
    if swapped.rowcount != 1:
        raise LedgerError("the budget changed while it was read: the database does not isolate; nothing was charged")
