"""The manifest: which items there are, in which order, and how to read them."""

import heapq
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from featx.errors import UsageError
from featx.items.renaming import suggest_rules
from featx.wording import agree, escape_html, format_html_table, to_printable, to_text

if TYPE_CHECKING:
    import pandas as pd

    from featx.items.columns import Columns

#: The names that a split may have; an item of a source without splits has the empty string.
SPLITS = ("train", "val", "test")

#: The largest file that is read: four times the pixels of the largest photographs, uncompressed.
#: A larger one is a mistake or an attack, and would fill the memory.
MAX_FILE_BYTES = 512 * 2**20

#: Size of an image that is not known without reading it, and the time of one that a server does not tell.
UNKNOWN_SIZE, UNKNOWN_TIME = -1, 2**63 - 1

#: How many classes a description names before it only counts them.
_NAMED_CLASSES = 12

#: How many items and pictures a notebook shows.
_SHOWN_ITEMS, _SHOWN_PICTURES = 5, 12

#: Columns of `Manifest.to_frame`, and of the tables that `featx split` writes.
COLUMNS = ("path", "label", "split", "group")


@dataclass(frozen=True, slots=True)
class Item:
    """One row of the manifest.

    Attributes:
        id: Path relative to the source root, posix, as the file system spells it
            (bytes that are not UTF-8 are kept as surrogate escapes).
        label: Name of its class, always valid Unicode; empty if it has none.
        split: One of `SPLITS`; empty if it has none.
        group: Items of one group stay together in every split; empty if it has none.
    """

    id: str
    label: str = ""
    split: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class FileStat:
    """Size in bytes, or `UNKNOWN_SIZE`, and modification time in nanoseconds, or `UNKNOWN_TIME`, of an item's file."""

    size_bytes: int
    mtime_ns: int

    def agrees(self, earlier: "FileStat") -> bool:
        """Return whether this is a file with the size and time of an earlier one."""
        is_known = self.mtime_ns != UNKNOWN_TIME
        return is_known and self.mtime_ns == earlier.mtime_ns and self.size_bytes in {earlier.size_bytes, UNKNOWN_SIZE}


class Reader(Protocol):
    """Reads the files of a source; safe to call from several threads at once."""

    def stat(self, item_id: str) -> FileStat:
        """Return size and time without reading the file. Raises OSError."""
        ...

    def read(self, item_id: str, n_bytes: int | None = None) -> bytes:
        """Return the first bytes of the file, or all of them if `n_bytes` is None. Raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class Manifest:
    """Ordered items and the reader of their files.

    Attributes:
        items: The items, in a stable order; ids are unique.
        reader: Reads their bytes.
        source: The folder, table or archive that the user named.
        junk: Why files were left out, and how many for each reason.
        reading: Arguments other than the defaults with which `read_source` returns the same manifest; values that
            JSON can hold.
        notes: How the source was read, for the user, one line each.
    """

    items: tuple[Item, ...]
    reader: Reader
    source: str
    junk: Mapping[str, int] = field(default_factory=dict)
    reading: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        splits = "".join(f", {name} {count:,}" for name, count in self.count_splits().items())
        classes = self.count_classes()
        return (
            f"<Manifest {self.source!r}: {len(self):,} {agree(len(self), 'item', 'items')}, "
            f"{len(classes):,} {agree(len(classes), 'class', 'classes')}{splits}>"
        )

    def count_classes(self, split: str | None = None) -> dict[str, int]:
        """Count the items of each class, classes sorted by name; unlabelled items are not counted.

        Args:
            split: The only split to count; None for all items.
        """
        chosen = (item for item in self.items if split is None or item.split == split)
        return dict(sorted(Counter(item.label for item in chosen if item.label).items()))

    def count_splits(self) -> dict[str, int]:
        """Count the items of each split that has any, in the order of `SPLITS`."""
        counts = Counter(item.split for item in self.items)
        return {split: counts[split] for split in SPLITS if counts[split]}

    def count_groups(self) -> int:
        """Count the distinct groups."""
        return len({item.group for item in self.items if item.group})

    def find_untrained_classes(self, split: str) -> list[str]:
        """Return the classes of a split that the training split lacks, sorted; a head cannot predict them."""
        return sorted(set(self.count_classes(split)) - set(self.count_classes("train")))

    def describe(self) -> list[str]:
        """Describe what was found, one line each: items, layout, classes, splits, groups and what was left out."""
        classes, splits = self.count_classes(), self.count_splits()
        unlabelled = len(self) - sum(classes.values())
        lines = [
            f"{to_text(self.source)}: {len(self):,} {agree(len(self), 'image', 'images')}",
            *self.notes,
            f"classes: {len(classes):,}"
            + (f" ({_list_counts(classes)})" if classes else "; if file names contain them, add --label-pattern"),
        ]
        if classes and unlabelled:
            lines.append(f"without a class: {unlabelled:,}")
        if splits:
            without = len(self) - sum(splits.values())
            lines.append(f"splits: {_list_counts(splits | ({'none': without} if without else {}))}")
        if "train" in splits:
            lines += self._describe_untrained(list(splits))
        if self.count_groups():
            lines.append(f"groups: {self.count_groups():,}")
        if self.junk:
            lines.append(f"left out: {list_junk(self.junk)}")
        return [to_printable(line) for line in lines]

    def _describe_untrained(self, splits: Sequence[str]) -> list[str]:
        """Describe the classes that the training split lacks, and how to map them where it has similar ones."""
        lines = []
        rules: list[str] = []
        for split in splits:
            if unknown := self.find_untrained_classes(split):
                lines.append(f"{split} has classes that train lacks: {', '.join(unknown[:_NAMED_CLASSES])}")
                rules += suggest_rules(self.count_classes(split), self.count_classes("train"))
        if rules:
            lines.append(f"if train has these classes under other names, add {' '.join(dict.fromkeys(rules))}")
        return lines

    def to_frame(self) -> "pd.DataFrame":
        """Return the items as a DataFrame of text with the columns `path`, `label`, `split` and `group`.

        `from_frame` reads it back if it gets the same root, since paths are relative to that. Ids that are not UTF-8
        keep their surrogate escapes, which pandas can hold only as objects.
        """
        import pandas as pd

        return pd.DataFrame([astuple(item) for item in self.items], columns=list(COLUMNS), dtype=object)

    @classmethod
    def from_frame(
        cls, frame: "pd.DataFrame", *, root: str | os.PathLike[str] = ".", columns: "Columns | None" = None
    ) -> "Manifest":
        """List the images of a DataFrame, one row for each file, by the rules of `featx.read_table`.

        What is embedded from a DataFrame cannot be read again later, for `featx repair` for example;
        a table on disk can.

        Args:
            frame: Paths and, where there are any, classes, splits and groups. Missing values are empty.
            root: Folder that the paths are relative to.
            columns: Names of the columns, where they are not the usual ones.

        Returns:
            The manifest, in the order of the rows.

        Raises:
            SourceError: If a column is missing, there are no rows, a file is named twice with different
                values, or none of the files exists.
        """
        from featx.items.tables import read_frame

        return read_frame(frame, root=root, columns=columns)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: counts by class and split, and the first items."""
        counts = Counter((item.label, item.split) for item in self.items)
        splits = [*self.count_splits(), *([""] if any(not split for _, split in counts) else [])]
        classes = self.count_classes()
        labels = [*list(classes)[:_NAMED_CLASSES], *([""] if any(not label for label, _ in counts) else [])]
        rows = [[counts[label, split] for split in splits] for label in labels]
        head = [split or "none" for split in splits] if self.count_splits() else ["images"]
        if len(head) > 1:
            head, rows = [*head, "all"], [[*row, sum(row)] for row in rows]
        cells = [[label or "none", *map(str, row)] for label, row in zip(labels, rows, strict=True)]
        notes = [f"and {len(classes) - _NAMED_CLASSES:,} more classes"] if len(classes) > _NAMED_CLASSES else []
        notes += [f"the first {_SHOWN_ITEMS} of {len(self):,} items"] if len(self) > _SHOWN_ITEMS else []
        notes += [f"left out: {list_junk(self.junk)}"] if self.junk else []
        from featx.items.thumbnails import format_thumbnails  # it needs this module's readers

        first = [list(astuple(item)) for item in self.items[:_SHOWN_ITEMS]]
        shown = self._choose_shown()
        parts = [
            f"<p>{escape_html(self.describe()[0])}</p>",
            format_html_table(["class", *head], cells, n_text=1),
            format_html_table(list(COLUMNS), first, n_text=len(COLUMNS)),
            *(f"<p>{escape_html(note)}</p>" for note in notes),
            format_thumbnails(self.reader, [item.id for item in shown], [item.label or item.id for item in shown]),
        ]
        return f"<div>{''.join(parts)}</div>"

    def _choose_shown(self) -> list[Item]:
        """Choose items whose pictures a notebook shows: the first of each class, then the second, and so on."""
        turns: Counter[str] = Counter()
        order = []
        for place, item in enumerate(self.items):
            order.append((turns[item.label], place))
            turns[item.label] += 1
        chosen = sorted(heapq.nsmallest(_SHOWN_PICTURES, order), key=lambda one: (self.items[one[1]].label, one))
        return [self.items[place] for _, place in chosen]


def take_shard(manifest: Manifest, number: int, count: int) -> Manifest:
    """Take one of several contiguous parts of a manifest, whose sizes differ by one item at most.

    A machine that embeds one part needs nothing from those that embed the others; `merge_stores` puts them together.

    Args:
        manifest: All items.
        number: Number of the part, from 1.
        count: Number of parts.

    Raises:
        UsageError: If there is no such part, or there are fewer items than parts.
    """
    if not 1 <= number <= count:
        msg = f"there is no shard {number}/{count}; name one from 1/{count} to {count}/{count}"
        raise UsageError(msg)
    n_items = len(manifest)
    if count > n_items:
        msg = f"{manifest.source!r} has only {n_items:,} images; cut it into {n_items:,} shards or fewer"
        raise UsageError(msg)
    start, end = ((part * n_items) // count for part in (number - 1, number))
    shard = {"number": number, "count": count, "items": n_items}
    return replace(manifest, items=manifest.items[start:end], reading={**manifest.reading, "shard": shard})


def list_junk(junk: Mapping[str, int]) -> str:
    """List what was left out, such as `hidden files (3), broken links (1)`."""
    return ", ".join(f"{reason} ({count:,})" for reason, count in sorted(junk.items()))


def _list_counts(counts: Mapping[str, int]) -> str:
    named = [f"{name} {count:,}" for name, count in list(counts.items())[:_NAMED_CLASSES]]
    more = len(counts) - len(named)
    return ", ".join(named) + (f" and {more:,} more" if more else "")
