"""The items of a scout: the training items, or a sample of them; no others are embedded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from featx.errors import DataError
from featx.fitting.preconditions import assign_roles, check_tunable, find_keys
from featx.items import Item, Manifest
from featx.items.splits import find_groups, find_leaks, find_units, hold_out
from featx.options import ScoutOptions
from featx.splitting import hash_items
from featx.wording import join_first

_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Selection:
    """The items of a scout.

    Attributes:
        manifest: The items, in the order of the source.
        n_train: Number of all training items.
        notes: What the user should know.
    """

    manifest: Manifest
    n_train: int
    notes: tuple[str, ...]


def select_items(manifest: Manifest, options: ScoutOptions) -> Selection:
    """Select the training items of `fit`, or a sample of them that keeps classes balanced, and groups whole.

    Items of other splits are left out, and so are copies of these. Where `fit` would hold out the test by the hash of
    each file, all files are hashed; otherwise, only those are read that may be copies of a file in another split.

    Args:
        manifest: All items, which `check_manifest` accepts.
        options: The sample, and how `fit` will split.

    Raises:
        DataError: If the sample is too small.
        SourceError: If no file can be read.
    """
    items, groups = _list_items(manifest, options.group)
    roles = assign_roles(np.array([item.split for item in items], np.str_))
    if roles is None:
        keys = _hash(replace(manifest, items=tuple(items)), options)
        labels = [item.label for item in items]
        train = ~hold_out(keys, labels, groups, test_size=options.test_size, seed=options.seed).test
    else:
        keys = find_keys(manifest, items, options.reporter)
        splits = np.where(roles[0], "train", [item.split for item in items]).tolist()
        train = roles[0] & ~find_leaks(keys, splits)
    places = np.flatnonzero(train).tolist()
    chosen, notes = _sample([(items[at], keys[at], groups[at]) for at in places], manifest.source, options)
    return Selection(replace(manifest, items=tuple(chosen)), len(places), notes)


def _list_items(manifest: Manifest, group: str) -> tuple[list[Item], list[str]]:
    """List the labelled items, and the group of each."""
    groups = [item.group for item in manifest.items]
    if group:
        groups = find_groups([item.id for item in manifest.items], group, manifest.source, manifest.reading)
    pairs = [pair for pair in zip(manifest.items, groups, strict=True) if pair[0].label]
    return [item for item, _ in pairs], [name for _, name in pairs]


def _hash(manifest: Manifest, options: ScoutOptions) -> list[str]:
    """Return the sha256 of each item, or the id of one that cannot be read, which embedding will quarantine."""
    workers = options.make_embed_options().count_workers()
    keys, _ = hash_items(manifest, workers, options.reporter)
    return [keys.get(item.id, item.id) for item in manifest.items]


def _sample(
    train: Sequence[tuple[Item, str, str]], source: str, options: ScoutOptions
) -> tuple[list[Item], tuple[str, ...]]:
    """Draw the sample from the training items: the item, key and group of each."""
    items, keys, groups = (list(column) for column in zip(*train, strict=True))
    share = options.sample if options.sample <= 1 else options.sample / len(items)
    if share >= 1:
        return items, ()
    labels = [item.label for item in items]
    members = hold_out(keys, labels, groups, test_size=share, seed=options.seed, stratify="exact").test
    try:
        check_tunable(source, labels, find_units(keys, groups), members)
    except DataError as error:
        msg = f"the sample has {int(members.sum()):,} of {len(items):,} training images: {error}, or raise --sample"
        raise DataError(msg) from error
    chosen = [item for item, is_member in zip(items, members.tolist(), strict=True) if is_member]
    lacking = sorted(set(labels) - {item.label for item in chosen})
    note = f"the sample has no images of {join_first(lacking, _MOST_NAMED)}, which do not count here"
    return chosen, (note,) if lacking else ()
