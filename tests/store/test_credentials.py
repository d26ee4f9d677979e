"""Credentials that expire while the store is used: read anew from where they come from, once a call."""

import json
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cadp.errors import AccessRefused, StoreError
from cadp.store import Store
from tests.servers.faulty_s3 import Fault, FaultyS3

LARGE = secrets.token_bytes(1 << 20) * 10 + b"end"  # three parts


@pytest.fixture
def old(seaweedfs: Any) -> tuple[str, str]:
    return seaweedfs.roles["worker"]


@pytest.fixture
def new(seaweedfs: Any) -> tuple[str, str]:
    return seaweedfs.roles["publisher"]


class Source:
    """Where credentials come from: `give` changes what is there. `store` has its credentials from there."""

    def __init__(self, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, proxy: FaultyS3, bucket: str) -> None:
        self._kind, self._monkeypatch = kind, monkeypatch
        self._credentials, config, self._answer = folder / "credentials", folder / "config", folder / "answer"
        self._credentials.write_text("")
        program = f"import sys; sys.stdout.write(open({str(self._answer)!r}).read())"
        (folder / "program.py").write_text(program)
        process = f"[profile zone]\ncredential_process = {sys.executable} {folder / 'program.py'}\n"
        config.write_text(process if kind == "process" else "[profile zone]\nregion = us-east-1\n")
        for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(self._credentials))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        options: dict[str, object] = {"endpoint_url": proxy.endpoint}
        if kind != "environment":
            options["profile"] = "zone"
        self.store = Store.open(f"s3://{bucket}/some", options)

    def give(self, pair: tuple[str, str]) -> None:
        key, secret = pair
        if self._kind == "environment":
            self._monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
            self._monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        elif self._kind == "file":
            pair_of_zone = f"[zone]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"
            _replace(self._credentials, pair_of_zone)
        else:
            _replace(self._answer, json.dumps({"Version": 1, "AccessKeyId": key, "SecretAccessKey": secret}))


def _replace(path: Path, text: str) -> None:
    """Rewrite a file in one step, as what renews credentials does: another thread may be reading."""
    fresh = path.with_name(f"{path.name}-{secrets.token_hex(4)}")
    fresh.write_text(text)
    fresh.replace(path)


@pytest.fixture
def source(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faulty: Any, bucket: str
) -> Source:
    return Source(getattr(request, "param", "file"), tmp_path, monkeypatch, faulty.proxy, bucket)


def expired(kind: Any, operation: str, pair: tuple[str, str], first: Callable[[], object], skip: int = 0) -> Fault:
    return Fault(kind, operation, count=999, skip=skip, signed_by=pair[0], first=first)


@pytest.mark.parametrize("source", ["file", "environment", "process"], indirect=True)
@pytest.mark.parametrize("kind", ["expired-400", "expired-403"])
def test_an_upload_goes_on_with_renewed_credentials(
    faulty: Any, source: Source, old: tuple[str, str], new: tuple[str, str], kind: str
) -> None:
    source.give(old)
    source.store.list()
    assert faulty.proxy.keys == {old[0]}
    faulty.proxy.plan(expired(kind, "UploadPart", old, lambda: source.give(new), skip=1))
    assert source.store.put("key", LARGE).size == len(LARGE)
    assert faulty.proxy.spoilt[0] == f"{kind} UploadPart"
    assert faulty.proxy.keys == {old[0], new[0]}
    assert faulty.proxy.count("CreateMultipartUpload") == 1
    assert faulty.proxy.count("AbortMultipartUpload") == 0
    assert faulty.direct.get("key") == LARGE
    assert faulty.uploads() == []


def test_a_stream_goes_on_with_renewed_credentials(
    faulty: Any, source: Source, old: tuple[str, str], new: tuple[str, str]
) -> None:
    source.give(old)
    faulty.direct.put("there", LARGE)
    faulty.proxy.plan(expired("expired-403", "GetObject", old, lambda: source.give(new), skip=1))
    with source.store.open_read("there") as stream:
        assert stream.read() == LARGE
    assert faulty.proxy.spoilt == ["expired-403 GetObject"]  # the next ones are new from the start
    assert faulty.proxy.keys == {old[0], new[0]}


@pytest.mark.parametrize("kind", ["expired-400", "expired-403"])
def test_an_answer_without_a_body_is_enough(
    faulty: Any, source: Source, old: tuple[str, str], new: tuple[str, str], kind: str
) -> None:
    """HEAD is refused with a bare 400 or 403: it may be that the credentials have expired."""
    source.give(old)
    faulty.direct.put("there", b"some")
    faulty.proxy.plan(expired(kind, "HeadObject", old, lambda: source.give(new)))
    assert source.store.size("there") == 4
    assert faulty.proxy.spoilt == [f"{kind} HeadObject"]


def test_fresh_ones_that_are_refused_too_are_one_line(faulty: Any, source: Source, old: tuple[str, str]) -> None:
    source.give(old)
    faulty.proxy.plan(Fault("expired-400", count=999))
    operations: list[Callable[[], object]] = [
        source.store.list,
        lambda: source.store.put("key", b"1"),
        lambda: source.store.get("key"),
    ]
    for number, operation in enumerate(operations, 1):
        with pytest.raises(
            AccessRefused, match="credentials for http://127.* have expired: ExpiredToken; renew them"
        ) as e:
            operation()
        assert "\n" not in str(e.value)
        assert old[1] not in str(e.value)
        assert faulty.proxy.count() == 2 * number  # the second one with credentials read anew
    faulty.proxy.plan()
    source.store.put("key", b"1")


def test_credentials_of_the_options_come_from_nowhere_else(faulty: Any) -> None:
    faulty.proxy.plan(Fault("expired-400", count=999))
    with pytest.raises(AccessRefused, match="have expired"):
        faulty.store.get("key")
    assert faulty.proxy.count() == 1


@pytest.mark.parametrize("source", ["process"], indirect=True)
def test_a_program_that_says_how_long_is_asked_again_in_time(
    faulty: Any, source: Source, tmp_path: Path, old: tuple[str, str], new: tuple[str, str]
) -> None:
    """It is botocore that asks anew, before they expire: no request is ever refused."""
    (tmp_path / "program.py").write_text(f"""
import datetime, json, pathlib
asked = pathlib.Path({str(tmp_path / "asked")!r})
times = len(asked.read_text()) if asked.exists() else 0
asked.write_text("x" * (times + 1))
key, secret = {old!r} if times == 0 else {new!r}
until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=3 if times == 0 else 7200)
print(json.dumps(dict(Version=1, AccessKeyId=key, SecretAccessKey=secret, Expiration=until.isoformat())))
""")
    for number in range(4):
        source.store.put(f"key-{number}", b"1")
    assert faulty.proxy.count() == faulty.proxy.count("PutObject") == 4
    assert new[0] in faulty.proxy.keys
    assert (tmp_path / "asked").read_text() == "xx"


def test_the_endpoint_of_the_configuration_is_named(
    faulty: Any, source: Source, tmp_path: Path, old: tuple[str, str]
) -> None:
    source.give(old)
    (tmp_path / "config").write_text(f"[profile zone]\nregion = us-east-1\nendpoint_url = {faulty.proxy.endpoint}\n")
    store = Store.open("s3://no-such-bucket/x", {"profile": "zone"})
    with pytest.raises(StoreError, match=f"{faulty.proxy.endpoint}"):
        store.put("a", b"1")


def test_a_profile_that_is_not_there_is_one_line(faulty: Any, source: Source) -> None:
    store = Store.open("s3://bucket/x", {"endpoint_url": faulty.proxy.endpoint, "profile": "no-such"})
    with pytest.raises(StoreError, match=r"no-such.* could not be found") as failure:
        store.list()
    assert "\n" not in str(failure.value)
    assert faulty.proxy.count() == 0
