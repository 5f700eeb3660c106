"""Features in Parquet files: a column of lists, or a column for each feature such as `f0` to `f511`."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featx.importing.array_files import FEATURES
from featx.importing.parts import Part, cut_rows
from featx.items.tables import read_parquet
from featx.wording import format_plural

if TYPE_CHECKING:
    import pyarrow as pa


def open_parquet(path: Path) -> Part:
    """Open a Parquet file."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        schema, n_rows = file.schema_arrow, file.metadata.num_rows
        lists = [field.name for field in schema if _is_list(field.type)]
        names = _choose(lists, [field.name for field in schema])
        is_list = names[0] in lists
        kind = schema.field(names[0]).type
        dtype = np.dtype((kind.value_type if is_list else kind).to_pandas_dtype())
        dim = len(names) if not is_list else _measure(file, names[0])
    tool = "featx" if b"spec" in (schema.metadata or {}) else "parquet"

    def read() -> Iterator[NDArray[Any]]:
        step = next((past for _, past in cut_rows(n_rows, dim, dtype)), 1)
        done = 0
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(step, columns=names):
                numbers = (_to_numbers(one) for one in batch.columns)
                yield _to_rows(batch, dim, done) if is_list else np.stack(list(numbers), axis=1)
                done += len(batch)

    table = read_parquet(str(path), f"the table {str(path)!r}", without=names)
    return Part(path, tool, n_rows, dim, dtype, read, {name: table.read(name) for name in table.columns})


def _is_list(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)))


def _choose(lists: list[str], names: list[str]) -> list[str]:
    """Choose the column of lists, or else the longest series of numbered columns.

    Raises:
        ValueError: If there is neither, or there are several columns of lists without a usual name.
    """
    usual = [name for name in FEATURES if name in lists]
    if usual or len(lists) == 1:
        return [(usual or lists)[0]]
    series: dict[str, list[str]] = {}
    for name in names:
        if match := re.fullmatch(r"(.*\D|)(\d+)", name):
            series.setdefault(match[1], []).append(name)
    longest = max(series.items(), key=lambda pair: len(pair[1]), default=("", []))
    numbered = [f"{longest[0]}{number}" for number in range(len(longest[1]))]
    if lists or not numbered or set(numbered) != set(longest[1]):
        msg = f"it has no column of lists called {FEATURES[0]}, and no columns f0, f1 and so on; its columns are "
        raise ValueError(msg + ", ".join(names)[:200])
    return numbered


def _measure(file: Any, name: str) -> int:  # noqa: ANN401 - a ParquetFile
    """Return the length of the first list.

    Raises:
        ValueError: If it is missing or empty.
    """
    first = next(iter(file.iter_batches(1, columns=[name])), None)
    return 0 if first is None else _check_length(first.column(0), 0, 0, name)


def _check_length(column: "pa.Array", dim: int, done: int, name: str) -> int:
    """Return the length of the lists of a column, which is `dim` unless that is 0.

    Raises:
        ValueError: If one is missing, empty or of another length; it names the row.
    """
    lengths = column.value_lengths().to_pylist()
    dim = dim or lengths[0] or 0
    at = next((at for at, length in enumerate(lengths) if length != dim or not dim), None)
    if at is not None:
        what = "no list" if lengths[at] is None else format_plural(lengths[at], "number")
        other = f", where the first row has {dim:,}" if done or at else ""
        msg = f"row {done + at:,} (from 0) has {what} in the column {name}{other}; correct it, or leave the row out"
        raise ValueError(msg)
    return dim


def _to_rows(batch: "pa.RecordBatch", dim: int, done: int) -> NDArray[Any]:
    column = batch.column(0)
    _check_length(column, dim, done, batch.schema.names[0])
    return _to_numbers(column.flatten()).reshape(len(column), dim)


def _to_numbers(values: "pa.Array") -> NDArray[Any]:
    numbers: NDArray[Any] = values.to_numpy(zero_copy_only=False)  # a missing one becomes NaN
    return numbers
