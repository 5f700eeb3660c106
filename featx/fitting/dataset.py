"""A dataset: the labelled rows of a store, and its split into training and test items.

The test targets can be read once. A second read is an error.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import DataError, UsageError
from featx.evaluation import Evaluation, evaluate
from featx.fitting.corrections import correct_items, is_table
from featx.fitting.preconditions import (
    MIN_CLASSES,
    assign_roles,
    check_classes,
    check_labels,
    check_tunable,
    count_units,
)
from featx.heads.rows import FeatureRows, TrainingRows
from featx.items.splits import assign_folds, describe_ungrouped, find_groups, find_leaks, find_units, hold_out
from featx.options import FIT_DEFAULTS, VIEWS
from featx.store.joining import AnyStore
from featx.wording import agree, format_plural

#: Folds inside the training items on which hyper-parameters are chosen.
TUNING_FOLDS = 3

#: Values of a column that are decoded at a time.
_COLUMN_STEP = 10_000

#: Up to this many different numbers may be names of classes.
_MOST_NUMBERS = 20


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled features.

    Attributes:
        store: The store of the features.
        rows: int `(n_items,)`: the rows of the store that have a label.
        classes: The distinct labels, sorted.
        targets: int `(n_items,)`: the position of each label in `classes`.
        splits, groups: Text `(n_items,)`: split of the source, group.
        contents: Bytes `(n_items,)`: the sha256 of each item, in hexadecimal.
        copies: Text `(n_items,)`: the group that a table such as `audit.csv` names; empty for none.
        corrections: What such tables changed, for the record.
        notes: What the user should know.
        views: What heads are fitted on in a store with views; see `FitOptions`.
        streamed: Whether the features are too many for the memory; see `FeatureRows`.
    """

    store: AnyStore
    rows: NDArray[np.intp]
    classes: tuple[str, ...]
    targets: NDArray[np.intp]
    splits: NDArray[np.str_]
    groups: NDArray[np.str_]
    contents: NDArray[np.bytes_]
    copies: NDArray[np.str_]
    corrections: Mapping[str, Any]
    notes: tuple[str, ...]
    views: str = VIEWS[0]
    streamed: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def keys(self) -> NDArray[np.str_]:
        """The sha256 of each item, as text."""
        return self.contents.astype(np.str_)

    @property
    def labels(self) -> NDArray[np.str_]:
        """The label of each item."""
        return np.asarray(self.classes)[self.targets]

    @property
    def relabelled(self) -> NDArray[np.bool_]:
        """Whether each item has another label than in the store, bool `(n_items,)`."""
        return np.asarray(self.labels != self.store.labels[self.rows], np.bool_)

    def list_items(self) -> dict[str, Sequence[str]]:
        """Return the columns `id`, `sha256` and `label`, of which a part at a time is decoded."""
        read = (lambda at: self.store.read_ids(self.rows[at]), lambda at: self.contents[at].astype(np.str_))
        columns = (*read, lambda at: np.asarray(self.classes)[self.targets[at]])
        names = ("id", "sha256", "label")
        return {name: _Column(len(self), column) for name, column in zip(names, columns, strict=True)}

    def take_features(self, members: NDArray[np.bool_] | None = None) -> FeatureRows:
        """Take the features of some items, or of all, `(n, dim)`; they are read when they are needed.

        In a store with views, they are the mean over the views of each item, or those of the image itself.
        """
        rows = self.rows if members is None else self.rows[members]
        found = open_rows(self.store, None if len(rows) == len(self.store) else rows, self.views)
        found.streamed = self.streamed
        return found

    def take_training_rows(self, members: NDArray[np.bool_], folds: NDArray[np.intp]) -> TrainingRows:
        """Take the rows that a head is fitted on: one for each of some items, or one for each of its views.

        Args:
            members: bool `(n_items,)`.
            folds: int `(n_members,)`, the tuning fold of each of these items, as `deal_folds` returns it.
        """
        rows, targets, units = self.rows[members], self.targets[members], self.find_units(members)
        found = open_training_rows(self.store, rows, targets, folds=folds, units=units, views=self.views)
        found.features.streamed = self.streamed
        return found

    def assign_folds(self, members: NDArray[np.bool_], folds: int, seed: int) -> NDArray[np.intp]:
        """Deal some items to folds that keep classes balanced, and groups and duplicates whole."""
        labels, keys, groups = (values[members] for values in (self.labels, self.contents, self.groups))
        return assign_folds(keys, labels, groups, folds=folds, seed=seed)

    def find_units(self, members: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Find which of some items stay together, by group or by equal bytes: int `(n,)`."""
        return find_units(self.contents[members], self.groups[members])

    def count_units(self, members: NDArray[np.bool_]) -> int:
        """Count the units that can be dealt to folds (groups or images) of the class that has the most of them."""
        pairs = np.unique(self.find_units(members) * len(self.classes) + self.targets[members])
        return int(np.bincount(pairs % len(self.classes)).max(initial=0))


class _Column(Sequence[str]):
    """A column of text that is read in parts.

    Args:
        length: Its number of values.
        read: Returns those of a slice.
    """

    def __init__(self, length: int, read: Callable[[slice], NDArray[np.str_]]) -> None:
        self._length = length
        self._read = read

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, key: Any) -> Any:  # noqa: ANN401 - the signature of a sequence has slices
        found = self._read(key if isinstance(key, slice) else slice(key, key + 1)).tolist()
        return found if isinstance(key, slice) else found[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, self._length, _COLUMN_STEP):
            yield from self[start : start + _COLUMN_STEP]


def is_tunable(dataset: Dataset, members: NDArray[np.bool_]) -> bool:
    """Return whether parameters can be chosen on folds of some items; see `deal_folds`."""
    counts = count_units(dataset.labels, dataset.find_units(np.ones(len(dataset), bool)), members)
    return sum(count > 1 for count in counts.values()) >= MIN_CLASSES


def deal_folds(dataset: Dataset, members: NDArray[np.bool_], seed: int, most: int = TUNING_FOLDS) -> NDArray[np.intp]:
    """Deal some items to folds, at most so many; one that cannot be held out without losing a class joins the first.

    Raises:
        DataError: If fewer than two classes have two units among these items.
    """
    units = dataset.find_units(np.ones(len(dataset), bool))
    check_tunable(str(dataset.store.path), dataset.labels, units, members)
    folds = max(2, min(most, dataset.count_units(members)))
    return np.maximum(dataset.assign_folds(members, folds, seed), 0)


def open_rows(store: AnyStore, rows: NDArray[np.intp] | None, views: str = VIEWS[0]) -> FeatureRows:
    """Open rows of a store as one vector each, `(n, dim)`: the mean over their views, or the image itself.

    Args:
        store: The store.
        rows: int `(n,)`; all if None.
        views: `average` takes the mean; any other value takes the image itself.
    """
    n_views = store.n_views
    if views == "average" or n_views == 1:
        return FeatureRows(store.features, rows, n_views, store.widths)
    first = n_views * (np.arange(len(store)) if rows is None else rows)
    return FeatureRows(store.features.reshape(len(store) * n_views, -1), first, widths=store.widths)


def open_training_rows(
    store: AnyStore,
    rows: NDArray[np.intp],
    targets: NDArray[np.intp],
    *,
    folds: NDArray[np.intp],
    units: NDArray[np.intp],
    views: str = VIEWS[0],
) -> TrainingRows:
    """Open rows of a store as what a head is fitted on.

    Args:
        store: The store.
        rows: int `(n,)`, a row for each item.
        targets: int `(n,)`.
        folds: int `(n,)`, the fold in which each item is held out.
        units: int `(n,)`, items with equal values stay together.
        views: `augment` makes a row of each view; otherwise as in `open_rows`.
    """
    copies = store.n_views if views == "augment" else 1
    if copies == 1:
        # All rows in order need no index, and so no copy.
        every = len(rows) == len(store) and np.array_equal(rows, np.arange(len(store)))
        return TrainingRows(open_rows(store, None if every else rows, views), targets, folds, units)
    features = store.features.reshape(len(store) * copies, -1)  # a view of the file, as it is mapped
    chosen = FeatureRows(features, (rows[:, None] * copies + np.arange(copies)).ravel(), widths=store.widths)
    targets, folds, units = (np.repeat(values, copies) for values in (targets, folds, units))
    return TrainingRows(chosen, targets, folds, units, copies)


def list_groups(dataset: Dataset, members: NDArray[np.bool_]) -> list[str] | None:
    """List the group of each of some items; None if none of them is in one."""
    groups = dataset.groups[members]
    return groups.tolist() if (groups != "").any() else None


def evaluate_items(
    dataset: Dataset,
    members: NDArray[np.bool_],
    probabilities: NDArray[np.float64],
    targets: NDArray[np.intp],
    seed: int,
) -> Evaluation:
    """Evaluate the probabilities of some items, with their groups if they have any."""
    return evaluate(probabilities, targets, dataset.classes, groups=list_groups(dataset, members), seed=seed)


class HeldOut:
    """Items that are held out of training, and whose targets can be read once."""

    def __init__(self, dataset: Dataset, members: NDArray[np.bool_]) -> None:
        self._dataset = dataset
        self.members = members
        self._opened = False

    def __len__(self) -> int:
        return int(self.members.sum())

    def open_targets(self) -> NDArray[np.intp]:
        """Return the targets, once.

        Raises:
            RuntimeError: The second time, as the test split is for one final evaluation.
        """
        if self._opened:
            msg = "the test targets were read before; the test split is for one final evaluation"
            raise RuntimeError(msg)
        self._opened = True
        return self._dataset.targets[self.members]


@dataclass(frozen=True, slots=True)
class Partition:
    """Which items train, validate and test.

    Attributes:
        train: bool `(n_items,)`.
        validation: bool `(n_items,)`; all false where the folds of `train` validate.
        test: The held-out items.
        origin: `source` if the source has the split, or `hold-out`.
        test_name: Name of the split that is reported on.
        notes: What the user should know.
    """

    train: NDArray[np.bool_]
    validation: NDArray[np.bool_]
    test: HeldOut
    origin: str
    test_name: str
    notes: tuple[str, ...]


def load_dataset(
    store: AnyStore,
    *,
    group: str = "",
    views: str | None = VIEWS[0],
    without: str | os.PathLike[str] | None = None,
    relabel: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Take the labelled rows of a store.

    Args:
        store: The store.
        group: What keeps items together: empty for the groups in the store, `folder`
            for the folder of each image, a column of the table that was embedded, a
            regular expression with one group, searched in each item's id, or a table such as `audit.csv`.
        views: What heads are fitted on in a store with views; see `FitOptions`. None if no head is fitted.
        without: Table of items to leave out; see `featx.fitting.corrections.correct_items`.
        relabel: Table of items to label anew.

    Raises:
        DataError: If there are no labels, or only one class; if the labels are measurements, or name
            several classes each.
        UsageError: If `group` is not one of these, or the store has no views to augment by.
    """
    corrected = correct_items(store, without=without, relabel=relabel, group=group)
    labelled = (corrected.labels != "") & corrected.kept
    check_labels(str(store.path), corrected.labels[labelled])
    n_bare = int((corrected.labels == "").sum())
    have = agree(n_bare, "has no label and is", "have no label and are")
    notes = [f"{n_bare:,} of {len(store):,} items {have} left out"] if n_bare else []
    rows = np.flatnonzero(labelled)
    taken = slice(None) if labelled.all() else rows  # without a copy
    classes, targets = np.unique(corrected.labels[taken], return_inverse=True)
    _refuse_other_targets(store, classes.tolist(), len(rows))
    named = group and not is_table(group)
    found = find_groups(store.ids.tolist(), group, store.source, store.reading) if named else corrected.groups
    groups = np.asarray(found)[taken]
    notes += describe_ungrouped(groups.tolist(), group) if named else []
    notes += [*corrected.notes, *store.notes, *(note_views(store, views) if views else [])]
    columns = (store.splits[taken], groups, store.contents[taken], corrected.copies[taken], corrected.record)
    return Dataset(store, rows, tuple(classes.tolist()), targets, *columns, tuple(notes), views or VIEWS[-1])


def note_views(store: AnyStore, views: str) -> list[str]:
    """Note how the views of a store are used.

    Raises:
        UsageError: If the store has no views to augment by.
    """
    n_views = store.n_views
    if n_views == 1:
        if views == "augment":
            msg = f"{store.path} has no views to augment by; embed again with --views 4 --augment light"
            raise UsageError(msg)
        return []
    meaning = {
        "average": f"each item is represented by the mean over its {n_views} views, also when a bundle predicts",
        "augment": f"each of the {n_views} views is a row to fit on; tests and predictions use the image itself",
        "plain": f"of the {n_views} views of an item, only the image itself is used",
    }
    return [f"{store.path}: {meaning[views]}"]


def _refuse_other_targets(store: AnyStore, classes: Sequence[str], n_items: int) -> None:
    """Refuse labels that are not one class each: measurements, and several labels for one image."""
    numbers = len(classes) > max(_MOST_NUMBERS, n_items // 10) and all(map(_is_number, classes))
    if numbers and not all(float(name).is_integer() for name in classes):
        msg = (
            f"{store.path} has {len(classes)} different numbers as labels, such as {classes[0]}: regression is "
            "not supported; use classes as labels, such as ranges of the numbers"
        )
        raise DataError(msg)
    for mark in "|;":
        several = [name for name in classes if mark in name]
        parts = {part.strip() for name in classes for part in name.split(mark)}
        if several and len(parts) < len(classes):
            msg = (
                f"{store.path} has labels that name several classes, such as {several[0]!r}: multi-label targets are "
                "not supported; give each image one label"
            )
            raise DataError(msg)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def split_dataset(dataset: Dataset, *, test_size: float, seed: int) -> Partition:
    """Split as the source does, or else by a stable hash of each item's content.

    A source with test items is tested on them and validated on its val items, if any. A
    source with val items but no test items is tested on its val items. Its train items are
    trained on, or those without a split if there are no train items. If there are only train
    items, the others are the test. Training items with the bytes of a held-out one are left out, and
    so are those that a table such as `audit.csv` puts into a group with it.

    Raises:
        DataError: If training lacks a class that the test has, or either is empty.
    """
    roles = assign_roles(dataset.splits)
    if roles is not None:
        return _split_by_source(dataset, *roles, test_size=test_size)
    labels = dataset.labels
    held = hold_out(dataset.contents, labels, dataset.groups, test_size=test_size, seed=seed)
    nobody = np.zeros(len(dataset), bool)
    check_classes(labels, ~held.test, held.test, "test", nobody)
    notes = (*held.notes, *note_relabelled(dataset, held.test))
    return Partition(~held.test, nobody, HeldOut(dataset, held.test), "hold-out", "test", notes)


def note_relabelled(dataset: Dataset, tested: NDArray[np.bool_]) -> list[str]:
    """Note how many of the tested items have a label of the table `relabel`.

    Args:
        dataset: The items.
        tested: bool `(n_items,)`.
    """
    changed, count = int(dataset.relabelled.sum()), int((dataset.relabelled & tested).sum())
    if not count:
        return []
    new = f"of the {format_plural(changed, 'item')} that {dataset.corrections['relabel']} labels anew"
    why = "if the features suggested these labels, the test agrees with them: look at each"
    return [f"{new}, {count:,} {agree(count, 'is', 'are')} tested; {why}"]


def describe_split(origin: str, *, test_size: float, group: str, seed: int, cv: int = 0) -> dict[str, Any]:
    """Describe a split as a bundle records it, so that a run on the same one can be found.

    Args:
        origin: `source`, `hold-out` or `cross-validation`.
        test_size: Fraction that was held out, if the source did not split.
        group: The option `group`, which keeps items together.
        seed: Seed of the split.
        cv: Folds of a cross-validation; 0 for none.
    """
    return {"origin": origin, "test_size": test_size, "cv": cv, "group": group, "seed": seed}


def _split_by_source(
    dataset: Dataset,
    train: NDArray[np.bool_],
    validation: NDArray[np.bool_],
    test: NDArray[np.bool_],
    test_name: str,
    *,
    test_size: float,
) -> Partition:
    unused = ~(train | validation | test)
    notes = []
    if test_name == "val":
        notes.append("the source has no test split, so its val split is the test, and --test-size has no effect")
    elif test_size != FIT_DEFAULTS.test_size:
        notes.append("the source has a test split, so --test-size has no effect")
    if unused.any():
        count = format_plural(int(unused.sum()), "image")
        notes.append(f"left out {count} without a split, since others have one; give them a split to use them")
    roles = np.where(train, "train", dataset.splits)
    leaks = near = find_leaks(dataset.contents, roles)
    if (dataset.copies != "").any():
        near = find_leaks(np.where(dataset.copies != "", dataset.copies, dataset.keys), roles)
    near = near & ~leaks
    if leaks.any():
        first = dataset.store.ids[dataset.rows[leaks]][0]
        notes.append(
            f"left out {format_plural(int(leaks.sum()), 'training or validation image')} with the same bytes as an "
            f"image of a later split, such as {first}"
        )
    if near.any():
        first = dataset.store.ids[dataset.rows[near]][0]
        notes.append(
            f"left out {format_plural(int(near.sum()), 'training or validation image')} of a group of --group that is "
            f"also in a later split, such as {first}; the {test_name} items stay"
        )
    leaks |= near
    notes += note_relabelled(dataset, test)
    notes += _note_overlaps(dataset, train & ~near, validation & ~near, test, test_name)
    check_classes(dataset.labels, train & ~leaks, test, test_name, train & leaks)
    test_items = HeldOut(dataset, test)
    return Partition(train & ~leaks, validation & ~leaks, test_items, "source", test_name, tuple(notes))


def _name_group(dataset: Dataset, group: str) -> str:
    """Name a group as the store does; a table that joins groups has named it by its first item."""
    names = (
        dataset.store.groups[dataset.rows[dataset.groups == group]].tolist() if "group" in dataset.corrections else []
    )
    return next((name for name in names if name), group)


def _note_overlaps(
    dataset: Dataset,
    train: NDArray[np.bool_],
    validation: NDArray[np.bool_],
    test: NDArray[np.bool_],
    test_name: str,
) -> list[str]:
    """Note groups that are in several splits of the source, and classes that a split lacks."""
    notes = []
    sources = "train or val" if validation.any() else "train"
    for trained, held, words in (
        (train | validation, test, f"in {sources} and in {test_name}"),
        (train, validation, "in train and in val"),
    ):
        straddling = (set(dataset.groups[trained].tolist()) & set(dataset.groups[held].tolist())) - {""}
        if straddling:
            first = _name_group(dataset, min(straddling))
            notes.append(
                f"{len(straddling):,} of the source's groups are {words}, such as {first}, so the numbers "
                "are too optimistic; `featx split --replace` keeps each group in one split"
            )
    untested = set(dataset.targets[train].tolist()) - set(dataset.targets[test].tolist())
    if untested:
        notes.append(
            f"{test_name} has no images of {_name_classes(dataset, untested)}, so averages over classes leave these "
            f"out; add some to {test_name}"
        )
    untrained = set(dataset.targets[validation].tolist()) - set(dataset.targets[train].tolist())
    if untrained:
        notes.append(
            f"val has images of {_name_classes(dataset, untrained)}, which count as wrong, since train has "
            "none; add some to train"
        )
    return notes


def _name_classes(dataset: Dataset, targets: Sequence[int] | set[int], most: int = 8) -> str:
    names = [dataset.classes[target] for target in sorted(targets)]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
