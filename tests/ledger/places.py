"""Where a test's ledger lies, in either database, and the few moves that every test makes."""

import secrets
import shutil
import sqlite3
from abc import ABC, abstractmethod
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cadp.ledger import Charge, Ledger, Population
from cadp.store import Store
from tests.servers.postgres import PostgresServer

SHA = "0123456789abcdef" * 4


@dataclass(frozen=True)
class Place(ABC):
    """One ledger of a test, with its anchors beside it in `folder`."""

    folder: Path

    @property
    @abstractmethod
    def url(self) -> str:
        """The ledger's address."""

    @property
    def anchors_folder(self) -> Path:
        return self.folder / "anchors"

    @property
    def anchors(self) -> Store:
        return Store.open(str(self.anchors_folder))

    def open(self) -> Ledger:
        return Ledger.open(self.url, self.anchors)

    def init(self) -> Ledger:
        return Ledger.init(self.url, self.anchors, self.folder / "backups")

    def anchor_files(self) -> list[Path]:
        return sorted(self.anchors_folder.glob("*/0*.json"))

    @abstractmethod
    def copy(self, folder: Path) -> Self:
        """Copy the closed ledger and its anchors."""

    @abstractmethod
    def twin(self) -> str:
        """Copy the closed ledger alone, with everything that is committed, and return the copy's address."""

    @abstractmethod
    def restore(self, twin: str) -> None:
        """Put a copy in the place of the closed ledger; the copy stays."""

    @abstractmethod
    def execute(self, *statements: str) -> list[Any]:
        """Run SQL behind the ledger's back; return what the last statement gives."""


@dataclass(frozen=True)
class FilePlace(Place):
    """A ledger in an SQLite file."""

    @property
    def file(self) -> Path:
        return self.folder / "private" / "ledger.db"

    @property
    def url(self) -> str:
        return f"sqlite:///{self.file}"

    def copy(self, folder: Path) -> Self:
        shutil.copytree(self.folder, folder)
        return type(self)(folder)

    def twin(self) -> str:
        target = self.folder.parent / f"twin-{secrets.token_hex(4)}" / "ledger.db"
        target.parent.mkdir(parents=True)
        _copy_file(self.file, target)
        return f"sqlite:///{target}"

    def restore(self, twin: str) -> None:
        _copy_file(Path(twin.removeprefix("sqlite:///")), self.file)

    def execute(self, *statements: str) -> list[Any]:
        rows: list[Any] = []
        with closing(sqlite3.connect(self.file)) as connection:
            for statement in statements:
                rows = connection.execute(statement).fetchall()
            connection.commit()
        return rows


@dataclass(frozen=True)
class ServerPlace(Place):
    """A ledger in a PostgreSQL database."""

    server: PostgresServer
    database: str

    @classmethod
    def fresh(cls, folder: Path, server: PostgresServer) -> Self:
        """An empty database."""
        folder.mkdir(parents=True)
        return cls(folder, server, _name(server.create()))

    @property
    def url(self) -> str:
        return self.server.url(self.database)

    def copy(self, folder: Path) -> Self:
        folder.mkdir(parents=True)
        if self.anchors_folder.exists():
            shutil.copytree(self.anchors_folder, folder / "anchors")
        return type(self)(folder, self.server, _name(self.server.create(template=self.database)))

    def twin(self) -> str:
        return self.server.create(template=self.database)

    def restore(self, twin: str) -> None:
        self.server.drop(self.database)
        self.server.create(self.database, template=_name(twin))

    def execute(self, *statements: str) -> list[Any]:
        import psycopg

        with psycopg.connect(self.url) as connection:
            # As SQLite does for any client that does not ask for them: no foreign keys.
            connection.execute("SET session_replication_role = replica")
            for statement in statements:
                cursor = connection.execute(statement)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []


def _copy_file(source: Path, target: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{target}{suffix}").unlink(missing_ok=True)
        if suffix != "-shm" and Path(f"{source}{suffix}").exists():
            shutil.copy(f"{source}{suffix}", f"{target}{suffix}")


def _name(url: str) -> str:
    return url.rpartition("/")[2].partition("?")[0]


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
