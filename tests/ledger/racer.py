"""One of several processes that race for budgets; run as `python racer.py URL ANCHORS NAME WEAKNESS`.

It says `ready`, then takes the name of a population a line, charges it until it is refused and prints what happened as
JSON. `WEAKNESS` takes parts of the ledger's protection away, to show that the race would find them missing.
"""

import json
import sqlite3
import sys
from collections.abc import Callable

from sqlalchemy import select

from cadp.errors import BudgetExceeded, LedgerError
from cadp.ledger import Ledger, accounts, charges, postgres, schema, sqlite
from cadp.privacy.accountant import PureEvent
from cadp.store import Store


def weaken(weakness: str) -> None:
    """Remove the first line of defence, the isolation; with "+ no second line", the compare-and-swap and CHECKs too."""
    isolation, _, rest = weakness.partition(" + ")
    if isolation == "driver-default":
        # What Python's driver does when left alone: no transaction until the first INSERT or UPDATE.
        connect: Callable[..., sqlite3.Connection] = sqlite3.connect
        sqlite.sqlite3.connect = lambda *a, **k: connect(*a, **k | {"isolation_level": "DEFERRED"})  # type: ignore[assignment]
        sqlite.BEGIN_WRITE = sqlite.BEGIN_READ = "SELECT 1"
    if isolation == "deferred":
        sqlite.BEGIN_WRITE = "BEGIN DEFERRED"
    if isolation == "read-committed":
        # What PostgreSQL does when left alone: every statement sees the newest commit, and nobody waits.
        postgres.LOCK = select(schema.ledger.c.id)  # type: ignore[assignment]
    if rest == "no second line":

        def overwrite(connection: object, account: accounts.Account, total: object) -> None:
            table = accounts.schema.accounts
            text = accounts.canonical(total.to_json())  # type: ignore[attr-defined]
            mine = table.c.population_id == account.population_id
            connection.execute(table.update().where(mine).values(spent=text))  # type: ignore[attr-defined]

        charges.replace_total = overwrite  # type: ignore[assignment]


def compete(ledger: Ledger, population: str, name: str) -> dict[str, object]:
    """Charge until the budget refuses."""
    admitted, errors = 0, list[str]()
    for i in range(200):
        try:
            ledger.charge(population, release=name, key=f"{name}/{i}", event=PureEvent(0.5), parameters={})
            admitted += 1
        except BudgetExceeded:
            break
        except LedgerError as error:
            errors.append(str(error))
    return {"admitted": admitted, "errors": errors}


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(url: str, anchors: str, name: str, weakness: str) -> None:
    weaken(weakness)
    ledger = Ledger.open(url, Store.open(anchors))
    say("ready")
    for line in sys.stdin:
        say(json.dumps(compete(ledger, line.strip(), name)))


if __name__ == "__main__":
    main(*sys.argv[1:])
