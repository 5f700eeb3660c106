"""Contact sheets: images in rows and columns on one page, drawn without a display."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_GAP_PX = 6
_TITLE_PX = 15
_LABEL_PX = 12

#: A cell on the sheet: small enough that seven stand beside each other on a screen.
_CELL_PX = 224

_PAPER, _INK, _FAINT = "white", "black", "#555555"


def lay_out_sheet(rows: Sequence[Sequence[NDArray[np.uint8]]], labels: Sequence[str], title: str) -> Image.Image:
    """Lay out rows of images under a title, the first column apart: it is what the others are compared with.

    Args:
        rows: uint8 RGB `(height, width, 3)` each, as many in each row as there are labels; sizes may differ.
        labels: One for each column.
        title: Stands above; broken behind commas where it is too wide.
    """
    small = [[_shrink(Image.fromarray(pixels)) for pixels in row] for row in rows]
    width = max(image.width for row in small for image in row)
    heights = [max(image.height for image in row) for row in small]
    title_font, label_font = ImageFont.load_default(_TITLE_PX), ImageFont.load_default(_LABEL_PX)
    columns = len(labels)
    lefts = [_GAP_PX + column * (width + _GAP_PX) + (2 * _GAP_PX if column else 0) for column in range(columns)]
    lines = _wrap(title, title_font, lefts[-1] + width - _GAP_PX)
    top = 2 * _GAP_PX + len(lines) * (_TITLE_PX + _GAP_PX) + _LABEL_PX + _GAP_PX
    size = (lefts[-1] + width + _GAP_PX, top + sum(heights) + _GAP_PX * len(heights))
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        draw.text((_GAP_PX, _GAP_PX + number * (_TITLE_PX + _GAP_PX)), line, _INK, title_font)
    for label, left in zip(labels, lefts, strict=True):
        draw.text((left, top - _LABEL_PX - _GAP_PX), label, _FAINT, label_font)
    for row, height in zip(small, heights, strict=True):
        for image, left in zip(row, lefts, strict=True):
            sheet.paste(image, (left, top))
        top += height + _GAP_PX
    return sheet


def _wrap(title: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Break a title behind commas, where it is wider than the sheet."""
    lines = [""]
    for part in title.replace(",", ",\0").split("\0"):
        if lines[-1] and font.getlength(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return lines


def _shrink(image: Image.Image) -> Image.Image:
    scale = min(1.0, _CELL_PX / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image if size == image.size else image.resize(size, Image.Resampling.BILINEAR)
