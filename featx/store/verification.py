"""Verification of a whole store, and removal of its damaged rows."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import StoreFormatError
from featx.files import remove_leftovers
from featx.reporting import Progress
from featx.store.feature_store import Damage, FeatureStore
from featx.store.layout import ITEM_COLUMNS, QUARANTINE_COLUMNS
from featx.store.lock import StoreLock
from featx.store.sealing import Provenance, seal


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of reading every byte of a store.

    Attributes:
        store: The store, opened despite its damage.
        damage: The parts that differ from their checksums; empty for a sound store.
        lost: bool `(n_items,)`: rows whose features or items cannot be trusted.
    """

    store: FeatureStore
    damage: tuple[Damage, ...]
    lost: NDArray[np.bool_]

    @property
    def hopeless(self) -> str:
        """The reason why no row of the store can be kept; empty if some can."""
        if any(found.part == "golden" for found in self.damage):
            return "its golden pictures are damaged, so nothing shows whether this machine computes the same numbers"
        return "no row is sound" if self.lost.all() else ""

    def list_items(self, damage: Damage) -> list[str]:
        """Return the ids in a damaged block of rows; if the items themselves are damaged, the ids may be wrong."""
        names: list[str] = self.store.ids[damage.first : damage.past].tolist()
        return names if damage.part in {"features", "items"} else []

    def to_dict(self) -> dict[str, Any]:
        """Return the output of `featx verify --json`."""
        return {
            "store": str(self.store.path),
            "items": len(self.store),
            "sound": not self.damage,
            "lost": int(self.lost.sum()),
            "damage": [
                {"part": found.part, "first": found.first, "past": found.past, "items": self.list_items(found)}
                for found in self.damage
            ],
        }


def verify_store(path: str | os.PathLike[str], progress: Progress | None = None) -> Verification:
    """Read every byte of a store and compare it with its checksums.

    Args:
        path: The store.
        progress: Called with the rows read so far and in total.

    Raises:
        StoreError: If there is no such store.
        StoreFormatError: If the file is too damaged to be opened.

    Examples:
        >>> import featx
        >>> featx.verify_store("features/colour.h5").damage
        ()
    """
    store = FeatureStore(path, allow_damage=True)
    damage = tuple(store.find_damage(progress))
    lost = np.zeros(len(store), np.bool_)
    for found in damage:
        if found.part in {"features", "items"}:
            lost[found.first : found.past] = True
    return Verification(store, damage, lost)


def drop_damage(path: str | os.PathLike[str], progress: Progress | None = None) -> Verification:
    """Write a store again without the rows that cannot be trusted.

    A damaged quarantine is emptied: the next `embed` tries its items again.

    Args:
        path: The store.
        progress: Called with the rows read so far and in total.

    Returns:
        The damage that was found and is no longer in the store; a sound store is left as it is.

    Raises:
        StoreFormatError: If no row is left, or the golden pictures are damaged; the store is left as it is.
        StoreLockedError: If another process is writing the store.
    """
    target = FeatureStore(path, allow_damage=True).path
    with StoreLock(target) as lock:
        remove_leftovers(target.parent, f"{target.name}.")
        found = verify_store(target, progress)
        if found.damage:
            if found.hopeless:
                msg = f"{target} cannot be repaired: {found.hopeless}; delete it and embed again"
                raise StoreFormatError(msg)
            _seal_rest(found, lock)
    return found


def _seal_rest(found: Verification, lock: StoreLock) -> None:
    store = found.store
    kept = np.flatnonzero(~found.lost)
    items = {name: store.columns[name][kept].tolist() for name in ITEM_COLUMNS}
    whole = all(damage.part != "quarantine" for damage in found.damage)
    quarantine = {
        name: [row[at] for row in store.quarantine] if whole else [] for at, name in enumerate(QUARANTINE_COLUMNS)
    }
    about, confirm, is_index = describe_provenance(store), lock.confirm, store.is_index
    seal(store.path, store.spec, about, items, store.list_rows(kept), quarantine, confirm=confirm, is_index=is_index)


def describe_provenance(store: FeatureStore) -> Provenance:
    """Return the origin of a store's numbers, for another store that holds some of them."""
    return Provenance(
        source=store.source,
        created_with=store.created_with,
        runtime=store.runtime,
        drift=store.drift,
        feature_shape=store.feature_shape,
        backbone_file=store.backbone_file,
        golden=store.golden,
        started_ns=store.started_ns,
        reading=store.reading,
        embed_seconds=store.embed_seconds,
    )


def refuse_damage(stores: Sequence[FeatureStore], progress: Progress | None = None) -> None:
    """Read every byte of stores before their rows are copied to another file, where checksums would hide damage.

    Args:
        stores: The stores.
        progress: Called with the rows read so far, and the rows of all stores.

    Raises:
        StoreFormatError: If a store is damaged.
    """
    total, before = sum(map(len, stores)), 0
    for store in stores:
        damage = store.find_damage(count_on(progress, before, total))
        if damage:
            msg = f"{damage[0]} of {store.path} are damaged; run `featx repair {store.path}` first"
            raise StoreFormatError(msg)
        before += len(store)


def count_on(progress: Progress | None, before: int, total: int) -> Progress:
    """Turn the progress of one part into that of the whole, of which `before` was done already."""

    def count(done: int, _: int) -> None:
        if progress:
            progress(before + done, total)

    return count
