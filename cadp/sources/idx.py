"""MNIST's idx format: a folder with `<split>-images-idx3-ubyte[.gz]` and `<split>-labels-idx1-ubyte[.gz]`.

A header of big-endian 32-bit integers (magic, count, and for images height and width), then one byte a pixel or label.
The count and the sizes come from the file, so they are checked against public facts before anything is allocated.
"""

import gzip
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from cadp.errors import SourceError
from cadp.records import Record
from cadp.sources.source import SPLITS, PublicFacts, Rejects, SourceFile, inventory, stand_in_label

_IMAGES, _LABELS = 0x803, 0x801
_IMAGES_NAME, _LABELS_NAME = "images-idx3-ubyte", "labels-idx1-ubyte"
_PREFIX = {"test": "t10k"}
_BLOCK = 1000
# Real pictures deflate two- to ten-fold. A file that claims more than this, beyond a size that does no harm, is a bomb.
_RATIO, _HARMLESS = 200, 64 << 20


class IdxSource:
    """Grey images in idx files. Keys are `<split>-000123`; each record is its own unit.

    Args:
        folder: holds the files.
        facts: what is public; the files must have its shape, and a label beyond its classes is a reject.
        etags: known etags by file name, for datasets whose content is pinned.
        verify: checks the pinned content; called once, before the first record is read.
    """

    def __init__(
        self,
        folder: Path,
        facts: PublicFacts,
        *,
        etags: Mapping[str, str] | None = None,
        verify: Callable[[], None] | None = None,
    ) -> None:
        if facts.shape[2] != 1:
            raise SourceError(f"idx files hold grey images; the spec says shape {list(facts.shape)}")
        self._folder = folder
        self._facts = facts
        self._etags = dict(etags or {})
        self._verify = verify

    @property
    def facts(self) -> PublicFacts:
        """What is public about it."""
        return self._facts

    def files(self) -> dict[str, list[SourceFile]]:
        """A split's two files."""
        found = {
            split: [inventory(self._folder, self._find(split, suffix)) for suffix in (_IMAGES_NAME, _LABELS_NAME)]
            for split in SPLITS
        }
        return {
            split: [SourceFile(f.path, f.size, self._etags.get(f.path, f.etag)) for f in files]
            for split, files in found.items()
        }

    def records(self, split: str, rejects: Rejects) -> Iterator[Record]:
        """Stream a split in file order, a thousand images at a time.

        Raises:
            SourceError: a file is missing, not idx, of another shape, truncated, too long, or the counts disagree.
        """
        if self._verify is not None:
            self._verify()
            self._verify = None
        height, width, channels = self._facts.shape
        classes = len(self._facts.classes)
        with ExitStack() as stack:
            images = stack.enter_context(_IdxFile(self._find(split, _IMAGES_NAME)))
            labels = stack.enter_context(_IdxFile(self._find(split, _LABELS_NAME)))
            count, *size = images.header(_IMAGES, 3)
            (named,) = labels.header(_LABELS, 1)
            if size != [height, width]:
                raise SourceError(f"{images.name}: images of {size[0]}×{size[1]}; the spec says {height}×{width}")
            if count != named:
                raise SourceError(f"{images.name} holds {count} images but {labels.name} {named} labels")
            images.expect(count * height * width)
            labels.expect(count)
            for start in range(0, count, _BLOCK):
                n = min(_BLOCK, count - start)
                pixels = np.frombuffer(images.read(n * height * width), dtype=np.uint8).reshape(
                    n, height, width, channels
                )
                for i, label in enumerate(labels.read(n)):
                    key = f"{split}-{start + i:06d}"
                    if label < classes:
                        yield Record(key=key, unit=key, label=label, image=pixels[i])
                    else:
                        rejects(key, f"label {label} of {classes} classes")
                        stand_in = stand_in_label(start + i, classes)
                        yield Record(key=key, unit=key, label=stand_in, image=None)
            images.end()
            labels.end()

    def _find(self, split: str, suffix: str) -> Path:
        for prefix in dict.fromkeys((_PREFIX.get(split, split), split)):
            for ending in ("", ".gz"):
                path = self._folder / f"{prefix}-{suffix}{ending}"
                if path.is_file():
                    return path
        raise SourceError(f"{self._folder} has no {_PREFIX.get(split, split)}-{suffix}[.gz], the {split} split")


class _IdxFile:
    """One idx file, plain or gzip, read forwards in bounded memory."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._size = path.stat().st_size
        self._packed = path.suffix == ".gz"
        try:
            self._stream = cast(BinaryIO, gzip.GzipFile(path)) if self._packed else path.open("rb")
        except OSError as error:
            raise SourceError(f"{self.name}: {error.strerror}") from error

    def __enter__(self) -> "_IdxFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stream.close()

    def header(self, magic: int, dimensions: int) -> list[int]:
        found, *sizes = struct.unpack(f">{1 + dimensions}I", self.read(4 * (1 + dimensions)))
        if found != magic:
            raise SourceError(f"{self.name} is not an idx file of this kind: magic {found:#010x}, not {magic:#010x}")
        return sizes

    def expect(self, content: int) -> None:
        """Refuse a size that cannot be right before any of the content is read."""
        if self._packed and content > max(_HARMLESS, _RATIO * self._size):
            raise SourceError(f"{self.name}: {self._size} bytes claim to hold {content}, over {_RATIO} times as many")
        if not self._packed and content > self._size:
            raise SourceError(f"{self.name} is truncated: {self._size} bytes, its header says {content} of content")

    def read(self, length: int) -> bytes:
        try:
            data = self._stream.read(length)
        except (EOFError, OSError, zlib.error) as error:
            raise SourceError(f"{self.name} cannot be read: {error}") from error
        if len(data) < length:
            raise SourceError(f"{self.name} is truncated: {length - len(data)} bytes missing of the {length} expected")
        return data

    def end(self) -> None:
        """Check that nothing follows; for gzip, this also checks the trailer's CRC."""
        try:
            more = self._stream.read(1)
        except (EOFError, OSError, zlib.error) as error:
            raise SourceError(f"{self.name} cannot be read: {error}") from error
        if more:
            raise SourceError(f"{self.name} is longer than its header says")
