"""A contact sheet: one row a class, a few released images in each, as one PNG for those who watch a release."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_GAP = 4
_BACKGROUND, _INK = 255, 40


def contact_sheet(
    images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    labels: Sequence[int] | NDArray[np.int64],
    classes: Sequence[str],
    columns: int = 10,
) -> bytes:
    """A PNG with the first `columns` images of each class, one row a class under its name.

    Args:
        images: `n` of them, each `(h, w, 1|3)` uint8 of one shape.
        labels: `n` class indices.
        classes: label names.
        columns: images a row.

    Small images are enlarged by whole pixels, so that they are seen as they are.
    """
    height, width, _ = images[0].shape if len(images) else (1, 1, 1)
    scale = max(1, 56 // max(height, width))
    cell_h, cell_w = height * scale + _GAP, width * scale + _GAP
    font = ImageFont.load_default(size=14)
    margin = _GAP + max(int(font.getlength(name)) for name in classes) + 2 * _GAP
    sheet = Image.new("RGB", (margin + columns * cell_w, _GAP + len(classes) * cell_h), (_BACKGROUND,) * 3)
    draw = ImageDraw.Draw(sheet)
    rows = pick([int(label) for label in labels], len(classes), columns)
    for index, (name, row) in enumerate(zip(classes, rows, strict=True)):
        top = _GAP + index * cell_h
        draw.text((_GAP, top + height * scale / 2), name, fill=(_INK,) * 3, font=font, anchor="lm")
        for column, image in enumerate(images[position] for position in row):
            pixels = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
            enlarged = pixels.resize((width * scale, height * scale), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (margin + column * cell_w, top))
    out = io.BytesIO()
    sheet.save(out, format="PNG", optimize=True)
    return out.getvalue()


def pick(labels: Sequence[int], classes: int, columns: int = 10) -> list[list[int]]:
    """For each class, the positions of its first `columns` members."""
    rows: list[list[int]] = [[] for _ in range(classes)]
    for position, label in enumerate(labels):
        if len(rows[label]) < columns:
            rows[label].append(position)
    return rows
