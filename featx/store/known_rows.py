"""Known rows, by the content of their image: in arrays, since there may be many millions."""

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from featx.store.shards import Row

#: A sha256 in hexadecimal, as stores hold it.
DIGEST = np.dtype("S64")

#: Where a row is, by the number of what loads it and its place there, and the size of its image in px.
_PLACE = np.dtype([("source", "<i4"), ("index", "<i8"), ("width", "<i4"), ("height", "<i4")])

#: Contents that are looked up at once, so that the digests they are compared with take little memory.
_AT_ONCE = 65_536


def encode_digests(contents: Sequence[str] | NDArray[np.bytes_]) -> NDArray[np.bytes_]:
    """Return sha256 as an array of `DIGEST`."""
    return np.asarray(contents, DIGEST)


class Contents(AbstractSet[str]):
    """The sha256 of images; never changed.

    Args:
        digests: `DIGEST`, sorted; each once, unless one only asks what is among them.
    """

    def __init__(self, digests: NDArray[np.bytes_]) -> None:
        self.digests = digests

    def __len__(self) -> int:
        return len(self.digests)

    def __iter__(self) -> Iterator[str]:
        return (digest.decode() for digest in self.digests.tolist())

    def __contains__(self, sha256: object) -> bool:
        key = str(sha256).encode()
        at = int(np.searchsorted(self.digests, key))
        return at < len(self) and bool(self.digests[at] == key)

    def find(self, contents: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """Return the place of each of some contents, -1 for those that are not here: int64 `(n,)`."""
        places = np.full(len(contents), -1, np.int64)
        if not len(self):
            return places
        for first in range(0, len(contents), _AT_ONCE):
            part = contents[first : first + _AT_ONCE]
            order = np.argsort(part)  # neighbours are looked up one after the other, and are in the processor's cache
            at = np.empty(len(part), np.int64)
            at[order] = np.minimum(np.searchsorted(self.digests, part[order]), len(self) - 1)
            places[first : first + len(part)] = np.where(self.digests[at] == part, at, -1)
        return places


class KnownRows:
    """Rows by the sha256 of their image; of those with the same, the one that was added first.

    They take about 85 bytes each. As objects in a dict they took 450.
    """

    def __init__(self) -> None:
        self._loads: list[Callable[[], NDArray[np.floating]]] = []
        self._contents = Contents(np.empty(0, DIGEST))
        self._places = np.empty(0, _PLACE)
        self._added: list[tuple[NDArray[np.bytes_], NDArray[Any]]] = []

    def add(
        self,
        contents: NDArray[np.bytes_],
        sizes_px: NDArray[np.integer],
        load: Callable[[], NDArray[np.floating]],
        indices: NDArray[np.integer] | None = None,
    ) -> None:
        """Add rows.

        Args:
            contents: sha256 of the image of each row, `(n,)`.
            sizes_px: Its width and height, int `(n, 2)`.
            load: Returns the matrix that holds the rows.
            indices: Index of each row in the matrix, int `(n,)`; None for all rows in order.
        """
        places = np.empty(len(contents), _PLACE)
        places["source"] = len(self._loads)
        places["index"] = np.arange(len(contents)) if indices is None else indices
        places["width"], places["height"] = sizes_px[:, 0], sizes_px[:, 1]
        self._loads.append(load)
        self._added.append((encode_digests(contents), places))

    @property
    def contents(self) -> Contents:
        """The contents that have a row when this is read."""
        if self._added:
            digests = np.concatenate([self._contents.digests, *(digests for digests, _ in self._added)])
            places = np.concatenate([self._places, *(places for _, places in self._added)])
            self._added.clear()
            unique, first = np.unique(digests, return_index=True)  # the first of equal ones
            self._contents, self._places = Contents(unique), places[first]
        return self._contents

    def select(self, contents: NDArray[np.bytes_]) -> tuple["Rows", NDArray[np.int64]]:
        """Return the row of each of some contents, and the sizes of their images in px, int64 `(n, 2)`.

        Raises:
            KeyError: With the first content that has no row, and their number.
        """
        found = self.contents.find(contents)
        if lacking := int((found < 0).sum()):
            raise KeyError(contents[int((found < 0).argmax())].decode(), lacking)
        places = self._places[found]
        sizes = np.stack([places["width"], places["height"]], axis=1).astype(np.int64)
        return Rows(self._loads, places), sizes


class Rows(Sequence[Row]):
    """Places of rows, which are objects only while they are used.

    Args:
        loads: What loads the matrices.
        places: The places.
    """

    def __init__(self, loads: Sequence[Callable[[], NDArray[np.floating]]], places: NDArray[Any]) -> None:
        self._loads = loads
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def arrays(self) -> tuple[Sequence[Callable[[], NDArray[np.floating]]], NDArray[np.intp], NDArray[np.intp]]:
        """What loads the matrices, and for each row the number of its matrix, and its row there."""
        return self._loads, self._places["source"].astype(np.intp), self._places["index"].astype(np.intp)

    @overload
    def __getitem__(self, key: int) -> Row: ...

    @overload
    def __getitem__(self, key: slice) -> list[Row]: ...

    def __getitem__(self, key: int | slice) -> Row | list[Row]:
        if not isinstance(key, slice):
            place = self._places[key]
            return Row(self._loads[place["source"]], int(place["index"]))
        part = self._places[key]
        pairs = zip(part["source"].tolist(), part["index"].tolist(), strict=True)
        return [Row(self._loads[source], index) for source, index in pairs]
