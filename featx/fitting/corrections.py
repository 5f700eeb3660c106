"""Corrections by a table, such as `audit.csv`: items that are left out, labelled anew, or kept together."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featx.errors import DataError, SourceError
from featx.fitting.preconditions import assign_roles
from featx.items.columns import Table
from featx.items.delimited import read_delimited
from featx.items.manifest import SPLITS, Manifest
from featx.items.sources import list_left_out
from featx.items.splits import find_units
from featx.registry import suggest
from featx.wording import agree, format_plural, join_first, to_text

#: How `audit.csv` suggests another label, and what it calls copies.
_LABEL, _COPIES = "label ", ("copy", "near-copy")

#: Its other suggestions; empty for a line that somebody does not agree with.
_SUGGESTIONS = ("leave out", "group", "check", "")

_SHOWN = 8


class Listed(Protocol):
    """Items that can be corrected: those of a store, of several, or of a manifest."""

    @property
    def path(self) -> str | Path:
        """What holds them, for messages."""

    @property
    def reading(self) -> Mapping[str, Any]:
        """See `Manifest.reading`."""

    @property
    def ids(self) -> NDArray[np.str_]:
        """Text `(n_items,)`."""

    @property
    def labels(self) -> NDArray[np.str_]:
        """Text `(n_items,)`."""

    @property
    def splits(self) -> NDArray[np.str_]:
        """Text `(n_items,)`."""

    @property
    def groups(self) -> NDArray[np.str_]:
        """Text `(n_items,)`."""

    def __len__(self) -> int:
        """Count the items."""


@dataclass(frozen=True, slots=True)
class _Columns:
    """The items of a manifest, as `Listed`."""

    path: str
    reading: Mapping[str, Any]
    ids: NDArray[np.str_]
    labels: NDArray[np.str_]
    splits: NDArray[np.str_]
    groups: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class _Lines:
    """The lines of a table that name items.

    Attributes:
        table: The table.
        kept: Its lines that are used.
        rows: int `(n_kept,)`: the row of the item that each of them names.
    """

    table: Table
    kept: list[int]
    rows: NDArray[np.intp]

    def read(self, name: str) -> list[str]:
        """Read a column of these lines."""
        values = _read_column(self.table, name)
        return [values[line] for line in self.kept]

    def read_suggestions(self) -> list[str]:
        """Read the suggestions of these lines.

        Raises:
            DataError: If one is none that `featx audit` makes; it would be ignored without a word.
        """
        found = []
        for line, text in zip(self.kept, self.read("suggestion"), strict=True):
            word = text.strip().casefold()  # a spreadsheet may have begun it with a capital letter
            is_label = word.startswith(_LABEL)
            if word not in _SUGGESTIONS and not is_label:
                msg = (
                    f"{self.table.name_row(line)} of {self.table.title} has the suggestion {text!r}; write "
                    "'leave out', 'group', 'check' or 'label NAME', or leave it empty"
                )
                raise DataError(msg)
            found.append(_LABEL + text.strip()[len(_LABEL) :] if is_label else word)
        return found


@dataclass(frozen=True, slots=True)
class Corrected:
    """The items of a store after corrections, one value for each row.

    Attributes:
        kept: bool `(n_items,)`: the items that are not left out.
        labels, groups: Text `(n_items,)`.
        copies: Text `(n_items,)`: the group that a table names; empty for none.
        notes: What was corrected.
        record: The same as a bundle records it.
    """

    kept: NDArray[np.bool_]
    labels: NDArray[np.str_]
    groups: NDArray[np.str_]
    copies: NDArray[np.str_]
    notes: tuple[str, ...]
    record: Mapping[str, Any]


def is_table(group: str) -> bool:
    """Return whether the option `group` names a table, not a column or a regular expression."""
    return group.lower().endswith((".csv", ".tsv"))


def correct_items(
    store: Listed,
    *,
    without: str | os.PathLike[str] | None = None,
    relabel: str | os.PathLike[str] | None = None,
    group: str = "",
) -> Corrected:
    """Correct the items of a store by tables with a column `id`; the store itself stays as it is.

    Args:
        store: The store, or what else lists items.
        without: Table of items to leave out. Of a table with a column `suggestion`, as `featx audit` writes it, those
            with `leave out`, and of each group of copies all but one, which is a test item if one of them is.
        relabel: Table with a column `label`, or with suggestions `label NAME`.
        group: Table with a column `group`: items of one group stay together, and with the groups that the store has.
            Anything else than a table changes nothing here.

    Raises:
        SourceError: If a table cannot be read.
        DataError: If a table lacks a column, or names an item or a class that the store lacks.
    """
    kept, labels, groups = np.ones(len(store), bool), store.labels, store.groups
    copies = np.zeros(len(store), "<U1")
    notes: list[str] = []
    record: dict[str, Any] = {}
    if relabel:
        labels, changed = _relabel(store, Path(relabel))
        record |= _describe_file("relabel", Path(relabel)) | {"relabelled": changed}
        notes.append(f"{relabel} changes the label of {format_plural(changed, 'item')}")
    if without:
        kept, listed, n_copies = _leave_out(store, Path(without))
        record |= _describe_file("without", Path(without)) | {"left_out": int((~kept).sum())}
        notes.append(_describe_left_out(without, kept, listed, n_copies) + _describe_tested(store, ~kept))
        if lost := sorted(set(labels.tolist()) - set(labels[kept].tolist()) - {""}):
            are = agree(len(lost), "the class has", "the classes have")
            notes.append(f"{are} no items left: {join_first(lost, _SHOWN)}")
    if is_table(group):
        groups, copies = _group(store, Path(group))
        grouped = int((copies != "").sum())
        record |= _describe_file("group", Path(group)) | {"grouped": grouped}
        count = len(set(copies.tolist()) - {""})
        also = ", and with the groups of the store" if (store.groups != "").any() else ""
        notes.append(
            f"{group} keeps {format_plural(grouped, 'item')} together in {format_plural(count, 'group')}{also}"
        )
    return Corrected(kept, labels, groups, copies, tuple(notes), record)


def correct_manifest(
    manifest: Manifest,
    *,
    without: str | os.PathLike[str] | None = None,
    relabel: str | os.PathLike[str] | None = None,
    group: str = "",
) -> Manifest:
    r"""Correct the items of a source by tables such as `audit.csv`, before they are embedded.

    Args:
        manifest: The source; see `featx.read_source`.
        without: Table of items to leave out; a store that is embedded from the result records which.
        relabel: Table of items to label anew.
        group: Table of items to keep together.

    Returns:
        The corrected manifest, with notes about what was done.

    Raises:
        SourceError: If a table cannot be read.
        DataError: If a table lacks a column, or names an item or a class that the source lacks, or no item is left.

    Examples:
        >>> import featx
        >>> manifest = featx.read_source("digits")
        >>> with open("bad.csv", "w") as file:
        ...     _ = file.write("id\n" + manifest.items[0].id)
        >>> len(manifest), len(featx.correct_manifest(manifest, without="bad.csv"))
        (400, 399)
    """
    rows = [(item.id, item.label, item.split, item.group) for item in manifest.items]
    columns = (np.array(column, np.str_) for column in zip(*rows, strict=True))
    listed = _Columns(manifest.source, manifest.reading, *columns)
    corrected = correct_items(listed, without=without, relabel=relabel, group=group)
    if not corrected.kept.any():
        msg = f"{without} leaves out all {format_plural(len(listed), 'item')} of {listed.path}; delete some lines"
        raise DataError(msg)
    found = zip(manifest.items, corrected.labels.tolist(), corrected.groups.tolist(), corrected.kept, strict=True)
    items = tuple(replace(item, label=label, group=name) for item, label, name, kept in found if kept)
    reading, ids = dict(manifest.reading), listed.ids[~corrected.kept].tolist()
    if without:
        earlier = sorted(list_left_out(reading))
        file = _describe_file("without", Path(without))
        reading["without"] = {"path": file["without"], "sha256": file["without_sha256"], "ids": [*earlier, *ids]}
    return replace(manifest, items=items, reading=reading, notes=(*manifest.notes, *corrected.notes))


def _describe_left_out(table: object, kept: NDArray[np.bool_], listed: int, n_copies: int) -> str:
    words = f"{table} leaves out {format_plural(int((~kept).sum()), 'item')}"
    return f"{words}: {listed:,} listed, and {n_copies:,} further copies of a picture that stays" if n_copies else words


def _describe_tested(store: Listed, left_out: NDArray[np.bool_]) -> str:
    """Describe how many of the items that are left out the source tests on; empty for none."""
    roles = assign_roles(store.splits)
    count = int((left_out & roles[2]).sum()) if roles else 0
    are, them = agree(count, "is", "are"), agree(count, "it", "them")
    return f"; {count:,} of them {are} tested otherwise, and the test may be easier without {them}" if count else ""


def _describe_file(name: str, path: Path) -> dict[str, str]:
    return {name: to_text(str(path)), f"{name}_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _read(store: Listed, path: Path) -> _Lines:
    """Read a table, and find the item that each of its lines names.

    Items that were left out when the store was embedded have nothing to correct, and are passed over.

    Raises:
        SourceError: If it cannot be read.
        DataError: If it has no ids, or the store lacks one.
    """
    if not path.is_file():
        msg = f"there is no table {str(path)!r}; `featx audit` writes one as audit/STORE/audit.csv"
        raise SourceError(msg)
    table = read_delimited(str(path), str(path))
    ids = _read_column(table, "id")
    rows = {name.encode("utf-8", "backslashreplace").decode(): row for row, name in enumerate(store.ids.tolist())}
    left_out = list_left_out(store.reading)
    unknown = list(dict.fromkeys(name for name in ids if name not in rows and name not in left_out))
    if unknown:
        lacks = agree(len(unknown), "an item that", f"{len(unknown):,} items that")
        msg = (
            f"{path} names {lacks} {store.path} does not have, such as {unknown[0]!r}; use the audit.csv of these "
            "pictures, or delete these lines"
        )
        raise DataError(msg)
    kept = [line for line, name in enumerate(ids) if name in rows]
    return _Lines(table, kept, np.array([rows[ids[line]] for line in kept], np.intp))


def _read_column(table: Table, name: str) -> list[str]:
    if name not in table.columns:
        msg = (
            f"{table.title} has no column {name!r}; its columns are {table.list_columns()}. A table such as the "
            "audit.csv of `featx audit` is needed"
        )
        raise DataError(msg)
    if name in table.repeated:
        msg = f"{table.title} has several columns {name!r}; remove or rename all but one"
        raise DataError(msg)
    return list(table.read(name))


def _leave_out(store: Listed, path: Path) -> tuple[NDArray[np.bool_], int, int]:
    """Return the items that are kept, the number of those that are listed to be left out, and that of copies."""
    lines = _read(store, path)
    kept = np.ones(len(store), bool)
    if "suggestion" not in lines.table.columns:
        kept[lines.rows] = False
        return kept, int((~kept).sum()), 0
    suggestions = np.array(lines.read_suggestions(), np.str_)
    kept[lines.rows[suggestions == "leave out"]] = False
    listed = int((~kept).sum())
    is_copy = np.isin(lines.read("kind"), _COPIES) & (suggestions == "group")
    names = np.where(is_copy, lines.read("group"), "")
    members = defaultdict(list)
    for row, name in enumerate(_join(store, lines.rows, names.tolist(), with_own=False).tolist()):
        if name and kept[row]:
            members[name].append(row)
    latest = {split: -place for place, split in enumerate(SPLITS)}
    for group in members.values():
        # The test stays whole: of a picture that is in train and in test, the training copy goes.
        stays = min(group, key=lambda row: latest.get(str(store.splits[row]), 1))
        kept[[row for row in group if row != stays]] = False
    return kept, listed, int((~kept).sum()) - listed


def _relabel(store: Listed, path: Path) -> tuple[NDArray[np.str_], int]:
    """Return the labels, and the number of those that are new."""
    lines = _read(store, path)
    if "suggestion" in lines.table.columns:
        found = lines.read_suggestions()
        names = [text.removeprefix(_LABEL) if text.startswith(_LABEL) else "" for text in found]
    else:
        names = lines.read("label")
    known = sorted(set(store.labels.tolist()) - {""})
    labels, given = store.labels.copy(), dict[int, str]()
    for row, name in zip(lines.rows.tolist(), names, strict=True):
        if not name:
            continue
        if name not in known:
            hint = suggest(name, known)
            msg = (
                f"{path} gives {store.ids[row]} the label {name!r}, which {store.path} does not have; "
                f"{f'{hint} Its' if hint else 'its'} classes: {join_first(known, _SHOWN)}"
            )
            raise DataError(msg)
        if given.setdefault(row, name) != name:
            msg = f"{path} gives {store.ids[row]} two labels, {given[row]!r} and {name!r}; delete one of the lines"
            raise DataError(msg)
        labels[row] = name
    return labels, int((labels != store.labels).sum())


def _group(store: Listed, path: Path) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """Return the groups of a table joined with those of the store, and the groups of the table alone."""
    lines = _read(store, path)
    names = lines.read("group")
    return _join(store, lines.rows, names), _join(store, lines.rows, names, with_own=False)


def _join(store: Listed, rows: NDArray[np.intp], names: list[str], *, with_own: bool = True) -> NDArray[np.str_]:
    """Join items that share a name in a table, or a group of the store, directly or in a chain.

    Args:
        store: The store.
        rows: int `(n,)`, rows of the store.
        names: The name of each; empty for none.
        with_own: Whether items are also joined by the groups of the store.

    Returns:
        Text `(n_items,)`: the first item of each group; empty for items that are alone.
    """
    own = [(row, f"store {name}") for row, name in enumerate(store.groups.tolist()) if name] if with_own else []
    pairs = [*own, *((row, f"table {name}") for row, name in zip(rows.tolist(), names, strict=True) if name)]
    everyone = np.arange(len(store))
    # Every item is listed once more without a group, so that each has a unit.
    keys = [*map(str, everyone.tolist()), *(str(row) for row, _ in pairs)]
    units = find_units(keys, [*[""] * len(store), *(name for _, name in pairs)])[: len(store)]
    _, firsts, inverse, counts = np.unique(units, return_index=True, return_inverse=True, return_counts=True)
    return np.where(counts[inverse] > 1, store.ids[firsts[inverse]], "")
