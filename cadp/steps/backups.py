"""Backing a deployment's ledger up and putting a backup back."""

from pathlib import Path

from cadp.ledger import Ledger
from cadp.ledger.backup import Contents, contents
from cadp.settings import Settings
from cadp.zones import anchor_zone


def back_up_ledger(settings: Settings, file: Path) -> dict[str, str]:
    """Write the ledger to a new SQLite file and return what is in it.

    Raises:
        LedgerRewound: this is not the newest ledger, so a backup of it would be of no use.
        LedgerError: there is something at `file`, or the ledger cannot be opened.
    """
    with Ledger.open(settings.ledger_url, anchor_zone(settings)) as ledger:
        path = ledger.back_up(file)
    return _facts("backup", str(path), contents(path))


def not_backed_up(settings: Settings) -> str:
    """Say what a backup of the ledger leaves out."""
    return (
        f"Not in it, to be backed up apart: the anchors ({settings.anchors_url}), which go on growing: never put old "
        f"ones back; the populations' secrets ({settings.secrets_dir}); the signing key ({settings.keys_dir})."
    )


def restore_ledger(settings: Settings, file: Path) -> dict[str, str]:
    """Fill the ledger's address, at which there is none, with a backup; return what was in it.

    Raises:
        LedgerMissing: there is no backup.
        LedgerError: it is no backup or is damaged; or there is a ledger, which is left alone.
    """
    settings.make_private_folders()
    found = Ledger.restore(file, settings.ledger_url)
    return _facts("restored from", str(file), found)


def open_restored(settings: Settings) -> str:
    """Compare a restored ledger with its anchors, upgrade it if it is older, and say how it stands.

    Raises:
        LedgerRewound: the anchors know of more than the backup, or belong to another ledger; the message says what to
            do. The ledger stays where it was put and refuses everything.
    """
    anchors = anchor_zone(settings)
    with Ledger.init(settings.ledger_url, anchors, backups=settings.home / "private" / "backups") as ledger:
        newest = ledger.history()[-1]
    return f"The anchors at {anchors.url} agree up to entry {newest.seq}: no charge is missing."


def _facts(what: str, path: str, found: Contents) -> dict[str, str]:
    return {
        what: path,
        "ledger": found.ledger,
        "schema": found.revision,
        "entries": f"{found.entries:,}",
        "newest entry": str(found.newest),
        "populations": f"{found.populations:,}",
        "charges": f"{found.charges:,}",
        "bytes": f"{found.size:,}",
    }
