"""The ledger's address: an SQLite file or a PostgreSQL database. What is shown of it never holds a password."""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from cadp.errors import SettingsError

_FORMS = "use sqlite:////absolute/path or postgresql://user@host/database"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a ledger is.

    Attributes:
        url: SQLAlchemy's form of it, password included; for the driver alone.
        path: the file, absolute, or None where the ledger is in a server.
    """

    url: URL
    path: Path | None

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read `sqlite:///relative`, `sqlite:////absolute`, a plain path or `postgresql://user@host:port/database`.

        A password that is not in the address is looked for where every PostgreSQL client looks: PGPASSWORD, PGPASSFILE.

        Raises:
            SettingsError: it is none of these.
        """
        if "://" not in text:
            return cls._file(Path(text))
        try:
            url = make_url(text)
        except ArgumentError as error:
            raise SettingsError(f"the ledger's address cannot be read: {_FORMS}") from error
        match url.drivername.partition("+")[0]:
            case "sqlite" if url.database not in (None, "", ":memory:"):
                return cls._file(Path(str(url.database)))
            case "postgresql" | "postgres" if url.database:
                return cls(url.set(drivername="postgresql+psycopg"), None)
        raise SettingsError(
            f"the ledger's address {url.render_as_string(hide_password=True)} names no ledger: {_FORMS}"
        )

    @classmethod
    def _file(cls, path: Path) -> "Address":
        path = path.expanduser().absolute()
        return cls(URL.create("sqlite+pysqlite", database=str(path)), path)

    @property
    def shown(self) -> str:
        """The address for messages: the file's path, or the server and its database without user and password."""
        if self.path is not None:
            return str(self.path)
        host = self.url.host or str(self.url.query.get("host", "the local socket"))
        return f"{self.url.database} on {host}" + (f":{self.url.port}" if self.url.port else "")

    def __str__(self) -> str:
        return self.shown

    def __repr__(self) -> str:
        return f"Address({self.shown!r})"
