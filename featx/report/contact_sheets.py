"""Contact sheets: many small pictures with their captions on one page, as a PNG file."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from numpy.typing import NDArray

from featx.errors import ImageError, SourceError
from featx.evaluation.figure import GREY, NAME_CELLS, open_figure
from featx.items.manifest import Reader
from featx.items.sources import find_reader, read_source
from featx.items.thumbnails import read_thumbnail
from featx.store.joining import AnyStore
from featx.wording import format_plural, shorten_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

Pixels = NDArray[np.uint8]

#: The longer side of a thumbnail in px, enough for 1.5 inches in print.
THUMBNAIL_PX = 224

_COLUMNS = 5
_TILE_INCHES, _LINE_INCHES, _GAP_INCHES = 1.5, 0.15, 0.15

#: A caption that is wider than a picture is not cut to fewer columns.
_LEAST_CELLS = 12


@dataclass(frozen=True, slots=True)
class Tile:
    """One picture of a contact sheet.

    Attributes:
        pixels: uint8 RGB `(height, width, 3)`; None if the picture cannot be read.
        lines: The lines of the caption below it.
        reason: Why it cannot be read.
    """

    pixels: Pixels | None
    lines: tuple[str, ...]
    reason: str = ""


def find_pictures(store: AnyStore, source: str | os.PathLike[str] | None = None) -> Reader:
    """Find what reads the pictures of a store: where they are now, or where they were when they were embedded.

    Raises:
        SourceError: If they are not there any more.
    """
    if source:
        return read_source(source).reader
    return find_reader(store.source, store.reading, str(store.ids[0]) if len(store) else "")


def refuse_source(source: str | os.PathLike[str], n_items: int, first: str) -> NoReturn:
    """Say that a source that the user named has none of the pictures.

    Args:
        source: The source.
        n_items: Number of pictures that were looked for.
        first: One of them.

    Raises:
        SourceError: Always.
    """
    msg = (
        f"{source} lacks {n_items:,} of {format_plural(n_items, 'picture')}, such as {first!r}; name the folder that "
        "these paths are relative to"
    )
    raise SourceError(msg)


def make_tile(reader: Reader, item_id: str, lines: Sequence[str], *, side_px: int = THUMBNAIL_PX) -> Tile:
    """Read the picture of an item, and reduce it to a thumbnail with its own proportions.

    Args:
        reader: Reads the files of the source.
        item_id: The item.
        lines: The caption.
        side_px: The longer side of the thumbnail.
    """
    try:
        return Tile(read_thumbnail(reader.read(item_id), side_px), tuple(lines))
    except ImageError as error:
        return Tile(None, tuple(lines), str(error))
    except OSError as error:
        return Tile(None, tuple(lines), error.strerror or str(error))


def draw_contact_sheet(tiles: Sequence[Tile], title: str, path: Path, *, columns: int = _COLUMNS) -> None:
    """Draw a contact sheet and write it as a PNG file.

    Args:
        tiles: The pictures, at least one.
        title: What they are.
        path: The file.
        columns: Pictures in a row.

    Raises:
        OSError: If the file cannot be written.
    """
    n_lines = max(len(tile.lines) for tile in tiles)
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    column = _TILE_INCHES + _GAP_INCHES
    # A row is as high as its highest picture.
    tall = [max(map(_measure_height, tiles[row * columns : (row + 1) * columns])) for row in range(rows)]
    ends = np.cumsum([inches + n_lines * _LINE_INCHES + _GAP_INCHES for inches in tall])
    width, height = columns * column, float(ends[-1])
    captions = [shorten_name(line, NAME_CELLS) for tile in tiles for line in tile.lines]
    with open_figure(captions, path, noun="item", vector=False) as (figure, shown):
        figure.set_size_inches(width, height)
        figure.text(0, 1 + 0.15 / height, title, fontsize=10, va="bottom", ha="left")
        unplaced = zip(shown, captions, (line for tile in tiles for line in tile.lines), strict=True)
        for number, tile in enumerate(tiles):
            row, left = number // columns, number % columns * column
            bottom = height - float(ends[row]) + n_lines * _LINE_INCHES + _GAP_INCHES
            box = (left / width, bottom / height, _TILE_INCHES / width, tall[row] / height)
            _draw_pixels(figure.add_axes(box), tile)
            for line in range(len(tile.lines)):
                place = (left / width, (bottom - 0.05 - line * _LINE_INCHES) / height)
                drawn, caption, whole = next(unplaced)
                text = figure.text(*place, drawn, fontsize=7, va="top", weight="bold" if line == 0 else "normal")
                _fit_caption(text, whole if drawn == caption else drawn)


def _measure_height(tile: Tile) -> float:
    """Return the height of a picture in inches, if its longer side is as long as a tile."""
    if tile.pixels is None:
        return _TILE_INCHES / 2
    height, width = tile.pixels.shape[:2]
    return float(_TILE_INCHES * height / max(height, width))


def _fit_caption(text: "Text", caption: str) -> None:
    """Cut a caption in its middle until it is as narrow as a picture: letters differ in width."""
    cells = NAME_CELLS
    while text.get_window_extent().width > _TILE_INCHES * text.figure.dpi and cells > _LEAST_CELLS:
        cells -= 1
        text.set_text(shorten_name(caption, cells))


def _draw_pixels(axes: "Axes", tile: Tile) -> None:
    axes.set_axis_off()
    if tile.pixels is None:
        axes.text(0.5, 0.5, "cannot be read", transform=axes.transAxes, ha="center", va="center", color=GREY)
        return
    axes.imshow(tile.pixels, interpolation="antialiased")
    axes.set_anchor("SW")
