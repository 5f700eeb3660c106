"""The features of an index: rows of the shards that it names, read like a matrix.

HDF5 could read them through the virtual dataset that the index has for other readers. featx does not let it: for HDF5,
a missing file is full of fill values, a name may lead to any file, and a flipped bit in the mapping can end the process
(15 of 1,644 flips ended it or hung it, HDF5 1.14). So featx reads tables that have checksums, and maps the shards.
"""

import functools
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from featx.errors import StoreFormatError
from featx.files import forget_pages
from featx.reporting import Progress
from featx.store.hdf5 import create_group
from featx.store.layout import (
    TEXT,
    Columns,
    decode_text,
    digest_columns,
    open_group,
    read_columns,
    read_text,
    write_columns,
    write_text,
)
from featx.store.shards import MAPPED_SHARDS, Row, ShardFile, is_shard_name, name_shards

#: The tables of an index: its shards, and which of their rows are the rows of the store, in its order.
SHARD_COLUMNS = {"name": TEXT, "rows": "<i8", "bytes": "<i8", "offset": "<i8"}
PIECE_COLUMNS = {"shard": "<i8", "first": "<i8", "rows": "<i8"}
_TABLES = {"shards": SHARD_COLUMNS, "pieces": PIECE_COLUMNS}

#: Rows that iteration reads at once.
_ITERATED_ROWS = 1024

#: Characters of a wrong name that an error shows.
_SHOWN_CHARACTERS = 80

_Table = dict[str, NDArray[Any]]


class ShardedFeatures:
    """The features of an index, like a mapped matrix: each access reads rows, and returns them in new memory.

    Args:
        shards: The files.
        pieces: `PIECE_COLUMNS`: which rows of which file come next.
        shape: Shape of the matrix.
        dtype: Dtype of the matrix.
    """

    ndim = 2

    def __init__(
        self,
        shards: Sequence[ShardFile],
        pieces: _Table,
        shape: tuple[int, int],
        dtype: np.dtype[np.floating],
    ) -> None:
        self.shards, self.shape, self.dtype = shards, shape, dtype
        self._pieces = pieces
        self._ends = np.cumsum(pieces["rows"])
        self._starts = self._ends - pieces["rows"]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[np.floating]:  # noqa: ANN401 - as NumPy's
        """Return a row, or the rows of a slice or of an int or bool array."""
        if isinstance(key, tuple):
            msg = "features of an index are read by rows; take columns of the rows"
            raise IndexError(msg)
        if isinstance(key, slice) and key.step in {None, 1}:
            return self._read_range(*key.indices(len(self))[:2])
        if isinstance(key, slice):
            return self._read(np.arange(*key.indices(len(self))))
        rows = np.asarray(key)
        if rows.dtype == bool:
            if rows.shape != (len(self),):
                msg = f"a mask of shape {rows.shape} does not select rows of {len(self):,}"
                raise IndexError(msg)
            rows = np.flatnonzero(rows)
        rows = rows.astype(np.intp) if rows.size == 0 else rows
        if rows.dtype.kind not in "iu" or rows.ndim > 1:
            msg = f"rows are selected by whole numbers, not by {rows.dtype} {rows.shape}"
            raise IndexError(msg)
        if rows.size and not -len(self) <= rows.min() <= rows.max() < len(self):
            msg = f"there are {len(self):,} rows, and none of number {rows.max():,}"
            raise IndexError(msg)
        rows = np.where(rows < 0, rows + len(self), rows)
        return self._read(rows) if rows.ndim else self._read(rows[None])[0]

    def __iter__(self) -> Iterator[NDArray[np.floating]]:
        for start in range(0, len(self), _ITERATED_ROWS):
            yield from self[start : start + _ITERATED_ROWS]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: FBT001 - NumPy's signature
        """Return all rows."""
        if copy is False:
            msg = "the features of an index are in several files, so an array of all is a copy"
            raise ValueError(msg)
        return self[:].astype(dtype or self.dtype, copy=False)

    def reshape(self, n_rows: int, width: int) -> Self:
        """Cut each row into as many equal rows as it takes, without reading them.

        Args:
            n_rows: A multiple of the number of rows.
            width: -1; what it is follows.
        """
        parts = n_rows // max(1, len(self))
        if width != -1 or parts * len(self) != n_rows or self.shape[1] % max(1, parts):
            msg = f"rows of {self.shape} can only be cut into equal parts, not reshaped to {(n_rows, width)}"
            raise ValueError(msg)
        cut = {name: self._pieces[name] * (1 if name == "shard" else parts) for name in PIECE_COLUMNS}
        return type(self)(self.shards, cut, (n_rows, self.shape[1] // parts), self.dtype)

    def _locate(self, rows: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return for each row its shard, and its row there."""
        piece = np.searchsorted(self._ends, rows, side="right")
        return self._pieces["shard"][piece], self._pieces["first"][piece] + rows - self._starts[piece]

    def _group(self, rows: NDArray[np.intp]) -> Iterator[tuple[ShardFile, NDArray[np.intp], NDArray[np.intp]]]:
        """Yield the shards that some rows are in, with the places of the rows in the argument, and in the shard."""
        shards, at = self._locate(rows)
        order = np.argsort(shards, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1) if len(rows) else []:
            yield self.shards[shards[group[0]]], group, at[group]

    def group_rows(self, rows: NDArray[np.intp]) -> Iterator[tuple[ShardFile, NDArray[np.intp], NDArray[np.intp]]]:
        """Yield the shards that some rows are in, with the rows here, and there."""
        return ((file, rows[places], at) for file, places, at in self._group(rows))

    def _cut(self, file: ShardFile) -> NDArray[np.floating]:
        return file().reshape(-1, self.shape[1])

    def _read(self, rows: NDArray[np.intp]) -> NDArray[np.floating]:
        found = np.empty((len(rows), self.shape[1]), self.dtype)
        for file, places, at in self._group(rows):
            matrix = self._cut(file)
            found[places] = matrix[at]
            forget_pages(matrix)
        return found

    def _read_range(self, start: int, past: int) -> NDArray[np.floating]:
        found = np.empty((max(0, past - start), self.shape[1]), self.dtype)
        at = start
        while at < past:
            piece = int(np.searchsorted(self._ends, at, side="right"))
            end, skipped = min(past, int(self._ends[piece])), at - int(self._starts[piece])
            matrix = self._cut(self.shards[self._pieces["shard"][piece]])
            first = int(self._pieces["first"][piece]) + skipped
            found[at - start : end - start] = matrix[first : first + end - at]
            forget_pages(matrix)
            at = end
        return found

    def list_rows(self, rows: NDArray[np.intp]) -> list[Row]:
        """Return the places of some rows in the shards."""
        shards, at = self._locate(rows)
        return [Row(self.shards[shard], row) for shard, row in zip(shards.tolist(), at.tolist(), strict=True)]

    def locate(self, row: int) -> tuple[ShardFile, int]:
        """Return the shard of a row, and the row there."""
        (shard,), (at,) = self._locate(np.array([row]))
        return self.shards[shard], int(at)

    def refuse_missing(self, store: Path) -> None:
        """Look for every shard.

        Args:
            store: Path of the index, for the message.

        Raises:
            StoreFormatError: If one is not there, or does not have its size.
        """
        missing = [shard.path for shard in self.shards if not shard.is_there()]
        if missing:
            msg = (
                f"{store} is an index, and {len(missing):,} of its {len(self.shards):,} shards are missing or cut off, "
                f"such as {missing[0]}; bring them back under these names, or run `featx repair {store}`"
            )
            raise StoreFormatError(msg)

    def find_damage(self, progress: Progress | None = None) -> list[tuple[int, int]]:
        """List the ranges of rows that are missing or differ from their checksum: the first, and the one after.

        Args:
            progress: Called with the rows read so far and in total.
        """
        damage: list[tuple[int, int]] = []
        done, total = 0, sum(shard.n_rows for shard in self.shards)
        for number, shard in enumerate(self.shards):
            for low, high in shard.find_damage():
                damage += self._find_rows(number, low, high)
            done += shard.n_rows
            if progress:
                progress(done * len(self) // total, len(self))
        return sorted(damage)

    def _find_rows(self, shard: int, low: int, high: int) -> list[tuple[int, int]]:
        """List the ranges of rows that are in some rows of a shard."""
        firsts, pasts = self._pieces["first"], self._pieces["first"] + self._pieces["rows"]
        (of,) = np.nonzero((self._pieces["shard"] == shard) & (firsts < high) & (pasts > low))
        there = self._starts[of] - firsts[of]
        ends = np.maximum(firsts[of], low) + there, np.minimum(pasts[of], high) + there
        return list(zip(*(end.tolist() for end in ends), strict=True))


def write_index(
    file: h5py.File, store: Path, dtype: np.dtype[np.floating], dim: int, shards: Columns, pieces: Columns
) -> None:
    """Write the tables of an index, and for readers that know only HDF5, its features as a virtual dataset.

    Args:
        file: The index.
        store: The path that it will have.
        dtype: Dtype of the features.
        dim: Width of a row.
        shards: `SHARD_COLUMNS`.
        pieces: `PIECE_COLUMNS`.
    """
    tables = {"shards": shards, "pieces": pieces}
    for name, table in tables.items():
        tables[name] = columns = write_columns(create_group(file, name), table, _TABLES[name])
        write_text(file.attrs, f"{name}_sha256", *digest_columns(columns))
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_obj_track_times(False)
    creation.set_fill_value(np.array(np.nan, dtype))  # rather than zeros, where a shard is missing
    whole = h5py.h5s.create_simple((sum(pieces["rows"]), dim))
    spaces = [h5py.h5s.create_simple((rows, dim)) for rows in shards["rows"]]
    folder = name_shards(store).name.replace("%", "%%")  # HDF5 would put a number in place of %b
    names = [os.fsencode(f"{folder}/{name}") for name in shards["name"]]
    start = 0
    for shard, first, rows in zip(*(pieces[name] for name in PIECE_COLUMNS), strict=True):
        whole.select_hyperslab((start, 0), (1, 1), block=(rows, dim))
        spaces[shard].select_hyperslab((first, 0), (1, 1), block=(rows, dim))
        creation.set_virtual(whole, names[shard], b"features", spaces[shard])
        start += rows
    whole.select_all()
    h5py.h5d.create(file.id, b"features", h5py.h5t.py_create(dtype), whole, creation)


def read_index(
    file: h5py.File,
    store: Path,
    shape: tuple[int, int],
    dtype: np.dtype[np.floating],
    block_rows: int,
    blocks: Sequence[str],
) -> ShardedFeatures:
    """Read the tables of an index; no shard is opened.

    Args:
        file: The index.
        store: Its path.
        shape: Shape of the features.
        dtype: Dtype of the features.
        block_rows: Rows that one checksum covers.
        blocks: The checksums, shard by shard.

    Raises:
        KeyError, TypeError, ValueError: If the tables are damaged, contradict each other, or lead out of the folder.
    """
    tables = {}
    for name, kinds in _TABLES.items():
        tables[name] = read_columns(open_group(file, name), kinds)
        if digest_columns(tables[name]) != [read_text(file.attrs, f"{name}_sha256")]:
            msg = f"/{name} differs from its checksum"
            raise ValueError(msg)
    shards, pieces = tables["shards"], tables["pieces"]
    names = decode_text(shards["name"]).tolist()
    if bad := [name for name in names if not is_shard_name(name)]:
        msg = f"{bad[0][:_SHOWN_CHARACTERS]!r} is not the name of a shard"
        raise ValueError(msg)
    _check_tables(shards, pieces, shape, dtype)
    counts = -(-shards["rows"] // max(1, block_rows))
    if block_rows < 1 or counts.sum() != len(blocks):
        msg = f"the number of checksums, one per {block_rows} rows, does not match the rows of the shards"
        raise ValueError(msg)
    load = functools.lru_cache(MAPPED_SHARDS)(functools.partial(_map_shard, store, shape[1], dtype))
    folder, ends = name_shards(store.resolve()), np.cumsum(counts)
    files = []
    columns = (shards[name].tolist() for name in ("rows", "bytes", "offset"))
    for name, rows, n_bytes, offset, end, count in zip(names, *columns, ends.tolist(), counts.tolist(), strict=True):
        path = folder / name
        own = functools.partial(load, path, offset, rows)
        files.append(ShardFile(path, own, rows, n_bytes, offset, block_rows, blocks[end - count : end]))
    return ShardedFeatures(files, pieces, shape, dtype)


def _check_tables(
    shards: _Table,
    pieces: _Table,
    shape: tuple[int, int],
    dtype: np.dtype[np.floating],
) -> None:
    """Refuse tables of an untrusted file that would lead out of a shard, or that declare rows which no file has."""
    row_bytes = shape[1] * dtype.itemsize
    room = (shards["bytes"] - shards["offset"]) // row_bytes
    if (shards["rows"] < 1).any() or (shards["offset"] < 0).any() or (shards["rows"] > room).any():
        msg = "a shard has fewer bytes than its rows"
        raise ValueError(msg)
    number, first, rows = (pieces[name] for name in PIECE_COLUMNS)
    is_inside = (number >= 0) & (number < len(shards["rows"])) & (first >= 0) & (rows >= 1)
    if not is_inside.all() or (rows > shards["rows"][number] - first).any():
        msg = "a piece is not inside its shard"
        raise ValueError(msg)
    if sum(rows.tolist()) != shape[0]:
        msg = f"the pieces do not have {shape[0]:,} rows"
        raise ValueError(msg)


def _map_shard(
    store: Path, dim: int, dtype: np.dtype[np.floating], path: Path, offset: int, n_rows: int
) -> NDArray[np.floating]:
    """Map the features of a shard from the recorded place, without HDF5, which takes 30 times as long.

    Raises:
        StoreFormatError: If the file is gone, or shorter than it was.
    """
    try:
        with path.open("rb", buffering=0) as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.ndarray((n_rows, dim), dtype, mapped, offset)
    except (OSError, ValueError, TypeError) as error:
        msg = (
            f"{path}, a shard of the index {store}, cannot be read: {getattr(error, 'strerror', '') or error}; if the "
            f"store was written anew meanwhile, open it again, else run `featx repair {store}`"
        )
        raise StoreFormatError(msg) from error
