"""What a released PNG may hold: pixels, and nothing that rides along with them."""

import struct

from cadp.errors import RejectedInput

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")
_HEADER = struct.Struct(">IIBBBBB")
_CRC_SIZE = 4
_COLOUR_TYPE = {1: 0, 3: 2}  # channels → greyscale, truecolour


def chunks(png: bytes) -> list[tuple[bytes, int, int]]:
    """The chunks of a PNG as (type, start of its data, length).

    Raises:
        RejectedInput: no PNG, a chunk that runs past the end, or bytes after the last chunk.
    """
    if not png.startswith(SIGNATURE):
        raise RejectedInput(f"not a PNG: starts with {png[:8]!r}")
    found, at = [], len(SIGNATURE)
    while at < len(png):
        if at + _CHUNK.size > len(png):
            raise RejectedInput(f"PNG ends inside a chunk header at byte {at} of {len(png)}")
        length, kind = _CHUNK.unpack_from(png, at)
        found.append((kind, at + _CHUNK.size, length))
        at += _CHUNK.size + length + _CRC_SIZE
        if at > len(png):
            raise RejectedInput(f"PNG chunk {kind!r} of {length} bytes runs past the end of {len(png)} bytes")
        if kind == b"IEND" and at != len(png):
            raise RejectedInput(f"{len(png) - at} bytes follow the PNG's end")
    return found


def check_plain(png: bytes, shape: tuple[int, int, int]) -> None:
    """Refuse a PNG that holds anything but `shape` pixels of 8 bits: one header, image data, end.

    A text chunk, a time stamp, EXIF or a colour profile could carry what the mechanism never saw.

    Raises:
        RejectedInput: the reason.
    """
    found = chunks(png)
    kinds = [kind for kind, _, _ in found]
    if len(kinds) < 3 or kinds != [b"IHDR"] + [b"IDAT"] * (len(kinds) - 2) + [b"IEND"]:
        extra = sorted({kind.decode("latin-1") for kind in kinds} - {"IHDR", "IDAT", "IEND"})
        raise RejectedInput(f"a released PNG has IHDR, IDAT and IEND chunks only; found {extra or kinds}")
    _, start, length = found[0]
    height, width, channels = shape
    expected = (width, height, 8, _COLOUR_TYPE[channels], 0, 0, 0)
    header = _HEADER.unpack_from(png, start) if length == _HEADER.size else ()
    if header != expected:
        raise RejectedInput(f"PNG header {header} where shape {shape} needs {expected}")
    if found[-1][2]:
        raise RejectedInput("the PNG's end chunk carries data")
