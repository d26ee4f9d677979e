"""The store on S3 while the network and the service fail: every operation with every fault, on a real server."""

import secrets
import time
from collections.abc import Callable
from typing import Any

import pytest

from cadp.errors import ObjectExists, ObjectMissing, StoreError
from cadp.store import Store
from cadp.store.s3_session import ATTEMPTS, pause
from tests.servers.faulty_s3 import Fault

SMALL = secrets.token_bytes(600_000)
LARGE = secrets.token_bytes(1 << 20) * 10 + b"end"  # three parts


def put(store: Store) -> None:
    assert store.put("key", SMALL).size == len(SMALL)


def put_in_parts(store: Store) -> None:
    assert store.put("key", LARGE).size == len(LARGE)


def get(store: Store) -> None:
    assert store.get("there") == SMALL


def read(store: Store) -> None:
    assert store.read("there", 1000, 300_000) == SMALL[1000:301_000]


def stream(store: Store) -> None:
    with store.open_read("there") as stream:
        assert stream.read(10) + stream.read() == SMALL


def size(store: Store) -> None:
    assert store.size("there") == len(SMALL)


def look_for_what_is_missing(store: Store) -> None:
    assert not store.exists("key")


def list_pages(store: Store) -> None:
    assert store.list() == [("a", 1), ("b", 2), ("c", 3), ("there", len(SMALL))]


def delete(store: Store) -> None:
    store.delete("a")


def drop_unfinished(store: Store) -> None:
    # A second try of an abort whose answer was lost finds it gone: then its bytes are not told.
    assert [address for address, _ in store.drop_unfinished(-60)] == [f"{store.url}/begun"]


REQUESTS: dict[str, tuple[Callable[[Store], None], str]] = {
    "put": (put, "PutObject"),
    "create-upload": (put_in_parts, "CreateMultipartUpload"),
    "upload-part": (put_in_parts, "UploadPart"),
    "complete-upload": (put_in_parts, "CompleteMultipartUpload"),
    "get": (get, "GetObject"),
    "read": (read, "GetObject"),
    "stream": (stream, "GetObject"),
    "size": (size, "HeadObject"),
    "missing": (look_for_what_is_missing, "HeadBucket"),
    "list": (list_pages, "ListObjectsV2"),
    "delete": (delete, "DeleteObject"),
    "list-uploads": (drop_unfinished, "ListMultipartUploads"),
    "list-parts": (drop_unfinished, "ListParts"),
    "abort-upload": (drop_unfinished, "AbortMultipartUpload"),
}
"""Every kind of request that the store sends, and an operation that sends it."""

WRITES = ("put", "create-upload", "upload-part", "complete-upload", "delete", "abort-upload")
BODIES = ("create-upload", "complete-upload", "get", "read", "stream", "list", "list-uploads", "list-parts")
"""Requests whose answer has a body."""

QUICK = ("500", "503", "429", "409", "lost", "cut", "reset", "short")
PASSING = [
    *((kind, name) for kind in QUICK for name in REQUESTS),
    *((kind, name) for kind in ("silent", "trickle") for name in REQUESTS),
    *(("unanswered", name) for name in WRITES),
    *((kind, name) for kind in ("smaller", "empty") for name in BODIES),
    *(("error-in-200", name) for name in ("complete-upload", "list")),
]
_NO_ANSWER = {"silent": 0.3, "unanswered": 0.3}


def prepare(faulty: Any, name: str) -> dict[str, bytes]:
    """What is there before, as only the operation needs it."""
    there = {"there": SMALL} if name in {"get", "read", "stream", "size", "list"} else {}
    if name in {"list", "delete"}:
        there |= {"a": b"1", "b": b"22", "c": b"333"}
    for key, data in there.items():
        faulty.direct.put(key, data)
    if REQUESTS[name][0] is drop_unfinished:
        faulty.begin("begun")
    return there


@pytest.mark.parametrize(("kind", "name"), PASSING)
def test_a_fault_that_passes_is_not_noticed(faulty: Any, kind: Any, name: str) -> None:
    there = prepare(faulty, name)
    operation, request = REQUESTS[name]
    store = faulty.opened(_NO_ANSWER.get(kind, 20), 2 if name == "list" else 1000)
    times = 2 if kind.isdigit() else 1
    faulty.proxy.plan(Fault(kind, request, count=times, skip=1 if name == "list" else 0))
    operation(store)
    assert set(faulty.proxy.spoilt) == {f"{kind} {request}"}
    expected = dict(there)
    if name in {"put", "create-upload", "upload-part", "complete-upload"}:
        expected = {"key": SMALL if name == "put" else LARGE}
    expected.pop("a" if name == "delete" else "", None)
    assert {key: faulty.direct.get(key) for key, _ in faulty.direct.list()} == expected
    # An upload whose first answer was lost has no name that we know.
    begun_unknown = name == "create-upload" and kind in {"lost", "unanswered", "short", "smaller", "empty"}
    assert set(faulty.uploads()) == ({"key"} if begun_unknown else set())
    faulty.direct.drop_unfinished(-60)
    assert faulty.uploads() == []


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in ("500", "short") for n in REQUESTS])
def test_a_fault_that_stays_is_one_line_after_a_bounded_number_of_requests(faulty: Any, kind: Any, name: str) -> None:
    there = prepare(faulty, name)
    operation, request = REQUESTS[name]
    faulty.proxy.plan(Fault(kind, request, count=10_000))
    with pytest.raises(StoreError, match=r"cannot [a-z ]+ s3://.* at http://127.*tried 6 times") as failure:
        operation(faulty.store)
    assert "\n" not in str(failure.value)
    parallel = 4 if request == "UploadPart" else 1
    again = 2  # by the HTTP client, once, on a connection that it had used before
    assert faulty.proxy.count(request) <= ATTEMPTS * parallel * again
    assert faulty.proxy.count() <= 4 * ATTEMPTS * again
    done_unknown = kind == "short" and name in {"put", "complete-upload", "delete"}
    left = {key: faulty.direct.get(key) for key, _ in faulty.direct.list()}
    if done_unknown:  # every answer was lost: it is there, whole, and putting it again finds it so
        faulty.proxy.plan()
        operation(faulty.store)
    else:
        assert left == there
    if name in {"upload-part", "complete-upload"}:
        assert faulty.uploads() == []
    faulty.direct.drop_unfinished(-60)


def test_no_answer_at_all_is_one_line(faulty: Any) -> None:
    store = faulty.opened(0.2)
    faulty.proxy.plan(Fault("silent", count=10_000))
    with pytest.raises(StoreError, match=r"cannot .*[Tt]imeout.*tried 6 times"):
        put(store)
    faulty.proxy.plan()
    assert faulty.direct.list() == []


def test_a_slow_answer_is_waited_for_as_long_as_it_comes(faulty: Any) -> None:
    faulty.direct.put("there", SMALL)
    store = faulty.opened(0.2)  # the whole takes longer
    store.size("there")
    faulty.proxy.plan(Fault("trickle", "GetObject"))
    began = time.monotonic()
    get(store)
    assert time.monotonic() - began > 0.2
    assert faulty.proxy.spoilt == ["trickle GetObject"]


class TestWriting:
    @pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
    @pytest.mark.parametrize("same", [True, False], ids=["same", "other"])
    def test_a_condition_that_fails_is_settled_by_the_hash(self, faulty: Any, data: bytes, same: bool) -> None:
        """412 at the last moment: another writer was quicker by one request."""
        last = "PutObject" if data is SMALL else "CompleteMultipartUpload"
        theirs = data if same else data[:-1] + bytes([data[-1] ^ 1])
        faulty.proxy.plan(Fault("passed", last, first=lambda: faulty.direct.put("key", theirs)))
        if same:
            assert faulty.store.put("key", data).size == len(data)
        else:
            with pytest.raises(ObjectExists, match="exists with other bytes"):
                faulty.store.put("key", data)
        assert faulty.proxy.spoilt == [f"passed {last}"]
        assert faulty.direct.get("key") == theirs
        assert faulty.uploads() == []

    def test_after_a_conflict_all_parts_are_sent_anew(self, faulty: Any) -> None:
        """As AWS asks for after a 409 of CompleteMultipartUpload."""
        faulty.proxy.plan(Fault("409", "CompleteMultipartUpload"))
        put_in_parts(faulty.store)
        assert faulty.proxy.count("CreateMultipartUpload") == 2
        assert faulty.proxy.count("UploadPart") == 6
        assert faulty.uploads() == []

    @pytest.mark.parametrize("operation", [put, put_in_parts])
    def test_conflicts_without_end_are_one_line(self, faulty: Any, operation: Callable[[Store], None]) -> None:
        faulty.proxy.plan(Fault("409", "PutObject", count=999), Fault("409", "CompleteMultipartUpload", count=999))
        with pytest.raises(StoreError, match="other writers, or a clean-up, held it through 6 attempts; retry"):
            operation(faulty.store)
        assert len(faulty.proxy.spoilt) == ATTEMPTS
        assert (faulty.direct.list(), faulty.uploads()) == ([], [])

    def test_an_upload_that_a_clean_up_took_is_begun_anew(self, faulty: Any) -> None:
        faulty.proxy.plan(Fault("passed", "UploadPart", skip=2, first=lambda: faulty.direct.drop_unfinished(-60)))
        put_in_parts(faulty.store)
        assert faulty.proxy.count("CreateMultipartUpload") == 2
        assert faulty.direct.get("key") == LARGE
        assert faulty.uploads() == []

    def test_an_upload_is_aborted_after_its_last_part_in_flight(self, faulty: Any) -> None:
        """A part that arrives after the abort would stay, and be paid for."""
        late: list[bool] = []

        def hold() -> None:
            time.sleep(0.3)
            late.append(faulty.proxy.count("AbortMultipartUpload") == 0)

        faulty.proxy.plan(Fault("passed", "UploadPart", first=hold), Fault("409", "UploadPart", count=999))
        with pytest.raises(StoreError):
            put_in_parts(faulty.store)
        assert late == [True]
        assert faulty.uploads() == []

    def test_what_could_not_be_aborted_is_dropped_later(self, faulty: Any) -> None:
        faulty.proxy.plan(Fault("500", "UploadPart", count=999), Fault("500", "AbortMultipartUpload", count=999))
        with pytest.raises(StoreError, match="cannot write"):  # not what came of the abort
            put_in_parts(faulty.store)
        assert faulty.direct.list() == []
        assert faulty.uploads() == ["key"]
        faulty.direct.drop_unfinished(-60)
        assert faulty.uploads() == []

    def test_an_object_that_was_deleted_while_it_was_compared_is_put(self, faulty: Any) -> None:
        faulty.direct.put("key", SMALL[::-1])
        faulty.proxy.plan(Fault("passed", "HeadObject", first=lambda: faulty.direct.delete("key")))
        put(faulty.store)
        assert faulty.direct.get("key") == SMALL

    def test_a_condition_that_fails_for_nothing_is_one_line(self, faulty: Any) -> None:
        faulty.proxy.plan(Fault("412", "PutObject", count=999))
        with pytest.raises(StoreError, match="held it through 6 attempts"):
            put(faulty.store)
        assert faulty.proxy.count("PutObject") == ATTEMPTS
        assert faulty.direct.list() == []

    def test_another_writer_that_the_server_let_pass_is_seen(self, faulty: Any) -> None:
        """A server whose completion is not atomic: both are accepted, and the second replaces the first."""

        def replace() -> None:
            faulty.direct.delete("key")
            faulty.direct.put("key", LARGE[::-1])

        faulty.proxy.plan(Fault("passed", "HeadObject", skip=1, first=replace))
        with pytest.raises(ObjectExists):
            put_in_parts(faulty.store)
        assert faulty.direct.get("key") == LARGE[::-1]

    def test_a_file_that_shrinks_is_one_line(self, faulty: Any, tmp_path: Any) -> None:
        path = tmp_path / "file"
        path.write_bytes(LARGE)
        faulty.proxy.plan(Fault("passed", "CreateMultipartUpload", first=lambda: path.write_bytes(SMALL)))
        with pytest.raises(StoreError, match="became shorter while it was put"):
            faulty.store.put("key", path)
        assert (faulty.direct.list(), faulty.uploads()) == ([], [])


class TestReading:
    def test_a_stream_never_mixes_two_objects(self, faulty: Any) -> None:
        faulty.direct.put("there", SMALL)

        def replace() -> None:
            faulty.direct.delete("there")
            faulty.direct.put("there", SMALL[::-1])

        with faulty.store.open_read("there") as stream:
            stream.raw.seek(300_000)
            assert stream.raw.read(10) == SMALL[300_000:300_010]
            faulty.proxy.plan(Fault("passed", "GetObject", first=replace))
            for _ in range(2):
                with pytest.raises(StoreError, match="changed while it was being read"):
                    stream.raw.read(10)
            assert faulty.proxy.count("GetObject") == 2
        with faulty.store.open_read("there") as stream:
            assert stream.read() == SMALL[::-1]

    def test_a_stream_of_a_deleted_object_ends_in_its_absence(self, faulty: Any) -> None:
        faulty.direct.put("there", SMALL)
        with faulty.store.open_read("there") as stream:
            faulty.direct.delete("there")
            with pytest.raises(ObjectMissing):
                stream.read(1)

    @pytest.mark.parametrize("at", [0, 1000])
    def test_the_rest_of_a_stream_is_one_request(self, faulty: Any, at: int) -> None:
        """Not one for every 8 KiB, as Python's own raw streams would send."""
        faulty.direct.put("there", SMALL)
        with faulty.store.open_read("there") as stream:
            stream.seek(at)
            assert stream.read() == SMALL[at:]
        assert faulty.proxy.count("GetObject") == 1

    def test_a_short_answer_without_end_is_one_line(self, faulty: Any) -> None:
        faulty.direct.put("there", SMALL)
        faulty.proxy.plan(Fault("smaller", count=999))
        for operation in (get, read, stream):
            with pytest.raises(StoreError, match="cannot read .*tried 6 times"):
                operation(faulty.store)


def test_pauses_are_of_full_jitter_and_double(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[tuple[float, float]] = []
    slept: list[float] = []
    monkeypatch.setattr("random.uniform", lambda low, high: bounds.append((low, high)) or high / 2)
    monkeypatch.setattr("time.sleep", slept.append)
    for tries in (1, 2, 3):
        pause(tries)
    pause(2, busy=True)
    assert bounds == [(0, 0.2), (0, 0.4), (0, 0.8), (0, 2.0)]
    assert slept == [0.1, 0.2, 0.4, 1.0]
