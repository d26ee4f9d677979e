"""The external sort: order, intervals, bounded memory, each byte read once, and damage found."""

import hashlib
import random
import secrets
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadp.errors import ObjectExists, ObjectMissing, StoreError
from cadp.exchange import Item, Run, interval, merge, write_run
from cadp.store import Store

KIB = 1 << 10
MIB = 1 << 20

# Few distinct keys, so that duplicates, shared prefixes and ends of intervals happen.
keys = st.one_of(
    st.sampled_from([bytes(16), b"\xff" * 16, b"\x80" + bytes(15), b"\x7f" + b"\xff" * 15]),
    st.binary(min_size=16, max_size=16),
    st.integers(0, 5).map(lambda last: bytes(15) + bytes([last])),
)
payloads = st.one_of(st.binary(max_size=40), st.integers(0, 3).map(lambda n: b"p" * (n * 30_000)))
item_lists = st.lists(st.tuples(keys, payloads), max_size=40)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "zone"))


class CountingStore(Store):
    """A store that notes every ranged read."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.reads: list[tuple[str, int, int]] = []

    def read(self, key: str, start: int, length: int) -> bytes:
        self.reads.append((key, start, length))
        return super().read(key, start, length)

    def open_read(self, key: str) -> None:  # type: ignore[override]
        raise AssertionError(f"{key} was read whole")


def counting(store: Store) -> CountingStore:
    return CountingStore(*store.__reduce__()[1])


def random_items(count: int, size: int, seed: int = 0) -> Iterator[Item]:
    chance = random.Random(seed)
    for _ in range(count):
        yield chance.randbytes(16), chance.randbytes(size)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class TestSorting:
    @settings(max_examples=60, deadline=None)
    @given(
        runs=st.lists(item_lists, max_size=4), of=st.integers(1, 7), memory=st.sampled_from([1, 700, 40_000, 1 << 26])
    )
    def test_the_intervals_of_any_runs_join_to_the_global_sort(
        self, runs: list[list[Item]], of: int, memory: int
    ) -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = Store.open(f"{folder}/zone")
            scratch = Path(folder) / "scratch"
            written = [
                write_run(items, store, f"run-{i}", scratch=scratch, memory=memory) for i, items in enumerate(runs)
            ]
            joined = [item for i in range(of) for item in merge(store, written, *interval(i, of), buffer=1)]
            assert joined == sorted(item for items in runs for item in items)
            assert [run.records for run in written] == [len(items) for items in runs]
            assert list(scratch.glob("*")) == []

    @settings(max_examples=60, deadline=None)
    @given(items=item_lists, low=st.none() | keys, high=st.none() | keys)
    def test_any_interval_holds_what_lies_in_it(self, items: list[Item], low: bytes | None, high: bytes | None) -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = Store.open(f"{folder}/zone")
            run = write_run(items, store, "run", scratch=Path(folder))
            wanted = sorted(i for i in items if (low is None or i[0] >= low) and (high is None or i[0] < high))
            assert list(merge(store, [run.key], low, high)) == wanted

    def test_the_bytes_depend_on_the_items_alone(self, store: Store, tmp_path: Path) -> None:
        items = [*random_items(500, 30), *random_items(5, 30)]  # with duplicates
        one = write_run(items, store, "one", scratch=tmp_path / "s")
        two = write_run(reversed(items), store, "two", scratch=tmp_path / "s", memory=5_000)
        assert store.get("one") == store.get("two")
        assert store.get("one.index") == store.get("two.index")
        assert (one.sha256, one.size) == (two.sha256, two.size)
        assert one == Run("one", "one.index", 505, store.size("one"), hashlib.sha256(store.get("one")).hexdigest())
        assert write_run(items, store, "one", scratch=tmp_path / "s") == one  # a retry is done already
        with pytest.raises(ObjectExists):
            write_run(items[1:], store, "one", scratch=tmp_path / "s")

    def test_the_merge_does_not_depend_on_how_items_are_spread_over_runs(self, store: Store, tmp_path: Path) -> None:
        items = [(bytes(16), bytes([i])) for i in range(20)]
        one = write_run(items, store, "all", scratch=tmp_path)
        parts = [write_run(items[i::3], store, f"part-{i}", scratch=tmp_path) for i in range(3)]
        assert list(merge(store, parts[::-1], None, None)) == list(merge(store, [one], None, None))

    @pytest.mark.parametrize("key", [b"", b"short", bytes(17)])
    def test_a_key_of_another_length_is_refused(self, store: Store, tmp_path: Path, key: bytes) -> None:
        with pytest.raises(StoreError, match="must have 16"):
            write_run([(key, b"")], store, "run", scratch=tmp_path / "scratch")
        assert store.list() == []
        assert list((tmp_path / "scratch").iterdir()) == []

    def test_on_s3_it_is_the_same(self, seaweedfs: object, s3_bucket: str, store: Store, tmp_path: Path) -> None:
        remote = Store.open(f"s3://{s3_bucket}/runs", seaweedfs.options)  # type: ignore[attr-defined]
        for where in (remote, store):
            write_run(random_items(3000, 100), where, "run", scratch=tmp_path / "s", memory=100_000)
        assert list(merge(remote, ["run"], *interval(1, 3))) == list(merge(store, ["run"], *interval(1, 3))) != []


class TestIntervals:
    @pytest.mark.parametrize("of", [1, 2, 3, 7, 1000])
    def test_they_tile_the_key_space(self, of: int) -> None:
        ends = [interval(i, of) for i in range(of)]
        assert ends[0][0] == bytes(16)
        assert ends[-1][1] is None
        assert [high for _, high in ends[:-1]] == [low for low, _ in ends[1:]]
        widths = [int.from_bytes(high or b"\1" + bytes(16), "big") - int.from_bytes(low, "big") for low, high in ends]
        assert max(widths) - min(widths) <= 1

    @pytest.mark.parametrize(("index", "of"), [(-1, 3), (3, 3), (0, 0)])
    def test_there_is_no_other(self, index: int, of: int) -> None:
        with pytest.raises(StoreError, match="no interval"):
            interval(index, of)

    def test_random_keys_fill_them_evenly(self) -> None:
        shares = [0] * 8
        lows = [interval(i, 8)[0] for i in range(8)]
        for _ in range(8000):
            key = secrets.token_bytes(16)
            shares[max(i for i in range(8) if lows[i] <= key)] += 1
        assert all(800 < share < 1200 for share in shares)  # 6.7 standard deviations


class TestMemory:
    def test_sorting_and_merging_hold_a_small_part_of_the_data(self, store: Store, tmp_path: Path) -> None:
        count, size = 4_000, 8 * KIB  # 31 MiB in four runs, through 1 MiB
        peaks = []

        def measure(work: Iterator[object]) -> int:
            tracemalloc.start()
            try:
                done = sum(1 for _ in work)
                peaks.append(tracemalloc.get_traced_memory()[1])
            finally:
                tracemalloc.stop()
            return done

        def write() -> Iterator[Run]:
            for seed in range(4):
                items = random_items(count // 4, size, seed)
                yield write_run(items, store, f"run-{seed}", scratch=tmp_path / "s", memory=MIB)

        assert measure(write()) == 4
        assert measure(merge(store, [f"run-{i}" for i in range(4)], None, None, buffer=MIB)) == count
        assert sum(size for _, size in store.list("run")) > 30 * MIB
        assert max(peaks) < 4 * MIB, peaks

    def test_tiny_memory_makes_many_chunks_and_few_open_files(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened = Path.open
        most = 0

        def count_open(path: Path, *arguments: object, **options: object) -> object:
            nonlocal most
            most = max(most, open_files())
            return opened(path, *arguments, **options)  # type: ignore[call-overload]

        before = open_files()
        monkeypatch.setattr(Path, "open", count_open)
        items = list(random_items(1000, 10))
        write_run(items, store, "run", scratch=tmp_path / "s", memory=1)  # a chunk an item
        assert list(merge(store, ["run"], None, None)) == sorted(items)
        assert most - before < 80


class TestReads:
    def test_each_slice_is_read_once_by_ranged_reads(self, store: Store, tmp_path: Path) -> None:
        runs = [write_run(random_items(4000, 1000, i), store, f"run-{i}", scratch=tmp_path) for i in range(3)]
        for index in range(4):
            watched = counting(store)
            list(merge(watched, runs, *interval(index, 4), buffer=3 * 100 * KIB))
            for run in runs:
                reads = [(start, length) for key, start, length in watched.reads if key == run.key]
                ends = [start + length for start, length in reads]
                assert ends[:-1] == [start for start, _ in reads[1:]]  # forward, nothing twice, nothing left out
                assert max(length for _, length in reads) <= 101 * KIB
                assert sum(length for _, length in reads) < run.size / 4 + 3 * 65 * KIB

    def test_reading_ahead_is_shared_by_the_runs(self, store: Store, tmp_path: Path) -> None:
        run = write_run(random_items(4000, 1000), store, "run", scratch=tmp_path)
        watched = counting(store)
        list(merge(watched, [run, run], None, None, buffer=4 * MIB))
        assert {length for _, _, length in watched.reads} <= {2 * MIB, run.size - 2 * MIB}

    def test_a_payload_larger_than_the_buffer_is_read(self, store: Store, tmp_path: Path) -> None:
        large = [(bytes([i]) * 16, secrets.token_bytes(MIB)) for i in range(3)]
        run = write_run(large, store, "run", scratch=tmp_path, memory=1)
        assert list(merge(store, [run], None, None, buffer=1)) == large


class TestDamage:
    @pytest.fixture
    def run(self, store: Store, tmp_path: Path) -> Path:
        write_run(random_items(50, 100), store, "run", scratch=tmp_path / "s")
        path = store.local_path("run")
        assert path is not None
        return path

    @pytest.mark.parametrize("kept", [0, 1, 23, 24, 100, 123, 124, -1, -124])
    def test_a_truncated_run_is_found(self, store: Store, run: Path, kept: int) -> None:
        run.write_bytes(run.read_bytes()[:kept])
        with pytest.raises(StoreError, match=r"truncated run .*run"):
            list(merge(store, ["run"], None, None))

    def test_any_changed_bit_of_a_run_is_found(self, store: Store, run: Path) -> None:
        whole = run.read_bytes()
        for position in [*range(130), *range(130, len(whole), 37), len(whole) - 1]:
            run.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
            with pytest.raises(StoreError, match=r"(damaged|truncated) run"):
                list(merge(store, ["run"], None, None))

    def test_frames_out_of_order_are_found(self, store: Store, run: Path) -> None:
        whole = run.read_bytes()
        run.write_bytes(whole[124:248] + whole[:124] + whole[248:])
        with pytest.raises(StoreError, match="not in order"):
            list(merge(store, ["run"], None, None))

    def test_any_changed_or_missing_byte_of_a_sidecar_is_found(self, store: Store, run: Path) -> None:
        index = run.with_name("run.index")
        whole = index.read_bytes()
        spoilt = [whole[:p] + bytes([whole[p] ^ 128]) + whole[p + 1 :] for p in range(len(whole))]
        for data in [*spoilt, *(whole[:p] for p in range(len(whole))), whole + b"\0"]:
            index.write_bytes(data)
            with pytest.raises(StoreError, match="damaged sidecar"):
                list(merge(store, ["run"], None, None))

    def test_a_missing_run_or_sidecar_is_said_to_be_missing(self, store: Store, run: Path) -> None:
        run.unlink()
        with pytest.raises(ObjectMissing, match="run"):
            list(merge(store, ["run"], None, None))
        with pytest.raises(ObjectMissing, match=r"other\.index"):
            list(merge(store, ["other"], None, None))
