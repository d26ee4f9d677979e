"""The histograms of released rows as one PNG, for those who watch a release."""

import io
from collections.abc import Sequence
from math import ceil

from PIL import Image, ImageDraw, ImageFont

from cadp.columns import Table
from cadp.publish.histograms import HEIGHT, WIDTH, histograms
from cadp.records import Released

_ACROSS = 4
_GAP, _TEXT = 16, 20
_COLOURS = ("#0b6e5f", "#a3541a", "#6b7fd7", "#b8578f", "#9a9a3c", "#7d8590")
_INK = "#1d2126"


def histogram_sheet(table: Table, classes: Sequence[str], records: Sequence[Released]) -> bytes:
    """A PNG with a histogram of every column, its classes on top of each other, under the names of the classes."""
    panels = histograms(table, classes, records)
    font = ImageFont.load_default(size=13)
    size = (_GAP + _ACROSS * (WIDTH + _GAP), 2 * _TEXT + ceil(len(panels) / _ACROSS) * (HEIGHT + _TEXT + _GAP))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    at = float(_GAP)
    for label, name in enumerate(classes):
        draw.text((at, _GAP / 2), name, fill=_COLOURS[label % len(_COLOURS)], font=font)
        at += font.getlength(name) + _GAP
    for place, panel in enumerate(panels):
        left = _GAP + place % _ACROSS * (WIDTH + _GAP)
        top = 2 * _TEXT + place // _ACROSS * (HEIGHT + _TEXT + _GAP)
        for bar in panel.bars:
            box = (left + bar.x, top + bar.y, left + bar.x + bar.width, top + bar.y + bar.height)
            draw.rectangle(box, fill=_COLOURS[bar.label % len(_COLOURS)])
        draw.line((left, top + HEIGHT, left + WIDTH, top + HEIGHT), fill=_INK)
        draw.text((left, top + HEIGHT + 2), panel.name, fill=_INK, font=font)
    out = io.BytesIO()
    sheet.save(out, format="PNG", optimize=True)
    return out.getvalue()
