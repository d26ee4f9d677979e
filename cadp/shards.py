"""WebDataset tars, in and out, as streams; raw shards of records; PNGs with nothing but pixels.

What is written depends on the samples alone: no time, no owner, no compression. What is read may be hostile: only plain
regular files with plain names, within stated limits, and an archive that ends where it says.
"""

import io
import json
import math
import re
import struct
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image

from cadp.errors import RejectedInput
from cadp.records import ENTRIES, Record, Values

MOST_PIXELS = 1 << 26
"""The largest image decoded, in pixels."""

_KEY = re.compile(r"[0-9A-Za-z_-]{1,90}")  # readers split a name at its first dot, so a key has none
_EXTENSION = re.compile(r"[0-9a-z]{1,8}(\.[0-9a-z]{1,8})?")
_MEMBER = re.compile(r"(?P<key>(?:[^/]+/)*[^/.]+)\.(?P<extension>[^/]+)")
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True, slots=True)
class TarLimits:
    """The most that a tar may ask for: members, bytes of one, bytes of one sample, of all, and of a header."""

    members: int = 4_000_000
    member_bytes: int = 256 << 20
    sample_bytes: int = 512 << 20
    total_bytes: int = 64 << 30
    header_bytes: int = 64 << 10


def write_tar(path: Path, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> int:
    """Write samples, each `(key, {extension: bytes})`, as an uncompressed WebDataset tar; return how many.

    Members of one sample are adjacent, in the order given; same samples, same bytes. The file is not finished until
    this returns: write to scratch, then put it in a store.

    Raises:
        RejectedInput: a key or an extension would not be read back as it is.
    """
    count = 0
    with path.open("wb") as sink, tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples:
            for extension, data in members.items():
                if not _KEY.fullmatch(key) or not _EXTENSION.fullmatch(extension):
                    raise RejectedInput(f"{key!r} with {extension!r} makes no WebDataset name; use [0-9A-Za-z_-]")
                member = tarfile.TarInfo(f"{key}.{extension}")  # mtime, uid and gid 0, no owner, mode 0644
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            count += 1
    return count


def read_tar(stream: BinaryIO, limits: TarLimits | None = None) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield `(key, {extension: bytes})` from an uncompressed tar, one sample in memory at a time.

    Raises:
        RejectedInput: anything that is not a plain regular file under a plain relative name; a second member of the
            same name in a sample; more than `limits` allow; a damaged or truncated archive.
    """
    limits = limits or TarLimits()
    sample: dict[str, bytes] = {}
    current = ""
    for key, extension, data in _members(stream, limits):
        if sample and key != current:
            yield current, sample
            sample = {}
        current = key
        if extension in sample:
            raise RejectedInput(f"tar has two members {key}.{extension}")
        sample[extension] = data
        if sum(map(len, sample.values())) > limits.sample_bytes:
            raise RejectedInput(f"tar sample {key!r} has more than {limits.sample_bytes} bytes")
    if sample:
        yield current, sample


def write_raw_shard(path: Path, records: Iterable[Record]) -> int:
    """Write private records as a WebDataset tar and return how many.

    A record is `KEY.png`, `KEY.cls` and `KEY.json` (its source key and unit), KEY being its place in the shard in hex.
    A row of a table has no `.png`; its entries are a list in the `.json`. A rejected record has neither.
    """
    return write_tar(path, ((f"{place:08x}", _raw_members(record)) for place, record in enumerate(records)))


def read_raw_shard(stream: BinaryIO) -> Iterator[Record]:
    """Yield the records of a raw shard, in order.

    Raises:
        RejectedInput: the stream is no such shard.
    """
    for place, members in read_tar(stream):
        try:
            about = json.loads(members["json"])
            image = _decode(members["png"]) if "png" in members else _row(about.get("row"))
            yield Record(key=about["key"], unit=about["unit"], label=int(members["cls"]), image=image)
        except (KeyError, TypeError, ValueError) as error:
            raise RejectedInput(f"sample {place!r} is no raw record: {type(error).__name__} {error}") from error


def encode_values(image: Values) -> bytes:
    """Return what is released of a record: a PNG of pixels, or the entries of a row, 16 bits each, little-endian.

    Raises:
        RejectedInput: another shape or type.
    """
    if image.dtype != ENTRIES:
        return encode_png(image)
    if image.ndim != 3 or image.shape[:2] != (1, 1):
        raise RejectedInput(f"cannot encode a row of shape {image.shape}: (1, 1, d) needed")
    return image.astype("<u2").tobytes()


def decode_values(data: bytes, shape: tuple[int, int, int], kind: DTypeLike) -> Values:
    """Return what `encode_values` wrote, as `shape` and of type `kind`: uint8 pixels or the uint16 entries of a row.

    Raises:
        RejectedInput: it is damaged, or of another shape.
    """
    if np.dtype(kind) != ENTRIES:
        return decode_png(data, shape)
    if len(data) != 2 * math.prod(shape):
        raise RejectedInput(f"a row of {len(data)} bytes: {shape[2]} entries of 2 are needed")
    return np.frombuffer(data, dtype="<u2").astype(np.uint16).reshape(shape)


def encode_png(image: Values, level: int = 1) -> bytes:
    """Return `(h, w, 1)` or `(h, w, 3)` uint8 pixels as a PNG of the chunks IHDR, IDAT and IEND alone.

    Args:
        image: the pixels.
        level: zlib's, 0 (fast) to 9 (small). At 28×28 level 1 is within a tenth of the smallest.

    Raises:
        RejectedInput: another shape or type.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in _MODES or 0 in image.shape:
        raise RejectedInput(f"cannot encode {image.dtype} pixels of shape {image.shape}: uint8 (h, w, 1 or 3) needed")
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    sink = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(sink, "PNG", compress_level=level)
    return sink.getvalue()


def decode_png(data: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return the pixels of a PNG as `shape`, `(h, w, 1 or 3)` uint8; metadata in it is ignored.

    Raises:
        RejectedInput: it is no PNG, is damaged, or has another shape or depth.
    """
    return _decode(data, shape)


def _decode(data: bytes, shape: tuple[int, int, int] | None = None) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            width, height = picture.size
            if width * height > MOST_PIXELS:
                raise RejectedInput(f"PNG of {width}×{height} pixels: at most {MOST_PIXELS} are decoded")
            channels = {mode: count for count, mode in _MODES.items()}.get(picture.mode)
            if channels is None or getattr(picture, "is_animated", False):
                raise RejectedInput(f"PNG of mode {picture.mode}: one still image, 8-bit grey or RGB, is needed")
            found = (height, width, channels)
            if shape is not None and found != shape:
                raise RejectedInput(f"PNG of shape {found}: {shape} is needed")
            pixels = np.asarray(picture, dtype=np.uint8).reshape(found)
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        zlib.error,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        raise RejectedInput(f"not a readable PNG ({len(data)} bytes): {error}") from error
    return pixels


def _row(entries: object) -> Values | None:
    """Return the entries of a row; None where there are none.

    Raises:
        ValueError: it is no list of 16-bit integers.
    """
    if entries is None:
        return None
    if not isinstance(entries, list) or not entries or not all(type(entry) is int for entry in entries):
        raise ValueError("a row is a list of integers")
    if min(entries) < 0 or max(entries) > np.iinfo(ENTRIES).max:
        raise ValueError("the entries of a row have 16 bits")
    return np.array(entries, dtype=ENTRIES).reshape(1, 1, -1)


def _raw_members(record: Record) -> dict[str, bytes]:
    about: dict[str, object] = {"key": record.key, "unit": record.unit}
    pixels = {}
    if record.image is not None and record.image.dtype == ENTRIES:
        about["row"] = record.image.ravel().tolist()
    elif record.image is not None:
        pixels["png"] = encode_png(record.image)
    return {**pixels, "cls": str(record.label).encode(), "json": json.dumps(about).encode()}


def _members(stream: BinaryIO, limits: TarLimits) -> Iterator[tuple[str, str, bytes]]:
    """Yield (key, extension, data) of each member, checked before its data is read."""
    meter = _Meter(stream, limits)
    count = 0
    try:
        with tarfile.open(fileobj=meter, mode="r|", tarinfo=_StrictMember, errors="strict") as tar:
            while True:
                meter.allow(limits.header_bytes, "header")
                member = tar.next()
                if member is None:
                    return
                tar.members = []  # type: ignore[attr-defined]  # else it keeps every header
                count += 1
                if count > limits.members:
                    raise RejectedInput(f"tar has more than {limits.members} members")
                key, extension = _plain_name(member)
                if not 0 <= member.size <= limits.member_bytes:
                    raise RejectedInput(
                        f"tar member {member.name!r} has {member.size} bytes, not 0 to {limits.member_bytes}"
                    )
                meter.allow(member.size, f"member {member.name!r}")
                content = tar.extractfile(member)
                data = content.read() if content else b""
                if len(data) != member.size:
                    raise RejectedInput(f"truncated tar: {member.name!r} has {len(data)} of {member.size} bytes")
                yield key, extension, data
    except (tarfile.TarError, UnicodeError, ValueError, EOFError, RecursionError) as error:
        raise RejectedInput(f"not a readable tar: {error}") from error


def _plain_name(member: tarfile.TarInfo) -> tuple[str, str]:
    """Split a member's name at its first dot; refuse what is no plain file under a plain relative name."""
    name = member.name
    if member.type not in {tarfile.REGTYPE, tarfile.AREGTYPE} or member.issparse():
        raise RejectedInput(f"tar member {name!r} is not a regular file")
    if name.startswith("/") or "\\" in name or not name.isprintable() or ".." in name.split("/"):
        raise RejectedInput(f"tar member {name!r} has a name that leads elsewhere")
    match = _MEMBER.fullmatch(name)
    if match is None or len(name) > 255:
        raise RejectedInput(f"tar member {name!r} is no WebDataset name: KEY.EXTENSION is needed")
    return match["key"], match["extension"]


class _StrictMember(tarfile.TarInfo):
    """Refuses what tarfile takes for the end of an archive: garbage, or nothing, where a header should be."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "_StrictMember":
        """Read one header."""
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise RejectedInput(f"damaged or truncated tar: {error} at byte {tarfile_.offset}") from error


class _Meter(io.RawIOBase):
    """Stops a reader that takes more than it was allowed: headers can claim any size and are read into memory."""

    _SLACK = 4 * tarfile.RECORDSIZE  # tarfile reads ahead by a record

    def __init__(self, stream: BinaryIO, limits: TarLimits) -> None:
        super().__init__()
        self._stream, self._limits = stream, limits
        self._taken = 0
        self.allow(limits.header_bytes, "header")

    def allow(self, length: int, what: str) -> None:
        """Grant `length` more bytes than have been read so far, for `what`."""
        self._granted, self._what = self._taken + length + self._SLACK, what

    def readable(self) -> bool:
        """It is for reading."""
        return True

    def read(self, length: int = -1) -> bytes:
        """Read, within what is granted."""
        data = self._stream.read(length)
        self._taken += len(data)
        if self._taken > self._granted:
            raise RejectedInput(f"tar {self._what} is larger than it may be")
        if self._taken > self._limits.total_bytes:
            raise RejectedInput(f"tar has more than {self._limits.total_bytes} bytes")
        return data
