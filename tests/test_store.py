"""One contract, on a local directory and on a real S3 server."""

import errno
import io
import os
import pickle
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cadp.errors import ObjectExists, ObjectMissing, StoreError
from cadp.store import Store, StoredObject
from cadp.store.local import STALE_SECONDS

KIB = 1 << 10
MIB = 1 << 20
LARGE = 40 * MIB  # three parts of a multipart upload


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest) -> Store:
    """An empty store of each kind."""
    return request.getfixturevalue(f"{request.param}_store")


@pytest.fixture
def local_store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "public" / "zone"))


@pytest.fixture(scope="module")
def bucket(seaweedfs: Any) -> str:
    """One bucket for all: a fresh prefix is as good and much quicker."""
    return seaweedfs.bucket()


@pytest.fixture
def s3_store(seaweedfs: Any, bucket: str) -> Store:
    return Store.open(f"s3://{bucket}/some/{secrets.token_hex(8)}", seaweedfs.options)


def files_below(store: Store) -> list[str]:
    """What a reader who walks the folder, or lists the whole bucket, meets."""
    root = store.local_path("x")
    if root is None:
        return [key for key, _ in store.list()]
    return sorted(str(p.relative_to(root.parent)) for p in root.parent.rglob("*") if not p.is_dir())


def in_python(script: str, store: Store, *arguments: str) -> "subprocess.Popen[str]":
    """Run a script in another process with `store` (pickled) and `arguments` at hand."""
    prelude = "import pickle, sys; store = pickle.loads(bytes.fromhex(sys.argv[1])); arguments = sys.argv[2:]\n"
    return subprocess.Popen(
        [sys.executable, "-c", prelude + script, pickle.dumps(store).hex(), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class TestContract:
    def test_put_then_read_back_in_every_way(self, store: Store) -> None:
        data = secrets.token_bytes(100 * KIB)
        stored = store.put("data/train-0.tar", data)
        assert stored == StoredObject("data/train-0.tar", len(data), store.sha256("data/train-0.tar"))
        assert store.get("data/train-0.tar") == data
        assert store.size("data/train-0.tar") == len(data)
        assert store.exists("data/train-0.tar")
        with store.open_read("data/train-0.tar") as stream:
            assert stream.read(10) == data[:10]
            assert stream.read() == data[10:]
            assert stream.seek(-5, io.SEEK_END) == len(data) - 5
            assert stream.read() == data[-5:]

    def test_a_file_is_put_like_bytes(self, store: Store, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"from a file")
        assert store.put("from/file", path) == store.put("from/file", b"from a file")
        assert store.get("from/file") == b"from a file"

    def test_a_file_that_is_not_there_is_one_clear_line(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match=r"cannot read .*nowhere"):
            store.put("a", tmp_path / "nowhere")
        assert not store.exists("a")

    @pytest.mark.parametrize("size", [0, 1, 100 * KIB])
    def test_equal_bytes_again_are_done_and_other_bytes_are_refused(self, store: Store, size: int) -> None:
        data = bytes(size)
        assert store.put("key", data) == store.put("key", data)
        for other in (data + b"x", b"x" * size):
            if other != data:
                with pytest.raises(ObjectExists, match="exists with other bytes"):
                    store.put("key", other)
        assert store.get("key") == data

    def test_zero_bytes_do_not_replace_an_object(self, store: Store) -> None:
        store.put("key", b"something")
        with pytest.raises(ObjectExists):
            store.put("key", b"")
        assert store.get("key") == b"something"

    def test_a_zero_byte_object_reads_as_nothing(self, store: Store) -> None:
        store.put("empty", b"")
        assert (store.get("empty"), store.read("empty", 0, 9), store.size("empty")) == (b"", b"", 0)
        with store.open_read("empty") as stream:
            assert stream.read() == b""
        assert store.list() == [("empty", 0)]

    def test_ranges_end_where_the_object_ends(self, store: Store) -> None:
        store.put("digits", b"0123456789")
        assert store.read("digits", 3, 4) == b"3456"
        assert store.read("digits", 8, 100) == b"89"
        assert store.read("digits", 10, 1) == b""
        assert store.read("digits", 999, 1) == b""
        assert store.read("digits", 3, 0) == b""
        for start, length in ((-1, 3), (0, -3)):
            with pytest.raises(StoreError, match="must be 0 or more"):
                store.read("digits", start, length)

    def test_listing_is_recursive_sorted_and_by_prefix(self, store: Store) -> None:
        for key in ("b/2", "b/10", "a/deep/er/1", "b.txt", "bb/1", "c"):
            store.put(key, key.encode())
        everything = [("a/deep/er/1", 11), ("b.txt", 5), ("b/10", 4), ("b/2", 3), ("bb/1", 4), ("c", 1)]
        assert store.list() == everything
        assert [key for key, _ in store.list("b")] == ["b.txt", "b/10", "b/2", "bb/1"]
        assert store.list("b/") == [("b/10", 4), ("b/2", 3)]
        assert store.list("b/1") == [("b/10", 4)]
        assert store.list("nothing/here") == []

    def test_a_deleted_object_leaves_no_trace_in_the_listing(self, store: Store) -> None:
        store.put("folder/only", b"1")
        store.delete("folder/only")
        store.delete("folder/only")
        assert store.list() == []
        assert not store.exists("folder/only")
        assert not store.exists("folder")
        store.put("folder/only", b"2")
        assert store.get("folder/only") == b"2"

    def test_a_child_sees_its_own_prefix_alone(self, store: Store) -> None:
        child = store.child("releases").child("v1/")
        child.put("manifest.json", b"{}")
        store.put("releases/v10/manifest.json", b"[]")
        assert child.list() == [("manifest.json", 2)]
        assert store.get("releases/v1/manifest.json") == b"{}"
        assert child.url_of("manifest.json") == store.url_of("releases/v1/manifest.json")
        assert child.url == store.url + "/releases/v1"

    @pytest.mark.parametrize(
        "read",
        [
            lambda store: store.get("no/such"),
            lambda store: store.read("no/such", 0, 4),
            lambda store: store.read("no/such", 0, 0),
            lambda store: store.size("no/such"),
            lambda store: store.sha256("no/such"),
            lambda store: store.open_read("no/such"),
        ],
    )
    def test_a_missing_object_is_said_to_be_missing(self, store: Store, read: Callable[[Store], object]) -> None:
        store.put("something/else", b"")
        with pytest.raises(ObjectMissing, match="no/such"):
            read(store)

    @pytest.mark.parametrize(
        "key",
        [
            *(
                "",
                "/",
                "/etc/passwd",
                "..",
                "../up",
                "a/../b",
                "a/..",
                ".",
                "./a",
                "a/./b",
                "a//b",
                "a/",
                "\\\\host\\a",
            ),
            *(
                "a\\..\\b",
                "nul\0",
                "line\nbreak",
                "tab\t",
                "esc\x1b[31m",
                "c1\x85",
                "u\u2028",
                "lone\ud800",
                "a?versionId=1",
            ),
            *(".incoming", ".incoming/x", "a/.incoming-zone/x", "x" * 256, "/".join(["y" * 200] * 6)),
        ],
    )
    def test_hostile_keys_are_refused_by_every_operation(self, store: Store, key: str, tmp_path: Path) -> None:
        operations: list[Callable[[], object]] = [
            lambda: store.put(key, b"x"),
            lambda: store.get(key),
            lambda: store.read(key, 0, 1),
            lambda: store.open_read(key),
            lambda: store.exists(key),
            lambda: store.size(key),
            lambda: store.sha256(key),
            lambda: store.delete(key),
            lambda: store.child(key).put("x", b"x") if key not in {"a/"} else store.get(key),
            lambda: store.url_of(key),
            lambda: store.local_path(key),
        ]
        for operation in operations:
            with pytest.raises(StoreError, match="refused key"):
                operation()
        assert store.list() == []
        assert [p for p in tmp_path.rglob("*") if p.is_file()] == []

    @pytest.mark.parametrize("key", ["naïve/ключ/鍵.bin", "a b+c%20&d=e#f?g*h[i]", "~user", "-rf", "a.b.c", "x" * 255])
    def test_unusual_keys_are_kept_as_they_are(self, store: Store, key: str) -> None:
        store.put(key, b"1")
        assert store.list() == [(key, 1)]
        assert store.get(key) == store.read(key, 0, 1) == b"1"
        with store.open_read(key) as stream:
            assert stream.read() == b"1"
        with pytest.raises(ObjectExists):
            store.put(key, b"2")
        store.delete(key)
        assert store.list() == []

    def test_a_large_object_goes_in_parts_and_only_once(self, store: Store, tmp_path: Path) -> None:
        data = secrets.token_bytes(MIB) * 40
        path = tmp_path / "large"
        path.write_bytes(data)
        assert store.put("large", path) == store.put("large", data)
        assert store.size("large") == LARGE
        assert store.read("large", LARGE - MIB - 1, MIB) == data[-MIB - 1 : -1]
        with pytest.raises(ObjectExists):
            store.put("large", data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(ObjectExists):
            store.put("large", b"small")
        assert store.sha256("large") == store.put("large", path).sha256


class TestRaces:
    @pytest.mark.parametrize("size", [1, 33 * MIB])
    def test_of_many_threads_one_wins_and_nothing_is_mixed(self, store: Store, size: int) -> None:
        """One wins where the server decides the condition atomically with making the object visible.

        SeaweedFS does so for PutObject. When completing uploads it looks first and writes later, so several can be
        accepted there, each replacing the one before; AWS documents an atomic decision. On any server the object is
        one writer's from end to end, and that writer is among those who were told that they won.
        """
        writers = 3 if size > MIB else 6
        start = threading.Barrier(writers)

        def write(writer: int) -> bool:
            data = bytes([writer]) * size
            start.wait()
            try:
                store.put("contended", data)
            except ObjectExists:
                return False
            return True

        with ThreadPoolExecutor(writers) as pool:
            won = list(pool.map(write, range(writers)))
        atomic = size == 1 or store.local_path("x") is not None
        assert won.count(True) == 1 or (won.count(True) > 1 and not atomic)
        there = store.get("contended")
        assert there == there[:1] * size
        assert won[there[0]]
        assert files_below(store) == ["contended"]

    def test_of_many_processes_one_wins_and_nothing_is_mixed(self, store: Store) -> None:
        script = """
from cadp.errors import ObjectExists
store.list()
print("ready", flush=True)
input()
try:
    store.put("contended", bytes([int(arguments[0])]) * 1_000_000)
    print("won")
except ObjectExists:
    print("lost")
"""
        writers = [in_python(script, store, str(writer)) for writer in range(4)]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        answers = [writer.communicate(timeout=60)[0].strip() for writer in writers]
        assert sorted(answers) == ["lost", "lost", "lost", "won"]
        assert store.get("contended") == bytes([answers.index("won")]) * 1_000_000
        assert files_below(store) == ["contended"]

    def test_writers_of_equal_bytes_all_succeed(self, store: Store) -> None:
        with ThreadPoolExecutor(4) as pool:
            stored = set(pool.map(lambda _: store.put("same", b"same" * KIB), range(4)))
        assert len(stored) == 1


class TestProcesses:
    def test_a_pickled_store_works_and_its_repr_has_no_secret(self, store: Store, request: Any) -> None:
        copy = pickle.loads(pickle.dumps(store))
        assert copy == store
        assert copy.child("a").put("b", b"1") == store.child("a").put("b", b"1")
        if "seaweedfs" in request.fixturenames:
            assert request.getfixturevalue("seaweedfs").secret not in repr(store) + store.url

    def test_a_used_store_survives_a_fork(self, store: Store) -> None:
        script = """
import os
store.put("parent", b"parent")
child = os.fork()
if child == 0:
    store.put("child", store.get("parent") + b"'s child")
    os._exit(0)
status = os.waitpid(child, 0)[1]
store.put("after", store.get("child"))
sys.exit(status)
"""
        process = in_python(script, store)
        assert process.communicate(timeout=60)[1] == ""
        assert process.returncode == 0
        assert store.get("after") == b"parent's child"

    @pytest.mark.parametrize("moment", ["os.fsync", "os.link", "pathlib.Path.unlink"])
    def test_a_killed_local_writer_leaves_nothing_half_written(self, local_store: Store, moment: str) -> None:
        data = b"x" * MIB
        owner, _, name = moment.rpartition(".")
        script = f"""
import os, pathlib
{owner}.{name} = lambda *_, **__: os.kill(os.getpid(), 9)
store.put("a/key", b"x" * {MIB})
"""
        local_store.put("a/other", b"")  # the folder is there: the first sync is the temporary file's
        process = in_python(script, local_store)
        process.communicate(timeout=60)
        assert process.returncode == -9
        complete = moment == "pathlib.Path.unlink"  # it died after the link
        assert files_below(local_store) == (["a/key", "a/other"] if complete else ["a/other"])
        assert local_store.list() == ([("a/key", MIB), ("a/other", 0)] if complete else [("a/other", 0)])
        assert local_store.exists("a/key") == complete
        local_store.put("a/key", data)
        assert local_store.get("a/key") == data

    @pytest.mark.parametrize(
        ("operation", "size"), [("PutObject", MIB), ("UploadPart", LARGE), ("CompleteMultipartUpload", LARGE)]
    )
    def test_a_killed_s3_writer_leaves_nothing_visible(self, s3_store: Store, operation: str, size: int) -> None:
        script = f"""
import os
from aiobotocore.client import AioBaseClient
call = AioBaseClient._make_api_call
async def kill(self, operation, parameters):
    if operation == "{operation}" and parameters.get("PartNumber") in (None, 2):
        os.kill(os.getpid(), 9)
    return await call(self, operation, parameters)
AioBaseClient._make_api_call = kill
store.put("key", bytes({size}))
"""
        process = in_python(script, s3_store)
        process.communicate(timeout=60)
        assert process.returncode == -9
        assert s3_store.list() == []
        assert not s3_store.exists("key")
        s3_store.put("key", bytes(size))
        assert s3_store.size("key") == size


class TestLocal:
    @pytest.mark.parametrize("form", ["{}", "file://{}"])
    def test_a_path_and_a_file_url_are_the_same_store(self, tmp_path: Path, form: str) -> None:
        store = Store.open(form.format(tmp_path / "with space%20"))
        store.put("a", b"1")
        assert store == Store.open(str(tmp_path / "with space%20"))
        assert (tmp_path / "with space%20" / "a").read_bytes() == b"1"
        assert store.local_path("a") == tmp_path / "with space%20" / "a"

    def test_a_relative_path_does_not_follow_the_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        store = Store.open("here")
        monkeypatch.chdir("/")
        assert store.url == f"file://{tmp_path}/here"

    @pytest.mark.parametrize(
        "url", ["", "file://", "file://host", "http://example.com/x", "s3://", "s3:///key", "gs://b"]
    )
    def test_an_address_of_no_known_kind_is_refused(self, url: str) -> None:
        with pytest.raises(StoreError):
            Store.open(url)

    def test_temporary_files_lie_beside_the_root(self, local_store: Store, tmp_path: Path) -> None:
        local_store.put("a", b"1")
        assert [p.name for p in (tmp_path / "public" / "zone").iterdir()] == ["a"]
        assert [p.name for p in (tmp_path / "public").iterdir() if p.name != "zone"] == [".incoming-zone"]
        assert list((tmp_path / "public" / ".incoming-zone").iterdir()) == []

    def test_a_store_around_another_does_not_list_its_temporary_files(self, local_store: Store, tmp_path: Path) -> None:
        local_store.put("a", b"1")
        (tmp_path / "public" / ".incoming-zone" / "half").write_bytes(b"half")
        assert Store.open(str(tmp_path)).list() == [("public/zone/a", 1)]

    @pytest.mark.parametrize("refusal", [errno.EXDEV, errno.EACCES])
    def test_temporary_files_go_inside_where_the_root_is_its_own_file_system(
        self, local_store: Store, monkeypatch: pytest.MonkeyPatch, refusal: int
    ) -> None:
        link = os.link

        def link_within_root(source: Path, target: Path) -> None:
            if "zone/.incoming/" not in str(source):
                raise OSError(refusal, os.strerror(refusal))
            link(source, target)

        monkeypatch.setattr(os, "link", link_within_root)
        local_store.put("a", b"1")
        local_store.put("b", b"2")
        assert local_store.list() == [("a", 1), ("b", 1)]
        assert files_below(local_store) == ["a", "b"]

    def test_a_file_system_that_cannot_link_is_one_clear_line(
        self, local_store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "link", refuse)
        with pytest.raises(StoreError, match=r"cannot write 'a' below .*: No space left"):
            local_store.put("a", b"1")
        assert files_below(local_store) == []

    def test_what_killed_writers_left_is_removed_once_it_is_old(self, local_store: Store, tmp_path: Path) -> None:
        local_store.put("a", b"1")
        staging = tmp_path / "public" / ".incoming-zone"
        (staging / "old").write_bytes(b"half")
        (staging / "young").write_bytes(b"half")
        long_ago = time.time() - STALE_SECONDS - 60
        os.utime(staging / "old", (long_ago, long_ago))
        Store.open(local_store.url).put("b", b"2")
        assert [p.name for p in staging.iterdir()] == ["young"]

    def test_an_object_is_no_folder(self, local_store: Store) -> None:
        local_store.put("a/b", b"1")
        with pytest.raises(StoreError):
            local_store.put("a/b/c", b"2")
        with pytest.raises(ObjectExists):
            local_store.put("a", b"2")
        with pytest.raises(StoreError):
            local_store.get("a")
        assert not local_store.exists("a/b/c")
        assert local_store.list() == [("a/b", 1)]

    def test_symbolic_links_are_listed_and_not_followed(self, local_store: Store, tmp_path: Path) -> None:
        local_store.put("a", b"1")
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "private").write_bytes(b"x")
        (tmp_path / "public" / "zone" / "link").symlink_to(tmp_path / "elsewhere")
        assert [key for key, _ in local_store.list()] == ["a", "link"]


class TestS3:
    def test_listing_goes_on_after_the_first_page(self, s3_store: Store) -> None:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda i: s3_store.put(f"many/{i:04d}", b""), range(1010)))
        assert [key for key, _ in s3_store.list()] == [f"many/{i:04d}" for i in range(1010)]

    @pytest.mark.parametrize("wrong", ["key", "secret"])
    def test_wrong_credentials_are_one_clear_line(self, seaweedfs: Any, bucket: str, wrong: str) -> None:
        store = Store.open(f"s3://{bucket}/x", {**seaweedfs.options, wrong: "wrong"})
        for operation in (lambda: store.put("a", b"1"), lambda: store.get("a"), lambda: store.exists("a"), store.list):
            with pytest.raises(StoreError, match="refuses the credentials") as refusal:
                operation()
            assert "\n" not in str(refusal.value)
            assert seaweedfs.secret not in str(refusal.value)

    def test_a_missing_bucket_is_said_to_be_missing(self, seaweedfs: Any) -> None:
        store = Store.open("s3://no-such-bucket/x", seaweedfs.options)
        operations: list[Callable[[], object]] = [
            lambda: store.put("a", b"1"),
            lambda: store.put("a", bytes(LARGE)),
            lambda: store.get("a"),
            lambda: store.read("a", 0, 1),
            lambda: store.exists("a"),
            lambda: store.size("a"),
            lambda: store.delete("a"),
            store.list,
        ]
        for operation in operations:
            with pytest.raises(StoreError, match="there is no bucket 'no-such-bucket'") as refusal:
                operation()
            assert not isinstance(refusal.value, ObjectMissing)

    def test_an_unreachable_endpoint_fails_in_bounded_time(
        self, unused_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("cadp.store.s3_session.FIRST_PAUSE", 0.02)
        endpoint = f"http://127.0.0.1:{unused_port}"
        store = Store.open("s3://bucket/x", {"key": "k", "secret": "s", "endpoint_url": endpoint})
        began = time.monotonic()
        for operation in (lambda: store.put("a", b"1"), lambda: store.exists("a"), store.list):
            with pytest.raises(StoreError, match="Could not connect"):
                operation()
        assert time.monotonic() - began < 20

    def test_options_that_make_no_sense_are_refused(self) -> None:
        with pytest.raises(StoreError, match="with these options"):
            Store.open("s3://bucket", {"max_concurrency": 0})


def test_old_temporary_files_are_dropped_and_young_ones_stay(local_store: Store) -> None:
    local_store.put("a", b"whole")
    root = local_store.local_path("x").parent
    old, young = (root.parent / f".incoming-{root.name}" / name for name in ("old", "young"))
    for path, seconds in ((old, 101), (young, 50)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - seconds,) * 2)
    dropped = [(f"file://{old}", 4)]
    assert local_store.child("below").drop_unfinished(100, dry_run=True) == dropped
    assert old.exists()
    assert local_store.drop_unfinished(100) == dropped
    assert local_store.drop_unfinished(100) == []
    assert young.exists()
    assert local_store.list() == [("a", 5)]


def test_old_uploads_are_aborted_below_the_prefix_alone(s3_store: Store, seaweedfs: Any, bucket: str) -> None:
    import s3fs

    fs = s3fs.S3FileSystem(
        **seaweedfs.options, skip_instance_cache=True, config_kwargs={"s3": {"addressing_style": "path"}}
    )
    prefix = s3_store.url.removeprefix(f"s3://{bucket}/")
    for key in (f"{prefix}/one", f"{prefix}/two", f"{prefix}-beside/three"):
        upload = fs.call_s3("create_multipart_upload", Bucket=bucket, Key=key)["UploadId"]
        fs.call_s3("upload_part", Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"x" * 100)
    s3_store.put("one", b"whole")
    assert s3_store.drop_unfinished(3600) == []
    begun = [(f"{s3_store.url}/one", 100), (f"{s3_store.url}/two", 100)]
    assert sorted(s3_store.drop_unfinished(-60, dry_run=True)) == begun
    assert sorted(s3_store.drop_unfinished(-60)) == begun
    assert s3_store.drop_unfinished(-60) == []
    left = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix).get("Uploads", [])
    assert [upload["Key"] for upload in left] == [f"{prefix}-beside/three"]
    assert s3_store.get("one") == b"whole"


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port that nobody listens on, held so that nobody will."""
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
