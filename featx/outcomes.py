"""What stores hold of the items of a manifest, and what became of them in a run: arrays, by their places in it."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from featx.items.manifest import FileStat, Item
from featx.items.reading import Examined, Stamp
from featx.store.known_rows import DIGEST, Contents, encode_digests

#: The latest time that a store can hold, in the year 2262; ext4 and XFS have later ones.
LAST_NS = 2**63 - 1

#: Rows that are turned into objects at once.
_AT_ONCE = 4096

#: States of an item: nobody has said what became of it; it is known; as before, but it may change at the next attempt.
_OPEN, _KNOWN, _MOMENTARY = range(3)


class Stamps:
    """The stamp of each file when it was embedded, where a store has it; 20 bytes an item.

    Attributes:
        stats: Size in bytes and time in ns of each file, 0 where there is no stamp: int64 `(n_items, 2)`.

    Args:
        contents: The contents of the store.
        count: Number of items in the manifest.
    """

    def __init__(self, contents: Contents, count: int) -> None:
        self._contents = contents
        self._rows = np.full(count, -1, np.int32)
        self.stats = np.zeros((count, 2), np.int64)

    def add(
        self,
        places: NDArray[np.int64],
        contents: NDArray[np.bytes_],
        sizes_bytes: NDArray[np.int64],
        mtimes_ns: NDArray[np.int64],
        chosen: NDArray[np.bool_] | None = None,
    ) -> None:
        """Add the stamps of some items.

        Args:
            places: Place of each in the manifest, -1 for those that are not in it.
            contents: Their sha256; a stamp of a content that the store does not hold is left out.
            sizes_bytes: The sizes of their files.
            mtimes_ns: Their times.
            chosen: Those to add; None for all.
        """
        rows = self._contents.find(contents)
        fits = (places >= 0) & (rows >= 0)
        if chosen is not None:
            fits &= chosen
        self._rows[places[fits]] = rows[fits]
        self.stats[places[fits]] = np.stack([sizes_bytes, mtimes_ns], axis=1)[fits]

    def __iter__(self) -> Iterator[Stamp | None]:
        for first in range(0, len(self._rows), _AT_ONCE):
            rows = self._rows[first : first + _AT_ONCE]
            if not (rows >= 0).any():
                yield from [None] * len(rows)
                continue
            texts = self._contents.digests[rows].tolist()
            stats = self.stats[first : first + _AT_ONCE].tolist()
            for row, text, stat in zip(rows.tolist(), texts, stats, strict=True):
                yield Stamp(text.decode(), FileStat(*stat)) if row >= 0 else None

    def __getitem__(self, place: int) -> Stamp | None:
        row = int(self._rows[place])
        if row < 0:
            return None
        return Stamp(self._contents.digests[row].decode(), FileStat(*self.stats[place].tolist()))

    @property
    def are_there(self) -> NDArray[np.bool_]:
        """Whether there is a stamp of each item: bool `(n_items,)`."""
        return self._rows >= 0

    def list_contents(self, places: NDArray[np.intp]) -> NDArray[np.bytes_]:
        """Return the sha256 of items that have a stamp."""
        return self._contents.digests[self._rows[places]]

    def intersect(self, others: Sequence["Stamps"]) -> "Stamps":
        """Return the stamps that others have as well."""
        if not others:
            return self
        agree = self.are_there
        for other in others:
            agree &= other.are_there & (self.stats == other.stats).all(axis=1)
            places = np.flatnonzero(agree)
            agree[places] = self.list_contents(places) == other.list_contents(places)
        common, places = Stamps(self._contents, len(agree)), np.flatnonzero(agree)
        common.add(places, self.list_contents(places), *self.stats[places].T)
        return common


class Outcomes:
    """What became of each item, as `Examined` without pixels; 81 bytes an item.

    Attributes:
        contents: sha256 of each file that could be read; else empty.
        stats: Its size in bytes and its time in ns: int64 `(n_items, 2)`.
        reasons: Why some items cannot be read or decoded, by their places.

    Args:
        items: The items.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._states = np.zeros(len(items), np.uint8)
        self.contents = np.zeros(len(items), DIGEST)
        self.stats = np.zeros((len(items), 2), np.int64)
        self.reasons: dict[int, str] = {}

    def note(self, place: int, examined: Examined) -> None:
        """Note what became of an item."""
        self._states[place] = _MOMENTARY if examined.is_momentary else _KNOWN
        if examined.stamp is not None:
            stat = examined.stamp.stat
            self.contents[place] = examined.stamp.sha256
            self.stats[place] = stat.size_bytes, min(stat.mtime_ns, LAST_NS)
        if examined.reason:
            self.reasons[place] = examined.reason

    def __getitem__(self, place: int) -> Examined:
        text = self.contents[place].decode()
        stamp = Stamp(text, FileStat(*self.stats[place].tolist())) if text else None
        is_momentary = bool(self._states[place] == _MOMENTARY)
        return Examined(self._items[place], stamp, reason=self.reasons.get(place, ""), is_momentary=is_momentary)

    def count_open(self) -> int:
        """Count the items of which nothing was noted."""
        return int((self._states == _OPEN).sum())

    def list_momentary(self) -> list[int]:
        """List the places of the items that could only not be read at the moment."""
        places: list[int] = np.flatnonzero(self._states == _MOMENTARY).tolist()
        return places

    def list_copies(self) -> list[int]:
        """List the places of the items whose content another item has too."""
        order = np.argsort(self.contents, kind="stable")
        sorted_contents = self.contents[order]
        is_same = sorted_contents[1:] == sorted_contents[:-1]
        is_copy = np.zeros(len(order), np.bool_)
        is_copy[1:] |= is_same
        is_copy[:-1] |= is_same
        is_copy &= sorted_contents != b""
        copies: list[int] = np.sort(order[is_copy]).tolist()
        return copies

    def find(self, contents: Mapping[str, str]) -> list[int]:
        """Find the places of the items with one of some contents."""
        places: list[int] = np.flatnonzero(np.isin(self.contents, encode_digests(list(contents)))).tolist()
        return places
