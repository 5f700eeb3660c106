"""Writing one store: disk space, the rows it already holds, new rows, and sealing."""

import contextlib
import logging
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from featx.errors import SpecMismatchError, StoreError
from featx.files import remove_leftovers, say_failures, sync_folder
from featx.golden import Golden
from featx.options import INDEX_ABOVE
from featx.specs import EmbedSpec, find_differences
from featx.store.copying import OtherStore, list_others
from featx.store.feature_store import FeatureStore
from featx.store.journal import Journal, Records, read_records
from featx.store.known_rows import Contents, KnownRows, encode_digests
from featx.store.layout import ITEM_COLUMNS, Columns, add_seconds
from featx.store.lock import StoreLock
from featx.store.sealing import Provenance, digest_golden, seal
from featx.store.sharding import describe_index, discard_shards
from featx.store.shards import name_shards
from featx.store.verification import refuse_damage, verify_store

#: A smaller store needs no note about disk space.
_WORTH_SAYING_BYTES = 100_000_000

#: For names, checksums and the file system's own records.
_SPARE_BYTES = 1_000_000

logger = logging.getLogger(__name__)


class StoreWriter:
    """The only way to change a store; a context manager that holds its lock.

    Attributes:
        old: The existing store; None if there was none, or if nothing in it can be salvaged.
        lost: bool `(n_items,)`: damaged rows of the existing store, which are treated as missing.
        goldens: Golden pictures, with the features from each machine that computed known rows.
        copied: The other store of the folder that the row of an image was taken from, and the row, by the image's
            sha256.

    Args:
        path: The store, which may exist.
        spec: Spec of its features.
        provenance: Origin of its features.
        salvage: Open a damaged store as well, and treat its damaged rows as missing.
        begun: Start of this run, on the clock of `time.perf_counter`, so that the store can record the time of its
            rows; None records no time.
        n_items: Number of items of this run, so that readers of unfinished work know how far it is; None records none.
        index_above: Bytes of features above which the store becomes an index.

    Raises:
        SpecMismatchError: If the store exists with another spec.
        StoreLockedError: If another process is writing the store.
        StoreError: If the store is damaged, or unfinished work next to it belongs to another spec.
    """

    def __init__(
        self,
        path: Path,
        spec: EmbedSpec,
        provenance: Provenance,
        *,
        salvage: bool = False,
        begun: float | None = None,
        n_items: int | None = None,
        index_above: int = INDEX_ABOVE,
    ) -> None:
        self._index_above = index_above
        self.path = path
        self.spec = spec
        self._provenance = provenance
        self._lock = StoreLock(path)
        self._journal = Journal(
            path, spec, int(np.prod(provenance.feature_shape)), self._lock.confirm, provenance.golden
        )
        self._journal.counted = begun
        self._journal.n_items = n_items
        self._salvage = salvage
        self._damaged = False
        self._resources = contextlib.ExitStack()
        self._rows = KnownRows()
        self._recorded: list[str] = []
        self._runtimes: set[str] = set()
        self._drift = 0.0
        self._seconds: float | None = 0.0
        self.old: FeatureStore | None = None
        self.lost: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self.goldens: list[Golden] = []
        self.copied: dict[str, tuple[FeatureStore, int]] = {}
        self._others: list[OtherStore] = []

    def __enter__(self) -> Self:
        self._resources.enter_context(self._lock)
        with contextlib.ExitStack() as undo:
            undo.callback(self._resources.close)
            # Before anything is read: a file that the last owner has not renamed yet never will be.
            with say_failures(self.path):
                remove_leftovers(self.path.parent, f"{self.path.name}.")
                remove_leftovers(self._journal.folder)
                remove_leftovers(name_shards(self.path))
            self._read_known()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._journal.commit()  # an interrupted run keeps all finished rows
        finally:
            self._resources.close()

    def _read_known(self) -> None:
        if self.path.exists():
            self._read_old()
        self._read_journal()
        if not self._salvage:
            self._others = list_others(self.path, self.spec.digest, self._provenance.golden)

    def copy(self, sha256: str) -> bool:
        """Take the row of an image that this store lacks from another store of the folder; return whether one has it.

        It must be sound, and this machine must compute the same.
        """
        if sha256 in self.copied:
            return True
        found = next(filter(None, (other.find(sha256) for other in self._others)), None)
        if found is None:
            return False
        self.copied[sha256] = found
        return True

    def _read_old(self) -> None:
        old = FeatureStore(self.path, allow_damage=self._salvage)
        check_spec(old, self.spec)
        self.lost = np.zeros(len(old), np.bool_)
        if self._salvage:
            found = verify_store(self.path)
            self._damaged, self.lost = bool(found.damage), found.lost
            if found.hopeless:
                return
        self.old = old
        self.goldens.append(old.golden)
        self._add_runtime(old.runtime, old.drift)
        self._seconds = old.embed_seconds
        for file, rows, at in old.group_rows(np.flatnonzero(~self.lost)):
            self._rows.add(old.contents[rows], old.sizes_px[rows], file, at)

    def _read_journal(self) -> None:
        before = self._rows.contents
        for shard in self._journal.read_shards():
            if (before.find(encode_digests(shard.sha256)) < 0).any():  # else sealed by a run that was killed then
                self._seconds = add_seconds((self._seconds, shard.seconds))
            self._rows.add(shard.sha256, shard.sizes, shard.load)
            self._add_runtime(shard.runtime, shard.drift)
            if shard.has_records:
                self._recorded.append(shard.name)
            if not any(digest_golden(shard.golden) == digest_golden(golden) for golden in self.goldens):
                self.goldens.append(shard.golden)

    def _add_copied(self) -> None:
        """Add the rows that were copied from other stores, each of which is open once."""
        stores = {id(store): store for store, _ in self.copied.values()}
        for key, store in stores.items():
            copied = np.array([row for other, row in self.copied.values() if id(other) == key])
            for file, rows, at in store.group_rows(copied):
                self._rows.add(store.contents[rows], store.sizes_px[rows], file, at)

    @property
    def has_records(self) -> bool:
        """Whether `read_records` yields any."""
        return bool(self._recorded)

    def read_records(self) -> Iterator[Records]:
        """Yield what the workers of an interrupted run on a cluster recorded of their items, shard by shard."""
        return (read_records(self.path, name) for name in self._recorded)

    @property
    def known(self) -> Contents:
        """The sha256 of every image whose row was committed when this is read."""
        return self._rows.contents

    @property
    def row_bytes(self) -> int:
        """Size of one row on disk, in bytes."""
        return math.prod(self._provenance.feature_shape) * np.dtype(self.spec.dtype).itemsize

    @property
    def n_unfinished(self) -> int:
        """Largest number of rows that an earlier run left unsealed or that other stores have: no shard gets them."""
        sealed = 0 if self.old is None else len(np.unique(self.old.contents[~self.lost]))
        return len(self.known) - sealed + sum(map(len, self._others))

    @property
    def lock(self) -> bytes:
        """Content of the lock file, with which workers of this run know that it still holds."""
        return self._lock.content

    def clear_leftovers(self) -> None:
        """Remove what workers of this run had not finished when they ended; nothing that they write later counts."""
        remove_leftovers(self._journal.folder)

    def note_runtime(self, name: str, drift: float) -> None:
        """Record the runtime of the rows that are appended from now on; the store names all runtimes of its rows."""
        self._journal.runtime, self._journal.drift = name, drift
        self._add_runtime(name, drift)

    def _add_runtime(self, names: str, drift: float) -> None:
        self._runtimes.update(names.split(", ") if names else ())
        self._drift = max(self._drift, drift)

    def leave_out(self, seconds: float) -> None:
        """Leave some of the time that has just passed out of what is recorded: other networks took it."""
        if self._journal.counted is not None:
            self._journal.counted += seconds

    def append(self, sha256: str, width: int, height: int, row: NDArray[np.floating]) -> None:
        """Add a row; see `Journal.append`."""
        self._journal.append(sha256, width, height, row)

    def commit_in_time(self) -> None:
        """Commit the pending rows if the last commit was long ago."""
        self._journal.commit_in_time()

    def seal(self, items: Columns, quarantine: Columns) -> FeatureStore:
        """Write the store again with exactly these items, unless it already holds them.

        Args:
            items: The columns of `/items` except width and height, which come with the rows.
            quarantine: The columns of `/quarantine`.

        Raises:
            StoreError: If an item has no row, or the file cannot be written.
            StoreFormatError: If features of the existing store are damaged.
        """
        self._journal.commit()
        self._read_journal()
        self._add_copied()
        contents = encode_digests(items["sha256"])
        try:
            rows, sizes = self._rows.select(contents)
        except KeyError as error:
            sha256, count = error.args
            msg = f"{count} items have no features (first sha256: {sha256}); {self.path} is unchanged"
            raise StoreError(msg) from error
        columns: Columns = {**items, "width": sizes[:, 0], "height": sizes[:, 1]}
        if self.old is None or not self._holds(self.old, columns, quarantine):
            is_index = self.plans_index(len(sizes))
            if not (self._salvage or is_index):  # an index keeps the checksums of its rows
                refuse_damage([self.old] if self.old else [])
            provenance = self._choose_provenance(contents)
            if is_index and not (self.old and self.old.is_index):
                logger.warning("%s", describe_index(self.path, len(rows) * self.row_bytes))
            confirm = self._lock.confirm
            seal(self.path, self.spec, provenance, columns, rows, quarantine, confirm=confirm, is_index=is_index)
            self.old, self._damaged = FeatureStore(self.path), False
        else:
            with say_failures(self.path):
                os.utime(self.path)  # the last requested store is the newest, even if there was nothing to do
                sync_folder(self.path.parent)  # its writer may have been killed before this; shards are removed after
            discard_shards(self.path, self.old.list_shards(), self._lock.confirm)
        with say_failures(self._journal.folder):
            self._journal.discard()
        return self.old

    def plans_index(self, n_items: int) -> bool:
        """Return whether the store will be an index with so many items; an index stays one until it is packed."""
        was_index = self.old is not None and self.old.is_index
        return was_index or n_items * self.row_bytes > self._index_above

    def _holds(self, old: FeatureStore, columns: Columns, quarantine: Columns) -> bool:
        new = self._provenance
        if self._damaged or (old.source, old.backbone_file, old.reading) != (
            new.source,
            new.backbone_file,
            new.reading,
        ):
            return False
        same = all(old.has_column(name, columns[name]) for name in ITEM_COLUMNS)
        return same and old.quarantine == list(zip(*quarantine.values(), strict=True))

    def _note_copied(self, contents: NDArray[np.bytes_]) -> None:
        """Add the runtime of copied rows, and the part of its time that they took, to those of this store."""
        copied = encode_digests(list(self.copied))
        is_used = np.isin(copied, contents)
        if self.old is not None:
            is_used &= ~np.isin(copied, self.old.contents)
        used = Counter(store for (store, _), one in zip(self.copied.values(), is_used, strict=True) if one)
        for store, count in used.items():
            self._add_runtime(store.runtime, store.drift)
            share = (
                None if store.embed_seconds is None else store.embed_seconds * count / len(np.unique(store.contents))
            )
            self._seconds = add_seconds((self._seconds, share))

    def _choose_provenance(self, contents: NDArray[np.bytes_]) -> Provenance:
        """Keep the provenance of the first rows: all later rows were checked against its golden pictures."""
        if self.copied:
            self._note_copied(contents)
        runtimes = ", ".join(sorted(self._runtimes)) or self._provenance.runtime
        new = replace(self._provenance, runtime=runtimes, drift=self._drift, embed_seconds=self._seconds)
        if self.old is None:
            return new
        versions = {**new.created_with, **self.old.created_with}  # plus packages that the first run did not use
        return replace(new, golden=self.old.golden, created_with=versions)


def check_spec(store: FeatureStore, spec: EmbedSpec) -> None:
    """Refuse a store of another spec.

    Raises:
        SpecMismatchError: The message names the fields that differ, with both values.
    """
    if store.spec.digest != spec.digest:
        differences = "; ".join(find_differences(spec, store.spec))
        msg = f"{store.path} holds features of another spec ({differences}); write another store with --name NAME"
        raise SpecMismatchError(msg)


def check_space(writers: Sequence[StoreWriter], n_items: int, n_new: int) -> None:
    """Log the size of large stores before a run, and refuse stores that the disk has no room for.

    While a store is sealed, the disk holds the shards of the run and the new file, as well as an older store.
    That much must be free, not just the size of the store. An index keeps the shards instead.

    Args:
        writers: The stores, in one folder.
        n_items: Number of items that each store will hold.
        n_new: Largest number of these that a store does not hold yet.

    Raises:
        StoreError: If the disk has less free space.
    """
    if not n_new:
        return
    item_bytes = sum(writer.row_bytes for writer in writers)
    unwritten = sum(writer.row_bytes * max(0, n_new - writer.n_unfinished) for writer in writers)
    copied = sum(writer.row_bytes * n_items for writer in writers if not writer.plans_index(n_items))
    store_bytes, needed = n_items * item_bytes, copied + unwritten + _SPARE_BYTES
    folder = writers[0].path.parent
    free = shutil.disk_usage(_find_existing(folder)).free
    size = f"{n_items:,} items of {_show(item_bytes)} each need {_show(store_bytes)} in {folder}"
    if needed > free:
        msg = (
            f"{size}, and {_show(needed)} during writing, but only {_show(free)} is free: make room, choose another "
            f"disk with --features, or store less (fewer --views, another --pooling, --dtype float16)"
        )
        raise StoreError(msg)
    if store_bytes > _WORTH_SAYING_BYTES:
        logger.warning("%s, and up to %s during writing; %s is free", size, _show(needed), _show(free))


def _find_existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _show(n_bytes: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.1f} {unit}"
    return f"{n_bytes:.0f} bytes"
