"""What the expectations look at: one row a released record, measured from its bytes."""

import hashlib
import struct
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cadp.errors import RejectedInput
from cadp.records import Released

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("key", "label", "width", "height", "mode", "mean", "deviation", "digest")
_PNG = b"\x89PNG\r\n\x1a\n"
_MODES = {(8, 0): "L", (8, 2): "RGB"}


class ReleasedFrame:
    """Collects the facts of released records, some 150 bytes each.

    Columns: `key` (32 hex digits), `label`, `width`, `height` and `mode` (from the PNG's own header), `mean` and
    `deviation` of the pixels, `digest` (SHA-256 of the PNG).
    """

    def __init__(self) -> None:
        self._rows: list[tuple[str, int, int, int, str, float, float, str]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, record: Released, image: NDArray[np.uint8]) -> None:
        """Add one record with its decoded pixels `(h, w, c)`.

        Raises:
            RejectedInput: its bytes do not begin like a PNG.
        """
        if len(record.data) < 33 or not record.data.startswith(_PNG):
            raise RejectedInput(f"released record {record.id.hex()} is not a PNG")
        width, height, depth, colour = struct.unpack_from(">IIBB", record.data, 16)
        mode = _MODES.get((depth, colour), f"depth {depth}, colour type {colour}")
        pixels = image.astype(np.float32)
        mean = float(pixels.mean())
        pixels -= mean
        deviation = float(np.sqrt(np.mean(pixels * pixels)))
        digest = hashlib.sha256(record.data).hexdigest()
        self._rows.append((record.id.hex(), record.label, width, height, mode, mean, deviation, digest))

    def frame(self) -> "pd.DataFrame":
        """The rows as a pandas DataFrame in the order of `COLUMNS`."""
        import pandas as pd  # noqa: PLC0415  (part of the `release` extra)

        return pd.DataFrame.from_records(self._rows, columns=list(COLUMNS))
