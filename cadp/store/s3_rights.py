"""Which rights credentials have in a bucket: tried, not guessed from policies, and without leaving a trace.

The right to write is tried with a multipart upload that is begun and aborted: it needs the right to put an object, and
no object becomes visible at any moment, which in a public bucket matters.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cadp.errors import AccessRefused, ObjectMissing
from cadp.store.backend import Right

Ask = Callable[..., Mapping[str, Any]]
"""Makes one request of the service: a verb for the error, the method of botocore's client, its parameters by name."""


def lacking(ask: Ask, prefix: str, rights: Sequence[Right]) -> dict[Right, str]:
    """Return which rights are lacking below `prefix`, each with the service's refusal.

    Raises:
        StoreError: the service cannot be reached, or there is no such bucket.
    """
    found: dict[Right, str] = {}
    probe = f"{prefix}.access-{secrets.token_hex(8)}"
    for right in rights:
        try:
            _try(ask, right, prefix, probe)
        except AccessRefused as refusal:
            found[right] = str(refusal)
    return found


def _try(ask: Ask, right: Right, prefix: str, probe: str) -> None:
    match right:
        case "list":
            ask("list", "list_objects_v2", Prefix=prefix, MaxKeys=1)
        case "read":
            try:
                ask("read", "get_object", Key=probe)
            except ObjectMissing:
                return  # allowed to look, and there is nothing
        case "write":
            upload = ask("write", "create_multipart_upload", Key=probe)["UploadId"]
            ask("write", "abort_multipart_upload", Key=probe, UploadId=upload)
