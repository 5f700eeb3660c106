"""Sharding: the rows of an index stay in the files that have them, where that is worth a name in the index."""

import functools
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import StoreError, StoreFormatError
from featx.files import make_folder, name_temporary, remove_leftovers, say_failures, sync_file, sync_folder
from featx.store.hdf5 import write_file
from featx.store.known_rows import Rows
from featx.store.shards import (
    SHARD_BYTES,
    Row,
    ShardFile,
    find_offset,
    is_shard_name,
    map_features,
    name_shards,
    read_rows,
)
from featx.wording import format_bytes

#: A run of rows of one file that is shorter is copied: HDF5 takes 20 s to write a mapping of 80,000 runs.
LEAST_RUN = 256

#: Rows that are looked at in one slice.
_TRACED_ROWS = 65_536

Numbers = NDArray[np.intp]


class Sharding:
    """The shards of a new index, in the folder beside it.

    A file that has long runs of the rows is linked into the folder, under a name that its content decides. Other rows
    are copied into new files. So an index never needs more files, nor a longer mapping, than its size explains.

    Attributes:
        shards: `featx.store.index.SHARD_COLUMNS`.
        pieces: `featx.store.index.PIECE_COLUMNS`.
        blocks: Checksums of blocks of rows, shard by shard.

    Args:
        store: Path of the index.
        rows: Its rows.
        dim: Width of a row.
        dtype: Dtype of the features.
        block_rows: Rows that one checksum covers.
        confirm: Raises if this process must no longer write the store.

    Raises:
        StoreError: If a file cannot be written, or was replaced by another one.
        StoreFormatError: If a row that must be copied is damaged.
    """

    def __init__(
        self,
        store: Path,
        rows: Sequence[Row],
        dim: int,
        dtype: np.dtype[np.floating],
        block_rows: int,
        confirm: Callable[[], None],
    ) -> None:
        self._folder = name_shards(store.parent.resolve() / store.name)
        self._confirm, self._block_rows = confirm, block_rows
        self.shards: dict[str, list[Any]] = {"name": [], "rows": [], "bytes": [], "offset": []}
        self.blocks: list[str] = []
        files, number, at = _trace(rows)
        moved = _choose_moved(files, number, at)
        _refuse_damage(files, number[moved], at[moved])
        step = max(LEAST_RUN, SHARD_BYTES // (dim * dtype.itemsize))
        number[moved] = len(files) + np.arange(len(moved)) // step
        at[moved] = np.arange(len(moved)) % step
        starts, counts = _cut(number, at)
        order, shards = np.unique(number[starts], return_inverse=True)
        self.pieces = {"shard": shards.tolist(), "first": at[starts].tolist(), "rows": counts.tolist()}
        with say_failures(self._folder):
            make_folder(self._folder)
            for name in order.tolist():
                if name < len(files):
                    self._keep(files[name])
                else:
                    chosen = moved[(name - len(files)) * step :][:step]
                    self._write(read_rows((rows[row] for row in chosen), len(chosen), dim, dtype))
            sync_folder(self._folder)

    def _write(self, features: NDArray[np.floating]) -> None:
        path = self._folder / "new.h5"
        with write_file(path, self._confirm) as file:
            file["features"] = features
        self._keep(ShardFile(path, functools.partial(map_features, path), len(features)))
        path.unlink()

    def _keep(self, file: ShardFile) -> None:
        """Give a file its name in the folder, in addition to the one that it has."""
        blocks, size = file.digest(self._block_rows), file.path.stat().st_size
        name = f"{hashlib.sha256(' '.join([str(size), *blocks]).encode()).hexdigest()[:32]}.h5"
        path = self._folder / name
        if file.path != path:
            self._confirm()
            _link(file, path)
        offset = file.offset or find_offset(path)
        for column, value in zip(self.shards.values(), (name, file.n_rows, size, offset), strict=True):
            column.append(value)
        self.blocks += blocks


def _link(file: ShardFile, path: Path) -> None:
    """Give a file another name; it takes that of an older file, which may be damaged, in one step."""
    source, temporary = file.path.resolve(), name_temporary(path)
    try:
        try:
            os.link(source, temporary)
        except OSError:  # no hard links here, as on exFAT, or another disk
            shutil.copyfile(source, temporary)
            sync_file(temporary)
        found = source.stat()
        if file.identity not in {None, (found.st_dev, found.st_ino)}:
            msg = f"{file.path} was written anew meanwhile; run the command again"
            raise StoreError(msg)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # also there if both names had led to one file


def discard_shards(store: Path, kept: Iterable[str], confirm: Callable[[], None]) -> None:
    """Remove the shards that an index does not name, and what killed writers left; without any, their folder too.

    Args:
        store: Path of the store.
        kept: Names of shards.
        confirm: Raises if this process must no longer write the store.
    """
    folder, names = name_shards(store), frozenset(kept)
    if not folder.is_dir():
        return
    with say_failures(folder):
        remove_leftovers(folder)
        for path in folder.iterdir():
            if path.name == "new.h5" or (is_shard_name(path.name) and path.name not in names):
                confirm()
                path.unlink(missing_ok=True)
        if not any(folder.iterdir()):  # files from elsewhere stay
            folder.rmdir()


def describe_index(path: Path, n_bytes: int) -> str:
    """Say that a store becomes an index."""
    return (
        f"{path} becomes an index: its features of {format_bytes(n_bytes)} stay in {name_shards(path)}/, which belongs "
        f"to it; `featx pack {path}` makes one file"
    )


def _trace(rows: Sequence[Row]) -> tuple[list[ShardFile], Numbers, Numbers]:
    """Return the files that rows are in, and for each row the number of its file, -1 for none, and its row there."""
    if isinstance(rows, Rows):  # as of an embed, which may have many millions
        loads, number, at = rows.arrays
        files = [load for load in loads if isinstance(load, ShardFile)]
        places = {id(file): place for place, file in enumerate(files)}
        return files, np.array([places.get(id(load), -1) for load in loads])[number], at
    numbers: dict[ShardFile, int] = {}
    number, at = np.full(len(rows), -1, np.intp), np.zeros(len(rows), np.intp)
    for start in range(0, len(rows), _TRACED_ROWS):  # by slices: a lazy sequence takes ten times as long by rows
        for place, row in enumerate(rows[start : start + _TRACED_ROWS], start):
            if isinstance(row.load, ShardFile):
                number[place], at[place] = numbers.setdefault(row.load, len(numbers)), row.index
    return list(numbers), number, at


def _cut(number: Numbers, at: Numbers) -> tuple[Numbers, Numbers]:
    """Cut rows into runs that follow each other in a file; return the start of each, and its length."""
    follows = (number[1:] == number[:-1]) & (at[1:] == at[:-1] + 1)
    starts = np.concatenate([[0], np.flatnonzero(~follows) + 1])
    return starts, np.diff(starts, append=len(number))


def _choose_moved(files: Sequence[ShardFile], number: Numbers, at: Numbers) -> Numbers:
    """Choose the rows that are copied: those in no file, in short runs, or in a file that is mostly not needed."""
    starts, counts = _cut(number, at)
    of = number[starts]
    is_kept = (of >= 0) & (counts >= LEAST_RUN)
    used = np.bincount(of[is_kept], counts[is_kept], minlength=len(files))
    is_sparse = used < np.array([file.n_rows for file in files]) / 2
    is_kept[is_kept] = ~is_sparse[of[is_kept]]
    return np.flatnonzero(np.repeat(~is_kept, counts))


def _refuse_damage(files: Sequence[ShardFile], number: Numbers, at: Numbers) -> None:
    """Read every block that a row is copied from, where checksums would hide damage."""
    steps = np.array([file.block_rows for file in files], np.intp)
    known = number >= 0
    known[known] = steps[number[known]] > 0
    number, block = number[known], at[known] // steps[number[known]]
    many = int(block.max(initial=0)) + 1
    for key in np.unique(number * many + block).tolist():
        file = files[key // many]
        if not file.is_sound(key % many):
            msg = f"{file.path} is damaged; run `featx repair` on its store first"
            raise StoreFormatError(msg)
