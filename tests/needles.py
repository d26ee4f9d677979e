"""Looking for private values in everything that becomes public, in whatever form and however deep."""

import base64
import gzip
import hashlib
import io
import json
import re
import tarfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow.parquet as pq

_ALGORITHMS = ("md5", "sha1", "sha256", "sha512", "blake2b", "sha3_256")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{24,}={0,2}")
_HEX = re.compile(rb"[0-9A-Fa-f]{16,}")
_PNG = b"\x89PNG\r\n\x1a\n"
_DEEPEST = 4


@dataclass
class Needles:
    """Values that must not be found.

    Attributes:
        plain: name → bytes, looked for as they are.
        digests: the first 8 bytes of a digest → whose it is: looked for raw, as hex and in base64.
    """

    plain: dict[str, bytes] = field(default_factory=dict)
    digests: dict[bytes, str] = field(default_factory=dict)

    def add_secret(self, name: str, value: bytes) -> None:
        """Look for bytes that are random: as they are, as hex and in base64."""
        self.digests[value[:8]] = name

    def add_text(self, name: str, text: str) -> None:
        """Look for a text."""
        self.plain[name] = text.encode()

    def add_digests(self, name: str, data: bytes) -> None:
        """Look for every usual digest of private bytes, whole or its first 8 bytes."""
        for algorithm in _ALGORITHMS:
            self.digests[hashlib.new(algorithm, data).digest()[:8]] = f"{algorithm} of {name}"

    def found_in(self, haystack: Iterable[tuple[str, bytes]]) -> list[str]:
        """Return `what: where` for every needle in the named bytes, and in what is packed inside them."""
        found = []
        for where, data in haystack:
            for inner, unpacked in unpack(where, data):
                found += [f"{name}: {inner}" for name in self._in(unpacked)]
        return sorted(set(found))

    def _in(self, data: bytes) -> Iterator[str]:
        for name, value in self.plain.items():
            if value in data:
                yield name
        for start in _starts_in(data, self.digests):
            yield self.digests[start]
        for run in _HEX.findall(data):
            digits = run.lower()
            for at in range(len(digits) - 15):
                if name := self.digests.get(bytes.fromhex(digits[at : at + 16].decode())):
                    yield name


def _starts_in(data: bytes, starts: Collection[bytes]) -> Iterator[bytes]:
    """Which of many 8-byte strings are in the data; one by one, or in a long one the first two bytes at once."""
    windows: Iterable[int] = range(len(data) - 7)
    if len(data) > 1000 and starts:
        first = np.zeros(1 << 16, dtype=np.bool_)
        first[np.frombuffer(b"".join(start[:2] for start in starts), dtype=">u2")] = True
        octets = np.frombuffer(data, dtype=np.uint8).astype(np.uint16)
        windows = np.flatnonzero(first[octets[:-7] << 8 | octets[1:-6]]).tolist()
    for at in windows:
        if data[at : at + 8] in starts:
            yield data[at : at + 8]


def unpack(where: str, data: bytes, depth: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield the bytes, and whatever is compressed, archived, tabulated or encoded within them."""
    yield where, data
    if depth == _DEEPEST:
        return
    for name, inner in _inside(data):
        yield from unpack(f"{where}/{name}", inner, depth + 1)


def _inside(data: bytes) -> Iterator[tuple[str, bytes]]:
    if data[:2] == b"\x1f\x8b":
        yield "gunzipped", gzip.decompress(data)
    elif data[:4] == b"PAR1":
        table = pq.read_table(io.BytesIO(data))
        metadata = table.schema.metadata or {}
        yield "metadata", b"\n".join(key + b"=" + value for key, value in metadata.items())
        for column in table.column_names:
            for row, value in enumerate(table[column].to_pylist()):
                yield f"{column}[{row}]", _bytes(value)
    elif data[:8] == _PNG:
        yield from _chunks(data)
    elif data[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                yield f"{member.name} header", json.dumps(member.get_info(), default=repr).encode()
                file = archive.extractfile(member)
                yield member.name, file.read() if file else b""
    else:
        for number, run in enumerate(_BASE64.findall(data)):
            # The run may begin in the middle of a group of four: a neighbour that is a letter shifts it.
            for shift in range(4):
                piece = run.rstrip(b"=")[shift:].translate(bytes.maketrans(b"-_", b"+/"))
                yield f"base64 {number}+{shift}", base64.b64decode(piece[: len(piece) // 4 * 4])


def _chunks(png: bytes) -> Iterator[tuple[str, bytes]]:
    at, pixels = 8, b""
    while at + 8 <= len(png):
        size, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        body = png[at + 8 : at + 8 + size]
        if kind == b"IDAT":
            pixels += body
        elif kind == b"zTXt":
            yield "zTXt", zlib.decompress(body[body.index(b"\0") + 2 :])
        at += size + 12
    yield "pixels", zlib.decompress(pixels)


def _bytes(value: object) -> bytes:
    if isinstance(value, dict):
        return b"\n".join(_bytes(part) for part in value.values())
    return value if isinstance(value, bytes) else str(value).encode()
