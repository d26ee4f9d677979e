"""An S3 bucket as storage: every put is conditional (`If-None-Match: *`), simple and multipart alike."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from cadp.errors import ObjectMissing, StoreError
from cadp.store.backend import Right
from cadp.store.s3_failures import Conflict, Present, UploadGone, no_bucket
from cadp.store.s3_reading import open_stream, read_range, read_whole
from cadp.store.s3_rights import lacking
from cadp.store.s3_session import ATTEMPTS, S3Session, pause
from cadp.store.s3_upload import PART, send, send_in_parts

_SECOND_LOOK = 0.2  # seconds; an upload that needs parts takes longer anyway


class S3Backend:
    """The objects of one bucket. One instance belongs to one process: its event loop does not survive a fork.

    What holds under faults (failing servers, cut, slow and lost answers, conflicts, credentials that expire):

    - *A visible object is whole.* S3 shows an object only at the end of PutObject or CompleteMultipartUpload, and takes
      neither from a request that was cut: its length and its checksum, which botocore sends, are not met.
    - *Every request may be sent again.* A put is conditional, so a second one changes nothing: it is told that
      there is an object (412) or that its upload is gone (404), and the store compares the hash of what is there. Its
      own bytes, from a try whose answer was lost, mean success; other bytes mean that another writer won.
    - *What is read is whole.* A body shorter than the service promised, or than the range that it holds of
      the object, is asked for again. A stream asks for the ETag it began with and fails if the object was replaced.
    - *What failed leaves nothing visible and, where the service still answers, nothing at all.* A failed upload is
      aborted; what a killed writer or a dead connection left of it is `drop_unfinished`'s.
    - *It ends.* After `ATTEMPTS` tries with jittered pauses the failure is one clear line. Where even the answer of the
      last try was lost, the object may be there, whole; putting it again tells.

    That exactly one of several writers wins is the server's to give: it must decide `If-None-Match` atomically with
    making the object visible, as AWS documents for both requests. One that only looks first and writes later (SeaweedFS
    does so when completing uploads) can accept two, and the later one replaces the earlier. So we look at what is there
    after completing, twice, and call it lost if it is another's. That makes two winners rare, not impossible: the
    earlier one may have looked twice before it is replaced. Whoever is there last is always among the winners.
    """

    def __init__(self, bucket: str, options: Mapping[str, Any]) -> None:
        self.bucket = bucket
        self._session = S3Session(bucket, options)

    def put_if_absent(
        self, key: str, data: bytes | Path, *, size: int, sha256: str, ready: Callable[[], None] | None = None
    ) -> bool:
        """Send the object on condition that there is none; a conflict with another writer in flight is tried again."""
        del sha256
        if ready is not None:
            ready()
        for tries in range(1, ATTEMPTS + 1):
            try:
                if size < 2 * PART:
                    send(self._session, key, data, size)
                    return True
                if self._head(key) is not None:  # no need to send it all to hear so
                    return False
                return self._is_still(key, send_in_parts(self._session, key, data, size))
            except Present:
                if self._head(key) is not None:  # else it was deleted since
                    return False
            except (Conflict, UploadGone):
                pass
            if tries < ATTEMPTS:
                pause(tries)
        raise StoreError(
            f"cannot write {self.url_of(key)}: other writers, or a clean-up, held it through {ATTEMPTS} attempts; retry"
        )

    def _is_still(self, key: str, etag: str) -> bool:
        """Whether what was completed is there, and not another writer's that the server let pass."""
        for wait in (0.0, _SECOND_LOOK):
            time.sleep(wait)
            head = self._head(key)
            if head is None:
                raise StoreError(f"{self.url_of(key)} was deleted as soon as it was written; put it again")
            if head[1] != etag:
                return False
        return True

    def get(self, key: str) -> bytes:
        """Fetch the whole object in one request."""
        return read_whole(self._session, key)

    def read(self, key: str, start: int, length: int) -> bytes:
        """Fetch one range."""
        return read_range(self._session, key, start, length)

    def open_read(self, key: str) -> BinaryIO:
        """Return a buffered, seekable stream of ranged reads."""
        head = self._head(key)
        if head is None:
            raise ObjectMissing(f"there is no object {self.url_of(key)}")
        return open_stream(self._session, key, *head)

    def size(self, key: str) -> int | None:
        """Ask for the object's head."""
        head = self._head(key)
        return None if head is None else head[0]

    def _head(self, key: str) -> tuple[int, str] | None:
        """The object's size and ETag."""
        try:
            head = self._session.call("look up", key, "head_object", Key=key)
        except ObjectMissing:
            self._check_bucket()  # the answer to HEAD has no body that would tell the two apart
            return None
        return int(head["ContentLength"]), str(head["ETag"])

    def list(self, prefix: str) -> list[tuple[str, int]]:
        """Page through the listing, without a delimiter."""
        found: list[tuple[str, int]] = []
        more: dict[str, str] = {}
        while True:
            page = self._session.call("list", prefix, "list_objects_v2", Prefix=prefix, **more)
            found += [(item["Key"], item["Size"]) for item in page.get("Contents", ())]
            if not page["IsTruncated"]:
                return [(key, size) for key, size in found if not key.endswith("/")]  # some servers list folders
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, key: str) -> None:
        """Delete the object; S3 does not mind when there is none."""
        with suppress(ObjectMissing):
            self._session.call("delete", key, "delete_object", Key=key)

    def drop_unfinished(self, prefix: str, seconds: float, *, dry_run: bool) -> Sequence[tuple[str, int]]:
        """Abort old multipart uploads: their parts are kept, and paid for, until somebody does."""
        found: list[tuple[str, int]] = []
        oldest, more = datetime.now(UTC) - timedelta(seconds=seconds), dict[str, str]()
        while True:
            page = self._session.call("list uploads below", prefix, "list_multipart_uploads", Prefix=prefix, **more)
            for upload in page.get("Uploads", ()):
                key, begun = upload["Key"], upload["Initiated"]
                if key.startswith(prefix) and begun < oldest:
                    this = {"Key": key, "UploadId": upload["UploadId"]}
                    found.append((self.url_of(key), self._drop_upload(this, dry_run=dry_run)))
            if not page["IsTruncated"]:
                return found
            more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def _drop_upload(self, upload: Mapping[str, str], *, dry_run: bool) -> int:
        """The bytes of an upload's first thousand parts, after it was aborted; 0 if it ended meanwhile."""
        with suppress(ObjectMissing):
            parts = self._session.call("clean up", upload["Key"], "list_parts", **upload).get("Parts", ())
            if not dry_run:
                self._session.call("clean up", upload["Key"], "abort_multipart_upload", **upload)
            return sum(int(part["Size"]) for part in parts)
        return 0

    def lacking(self, prefix: str, rights: Sequence[Right]) -> dict[Right, str]:
        """Try each right; see `cadp.store.s3_rights`."""
        return lacking(self._ask, prefix, rights)

    def _ask(self, verb: str, method: str, **parameters: object) -> Mapping[str, Any]:
        return self._session.call(verb, str(parameters.get("Key", parameters.get("Prefix", ""))), method, **parameters)

    def url_of(self, key: str) -> str:
        """Return the s3:// address."""
        return f"s3://{self.bucket}/{key}"

    def local_path(self, key: str) -> Path | None:
        """There is none."""
        del key
        return None

    def _check_bucket(self) -> None:
        try:
            self._session.call("look up", "", "head_bucket")
        except ObjectMissing as error:
            raise no_bucket(self.bucket, self._session.endpoint) from error
