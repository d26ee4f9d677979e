"""Local scratch of this process: private data for the time of a sort or a fit, gone with the process that made it."""

import shutil
from pathlib import Path
from urllib.parse import quote, unquote

from cadp.ledger import process_owner
from cadp.ledger.owner import is_dead


def own_scratch(root: Path) -> Path:
    """Return this process's folder below `root`, for its owner's eyes only."""
    folder = root / quote(process_owner(), safe="")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def sweep_scratch(root: Path) -> None:
    """Remove what processes of this machine left that were killed: decoded originals may lie there."""
    for folder in dead_scratch(root):
        shutil.rmtree(folder, ignore_errors=True)


def dead_scratch(root: Path) -> list[Path]:
    """Return the folders below `root` of processes of this machine that are gone."""
    return [folder for folder in sorted(root.iterdir()) if is_dead(unquote(folder.name))] if root.is_dir() else []
