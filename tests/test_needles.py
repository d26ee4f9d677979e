"""What looks for leaks must find them, wherever they hide; else a test that finds none says nothing."""

import base64
import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.needles import Needles

PRIVATE = b"the bytes of a record that nobody may check a guess of"


def png(data: bytes) -> bytes:
    info = PngInfo()
    info.add_text("comment", data.hex(), zip=True)
    out = io.BytesIO()
    Image.new("L", (4, 4)).save(out, "png", pnginfo=info)
    return out.getvalue()


def pixels(data: bytes) -> bytes:
    out = io.BytesIO()
    Image.frombytes("L", (len(data), 1), data).save(out, "png")
    return out.getvalue()


def tar(data: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a")
        info.pax_headers = {"comment": data.hex()}
        archive.addfile(info)
    return out.getvalue()


def parquet(data: bytes) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"image": [{"bytes": png(data)}]}), out)
    return out.getvalue()


HIDDEN: dict[str, Callable[[bytes], bytes]] = {
    "raw": lambda data: b"..." + data + b"...",
    "hex": lambda data: f"<td>{data.hex()}</td>".encode(),
    "upper hex": lambda data: data.hex().upper().encode(),
    "short hex": lambda data: data.hex()[:16].encode(),
    "base64": lambda data: b'"' + base64.b64encode(data) + b'"',
    "url base64": lambda data: b"x" + base64.urlsafe_b64encode(b"more" + data),
    "gzip": lambda data: gzip.compress(data.hex().encode()),
    "png text": png,
    "png pixels": pixels,
    "tar header": tar,
    "png in parquet": parquet,
    "base64 of png": lambda data: b"data:image/png;base64," + base64.b64encode(png(data)),
}


@pytest.mark.parametrize("how", HIDDEN)
def test_a_digest_is_found(how: str) -> None:
    needles = Needles()
    needles.add_digests("the record", PRIVATE)
    found = needles.found_in([("file", HIDDEN[how](hashlib.sha256(PRIVATE).digest()))])
    assert found, how
    assert all(entry.startswith("sha256 of the record: file") for entry in found)
    assert needles.found_in([("file", HIDDEN[how](hashlib.sha256(b"something else").digest()))]) == []


def test_a_text_is_found() -> None:
    needles = Needles()
    needles.add_text("a name", "ward7-Lovelace")
    assert needles.found_in([("log", b"read ward7-Lovelace.png")]) == ["a name: log"]
    assert needles.found_in([("log", b"read a picture")]) == []
