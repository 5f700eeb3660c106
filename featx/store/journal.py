"""The journal: immutable shards of rows next to a store while it is being embedded.

A row is keyed by the sha256 of the file's bytes: under one spec, nothing else decides
its values. A shard is written under a temporary name, synced and renamed, so every
shard with its final name is whole, whatever killed the writer.
"""

import contextlib
import functools
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.errors import DataError, StoreError, StoreFormatError, StoreLockedError
from featx.files import forget_pages, make_folder, say_failures
from featx.golden import Golden
from featx.specs import EmbedSpec
from featx.store.hdf5 import create_group, write_file
from featx.store.layout import (
    TEXT,
    decode_text,
    digest_block,
    digest_columns,
    open_group,
    read_column,
    read_numbers,
    read_seconds,
    read_text,
    write_columns,
    write_text,
)
from featx.store.lock import find_owner
from featx.store.sealing import digest_golden, read_golden, write_golden
from featx.store.shards import MAPPED_SHARDS, SHARD_BYTES, ShardFile, map_features

#: A shard is committed when it holds `SHARD_BYTES` or is this old, whichever comes first. Memory holds twice that.
SHARD_SECONDS = 20.0

_FLOAT16_MAX = 65504.0

_COLUMNS = {"sha256": TEXT, "sizes": "<i4"}

#: The group, and its columns, in which a shard of a cluster's worker says what became of each of its items.
_ITEMS = "items"
RECORD_COLUMNS = {
    "id": TEXT,
    "sha256": TEXT,
    "bytes": "<i8",
    "mtime_ns": "<i8",
    "reason": TEXT,
    "unfit": TEXT,
    "is_momentary": "|u1",
    "peak": "<i4",
    "ignored": "<i4",
    "applied": TEXT,
}


@dataclass(slots=True)
class _Pending:
    sha256: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    rows: list[NDArray[np.floating]] = field(default_factory=list)
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Records:
    """What a worker's shard says about its items, also those without a row.

    Attributes:
        columns: `RECORD_COLUMNS`, as lists: `reason` why an item cannot be read or decoded, `unfit` why the store
            cannot hold its row; `peak`, `ignored` and `applied` as in `Decoded`. An item that could not be read
            has no `sha256`.
        source: The source of the items, as a store records it.
        started_ns: Start of the run, in nanoseconds since 1970.
    """

    columns: Mapping[str, list[Any]]
    source: str
    started_ns: int


@dataclass(frozen=True, slots=True)
class Shard:
    """One finished shard.

    Attributes:
        name: Name of its file, without the ending.
        sha256: Content of each row, hexadecimal, as bytes `(n_rows,)`.
        sizes: int32 `(n_rows, 2)`: width and height of each row's image, in px.
        load: The file, which returns the features `(n_rows, dim)` when it is called.
        golden: Golden pictures, with the features from the machine that wrote the shard.
        runtime: The runtime of the network; empty if the shard does not record it.
        drift: Largest relative difference of the runtime from Keras.
        seconds: Time of the run since its last shard or its start; None if the shard does not record it.
        has_records: Whether it says what became of each item, as that of a cluster's worker does; see `read_records`.
    """

    name: str
    sha256: NDArray[np.bytes_]
    sizes: NDArray[np.int32]
    load: ShardFile
    golden: Golden
    runtime: str = ""
    drift: float = 0.0
    seconds: float | None = None
    has_records: bool = False


class Journal:
    """The shards of one store: append rows, commit them, read them back.

    Attributes:
        runtime: The current runtime of the network; recorded in every shard.
        drift: Its largest relative difference from Keras.
        n_items: Number of items of the run, for those who ask how far it is; None records none.
        counted: Until when shards record the time of this run, on the clock of `time.perf_counter`; None records
            no time.

    Args:
        store: Path of the store that the shards will be sealed into.
        spec: Spec of the rows; shards of another spec are refused.
        dim: Width of a row.
        confirm: Raises if this process must no longer write the store.
        golden: Golden pictures, with the features from this machine; needed to commit, recorded in every shard.
        whole: Commit nothing before `finish` writes all rows as one shard.
    """

    def __init__(
        self,
        store: Path,
        spec: EmbedSpec,
        dim: int,
        confirm: Callable[[], None],
        golden: Golden | None = None,
        *,
        whole: bool = False,
    ) -> None:
        self._whole = whole
        self._golden = golden
        self.runtime = ""
        self.drift = 0.0
        self.counted: float | None = None
        self._committed = time.monotonic()
        self.folder = name_journal(store)
        self._confirm = confirm
        self.n_items: int | None = None
        self._found: set[Path] = set()
        self._spec_digest = spec.digest
        self._dtype = np.dtype(spec.dtype)
        self._dim = dim
        self._pending = _Pending()
        self._map = functools.lru_cache(MAPPED_SHARDS)(map_features)

    def append(self, sha256: str, width: int, height: int, row: NDArray[np.floating]) -> None:
        """Add one row, to be committed with its shard.

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
            msg = "the backbone returned non-finite values"
            raise DataError(msg)
        if self._dtype == np.float16 and largest > _FLOAT16_MAX:
            msg = f"a feature of {largest:.0f} does not fit float16 (at most 65,504); use --dtype float32"
            raise StoreError(msg)
        pending = self._pending
        pending.since = pending.since or time.monotonic()
        pending.sha256.append(sha256)
        pending.sizes.append((width, height))
        pending.rows.append(row.astype(self._dtype))
        if self._whole:
            return
        full = len(pending.rows) * self._dim * self._dtype.itemsize >= SHARD_BYTES
        if full or time.monotonic() - pending.since >= SHARD_SECONDS:
            self.commit()

    def commit_in_time(self) -> None:
        """Commit the pending rows if the last commit was long ago; called between batches, which may be slow."""
        if time.monotonic() - self._committed >= SHARD_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Write the pending rows as one shard; after that, no crash can lose them.

        Raises:
            StoreError: If the shard cannot be written; its rows are dropped and must be computed again.
            KeyboardInterrupt: If Ctrl-C interrupts it; the rows stay pending.
        """
        try:
            if self._pending.rows:
                self._write_shard(self._pending)
        except KeyboardInterrupt:
            raise
        except BaseException:
            self._pending = _Pending()
            raise
        self._pending = _Pending()
        self._committed = time.monotonic()

    def _write_shard(self, pending: _Pending, name: str = "", records: Records | None = None) -> Path:
        if self._golden is None:
            msg = f"the journal of {self.folder} was opened for reading"
            raise StoreError(msg)
        if not name:  # no other writer can choose this one, so no committed shard is ever replaced
            name = f"{find_next_number(self.folder):06d}-{secrets.token_hex(4)}"
        with say_failures(self.folder):
            make_folder(self.folder)
        path = self.folder / f"{name}.h5"
        with write_file(path, self._confirm, keep=records is not None) as file:
            features = np.array(pending.rows, self._dtype).reshape(len(pending.rows), self._dim)
            if records is not None:
                _write_records(file, records)
            columns = write_columns(file, {"sha256": pending.sha256, "sizes": pending.sizes}, _COLUMNS)
            file.create_dataset("features", data=features)
            write_text(file.attrs, "spec_digest", self._spec_digest)
            write_text(file.attrs, "runtime", self.runtime)
            file.attrs["drift"] = self.drift
            if self.n_items is not None:
                file.attrs["n_items"] = self.n_items
            now = time.perf_counter()
            if self.counted is not None:
                file.attrs["seconds"] = now - self.counted
            write_text(file.attrs, "features_sha256", digest_block(features))
            write_text(file.attrs, "columns_sha256", *digest_columns(columns))
            write_text(file.attrs, "golden_sha256", write_golden(create_group(file, "golden"), self._golden))
        if self.counted is not None:
            self.counted = now
        return path

    def finish(self, name: str, records: Records) -> bool:
        """Write all rows as one shard, unless another worker has written the same shard before.

        Args:
            name: Name of the shard: the same for every worker that computes it.
            records: What became of each of its items.

        Returns:
            Whether the shard that has the name has these rows, byte for byte. If not, it is kept nevertheless.

        Raises:
            StoreError: If the shard cannot be written, or this process must no longer write.
        """
        rows = np.array(self._pending.rows, self._dtype).reshape(len(self._pending.rows), self._dim)
        contents = self._pending.sha256
        try:
            self._confirm()
            path = self._write_shard(self._pending, name, records)
        except StoreLockedError:  # a worker that could not be reached when its run ended
            with contextlib.suppress(OSError):
                self.folder.rmdir()
            raise
        self._pending = _Pending()
        with h5py.File(path, "r", locking=False) as file:
            kept = decode_text(read_column(file, "sha256", TEXT)).tolist()
            # Files that changed between two attempts say nothing about the network.
            return kept != contents or read_text(file.attrs, "features_sha256") == digest_block(rows)

    def _list_shards(self) -> list[Path]:
        return _list_shards(self.folder)

    def read_shards(self) -> Iterator[Shard]:
        """Yield every finished shard that was not read before, oldest first.

        Raises:
            StoreError: If a shard belongs to another spec.
            StoreFormatError: If a shard is damaged.
        """
        for path in self._list_shards():
            if path in self._found:
                continue
            try:
                shard = self._read_shard(path)
            except (KeyError, ValueError, TypeError, OSError, RuntimeError) as error:
                if isinstance(error, StoreError):
                    raise
                raise _make_damage_error(path, error) from error
            self._found.add(path)
            yield shard

    def _read_shard(self, path: Path) -> Shard:
        with h5py.File(path, "r", locking=False) as file:
            if read_text(file.attrs, "spec_digest") != self._spec_digest:
                msg = (
                    f"{self.folder} holds unfinished work of another spec; finish it with the command that "
                    f"started it, delete the folder, or write another store with --name NAME"
                )
                raise StoreError(msg)
            columns = {name: read_column(file, name, kind) for name, kind in _COLUMNS.items()}
            golden = read_golden(open_group(file, "golden"))
            checksums = [read_text(file.attrs, f"{name}_sha256") for name in ("features", "columns", "golden")]
            recorded = "runtime" in file.attrs  # not in older shards
            runtime, drift = (
                (read_text(file.attrs, "runtime"), float(read_numbers(file.attrs, "drift"))) if recorded else ("", 0.0)
            )
            seconds = read_seconds(file.attrs, "seconds")
            has_records = _ITEMS in file
            if has_records:
                _read_records(file)  # raises if they are damaged; they are read again when they are needed
        features = self._map(path)
        contents, sizes = columns["sha256"], columns["sizes"]
        if features.shape != (len(contents), self._dim) or features.dtype != self._dtype:
            msg = f"{features.dtype} {features.shape} cannot be the features of {len(contents)} images"
            raise ValueError(msg)
        if checksums != [digest_block(features), *digest_columns(columns), digest_golden(golden)]:
            msg = "its bytes differ from their checksum"
            raise ValueError(msg)
        forget_pages(features)
        load = ShardFile(path, functools.partial(self._map, path), len(features))
        sizes = sizes.reshape(-1, 2)  # a shard of nothing but bad images has no rows
        return Shard(path.stem, contents, sizes, load, golden, runtime, drift, seconds, has_records)

    def discard(self) -> None:
        """Remove the shards that were read, once their rows are sealed.

        Raises:
            StoreLockedError: If another writer has taken over the store.
        """
        self._map.cache_clear()
        for path in self._found:
            self._confirm()
            path.unlink(missing_ok=True)
        self._found.clear()
        with contextlib.suppress(OSError):  # missing, or not empty: files from elsewhere stay
            self.folder.rmdir()


def _write_records(file: h5py.File, records: Records) -> None:
    columns = write_columns(create_group(file, _ITEMS), records.columns, RECORD_COLUMNS)
    write_text(file.attrs, "items_sha256", *digest_columns(columns))
    write_text(file.attrs, "source", records.source)
    file.attrs["started_ns"] = records.started_ns


def _read_records(file: h5py.File) -> Records:
    group = open_group(file, _ITEMS)
    columns = {name: read_column(group, name, kind) for name, kind in RECORD_COLUMNS.items()}
    if [read_text(file.attrs, "items_sha256")] != digest_columns(columns):
        msg = "its items differ from their checksum"
        raise ValueError(msg)
    lists = {
        name: (decode_text(column) if RECORD_COLUMNS[name] == TEXT else column).tolist()
        for name, column in columns.items()
    }
    return Records(lists, read_text(file.attrs, "source"), int(read_numbers(file.attrs, "started_ns")))


def read_records(store: Path, name: str) -> Records:
    """Read what a worker's shard says about its items, without its features.

    Args:
        store: Path of the store.
        name: Name of the shard.

    Raises:
        StoreFormatError: If it is damaged.
    """
    path = name_journal(store) / f"{name}.h5"
    try:
        with h5py.File(path, "r", locking=False) as file:
            return _read_records(file)
    except (KeyError, ValueError, TypeError, OSError, RuntimeError) as error:
        raise _make_damage_error(path, error) from error


def _make_damage_error(path: Path, error: Exception) -> StoreFormatError:
    reason = " ".join(str(error).split())
    return StoreFormatError(f"{path} is damaged: {reason}; delete it, and its images will be embedded again")


def find_next_number(folder: Path) -> int:
    """Return a number for the next shard, above those of all shards of a journal."""
    return 1 + max((int(path.stem.partition("-")[0]) for path in _list_shards(folder)), default=0)


def name_journal(store: Path) -> Path:
    """Return the folder of a store's shards."""
    return store.with_name(store.name + ".parts")


def describe_unfinished(store: Path) -> str:
    """Describe the work on a store that it does not hold yet; empty if there is none.

    Args:
        store: Path of the store, which need not exist.
    """
    owner, shards = find_owner(store), _list_shards(name_journal(store))
    if not owner and not shards:
        return ""
    n_rows, n_items = 0, 0
    for path in shards:
        with contextlib.suppress(OSError, KeyError, ValueError), h5py.File(path, "r", locking=False) as file:
            n_rows += len(read_column(file, "sha256", TEXT))
            n_items = int(read_numbers(file.attrs, "n_items")) if "n_items" in file.attrs else n_items
    share = f"{n_rows:,} of {n_items:,} images" if n_items and not store.exists() else f"{n_rows:,} new images"
    if owner:
        return f"{store} is being written by {owner} ({share} so far); wait until it has finished"
    return f"the writing of {store} was interrupted ({share} are done); run the same `featx embed` again to finish it"


def list_unfinished(folder: Path) -> list[Path]:
    """List the stores of a folder that are being written, or whose writing was interrupted."""
    found = {path.with_suffix("") for pattern in ("[!.]*.h5.parts", "[!.]*.h5.lock") for path in folder.glob(pattern)}
    return sorted(path for path in found if describe_unfinished(path))


def _list_shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*-*.h5"))
