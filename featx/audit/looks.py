"""What a picture looks like in a few hundred numbers: for copies that were saved again, and for poor pictures.

A look is the grey image on a grid of 16 x 16 cells, and the same of its middle 95 %. Pictures are compared by the
differences between neighbouring cells, which brightness does not change; the middle finds a copy whose edges were cut
off, and the mirrored grid one that was mirrored.

Exposure and sharpness are measured on the same decoded picture, before it is reduced to the grid.
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

#: Side of the decoded picture in px. Photographs with a blur of 1 % of a side are told apart at 144 px as well as at
#: 224; decoding takes 10 % longer than at 48 px.
_DECODED_PX = 144

#: Side of the reduced picture in px, and of the grid in cells; shares of the picture that the grids cover.
_SIDE_PX, _CELLS, _SHARES = 48, 16, (1.0, 0.95)

#: From this value on, a channel of a pixel is clipped; JPEG leaves few at exactly 255.
_CLIPPED_FROM = 250

#: Differences of grey levels below which a picture has nothing to compare, as a mean over the grid.
_LEAST_CONTRAST = 0.25


@dataclass(frozen=True, slots=True)
class Looks:
    """The looks of some items, in their order.

    Attributes:
        grids: float16 `(n_items, 2, 16, 16)`, grey levels of 0 to 255; zeros for what cannot be read.
        colours: float32 `(n_items, 3)`, mean red, green and blue; NaN for what cannot be read.
        contrasts: float32 `(n_items,)`, standard deviation of the grey levels, 0 to 128; NaN for what cannot be read.
        highlights: float32 `(n_items,)`, level of the strongest channel that 5 % of the pixels exceed; NaN
            for what cannot be read.
        clipped: float32 `(n_items,)`, share of the pixels with a channel at its upper end; NaN for what cannot be read.
        sharpness: float32 `(n_items,)`, see `measure_sharpness`; NaN for what cannot be read or has no detail.
        peaks: int32 `(n_items,)`, the largest sample of a file with 16 bits a sample; 0 for other files.
        missing: Reasons by id of what cannot be read.
        sha256: Digests of the files as they are now, hexadecimal; empty for what cannot be read.
    """

    grids: NDArray[np.float16]
    colours: NDArray[np.float32]
    contrasts: NDArray[np.float32]
    highlights: NDArray[np.float32]
    clipped: NDArray[np.float32]
    sharpness: NDArray[np.float32]
    peaks: NDArray[np.int32]
    missing: dict[str, str]
    sha256: tuple[str, ...]

    def compare_rows(self, rows: NDArray[np.intp]) -> FeatureRows:
        """Return what to compare of some items, in three blocks: whole pictures, their middles, whole ones mirrored."""
        whole, middle = self.grids[rows, 0], self.grids[rows, 1]
        return FeatureRows(np.concatenate([_differ(grid) for grid in (whole, middle, whole[:, :, ::-1])]))


def read_looks(manifest: Manifest, items: tuple[Item, ...], options: EmbedOptions, bits: int = 0) -> Looks:
    """Read the looks of items; equal files are decoded as often as they occur.

    Args:
        manifest: Where the items are.
        items: The items.
        options: Threads and reporter.
        bits: Number of used bits in files with 16 bits a sample, as the items were embedded; 0 if all are.
    """
    n_items = len(items)
    grids = np.zeros((n_items, len(_SHARES), _CELLS, _CELLS), np.float16)
    colours, figures = np.full((n_items, 3), np.nan, np.float32), np.full((4, n_items), np.nan, np.float32)
    missing: dict[str, str] = {}
    digests, peaks = [""] * n_items, np.zeros(n_items, np.int32)
    spec, timing = ImageSpec(_DECODED_PX, _DECODED_PX, bits=bits), Timing()
    chosen = Manifest(items, manifest.reader, manifest.source)
    weights = [_weigh_cells(share) for share in _SHARES]
    options.reporter.begin("looking at pictures")
    examined = examine(chosen, spec, known=None, stamps=(), workers=options.count_workers(), timing=timing)
    with contextlib.closing(examined):
        for row, one in enumerate(examined):
            digests[row] = one.stamp.sha256 if one.stamp else ""
            if one.image is None:
                missing[one.item.id] = one.reason
                continue
            peaks[row] = one.image.peak
            channels = np.ascontiguousarray(one.image.pixels.transpose(2, 0, 1))
            grey = channels.mean(axis=0, dtype=np.float32)
            reduced = grey.reshape(_SIDE_PX, _DECODED_PX // _SIDE_PX, _SIDE_PX, -1).mean(axis=(1, 3))
            grids[row] = [cells @ reduced @ cells.T for cells in weights]
            colours[row] = channels.mean(axis=(1, 2), dtype=np.float32)
            share = np.bincount(channels.max(axis=0).ravel(), minlength=256).cumsum() / grey.size
            at_end = 1 - share[_CLIPPED_FROM - 1]
            figures[:, row] = grey.std(), np.searchsorted(share, 0.95), at_end, measure_sharpness(grey)
            options.reporter.advance(row + 1, n_items)
    contrasts, highlights, clipped, sharpness = figures
    return Looks(grids, colours, contrasts, highlights, clipped, sharpness, peaks, missing, tuple(digests))


def measure_sharpness(grey: NDArray[np.float32]) -> float:
    """Measure how much of a picture's differences is between adjacent pixels alone: near 0 if smooth, 3 if noise.

    The energy of the second differences is divided by that of the first, along rows and along columns; the smaller
    ratio counts, so that motion blur in one direction shows. Both energies are measures of focus (Pertuz, Puig & Garcia
    2013, "Analysis of focus measure operators for shape-from-focus"); their ratio does not depend on contrast or
    exposure.

    Args:
        grey: float32 `(height, width)`.

    Returns:
        The ratio; NaN if there are hardly any differences.
    """
    ratios = []
    for axis in (0, 1):
        first = np.diff(grey, axis=axis)
        energy = float(np.vdot(first, first)) / first.size
        if energy > _LEAST_CONTRAST:
            second = np.diff(first, axis=axis)
            ratios.append(float(np.vdot(second, second)) / second.size / energy)
    return min(ratios, default=float("nan"))


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
