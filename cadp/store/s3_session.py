"""Requests to one bucket: tried again while that can help, with credentials that are renewed when they expire."""

import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from cadp.errors import StoreError
from cadp.store.s3_failures import FAILURES, Kind, ShortAnswer, kind_of, plainly

try:
    import s3fs
    from fsspec.asyn import sync
except ImportError:  # the base install reads local releases only
    s3fs = None

ATTEMPTS = 6
"""How often one request is sent before its failure is final."""

FIRST_PAUSE = 0.2
"""Seconds that the first pause takes at most; each next one may take twice as long."""

_BUSY = 5  # times as long where the service asks for fewer requests
_TRIED_AGAIN = frozenset({Kind.PASSING, Kind.BUSY, Kind.CONFLICT})
_ESSENTIAL = {
    "create_multipart_upload": "UploadId",
    "upload_part": "ETag",
    "complete_multipart_upload": "ETag",
    "head_object": "ETag",
    **dict.fromkeys(("list_objects_v2", "list_multipart_uploads", "list_parts"), "IsTruncated"),
}
"""What an answer cannot lack: botocore takes an empty body for an answer without fields, an empty listing say."""

_GIVEN = frozenset({"key", "username", "token", "anon", "session"})
_CONFIG = {"connect_timeout": 5, "read_timeout": 60, "retries": {"mode": "standard", "total_max_attempts": 1}}

Result = TypeVar("Result")


class S3Session:
    """One bucket through s3fs. Threads share it; it belongs to one process.

    A request is sent at most `ATTEMPTS` times, with pauses of full jitter between (uniform from nothing to a bound that
    doubles: writers that failed together come back apart). It ends within that many times its timeouts, which
    `config_kwargs` of the options sets, and half a minute of pauses at the very most.
    """

    def __init__(self, bucket: str, options: Mapping[str, Any]) -> None:
        if s3fs is None:
            raise StoreError(f"s3://{bucket} needs s3fs: pip install 'cadp[s3]'")
        given = dict(options)
        config = {**_CONFIG, **given.pop("config_kwargs", {})}
        if given.get("endpoint_url"):
            config.setdefault("s3", {"addressing_style": "path"})
            given.setdefault("client_kwargs", {"region_name": "us-east-1"})
        fixed = {name for name in _GIVEN if given.get(name)} | given.get("client_kwargs", {}).keys()
        self.bucket = bucket
        self._options = {**given, "config_kwargs": config}
        self._renewable = fixed.isdisjoint({*_GIVEN, "aws_access_key_id"})
        self._renewing = threading.Lock()
        self._fs = self._open()

    @property
    def endpoint(self) -> str:
        """Whom requests go to; it may be set in AWS's own configuration, which is read with the first one."""
        client = self._fs._s3
        return str(client.meta.endpoint_url if client is not None else self._options.get("endpoint_url") or "AWS")

    def call(self, verb: str, key: str, method: str, **request: object) -> dict[str, Any]:
        """Send one request and return the service's answer.

        A conflict (409) of a conditional request is the caller's: what must then be sent anew differs.

        Args:
            verb: what it does, for the message of an error.
            key: to what, for the message of an error.
            method: of botocore's S3 client.
            **request: what the method takes besides the bucket.

        Raises:
            ObjectMissing: there is no such object or upload.
            AccessRefused: the credentials are not accepted, nor newer ones from where they come from.
            StoreError: any other failure that is final: `Present`, `Conflict` or in words.
        """

        def ask(fs: Any) -> dict[str, Any]:  # noqa: ANN401 (s3fs has no types)
            answer: dict[str, Any] = fs.call_s3(method, Bucket=self.bucket, **request)
            if _ESSENTIAL.get(method, "ResponseMetadata") not in answer:
                raise ShortAnswer(f"the answer to {method} came without its {_ESSENTIAL[method]}")
            return answer

        conditional = "IfNoneMatch" in request
        return self._persist(verb, key, ask, _TRIED_AGAIN - {Kind.CONFLICT} if conditional else _TRIED_AGAIN)

    def fetch(self, key: str, check: Callable[[Mapping[str, Any], bytes], None], **request: object) -> bytes:
        """Get an object, or a range of it, and return the bytes once `check(answer, bytes)` finds them whole.

        Raises:
            ObjectMissing: there is no object.
            StoreError: any other failure that is final.
        """

        async def read(fs: Any) -> bytes:  # noqa: ANN401 (s3fs has no types)
            answer = await fs._call_s3("get_object", Bucket=self.bucket, Key=key, **request)
            body = answer["Body"]
            try:
                data: bytes = await body.read()
            finally:
                body.close()
            check(answer, data)
            return data

        def ask(fs: Any) -> bytes:  # noqa: ANN401 (s3fs has no types)
            data: bytes = sync(fs.loop, read, fs)
            return data

        return self._persist("read", key, ask, _TRIED_AGAIN)

    def _persist(self, verb: str, key: str, ask: Callable[[Any], Result], tried_again: frozenset[Kind]) -> Result:
        tries, renewed = 0, False
        while True:
            fs = self._fs
            try:
                return ask(fs)
            except FAILURES as error:
                kind = kind_of(error)
                tries += 1
                if kind is Kind.EXPIRED and self._renewable and not renewed:
                    renewed = True
                    self._renew(fs)
                elif kind in tried_again and tries < ATTEMPTS:
                    pause(tries, busy=kind is Kind.BUSY)
                else:
                    raise plainly(error, verb, key, bucket=self.bucket, endpoint=self.endpoint, tries=tries) from error

    def _renew(self, refused: object) -> None:
        """Open anew, which reads the environment, files and helper programs anew, unless another thread just did."""
        with self._renewing:
            if self._fs is refused:
                self._fs = self._open()  # requests in flight keep the old one until they are done

    def _open(self) -> Any:  # noqa: ANN401 (s3fs has no types)
        try:
            fs = s3fs.S3FileSystem(**self._options, skip_instance_cache=True, use_listings_cache=False)
        except (TypeError, ValueError, KeyError) as error:
            raise StoreError(f"cannot open s3://{self.bucket} with these options: {error}") from error
        fs.retries = 1  # one rule for all, ours: that of s3fs has no jitter, and theirs would multiply
        return fs


def pause(tries: int, *, busy: bool = False) -> None:
    """Sleep after the `tries`-th try: from nothing to a bound that doubles each time."""
    longest = FIRST_PAUSE * (_BUSY if busy else 1) * 2 ** (tries - 1)
    time.sleep(random.uniform(0, longest))  # noqa: S311 (spreads writers out; nothing secret)
