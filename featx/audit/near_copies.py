"""Pairs of items whose features are nearly the same, found exactly.

A pair counts if the cosine of its features is at least a threshold. All pairs of n items would need n^2 / 2 products of
whole rows. A screen leaves most of them out, and no pair that counts: each row x of length 1 is split into its
coordinates p on a few orthonormal directions and the length r of the rest. By the inequality of Cauchy and Schwarz

    x . y <= p . q + r_x r_y

so that the product of the short rows (p, r) is never less than the cosine. The directions are those that hold most of
the rows' lengths, which keeps r small. Pairs that pass are computed in full.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featx.errors import DataError, UsageError
from featx.heads.rows import FeatureRows
from featx.reporting import Progress

Floats = NDArray[np.float32]
Rows = NDArray[np.intp]

#: Rows of one block of products: 4 MB of them.
_BLOCK = 1024

#: Numbers of directions that are tried, rows on which they are tried, and rows from which they are computed.
_WIDTHS = (32, 64, 128, 256, 512)
_TRIED_ROWS, _SAMPLED_ROWS = 1024, 4096
_SEED = 20130

#: A float32 product of a row of length 1 with another is off by less.
_ROUNDING = 1e-5

#: A full product of a pair costs as much as this many multiplications of a screen, since its rows are gathered.
_GATHERING = 24

#: Pairs that are kept: 20 MB for each million.
MOST_PAIRS = 5_000_000

#: Bytes of gathered rows at a time.
_GATHERED_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of items that are nearly the same.

    Attributes:
        first, second: int `(n_pairs,)`, the rows of each pair; `first < second`, sorted by both.
        cosines: float64 `(n_pairs,)`.
        n_screened: Number of pairs that were computed in full.
    """

    first: Rows
    second: Rows
    cosines: NDArray[np.float64]
    n_screened: int

    def __len__(self) -> int:
        return len(self.first)


def find_pairs(rows: FeatureRows, threshold: float, progress: Progress | None = None) -> Pairs:
    """Find all pairs of items whose cosine is at least a threshold.

    Args:
        rows: Features `(n_items, dim)`; an item of zeros has no pair.
        threshold: Least cosine, above 0 and at most 1.
        progress: Called with the rows that are done, and all.

    Raises:
        UsageError: If the threshold is not above 0 and at most 1.
        DataError: If there are more than `MOST_PAIRS` pairs.
    """
    if not 0 < threshold <= 1:
        msg = f"the threshold is {threshold}; it must be a cosine above 0 and at most 1, such as 0.95"
        raise UsageError(msg)
    lengths = _measure_lengths(rows)
    screen = _make_screen(rows, lengths, threshold)
    found: list[tuple[Rows, Rows, NDArray[np.float64]]] = []
    n_screened = n_pairs = 0
    for start in range(0, len(rows), _BLOCK):
        for first, second in _screen_block(screen, start, threshold - _ROUNDING):
            n_screened += len(first)
            cosines = _compute_cosines(rows, lengths, first, second)
            kept = cosines >= threshold
            n_pairs += int(kept.sum())
            if n_pairs > MOST_PAIRS:
                msg = (
                    f"more than {MOST_PAIRS:,} pairs of the {len(rows):,} items have a cosine of at least "
                    f"{threshold:g}; choose a threshold closer to 1"
                )
                raise DataError(msg)
            if kept.any():
                found.append((first[kept], second[kept], cosines[kept]))
        if progress:
            progress(min(start + _BLOCK, len(rows)), len(rows))
    return _sort(found, n_screened)


def _sort(found: list[tuple[Rows, Rows, NDArray[np.float64]]], n_screened: int) -> Pairs:
    none = np.empty(0, np.intp)
    first, second, cosines = (np.concatenate(column) for column in zip((none, none, np.empty(0)), *found, strict=True))
    order = np.lexsort((second, first))
    return Pairs(first[order], second[order], cosines[order], n_screened)


def _measure_lengths(rows: FeatureRows) -> NDArray[np.float64]:
    lengths = np.empty(len(rows))
    for part, block in rows.iterate_blocks():
        lengths[part] = np.sqrt(np.einsum("ij,ij->i", block, block, dtype=np.float64))
    return lengths


def _normalise(block: Floats, lengths: NDArray[np.float64]) -> Floats:
    """Divide rows (n, dim) by their lengths; rows of zeros stay zeros."""
    return (block / np.where(lengths > 0, lengths, 1)[:, None]).astype(np.float32)


def _make_screen(rows: FeatureRows, lengths: NDArray[np.float64], threshold: float) -> Floats:
    """Return the short rows, float32 `(n_items, width + 1)`, whose products are never less than the cosines."""
    generator = np.random.default_rng(_SEED)
    picked = np.sort(generator.permutation(len(rows))[:_SAMPLED_ROWS])
    sample = _normalise(rows[picked], lengths[picked])
    directions = _find_directions(sample, generator)
    width = _choose_width(sample[generator.permutation(len(sample))[:_TRIED_ROWS]], directions, threshold)
    screen = np.empty((len(rows), width + 1), np.float32)
    for part, block in rows.iterate_blocks():
        screen[part] = _shorten(_normalise(block, lengths[part]), directions[:, :width])
    return screen


def _find_directions(sample: Floats, generator: np.random.Generator) -> Floats:
    """Find orthonormal directions (dim, most widths) that hold most of the sample, the most important first.

    By subspace iteration from random ones (Halko, Martinsson & Tropp 2011, "Finding structure with randomness",
    algorithm 4.4), which is as exact as a screen needs.
    """
    width = min(_WIDTHS[-1], *sample.shape)
    basis = generator.standard_normal((sample.shape[1], width)).astype(np.float32)
    for _ in range(3):
        basis = np.linalg.qr(sample.T @ (sample @ basis))[0]
    _, _, turned = np.linalg.svd(sample @ basis, full_matrices=False)
    # Once more in float64: errors of orthonormality would lengthen a row.
    return np.linalg.qr((basis @ turned.T).astype(np.float64))[0].astype(np.float32)


def _shorten(unit: Floats, directions: Floats) -> Floats:
    """Return the coordinates of rows of length 1 on some directions, and the length of the rest."""
    coordinates = unit @ directions
    rest = np.sqrt(np.maximum(1 - np.einsum("ij,ij->i", coordinates, coordinates), 0))
    rest[~unit.any(axis=1)] = 0
    return np.column_stack([coordinates, rest])


def _choose_width(sample: Floats, directions: Floats, threshold: float) -> int:
    """Choose the number of directions with which a screen, and the full products of what passes, cost least."""
    widths = [width for width in _WIDTHS if width < directions.shape[1]] + [directions.shape[1]]
    costs = []
    for width in widths:
        short = _shorten(sample, directions[:, :width])
        passed = np.count_nonzero(short @ short.T >= threshold - _ROUNDING) - len(short)
        costs.append(width + passed / max(1, len(short) * (len(short) - 1)) * sample.shape[1] * _GATHERING)
    return widths[int(np.argmin(costs))]


def _screen_block(screen: Floats, start: int, least: float) -> Iterator[tuple[Rows, Rows]]:
    """Yield the pairs that pass, of a block of rows with itself and with all later ones."""
    own = screen[start : start + _BLOCK]
    for other in range(start, len(screen), _BLOCK):
        passed = np.flatnonzero((own @ screen[other : other + _BLOCK].T).ravel() >= least)
        if not len(passed):
            continue
        first, second = np.divmod(passed, min(_BLOCK, len(screen) - other))
        first, second = first + start, second + other
        later = first < second
        if later.any():
            yield first[later], second[later]


def _compute_cosines(rows: FeatureRows, lengths: NDArray[np.float64], first: Rows, second: Rows) -> NDArray[np.float64]:
    """Compute the cosines of pairs of items in float64, some pairs at a time."""
    cosines = np.empty(len(first))
    step = max(1, _GATHERED_BYTES // (8 * rows.shape[1]))
    for start in range(0, len(first), step):
        part = slice(start, start + step)
        products = np.einsum("ij,ij->i", rows[first[part]], rows[second[part]], dtype=np.float64)
        norms = lengths[first[part]] * lengths[second[part]]
        cosines[part] = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
    return np.minimum(cosines, 1.0)
