"""Writing to S3 on condition that there is nothing yet: in one request, or in parts that appear together."""

from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

from cadp.errors import StoreError
from cadp.store.s3_session import S3Session

PART = 16 << 20
"""Bytes of one part of a multipart upload; objects of at least two parts are sent in parts."""

_PARTS_AT_ONCE = 4
_MOST_PARTS = 10_000


def send(session: S3Session, key: str, data: bytes | Path, size: int) -> None:
    """Write an object in one request.

    Raises:
        Present: there is an object.
        Conflict: another writer is in flight.
    """
    body = data if isinstance(data, bytes) else _piece(data, 0, size)
    session.call("write", key, "put_object", Key=key, Body=body, IfNoneMatch="*")


def send_in_parts(session: S3Session, key: str, data: bytes | Path, size: int) -> str:
    """Write an object in parts, several at a time, and return the ETag that it appeared under.

    Each part is tried again by itself. Whatever fails for good, the upload is aborted, after the last of its parts in
    flight has ended: one that arrived later would be kept, and paid for.

    Raises:
        Present: there is an object.
        Conflict: another writer is in flight.
        UploadGone: the upload ended without our knowing: an answer that was lost, or somebody's clean-up.
    """
    upload = {"Key": key, "UploadId": session.call("write", key, "create_multipart_upload", Key=key)["UploadId"]}
    part = max(PART, -(-size // _MOST_PARTS))

    def send_part(number: int) -> dict[str, object]:
        body = _piece(data, (number - 1) * part, min(part, size - (number - 1) * part))
        answer = session.call("write", key, "upload_part", **upload, PartNumber=number, Body=body)
        return {"PartNumber": number, "ETag": answer["ETag"]}

    try:
        parts = _in_threads(send_part, range(1, -(-size // part) + 1))
        whole = {"MultipartUpload": {"Parts": parts}, "IfNoneMatch": "*"}
        done = session.call("write", key, "complete_multipart_upload", **upload, **whole)
    except BaseException:
        with suppress(StoreError):  # what cannot be aborted now is dropped later, by `drop_unfinished`
            session.call("clean up", key, "abort_multipart_upload", **upload)
        raise
    return str(done["ETag"])


def _in_threads(send_part: Callable[[int], dict[str, object]], numbers: range) -> list[dict[str, object]]:
    with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
        futures = [pool.submit(send_part, number) for number in numbers]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            pool.shutdown(cancel_futures=True)  # waits for those in flight
        for future in futures:
            if not future.cancelled():
                future.result()
        return [future.result() for future in futures]


def _piece(data: bytes | Path, start: int, length: int) -> bytes:
    if isinstance(data, bytes):
        return data[start : start + length]
    try:
        with data.open("rb") as stream:
            stream.seek(start)
            piece = stream.read(length)
    except OSError as error:
        raise StoreError(f"cannot read {data} to put it: {error.strerror or error}") from error
    if len(piece) != length:
        raise StoreError(f"{data} became shorter while it was put: {len(piece)} of {length} bytes at {start}")
    return piece
