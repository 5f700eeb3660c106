"""Splitting a source into train, val and test: a table is written, and no image is moved or changed.

A table can be read, kept under version control and passed on, and images that arrive later get a
split by the same rule. Files that were moved into split folders allow none of this.
"""

import contextlib
import csv
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from featx.errors import DataError, ImageError, SourceError, UsageError
from featx.files import write_atomically
from featx.items import FolderReader, Manifest, read_source, read_table
from featx.items.decoding import probe
from featx.items.layouts import find_split
from featx.items.manifest import COLUMNS, SPLITS, Item
from featx.items.reading import describe_failure, read_stamped
from featx.items.splits import describe_ungrouped, draw_splits, find_groups
from featx.options import SPLIT_DEFAULTS, SplitOptions
from featx.prefetching import prefetch
from featx.registry import suggest
from featx.reporting import Reporter
from featx.urls import find_url

_HEADER_LINE = ",".join(COLUMNS) + "\n"


def read_split(name: str) -> str:
    """Return the split that a user names, in any spelling that sources may have, such as `val` for `validation`.

    Raises:
        UsageError: If it names no split, or several.
    """
    split = find_split(name) if name.strip().replace("-", "").replace("_", "").isalnum() else ""
    if name and not split:
        hint = suggest(name, SPLITS)
        msg = f"there is no split {name!r}; {f'{hint} ' if hint else ''}Known: {', '.join(SPLITS)}"
        raise UsageError(msg)
    return split


@dataclass(frozen=True, slots=True)
class SplitTable:
    """A table of items and their splits that has been written.

    Attributes:
        path: The CSV file; `featx.read_source` reads it without further arguments.
        items: The items with split and group, in the order of the source and with its ids.
        unread: Reasons of images that got no split, by item; embedding quarantines these images.
        notes: Sentences for the user.
    """

    path: Path
    items: tuple[Item, ...] = field(repr=False)
    unread: Mapping[str, str]
    notes: tuple[str, ...]

    def count_classes(self) -> dict[str, dict[str, int]]:
        """Count the items of each class in each split; `none` counts those that could not be read."""
        counts = {label: dict.fromkeys((*SPLITS, "none"), 0) for label in sorted({item.label for item in self.items})}
        for item in self.items:
            counts[item.label][item.split or "none"] += 1
        counts.pop("", None)
        return counts

    def count_splits(self) -> dict[str, int]:
        """Count the items of each split."""
        return {split: sum(item.split == split for item in self.items) for split in SPLITS}

    def to_dict(self) -> dict[str, Any]:
        """Return what `featx split --json` prints."""
        size = {"table": str(self.path), "items": len(self.items), "splits": self.count_splits()}
        unread = [{"path": name, "reason": reason} for name, reason in self.unread.items()]
        return {**size, "classes": self.count_classes(), "unread": unread, "notes": list(self.notes)}


def split_source(
    source: str | os.PathLike[str] | Manifest,
    *,
    out: str | os.PathLike[str] | None = None,
    options: SplitOptions = SPLIT_DEFAULTS,
) -> SplitTable:
    """Split a labelled source into train, val and test, and write the splits as a table.

    The test is the one that `fit` holds out of the same images with the same seed, and images that
    are added later move none of the earlier ones, unless `options.stratify` is `exact`. Identical
    files, and items of one group, are never in two splits. Images that cannot be read, or whose
    header is not an image's, stay in the table without a split. Pixels are not decoded, which would
    take minutes for 100,000 images: an image that is damaged further on is quarantined by embedding,
    and then missing from its split.

    Args:
        source: A folder or table (see `featx.read_source`), or its manifest, which may have been read with options.
        out: The table to write, a `.csv`; None for `<source>-splits.csv` next to the source. A manifest of a
            DataFrame needs it.
        options: How to split.

    Returns:
        The table.

    Raises:
        SourceError: If the source cannot be split, or the table cannot be written.
        UsageError: If the source has splits already, or the table's path is taken or not given for a DataFrame.
        DataError: If the source has no labels, or its classes would be the same in a table.
    """
    manifest = source if isinstance(source, Manifest) else read_source(source)
    reader = _check_reader(manifest)
    _check_labels(manifest)
    if not options.replace:
        _refuse_splits(manifest)
    path = _choose_path(manifest, out, force=options.force)
    names = [item.id for item in manifest.items]
    groups = [item.group for item in manifest.items]
    if options.group:
        groups = find_groups(names, options.group, manifest.source, manifest.reading)
    keys, unread = hash_items(manifest, options.count_workers(), options.reporter)
    members = [at for at, item in enumerate(manifest.items) if item.label and item.id in keys]
    splits, notes = draw_splits(
        [keys[names[at]] for at in members],
        [manifest.items[at].label for at in members],
        [groups[at] for at in members],
        val_size=options.val_size,
        test_size=options.test_size,
        seed=options.seed,
        stratify=options.stratify,
    )
    drawn = dict(zip(members, splits, strict=True))
    items = tuple(
        replace(item, split=drawn.get(at, ""), group=group)
        for at, (item, group) in enumerate(zip(manifest.items, groups, strict=True))
    )
    # Reading a large source takes minutes, during which another program may write to the path.
    confirm = functools.partial(_check_place, path, manifest, force=options.force)
    _write_table(path, items, reader, confirm)
    ungrouped = describe_ungrouped([groups[at] for at in members], options.group)
    return SplitTable(path, items, unread, (*_describe_single_class(items), *ungrouped, *notes))


def _check_reader(manifest: Manifest) -> FolderReader:
    if isinstance(manifest.reader, FolderReader):
        return manifest.reader
    if find_url(manifest.source):
        msg = f"{manifest.source!r} is not on this machine, where tables of splits are written; leave the split to "
        raise SourceError(msg + "`featx fit`, which holds out a test and validates on folds of the rest")
    msg = (
        f"a table cannot list the images inside {manifest.source!r}: unpack it and split the folder, or leave the "
        "split to `featx fit`, which holds out a test and validates on folds of the rest"
    )
    raise SourceError(msg)


def _check_labels(manifest: Manifest) -> None:
    if not manifest.count_classes():
        msg = (
            f"{manifest.source!r} has no classes to split by: name a folder of class folders or a table with a "
            "label column, or add --label-pattern"
        )
        raise DataError(msg)


def _refuse_splits(manifest: Manifest) -> None:
    """Refuse a source with splits, by the rule of `fit`: if all items are in train, the test is still to be drawn."""
    counts = manifest.count_splits()
    if counts and (set(counts) != {"train"} or sum(counts.values()) < len(manifest)):
        listed = ", ".join(f"{split} {count:,}" for split, count in counts.items())
        msg = (
            f"{manifest.source!r} has splits already ({listed}), which embed and fit use; add --replace to write a "
            "table with new ones (no file is moved)"
        )
        raise UsageError(msg)


def _choose_path(manifest: Manifest, out: str | os.PathLike[str] | None, *, force: bool) -> Path:
    if out is None and manifest.reading.get("frame"):
        msg = "the items came from a DataFrame, which has no file to write next to; name the table with out="
        raise UsageError(msg)
    if out is None:
        source = Path(manifest.source)
        source = source if source.name not in {"", ".."} else Path(os.path.abspath(source))  # noqa: PTH100 - a link keeps its name
        path = source.with_name(f"{source.name if source.is_dir() else source.stem}-splits.csv")
    else:
        path = Path(out)
    if path.suffix.lower() != ".csv":
        msg = f"the table {str(path)!r} must end in .csv, so that `featx embed` recognises it; name another with --out"
        raise UsageError(msg)
    _check_place(path, manifest, force=force)
    return path


def _check_place(path: Path, manifest: Manifest, *, force: bool) -> None:
    """Refuse a path that exists and may not be overwritten; a broken link counts as existing."""
    if not os.path.lexists(path):
        return
    if path.exists() and Path(manifest.source).exists() and path.samefile(manifest.source):
        msg = f"{str(path)!r} is the source itself, which is never overwritten; name another file with --out"
        raise UsageError(msg)
    if not _is_own(path):
        msg = f"{str(path)!r} was not written by `featx split` and is not overwritten; name another file with --out"
        raise UsageError(msg)
    if not force:
        msg = f"{str(path)!r} exists already; overwrite it with --force, or name another file with --out"
        raise UsageError(msg)


def _is_own(path: Path) -> bool:
    """Return whether a file begins like the tables that are written here."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_HEADER_LINE)) == _HEADER_LINE.encode()


def hash_items(manifest: Manifest, workers: int, reporter: Reporter) -> tuple[dict[str, str], dict[str, str]]:
    """Return the sha256 of each item that can be read, and the reason for each that cannot.

    Args:
        manifest: The items.
        workers: Number of threads.
        reporter: Receives the progress in files.

    Raises:
        SourceError: If none can be read.
    """

    def hash_item(item: Item) -> tuple[str, str]:
        try:
            stamp, data = read_stamped(manifest, item.id)
            probe(data)
        except OSError as error:
            return "", describe_failure(error)
        except ImageError as error:
            return "", str(error)
        return stamp.sha256, ""

    reporter.begin("reading")
    keys: dict[str, str] = {}
    unread: dict[str, str] = {}
    with contextlib.closing(prefetch(hash_item, manifest.items, workers=workers, ahead=4 * workers)) as found:
        for item, (key, reason) in zip(manifest.items, found, strict=True):
            (keys if key else unread)[item.id] = key or reason
            reporter.advance(len(keys) + len(unread), len(manifest))
    if not keys:
        name, reason = next(iter(unread.items()))
        msg = f"none of the images of {manifest.source!r} can be read; the first, {name!r}: {reason}"
        raise SourceError(msg)
    return keys, unread


def _describe_single_class(items: Sequence[Item]) -> list[str]:
    classes = {item.label for item in items if item.split}
    if len(classes) == 1:
        return [f"there is only one class ({min(classes)}); a classifier needs at least two"]
    return []


def _write_table(path: Path, items: Sequence[Item], reader: FolderReader, confirm: Callable[[], None]) -> None:
    """Write the table under a temporary name, and rename it if it reads back correctly and its path is still free."""
    folder = os.path.abspath(path.parent)  # noqa: PTH100 - resolve() would follow links, and the reader does not
    rows = [(_relate(reader.locate(item.id), folder), item.label, item.split, item.group) for item in items]
    # Unless a field is quoted, readers drop spaces before it and take a carriage return for the end of a line.
    odd = any(cell != cell.strip() or "\r" in cell for row in rows for cell in row)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path, confirm) as temporary:
            # Names that are not UTF-8 are kept byte by byte, as in the reader of tables.
            with temporary.open("x", encoding="utf-8", errors="surrogateescape", newline="") as file:
                file.write(_HEADER_LINE)
                writer = csv.writer(file, quoting=csv.QUOTE_ALL if odd else csv.QUOTE_MINIMAL, lineterminator="\n")
                writer.writerows(rows)
            _check_table(temporary, items, reader)
    except OSError as error:
        msg = f"the table {str(path)!r} cannot be written: {error.strerror or error}; name another path with --out"
        raise SourceError(msg) from error


def _relate(path: Path, folder: str) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive on Windows
        return path.as_posix()


def _check_table(path: Path, items: Sequence[Item], reader: FolderReader) -> None:
    """Refuse a table that is read back with other files, splits, classes or groups.

    Raises:
        DataError: If names differ only in what tables do not keep: spaces around them, or `1` and `1.0`.
    """
    read = read_table(path)
    at = read.reader
    files = [(os.path.normpath(reader.locate(item.id)), item.split) for item in items]
    if not isinstance(at, FolderReader) or files != [(str(at.locate(item.id)), item.split) for item in read.items]:
        msg = (
            f"the table {str(path)!r} would not list the same files; rename those with special characters, "
            "or name another --out"
        )
        raise DataError(msg)
    for role in ("label", "group"):
        pairs = {(getattr(item, role), getattr(again, role)) for item, again in zip(items, read.items, strict=True)}
        first: dict[str, str] = {"": ""}
        for name, again in sorted(pairs):
            if first.setdefault(again, name) != name:
                other = first[again] or "none"
                msg = f"in a table, the {role} {name!r} would be the same as {other!r}; rename one of them"
                raise DataError(msg)
