"""Giving a release up."""

from collections.abc import Sequence
from pathlib import Path

from cadp.errors import LedgerError
from cadp.ledger import Charge, Ledger, State
from cadp.publish.claim import claim_bytes
from cadp.publish.layout import CLAIM, ENVELOPE
from cadp.settings import Settings
from cadp.spec import load_spec
from cadp.store import Store
from cadp.zones import anchor_zone, private_zone, public_zone


def abandon_release(spec_path: Path, settings: Settings, reason: str) -> str:
    """Burn a release's charges and delete what it has written; say what was done.

    A release that charged nothing leaves no trace and may start again under another plan. One that charged is burned:
    its cost stays, its version can never be published. A release that is public, or that the ledger has bound to become
    so, cannot be abandoned.

    Raises:
        LedgerError: the release is published, or bound to become public.
    """
    spec = load_spec(spec_path)
    ledger = Ledger.open(settings.ledger_url, anchor_zone(settings))
    public = public_zone(settings).child(spec.release)
    if public.exists(ENVELOPE):
        raise LedgerError(f"{spec.release} is published: it cannot be abandoned, only followed by a new version")
    private = private_zone(settings).child(f"releases/{spec.release}")
    charged = _counted(ledger, spec.release)
    if charged:
        _burn(ledger, spec.release, reason)  # before anything is deleted: what was seen stays counted
        for key in burned_objects(public, charged):
            public.delete(key)
    for key, _ in private.list():
        private.delete(key)
    if charged:
        return f"{spec.release} is burned: {len(charged)} charges stay spent and this version is closed"
    return f"{spec.release} is forgotten: nothing was charged; it may start again"


def burned_objects(public: Store, charged: Sequence[Charge]) -> dict[str, int]:
    """Return key and bytes of what a burned release has below its public prefix, which no reader takes for a release.

    Nothing is returned where another plan has claimed the prefix, or where a manifest is signed.

    Args:
        public: the release's prefix.
        charged: its charges, all BURNED, so that no publisher of it can sign any more.
    """
    # Listed before the claim is read: whoever else puts objects there has put a claim before them.
    found = dict(public.list())
    plans = {(charge.release, str(charge.parameters.get("plan"))) for charge in charged}
    claims = {claim_bytes(release, plan) for release, plan in plans}
    foreign = public.exists(CLAIM) and public.get(CLAIM) not in claims
    return {} if foreign or public.exists(ENVELOPE) else found


def _counted(ledger: Ledger, release: str) -> list[Charge]:
    return [charge for charge in ledger.charges(release=release) if charge.state is not State.VOIDED]


def _burn(ledger: Ledger, release: str, reason: str) -> None:
    try:
        ledger.burn(release, reason)
    except LedgerError as error:
        if any(charge.state is State.PUBLISHED for charge in _counted(ledger, release)):
            raise LedgerError(
                f"{release} is bound to become public: run `cadp publish` to complete it; "
                f"it cannot be abandoned, only followed by a new version"
            ) from error
        raise
