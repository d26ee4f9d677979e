"""What each kind of storage must do, and the hash that both use."""

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

BLOCK = 1 << 20
"""Bytes moved at a time where a whole object would not fit into memory."""

Right = Literal["list", "read", "write"]
"""What credentials may do below a prefix; whoever may write there may delete there."""


class Backend(Protocol):
    """One local directory or one bucket. Keys are checked before they arrive here."""

    def put_if_absent(
        self, key: str, data: bytes | Path, *, size: int, sha256: str, ready: Callable[[], None] | None = None
    ) -> bool:
        """Make `data` visible under `key`, whole, and durable; return False if something is there already.

        `ready` is called once before it becomes visible, with as much written by then as can be.
        """

    def get(self, key: str) -> bytes:
        """Return the whole object."""

    def read(self, key: str, start: int, length: int) -> bytes:
        """Return up to `length` bytes from `start`; fewer only at the end of the object."""

    def open_read(self, key: str) -> BinaryIO:
        """Return a stream over the object."""

    def size(self, key: str) -> int | None:
        """Return the size in bytes, None if there is no object."""

    def list(self, prefix: str) -> list[tuple[str, int]]:
        """Return (key, size) of every object whose key begins with `prefix`, in any order."""

    def delete(self, key: str) -> None:
        """Remove the object if it is there."""

    def drop_unfinished(self, prefix: str, seconds: float, *, dry_run: bool) -> Sequence[tuple[str, int]]:
        """Remove what writers below `prefix` began over `seconds` ago and never made visible; return address, size."""

    def lacking(self, prefix: str, rights: Sequence[Right]) -> dict[Right, str]:
        """Return which of the rights are lacking below `prefix`, and why; trying them leaves nothing behind."""

    def url_of(self, key: str) -> str:
        """Return the object's address."""

    def local_path(self, key: str) -> Path | None:
        """Return the object's path where it is a file of this machine."""


def open_data(data: bytes | Path) -> BinaryIO:
    """Return a stream over bytes or over a local file."""
    return data.open("rb") if isinstance(data, Path) else io.BytesIO(data)


def digest(stream: BinaryIO) -> tuple[int, str]:
    """Return the size and the SHA-256, in hex, of what is left of `stream`."""
    size, sha256 = 0, hashlib.sha256()
    while block := stream.read(BLOCK):
        size += len(block)
        sha256.update(block)
    return size, sha256.hexdigest()
