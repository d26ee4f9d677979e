"""What a record holds, as bytes: a PNG with nothing but pixels, or the entries of a row."""

import io
import math
import struct
import zlib

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image

from cadp.errors import RejectedInput
from cadp.records import ENTRIES, Values

MOST_PIXELS = 1 << 26
"""The largest image decoded, in pixels."""

_MODES = {1: "L", 3: "RGB"}


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


def decode_png(data: bytes, shape: tuple[int, int, int] | None = None) -> NDArray[np.uint8]:
    """Return the pixels of a PNG as `(h, w, 1 or 3)` uint8, of this `shape` if one is asked for; metadata is ignored.

    Raises:
        RejectedInput: it is no PNG, is damaged, or has another shape or depth.
    """
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
