"""Explained predictions as a contact sheet: each image, its heat map, and the training items most similar to it."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featx.bundle import Bundle
from featx.errors import ImageError
from featx.explaining.explaining import read_neighbour
from featx.files import say_failures
from featx.items.decoding import decode
from featx.items.manifest import Reader
from featx.items.thumbnails import read_thumbnail
from featx.prediction_results import Explanation, Neighbour
from featx.report.contact_sheets import THUMBNAIL_PX, Tile, draw_contact_sheet

#: The most training items in a row.
MOST_NEIGHBOURS = 10

Pixels = NDArray[np.uint8]

#: Colours of a heat map, from warm to hot, and how much of the picture they cover at most.
_WARM, _HOT, _COVER = (178, 24, 43), (255, 237, 111), 0.75


def overlay_heat(pixels: Pixels, heat: NDArray[np.float32]) -> Pixels:
    """Lay a heat map over a picture in grey: nothing where it is 0, yellow where it is 1.

    Args:
        pixels: uint8 RGB `(height, width, 3)`.
        heat: float32 `(rows, columns)`, 0 to 1, stretched over the picture.
    """
    height, width = pixels.shape[:2]
    smooth = Image.fromarray(heat.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    share = np.asarray(smooth).clip(0, 1)[..., None]
    grey = np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"), np.float32)
    colours = np.array(_WARM) * (1 - share) + np.array(_HOT) * share
    covered = np.minimum(1, 2 * share) * _COVER
    return np.asarray((grey * (1 - covered) + colours * covered).round(), np.uint8)


def draw_explanations(explained: Sequence[tuple[Explanation, Reader]], bundle: Bundle, path: Path) -> None:
    """Draw explained predictions, one in each row, as a PNG file.

    Args:
        explained: The explanations, and what reads the images.
        bundle: The bundle that predicted.
        path: The file.

    Raises:
        BundleError: If the file cannot be written.
    """
    count = min(MOST_NEIGHBOURS, max(len(one.neighbours) for one, _ in explained))
    with_heat = any(one.heat is not None for one, _ in explained)
    tiles: list[Tile] = []
    for one, reader in explained:
        tiles += _draw_image(one, reader, bundle, with_heat=with_heat)
        tiles += [_draw_neighbour(neighbour) for neighbour in one.neighbours[:count]]
    title = f"predictions of {bundle.path.name}, and the training images that are most similar to each"
    with say_failures(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_contact_sheet(tiles, title, path, columns=1 + with_heat + count)


def _draw_image(one: Explanation, reader: Reader, bundle: Bundle, *, with_heat: bool) -> list[Tile]:
    share = "" if math.isnan(one.unfamiliarity) else f"unfamiliarity {one.unfamiliarity:.1f} %"
    lines = [f"{one.label} {one.probability:.3f}", f"set: {', '.join(one.labels) or 'none of these'}"]
    lines += [share.replace("unfamiliarity", "UNFAMILIAR:") if one.unfamiliar else share, Path(one.path).name]
    spec = bundle.parts[0].embed_spec.image
    try:
        data = reader.read(one.path)
        # A stretched image keeps its proportions on the sheet; of others, only a part is what the network takes.
        pixels = read_thumbnail(data, THUMBNAIL_PX) if spec.resize == "stretch" else decode(data, spec).pixels
    except (ImageError, OSError) as error:
        return [Tile(None, tuple(lines), str(error))] * (1 + with_heat)
    heat = [] if one.heat is None else [Tile(overlay_heat(pixels, one.heat), ("heat map", one.heat_method))]
    return [Tile(pixels, tuple(lines)), *heat]


def _draw_neighbour(neighbour: Neighbour) -> Tile:
    lines = (f"{neighbour.label} {neighbour.similarity:.3f}", Path(neighbour.item).name)
    data = read_neighbour(neighbour)
    if data is None:
        return Tile(None, (*lines, "the file is gone"), "the file is gone, or another one now")
    try:
        return Tile(read_thumbnail(data, THUMBNAIL_PX), lines)
    except ImageError as error:
        return Tile(None, lines, str(error))
