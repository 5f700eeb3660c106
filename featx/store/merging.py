"""Merging: one store from several of one spec, as several machines made them."""

import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import SpecMismatchError, StoreError, UsageError
from featx.files import remove_leftovers
from featx.golden import MAX_DRIFT, measure_drift
from featx.reporting import Progress
from featx.specs import find_differences
from featx.store import FeatureStore
from featx.store.journal import name_journal
from featx.store.layout import ITEM_COLUMNS, QUARANTINE_COLUMNS, Columns, add_seconds
from featx.store.lock import StoreLock
from featx.store.sealing import Provenance, Row, digest_golden, seal
from featx.store.verification import describe_provenance, refuse_damage

logger = logging.getLogger(__name__)

#: What must be equal for two rows of one id to be one item.
_FACTS = ("sha256", "label", "split", "group")


def merge_stores(
    paths: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    *,
    prefix: bool = False,
    progress: Progress | None = None,
) -> FeatureStore:
    """Write one store with the items of several.

    Items are sorted by id, and neither the order of the stores nor merging in steps changes a row:
    of an item that several stores hold, that of the oldest file is taken, and of equally old ones
    that whose bytes come first. What an item is quarantined for is kept where no store embedded it.

    The versions and golden pictures are those of the run that began first. The source is that of the
    stores where all have the same and one of them holds all items; otherwise it lists theirs, so that
    `embed` of one cannot drop the items of another.

    Args:
        paths: The stores, two at least.
        target: The new store.
        prefix: Put the name of its store before every id, such as `lab2/cat/1.png`.
        progress: Called with rows checked and in all, before the writing.

    Returns:
        The new store.

    Raises:
        UsageError: If these are not two stores, or `prefix` does not tell them apart.
        StoreFormatError: If a store is damaged.
        SpecMismatchError: If specs differ, or stacks that give other numbers computed them.
        StoreError: If an id is not the same item everywhere, or the target exists or cannot be written.
        StoreLockedError: If another process is writing the target.
    """
    path = Path(target)
    _refuse_target(path)
    stores = _open_stores(paths)
    prefixes = _name_prefixes(stores) if prefix else [""] * len(stores)
    for store in stores[1:]:
        _refuse_other_numbers(stores[0], store)
    refuse_damage(stores, progress)
    columns = _join_columns(stores, prefixes)
    rows = [row for store in stores for row in _list_rows(store)]
    kept = _choose_rows(stores, columns, rows)
    items = {name: [values[row] for row in kept] for name, values in columns.items()}
    ids = frozenset(items["id"])
    quarantine = _join_quarantine(stores, prefixes, ids)
    provenance = _join_provenance(stores, ids)
    with StoreLock(path) as lock:
        remove_leftovers(path.parent, f"{path.name}.")
        _refuse_target(path)
        chosen = [rows[index] for index in kept]
        seal(path, stores[0].spec, provenance, items, chosen, quarantine, confirm=lock.confirm)
    return FeatureStore(path)


def _refuse_target(path: Path) -> None:
    if path.exists():
        msg = f"{path} exists; merge into another store with --name NAME, or delete that one"
        raise StoreError(msg)
    if _list_shards(path):
        msg = f"{name_journal(path)} holds unfinished work of an embed; finish that, or choose another --name NAME"
        raise StoreError(msg)


def _list_shards(path: Path) -> list[Path]:
    folder = name_journal(path)
    return list(folder.iterdir()) if folder.is_dir() else []


def _open_stores(paths: Sequence[str | os.PathLike[str]]) -> list[FeatureStore]:
    """Open distinct stores and sort them by what is in them, so that the order of the paths decides nothing."""
    stores: list[FeatureStore] = []
    for path in paths:
        store = FeatureStore(path)
        if not any(store.path.samefile(other.path) for other in stores):
            stores.append(store)
    if len(stores) < 2:  # noqa: PLR2004 - fewer are not merged
        msg = f"two different stores at least can be merged, and here is {len(stores)}; name more"
        raise UsageError(msg)
    for store in stores:
        if _list_shards(store.path):
            logger.warning(
                "%s holds unfinished work, which is not merged; to have it, finish that embed first",
                name_journal(store.path),
            )
    return sorted(stores, key=_rank)


def _rank(store: FeatureStore) -> tuple[int, str, str, str, str]:
    """Order stores by the start of their runs; by what else tells them apart where that is the same."""
    versions = repr(sorted(store.created_with.items()))
    return store.started_ns, store.source, versions, digest_golden(store.golden), store.backbone_file


def _refuse_other_numbers(first: FeatureStore, other: FeatureStore) -> None:
    differences = find_differences(first.spec, other.spec)
    if first.feature_shape != other.feature_shape:
        differences.append(f"feature_shape: asked {first.feature_shape}, found {other.feature_shape}")
    if differences:
        msg = (
            f"{other.path} holds features of another spec than {first.path} ({'; '.join(differences)}); "
            f"merge stores of one spec"
        )
        raise SpecMismatchError(msg)
    if first.golden.files != other.golden.files:
        reason = "their golden pictures are not the same files, so that nothing shows whether they agree"
    elif not (drift := measure_drift(first.golden, other.golden)) <= MAX_DRIFT:
        reason = f"features differ by {drift:.1e} of their range (limit {MAX_DRIFT:.0e})"
    else:
        return
    msg = (
        f"{first.path} and {other.path} were computed by different stacks ({_list_versions(first)}; "
        f"{_list_versions(other)}): {reason}; embed one of them again with the versions of the other"
    )
    raise SpecMismatchError(msg)


def _list_versions(store: FeatureStore) -> str:
    return ", ".join(f"{name} {version}" for name, version in store.created_with.items())


def _name_prefixes(stores: Sequence[FeatureStore]) -> list[str]:
    names = [store.path.name.removesuffix(".h5") for store in stores]
    if len(set(names)) < len(names):
        same = next(name for name in names if names.count(name) > 1)
        msg = f"several of the stores are called {same!r}, so that prefixes do not tell them apart; rename the files"
        raise UsageError(msg)
    return [f"{name}/" for name in names]


def _join_columns(stores: Sequence[FeatureStore], prefixes: Sequence[str]) -> dict[str, list[Any]]:
    columns = {name: [value for store in stores for value in store.columns[name].tolist()] for name in ITEM_COLUMNS}
    ids = [prefix + name for store, prefix in zip(stores, prefixes, strict=True) for name in store.ids.tolist()]
    return {**columns, "id": ids}


def _list_rows(store: FeatureStore) -> list[Row]:
    def load() -> NDArray[np.floating]:
        return store.features

    return [Row(load, index) for index in range(len(store))]


def _choose_rows(
    stores: Sequence[FeatureStore], columns: Mapping[str, Sequence[Any]], rows: Sequence[Row]
) -> list[int]:
    """Choose one row for each id, in the order of the ids.

    Raises:
        StoreError: If an id has several labels, splits, groups or contents.
    """

    def list_differences(one: int, other: int) -> list[str]:
        return [fact for fact in _FACTS if columns[fact][one] != columns[fact][other]]

    def rank(row: int) -> tuple[int, bytes]:
        return columns["mtime_ns"][row], rows[row].load()[rows[row].index].tobytes()

    chosen: dict[str, int] = {}
    conflicts: dict[str, tuple[int, int]] = {}
    for row, name in enumerate(columns["id"]):
        known = chosen.setdefault(name, row)
        if known != row and list_differences(known, row):
            conflicts.setdefault(name, (known, row))
        elif known != row:
            chosen[name] = min(known, row, key=rank)
    if conflicts:
        name = min(conflicts)
        one, other = conflicts[name]
        what = ", ".join(list_differences(one, other))
        msg = (
            f"{len(conflicts):,} ids are not the same items in all stores, such as {name!r}, which has another {what} "
            f"in {_find_path(stores, one)} than in {_find_path(stores, other)}; --prefix puts the name of its store "
            f"before every id"
        )
        raise StoreError(msg)
    return [chosen[name] for name in sorted(chosen)]


def _find_path(stores: Sequence[FeatureStore], row: int) -> Path:
    """Find the store that a row of the joined columns came from."""
    past = itertools.accumulate(map(len, stores))
    return next(store.path for store, end in zip(stores, past, strict=True) if row < end)


def _join_quarantine(stores: Sequence[FeatureStore], prefixes: Sequence[str], embedded: frozenset[str]) -> Columns:
    """Join what is in quarantine and embedded nowhere, one reason for each id."""
    found = {
        (prefix + name, sha256, reason)
        for store, prefix in zip(stores, prefixes, strict=True)
        for name, sha256, reason in store.quarantine
    }
    one_each = {row[0]: row for row in sorted(found) if row[0] not in embedded}
    return {name: [row[at] for row in one_each.values()] for at, name in enumerate(QUARANTINE_COLUMNS)}


def _join_provenance(stores: Sequence[FeatureStore], ids: frozenset[str]) -> Provenance:
    first = stores[0]
    sources = sorted(store.source for store in stores)
    same = len(set(sources)) == 1
    if same and any(ids <= frozenset(store.ids.tolist()) for store in stores):
        source = first.source
    else:
        source = "; ".join(sources if same else sorted(set(sources)))
    return replace(
        describe_provenance(first),
        source=source,
        reading=first.reading if all(store.reading == first.reading for store in stores) else {},
        runtime=", ".join(sorted({name for store in stores for name in store.runtime.split(", ")})),
        drift=max(store.drift for store in stores),
        backbone_file=next((store.backbone_file for store in stores if store.backbone_file), ""),
        embed_seconds=add_seconds(store.embed_seconds for store in stores),
    )
