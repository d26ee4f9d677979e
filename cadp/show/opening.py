"""Opening the ledger of the settings."""

from cadp.ledger import Ledger
from cadp.settings import Settings
from cadp.store import Store


def open_ledger(settings: Settings) -> Ledger:
    """Open the ledger of the settings.

    Raises:
        LedgerMissing: there is none.
    """
    return Ledger.open(settings.ledger_url, Store.open(settings.anchors_url))
