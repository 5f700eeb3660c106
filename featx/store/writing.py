"""Writing one store: what it holds already, what is added, and its sealing."""

import contextlib
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featx.errors import SpecMismatchError, StoreError
from featx.files import remove_leftovers, say_failures, sync_folder
from featx.golden import Golden
from featx.specs import EmbedSpec, find_differences
from featx.store.feature_store import FeatureStore
from featx.store.journal import Journal
from featx.store.layout import ITEM_COLUMNS, Columns, add_seconds
from featx.store.lock import StoreLock
from featx.store.sealing import Provenance, Row, digest_golden, seal
from featx.store.verification import refuse_damage, verify_store

#: Below that, nobody wonders where the disk went.
_WORTH_SAYING_BYTES = 100_000_000

#: Beside the features: names, checksums and the file system's own.
_SPARE_BYTES = 1_000_000

logger = logging.getLogger(__name__)


class StoreWriter:
    """The only way to change a store; a context manager that holds its lock.

    Attributes:
        old: The store as it was; None if there was none, or nothing of it can be salvaged.
        lost: bool `(n_items,)`: rows of the old store that are damaged, and taken for not there.
        goldens: What the machines computed that made the rows that are known.

    Args:
        path: The store, which may exist.
        spec: What its features are.
        provenance: Where they come from.
        salvage: Open a damaged store as well, and take what is damaged in it for not there.
        begun: When this run began, on the clock of `time.perf_counter`, so that the store can tell the time of its
            rows; None tells none.

    Raises:
        SpecMismatchError: If the store exists with another spec.
        StoreLockedError: If another process is writing it.
        StoreError: If unfinished work beside it belongs to another spec, or it is damaged.
    """

    def __init__(
        self,
        path: Path,
        spec: EmbedSpec,
        provenance: Provenance,
        *,
        salvage: bool = False,
        begun: float | None = None,
    ) -> None:
        self.path = path
        self.spec = spec
        self._provenance = provenance
        self._lock = StoreLock(path)
        self._journal = Journal(
            path, spec, int(np.prod(provenance.feature_shape)), self._lock.confirm, provenance.golden
        )
        self._journal.counted = begun
        self._salvage = salvage
        self._damaged = False
        self._resources = contextlib.ExitStack()
        self._rows: dict[str, Row] = {}
        self._sizes: dict[str, Sequence[int]] = {}
        self._runtimes: set[str] = set()
        self._drift = 0.0
        self._seconds: float | None = 0.0
        self.old: FeatureStore | None = None
        self.lost: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self.goldens: list[Golden] = []

    def __enter__(self) -> Self:
        self._resources.enter_context(self._lock)
        with contextlib.ExitStack() as undo:
            undo.callback(self._resources.close)
            # Before anything is read: what the last owner had not renamed by now, it never will.
            with say_failures(self.path):
                remove_leftovers(self.path.parent, f"{self.path.name}.")
                remove_leftovers(self._journal.folder)
            self._read_known()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._journal.commit()  # an interrupted run keeps everything that it finished
        finally:
            self._resources.close()

    def _read_known(self) -> None:
        if self.path.exists():
            self._read_old()
        self._read_journal()

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
        features = old.features
        self._add_rows(old.sha256.tolist(), old.sizes_px.tolist(), lambda: features, self.lost)

    def _read_journal(self) -> None:
        for shard in self._journal.read_shards():
            if not self._rows.keys() >= set(shard.sha256):  # else sealed before, by a run that was killed then
                self._seconds = add_seconds((self._seconds, shard.seconds))
            self._add_rows(shard.sha256, shard.sizes, shard.load, np.zeros(len(shard.sha256), np.bool_))
            self._add_runtime(shard.runtime, shard.drift)
            if not any(digest_golden(shard.golden) == digest_golden(golden) for golden in self.goldens):
                self.goldens.append(shard.golden)

    def _add_rows(
        self,
        contents: Sequence[str],
        sizes: Sequence[Sequence[int]],
        load: Callable[[], NDArray[np.floating]],
        lost: NDArray[np.bool_],
    ) -> None:
        for index, (sha256, size) in enumerate(zip(contents, sizes, strict=True)):
            if lost[index]:
                continue
            self._rows.setdefault(sha256, Row(load, index))
            self._sizes.setdefault(sha256, size)

    @property
    def known(self) -> frozenset[str]:
        """The sha256 of every image whose row was committed when the writer was opened or sealed."""
        return frozenset(self._rows)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row on the disk."""
        return math.prod(self._provenance.feature_shape) * np.dtype(self.spec.dtype).itemsize

    @property
    def n_unfinished(self) -> int:
        """Rows that an earlier run left unsealed, and that need not be written again."""
        sealed = set() if self.old is None else set(self.old.sha256.tolist())
        return len(self._rows.keys() - sealed)

    def note_runtime(self, name: str, drift: float) -> None:
        """Note what computes the rows that are appended from now on; the store names all that computed some."""
        self._journal.runtime, self._journal.drift = name, drift
        self._add_runtime(name, drift)

    def _add_runtime(self, names: str, drift: float) -> None:
        self._runtimes.update(names.split(", ") if names else ())
        self._drift = max(self._drift, drift)

    def append(self, sha256: str, width: int, height: int, row: NDArray[np.floating]) -> None:
        """Add a row; see `Journal.append`."""
        self._journal.append(sha256, width, height, row)

    def commit_in_time(self) -> None:
        """Commit the rows that are pending, if the last commit is long ago."""
        self._journal.commit_in_time()

    def seal(self, items: Mapping[str, Sequence[Any]], quarantine: Columns) -> FeatureStore:
        """Write the store anew with exactly these items, unless it holds them already.

        Args:
            items: The columns of `/items` but width and height, which come with the rows.
            quarantine: The columns of `/quarantine`.

        Raises:
            StoreError: If an item has no row, or the file cannot be written.
            StoreFormatError: If features that it holds are damaged.
        """
        self._journal.commit()
        self._read_journal()
        missing = [sha256 for sha256 in items["sha256"] if sha256 not in self._rows]
        if missing:
            msg = f"{len(missing)} items have no features, the first has sha256 {missing[0]}; {self.path} is unchanged"
            raise StoreError(msg)
        sizes = [self._sizes[sha256] for sha256 in items["sha256"]]
        columns = {**items, "width": [size[0] for size in sizes], "height": [size[1] for size in sizes]}
        if self.old is None or not self._holds(self.old, columns, quarantine):
            if not self._salvage:
                refuse_damage([self.old] if self.old else [])
            rows = [self._rows[sha256] for sha256 in items["sha256"]]
            provenance = self._choose_provenance()
            seal(self.path, self.spec, provenance, columns, rows, quarantine, confirm=self._lock.confirm)
            self.old, self._damaged = FeatureStore(self.path), False
        else:
            with say_failures(self.path):
                os.utime(self.path)  # the store asked for last is the newest, also where nothing was to do
                sync_folder(self.path.parent)  # its writer may have been killed before; the shards go only now
        with say_failures(self._journal.folder):
            self._journal.discard()
        return self.old

    def _holds(self, old: FeatureStore, columns: Columns, quarantine: Columns) -> bool:
        new = self._provenance
        if self._damaged or (old.source, old.backbone_file, old.reading) != (
            new.source,
            new.backbone_file,
            new.reading,
        ):
            return False
        same = all(np.array_equal(old.columns[name], np.asarray(columns[name])) for name in ITEM_COLUMNS)
        return same and old.quarantine == list(zip(*quarantine.values(), strict=True))

    def _choose_provenance(self) -> Provenance:
        """Keep what computed the first rows: all later ones were checked against its golden pictures."""
        runtimes = ", ".join(sorted(self._runtimes)) or self._provenance.runtime
        new = replace(self._provenance, runtime=runtimes, drift=self._drift, embed_seconds=self._seconds)
        if self.old is None:
            return new
        versions = {**new.created_with, **self.old.created_with}  # with those of what the first run did not use
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
    """Say how large stores will be, if that is much, and refuse to begin what the disk has no room for.

    While a store is sealed, the disk holds the rows of the run beside the file that is made of them, and an older
    store as well: so much must be free, not the size of the store alone.

    Args:
        writers: The stores, in one folder.
        n_items: Items that each will hold.
        n_new: How many of these it does not hold already, at most.

    Raises:
        StoreError: If less is free.
    """
    if not n_new:
        return
    item_bytes = sum(writer.row_bytes for writer in writers)
    unwritten = sum(writer.row_bytes * max(0, n_new - writer.n_unfinished) for writer in writers)
    store_bytes, needed = n_items * item_bytes, n_items * item_bytes + unwritten + _SPARE_BYTES
    folder = writers[0].path.parent
    free = shutil.disk_usage(_find_existing(folder)).free
    size = f"{n_items:,} items of {_show(item_bytes)} each: {_show(store_bytes)} in {folder}"
    if needed > free:
        msg = (
            f"{size}, and {_show(needed)} while it is written; only {_show(free)} are free there: make room, name "
            f"another disk by --features, or store less (fewer --views, another --pooling, --dtype float16)"
        )
        raise StoreError(msg)
    if store_bytes > _WORTH_SAYING_BYTES:
        logger.warning("%s, and up to %s while it is written; %s are free", size, _show(needed), _show(free))


def _find_existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _show(n_bytes: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.1f} {unit}"
    return f"{n_bytes:.0f} bytes"
