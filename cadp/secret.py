"""The population's secret and the keys that are derived from it.

A digest of private bytes is an oracle: whoever guesses the bytes can check the guess. So whatever must be compared or
placed by a hash of something private is an HMAC under this secret. `cadp budget init` makes it; it is never rotated,
since it places units in shards and in the holdout; the ledger knows its fingerprint.
"""

import contextlib
import fcntl
import hmac
import os
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cadp.errors import LedgerError, SettingsError

_SIZE = 32


@dataclass(frozen=True, repr=False)
class PopulationSecret:
    """32 bytes from the operating system's CSPRNG, and what is derived from them."""

    root: bytes

    def key(self, purpose: str) -> bytes:
        """Return the 32-byte key for one purpose: HKDF-SHA256 (RFC 5869) with the purpose as info."""
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"cadp/1/" + purpose.encode()).derive(self.root)

    def mac(self, purpose: str, message: bytes) -> bytes:
        """Return HMAC-SHA256 (32 bytes) of `message` under the purpose's key."""
        return hmac.digest(self.key(purpose), message, sha256)

    def fingerprint(self) -> str:
        """Return 16 hex digits that tell secrets apart and tell nothing about them."""
        return self.mac("fingerprint", b"").hex()[:16]


def make_secret(folder: Path, population: str) -> PopulationSecret:
    """Create the population's secret file (mode 0600) if it is absent, and return the secret.

    Raises:
        SettingsError: the file cannot be written or is damaged.
    """
    _put_if_absent(folder / f"{population}.key", lambda: os.urandom(_SIZE))
    return load_secret(folder, population)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the secrets folder: among this machine's processes, what is looked up and made under it is one step.

    Raises:
        SettingsError: the folder cannot be written.
    """
    path = folder / ".lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            raise SettingsError(f"cannot lock {path}: {error.strerror}; put CADP_SECRETS on a local disk") from error
        yield
    finally:
        os.close(handle)


def bind_ledger(folder: Path, population: str, ledger: str, known: Collection[str] = ()) -> None:
    """Say, before the population's secret is made, which ledger will hold its budget; it never changes.

    A secret without this note is thus never one that a crash left half made.

    Args:
        folder: the secrets; they all belong to one ledger.
        population: a population that the ledger does not hold yet.
        ledger: its id.
        known: the populations that it holds.

    Raises:
        LedgerError: a secret in the folder belongs to another ledger.
    """
    refuse_second_ledger(folder, ledger, known)
    note_ledger(folder, population, ledger)


def refuse_second_ledger(folder: Path, ledger: str | None, known: Collection[str] = ()) -> None:
    """Refuse a ledger, or a new one if None, that is not the one that the secrets in `folder` belong to.

    Raises:
        LedgerError: a secret there has another ledger's note, or none, and the ledger does not know its population.
    """
    for path in sorted(folder.glob("*.ledger")):
        if (holder := bound_ledger(folder, path.stem)) not in (None, ledger):
            raise _second(f"the budget of population {path.stem} is kept by ledger {holder}", ledger)
    for path in sorted(folder.glob("*.key")):
        if path.stem not in known and bound_ledger(folder, path.stem) is None:
            raise _second(
                f"{path} is there and no note says whose (move it away if no budget was ever made with it), so another "
                f"ledger keeps the budget of population {path.stem}",
                ledger,
            )


def note_ledger(folder: Path, population: str, ledger: str) -> None:
    """Note beside the secret of a population which ledger holds its budget.

    Raises:
        LedgerError: another ledger was noted.
    """
    if bound_ledger(folder, population) is None:
        _put_if_absent(folder / f"{population}.ledger", f"{ledger}\n".encode)
    require_noted(folder, population, ledger)


def require_noted(folder: Path, population: str, ledger: str) -> None:
    """Check the population's note, if there is one.

    Raises:
        LedgerError: another ledger was noted.
    """
    known = bound_ledger(folder, population)
    if known not in (None, ledger):
        raise _second(f"the budget of population {population} is kept by ledger {known}", ledger)


def _second(what: str, ledger: str | None) -> LedgerError:
    where = "there is none where CADP_LEDGER points" if ledger is None else f"this is ledger {ledger}"
    return LedgerError(
        f"{what}, and {where}: point CADP_LEDGER and CADP_ANCHORS back to the first one; a fresh ledger would give the "
        f"same people a second budget. One folder of secrets belongs to one ledger: for another, set CADP_SECRETS too"
    )


def bound_ledger(folder: Path, population: str) -> str | None:
    """Return the id of the ledger that holds the population's budget, or None if none was noted."""
    path = folder / f"{population}.ledger"
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read which ledger population {population} belongs to, {path}: {error}") from error


def _put_if_absent(path: Path, content: Callable[[], bytes]) -> None:
    """Write a file (mode 0600) under another name, then link it: nothing half made, and a race has one winner."""
    if path.exists():
        return
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content())
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            Path(temporary).unlink()
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror}") from error


def load_secret(folder: Path, population: str) -> PopulationSecret:
    """Read the population's secret.

    Raises:
        SettingsError: it is missing or damaged.
    """
    path = folder / f"{population}.key"
    try:
        root = path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"cannot read the secret of population {population} at {path}: {error.strerror}; "
            f"it is made by `cadp budget init` and must be restored from backup if lost"
        ) from error
    if len(root) != _SIZE:
        raise SettingsError(
            f"the secret of population {population} at {path} is damaged: {len(root)} bytes, not {_SIZE}"
        )
    return PopulationSecret(root)
