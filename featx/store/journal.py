"""The journal: immutable shards of rows beside a store while it is being embedded.

A row is keyed by the sha256 of the file's bytes, since nothing else decides it
under one spec. A shard is written under a temporary name, synced and renamed, so
that every shard that has its name is whole, whatever killed the writer.
"""

import functools
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.errors import DataError, StoreError, StoreFormatError
from featx.specs import EmbedSpec
from featx.store.durability import sync_folder, write_file
from featx.store.layout import TEXT, decode_text, encode_text, map_dataset, read_column, read_text, write_text

#: A shard is committed when it holds this many bytes or is this old, whichever comes first.
SHARD_BYTES = 64 << 20
SHARD_SECONDS = 20.0

#: A mapped file is an open file, of which a process may have 1,024, and a long run leaves thousands of shards.
_MAPPED_SHARDS = 128

_FLOAT16_MAX = 65504.0


@dataclass(slots=True)
class _Pending:
    sha256: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    rows: list[NDArray[np.floating]] = field(default_factory=list)
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Shard:
    """One finished shard.

    Attributes:
        sha256: Content of each row, hexadecimal.
        sizes: `(width, height)` of each row's image, in px.
        load: Returns the features `(n_rows, dim)`, mapped from the file; keep them no longer than they are used.
    """

    sha256: list[str]
    sizes: list[tuple[int, int]]
    load: Callable[[], NDArray[np.floating]]


class Journal:
    """Shards of one store; append rows, commit them, read them back.

    Args:
        store: Path of the store that the shards will be sealed into.
        spec: What the rows are; shards of another spec are refused.
        dim: Width of a row.
    """

    def __init__(self, store: Path, spec: EmbedSpec, dim: int) -> None:
        self.folder = store.with_name(store.name + ".parts")
        self._spec_digest = spec.digest
        self._dtype = np.dtype(spec.dtype)
        self._dim = dim
        self._pending = _Pending()
        self._map = functools.lru_cache(_MAPPED_SHARDS)(_map_features)

    def append(self, sha256: str, width: int, height: int, row: NDArray[np.floating]) -> None:
        """Add one row; it is committed with its shard.

        Args:
            sha256: Content of the file, hexadecimal.
            width: Width of the image in px.
            height: Height of the image in px.
            row: `(dim,)`, finite.

        Raises:
            DataError: If the row is not finite; it is not added.
            StoreError: If float16 cannot hold it, or the shard that it completes cannot be written.
        """
        largest = float(np.abs(row).max(initial=0.0))
        if not np.isfinite(largest):
            msg = "the backbone gave values that are not finite"
            raise DataError(msg)
        if self._dtype == np.float16 and largest > _FLOAT16_MAX:
            msg = f"a feature of {largest:.0f} does not fit float16, which ends at 65,504; use --dtype float32"
            raise StoreError(msg)
        pending = self._pending
        pending.since = pending.since or time.monotonic()
        pending.sha256.append(sha256)
        pending.sizes.append((width, height))
        pending.rows.append(row.astype(self._dtype))
        full = len(pending.rows) * self._dim * self._dtype.itemsize >= SHARD_BYTES
        if full or time.monotonic() - pending.since >= SHARD_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Write the pending rows as one shard; afterwards no crash can lose them.

        Raises:
            StoreError: If the shard cannot be written; its rows are dropped, to be computed again.
        """
        pending, self._pending = self._pending, _Pending()
        if not pending.rows:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        sync_folder(self.folder.parent)
        number = 1 + max((int(path.stem) for path in self._list_shards()), default=0)
        with write_file(self.folder / f"{number:06d}.h5") as file:
            write_text(file.attrs, "spec_digest", self._spec_digest)
            file.create_dataset("features", data=np.stack(pending.rows))
            file.create_dataset("sha256", data=encode_text(pending.sha256))
            file.create_dataset("sizes", data=np.array(pending.sizes, dtype="<i4"))

    def _list_shards(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.h5"))

    def read_shards(self) -> Iterator[Shard]:
        """Read every finished shard, oldest first.

        Raises:
            StoreError: If a shard belongs to another spec.
            StoreFormatError: If a shard is damaged.
        """
        for path in self._list_shards():
            try:
                shard = self._read_shard(path)
            except (KeyError, ValueError, TypeError, OSError, RuntimeError) as error:
                if isinstance(error, StoreError):
                    raise
                msg = f"{path} is damaged: {' '.join(str(error).split())}; delete it, and its images are embedded again"
                raise StoreFormatError(msg) from error
            yield shard

    def _read_shard(self, path: Path) -> Shard:
        with h5py.File(path, "r") as file:
            if read_text(file.attrs, "spec_digest") != self._spec_digest:
                msg = (
                    f"{self.folder} holds unfinished work of another spec; finish it with the command that "
                    f"began it, delete the folder, or write another store with --name"
                )
                raise StoreError(msg)
            contents = decode_text(read_column(file, "sha256", TEXT)).tolist()
            sizes = list(map(tuple, read_column(file, "sizes", "<i4").tolist()))
        features = self._map(path)
        if features.shape != (len(contents), self._dim) or features.dtype != self._dtype:
            msg = f"{features.dtype} {features.shape} are no features of {len(contents)} images"
            raise ValueError(msg)
        return Shard(contents, sizes, functools.partial(self._map, path))

    def discard(self) -> None:
        """Remove the shards, once they are sealed, and what killed writers left half-written."""
        self._map.cache_clear()
        if self.folder.exists():
            shutil.rmtree(self.folder)


def _map_features(path: Path) -> NDArray[np.floating]:
    with h5py.File(path, "r") as file:
        return map_dataset(path, file["features"])
