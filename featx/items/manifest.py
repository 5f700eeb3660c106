"""The manifest: which items there are, in which order, and how to read them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from featx.wording import to_text

#: The names a split may have; the empty string means that the source gives none.
SPLITS = ("train", "val", "test")

#: The largest file that is read: four times the pixels of the largest photographs, uncompressed.
#: What is larger is no picture but a mistake or an attack, and would fill the memory.
MAX_FILE_BYTES = 512 * 2**20

#: How many classes a description names before it only counts them.
_NAMED_CLASSES = 12


@dataclass(frozen=True, slots=True)
class Item:
    """One row of the manifest.

    Attributes:
        id: Path relative to the source root, posix, as the file system spells it
            (bytes that are no UTF-8 are kept as surrogate escapes).
        label: Name of its class, always valid Unicode; empty if it has none.
        split: One of `SPLITS`; empty if the source gives none.
        group: Items of one group stay together in every split; empty if it has none.
    """

    id: str
    label: str = ""
    split: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class FileStat:
    """Size in bytes and modification time in nanoseconds of an item's file."""

    size_bytes: int
    mtime_ns: int


class Reader(Protocol):
    """Reads the files of a source; safe to call from several threads at once."""

    def stat(self, item_id: str) -> FileStat:
        """Return size and time without reading the file. Raises OSError."""
        ...

    def read(self, item_id: str) -> bytes:
        """Return the bytes of the file. Raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class Manifest:
    """Ordered items and the reader of their files.

    Attributes:
        items: The items, in a stable order; ids are unique.
        reader: Reads their bytes.
        source: What the user named: a folder, table or archive.
        junk: Why files were left out, and how many for each reason.
        reading: Arguments beyond the defaults with which `read_source` gives the same manifest; values that JSON
            can hold.
    """

    items: tuple[Item, ...]
    reader: Reader
    source: str
    junk: Mapping[str, int] = field(default_factory=dict)
    reading: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    def count_classes(self, split: str | None = None) -> dict[str, int]:
        """Count the items of each class, classes sorted by name; unlabelled items are not counted.

        Args:
            split: Count the items of this split alone; None counts all.
        """
        chosen = (item for item in self.items if split is None or item.split == split)
        return dict(sorted(Counter(item.label for item in chosen if item.label).items()))

    def count_splits(self) -> dict[str, int]:
        """Count the items of each split that the source gives, in the order of `SPLITS`."""
        counts = Counter(item.split for item in self.items)
        return {split: counts[split] for split in SPLITS if counts[split]}

    def count_groups(self) -> int:
        """Count the distinct groups."""
        return len({item.group for item in self.items if item.group})

    def find_untrained_classes(self, split: str) -> list[str]:
        """Name the classes of a split that the training split lacks, sorted; a head cannot know them."""
        return sorted(set(self.count_classes(split)) - set(self.count_classes("train")))

    def describe(self) -> list[str]:
        """Say what was understood, a line each: items, classes, splits, groups and what was left out."""
        classes, splits = self.count_classes(), self.count_splits()
        unlabelled = len(self) - sum(classes.values())
        lines = [
            f"{to_text(self.source)}: {len(self):,} {'image' if len(self) == 1 else 'images'}",
            f"classes: {len(classes):,}"
            + (f" ({_list_counts(classes)})" if classes else ", so this can only be embedded"),
        ]
        if classes and unlabelled:
            lines.append(f"without a class: {unlabelled:,}")
        if splits:
            without = len(self) - sum(splits.values())
            lines.append(f"splits: {_list_counts(splits | ({'none': without} if without else {}))}")
        if "train" in splits:
            lines += [
                f"{split} has classes that train lacks: {', '.join(unknown[:_NAMED_CLASSES])}"
                for split in splits
                if (unknown := self.find_untrained_classes(split))
            ]
        if self.count_groups():
            lines.append(f"groups: {self.count_groups():,}")
        if self.junk:
            lines.append(f"left out: {list_junk(self.junk)}")
        return lines


def list_junk(junk: Mapping[str, int]) -> str:
    """List what was left out, such as `hidden files (3), broken links (1)`."""
    return ", ".join(f"{reason} ({count:,})" for reason, count in sorted(junk.items()))


def _list_counts(counts: Mapping[str, int]) -> str:
    named = [f"{name} {count:,}" for name, count in list(counts.items())[:_NAMED_CLASSES]]
    more = len(counts) - len(named)
    return ", ".join(named) + (f" and {more:,} more" if more else "")
