"""Files of rows: the finished work of a run, and what an index keeps of it."""

import re
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.errors import StoreFormatError
from featx.files import forget_pages
from featx.store.layout import digest_block, map_dataset, open_dataset

#: A mapped file is an open file. A process may have 1,024 of them, and a long run leaves thousands of shards.
MAPPED_SHARDS = 128

#: Size of a shard: of finished work, or of rows that an index does not find in long runs.
SHARD_BYTES = 16 << 20

#: The start of a sha256 that the content decides; such a name leads nowhere else, on any system.
_NAME = re.compile(r"[0-9a-f]{32}\.h5")


@dataclass(frozen=True, slots=True, eq=False)
class ShardFile:
    """A file whose `/features` an index may keep, instead of a copy of its rows.

    Attributes:
        path: The file.
        load: Maps its features.
        n_rows: Their number.
        n_bytes: Size of the file; 0 if it is not recorded.
        offset: Where the features begin in it, in bytes; 0 if it is not recorded.
        block_rows: Rows that one checksum covers; 0 if there are no checksums yet.
        blocks: The checksums.
        identity: Device and inode that the features are mapped from; None where the name says which file it is.
    """

    path: Path
    load: Callable[[], NDArray[np.floating]]
    n_rows: int
    n_bytes: int = 0
    offset: int = 0
    block_rows: int = 0
    blocks: Sequence[str] = ()
    identity: tuple[int, int] | None = None

    def __call__(self) -> NDArray[np.floating]:
        """Return the features `(n_rows, dim)`, mapped; drop them as soon as possible."""
        return self.load()

    def is_there(self) -> bool:
        """Return whether the file is there with its size; a link or anything else is not the file."""
        try:
            found = self.path.lstat()
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size == self.n_bytes

    def digest(self, block_rows: int) -> Sequence[str]:
        """Return the checksums of blocks of so many rows: the known ones, or new ones.

        Raises:
            StoreFormatError: If rows with known checksums of other blocks are damaged.
        """
        if self.block_rows == block_rows:
            return self.blocks
        if self.blocks and self.find_damage():
            msg = f"{self.path} is damaged; run `featx repair` on its store first"
            raise StoreFormatError(msg)
        rows = self()
        found = []
        for first in range(0, self.n_rows, block_rows):
            found.append(digest_block(rows[first : first + block_rows]))
            forget_pages(rows)
        return found

    def is_sound(self, block: int) -> bool:
        """Return whether a block of rows has its checksum."""
        rows, first = self(), block * self.block_rows
        is_sound = digest_block(rows[first : first + self.block_rows]) == self.blocks[block]
        forget_pages(rows)
        return is_sound

    def find_damage(self) -> list[tuple[int, int]]:
        """List the ranges of rows that are missing or differ from their checksum: the first, and the one after."""
        if not self.is_there():
            return [(0, self.n_rows)]
        try:
            bad = [block for block in range(len(self.blocks)) if not self.is_sound(block)]
        except StoreFormatError:  # it cannot be mapped
            return [(0, self.n_rows)]
        return [(block * self.block_rows, min((block + 1) * self.block_rows, self.n_rows)) for block in bad]


@dataclass(frozen=True, slots=True)
class Row:
    """The place of one item's features: a function that loads a matrix, such as a `ShardFile`, and the row in it."""

    load: Callable[[], NDArray[np.floating]]
    index: int


def read_rows(rows: Iterable[Row], n_rows: int, dim: int, dtype: np.dtype[np.floating]) -> NDArray[np.floating]:
    """Copy rows into one matrix.

    Args:
        rows: Their places.
        n_rows: Their number.
        dim: Width of a row.
        dtype: Dtype of the matrix.
    """
    block = np.empty((n_rows, dim), dtype)
    last = block
    for at, row in enumerate(rows):
        matrix = row.load()
        block[at] = matrix[row.index]  # copied, so that only the matrices that the loader keeps stay mapped
        if matrix is not last:
            forget_pages(last)
            last = matrix
    forget_pages(last)
    return block


def find_offset(path: Path) -> int:
    """Return where the features of a shard begin in its file."""
    with h5py.File(path, "r", locking=False) as file:
        return int(open_dataset(file, "features").id.get_offset())


def map_features(path: Path) -> NDArray[np.floating]:
    """Map the features of a shard.

    Raises:
        KeyError, TypeError, ValueError, OSError, RuntimeError: If it has none that are stored as they must be.
    """
    with h5py.File(path, "r", locking=False) as file:
        return map_dataset(open_dataset(file, "features"))


def name_shards(store: Path) -> Path:
    """Return the folder of the shards that an index keeps."""
    return store.with_name(store.name + ".shards")


def is_shard_name(name: str) -> bool:
    """Return whether a shard of an index may have that name."""
    return bool(_NAME.fullmatch(name))
