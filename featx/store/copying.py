"""Rows of other stores of a folder, so that a second name for the same features costs no embedding."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.errors import StoreError
from featx.golden import MAX_DRIFT, Golden, measure_drift
from featx.store.feature_store import DAMAGES, FeatureStore
from featx.store.known_rows import Contents
from featx.store.layout import TEXT, open_group, read_column, read_text

#: Folder of the features of a scout, in the folder of the stores: `scout/<source>/<name>.h5`.
SCOUT = "scout"

_SHA256_BYTES = 64


class OtherStore:
    """A store of the same spec, of which only the sha256 are read until it has a row that is asked for.

    Args:
        path: The store.
        contents: Its column `sha256`, on which nothing depends but whether the store is opened.
        golden: Golden pictures, with the features that this machine computes for them.
    """

    def __init__(self, path: Path, contents: NDArray[np.bytes_], golden: Golden) -> None:
        self._path = path
        self._contents = Contents(np.sort(contents))
        self._golden = golden

    def __len__(self) -> int:
        return len(self._contents)

    def find(self, sha256: str) -> tuple[FeatureStore, int] | None:
        """Return the store and the row of an image; None if it has none that is sound and that this machine makes."""
        if "_rows" not in vars(self) and sha256 not in self._contents:
            return None
        row = self._rows.get(sha256)
        if row is None or self._store is None or not self._store.is_sound(row):
            return None
        return self._store, row

    @cached_property
    def _store(self) -> FeatureStore | None:
        try:
            store = FeatureStore(self._path)
        except StoreError:  # a damaged store has nothing to offer, and is no concern of the one that is written
            return None
        same = store.golden.files == self._golden.files
        return store if same and measure_drift(store.golden, self._golden) <= MAX_DRIFT else None

    @cached_property
    def _rows(self) -> Mapping[str, int]:
        contents: list[Any] = self._store.sha256.tolist() if self._store else []
        return {sha256: row for row, sha256 in enumerate(contents)}


def list_others(path: Path, digest: str, golden: Golden) -> list[OtherStore]:
    """List the other stores in the folder of a store and those of its scouts, if they are of the same spec.

    Args:
        path: The store.
        digest: Digest of its spec.
        golden: Golden pictures, with the features that this machine computes for them.
    """
    others = []
    folder = path.parents[2] if path.parent.parent.name == SCOUT else path.parent
    for other in sorted([*folder.glob("[!.]*.h5"), *folder.glob(f"{SCOUT}/*/[!.]*.h5")]):
        contents = _read_contents(other, digest) if other != path else None
        if contents is not None:
            others.append(OtherStore(other, contents, golden))
    return others


def _read_contents(path: Path, digest: str) -> NDArray[np.bytes_] | None:
    try:
        with h5py.File(path, "r", locking=False) as file:
            if read_text(file.attrs, "spec_digest") != digest:
                return None
            contents = read_column(open_group(file, "items"), "sha256", TEXT)
    except DAMAGES:  # or another file: it has nothing to offer
        return None
    return contents if contents.ndim == 1 and contents.itemsize == _SHA256_BYTES else None
