"""Opening the ledger of the settings, and what to say of where it lies."""

from pathlib import Path

from cadp.ledger import Ledger
from cadp.ledger.address import Address
from cadp.ledger.mounts import memory_file_system
from cadp.settings import Settings
from cadp.zones import anchor_zone


def open_ledger(settings: Settings) -> Ledger:
    """Open the ledger of the settings.

    Raises:
        LedgerMissing: there is none.
    """
    return Ledger.open(settings.ledger_url, anchor_zone(settings))


def lost_at_restart(settings: Settings) -> list[str]:
    """Return a warning for the ledger and for its anchors, if they lie in memory."""
    anchors = settings.anchors_url.removeprefix("file://")
    places = {"ledger": Address.parse(settings.ledger_url).path, "anchors": None if "://" in anchors else Path(anchors)}
    return [
        f"warning: the {what} at {path} lie{'s' if what == 'ledger' else ''} in memory ({kind}): a restart of this "
        f"machine loses {'it' if what == 'ledger' else 'them'}, and what was spent with it; set CADP_{what.upper()} to "
        f"a disk"
        for what, path in places.items()
        if path is not None and (kind := memory_file_system(path))
    ]
