"""Nearest items by cosine, found exactly by products of blocks."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from featx.heads.linear import accept_items
from featx.heads.rows import FeatureRows, cut_rows
from featx.heads.scaling import Floats, Frame, Moments, check_scaling
from featx.nearest import Nearest

VOTES = ("temperature", "distance", "uniform")

#: Queries and keys of one block of similarities: 4 MB.
_QUERIES = 512
_KEYS = 2048

#: Bytes of a block of keys, if they have many columns.
_KEYS_BYTES = 16 * 2**20

#: Queries, and their bytes, that are compared with all keys before the next ones. Keys that are scaled while they are
#: read are scaled once for so many, which adds 3 % to the products of 1,280 columns.
_QUERIES_TOGETHER, _QUERIES_BYTES = 8 * _QUERIES, 32 * 2**20


class CosineNeighbours(ClassifierMixin, BaseEstimator):
    """The vote of the nearest items by cosine.

    The neighbours of KNeighborsClassifier with `metric="cosine"` and `algorithm="brute"`,
    found several times as fast. With `weights="temperature"` an item of similarity s has exp(s / temperature)
    votes (Wu et al. 2018, Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination, section 3.4; Caron et al. 2021 and Oquab et al. 2023, DINOv2, take 0.07).

    Args:
        n_neighbors: How many vote; all if there are fewer.
        weights: `temperature`, `distance` for 1 / (1 - s), or `uniform`.
        temperature: Above 0.
        scaling: `none` or `standard`, before lengths are taken; `l2` changes no cosine.

    Attributes:
        classes_: (n_classes,), sorted.
        keys_: float32 (n_items, dim), the training items, scaled to length 1: an array, perhaps mapped from a file,
            or after a fit to streamed rows `UnitRows`, which read them.
        positions_: int (n_items,), the class of each.
        shift_, scale_: float32 (dim,), of the scaling.
    """

    def __init__(
        self, n_neighbors: int = 5, weights: str = "uniform", temperature: float = 0.07, scaling: str = "none"
    ) -> None:
        self.n_neighbors = n_neighbors
        self.weights = weights
        self.temperature = temperature
        self.scaling = scaling

    def fit(self, X: ArrayLike | FeatureRows, y: ArrayLike) -> Self:
        """Keep the items, features (n_items, dim) and targets (n_items,).

        Raises:
            ValueError: If `weights` is unknown.
        """
        check_scaling(self.scaling)
        rows, y = accept_items(self, X, y)
        if self.weights not in VOTES:
            msg = f"weights is {self.weights!r}; it must be one of {', '.join(VOTES)}"
            raise ValueError(msg)
        self.classes_, self.positions_ = np.unique(y, return_inverse=True)
        frame = Frame.make(self.scaling, Moments.measure(rows, np.ones((len(rows), 1))))
        self.shift_, self.scale_ = frame.shift, frame.scale
        self.keys_ = make_keys(rows, frame)
        return self

    def predict_proba(self, X: ArrayLike | FeatureRows) -> NDArray[np.float64]:
        """Return the shares of the votes, (n_items, n_classes)."""
        check_is_fitted(self)
        if not isinstance(X, FeatureRows):
            X = validate_data(self, X, dtype=[np.float32, np.float64], reset=False)
        rows, frame = FeatureRows.wrap(X), Frame(self.shift_, self.scale_)
        shares = np.empty((len(rows), len(self.classes_)))
        for part, hood in find_neighbourhoods(rows, self.keys_, frame, min(self.n_neighbors, len(self.keys_))):
            own = Neighbourhood(hood.similarities, self.positions_[hood.positions])
            shares[part] = own.vote(self.n_neighbors, self.weights, self.temperature, len(self.classes_))
        return shares

    def predict(self, X: ArrayLike | FeatureRows) -> NDArray[Any]:
        """Return the class (n_items,) with the most votes."""
        shares = self.predict_proba(X)
        chosen: NDArray[Any] = self.classes_[shares.argmax(axis=1)]
        return chosen


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """The nearest items of some queries, the nearest first.

    Attributes:
        similarities: float32 (n_queries, count), cosines.
        positions: int (n_queries, count): the place of each among the keys, or its class, by which votes are counted.
    """

    similarities: Floats
    positions: NDArray[np.intp]

    def vote(self, n_neighbors: int, weights: str, temperature: float, n_classes: int) -> NDArray[np.float64]:
        """Return the shares of the votes of the first of them, (n_queries, n_classes)."""
        votes = weigh(self.similarities[:, :n_neighbors], weights, temperature)
        return count_votes(votes, self.positions[:, :n_neighbors], n_classes)


def normalise(block: Floats, frame: Frame) -> Floats:
    """Scale items (n, dim) and divide them by their lengths, in new memory; 0 stays 0."""
    scaled = block - frame.shift
    scaled /= frame.scale
    lengths = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))
    scaled /= np.where(lengths > 0, lengths, 1)[:, None]
    return scaled


def estimate_seconds(n_queries: int, n_keys: int, dim: int) -> float:
    """Estimate how long this machine searches, in seconds, by the time of a small search."""
    n_few = 3 * _limit(_KEYS, _KEYS_BYTES, dim)
    keys = np.random.default_rng(0).standard_normal((n_few, dim), np.float32)
    seconds = []
    for _ in range(3):  # the first is slower
        started = time.perf_counter()
        find_nearest(keys[:_QUERIES], keys, min(50, n_few))
        seconds.append(time.perf_counter() - started)
    return min(seconds) * (n_queries / min(_QUERIES, n_few)) * (n_keys / n_few)


class UnitRows:
    """Rows that are scaled and divided by their lengths when they are read, so that no copy of all is needed.

    Args:
        rows: (n_rows, dim), not scaled.
        frame: The scaling.
    """

    def __init__(self, rows: FeatureRows, frame: Frame) -> None:
        self.rows = rows
        self.frame = frame
        self._n_read = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns."""
        return self.rows.shape

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """The type of the values: float32."""
        return self.rows.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: slice) -> Floats:
        """Return some of the rows; see `normalise`."""
        block = normalise(self.rows[key], self.frame)
        self._n_read += 1
        self.rows.release(self._n_read)
        return block

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: FBT001 - NumPy's signature
        """Return all rows, in new memory."""
        normalised = np.empty(self.shape, np.float32)
        for part in cut_rows(*self.shape):
            normalised[part] = self[part]
        return normalised.astype(dtype or np.float32, copy=False)


#: Rows of length 1 that queries are compared with.
Keys = Floats | UnitRows


def make_keys(rows: FeatureRows, frame: Frame) -> Keys:
    """Scale rows and divide them by their lengths: at once, or if they are streamed, when they are read."""
    keys = UnitRows(rows, frame)
    return keys if rows.streamed else np.asarray(keys)


def find_neighbourhoods(
    queries: FeatureRows, keys: Keys, frame: Frame, count: int
) -> Iterator[tuple[slice, Neighbourhood]]:
    """Find the nearest keys of all queries, some thousand queries at a time.

    Args:
        queries: (n_queries, dim), not scaled.
        keys: float32 (n_keys, dim), scaled and of length 1.
        frame: The scaling of both.
        count: How many are found.

    Yields:
        Which queries, and their nearest keys.
    """
    for part in _cut(len(queries), _limit(_QUERIES_TOGETHER, _QUERIES_BYTES, queries.shape[1])):
        yield part, find_nearest(normalise(queries[part], frame), keys, count)


def find_nearest(queries: Floats, keys: Keys, count: int) -> Neighbourhood:
    """Find the keys of the largest inner products with each query, exactly.

    Args:
        queries: float32 (n_queries, dim).
        keys: float32 (n_keys, dim).
        count: How many are found; at most the number of keys.

    Returns:
        The largest products first.
    """
    parts = [(queries[part], Nearest(part.stop - part.start, count)) for part in _cut(len(queries), _QUERIES)]
    for columns in _cut(len(keys), _limit(_KEYS, _KEYS_BYTES, queries.shape[1])):
        block = keys[columns]
        for part, nearest in parts:
            nearest.add(part @ block.T, columns.start)
    similarities = np.concatenate([nearest.similarities for _, nearest in parts])
    return Neighbourhood(similarities, np.concatenate([nearest.positions for _, nearest in parts]))


def weigh(similarities: Floats, weights: str, temperature: float) -> NDArray[np.float64]:
    """Return the votes of neighbours, float64 of the same shape; only their ratios matter.

    With `distance`, only neighbours at distance 0 count, if there are any.
    """
    nearness = similarities.astype(np.float64)
    if weights == "uniform":
        return np.ones_like(nearness)
    if weights == "temperature":
        return np.exp((nearness - nearness[:, :1]) / temperature)
    distances = np.maximum(1 - nearness, 0)
    same = distances == 0
    with np.errstate(divide="ignore"):
        return np.where(same.any(axis=1, keepdims=True), same, 1 / distances)


def count_votes(votes: NDArray[np.float64], positions: NDArray[np.intp], n_classes: int) -> NDArray[np.float64]:
    """Return the share of each class in the votes, (n_queries, n_classes)."""
    cells = np.arange(len(votes))[:, None] * n_classes + positions
    counts = np.bincount(cells.ravel(), votes.ravel(), len(votes) * n_classes).reshape(len(votes), n_classes)
    shares: NDArray[np.float64] = counts / counts.sum(axis=1, keepdims=True)
    return shares


def _limit(most: int, n_bytes: int, dim: int) -> int:
    """Return how many rows of float32 are taken together."""
    return min(most, max(64, n_bytes // (4 * dim)))


def _cut(n: int, step: int) -> Iterator[slice]:
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))
