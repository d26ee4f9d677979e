"""A record as it travels through the pipeline, and its bytes on disk."""

import json
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cadp.errors import RejectedInput

_HEAD = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Record:
    """One private record: an image with its label and the unit (person) behind it.

    Attributes:
        key: the source's own name for the record, unique in the source; private.
        unit: the unit's id; private.
        label: class index, `0 <= label < classes`.
        image: `(h, w, c)` uint8, or None for a record that was rejected: it enters a mechanism as the zero latent.
    """

    key: str
    unit: str
    label: int
    image: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True)
class Released:
    """One released record: a fresh random 128-bit id, a label and the bytes of its PNG.

    Attributes:
        id: 16 bytes from the CSPRNG; the public key in hex, and the sort key.
        label: released class index.
        png: a complete PNG file without ancillary chunks.
    """

    id: bytes
    label: int
    png: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """Records stacked for the model, in a fixed public shape.

    Attributes:
        images: `(n, h, w, c)` uint8; zeros where `valid` is false.
        labels: `(n,)` int64.
        valid: `(n,)` bool; false for rejected records.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    valid: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.labels)


def stack(records: list[Record], shape: tuple[int, int, int]) -> Batch:
    """Stack records into a `Batch`; a rejected record contributes an all-zero image with `valid` false."""
    images = np.zeros((len(records), *shape), dtype=np.uint8)
    valid = np.zeros(len(records), dtype=np.bool_)
    for i, record in enumerate(records):
        if record.image is not None:
            images[i] = record.image
            valid[i] = True
    labels = np.fromiter((record.label for record in records), dtype=np.int64, count=len(records))
    return Batch(images=images, labels=labels, valid=valid)


def pack_record(record: Record) -> bytes:
    """Encode a record for the exchange: a length, a JSON head and the raw pixels."""
    image = record.image
    head = json.dumps(
        {
            "key": record.key,
            "unit": record.unit,
            "label": record.label,
            "shape": None if image is None else image.shape,
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
        pixels = data[_HEAD.size + size :]
        shape = head["shape"]
        image = None if shape is None else np.frombuffer(pixels, dtype=np.uint8).reshape(shape)
        return Record(key=head["key"], unit=head["unit"], label=head["label"], image=image)
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise RejectedInput(f"not a packed record of {len(data)} bytes: {error}") from error


def pack_released(record: Released) -> bytes:
    """Encode a released record's label and image for the exchange; its id is the sort key and travels beside it."""
    return _HEAD.pack(record.label) + record.png


def unpack_released(key: bytes, data: bytes) -> Released:
    """Decode what `pack_released` wrote under sort key `key` (16 bytes)."""
    return Released(id=key, label=_HEAD.unpack_from(data)[0], png=data[_HEAD.size :])
