"""Hold-out and folds, never with items that belong together on both sides.

Items that share bytes or a group form a unit, and whole units are assigned to a side. Hashes of
the units' names make all choices, so the order of the items does not matter. Folds are stratified.
A hold-out is stratified if it is `exact`: no rule can also leave all earlier images where they are
when images are added, because then the share of a class could not depend on what else the class has.
"""

import hashlib
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featx.errors import DataError, FeatxError, UsageError
from featx.items.manifest import SPLITS
from featx.items.shards import find_shards
from featx.items.sources import read_source_again
from featx.urls import find_url
from featx.wording import agree, join_first

#: Fold of items that are never held out, as in scikit-learn's PredefinedSplit.
ALWAYS_TRAINED = -1

_NAMED_CLASSES = 5

#: Names of units that are decoded at a time.
_NAMES = 10_000

#: A share of a class is far off if it is above the requested one by this factor, or below it, in a class of so many.
_FAR_OFF = 1.5
_LEAST_FAR_OFF = 20

#: A smaller gain is rounding.
_LEAST_GAIN = 1e-9

#: The exact choice exchanges pairs of units if the units and classes are not more than this.
_MOST_EXCHANGED = 2_000
_MOST_CELLS = 2_000_000
_MOST_EXCHANGES = 200

#: How notes describe the use of a split's items.
_USES = {"val": "validated on", "test": "tested"}

#: A text for each item; an array of bytes takes the least memory.
Texts = Sequence[str] | npt.NDArray[np.str_] | npt.NDArray[np.bytes_]

#: Texts, and the places of some of them, which are names of units.
_Names = tuple[npt.NDArray[Any], npt.NDArray[np.intp]]

#: Number of items of each class in a unit.
_Content = dict[str, int]


@dataclass(frozen=True, slots=True)
class HoldOut:
    """The items that are held out.

    Attributes:
        test: bool (n_items,), True for the items of the test split.
        notes: Sentences about the classes that the hash alone would have left on one side.
    """

    test: npt.NDArray[np.bool_]
    notes: tuple[str, ...]


def find_units(keys: Texts, groups: Texts) -> npt.NDArray[np.intp]:
    """Find the items that must stay together: those that share bytes or a group, directly or in a chain.

    Args:
        keys: sha256 of each item's bytes, in hexadecimal.
        groups: Group of each item; empty for none.

    Returns:
        The unit of each item from 0, intp (n_items,).
    """
    return _number_units(keys, groups)[0]


def _number_units(keys: Texts, groups: Texts) -> tuple[npt.NDArray[np.intp], list[_Names]]:
    """Return the unit of each item, and the names of the units: some groups and some keys.

    Units with a group come first, in the order of their smallest groups; then the others, in that of their keys. For
    millions of items, arrays take a tenth of the memory that a dictionary of them does.
    """
    key_texts, group_texts = _as_texts(keys), _as_texts(groups)
    key_codes, key_places = _number_texts(key_texts)
    tied = np.flatnonzero(group_texts != group_texts.dtype.type())
    if not len(tied):
        return key_codes, [(key_texts, key_places)]
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    group_codes, group_places = _number_texts(group_texts)
    n_groups, n_nodes = len(group_places), len(group_places) + len(key_places)
    ends = group_codes[tied], n_groups + key_codes[tied]
    graph = coo_array((np.ones(len(tied), np.int8), ends), shape=(n_nodes, n_nodes))
    _, component = connected_components(graph, directed=False)
    _, root = np.unique(component, return_index=True)  # the first node is the smallest group, if there is one
    of_key = root[component[n_groups:]]
    roots, numbers = np.unique(of_key, return_inverse=True)
    grouped = roots[roots < n_groups]
    alone = roots[len(grouped) :] - n_groups
    return numbers[key_codes], [(group_texts, group_places[grouped]), (key_texts, key_places[alone])]


def _number_texts(texts: npt.NDArray[Any]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Number texts in rising order: the number of each, and the first place of each number.

    As `np.unique` does, which copies all texts three times.
    """
    order = np.argsort(texts, kind="stable")
    is_new = np.ones(len(texts), bool)
    for start in range(1, len(texts), _NAMES):
        near = texts[order[start - 1 : start + _NAMES]]
        is_new[start : start + _NAMES] = near[1:] != near[:-1]
    codes = np.empty(len(texts), np.intp)
    codes[order] = np.cumsum(is_new) - 1
    return codes, order[is_new]


def _as_texts(values: Texts) -> npt.NDArray[Any]:
    return values if isinstance(values, np.ndarray) else np.array(values, np.str_)


def _decode(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def hold_out(
    keys: Texts,
    labels: Texts,
    groups: Texts,
    *,
    test_size: float = 0.2,
    seed: int = 0,
    split: str = "test",
    stratify: str = "stable",
) -> HoldOut:
    """Hold items out for the test.

    `stable`: a unit is in the test if the sha256 of `seed:name`, as a fraction of 1, is below
    `test_size`, so that adding images later moves none of the old ones. The share of a class
    varies as if it were drawn by lot. `exact`: units are chosen in the order of their hashes
    so that the share of each class is as near to `test_size` as whole units allow. Adding
    images can then move some units.

    If a class with two or more units would be missing on one side, its unit with the nearest
    hash is moved there. That unit may move back when images are added, so a note names the
    class. A class of one unit stays in training. New images that tie two units together can
    move these units.

    Args:
        keys: sha256 of each item's bytes, in hexadecimal.
        labels: Class of each item.
        groups: Group of each item; empty for none.
        test_size: Expected fraction of the units in the test, above 0 and below 1.
        seed: Each seed gives a different test.
        split: Its name in the notes, `test` or `val`.
        stratify: `stable` or `exact`.

    Returns:
        The items held out, and notes for the user.

    Raises:
        UsageError: If `test_size` is not a fraction.
    """
    if not 0 < test_size < 1:
        msg = f"the test size is {test_size}; it must be a fraction above 0 and below 1, such as 0.2"
        raise UsageError(msg)
    units, places = _place_units(keys, groups, seed)
    contents = _count_contents(units, labels)
    is_exact = stratify == "exact"
    in_test = _choose_exact(contents, places, test_size) if is_exact else (places < test_size).tolist()
    sides = _Sides(contents, places, in_test)
    classes = sorted(sides.units)
    single = [label for label in classes if len(sides.units[label]) == 1]
    to_training = [label for label in classes if sides.fill_training(label)]
    to_test = [label for label in classes if sides.fill_test(label)]
    untested = [label for label in classes if not sides.n_test[label]]
    use, where = _USES[split], "the test" if split == "test" else split
    notes = (
        _note(single, f"has a single image or group, which is trained on and not {use}"),
        _note(to_training, f"had no image for training; one image or group was moved there from {where}", single),
        _note(to_test, f"had no image in {where}; one image or group was moved there from training"),
        _note(untested, f"is not {use}, because other classes need its groups for training", single),
    )
    return HoldOut(np.array(sides.in_test, bool)[units], tuple(note for note in notes if note))


def draw_splits(
    keys: Sequence[str],
    labels: Sequence[str],
    groups: Sequence[str],
    *,
    val_size: float = 0.1,
    test_size: float = 0.2,
    seed: int = 0,
    stratify: str = "stable",
) -> tuple[list[str], tuple[str, ...]]:
    """Draw train, val and test; the test is that of `hold_out`, and does not depend on val.

    `stable`: a unit is in the test if its hash is below `test_size`, and otherwise in val if its
    hash is below `test_size + val_size`. So added images change neither. `exact`: val is chosen
    from what the test leaves, so that both have their shares of each class.

    Args:
        keys: sha256 of each item's bytes, in hexadecimal.
        labels: Class of each item.
        groups: Group of each item; empty for none.
        val_size: Expected fraction of the units in val; 0 draws none.
        test_size: Expected fraction of the units in the test; 0 draws none.
        seed: Each seed gives different splits.
        stratify: `stable` or `exact`.

    Returns:
        The split of each item, and notes for the user. One names the smallest and the largest share of a class if
        these are far from the size.

    Raises:
        UsageError: If a size is not a fraction, or nothing is left to train on.
    """
    splits = ["train"] * len(keys)
    notes: tuple[str, ...] = ()
    part = val_size / (1 - test_size) if stratify == "exact" else test_size + val_size
    for split, size, below in (("test", test_size, test_size), ("val", val_size, part)):
        if not size:
            continue
        rest = [at for at, taken in enumerate(splits) if taken == "train"]
        columns = [[column[at] for at in rest] for column in (keys, labels, groups)]
        held = hold_out(*columns, test_size=below, seed=seed, split=split, stratify=stratify)
        notes += held.notes
        for at in np.array(rest, np.intp)[held.test].tolist():
            splits[at] = split
        notes += tuple(_describe_shares(labels, splits, split, size, stratify))
    return splits, notes


def _describe_shares(
    labels: Sequence[str], splits: Sequence[str], split: str, size: float, stratify: str
) -> Iterable[str]:
    """Describe the smallest and the largest share of a class in a split, if one is far off."""
    n_items = Counter(labels)
    n_held = Counter(label for label, own in zip(labels, splits, strict=True) if own == split)
    shares = {label: n_held[label] / n for label, n in sorted(n_items.items()) if n >= _LEAST_FAR_OFF}
    if not any(share > size * _FAR_OFF or share < size / _FAR_OFF for share in shares.values()):
        return
    low, high = min(shares, key=lambda label: shares[label]), max(shares, key=lambda label: shares[label])
    advice = "no choice of whole groups is nearer" if stratify == "exact" else "--stratify exact evens the shares out"
    found = " and ".join(f"{shares[label]:.1%} of class {label!r}" for label in dict.fromkeys((low, high)))
    yield f"{split} has {found} instead of {size:.0%}; {advice}"


def _choose_exact(contents: Sequence[_Content], places: npt.NDArray[np.float64], share: float) -> list[bool]:
    """Choose units so that each class is held out by its share, or as near to it as whole units allow.

    The imbalance is the sum over classes of (held - share * n)^2 / n. Units are taken in the
    order of their hashes if that lowers it. Then single units change sides, or pairs do, as
    long as that lowers it; without groups, no change is left to make.
    """
    n_items, _ = _sum_contents(contents)
    excess = {label: -share * n for label, n in n_items.items()}
    chosen = [False] * len(contents)
    for unit in map(int, np.argsort(places, kind="stable")):
        if sum((2 * n * excess[label] + n * n) / n_items[label] for label, n in contents[unit].items()) < 0:
            chosen[unit] = True
            for label, n in contents[unit].items():
                excess[label] += n
    is_small = len(contents) <= _MOST_EXCHANGED and len(contents) * len(n_items) <= _MOST_CELLS
    return _exchange(contents, chosen, share, n_items) if is_small else chosen


def _exchange(contents: Sequence[_Content], chosen: list[bool], share: float, n_items: Mapping[str, int]) -> list[bool]:
    """Move single units and pairs of units to the other side as long as that lowers the imbalance."""
    columns = {label: column for column, label in enumerate(sorted(n_items))}
    scales = np.sqrt([n_items[label] for label in columns])
    counts = np.zeros((len(contents), len(columns)))
    for unit, content in enumerate(contents):
        for label, n in content.items():
            counts[unit, columns[label]] = n
    counts /= scales
    sides = np.array(chosen, bool)
    for _ in range(_MOST_EXCHANGES):
        steps = np.where(sides[:, None], -counts, counts)  # what a change of side adds
        alone = (steps**2).sum(axis=1) + 2 * steps @ (counts[sides].sum(axis=0) - share * scales)
        changes = alone[:, None] + alone + 2 * steps @ steps.T
        np.fill_diagonal(changes, alone)
        one, other = np.unravel_index(changes.argmin(), changes.shape) if changes.size else (0, 0)
        if not changes.size or changes[one, other] > -_LEAST_GAIN:
            break
        sides[[one, other]] ^= True
    return [bool(side) for side in sides]


def assign_folds(keys: Texts, labels: Texts, groups: Texts, *, folds: int, seed: int = 0) -> npt.NDArray[np.intp]:
    """Assign the items to folds that hold about the same number of each class.

    Units are assigned one by one, the largest first, each to the fold that has the fewest
    items of its classes (and the fewest of all, if these are equal). The folds are as balanced
    as those of scikit-learn's StratifiedGroupKFold, in a twentieth of the time for 40,000 items
    without groups. A unit without which one of its classes could not be trained on is never held out.

    Args:
        keys: sha256 of each item's bytes, in hexadecimal.
        labels: Class of each item.
        groups: Group of each item; empty for none.
        folds: Number of folds, at least 2.
        seed: Each seed gives different folds.

    Returns:
        The fold in which each item is held out, intp (n_items,), 0 to `folds` - 1, or
        `ALWAYS_TRAINED`.

    Raises:
        UsageError: If there are fewer than two folds.
        DataError: If no class has as many units as there are folds.
    """
    if folds <= 1:
        msg = f"cross-validation needs at least two folds; got {folds}: ask for 2 or more"
        raise UsageError(msg)
    units, places = _place_units(keys, groups, seed)
    contents = _count_contents(units, labels)
    _, n_units = _sum_contents(contents)
    largest = max(sorted(n_units), key=lambda label: n_units[label], default="")
    if n_units.get(largest, 0) < folds:
        msg = (
            f"{folds} folds need a class with {folds} different images or groups; the largest, {largest!r}, "
            f"has {n_units.get(largest, 0)}: ask for fewer folds or add images"
        )
        raise DataError(msg)
    order = np.lexsort((places, -np.bincount(units, minlength=len(contents))))
    dealt = np.array(_deal(contents, map(int, order), folds), np.intp)
    if len(set(dealt) - {ALWAYS_TRAINED}) < folds:
        rare = sorted(label for label in n_units if n_units[label] == 1)
        msg = f"{folds} folds cannot be filled, because {_name(rare)} has a single image or group; add images"
        raise DataError(msg)
    return dealt[units]


def find_leaks(keys: Texts, splits: Texts) -> npt.NDArray[np.bool_]:
    """Find items whose bytes occur again in a later split, in the order train, val, test.

    A head that is trained or chosen on such items has seen the answers, so leave them out.

    Args:
        keys: sha256 of each item's bytes, in hexadecimal.
        splits: Split of each item; items without a split are not leaks.

    Returns:
        bool (n_items,), True for the items to leave out.
    """
    _, codes = np.unique(_as_texts(keys), return_inverse=True)
    names, places = np.unique(_as_texts(splits), return_inverse=True)
    ranks = np.array([SPLITS.index(name) if name else -1 for name in names.tolist()], np.int8)[places]
    last = np.zeros(int(codes.max(initial=-1)) + 1, np.int8)
    np.maximum.at(last, codes, ranks)
    return np.asarray((ranks >= 0) & (ranks < last[codes]), bool)


class _Sides:
    """The units in the test, and how many of each class are there."""

    def __init__(self, contents: Sequence[_Content], places: npt.NDArray[np.float64], in_test: list[bool]) -> None:
        self.in_test = in_test
        self.units: dict[str, list[int]] = defaultdict(list)
        self.n_test: Counter[str] = Counter()
        self._contents = contents
        for unit in map(int, np.argsort(places, kind="stable")):
            for label in contents[unit]:
                self.units[label].append(unit)
                self.n_test[label] += self.in_test[unit]

    def fill_training(self, label: str) -> bool:
        """Move the unit with the highest hash to training if the class has none there; return whether it moved."""
        if self._count_training(label):
            return False
        self._move(self.units[label][-1])
        return True

    def fill_test(self, label: str) -> bool:
        """Move the lowest unit that training can spare to the test if the class has none; return whether it moved."""
        if self.n_test[label]:
            return False
        for unit in self.units[label]:
            if all(self._count_training(other) > 1 for other in self._contents[unit]):
                self._move(unit)
                return True
        return False

    def _count_training(self, label: str) -> int:
        return len(self.units[label]) - self.n_test[label]

    def _move(self, unit: int) -> None:
        self.in_test[unit] = not self.in_test[unit]
        for label in self._contents[unit]:
            self.n_test[label] += 1 if self.in_test[unit] else -1


def _deal(contents: Sequence[_Content], order: Iterable[int], folds: int) -> list[int]:
    """Return the fold of each unit; see `assign_folds`."""
    n_items, n_left = _sum_contents(contents)
    in_fold = {label: [0] * folds for label in n_items}
    homes: dict[str, set[int]] = {label: set() for label in n_items}
    sizes = [0] * folds
    dealt = [ALWAYS_TRAINED] * len(contents)
    for unit in order:
        content = sorted(contents[unit].items())
        for label, _ in content:
            n_left[label] -= 1
        # The last unit of a class must not join all others in one fold: nothing of it would be left to train on.
        last = [label for label, _ in content if not n_left[label]]
        allowed = [fold for fold in range(folds) if all(homes[label] - {fold} for label in last)]
        # Adding n items to a fold that has x of a class's N items raises the imbalance, the sum over
        # folds and classes of x^2 / N, by (2 n x + n^2) / N. Only n x / N differs between folds.
        costs = [
            (sum([n * in_fold[label][fold] / n_items[label] for label, n in content]), sizes[fold], fold)
            for fold in allowed
        ]
        *_, dealt[unit] = min(costs, default=(ALWAYS_TRAINED,))
        for label, n in content:
            homes[label].add(dealt[unit])
            if dealt[unit] != ALWAYS_TRAINED:
                in_fold[label][dealt[unit]] += n
                sizes[dealt[unit]] += n
    return dealt


class _Contents(Sequence[_Content]):
    """The number of items of each class in each unit, in arrays: a dictionary for each of millions takes a gigabyte."""

    def __init__(self, units: npt.NDArray[np.intp], labels: Texts) -> None:
        names, codes = np.unique(_as_texts(labels), return_inverse=True)
        pairs, firsts, counts = np.unique(units * len(names) + codes, return_index=True, return_counts=True)
        owners = pairs // max(1, len(names))
        order = np.lexsort((firsts, owners))
        self._names: list[str] = [_decode(name) for name in names.tolist()]
        self._codes = (pairs % max(1, len(names)))[order].astype(np.int32)
        self._counts = counts[order].astype(np.int32)
        self._starts = np.searchsorted(owners, np.arange(int(units.max(initial=-1)) + 2))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, unit: Any) -> Any:  # noqa: ANN401 - the signature of a sequence has slices
        if unit >= len(self):
            raise IndexError(unit)
        own = slice(self._starts[unit], self._starts[unit + 1])
        return {
            self._names[code]: count
            for code, count in zip(self._codes[own].tolist(), self._counts[own].tolist(), strict=True)
        }


def _count_contents(units: npt.NDArray[np.intp], labels: Texts) -> _Contents:
    """Count the items of each class in each unit."""
    return _Contents(units, labels)


def _sum_contents(contents: Sequence[_Content]) -> tuple[dict[str, int], dict[str, int]]:
    """Count the items and the units of each class."""
    n_items: dict[str, int] = defaultdict(int)
    n_units: dict[str, int] = defaultdict(int)
    for content in contents:
        for label, n in content.items():
            n_items[label] += n
            n_units[label] += 1
    return n_items, n_units


def _place(name: str, seed: int) -> float:
    """Hash a unit's name to a fraction in [0, 1), with the 53 bits that a float holds."""
    digest = hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def _place_units(keys: Texts, groups: Texts, seed: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Return the unit of each item, and the place of each unit; a part of the names is in memory at a time."""
    units, names = _number_units(keys, groups)
    parts = (
        texts[places[start : start + _NAMES]] for texts, places in names for start in range(0, len(places), _NAMES)
    )
    found = (_place(_decode(name), seed) for part in parts for name in part.tolist())
    return units, np.fromiter(found, np.float64, sum(len(places) for _, places in names))


def _note(labels: Sequence[str], what: str, apart_from: Sequence[str] = ()) -> str:
    named = sorted(set(labels) - set(apart_from))
    return f"{_name(named)} {what}" if named else ""


def _name(labels: Sequence[str]) -> str:
    if len(labels) == 1:
        return f"class {labels[0]!r}"
    return f"each of the classes {join_first(list(map(repr, labels)), _NAMED_CLASSES)}"


def find_groups(ids: Sequence[str], group: str, source: str, reading: Mapping[str, Any]) -> list[str]:
    """Find the group of each item.

    Args:
        ids: The items.
        group: `folder` for the folder of each item, a column of the table that was read,
            or a regular expression with one group, searched in each id.
        source: The source that was read.
        reading: Its `Manifest.reading`.

    Returns:
        The group of each item; empty for none.

    Raises:
        UsageError: If `group` is none of these, matches nothing, or the table no longer has an item.
    """
    if group == "folder":
        return [name.rpartition("/")[0] for name in ids]
    try:
        pattern = re.compile(group)
    except re.error:
        pattern = re.compile("")
    if pattern.groups == 1:
        groups = [(match[1] or "") if (match := pattern.search(name)) else "" for name in ids]
        if not any(groups):
            msg = f"--group {group!r} matches no image; write an expression for paths such as {ids[0]!r}"
            raise UsageError(msg)
        return groups
    return _read_column(ids, group, source, reading)


def describe_ungrouped(groups: Sequence[str], group: str) -> list[str]:
    """Return a list of one sentence if groups were asked for and items have none; else an empty list."""
    alone = sum(not name for name in groups)
    if not group or not alone:
        return []
    are, each = agree(alone, "is", "are"), agree(alone, "it", "each of them")
    return [f"{alone:,} of {len(groups):,} items {are} in no group by {group!r}; {each} counts as a group"]


def _read_column(ids: Sequence[str], group: str, source: str, reading: Mapping[str, Any]) -> list[str]:
    if not (find_url(source) or Path(source).is_file() or find_shards(source)):
        msg = (
            f"{group!r} is not a group: {source} is not a table with that column; use --group folder, or a "
            f"regular expression with one group, such as --group '(patient\\d+)'"
        )
        raise UsageError(msg)
    try:
        items = read_source_again(source, reading, group=group).items
    except FeatxError as error:
        msg = f"the groups cannot be read again: {error}"
        raise UsageError(msg) from error
    groups = {item.id: item.group for item in items}
    missing = [name for name in ids if name not in groups]
    if missing:
        msg = (
            f"{source} no longer has {missing[0]}; embed it again with --group {shlex.quote(group)}, which reuses the "
            "features"
        )
        raise UsageError(msg)
    return [groups[name] for name in ids]
