"""WebDataset tars, in and out, as streams.

What is written depends on the samples alone: no time, no owner, no compression. What is read may be hostile: only plain
regular files with plain names, within stated limits, and an archive that ends where it says.
"""

import io
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cadp.errors import RejectedInput

_KEY = re.compile(r"[0-9A-Za-z_-]{1,90}")  # readers split a name at its first dot, so a key has none
_EXTENSION = re.compile(r"[0-9a-z]{1,8}(\.[0-9a-z]{1,8})?")
_MEMBER = re.compile(r"(?P<key>(?:[^/]+/)*[^/.]+)\.(?P<extension>[^/]+)")


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
