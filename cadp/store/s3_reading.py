"""Reading from S3: an answer is whole or asked for again, and a stream is of one object from end to end."""

import io
import re
from collections.abc import Mapping
from typing import Any

from cadp.errors import StoreError
from cadp.store.s3_failures import Present, ShortAnswer, code_of
from cadp.store.s3_session import S3Session

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_AT_ONCE = 8 << 20
"""Bytes of one ranged request of a stream."""


def read_whole(session: S3Session, key: str) -> bytes:
    """Return an object's bytes, as many as the service says that it has.

    Raises:
        ObjectMissing: there is no object.
    """

    def check(answer: Mapping[str, Any], data: bytes) -> None:
        if len(data) != answer["ContentLength"]:
            raise ShortAnswer(f"{len(data)} of {answer['ContentLength']} bytes came")

    return session.fetch(key, check)


def read_range(session: S3Session, key: str, start: int, length: int, etag: str | None = None) -> bytes:
    """Return `length` bytes from `start`, fewer only where the object ends.

    Args:
        session: the bucket.
        key: the object.
        start: the first byte, 0 or more.
        length: how many bytes, 1 or more.
        etag: of the object that it must still be.

    Raises:
        ObjectMissing: there is no object.
        StoreError: it is another object by now.
    """

    def check(answer: Mapping[str, Any], data: bytes) -> None:
        told = _CONTENT_RANGE.fullmatch(answer.get("ContentRange") or "")
        if told is None:
            raise ShortAnswer("the answer does not say which bytes of the object it holds")
        first, last, total = map(int, told.groups())
        if (first, last, len(data)) != (start, min(start + length, total) - 1, last + 1 - first):
            raise ShortAnswer(f"{len(data)} bytes came, said to be {told[0]}, for {length} from {start}")
        if etag is not None and answer.get("ETag") != etag:  # a server that does not know the condition
            raise _changed(session, key)

    condition = {} if etag is None else {"IfMatch": etag}
    try:
        return session.fetch(key, check, Range=f"bytes={start}-{start + length - 1}", **condition)
    except Present as error:
        raise _changed(session, key) from error
    except StoreError as error:
        if error.__cause__ is not None and code_of(error.__cause__) in {"InvalidRange", "416"}:
            return b""  # begins at or beyond the end
        raise


def open_stream(session: S3Session, key: str, size: int, etag: str) -> io.BufferedReader:
    """Return a buffered, seekable stream over the object of that ETag; it fails once that is another object."""
    return io.BufferedReader(_Ranges(session, key, size, etag), buffer_size=_AT_ONCE)


def _changed(session: S3Session, key: str) -> StoreError:
    return StoreError(
        f"s3://{session.bucket}/{key} changed while it was being read: somebody deleted and put it anew; read it again"
    )


class _Ranges(io.RawIOBase):
    """The raw side of a buffered stream: each read is one ranged request."""

    def __init__(self, session: S3Session, key: str, size: int, etag: str) -> None:
        self._session, self._key, self._size, self._etag, self._at = session, key, size, etag, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 (the buffer protocol has a name only from Python 3.12)
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """The rest; that of the base class would send a request for every 8 KiB."""
        pieces = []
        while piece := self._next(_AT_ONCE):
            pieces.append(piece)
        return b"".join(pieces)

    def _next(self, length: int) -> bytes:
        length = min(length, self._size - self._at)
        if length <= 0:
            return b""
        data = read_range(self._session, self._key, self._at, length, self._etag)
        self._at += len(data)
        return data
