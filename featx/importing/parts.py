"""A part of what is imported: the rows of one file, which are read in blocks."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: What to do with a file that is damaged.
AGAIN = "copy it again, or write it again with the tool that made it"

#: Memory of one block of rows.
_BLOCK_BYTES = 8 << 20

#: A file may declare this many bytes, or this many times its own size.
_MOST_BYTES, _MOST_TIMES = 1 << 30, 200


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one file.

    Attributes:
        path: The file.
        tool: What wrote it, such as `trident`.
        n_rows: Number of rows.
        dim: Width of a row.
        dtype: Type of its numbers.
        read: Returns the rows in order, in blocks `(n, dim)` of at most a few megabytes.
        columns: Text `(n_rows,)` by name, such as `id` and `label`.
        about: Facts for the record of the store.
    """

    path: Path
    tool: str
    n_rows: int
    dim: int
    dtype: np.dtype[Any]
    read: Callable[[], Iterator[NDArray[Any]]]
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


def check_matrix(shape: Sequence[int], dtype: np.dtype[Any], what: str = "its array") -> tuple[int, int]:
    """Return the number of rows, and the width of a row whose other axes are flattened.

    Raises:
        ValueError: If these are not rows of numbers.
    """
    if dtype.kind not in "fiu" or len(shape) < 2 or 0 in shape[1:]:  # noqa: PLR2004 - rows and columns
        msg = f"{what} is {dtype} {tuple(shape)}; features are numbers, with one row for each item"
        raise ValueError(msg)
    return int(shape[0]), math.prod(shape[1:])


def check_size(declared: int, held: int) -> None:
    """Refuse a file, or a part of one, that would take much more memory or disk than its own size explains.

    Raises:
        ValueError: If it declares more than 1 GiB and more than 200 times its size.
    """
    if declared > max(_MOST_BYTES, _MOST_TIMES * held):
        msg = f"it declares {declared:,} bytes and holds {held:,}"
        raise ValueError(msg)


def cut_rows(n_rows: int, dim: int, dtype: np.dtype[Any]) -> Iterator[tuple[int, int]]:
    """Yield the first row of each block, and the one after its last."""
    step = max(1, _BLOCK_BYTES // (dim * dtype.itemsize))
    for first in range(0, n_rows, step):
        yield first, min(first + step, n_rows)
