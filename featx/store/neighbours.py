"""The items of a store that are nearest to some features: one pass over the mapped file, exact."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.errors import DataError, UsageError
from featx.files import Matrix
from featx.nearest import Nearest

Floats = NDArray[np.float32]

#: Bytes of float32 in one block of rows, and queries of one pass: together they bound the memory.
_BLOCK_BYTES, _QUERIES = 32 * 2**20, 1024


def find_nearest(
    features: Matrix, lengths: Floats, X: ArrayLike, k: int, views: int = 1
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Find the rows with the largest cosine to each query.

    Products in float32 choose the rows; the cosines of the chosen ones are computed in float64, so that equal rows
    are equally similar wherever they are.

    Args:
        features: `(n_items, views * dim)` float32 or float16, perhaps read from files.
        lengths: Lengths of its rows; see `measure_lengths`.
        X: The queries, float `(n_queries, dim)`.
        k: Rows for each query.
        views: Vectors in a row, one after the other, whose mean counts.

    Returns:
        As `FeatureStore.nearest`.

    Raises:
        UsageError: If `k` is less than 1.
        DataError: If the queries have another width, or values that are not finite.
    """
    if k < 1:
        msg = f"k is {k}; it must be at least 1"
        raise UsageError(msg)
    queries, dim = np.asarray(X), features.shape[1] // views
    if queries.ndim != 2 or queries.shape[1] != dim:  # noqa: PLR2004 - rows and columns
        msg = f"the shape of the queries is {queries.shape}; it must be (n, {dim}), as wide as the features"
        raise DataError(msg)
    queries = queries.astype(np.float64)
    if not np.isfinite(queries).all():
        row = int(np.flatnonzero(~np.isfinite(queries).all(axis=1))[0])
        msg = f"query {row} has values that are not finite; leave it out"
        raise DataError(msg)
    queries /= _replace_zeros(np.linalg.norm(queries, axis=1))[:, None]
    count = min(k, len(features))
    rows, cosines = np.zeros((len(queries), count), np.intp), np.zeros((len(queries), count))
    for start in range(0, len(queries), _QUERIES):
        part = slice(start, start + _QUERIES)
        rows[part] = _choose(features, lengths, queries[part].astype(np.float32), count, views)
    for number, query in enumerate(queries):
        found = _compute_cosines(features, rows[number], query, views)
        order = np.lexsort((rows[number], -found))
        rows[number], cosines[number] = rows[number, order], found[order]
    return rows, cosines


def measure_lengths(features: Matrix, views: int = 1) -> Floats:
    """Return the length of each row, or of the mean over its views, float32 `(n_items,)`; 1 for a row of zeros."""
    lengths = np.empty(len(features), np.float32)
    for part in _split(features):
        block = _take(features, part, views)
        lengths[part] = np.sqrt(np.einsum("ij,ij->i", block, block))
    return _replace_zeros(lengths)


def _choose(features: Matrix, lengths: Floats, queries: Floats, count: int, views: int) -> NDArray[np.intp]:
    nearest = Nearest(len(queries), count)
    for part in _split(features):
        products = _take(features, part, views) @ queries.T  # this way round, few queries take two thirds of the time
        nearest.add((products / lengths[part, None]).T, part.start)
    return nearest.positions


def _compute_cosines(
    features: Matrix, rows: NDArray[np.intp], query: NDArray[np.float64], views: int
) -> NDArray[np.float64]:
    cosines = np.empty(len(rows))
    for part in _split(features[: len(rows)]):
        block = _take(features, rows[part], views).astype(np.float64)
        lengths = _replace_zeros(np.sqrt(np.einsum("ij,ij->i", block, block)))
        cosines[part] = np.einsum("ij,j->i", block, query) / lengths
    return cosines.clip(-1, 1)


def _split(features: Matrix) -> list[slice]:
    step = max(64, _BLOCK_BYTES // (4 * features.shape[1]))
    return [slice(start, min(start + step, len(features))) for start in range(0, len(features), step)]


def _take(features: Matrix, part: slice | NDArray[np.intp], views: int) -> Floats:
    taken = features[part]
    if views > 1:
        taken = taken.reshape(len(taken), views, -1).mean(axis=1, dtype=np.float32)
    return np.asarray(taken, np.float32)


def _replace_zeros(lengths: NDArray[Any]) -> NDArray[Any]:
    return np.where(lengths > 0, lengths, lengths.dtype.type(1))
