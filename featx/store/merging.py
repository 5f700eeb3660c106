"""Merging: one store from several of the same spec, for example from several machines."""

import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from featx.errors import SpecMismatchError, StoreError, StoreFormatError, UsageError
from featx.files import remove_leftovers
from featx.golden import MAX_DRIFT, measure_drift
from featx.options import INDEX_ABOVE
from featx.reporting import Progress
from featx.specs import find_differences
from featx.store import FeatureStore
from featx.store.journal import name_journal
from featx.store.known_rows import KnownRows
from featx.store.layout import ITEM_COLUMNS, QUARANTINE_COLUMNS, Columns, add_seconds
from featx.store.lock import StoreLock
from featx.store.sealing import Provenance, digest_golden, seal
from featx.store.sharding import describe_index
from featx.store.shards import Row
from featx.store.verification import describe_provenance, refuse_damage
from featx.wording import agree

#: How many missing shards a message lists.
_LISTED_SHARDS = 20

logger = logging.getLogger(__name__)

#: Columns that must be equal for two rows with the same id to be the same item.
_FACTS = ("sha256", "label", "split", "group")


def merge_stores(
    paths: Sequence[str | os.PathLike[str] | FeatureStore],
    target: str | os.PathLike[str],
    *,
    prefix: bool = False,
    index_above: int = INDEX_ABOVE,
    progress: Progress | None = None,
) -> FeatureStore:
    """Write one store with the items of several.

    The shards of one source, as `take_shard` makes them, become the store that one run of `embed` would have
    written: their items stay in the order of the source. All shards must be there.

    Items of other stores are sorted by id. Neither the order of the stores nor merging in steps changes a row: if
    several stores hold an item, the row of the oldest file is taken, and among equally old ones the
    row whose bytes sort first. A quarantined item keeps its reason if no store embedded it.

    The versions and golden pictures are those of the earliest run. If all stores have the same source
    and one of them holds all items, that is the source of the new store. Otherwise the source lists
    theirs, so that `embed` of one source cannot drop the items of another.

    Args:
        paths: At least two stores, or their paths.
        target: The new store.
        prefix: Put the store's name before every id, such as `lab2/cat/1.png`.
        index_above: Bytes of features above which the new store is an index, which links the files of the others.
        progress: Called with the rows checked so far and in total, before writing starts.

    Returns:
        The new store.

    Raises:
        UsageError: If there are fewer than two stores, or `prefix` cannot distinguish them.
        StoreFormatError: If a store is damaged.
        SpecMismatchError: If the specs differ, or the software stacks compute different numbers.
        StoreError: If an id is different items in different stores, a shard is missing, or the target exists or cannot
            be written.
        StoreLockedError: If another process is writing the target.

    Examples:
        >>> import featx
        >>> store = featx.merge_stores(["lab1.h5", "lab2.h5"], "both.h5", prefix=True)
        >>> len(store)
        800
    """
    path = Path(target)
    _refuse_target(path)
    stores = _open_stores(paths)
    prefixes = _name_prefixes(stores) if prefix else [""] * len(stores)
    for store in stores[1:]:
        _refuse_other_numbers(stores[0], store)
    shards = _order_shards(stores)
    items, rows = _join_shards(shards) if shards else _join_items(stores, prefixes)
    ids = frozenset[str]() if shards else frozenset(items["id"])  # what is quarantined in one shard is in no other
    quarantine = _join_quarantine(stores, prefixes, ids)
    provenance = _join_provenance(stores, ids, are_shards=bool(shards))
    size = stores[0].features.dtype.itemsize * stores[0].dim * len(rows)
    is_index = size > index_above
    if not is_index:  # which keeps the checksums of the rows
        refuse_damage(stores, progress)
    with StoreLock(path) as lock:
        remove_leftovers(path.parent, f"{path.name}.")
        _refuse_target(path)
        if is_index:
            logger.warning("%s", describe_index(path, size))
        seal(path, stores[0].spec, provenance, items, rows, quarantine, confirm=lock.confirm, is_index=is_index)
    return FeatureStore(path)


def _refuse_target(path: Path) -> None:
    if path.exists():
        msg = f"{path} exists; merge into another store with --name NAME, or delete this one"
        raise StoreError(msg)
    if _list_shards(path):
        msg = f"{name_journal(path)} holds unfinished work of an embed; finish that run, or choose another --name NAME"
        raise StoreError(msg)


def _list_shards(path: Path) -> list[Path]:
    folder = name_journal(path)
    return list(folder.iterdir()) if folder.is_dir() else []


def _open_stores(paths: Sequence[str | os.PathLike[str] | FeatureStore]) -> list[FeatureStore]:
    """Open distinct stores and sort them by their content, so that the order of the paths does not matter."""
    stores: list[FeatureStore] = []
    for path in paths:
        store = path if isinstance(path, FeatureStore) else FeatureStore(path)
        if not any(store.path.samefile(other.path) for other in stores):
            stores.append(store)
    if len(stores) < 2:  # noqa: PLR2004 - a merge takes two stores or more
        msg = f"merge needs at least two different stores; got {len(stores)}"
        raise UsageError(msg)
    for store in stores:
        if _list_shards(store.path):
            logger.warning(
                "%s holds unfinished work, which is not merged; to include it, finish that embed first",
                name_journal(store.path),
            )
    return sorted(stores, key=_rank)


def _rank(store: FeatureStore) -> tuple[int, str, str, str, str]:
    """Return a sort key: the start of the store's run, then whatever else distinguishes stores."""
    versions = repr(sorted(store.created_with.items()))
    return store.started_ns, store.source, versions, digest_golden(store.golden), store.backbone_file


def _order_shards(stores: Sequence[FeatureStore]) -> list[FeatureStore]:
    """Return the shards of one source in its order; nothing if the stores are not shards.

    Raises:
        StoreError: If a shard is missing or is there twice, or the source changed between two of them.
        UsageError: If they are shards of different sources, or not all of them are shards.
    """
    shards = [_read_shard(store) for store in stores if "shard" in store.reading]
    if not shards:
        return []
    origins = {(store.source, repr(_describe_whole(store))) for store in stores}
    if len(origins) > 1 or len(shards) < len(stores) or len({count for _, count, _ in shards}) > 1:
        msg = "the stores are not the shards of one source; merge the shards of each source first, and nothing else"
        raise UsageError(msg)
    count = shards[0][1]
    if missing := sorted(set(range(1, count + 1)) - {number for number, _, _ in shards}):
        listed = ", ".join(map(str, missing[:_LISTED_SHARDS])) + (", ..." if len(missing) > _LISTED_SHARDS else "")
        msg = (
            f"{agree(len(missing), 'shard', 'shards')} {listed} of {count} {agree(len(missing), 'is', 'are')} missing; "
            f"run the same `featx embed` with --shard {missing[0]}/{count}, and name its store too"
        )
        raise StoreError(msg)
    found = sum(len(store) + len(store.quarantine) for store in stores)
    if len(stores) > count or any(n_items != found for _, _, n_items in shards):
        sizes = " or ".join(f"{n_items:,}" for n_items in sorted({n_items for _, _, n_items in shards}))
        msg = (
            f"the {len(stores)} shards hold {found:,} images, and the source had {sizes} when they were embedded: it "
            f"changed meanwhile, or a shard is named twice; embed the shards again, which computes only what is new"
        )
        raise StoreError(msg)
    return [store for _, store in sorted(zip(shards, stores, strict=True), key=lambda pair: pair[0])]


def _read_shard(store: FeatureStore) -> tuple[int, int, int]:
    """Return which shard of its source a store holds: its number, their count, and the items of the source."""
    try:
        number, count, n_items = (int(store.reading["shard"][name]) for name in ("number", "count", "items"))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        msg = f"{store.path} has an invalid record of its shard ({error!r}); embed it again"
        raise StoreFormatError(msg) from error
    return number, count, n_items


def _describe_whole(store: FeatureStore) -> dict[str, Any]:
    """Return how the whole source of a shard was read."""
    return {name: value for name, value in store.reading.items() if name != "shard"}


def _join_shards(shards: Sequence[FeatureStore]) -> tuple[Columns, Sequence[Row]]:
    """Join the items of shards, in order, with the first row of each content, as one run of `embed` does."""
    known = KnownRows()
    for store in shards:
        for file, rows, at in store.group_rows(np.arange(len(store))):
            known.add(store.contents[rows], store.sizes_px[rows], file, at)
    columns = {name: np.concatenate([store.raw_columns[name] for store in shards]) for name in ITEM_COLUMNS}
    return columns, known.select(columns["sha256"])[0]


def _join_items(stores: Sequence[FeatureStore], prefixes: Sequence[str]) -> tuple[Columns, Sequence[Row]]:
    """Join the items of stores, sorted by id, with one row of each."""
    columns = _join_columns(stores, prefixes)
    rows = [row for store in stores for row in store.list_rows()]
    kept = _choose_rows(stores, columns, rows)
    return {name: [values[row] for row in kept] for name, values in columns.items()}, [rows[row] for row in kept]


def _refuse_other_numbers(first: FeatureStore, other: FeatureStore) -> None:
    differences = find_differences(first.spec, other.spec)
    if first.feature_shape != other.feature_shape:
        differences.append(f"feature_shape: asked {first.feature_shape}, found {other.feature_shape}")
    if differences:
        msg = (
            f"{other.path} and {first.path} hold features of different specs ({'; '.join(differences)}); "
            f"merge only stores of the same spec"
        )
        raise SpecMismatchError(msg)
    if first.golden.files != other.golden.files:
        reason = "their golden pictures are not the same files, so nothing shows whether they agree"
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
        msg = f"several stores are called {same!r}, so prefixes cannot distinguish them; rename the files"
        raise UsageError(msg)
    return [f"{name}/" for name in names]


def _join_columns(stores: Sequence[FeatureStore], prefixes: Sequence[str]) -> dict[str, list[Any]]:
    columns = {name: [value for store in stores for value in store.columns[name].tolist()] for name in ITEM_COLUMNS}
    ids = [prefix + name for store, prefix in zip(stores, prefixes, strict=True) for name in store.ids.tolist()]
    return {**columns, "id": ids}


def _choose_rows(
    stores: Sequence[FeatureStore], columns: Mapping[str, Sequence[Any]], rows: Sequence[Row]
) -> list[int]:
    """Return the index of one row for each id, in the order of the ids.

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
            f"{len(conflicts):,} ids are different items in different stores, such as {name!r}, whose {what} differs "
            f"between {_find_path(stores, one)} and {_find_path(stores, other)}; --prefix puts the store's name "
            f"before every id"
        )
        raise StoreError(msg)
    return [chosen[name] for name in sorted(chosen)]


def _find_path(stores: Sequence[FeatureStore], row: int) -> Path:
    """Return the path of the store that a row of the joined columns came from."""
    past = itertools.accumulate(map(len, stores))
    return next(store.path for store, end in zip(stores, past, strict=True) if row < end)


def _join_quarantine(stores: Sequence[FeatureStore], prefixes: Sequence[str], embedded: frozenset[str]) -> Columns:
    """Join the quarantined items that no store embedded, with one reason for each id."""
    found = {
        (prefix + name, sha256, reason)
        for store, prefix in zip(stores, prefixes, strict=True)
        for name, sha256, reason in store.quarantine
    }
    one_each = {row[0]: row for row in sorted(found) if row[0] not in embedded}
    return {name: [row[at] for row in one_each.values()] for at, name in enumerate(QUARANTINE_COLUMNS)}


def _join_provenance(stores: Sequence[FeatureStore], ids: frozenset[str], *, are_shards: bool) -> Provenance:
    first = stores[0]
    sources = sorted(store.source for store in stores)
    same = len(set(sources)) == 1
    if are_shards or (same and any(ids <= frozenset(store.ids.tolist()) for store in stores)):
        source = first.source
    else:
        source = "; ".join(sources if same else sorted(set(sources)))
    alike = are_shards or all(store.reading == first.reading for store in stores)
    reading = _describe_whole(first) if alike else {}
    return replace(
        describe_provenance(first),
        source=source,
        reading=reading,
        runtime=", ".join(sorted({name for store in stores for name in store.runtime.split(", ")})),
        drift=max(store.drift for store in stores),
        backbone_file=next((store.backbone_file for store in stores if store.backbone_file), ""),
        embed_seconds=add_seconds(store.embed_seconds for store in stores),
    )
