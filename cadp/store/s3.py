"""An S3 bucket as storage: every put is conditional (`If-None-Match: *`), simple and multipart alike."""

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from cadp.errors import ObjectMissing, StoreError

try:
    import s3fs
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]
except ImportError:  # the base install reads local releases only
    s3fs = None

PART = 16 << 20
"""Bytes of one part of a multipart upload; objects of at least two parts are sent in parts."""

_PARTS_AT_ONCE = 4
_MOST_PARTS = 10_000
_ATTEMPTS = 6
_READ_BUFFER = 8 << 20
_TIMEOUTS = {"connect_timeout": 5, "read_timeout": 60, "retries": {"mode": "standard", "total_max_attempts": 2}}
_CREDENTIALS = frozenset(
    {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "403"}
)


class S3Backend:
    """The objects of one bucket. One instance belongs to one process: its event loop does not survive a fork."""

    def __init__(self, bucket: str, options: Mapping[str, Any]) -> None:
        if s3fs is None:
            raise StoreError(f"s3://{bucket} needs s3fs: pip install 'cadp[s3]'")
        given = dict(options)
        config = {**_TIMEOUTS, **given.pop("config_kwargs", {})}
        if given.get("endpoint_url"):
            config.setdefault("s3", {"addressing_style": "path"})
            given.setdefault("client_kwargs", {"region_name": "us-east-1"})
        self.bucket = bucket
        self._endpoint = given.get("endpoint_url") or "AWS"
        try:
            self._fs = s3fs.S3FileSystem(
                **given, config_kwargs=config, skip_instance_cache=True, use_listings_cache=False
            )
        except (TypeError, ValueError, KeyError) as error:
            raise StoreError(f"cannot open s3://{bucket} with these options: {error}") from error
        self._fs.retries = 3  # each waits for the connection again: an unreachable endpoint must fail in bounded time

    def put_if_absent(
        self, key: str, data: bytes | Path, *, size: int, sha256: str, ready: Callable[[], None] | None = None
    ) -> bool:
        """Send the object on condition that there is none; a conflict with another writer in flight is tried again."""
        del sha256
        if ready is not None:
            ready()
        if size >= 2 * PART and self.size(key) is not None:
            return False  # no need to send it all to hear so
        for attempt in range(_ATTEMPTS):
            try:
                with self._plainly("write", key):
                    self._send(key, data, size)
            except _Conflict:
                time.sleep(0.1 * 2**attempt)
            except _Present:
                return False
            else:
                return True
        raise StoreError(f"cannot write {self.url_of(key)}: other writers held it through {_ATTEMPTS} attempts; retry")

    def _send(self, key: str, data: bytes | Path, size: int) -> None:
        if size < 2 * PART:
            body = data.read_bytes() if isinstance(data, Path) else data
            self._fs.call_s3("put_object", Bucket=self.bucket, Key=key, Body=body, IfNoneMatch="*")
            return
        part = max(PART, -(-size // _MOST_PARTS))
        how = {"chunksize": part, "max_concurrency": _PARTS_AT_ONCE, "mode": "create"}
        if isinstance(data, Path):
            self._fs.put_file(str(data), f"{self.bucket}/{key}", **how)
        else:
            self._fs.pipe_file(f"{self.bucket}/{key}", data, **how)

    def get(self, key: str) -> bytes:
        """Fetch the whole object in one request."""
        with self._plainly("read", key):
            data: bytes = self._fs.cat_file(f"{self.bucket}/{key}", max_concurrency=1)
            return data

    def read(self, key: str, start: int, length: int) -> bytes:
        """Fetch one range."""
        with self._plainly("read", key):
            try:
                data: bytes = self._fs.cat_file(f"{self.bucket}/{key}", start=start, end=start + length)
            except OSError as error:
                if _code(error) in {"InvalidRange", "416"}:  # begins at or beyond the end
                    return b""
                raise
            return data

    def open_read(self, key: str) -> BinaryIO:
        """Return a buffered, seekable stream of ranged reads."""
        size = self.size(key)
        if size is None:
            raise ObjectMissing(f"there is no object {self.url_of(key)}")
        return io.BufferedReader(_Ranges(self, key, size), buffer_size=_READ_BUFFER)

    def size(self, key: str) -> int | None:
        """Ask for the object's head."""
        try:
            with self._plainly("look up", key):
                head = self._fs.call_s3("head_object", Bucket=self.bucket, Key=key)
        except ObjectMissing:
            self._check_bucket()  # the answer to HEAD has no body that would tell the two apart
            return None
        return int(head["ContentLength"])

    def list(self, prefix: str) -> list[tuple[str, int]]:
        """Page through the listing, without a delimiter."""
        found: list[tuple[str, int]] = []
        more: dict[str, str] = {}
        while True:
            with self._plainly("list", prefix):
                page = self._fs.call_s3("list_objects_v2", Bucket=self.bucket, Prefix=prefix, **more)
            found += [(item["Key"], item["Size"]) for item in page.get("Contents", ())]
            if not page.get("IsTruncated"):
                return [(key, size) for key, size in found if not key.endswith("/")]  # some servers list folders
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, key: str) -> None:
        """Delete the object; S3 does not mind when there is none."""
        try:
            with self._plainly("delete", key):
                self._fs.call_s3("delete_object", Bucket=self.bucket, Key=key)
        except ObjectMissing:
            return

    def drop_unfinished(self, prefix: str, seconds: float, *, dry_run: bool) -> Sequence[tuple[str, int]]:
        """Abort old multipart uploads: their parts are kept, and paid for, until somebody does."""
        found: list[tuple[str, int]] = []
        oldest, more = datetime.now(UTC) - timedelta(seconds=seconds), dict[str, str]()
        while True:
            with self._plainly("list uploads below", prefix):
                page = self._fs.call_s3("list_multipart_uploads", Bucket=self.bucket, Prefix=prefix, **more)
            for upload in page.get("Uploads", ()):
                key, begun = upload["Key"], upload["Initiated"]
                if key.startswith(prefix) and begun < oldest:
                    this = {"Bucket": self.bucket, "Key": key, "UploadId": upload["UploadId"]}
                    found.append((self.url_of(key), self._drop_upload(this, dry_run=dry_run)))
            if not page.get("IsTruncated"):
                return found
            more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def _drop_upload(self, upload: Mapping[str, str], *, dry_run: bool) -> int:
        """The bytes of an upload's first thousand parts, after it was aborted; 0 if it ended meanwhile."""
        with suppress(ObjectMissing), self._plainly("clean up", upload["Key"]):
            parts = self._fs.call_s3("list_parts", **upload).get("Parts", ())
            if not dry_run:
                self._fs.call_s3("abort_multipart_upload", **upload)
            return sum(int(part["Size"]) for part in parts)
        return 0

    def url_of(self, key: str) -> str:
        """Return the s3:// address."""
        return f"s3://{self.bucket}/{key}"

    def local_path(self, key: str) -> Path | None:
        """There is none."""
        del key
        return None

    def _check_bucket(self) -> None:
        try:
            with self._plainly("look up", ""):
                self._fs.call_s3("head_bucket", Bucket=self.bucket)
        except ObjectMissing as error:
            raise self._no_bucket() from error

    def _no_bucket(self) -> StoreError:
        return StoreError(f"there is no bucket {self.bucket!r} at {self._endpoint}: create it, or correct the URL")

    @contextmanager
    def _plainly(self, verb: str, key: str) -> Iterator[None]:
        """Turn what s3fs and botocore raise into one clear line; s3fs keeps the service's answer as the cause."""
        where = self.url_of(key)
        try:
            yield
        except (OSError, BotoCoreError, ClientError) as error:
            code = _code(error)
            if code in {"PreconditionFailed", "412"}:
                raise _Present(f"{where} exists") from error
            if code in {"ConditionalRequestConflict", "OperationAborted", "409"}:
                raise _Conflict(f"{where} is being written") from error
            if code == "NoSuchBucket":
                raise self._no_bucket() from error
            if code in {"NoSuchKey", "NoSuchUpload", "404"}:
                raise ObjectMissing(f"there is no object {where}") from error
            if code in _CREDENTIALS:
                refused = f"{self._endpoint} refuses the credentials, or they lack the right ({code})"
                raise StoreError(f"cannot {verb} {where}: {refused}") from error
            reason = " ".join(str(error).split()) or type(error).__name__
            raise StoreError(f"cannot {verb} {where} at {self._endpoint}: {reason}") from error


class _Present(StoreError):
    """The condition failed: there is an object."""


class _Conflict(StoreError):
    """Another writer of the same key is in flight."""


class _Ranges(io.RawIOBase):
    """The raw side of a buffered stream: each read is one ranged request."""

    def __init__(self, backend: S3Backend, key: str, size: int) -> None:
        self._backend, self._key, self._size, self._at = backend, key, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 (the buffer protocol has a name only from Python 3.12)
        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        data = self._backend.read(self._key, self._at, length)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _code(error: BaseException) -> str:
    """The service's own error code, or its HTTP status, from the answer that s3fs keeps as the cause."""
    cause = error if hasattr(error, "response") else error.__cause__
    response = getattr(cause, "response", None)
    if not isinstance(response, dict):
        return ""
    code = response.get("Error", {}).get("Code")
    return str(code or response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
