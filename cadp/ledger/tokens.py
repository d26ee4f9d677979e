"""Fencing tokens, put one by one beside the chain's anchors, so that a rewound ledger cannot give one again.

Leases and seals are thousands and no entries of the chain: a backup from the middle of a release differs from the truth
by them alone. Brought back unnoticed, it would have sealed ranges drawn a second time under the same charge, and a
worker that was fenced off could seal. So a token is handed out only once `leases/<charge>/<range>.<token>.json` was
put, if absent; a ledger that forgot a lease gives its token again, loses that put and stops. And a seal asks whether a
newer token was ever given. What is put holds who and a nonce, nothing private.
"""

import secrets
from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, select

from cadp.errors import ObjectExists
from cadp.ledger import schema
from cadp.ledger.canonical import canonical
from cadp.ledger.ranges import Lease
from cadp.ledger.states import State
from cadp.store import Store

PREFIX = "leases/"
SCHEMA = 1


def put_token(anchors: Store, lease: Lease) -> bool:
    """Put a token; return False if it was given before: this ledger forgot that."""
    value = {"schema": SCHEMA, "owner": lease.owner, "nonce": secrets.token_hex(8)}
    try:
        anchors.put(_key(lease.charge, lease.range_id, lease.token), f"{canonical(value)}\n".encode())
    except ObjectExists:
        return False
    return True


def is_newest(anchors: Store, lease: Lease) -> bool:
    """Return whether nobody was ever given the token after this lease's."""
    return not anchors.exists(_key(lease.charge, lease.range_id, lease.token + 1))


def newest_tokens(keys: Iterable[str]) -> dict[tuple[str, int], int]:
    """Return the highest token that was ever given, by charge and range, from the keys of a ledger's anchors."""
    newest: dict[tuple[str, int], int] = {}
    for key in keys:
        if not key.startswith(PREFIX):
            continue
        charge, _, name = key.removeprefix(PREFIX).partition("/")
        index, _, token = name.removesuffix(".json").partition(".")
        if index.isdecimal() and token.isdecimal():
            which = (charge, int(index))
            newest[which] = max(newest.get(which, 0), int(token))
    return newest


def forgotten(connection: Connection, given: Mapping[tuple[str, int], int]) -> list[tuple[str, int]]:
    """Return the ranges of running charges of which the ledger knows a lower token than was given, or none.

    Of a charge that is finished or burned nothing is ever leased again. `given` was listed before the snapshot.
    """
    running = set(connection.scalars(select(schema.charges.c.id).where(schema.charges.c.state == State.RUNNING)))
    known = {
        (row.charge_id, row.range_id): row.token
        for row in connection.execute(select(schema.ranges).where(schema.ranges.c.charge_id.in_(running)))
    }
    return sorted(which for which, token in given.items() if which[0] in running and known.get(which, 0) < token)


def _key(charge: str, range_id: int, token: int) -> str:
    return f"{PREFIX}{charge}/{range_id:08d}.{token:06d}.json"
