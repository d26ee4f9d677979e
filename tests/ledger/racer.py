"""One of several processes that race for a budget; run as `python racer.py URL ANCHORS NAME WEAKNESS`.

It says `ready`, waits for a line, charges until it is refused and prints what happened as JSON. `WEAKNESS` takes parts
of the ledger's protection away, to show that the race would find them missing.
"""

import json
import sqlite3
import sys
from collections.abc import Callable

from cadp.errors import BudgetExceeded, LedgerError
from cadp.ledger import Ledger, accounts, charges, engine
from cadp.privacy.accountant import PureEvent
from cadp.store import Store


def weaken(weakness: str) -> None:
    if weakness in ("driver-default", "driver-default, no second line"):
        # What Python's driver does when left alone: no transaction until the first INSERT or UPDATE.
        connect: Callable[..., sqlite3.Connection] = sqlite3.connect
        engine.sqlite3.connect = lambda *a, **k: connect(*a, **k | {"isolation_level": "DEFERRED"})  # type: ignore[assignment]
        engine.BEGIN_WRITE = engine.BEGIN_READ = "SELECT 1"
    if weakness == "deferred":
        engine.BEGIN_WRITE = "BEGIN DEFERRED"
    if weakness == "driver-default, no second line":

        def overwrite(connection: object, account: accounts.Account, total: object) -> None:
            table = accounts.schema.accounts
            text = accounts.canonical(total.to_json())  # type: ignore[attr-defined]
            connection.execute(table.update().values(spent=text))  # type: ignore[attr-defined]

        charges.replace_total = overwrite  # type: ignore[assignment]


def main(url: str, anchors: str, name: str, weakness: str) -> None:
    weaken(weakness)
    ledger = Ledger.open(url, Store.open(anchors))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    admitted, errors = 0, []
    for i in range(1000):
        try:
            ledger.charge("people", release=name, key=f"{name}/{i}", event=PureEvent(0.5), parameters={})
            admitted += 1
        except BudgetExceeded:
            break
        except LedgerError as error:
            errors.append(str(error))
    sys.stdout.write(json.dumps({"admitted": admitted, "errors": errors}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
