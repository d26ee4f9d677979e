"""What went wrong with a request to S3: whether trying again can help, and the one clear line where it cannot."""

import asyncio
from enum import Enum, auto
from typing import Any

from cadp.errors import AccessRefused, ObjectMissing, StoreError

try:
    import aiohttp
    from botocore.exceptions import (  # type: ignore[import-untyped]
        BotoCoreError,
        ClientError,
        FlexibleChecksumError,
        HTTPClientError,
        IncompleteReadError,
        SSLError,
    )
    from botocore.exceptions import ConnectionError as NoConnection
    from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]
except ImportError:  # the base install reads local releases only
    FAILURES: tuple[type[Exception], ...] = ()
else:
    FAILURES = (OSError, BotoCoreError, ClientError, ResponseParserError, aiohttp.ClientError)


class ShortAnswer(OSError):
    """An answer that ended well by its own account and lacks something that was asked for."""


class Present(StoreError):
    """The condition failed: there is an object, or it is another one than was asked for."""


class Conflict(StoreError):
    """Another writer of the same key is in flight."""


class UploadGone(ObjectMissing):
    """There is no such upload: it was completed, or aborted, by an answer that was lost or by somebody else."""


class Kind(Enum):
    """What a failure means for what comes next."""

    PASSING = auto()
    """Likely to be gone soon: a failing server, a broken connection, an answer that is not whole."""
    BUSY = auto()
    """The service asks for fewer requests."""
    CONFLICT = auto()
    PRESENT = auto()
    MISSING = auto()
    NO_BUCKET = auto()
    UPLOAD_GONE = auto()
    EXPIRED = auto()
    """Newer credentials may be accepted."""
    REFUSED = auto()
    LASTING = auto()


_BY_CODE = {
    **dict.fromkeys(("PreconditionFailed", "412"), Kind.PRESENT),
    **dict.fromkeys(("ConditionalRequestConflict", "OperationAborted", "409"), Kind.CONFLICT),
    "NoSuchBucket": Kind.NO_BUCKET,
    "NoSuchUpload": Kind.UPLOAD_GONE,
    **dict.fromkeys(("NoSuchKey", "404"), Kind.MISSING),
    # The answer to HEAD has no body: a bare 400 or 403 may be an expired token.
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"), Kind.EXPIRED),
    **dict.fromkeys(("InvalidToken", "InvalidAccessKeyId", "400", "403"), Kind.EXPIRED),
    **dict.fromkeys(("AccessDenied", "SignatureDoesNotMatch"), Kind.REFUSED),
    **dict.fromkeys(("SlowDown", "TooManyRequests", "Throttling", "RequestLimitExceeded", "429"), Kind.BUSY),
    # Refused because it arrived damaged or too slowly.
    **dict.fromkeys(("RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch"), Kind.PASSING),
    **dict.fromkeys(("NotImplemented", "501"), Kind.LASTING),
}
_SAID_TO_BE_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})


def kind_of(error: BaseException) -> Kind:
    """Return what a caught one of `FAILURES` means: by the service's own code, its HTTP status, or the lack of both."""
    answer = _answer(error)
    if answer is not None:
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        by_status = Kind.PASSING if status >= 500 or status == 408 else _BY_CODE.get(str(status))
        known = _BY_CODE.get(code_of(error))
        return known or (by_status if status not in {400, 403, 404} else None) or Kind.LASTING
    if isinstance(error, SSLError):  # a certificate does not become valid
        return Kind.LASTING
    damaged = (ShortAnswer, IncompleteReadError, FlexibleChecksumError, ResponseParserError)
    if isinstance(error, (*damaged, HTTPClientError, NoConnection, aiohttp.ClientError, OSError, asyncio.TimeoutError)):
        return Kind.PASSING
    return Kind.LASTING


def code_of(error: BaseException) -> str:
    """Return the service's own error code, or its HTTP status, from the answer that s3fs keeps as the cause."""
    answer = _answer(error) or {}
    code = answer.get("Error", {}).get("Code")
    return str(code or answer.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))


def plainly(error: BaseException, verb: str, key: str, *, bucket: str, endpoint: str, tries: int) -> StoreError:
    """Return the one clear line for a failure that is final.

    Args:
        error: one of `FAILURES`.
        verb: what was being done, as in "cannot `verb` s3://…".
        key: to what; a prefix, or nothing for the bucket.
        bucket: the bucket's name.
        endpoint: who answered.
        tries: how often it was tried.
    """
    where, code = f"s3://{bucket}/{key}", code_of(error)
    reason = " ".join(str(error).split()) or type(error).__name__
    said: StoreError
    match kind_of(error):
        case Kind.PRESENT:
            said = Present(f"{where} exists")
        case Kind.CONFLICT:
            said = Conflict(f"{where} is being written by another, at {tries} tries: retry")
        case Kind.NO_BUCKET:
            said = no_bucket(bucket, endpoint)
        case Kind.UPLOAD_GONE:
            said = UploadGone(f"the upload of {where} is gone: completed or aborted")
        case Kind.MISSING:
            said = ObjectMissing(f"there is no object {where}")
        case Kind.EXPIRED if code in _SAID_TO_BE_EXPIRED:
            said = AccessRefused(
                f"cannot {verb} {where}: the credentials for {endpoint} have expired: {code}; "
                "renew them where they come from and run again"
            )
        case Kind.REFUSED | Kind.EXPIRED:
            refused = f"{endpoint} refuses the credentials, or they lack the right ({code})"
            said = AccessRefused(f"cannot {verb} {where}: {refused}")
        case Kind.PASSING | Kind.BUSY:
            said = StoreError(f"cannot {verb} {where} at {endpoint}: {reason} (tried {tries} times)")
        case Kind.LASTING:
            said = StoreError(f"cannot {verb} {where} at {endpoint}: {reason}")
    return said


def no_bucket(bucket: str, endpoint: str) -> StoreError:
    """Return the line for a bucket that is not there."""
    return StoreError(f"there is no bucket {bucket!r} at {endpoint}: create it, or correct the URL")


def _answer(error: BaseException) -> dict[str, Any] | None:
    cause = error if hasattr(error, "response") else error.__cause__
    answer = getattr(cause, "response", None)
    return answer if isinstance(answer, dict) else None
