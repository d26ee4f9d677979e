"""Where a test's ledger lies, and the few moves that every test makes."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from cadp.ledger import Charge, Ledger, Population
from cadp.store import Store

SHA = "0123456789abcdef" * 4


@dataclass(frozen=True)
class Place:
    """One ledger of a test, with its anchors beside it."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "private" / "ledger.db"

    @property
    def url(self) -> str:
        return f"sqlite:///{self.file}"

    @property
    def anchors_folder(self) -> Path:
        return self.folder / "anchors"

    @property
    def anchors(self) -> Store:
        return Store.open(str(self.anchors_folder))

    def open(self) -> Ledger:
        return Ledger.open(self.url, self.anchors)

    def anchor_files(self) -> list[Path]:
        return sorted(self.anchors_folder.glob("*/0*.json"))

    def copy(self, folder: Path) -> "Place":
        """Copy the closed ledger and its anchors."""
        shutil.copytree(self.folder, folder)
        return Place(folder)

    def backup(self, target: Path) -> Path:
        """Copy the database alone, with everything that is committed."""
        target.parent.mkdir(parents=True, exist_ok=True)
        for suffix in ("", "-wal"):
            if Path(f"{self.file}{suffix}").exists():
                shutil.copy(f"{self.file}{suffix}", f"{target}{suffix}")
        return target

    def restore(self, backup: Path) -> None:
        """Put a backup in the place of the closed database."""
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.file}{suffix}").unlink(missing_ok=True)
            if Path(f"{backup}{suffix}").exists():
                shutil.copy(f"{backup}{suffix}", f"{self.file}{suffix}")


def add_population(ledger: Ledger, name: str = "people", epsilon: float = 8.0, delta: float = 1e-6) -> Population:
    return ledger.create_population(
        name, unit="person", epsilon=epsilon, delta=delta, source_hmac=f"hmac of {name}", secret_fingerprint="f1"
    )


def seal_all(ledger: Ledger, charge: Charge, ranges: int = 1) -> None:
    """Take a reserved charge to SEALED."""
    ledger.begin(charge.id)
    for index in range(ranges):
        lease = ledger.lease(charge.id, index, "me", 60)
        ledger.seal(lease, key=f"{charge.id}/{index}", sha256=SHA, facts={})
    ledger.finish(charge.id, ranges)
