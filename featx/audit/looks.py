"""What a picture looks like in a few hundred numbers: for copies that were saved again, and for blank pictures.

A look is the grey image on a grid of 16 x 16 cells, and the same of its middle 95 %. Pictures are compared by the
differences between neighbouring cells, which brightness does not change; the middle finds a copy whose edges were cut
off, and the mirrored grid one that was mirrored.
"""

import contextlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featx.heads.rows import FeatureRows
from featx.items.manifest import Item, Manifest
from featx.items.reading import examine
from featx.measuring import Timing
from featx.options import EmbedOptions
from featx.specs import ImageSpec

#: Side of the decoded picture in px, and of the grid in cells; shares of the picture that the grids cover.
_SIDE_PX, _CELLS, _SHARES = 48, 16, (1.0, 0.95)

#: Differences of grey levels below which a picture has nothing to compare, as a mean over the grid.
_LEAST_CONTRAST = 0.25


@dataclass(frozen=True, slots=True)
class Looks:
    """The looks of some items, in their order.

    Attributes:
        grids: float16 `(n_items, 2, 16, 16)`, grey levels of 0 to 255; zeros for what cannot be read.
        colours: float32 `(n_items, 3)`, mean red, green and blue; NaN for what cannot be read.
        contrasts: float32 `(n_items,)`, standard deviation of the grey levels; NaN for what cannot be read.
        missing: Reasons by id of what cannot be read.
    """

    grids: NDArray[np.float16]
    colours: NDArray[np.float32]
    contrasts: NDArray[np.float32]
    missing: dict[str, str]

    @property
    def rows(self) -> FeatureRows:
        """Rows to compare, three blocks of `n_items`: whole pictures, their middles, and whole ones mirrored."""
        whole, middle = self.grids[:, 0], self.grids[:, 1]
        return FeatureRows(np.concatenate([_differ(grid) for grid in (whole, middle, whole[:, :, ::-1])]))


def read_looks(manifest: Manifest, items: tuple[Item, ...], options: EmbedOptions) -> Looks:
    """Read the looks of items; equal files are decoded as often as they occur.

    Args:
        manifest: Where the items are.
        items: The items.
        options: Threads and reporter.
    """
    n_items = len(items)
    grids = np.zeros((n_items, len(_SHARES), _CELLS, _CELLS), np.float16)
    colours, contrasts = np.full((n_items, 3), np.nan, np.float32), np.full(n_items, np.nan, np.float32)
    missing: dict[str, str] = {}
    spec, timing = ImageSpec(_SIDE_PX, _SIDE_PX), Timing()
    chosen = Manifest(items, manifest.reader, manifest.source)
    weights = [_weigh_cells(share) for share in _SHARES]
    options.reporter.begin("looking at pictures")
    examined = examine(chosen, spec, known=None, stamps={}, workers=options.count_workers(), timing=timing)
    with contextlib.closing(examined):
        for row, one in enumerate(examined):
            if one.image is None:
                missing[one.item.id] = one.reason
                continue
            pixels = one.image.pixels.astype(np.float32)
            grey = pixels.mean(axis=2)
            grids[row] = [cells @ grey @ cells.T for cells in weights]
            colours[row], contrasts[row] = pixels.mean(axis=(0, 1)), grey.std()
            options.reporter.advance(row + 1, n_items)
    return Looks(grids, colours, contrasts, missing)


def _weigh_cells(share: float) -> NDArray[np.float32]:
    """Return the matrix `(cells, px)` that averages the pixels of each cell of a grid over the middle of a side."""
    edges = (0.5 + share * (np.arange(_CELLS + 1) / _CELLS - 0.5)) * _SIDE_PX
    pixels = np.arange(_SIDE_PX)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    overlap = overlap.clip(min=0)
    return np.asarray(overlap / overlap.sum(axis=1, keepdims=True), np.float32)


def _differ(grids: NDArray[np.float16]) -> NDArray[np.float16]:
    """Return the differences between neighbouring cells `(n, 480)`; zeros for a picture without contrast."""
    grids = grids.astype(np.float32)
    differences = np.concatenate(
        [np.diff(grids, axis=1).reshape(len(grids), -1), np.diff(grids, axis=2).reshape(len(grids), -1)], axis=1
    )
    differences[np.abs(differences).mean(axis=1) < _LEAST_CONTRAST] = 0
    return differences.astype(np.float16)
