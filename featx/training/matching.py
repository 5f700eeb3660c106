"""Which items several stores have in common, so that what is learnt from each can be compared."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from featx.errors import DataError
from featx.store import FeatureStore
from featx.training.dataset import MIN_CLASSES, Dataset, load_dataset


@dataclass(frozen=True, slots=True)
class Match:
    """The same labelled items in several stores.

    Attributes:
        dataset: The items, as the first store has them.
        rows: For each store, int `(n_items,)`: the row of each item.
        notes: What the user should know.
    """

    dataset: Dataset
    rows: tuple[NDArray[np.intp], ...]
    notes: tuple[str, ...]


def match_stores(stores: Sequence[FeatureStore], *, group: str = "") -> Match:
    """Find the labelled items that all stores have, by id and content.

    Args:
        stores: One or more stores.
        group: What keeps items together, as in `load_dataset`; read from the first store. If empty,
            the groups that any of the stores has.

    Raises:
        DataError: If no item is in all of them, or they disagree about a label, split or group.
        UsageError: If `group` is no such thing.
    """
    first, *others = [load_dataset(store, group=group if number == 0 else "") for number, store in enumerate(stores)]
    places = [_find_places(dataset) for dataset in (first, *others)]
    shared = [item for item in places[0] if all(item in place for place in places[1:])]
    if not shared:
        sources = ", ".join(f"{store.path} from {store.source}" for store in stores)
        msg = f"no item, by id and content, is in all of the stores ({sources}); compare stores of the same images"
        raise DataError(msg)
    positions = [np.array([place[item] for item in shared], np.intp) for place in places]
    for dataset, at in zip(others, positions[1:], strict=True):
        _check_agreement(first, positions[0], dataset, at)
    first = replace(first, groups=_unite_groups((first, *others), positions))
    notes = [note for dataset in (first, *others) for note in dataset.notes]
    missing = [(len(dataset) - len(shared), dataset.store.path) for dataset in (first, *others)]
    if any(count for count, _ in missing):
        left_out = ", ".join(f"{count:,} of {path}" for count, path in missing if count)
        notes.append(f"compared on the {len(shared):,} items that all stores have; left out are {left_out}")
    rows = tuple(dataset.rows[at] for dataset, at in zip((first, *others), positions, strict=True))
    return Match(_take_items(first, positions[0]), rows, tuple(dict.fromkeys(notes)))


def _unite_groups(datasets: Sequence[Dataset], positions: Sequence[NDArray[np.intp]]) -> NDArray[np.str_]:
    """Take the group of each item of the first store from whichever store has one."""
    first, *others = datasets
    at, *rest = positions
    groups = first.groups.astype(object)
    for dataset, places in zip(others, rest, strict=True):
        groups[at] = np.where(groups[at] == "", dataset.groups[places], groups[at])
    return groups.astype(str)


def _find_places(dataset: Dataset) -> dict[tuple[str, str], int]:
    ids = dataset.store.ids[dataset.rows].tolist()
    return {item: place for place, item in enumerate(zip(ids, dataset.keys.tolist(), strict=True))}


def _check_agreement(first: Dataset, at: NDArray[np.intp], other: Dataset, at_other: NDArray[np.intp]) -> None:
    pairs = (
        ("label", first.labels[at], other.labels[at_other]),
        ("split", first.splits[at], other.splits[at_other]),
        ("group", first.groups[at], other.groups[at_other]),
    )
    for what, ours, theirs in pairs:
        known = (what != "group") | ((ours != "") & (theirs != ""))  # a store may have been made without groups
        differing = np.flatnonzero((ours != theirs) & known)
        if len(differing):
            item = differing[0]
            name = first.store.ids[first.rows[at]][item]
            msg = (
                f"the {what} of {len(differing)} items differs between {first.store.path} and {other.store.path}, such "
                f"as that of {name} ({str(ours[item])!r} and {str(theirs[item])!r}); embed both from the same source, "
                f"which computes nothing anew"
            )
            raise DataError(msg)


def _take_items(dataset: Dataset, at: NDArray[np.intp]) -> Dataset:
    classes, targets = np.unique(dataset.labels[at], return_inverse=True)
    if len(classes) < MIN_CLASSES:
        msg = f"the items that all stores have are of one class only ({classes[0]}); a classifier needs at least two"
        raise DataError(msg)
    return replace(
        dataset,
        rows=dataset.rows[at],
        classes=tuple(classes.tolist()),
        targets=targets,
        splits=dataset.splits[at],
        groups=dataset.groups[at],
        keys=dataset.keys[at],
    )
