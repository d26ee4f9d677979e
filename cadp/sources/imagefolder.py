"""Class folders of pictures: `<root>/<split>/<class>/<file>`, PNG or JPEG, named after the classes of the spec."""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cadp.errors import RejectedInput, SourceError
from cadp.records import Record
from cadp.sources.source import SPLITS, PublicFacts, Rejects, Shape, SourceFile, inventory, printable

_ENDINGS = frozenset({".png", ".jpg", ".jpeg"})
_FILE_CAP = 64 << 20
# Modes that become the declared channels without loss of content; anything else would be a silent conversion.
_MODES = {1: ("L", "1"), 3: ("RGB", "L", "P")}


class ImageFolderSource:
    """Pictures in class folders. Keys are `<split>/<class>/<file>`; a record is its own unit, or its name says whose.

    Neighbours share the units' ids. Where labels are private they may differ in labels, so the class is left out of
    keys, and of the ids that are made from them; a file name may then stand in one class folder of a split only.

    Args:
        root: holds one folder a split.
        facts: what is public. Its classes name the class folders, in label order; every picture must have its shape:
            nothing is resized or recoloured here.
        unit_pattern: a regular expression for whole file names, whose one group is the unit's id; None if every record
            is a unit.
        labels_private: whether a record's key may not tell its class.
    """

    def __init__(
        self, root: Path, facts: PublicFacts, *, unit_pattern: str | None = None, labels_private: bool = False
    ) -> None:
        if facts.shape[2] not in _MODES:
            raise SourceError(f"images have 1 or 3 channels; the spec says shape {list(facts.shape)}")
        self._root = root
        self._facts = facts
        self._pattern = None if unit_pattern is None else re.compile(unit_pattern)
        self._labels_private = labels_private

    @property
    def facts(self) -> PublicFacts:
        """What is public about it."""
        return self._facts

    def files(self) -> dict[str, list[SourceFile]]:
        """Every picture file of each split, sorted by path."""
        return {
            split: sorted(
                (inventory(self._root, path) for folder in self._folders(split) for path in _pictures(folder)),
                key=lambda file: file.path,
            )
            for split in SPLITS
        }

    def records(self, split: str, rejects: Rejects) -> Iterator[Record]:
        """Stream a split, class by class, files by name.

        Raises:
            SourceError: the split or a class folder is missing, there is a folder that the spec does not name, or a
                file name does not tell its unit, or not without its class.
        """
        if self._labels_private:
            self._refuse_repeated_names(split)
        for label, folder in enumerate(self._folders(split)):
            for path in _pictures(folder):
                name = printable(path.name)
                key = f"{split}/{name}" if self._labels_private else f"{split}/{folder.name}/{name}"
                unit = key if self._pattern is None else self._unit(self._pattern, name, split)
                try:
                    image = _read(path, self._facts.shape)
                except RejectedInput as error:
                    rejects(key, str(error))
                    image = None
                yield Record(key=key, unit=unit, label=label, image=image)

    @staticmethod
    def _unit(pattern: re.Pattern[str], name: str, split: str) -> str:
        found = pattern.fullmatch(name)
        if found is None or not found[1]:  # names may be somebody's: none is shown
            raise SourceError(
                f"source.unit_pattern {pattern.pattern!r} finds no unit in the name of a picture of split {split}: "
                f"it must match every whole file name"
            )
        return found[1]

    def _refuse_repeated_names(self, split: str) -> None:
        names = [path.name for folder in self._folders(split) for path in _pictures(folder)]
        if len(set(names)) != len(names):
            raise SourceError(
                f"{len(names) - len(set(names)):,} pictures of split {split} have a name that stands in another class "
                f"folder too: with private labels a record's name may not need its class; rename them"
            )

    def _folders(self, split: str) -> list[Path]:
        """The split's class folders in label order."""
        folder, classes = self._root / split, self._facts.classes
        if not folder.is_dir():
            raise SourceError(f"{self._root} has no folder {split!r}: pictures lie at <root>/<split>/<class>/<file>")
        there = {p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")}
        if there != set(classes):
            unknown, missing = sorted(there - set(classes)), sorted(set(classes) - there)
            raise SourceError(
                f"class folders of {folder} are not the spec's classes: "
                f"unknown: {', '.join(map(printable, unknown)) or 'none'}; missing: {', '.join(missing) or 'none'}"
            )
        return [folder / name for name in classes]


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in _ENDINGS and not p.name.startswith("."))


def _read(path: Path, shape: Shape) -> NDArray[np.uint8]:
    if path.is_symlink() or not path.is_file():
        raise RejectedInput("not a regular file")
    if path.stat().st_size > _FILE_CAP:
        raise RejectedInput(f"{path.stat().st_size} bytes; the most is {_FILE_CAP}")
    try:
        return decode(path.read_bytes(), shape)
    except PermissionError as error:
        raise RejectedInput("no permission to read it") from error


def decode(data: bytes, shape: Shape) -> NDArray[np.uint8]:
    """A PNG or JPEG as `(h, w, c)` uint8.

    The size is checked from the header: a picture of any other size, however large, is refused before it is unpacked.

    Raises:
        RejectedInput: not such a picture, damaged, or of another size or mode.
    """
    height, width, channels = shape
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
            if picture.size != (width, height):
                raise RejectedInput(f"{picture.height}×{picture.width} pixels; the spec says {height}×{width}")
            if picture.mode not in _MODES[channels] or "transparency" in picture.info:
                kind = "transparent " if "transparency" in picture.info else ""
                raise RejectedInput(f"{kind}mode {picture.mode}; the spec says {channels} channels")
            plain = picture.convert("L" if channels == 1 else "RGB")
    except UnidentifiedImageError as error:
        raise RejectedInput("not a PNG or JPEG picture") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise RejectedInput(f"damaged picture: {' '.join(str(error).split())}") from error
    except Image.DecompressionBombError as error:
        raise RejectedInput("too many pixels") from error
    return np.asarray(plain, dtype=np.uint8).reshape(shape)
