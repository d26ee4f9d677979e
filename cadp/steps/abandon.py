"""Giving a release up."""

from pathlib import Path

from cadp.errors import LedgerError
from cadp.ledger import Ledger, State
from cadp.publish.layout import ENVELOPE
from cadp.settings import Settings
from cadp.spec import load_spec
from cadp.store import Store


def abandon_release(spec_path: Path, settings: Settings, reason: str) -> str:
    """Burn a release's charges and delete what it has written; say what was done.

    A release that charged nothing leaves no trace and may start again under another plan. One that charged is burned:
    its cost stays, its version can never be published. A published release cannot be abandoned.

    Raises:
        LedgerError: the release is published.
    """
    spec = load_spec(spec_path)
    ledger = Ledger.open(settings.ledger_url, Store.open(settings.anchors_url))
    public = Store.open(settings.public_url).child(spec.release)
    if public.exists(ENVELOPE):
        raise LedgerError(f"{spec.release} is published: it cannot be abandoned, only followed by a new version")
    private = Store.open(settings.private_url).child(f"releases/{spec.release}")
    charged = [c for c in ledger.charges(release=spec.release) if c.state is not State.VOIDED]
    if charged:
        ledger.burn(spec.release, reason)  # before anything is deleted: what was seen stays counted
    for store in (public, private):
        for key, _ in store.list():
            store.delete(key)
    if charged:
        return f"{spec.release} is burned: {len(charged)} charges stay spent and this version is closed"
    return f"{spec.release} is forgotten: nothing was charged; it may start again"
