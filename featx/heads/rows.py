"""Rows of a feature matrix, read when they are needed: a store stays on disk while a head is fitted on part of it."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]  # it ships no types

from featx.files import Matrix, forget_pages, reserve_file
from featx.prefetching import prefetch

#: Bytes of float32 in one block: small enough for the processor's cache, large enough for efficient matrix products.
BLOCK_BYTES = 8 * 2**20

#: What is computed in float64 from a value, with what lies between, takes so many times the memory of a float32.
DOUBLES = 8

#: Blocks of rows that are streamed and stay mapped.
_BLOCKS_MAPPED = 8

#: Threads that take blocks; each has some 20 MB at a time.
_MOST_THREADS = 16


Result = TypeVar("Result")


class FeatureRows:
    """Some rows of a matrix of features, as float32, without a copy of all of them.

    Indexing and `iterate_blocks` copy what they return, except whole blocks of a float32
    matrix of which all rows are taken; these are read-only views. `np.asarray` copies
    everything, so that any scikit-learn classifier accepts it.

    Args:
        features: (n, views * dim), float32 or float16, perhaps read from files; never written to.
        rows: int (n_rows,), the rows that are taken, in this order; all if None.
        views: The number of vectors in a row, one after the other, whose mean is taken.
        widths: Columns of each part of a vector: the features of several networks stand side by side. Empty for one.
        divided: Whether each part of each row is divided by its length; see `divide_parts`.
        streamed: Whether the rows are too many for the memory: what is mapped is released after some blocks, and
            large arrays of numbers for each row are in a file.

    Attributes:
        lengths: float32 (n_rows,), the length of each row, once it was measured.
        is_checked: Whether all rows were read once and found to be finite, and not all equal.
    """

    def __init__(
        self,
        features: Matrix,
        rows: NDArray[np.intp] | None = None,
        views: int = 1,
        widths: tuple[int, ...] = (),
        *,
        divided: bool = False,
        streamed: bool = False,
    ) -> None:
        self.features = features
        self.rows = rows
        self.views = views
        self.widths = widths if len(widths) > 1 else ()
        self.divided = divided
        self.streamed = streamed
        self.lengths: NDArray[np.float32] | None = None
        self.is_checked = False

    @classmethod
    def wrap(cls, X: ArrayLike | Self) -> Self:
        """Take rows as they are, and any matrix of numbers as all of its rows."""
        if isinstance(X, cls):
            return X
        array = np.asarray(X)
        return cls(array if array.dtype in (np.float32, np.float16) else array.astype(np.float32))

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns."""
        return len(self), self.features.shape[1] // self.views

    @property
    def ndim(self) -> int:
        """Two."""
        return 2

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """The type of the values that are returned: float32."""
        return np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self.features) if self.rows is None else len(self.rows)

    def __getitem__(self, key: slice | NDArray[Any]) -> NDArray[np.float32]:
        """Return some of the rows, float32 (n, dim); `key` is a slice, or int or bool (n_rows,)."""
        taken = self.features[key if self.rows is None else self.rows[key]]
        if self.views > 1:
            taken = taken.reshape(len(taken), self.views, self.shape[1]).mean(axis=1, dtype=np.float32)
        vectors = np.asarray(taken, np.float32)
        return divide_parts(vectors, self.widths) if self.divided else vectors

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: FBT001 - NumPy's signature
        """Return all rows; a copy only where one is needed."""
        if self.rows is None and self.features.dtype == np.float32 and self.views == 1 and not self.divided:
            return np.array(self.features, dtype or np.float32, copy=copy)
        return np.asarray(self[slice(None)], dtype)

    def take(self, rows: NDArray[Any]) -> Self:
        """Return some of the rows, still not read; `rows` is int, or bool (n_rows,)."""
        positions = np.flatnonzero(rows) if rows.dtype == bool else rows
        return self._copy(positions if self.rows is None else self.rows[positions], divided=self.divided)

    def scale_parts(self, scaling: str) -> Self:
        """Return the same rows, with each part divided by its length if the scaling is `l2`, still not read.

        Divided as a whole, a row would leave little of the part with the smaller features. `standard` scales each
        column by itself and needs nothing.
        """
        return self._copy(self.rows, divided=True) if self.widths and scaling == "l2" else self

    def _copy(self, rows: NDArray[np.intp] | None, *, divided: bool) -> Self:
        return type(self)(self.features, rows, self.views, self.widths, divided=divided, streamed=self.streamed)

    def reserve(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return an array of any content: in memory, or if the rows are streamed, in a file that has no name.

        Raises:
            StoreError: If the folder of temporary files has no room for it.
        """
        return reserve_file(shape, np.float32) if self.streamed else np.empty(shape, np.float32)

    def release(self, number: int) -> None:
        """Release what is mapped after every few blocks, if the rows are streamed; blocks are counted from 1."""
        if self.streamed and number % _BLOCKS_MAPPED == 0:
            forget_pages(self.features)

    def iterate_blocks(self, columns: int | None = None) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield all rows in blocks: their positions, and float32 (n_block, dim).

        Args:
            columns: How many values the caller computes for a row; dim if None.
        """
        for number, block in enumerate(self._cut(columns), 1):
            yield block, self[block]
            self.release(number)

    def map_blocks(
        self, function: Callable[[slice, NDArray[np.float32]], Result], columns: int | None = None
    ) -> Iterator[Result]:
        """Yield what a function returns for each block, in order, whatever the number of threads.

        As many threads as matrix products have, at most 16, take a block each, and products have one meanwhile: then
        reading a block, and what is computed of each value, are shared too.

        Args:
            function: Takes what `iterate_blocks` yields; called in several threads at once.
            columns: As for `iterate_blocks`.
        """

        def read(block: slice) -> Result:
            return function(block, self[block])

        tasks, pools = list(self._cut(columns)), find_thread_pools()
        products = max((pool["num_threads"] for pool in pools.info() if pool["user_api"] == "blas"), default=1)
        threads = min(products, len(tasks), _MOST_THREADS)
        with pools.limit(limits=1) if threads > 1 else contextlib.nullcontext():
            results = prefetch(read, tasks, workers=threads, ahead=2 * threads) if threads > 1 else map(read, tasks)
            for number, result in enumerate(results, 1):
                yield result
                self.release(number)

    def _cut(self, columns: int | None) -> Iterator[slice]:
        return cut_rows(len(self), max(self.features.shape[1], columns or 0))


def cut_rows(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Cut rows into blocks of `BLOCK_BYTES`, if a value takes 4 bytes."""
    step = max(64, BLOCK_BYTES // (4 * n_columns))
    yield from (slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step))


def divide_parts(features: NDArray[np.float32], widths: tuple[int, ...]) -> NDArray[np.float32]:
    """Divide each part of each row by its length, in new memory; a part of zeros stays zero.

    Args:
        features: float32 (n, dim).
        widths: Columns of each part.
    """
    divided = np.empty_like(features)
    start = 0
    for width in widths:
        part = features[:, start : start + width]
        lengths = np.sqrt(np.einsum("ij,ij->i", part, part))
        divided[:, start : start + width] = part / np.where(lengths > 0, lengths, np.float32(1))[:, None]
        start += width
    return divided


@functools.cache
def find_thread_pools() -> ThreadpoolController:
    """Find the thread pools of this process; the search takes 5 ms, a limit much less."""
    return ThreadpoolController()


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """The rows that a head is fitted on.

    An item has one row, or one row for each of its views. The rows of an item are adjacent, and the plain image
    comes first.

    Attributes:
        features: `(n_rows, dim)`.
        targets: int `(n_rows,)`.
        folds: int `(n_rows,)`, the fold in which each row is held out while parameters are chosen.
        units: int `(n_rows,)`, rows with equal values stay together: those of one item, group or equal bytes.
        copies: Rows of each item.
    """

    features: FeatureRows
    targets: NDArray[np.intp]
    folds: NDArray[np.intp]
    units: NDArray[np.intp]
    copies: int = 1
