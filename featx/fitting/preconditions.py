"""What a source needs before it is worth embedding: two classes, training items of each, and enough of them."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from featx.errors import DataError
from featx.items import Item, Manifest
from featx.items.manifest import UNKNOWN_SIZE
from featx.items.renaming import suggest_rules
from featx.items.splits import Texts, find_groups, find_leaks, find_units
from featx.reporting import SILENT, Reporter
from featx.wording import join_first

MIN_CLASSES = 2

#: Files of one size are told apart by so many first bytes; only those that start alike are read to their ends.
_START_BYTES = 1 << 16

#: Classes that a message names, with their numbers.
_NAMED = 5

Members = NDArray[np.bool_]


def check_manifest(manifest: Manifest, *, group: str = "", tuned: bool = True, reporter: Reporter = SILENT) -> None:
    """Refuse a source that certainly cannot be split and fitted, before any of it is embedded.

    Files are read only where files of several splits have the same size, to find copies.

    Args:
        manifest: The items.
        group: What keeps items together; see `featx.fitting.dataset.load_dataset`.
        tuned: Whether parameters are chosen on folds of the training items.
        reporter: Told how many files are read.

    Raises:
        DataError: If there are fewer than two classes, or too few items of them to train on.
    """
    named = find_groups([item.id for item in manifest.items], group, manifest.source, manifest.reading) if group else []
    groups = [found for found, item in zip(named, manifest.items, strict=True) if item.label] if named else None
    items = [item for item in manifest.items if item.label]
    labels, splits = [item.label for item in items], np.array([item.split for item in items], np.str_)
    check_labels(manifest.source, labels)
    keys = find_keys(manifest, items, reporter)
    roles = assign_roles(splits)
    train = np.ones(len(items), bool)
    if roles is not None:
        train, validation, test, test_name = roles
        copies = find_leaks(keys, np.where(train, "train", splits).tolist()) & (train | validation)
        check_classes(labels, train & ~copies, test, test_name, copies & train)
        train = train & ~copies
    units = find_units(keys, groups or [item.group for item in items])
    if tuned:
        check_tunable(manifest.source, labels, units, train, spare=int(roles is None))


def check_labels(source: str, labels: Texts) -> None:
    """Refuse labels of fewer than two classes.

    Raises:
        DataError: The message names the source.
    """
    if not len(labels):
        msg = f"{source} has no labels: embed a folder of class folders, or a table with a label column"
        raise DataError(msg)
    if len(set(labels)) < MIN_CLASSES:
        msg = f"{source} has only one class ({labels[0]}); a classifier needs at least two"
        raise DataError(msg)


def assign_roles(splits: NDArray[np.str_]) -> tuple[Members, Members, Members, str] | None:
    """Assign roles by the splits of a source; see `featx.fitting.dataset.split_dataset`.

    Returns:
        The items that train, validate and test, each bool `(n_items,)`, and the name of the test's split; None if the
        source leaves the test to be drawn.
    """
    names = set(splits.tolist()) - {""}
    if not names & {"val", "test"} and not (names and (splits == "").any()):
        return None
    test_name = "val" if "val" in names and "test" not in names else "test"
    test = splits == (test_name if test_name in names else "")
    train = splits == ("train" if "train" in names else "")
    return train, (splits == "val") & ~test, test, test_name


def check_classes(labels: Texts, train: Members, test: Members, test_name: str, copies: Members) -> None:
    """Refuse a split whose training lacks a class that the test has.

    Args:
        labels: The class of each item.
        train: bool `(n_items,)`.
        test: bool `(n_items,)`.
        test_name: Name of the test's split.
        copies: bool `(n_items,)`, training items that were left out as copies of items in later splits.

    Raises:
        DataError: The message names the classes, and says whether they lost their training items as copies.
    """
    names = np.asarray(labels)
    if not (train | copies).any():
        msg = "the train split is empty; add images, or change --test-size"
        raise DataError(msg)
    if not test.any():
        sizes = sorted(Counter(names[train].tolist()).items())
        listed = join_first([f"{label!r} has {size:,}" for label, size in sizes], _NAMED)
        msg = (
            f"no image can be held out for the {test_name} split: a class needs two different images or groups for "
            f"that, and {listed}; add images, or change --test-size"
        )
        raise DataError(msg)
    trained = set(names[train].tolist())
    lacking = sorted(set(names[test].tolist()) - trained)
    lost = Counter(name for name in names[copies].tolist() if name in lacking)
    if lost:
        counts = join_first([f"{name!r} ({count:,})" for name, count in sorted(lost.items())], _NAMED)
        msg = (
            f"all training images of {counts} have the same bytes as images of a later split and were left out, so "
            f"nothing is left to train on; remove the copies from {test_name}, or add other images to train "
            f"(`featx info --duplicates` lists the copies of a store)"
        )
        raise DataError(msg)
    if lacking:
        rules = " ".join(suggest_rules(set(names[test].tolist()), trained))
        msg = (
            f"{test_name} has classes that train lacks: {join_first(lacking, _NAMED)}; train has "
            f"{join_first(sorted(trained), _NAMED)}. Give the class folders of both splits the same names, or read the "
            f"images with {rules or '--map-labels'}"
        )
        raise DataError(msg)
    if len(trained) < MIN_CLASSES:
        msg = "the train split has only one class; a classifier needs at least two"
        raise DataError(msg)


def check_tunable(source: str, labels: Texts, units: NDArray[np.intp], train: Members, spare: int = 0) -> None:
    """Refuse training items on which no parameters can be chosen.

    Each fold must leave two classes to train on, so two classes need two images or groups each.

    Args:
        source: What the items are from, for the message.
        labels: The class of each item.
        units: int `(n_items,)`: items with equal values stay together.
        train: bool `(n_items,)`, the training items.
        spare: Units of each class that the test will take at least, if the class has two.

    Raises:
        DataError: The message names the classes, with the numbers of their images in all and in training.
    """
    counts = count_units(labels, units, train)
    if sum(count - spare > 1 for count in counts.values()) >= MIN_CLASSES:
        return
    images = Counter(np.asarray(labels).tolist())
    few = sorted((name for name in images if counts[name] - spare <= 1), key=lambda name: (images[name], name))
    shown = [
        f"{name!r} has {images[name]:,} {'image' if images[name] == 1 else 'images'}, "
        f"{max(counts[name] - spare, min(counts[name], 1)):,} to train on"
        for name in few
    ]
    msg = (
        f"{source} has too few images to choose parameters: at least two classes need two different images or groups "
        f"to train on, but {join_first(shown, _NAMED, '; ')}; add images"
    )
    raise DataError(msg)


def count_units(labels: Texts, units: NDArray[np.intp], members: Members) -> Counter[str]:
    """Count the units of each class among some items."""
    names, codes = np.unique(np.asarray(labels, np.str_)[members], return_inverse=True)
    pairs = np.unique(units[members] * max(1, len(names)) + codes)
    counts = np.bincount(pairs % max(1, len(names)), minlength=len(names)).tolist()
    return Counter(dict(zip(names.tolist(), counts, strict=True)))


def find_keys(manifest: Manifest, items: Sequence[Item], reporter: Reporter) -> list[str]:
    """Return the sha256 of each item that may be a copy of one in another split, and the id of each other one.

    Args:
        manifest: The source, whose files are read where those of several splits have the same size.
        items: Its items.
        reporter: Told how many files are read.
    """
    splits = [item.split for item in items]
    sizes = [_measure(manifest, item.id) for item in items]
    alike = _find_shared({at: str(size) for at, size in enumerate(sizes) if size >= 0}, splits)
    starts = _hash_all(manifest, items, alike, reporter, "looking for copies in other splits", _START_BYTES)
    alike = _find_shared({at: f"{sizes[at]} {start}" for at, start in starts.items()}, splits)
    long = [at for at in alike if sizes[at] > _START_BYTES]
    found = starts | _hash_all(manifest, items, long, reporter, "reading those that start alike")
    copied = set(alike)
    return [found[at] if at in copied else item.id for at, item in enumerate(items)]


def _find_shared(keys: Mapping[int, str], splits: Sequence[str]) -> list[int]:
    """Find the items whose key occurs in several splits."""
    found = defaultdict[str, set[str]](set)
    for at, key in keys.items():
        found[key].add(splits[at])
    return [at for at, key in keys.items() if len(found[key]) > 1]


def _hash_all(
    manifest: Manifest,
    items: Sequence[Item],
    positions: Sequence[int],
    reporter: Reporter,
    phase: str,
    n_bytes: int | None = None,
) -> dict[int, str]:
    """Return the sha256 of the first bytes of some items, or of all their bytes, by position."""
    if positions:
        reporter.begin(phase)
    hashes = {}
    for done, at in enumerate(positions, 1):
        hashes[at] = _hash(manifest, items[at].id, n_bytes)
        reporter.advance(done, len(positions))
    return hashes


def _measure(manifest: Manifest, item_id: str) -> int:
    try:
        size = manifest.reader.stat(item_id).size_bytes
    except OSError:
        return -1  # embedding quarantines it
    return _START_BYTES + 1 if size == UNKNOWN_SIZE else size  # then all are compared, from their start to their end


def _hash(manifest: Manifest, item_id: str, n_bytes: int | None) -> str:
    try:
        return hashlib.sha256(manifest.reader.read(item_id, n_bytes)).hexdigest()
    except OSError:
        return item_id
