"""Packing: one ordinary file from an index and its shards."""

import os
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np

from featx.errors import StoreError, UsageError
from featx.files import remove_leftovers
from featx.reporting import Progress
from featx.store.feature_store import FeatureStore
from featx.store.layout import QUARANTINE_COLUMNS
from featx.store.lock import StoreLock
from featx.store.sealing import seal
from featx.store.sharding import discard_shards
from featx.store.shards import Row
from featx.store.verification import describe_provenance, refuse_damage
from featx.urls import find_url, hide_secrets
from featx.wording import format_bytes


def pack_store(path: str | os.PathLike[str], progress: Progress | None = None) -> FeatureStore:
    """Replace an index by one file with the same rows, and remove its shards.

    Every byte is verified first. The file is written beside the index, under another name, until it is whole. So both
    are on the disk for a while, and a run that ends early leaves the index.

    Args:
        path: The store; one that is a single file stays as it is.
        progress: Called with the rows verified so far and in total, before writing starts.

    Raises:
        StoreError: If the disk has no room for the file, or it cannot be written.
        StoreFormatError: If a row is damaged or missing.
        StoreLockedError: If another process is writing the store.
        UsageError: If the store is at a URL.

    Examples:
        >>> import featx
        >>> featx.pack_store("features/colour.h5").is_index
        False
    """
    if find_url(path):
        msg = f"{hide_secrets(find_url(path))} is not on this machine; pack the original, and publish it"
        raise UsageError(msg)
    target = FeatureStore(path).path
    with StoreLock(target) as lock:
        remove_leftovers(target.parent, f"{target.name}.")
        store = FeatureStore(target)
        if not store.is_index:
            discard_shards(target, [], lock.confirm)  # of a run that was killed at its end
            return store
        refuse_damage([store], progress)
        size, free = store.count_bytes(), shutil.disk_usage(store.path.parent).free
        if size > free:
            msg = (
                f"{store.path} needs {format_bytes(size)} as one file, but only {format_bytes(free)} is free; make room"
            )
            raise StoreError(msg)
        quarantine = {name: [row[at] for row in store.quarantine] for at, name in enumerate(QUARANTINE_COLUMNS)}
        about = describe_provenance(store)
        seal(store.path, store.spec, about, store.raw_columns, _Rows(store), quarantine, confirm=lock.confirm)
    return FeatureStore(store.path)


class _Rows(Sequence[Row]):
    """The places of all rows of a store, made when they are asked for: a list of ten million takes a gigabyte."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, key: Any) -> Any:  # noqa: ANN401 - a row or a list of rows, as a list has
        rows = self._store.list_rows(np.arange(len(self))[key].reshape(-1))
        return rows if isinstance(key, slice) else rows[0]
