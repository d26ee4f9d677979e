"""A local directory as storage: a synced temporary file, then link(2), which is exclusive and atomic."""

import errno
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cadp.errors import ObjectMissing, StoreError
from cadp.store.backend import BLOCK, Right, open_data
from cadp.store.keys import STAGING, is_staging

STALE_SECONDS = 3600.0
"""A file still being written is touched far more often than this; an older one belongs to a writer that died."""

_ELSEWHERE = frozenset({errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS})


class LocalBackend:
    """Files below `root`. Nothing that is not finished ever lies below `root` under a name that a reader would take."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._staging: Path | None = None

    def put_if_absent(
        self, key: str, data: bytes | Path, *, size: int, sha256: str, ready: Callable[[], None] | None = None
    ) -> bool:
        """Write a temporary file, sync it, and link it to its name."""
        del size, sha256
        target = self.root / key
        with _plainly(f"write {key!r} below {self.root}", missing=StoreError):
            if target.exists():
                _sync_directory(target.parent)  # whoever linked it may have died before this
                return False
            _make_directories(target.parent)
            for staging in self._staging_candidates():
                with _suppress_elsewhere(last=staging == self.root / STAGING):
                    return self._write_and_link(staging, target, data, ready)
        raise StoreError(f"cannot write {key!r} below {self.root}: no directory to write temporary files in")

    def _staging_candidates(self) -> list[Path]:
        """Beside the root, so that a walk of the root never meets it; inside, where the root is its own file system."""
        if self._staging is not None:
            return [self._staging]
        return [self.root.parent / f"{STAGING}-{self.root.name}", self.root / STAGING]

    def _write_and_link(
        self, staging: Path, target: Path, data: bytes | Path, ready: Callable[[], None] | None
    ) -> bool:
        if self._staging is None:
            staging.mkdir(mode=0o700, exist_ok=True)
            _remove_stale(staging)
        temporary = staging / secrets.token_hex(16)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            with os.fdopen(descriptor, "wb") as sink, open_data(data) as source:
                while block := source.read(BLOCK):
                    sink.write(block)
                sink.flush()
                os.fsync(sink.fileno())
            if ready is not None:
                ready()
            try:
                os.link(temporary, target)
                won = True
            except FileExistsError:
                won = False
        finally:
            temporary.unlink(missing_ok=True)
        self._staging = staging
        _sync_directory(target.parent)
        return won

    def get(self, key: str) -> bytes:
        """Return the whole file."""
        with _plainly(f"read {key!r} below {self.root}"):
            return (self.root / key).read_bytes()

    def read(self, key: str, start: int, length: int) -> bytes:
        """Seek and read."""
        with self.open_read(key) as stream:
            stream.seek(start)
            return stream.read(length)

    def open_read(self, key: str) -> BinaryIO:
        """Open the file."""
        with _plainly(f"read {key!r} below {self.root}"):
            return (self.root / key).open("rb")

    def size(self, key: str) -> int | None:
        """Ask the file system; a directory is no object."""
        path = self.root / key
        with _plainly(f"look up {key!r} below {self.root}"):
            try:
                return path.stat().st_size if path.is_file() else None
            except FileNotFoundError:
                return None

    def list(self, prefix: str) -> list[tuple[str, int]]:
        """Walk the deepest directory that the prefix names."""
        top = self.root / prefix.rpartition("/")[0]
        with _plainly(f"list {prefix!r} below {self.root}"):
            found = []
            for path in _walk(top):
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix) and not is_staging(key):
                    with suppress(FileNotFoundError):  # deleted since
                        found.append((key, path.stat().st_size if path.is_file() else path.lstat().st_size))
            return found

    def delete(self, key: str) -> None:
        """Unlink the file."""
        with _plainly(f"delete {key!r} below {self.root}"):
            (self.root / key).unlink(missing_ok=True)

    def drop_unfinished(self, prefix: str, seconds: float, *, dry_run: bool) -> Sequence[tuple[str, int]]:
        """Unlink old temporary files; the directory of a killed writer is used again by the next one."""
        del prefix
        found, oldest = [], time.time() - seconds
        with _plainly(f"clean up below {self.root}"):
            for staging in (self.root.parent / f"{STAGING}-{self.root.name}", self.root / STAGING):
                for path in sorted(staging.iterdir()) if staging.is_dir() else ():
                    with suppress(FileNotFoundError):  # finished, or removed by another
                        state = path.stat()
                        if state.st_mtime < oldest:
                            found.append((f"file://{path.as_posix()}", state.st_size))
                            if not dry_run:
                                path.unlink()
        return found

    def lacking(self, prefix: str, rights: Sequence[Right]) -> dict[Right, str]:
        """Ask the file system about the folder, or about the nearest one in which it would be made."""
        nearest = next(folder for folder in (self.root / prefix, *(self.root / prefix).parents) if folder.exists())
        needed = {"list": os.R_OK | os.X_OK, "read": os.R_OK | os.X_OK, "write": os.W_OK | os.X_OK}
        wrong = "is not a folder" if not nearest.is_dir() else "does not allow it"
        return {
            right: f"{nearest} {wrong}"
            for right in rights
            if not nearest.is_dir() or not os.access(nearest, needed[right])
        }

    def url_of(self, key: str) -> str:
        """Return a file:// address, not percent-encoded."""
        return f"file://{(self.root / key).as_posix()}"

    def local_path(self, key: str) -> Path | None:
        """Return the path, whether or not there is a file."""
        return self.root / key


def _walk(top: Path) -> Iterator[Path]:
    """Every file below `top`, and every symbolic link, which is not followed: a reader of a listing must see it."""
    for folder, directories, files in os.walk(top, onerror=_raise_unless_missing):
        links = [name for name in directories if (Path(folder) / name).is_symlink()]
        directories[:] = [name for name in directories if name not in links and not is_staging(name)]
        for name in [*files, *links]:
            yield Path(folder) / name


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _make_directories(folder: Path) -> None:
    """Create a folder and its parents so that they survive a power cut."""
    if folder.is_dir():
        return
    _make_directories(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_directory(folder.parent)


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_stale(staging: Path) -> None:
    """Remove what killed writers left; a live writer's file is young. Losing one only makes its link fail."""
    oldest = time.time() - STALE_SECONDS
    for path in staging.iterdir():
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < oldest:
                path.unlink()


@contextmanager
def _suppress_elsewhere(*, last: bool) -> Iterator[None]:
    """Let the next staging directory be tried where this one cannot be written or cannot be linked from."""
    try:
        yield
    except OSError as error:
        if last or error.errno not in _ELSEWHERE:
            raise


@contextmanager
def _plainly(what: str, missing: type[StoreError] = ObjectMissing) -> Iterator[None]:
    """Turn the operating system's refusals into one clear line."""
    try:
        yield
    except FileNotFoundError as error:
        raise missing(f"cannot {what}: there is no such file") from error
    except OSError as error:
        raise StoreError(f"cannot {what}: {error.strerror or error}") from error
