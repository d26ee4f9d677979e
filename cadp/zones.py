"""The zones of a deployment as stores, each opened with its own credentials."""

from cadp.settings import Settings
from cadp.store import Store


def private_zone(settings: Settings) -> Store:
    """What nobody but this deployment may read: raw shards, models, sealed runs."""
    return _open(settings.private_url, settings.private_profile)


def public_zone(settings: Settings) -> Store:
    """Releases, one prefix a version; only whoever publishes needs to write it."""
    return _open(settings.public_url, settings.public_profile)


def anchor_zone(settings: Settings) -> Store:
    """The ledger's anchors, apart from its database."""
    return _open(settings.anchors_url, settings.anchors_profile)


def _open(url: str, profile: str) -> Store:
    return Store.open(url, {"profile": profile} if profile else None)
