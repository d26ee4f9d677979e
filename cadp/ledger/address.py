"""The ledger's address: an SQLite file or a PostgreSQL database. What is shown of it never holds a password.

What cannot be read as an address is not shown at all: nobody knows which part of it is a password then.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from cadp.errors import SettingsError

_FORMS = "use sqlite:////absolute/path or postgresql://user@host/database"
_SECRETS = ("password", "passfile", "sslpassword")
# Something that was meant for a server: scheme:…, user:word@host, or libpq's `host=… password=…`.
_NO_PATH = re.compile(
    r"^(sqlite|postgres|postgresql)(\+\w+)?:|:[^/]*@|://|password\s*=|^(host|hostaddr|port|dbname|user|service)\s*="
)
_OPTION = re.compile(r"[a-z_]+")


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
            SettingsError: it is none of these, or holds a password where it would be shown.
        """
        if "://" not in text:
            if _NO_PATH.search(text):
                raise _wrong("is neither a path nor a URL")
            return cls._file(text)
        try:
            url = make_url(text)
        except (ArgumentError, ValueError):
            # Neither error is kept: the text of both may hold a part of a password.
            raise _wrong("cannot be read: its host, its port, or a sign in its password that is not escaped") from None
        match url.drivername.partition("+")[0]:
            case "sqlite" if url.database not in (None, "", ":memory:"):
                if url.host or url.username or url.query:
                    raise _wrong("names a file and a host, or options, which a file has not")
                return cls._file(str(url.database))
            case "postgresql" | "postgres" if url.database:
                _check_server(url)
                return cls(url.set(drivername="postgresql+psycopg"), None)
            case "sqlite" | "postgresql" | "postgres":
                raise _wrong("names no ledger")
            case other:
                raise _wrong(f"is of a kind that holds no ledger ({other})")

    @classmethod
    def _file(cls, text: str) -> "Address":
        try:
            path = Path(text).expanduser().absolute()
        except RuntimeError:
            raise _wrong("begins with ~ and the name of nobody on this machine") from None
        if not text or "\0" in text:
            raise _wrong("names no ledger")
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


def _check_server(url: URL) -> None:
    """Refuse what would show a password, or a part of one, as something else."""
    if secret := next((name for name in _SECRETS if name in url.query), None):
        raise _wrong(f"holds {secret}=…: never there; let PGPASSFILE name a file of mode 0600, or set PGPASSWORD")
    if not all(_OPTION.fullmatch(name) for name in url.query):
        raise _wrong("has an option that no connection has")
    if any("@" in part for part in (url.host or "", str(url.database), str(url.query.get("host", "")))):
        raise _wrong("has a second @: in a password or a name write it as %40; better, keep the password in PGPASSFILE")
    if url.port is not None and not 0 < url.port < 65536:
        raise _wrong("has a port that is none: 1 to 65535")


def _wrong(why: str) -> SettingsError:
    return SettingsError(f"the ledger's address {why}; {_FORMS} (CADP_LEDGER)")
