"""A record as it travels through the pipeline, and its bytes on disk."""

import json
import math
import struct
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cadp.errors import RejectedInput

_HEAD = struct.Struct(">I")

Values: TypeAlias = NDArray[np.unsignedinteger[Any]]
"""What a record holds: 8-bit pixels of an image, or the 16-bit entries of a table's row, `(1, 1, d)`."""

PIXELS: np.dtype[Any] = np.dtype(np.uint8)
ENTRIES: np.dtype[Any] = np.dtype(np.uint16)
_AT_ONCE = 64 << 20  # bytes of float64 values
_TYPES = {kind.name: kind for kind in (PIXELS, ENTRIES)}


def top(values: DTypeLike) -> int:
    """The value that stands for 1: 255 of pixels, 65,535 of a row's entries.

    Raises:
        RejectedInput: of any other type. Not a formality: that values are never negative bounds a record's influence.
    """
    kind = np.dtype(values)
    if kind not in (PIXELS, ENTRIES):
        raise RejectedInput(f"records of {kind}: 8-bit pixels (uint8) or 16-bit entries of rows (uint16) are needed")
    return int(np.iinfo(kind).max)


def at_once(shape: tuple[int, int, int], most: int) -> int:
    """How many records are worked on together: at most `most`, and fewer where they are large.

    The values of so many fill 64 MiB in float64. It depends on public facts alone, and bounds memory at any resolution.

    >>> at_once((28, 28, 1), 2048), at_once((128, 128, 3), 2048)
    (2048, 170)
    """
    return max(1, min(most, _AT_ONCE // (8 * math.prod(shape))))


@dataclass(frozen=True, slots=True)
class Record:
    """One private record: an image, or a table's row, with its label and the unit (person) behind it.

    Attributes:
        key: the source's own name for the record, unique in the source; private.
        unit: the unit's id; private.
        label: class index, `0 <= label < classes`.
        image: `(h, w, c)` uint8, of a row `(1, 1, d)` uint16; None for a record that was rejected: it enters a
            mechanism as the zero latent.
    """

    key: str
    unit: str
    label: int
    image: Values | None


@dataclass(frozen=True, slots=True)
class Released:
    """One released record: a fresh random 128-bit id, a label and its content.

    Attributes:
        id: 16 bytes from the CSPRNG; the public key in hex, and the sort key.
        label: released class index.
        data: a complete PNG file without ancillary chunks; of a row its entries, 16 bits each, little-endian.
    """

    id: bytes
    label: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """Records stacked for the model, in a fixed public shape.

    Attributes:
        images: `(n, h, w, c)` uint8, of rows `(n, 1, 1, d)` uint16; zeros where `valid` is false.
        labels: `(n,)` int64.
        valid: `(n,)` bool; false for rejected records.
    """

    images: Values
    labels: NDArray[np.int64]
    valid: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.labels)


def stack(records: list[Record], shape: tuple[int, int, int], kind: DTypeLike = PIXELS) -> Batch:
    """Stack records into a `Batch`; a rejected record contributes an all-zero image with `valid` false."""
    images = np.zeros((len(records), *shape), dtype=kind)
    valid = np.zeros(len(records), dtype=np.bool_)
    for i, record in enumerate(records):
        if record.image is not None:
            images[i] = record.image
            valid[i] = True
    labels = np.fromiter((record.label for record in records), dtype=np.int64, count=len(records))
    return Batch(images=images, labels=labels, valid=valid)


def pack_record(record: Record) -> bytes:
    """Encode a record for the exchange: a length, a JSON head and the raw values."""
    image = record.image
    head = json.dumps(
        {
            "key": record.key,
            "unit": record.unit,
            "label": record.label,
            "shape": None if image is None else image.shape,
            "type": None if image is None else image.dtype.name,
        },
        separators=(",", ":"),
    ).encode()
    return _HEAD.pack(len(head)) + head + (b"" if image is None else image.tobytes())


def unpack_record(data: bytes) -> Record:
    """Decode what `pack_record` wrote.

    Raises:
        RejectedInput: the bytes are not such a record.
    """
    try:
        (size,) = _HEAD.unpack_from(data)
        head = json.loads(data[_HEAD.size : _HEAD.size + size])
        values = data[_HEAD.size + size :]
        shape = head["shape"]
        image = None if shape is None else np.frombuffer(values, dtype=_TYPES[head["type"]]).reshape(shape)
        return Record(key=head["key"], unit=head["unit"], label=head["label"], image=image)
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise RejectedInput(f"not a packed record of {len(data)} bytes: {error}") from error


def pack_released(record: Released) -> bytes:
    """Encode a released record's label and content for the exchange; its id is the sort key and travels beside it."""
    return _HEAD.pack(record.label) + record.data


def unpack_released(key: bytes, data: bytes) -> Released:
    """Decode what `pack_released` wrote under sort key `key` (16 bytes)."""
    return Released(id=key, label=_HEAD.unpack_from(data)[0], data=data[_HEAD.size :])
