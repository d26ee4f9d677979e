"""An external sort: items under 16-byte keys, sorted in more than memory and read back by intervals of the key.

A writer sorts its items into one *run*; a reader merges the slices of many runs that fall into its interval. Because
keys are i.i.d. uniform (record ids, keyed hashes of units), sorting is a uniform permutation and equal intervals hold
nearly equal shares.

A run is a sequence of frames: key (16 bytes), payload length and CRC-32 (4 bytes each, big-endian), payload. Its
sidecar holds the size of the run, its number of records, and an index: every so often, a key and its frame's offset.
"""

import heapq
import struct
import tempfile
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cadp.errors import StoreError
from cadp.store import Store

KEY_BYTES = 16
Item = tuple[bytes, bytes]

_FRAME = struct.Struct(">16sII")
_HEAD = struct.Struct(">8sQQQ")  # magic, size of the run, records, index entries
_ENTRY = struct.Struct(">16sQ")
_MAGIC = b"cadprun1"
INDEX_SUFFIX = ".index"
_ITEM_OVERHEAD = 200  # two bytes objects, a tuple and its place in a list while sorted
_MOST_ENTRIES = 4096
_SMALLEST_READ = 64 << 10
_SPILLS_AT_ONCE = 64  # open files while spilled chunks are merged


@dataclass(frozen=True, slots=True)
class Run:
    """A sorted run in the store: its key, its sidecar's key, how many records and bytes, and its SHA-256 in hex."""

    key: str
    sidecar: str
    records: int
    size: int
    sha256: str


def interval(index: int, of: int) -> tuple[bytes, bytes | None]:
    """Return `(low, high)` of the `index`-th of `of` equal intervals of the key space; the last has no upper end.

    Raises:
        StoreError: not `0 <= index < of`.

    Example:
        >>> [low[0] for low, high in (interval(i, 4) for i in range(4))]
        [0, 64, 128, 192]
    """
    if not 0 <= index < of:
        raise StoreError(f"there is no interval {index} of {of}")
    low, high = ((i << 8 * KEY_BYTES) // of for i in (index, index + 1))
    return low.to_bytes(KEY_BYTES, "big"), None if index + 1 == of else high.to_bytes(KEY_BYTES, "big")


def write_run(items: Iterable[Item], store: Store, key: str, *, scratch: Path, memory: int = 64 << 20) -> Run:
    """Sort `(key, payload)` items and put them in `store` as the run `key` with the sidecar `key + INDEX_SUFFIX`.

    The bytes depend on the multiset of items alone, not on their order or on `memory`: equal keys go by payload.

    Args:
        items: 16-byte keys with their payloads, in any order; read once.
        store: where the run goes.
        key: the run's key in the store.
        scratch: a local folder; up to twice the run's size is written there, and removed.
        memory: most bytes of items held at a time, Python's overhead included.

    Raises:
        StoreError: a key is not 16 bytes long, or storage refused.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="sort-") as name:
        folder = Path(name)
        spills: list[Path] = []
        held: list[Item] = []
        weight = records = size = made = 0
        for item in items:
            cost = len(item[1]) + _ITEM_OVERHEAD
            if held and weight + cost > memory:
                held.sort()
                spills.append(_spill(held, folder / f"{made}"))
                made += 1
                held, weight = [], 0
                if len(spills) == _SPILLS_AT_ONCE:
                    spills = [_merge_spills(spills, folder / f"{made}", memory)]
                    made += 1
            _check_key(item[0])
            held.append(item)
            weight += cost
            records += 1
            size += _FRAME.size + len(item[1])
        held.sort()
        ordered = heapq.merge(*_read_spills(spills, memory), held) if spills else iter(held)
        run, sidecar = folder / "run", key + INDEX_SUFFIX
        index = _write_frames(ordered, run, spacing=max(_SMALLEST_READ, size // _MOST_ENTRIES))
        stored = store.put(key, run)
        head = _HEAD.pack(_MAGIC, size, records, len(index) // _ENTRY.size)
        store.put(sidecar, _sealed(head + index))
        return Run(key, sidecar, records, stored.size, stored.sha256)


def merge(
    store: Store, runs: Sequence[str | Run], low: bytes | None, high: bytes | None, *, buffer: int = 8 << 20
) -> Iterator[Item]:
    """Yield the items of all runs with `low <= key < high`, in order of (key, payload); duplicates are kept.

    Each run's slice is read once, by ranged reads that together hold about `buffer` bytes (but at least 64 KiB, and one
    payload, a run).

    Args:
        store: where the runs are.
        runs: their keys, or what `write_run` returned.
        low: the first key wanted; None for the beginning.
        high: the first key not wanted any more; None for the end.
        buffer: bytes to read ahead, over all runs.

    Raises:
        StoreError: a run or a sidecar is missing, truncated or damaged.
    """
    read = max(_SMALLEST_READ, buffer // max(1, len(runs)))
    keys = [run.key if isinstance(run, Run) else run for run in runs]
    for key in (low, high):
        if key is not None:
            _check_key(key)
    return heapq.merge(*(_slice(store, key, low or b"", high, read) for key in keys))


def _slice(store: Store, key: str, low: bytes, high: bytes | None, read: int) -> Iterator[Item]:
    """The items of one run within the interval, read from the last index entry before it."""
    begin, end = _bounds(store, key, low, high)
    last = b""
    for item in _read_frames(_Window(store, key, begin, end, read), key):
        if item[0] < last:
            raise StoreError(f"damaged run {store.url_of(key)}: its keys are not in order")
        last = item[0]
        if high is not None and last >= high:
            return
        if last >= low:
            yield item


def _bounds(store: Store, key: str, low: bytes, high: bytes | None) -> tuple[int, int]:
    """Offsets between which every item of the interval lies, from the sidecar; duplicates may straddle an entry."""
    sidecar = key + INDEX_SUFFIX
    data = store.get(sidecar)
    body = data[:-4]
    if len(data) < _HEAD.size + 4 or _sealed(body) != data or not body.startswith(_MAGIC):
        raise StoreError(f"damaged sidecar {store.url_of(sidecar)}: {len(data)} bytes that do not add up")
    _, size, _, entries = _HEAD.unpack_from(body)
    if len(body) != _HEAD.size + entries * _ENTRY.size:
        raise StoreError(f"damaged sidecar {store.url_of(sidecar)}: {entries} entries do not fit {len(data)} bytes")
    index = list(_ENTRY.iter_unpack(body[_HEAD.size :]))
    keys = [entry[0] for entry in index]
    first = bisect_left(keys, low) - 1
    beyond = len(keys) if high is None else bisect_left(keys, high)
    return (index[first][1] if first >= 0 else 0), (index[beyond][1] if beyond < len(index) else size)


class _Window:
    """Reads `[begin, end)` of an object forward, each byte once, `step` bytes at a time."""

    def __init__(self, store: Store, key: str, begin: int, end: int, step: int) -> None:
        self._store, self._key, self._at, self._end, self._step = store, key, begin, end, step
        self._data, self._used = b"", 0

    def read(self, length: int) -> bytes:
        """Return `length` bytes, fewer only at the end of the window."""
        if len(self._data) - self._used < length:
            rest = self._data[self._used :]
            wanted = min(max(self._step, length - len(rest)), self._end - self._at)
            fresh = self._store.read(self._key, self._at, wanted) if wanted > 0 else b""
            if len(fresh) < wanted:
                raise StoreError(f"truncated run {self._store.url_of(self._key)}: it ends before byte {self._end}")
            self._at += len(fresh)
            self._data, self._used = rest + fresh, 0
        piece = self._data[self._used : self._used + length]
        self._used += len(piece)
        return piece


def _read_frames(stream: BinaryIO | _Window, name: str) -> Iterator[Item]:
    """Yield items until the stream ends, which it may do only between frames."""
    while head := stream.read(_FRAME.size):
        if len(head) < _FRAME.size:
            raise StoreError(f"truncated run {name!r}: it ends within a frame's head")
        key, length, checksum = _FRAME.unpack(head)
        payload = stream.read(length)
        if len(payload) < length:
            raise StoreError(f"truncated run {name!r}: a payload has {len(payload)} of its {length} bytes")
        if zlib.crc32(payload, zlib.crc32(key)) != checksum:
            raise StoreError(f"damaged run {name!r}: a frame fails its checksum")
        yield key, payload


def _write_frames(items: Iterable[Item], path: Path, spacing: int) -> bytes:
    """Write frames; return the packed index, with an entry for the first frame that begins in each `spacing` bytes."""
    index = bytearray()
    offset = due = 0
    with path.open("wb") as sink:
        for key, payload in items:
            if offset >= due:
                index += _ENTRY.pack(key, offset)
                due = offset + spacing
            sink.write(_FRAME.pack(key, len(payload), zlib.crc32(payload, zlib.crc32(key))))
            sink.write(payload)
            offset += _FRAME.size + len(payload)
    return bytes(index)


def _spill(items: Iterable[Item], path: Path) -> Path:
    _write_frames(items, path, spacing=1 << 62)
    return path


def _merge_spills(spills: list[Path], path: Path, memory: int) -> Path:
    """Merge chunks into one, so that the files open at a time stay few however small the memory."""
    _spill(heapq.merge(*_read_spills(spills, memory)), path)
    for spill in spills:
        spill.unlink()
    return path


def _read_spills(spills: list[Path], memory: int) -> list[Iterator[Item]]:
    buffering = min(1 << 20, max(4096, memory // (4 * len(spills))))
    return [_read_spill(spill, buffering) for spill in spills]


def _read_spill(path: Path, buffering: int) -> Iterator[Item]:
    with path.open("rb", buffering=buffering) as stream:
        yield from _read_frames(stream, path.name)


def _sealed(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "big")


def _check_key(key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise StoreError(f"a sort key has {len(key)} bytes; it must have {KEY_BYTES}")
