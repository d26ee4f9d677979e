"""A store behind the proxy that spoils requests, and the same one without it."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

from cadp.store import Store
from tests.servers.faulty_s3 import FaultyS3

PART = 5 << 20
"""Bytes of a part: the fewest that S3 takes, so that the tests are quick."""


@dataclass(frozen=True)
class Faulty:
    """`store` goes through `proxy`, `direct` does not; `opened` opens one like `store` with other options.

    `begin` begins an upload of a key, with one part, and leaves it.
    """

    proxy: FaultyS3
    store: Store
    direct: Store
    opened: Callable[..., Store]
    begin: Callable[[str], None]

    def uploads(self) -> list[str]:
        """The keys of the uploads that were begun and neither completed nor aborted."""
        return [
            address.removeprefix(f"{self.direct.url}/") for address, _ in self.direct.drop_unfinished(-60, dry_run=True)
        ]


@pytest.fixture(scope="module")
def proxy(seaweedfs: Any) -> Iterator[FaultyS3]:
    with FaultyS3(seaweedfs.endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def bucket(seaweedfs: Any) -> str:
    return seaweedfs.bucket(f"private-{secrets.token_hex(6)}")


@pytest.fixture(scope="module")
def opened(seaweedfs: Any, proxy: FaultyS3, bucket: str) -> Callable[..., Store]:
    """Opens a store behind the proxy; equal options give the same one, for opening takes longer than most tests."""

    @cache
    def opened(read_timeout: float = 20, page: int = 1000) -> Store:
        config = {"connect_timeout": 5, "read_timeout": read_timeout}
        options = {**seaweedfs.options, "endpoint_url": proxy.endpoint, "config_kwargs": config}
        return Store.open(f"s3://{bucket}/some", {**options, "s3_additional_kwargs": {"MaxKeys": page}})

    return opened


@pytest.fixture(scope="module")
def direct(seaweedfs: Any, bucket: str) -> Store:
    return Store.open(f"s3://{bucket}/some", seaweedfs.options)


@pytest.fixture(scope="module")
def begin(seaweedfs: Any, bucket: str) -> Callable[[str], None]:
    import s3fs

    paths = {"s3": {"addressing_style": "path"}}
    fs = s3fs.S3FileSystem(**seaweedfs.options, skip_instance_cache=True, config_kwargs=paths)

    def begin(key: str) -> None:
        this = {"Bucket": bucket, "Key": f"some/{key}"}
        this |= {"UploadId": fs.call_s3("create_multipart_upload", **this)["UploadId"]}
        fs.call_s3("upload_part", **this, PartNumber=1, Body=b"x" * 100)

    return begin


@pytest.fixture
def faulty(
    proxy: FaultyS3,
    opened: Callable[..., Store],
    direct: Store,
    begin: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Faulty]:
    """Small parts and short pauses; nothing is there, and nothing is spoilt yet."""
    monkeypatch.setattr("cadp.store.s3.PART", PART)
    monkeypatch.setattr("cadp.store.s3_upload.PART", PART)
    monkeypatch.setattr("cadp.store.s3_session.FIRST_PAUSE", 0.001)
    monkeypatch.setattr("cadp.store.s3._SECOND_LOOK", 0.01)
    proxy.plan()
    yield Faulty(proxy, opened(), direct, opened, begin)
    proxy.plan()
    direct.drop_unfinished(-60)
    for key, _ in direct.list():
        direct.delete(key)
