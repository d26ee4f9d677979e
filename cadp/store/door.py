"""The store that every other part of the program sees."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cadp.errors import ObjectExists, ObjectMissing, StoreError
from cadp.store.backend import Backend, Right, digest, open_data
from cadp.store.keys import check_key, check_prefix, is_staging
from cadp.store.local import LocalBackend


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What lies under a key: its size in bytes and its SHA-256 in hex."""

    key: str
    size: int
    sha256: str


class Store:
    """One prefix of one local directory or bucket. Picklable, safe to share between threads and to carry over a fork.

    Example:
        >>> import tempfile
        >>> store = Store.open(tempfile.mkdtemp())
        >>> store.put("a/b", b"hello").size
        5
        >>> store.list()
        [('a/b', 5)]
    """

    def __init__(self, root: str, prefix: str = "", options: Mapping[str, object] | None = None) -> None:
        self._root = root
        self._prefix = prefix
        self._options: Mapping[str, object] = dict(options or {})
        self._opened: tuple[int, Backend] | None = None
        self._backend()

    @classmethod
    def open(cls, url: str, options: Mapping[str, object] | None = None) -> "Store":
        """Open `file:///…`, a plain path, or `s3://bucket/prefix`; nothing is contacted yet.

        Args:
            url: where; a local path may be relative to the working directory.
            options: for S3, what s3fs takes: `key`, `secret`, `endpoint_url`, … Unused for a local directory.

        Raises:
            StoreError: the address is of no known kind.
        """
        scheme, separator, rest = url.partition("://")
        if not separator or scheme == "file":
            path = rest if separator else url
            if not path or "\0" in path or (separator and not path.startswith("/")):
                raise StoreError(f"{url!r} is no local address; use an absolute file:///… or a path")
            return cls(f"file://{Path(path).absolute().as_posix()}")
        if scheme != "s3":
            raise StoreError(f"{url!r}: storage is a local path, file:///… or s3://bucket/prefix")
        bucket, _, prefix = rest.rstrip("/").partition("/")
        if not bucket:
            raise StoreError(f"{url!r} names no bucket; use s3://bucket/prefix")
        return cls(f"s3://{bucket}", f"{check_key(prefix)}/" if prefix else "", options)

    @property
    def url(self) -> str:
        """The address of this prefix."""
        return self._backend().url_of(self._prefix).rstrip("/") or "file:///"

    def put(self, key: str, data: bytes | Path) -> StoredObject:
        """Put bytes or a local file under `key` if it is free; visible whole or not at all, and durable on return.

        Putting the same bytes again is fine, so a retry needs no question first.

        Raises:
            ObjectExists: other bytes are there; they are left as they are.
            StoreError: nothing was made visible; or all of it, where the last answer was lost: putting it again tells.
        """
        return self._put(key, data, None)

    def put_after(self, ready: Callable[[], None], key: str, data: bytes) -> StoredObject:
        """As `put`, but visible only once `ready` has returned.

        The bytes are written meanwhile where storage allows it, so that many writers can write at the same time and
        their objects still appear in an order.

        Raises:
            ObjectExists: other bytes are there; they are left as they are.
            StoreError: nothing was made visible.
        """
        return self._put(key, data, ready)

    def _put(self, key: str, data: bytes | Path, ready: Callable[[], None] | None) -> StoredObject:
        full = self._full(key)
        backend = self._backend()
        try:
            with open_data(data) as stream:
                size, sha256 = digest(stream)
        except OSError as error:
            raise StoreError(f"cannot read {data!s} to put it under {key!r}: {error.strerror}") from error
        if not backend.put_if_absent(full, data, size=size, sha256=sha256, ready=ready):
            there = backend.size(full)
            if there != size or self.sha256(key) != sha256:
                raise ObjectExists(
                    f"{self.url_of(key)} exists with other bytes ({there} there, {size} to put); "
                    "it is left as it is: objects never change"
                )
        return StoredObject(key, size, sha256)

    def get(self, key: str) -> bytes:
        """Return the whole object.

        Raises:
            ObjectMissing: there is none.
        """
        return self._backend().get(self._full(key))

    def read(self, key: str, start: int, length: int) -> bytes:
        """Return up to `length` bytes from offset `start`: fewer only at the object's end, none beyond it.

        Raises:
            ObjectMissing: there is none.
        """
        if start < 0 or length < 0:
            raise StoreError(f"cannot read {length} bytes from offset {start} of {key!r}: both must be 0 or more")
        full = self._full(key)
        if length == 0:
            self.size(key)
            return b""
        return self._backend().read(full, start, length)

    def open_read(self, key: str) -> BinaryIO:
        """Return a seekable stream over the object, to be closed by the caller.

        Raises:
            ObjectMissing: there is none.
        """
        return self._backend().open_read(self._full(key))

    def exists(self, key: str) -> bool:
        """Whether there is an object."""
        return self._backend().size(self._full(key)) is not None

    def size(self, key: str) -> int:
        """Return the object's size in bytes.

        Raises:
            ObjectMissing: there is none.
        """
        size = self._backend().size(self._full(key))
        if size is None:
            raise ObjectMissing(f"there is no object {self.url_of(key)}")
        return size

    def list(self, prefix: str = "") -> list[tuple[str, int]]:
        """Return (key, size) of every object whose key begins with `prefix`, at any depth, sorted by key.

        What is still being written is never among them.
        """
        found = self._backend().list(self._prefix + check_prefix(prefix))
        skip = len(self._prefix)
        return sorted((key[skip:], size) for key, size in found if not is_staging(key[skip:]))

    def sha256(self, key: str) -> str:
        """Return the SHA-256 of the object, in hex, reading it as a stream.

        Raises:
            ObjectMissing: there is none.
        """
        with self.open_read(key) as stream:
            return digest(stream)[1]

    def delete(self, key: str) -> None:
        """Remove the object; fine if there is none."""
        self._backend().delete(self._full(key))

    def drop_unfinished(self, seconds: float, *, dry_run: bool = False) -> Sequence[tuple[str, int]]:
        """Remove what writers that died left half-written: nothing of it was ever visible as an object.

        Args:
            seconds: how long ago it was begun or last written; a living writer's is younger than a few hours.
            dry_run: only say what would be removed.

        Returns:
            Address and bytes of each; a local directory's writers share one place for all of its prefixes.
        """
        return self._backend().drop_unfinished(self._prefix, seconds, dry_run=dry_run)

    def lacking(self, rights: Sequence[Right]) -> dict[Right, str]:
        """Return which rights these credentials lack here, with the reason; trying them leaves nothing behind.

        Raises:
            StoreError: the storage cannot be reached, or there is no such bucket.
        """
        return self._backend().lacking(self._prefix, rights)

    def child(self, prefix: str) -> "Store":
        """Return the store of everything below `prefix/`."""
        return Store(self._root, f"{self._full(prefix.removesuffix('/'))}/", self._options)

    def url_of(self, key: str) -> str:
        """Return the object's address."""
        return self._backend().url_of(self._full(key))

    def local_path(self, key: str) -> Path | None:
        """Return the path of the object where the store is a local directory, else None."""
        return self._backend().local_path(self._full(key))

    def _full(self, key: str) -> str:
        return check_key(self._prefix + check_key(key)) if self._prefix else check_key(key)

    def _backend(self) -> Backend:
        """One backend a process: connections and event loops do not survive a fork, nor would a lock held during it."""
        opened = self._opened
        if opened is None or opened[0] != os.getpid():
            opened = self._opened = (os.getpid(), self._connect())
        return opened[1]

    def _connect(self) -> Backend:
        scheme, _, place = self._root.partition("://")
        if scheme == "file":
            return LocalBackend(Path(place))
        from cadp.store.s3 import S3Backend  # noqa: PLC0415 (s3fs is optional and slow to import)

        return S3Backend(place, self._options)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Store, (self._root, self._prefix, self._options))

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Store) and self.__reduce__() == other.__reduce__()

    def __hash__(self) -> int:
        return hash((self._root, self._prefix))
