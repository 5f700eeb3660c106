"""Several stores of the same items, seen as one whose rows are the rows of all of them, side by side."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import DataError, UsageError
from featx.store.feature_store import FeatureStore


class JoinedStore:
    """The items that several stores have, with the features of all of them.

    Items are the same if their ids and their bytes are, or only their ids where a store was imported. An item that
    only some of the stores have is left out, see `notes`; one whose label, split or group differs between two stores
    is an error.

    Attributes:
        parts: The stores.
        rows: For each store, int `(n_items,)`: the row of each item, in the order of the first store.
        path: A name for messages and bundles; there is no such file.
        ids, sha256, labels, splits, groups: Text `(n_items,)`; a group is that of the first store that has one.
        source, reading: As the first store has them.
        created_with: Versions of what computed the features.
        embed_seconds: Time of embedding; None if that of a store is not known.
        notes: What the user should know.

    Args:
        stores: One or more stores.

    Raises:
        DataError: If no item is in all of them, or they disagree about a label, split or group.
    """

    def __init__(self, stores: Sequence[FeatureStore]) -> None:
        first, *others = self.parts = tuple(stores)
        self.rows = _match(stores)
        for store, rows in zip(others, self.rows[1:], strict=True):
            _check_agreement(first, self.rows[0], store, rows)
        joined = first.path.with_name(f"{'+'.join(store.path.stem for store in stores)}{first.path.suffix}")
        self.path: Path = joined if others else first.path
        self.place = str(joined) if others else first.place
        self.ids, self.sha256, self.splits = (
            values[self.rows[0]] for values in (first.ids, first.sha256, first.splits)
        )
        columns = [(store.labels[rows], store.groups[rows]) for store, rows in zip(stores, self.rows, strict=True)]
        is_labelled = np.all([labels != "" for labels, _ in columns], axis=0)
        self.labels = np.where(is_labelled, columns[0][0], "")
        self.groups = columns[0][1]
        for _, groups in columns[1:]:
            self.groups = np.where(self.groups == "", groups, self.groups)
        self.source, self.reading = first.source, first.reading
        self.created_with = {name: version for store in stores for name, version in store.created_with.items()}
        seconds = [store.embed_seconds for store in stores if store.embed_seconds is not None]
        self.embed_seconds = sum(seconds) if len(seconds) == len(stores) else None

    def __len__(self) -> int:
        return len(self.ids)

    def read_ids(self, rows: NDArray[np.intp]) -> NDArray[np.str_]:
        """Return the ids of some rows."""
        return self.ids[rows]

    @property
    def contents(self) -> NDArray[np.bytes_]:
        """The sha256 of each item, in hexadecimal."""
        return self.parts[0].contents[self.rows[0]]

    @property
    def n_views(self) -> int:
        """Images of each item that were embedded.

        Raises:
            UsageError: If the stores have different views.
        """
        first, *others = self.parts
        for store in others:
            if store.spec.views != first.spec.views:
                msg = (
                    f"{first.path} and {store.path} have different views of the images, so their features do not "
                    f"belong together; embed both with the same --views, --augment and --seed"
                )
                raise UsageError(msg)
        return first.n_views

    @property
    def widths(self) -> tuple[int, ...]:
        """Columns of the features of one view, for each store."""
        return tuple(width for store in self.parts for width in store.widths)

    @property
    def dim(self) -> int:
        """Width of one row."""
        return sum(self.widths) * self.n_views

    @cached_property
    def features(self) -> NDArray[Any]:
        """`(n_items, dim)` float32 or float16, in memory: the features of all stores for the first view, then the next.

        They are copied once; those of a single store stay mapped from its file.
        """
        dtype = np.result_type(*(store.features.dtype for store in self.parts))
        joined = np.empty((len(self), self.n_views, sum(self.widths)), dtype)
        start = 0
        for store, rows in zip(self.parts, self.rows, strict=True):
            (width,) = store.widths
            joined[:, :, start : start + width] = store.features[rows].reshape(len(self), -1, width)
            start += width
        return joined.reshape(len(self), -1)

    @property
    def notes(self) -> list[str]:
        """What the user should know: how many items of which store are left out, with the first of each."""
        left_out = []
        for store, rows in zip(self.parts, self.rows, strict=True):
            if more := len(store) - len(rows):
                first = store.ids[np.setdiff1d(np.arange(len(store)), rows)[0]]
                left_out.append(f"{more:,} of {store.path}, such as {first}")
        listed = "; ".join(left_out)
        return [f"only the {len(self):,} items that all stores have are used, without {listed}"] if left_out else []


AnyStore = FeatureStore | JoinedStore


def join_stores(stores: Sequence[FeatureStore]) -> AnyStore:
    """Join stores; one alone stays as it is.

    Raises:
        DataError: As `JoinedStore`.
        UsageError: If a store is named twice.
    """
    paths = [store.path.resolve() for store in stores]
    if twice := [path for path in paths if paths.count(path) > 1]:
        msg = f"{twice[0]} is named twice; name each store once"
        raise UsageError(msg)
    return stores[0] if len(stores) == 1 else JoinedStore(stores)


def _match(stores: Sequence[FeatureStore]) -> tuple[NDArray[np.intp], ...]:
    """Return for each store the rows of the items that all have, in the order of the first.

    Where features of one store were imported, ids alone must be equal: the bytes of those pictures are not known.
    """
    by_id = any(store.spec.backbone.imported_from for store in stores)
    contents = [[""] * len(store) if by_id else store.sha256.tolist() for store in stores]
    places = [
        {item: row for row, item in enumerate(zip(store.ids.tolist(), own, strict=True))}
        for store, own in zip(stores, contents, strict=True)
    ]
    shared = [item for item in places[0] if all(item in place for place in places[1:])]
    if not shared:
        sources = ", ".join(f"{store.path} from {store.source}" for store in stores)
        msg = f"no item, by id and content, is in all of the stores ({sources}); name stores of the same images"
        raise DataError(msg)
    return tuple(np.array([place[item] for item in shared], np.intp) for place in places)


def _check_agreement(
    first: FeatureStore, at: NDArray[np.intp], other: FeatureStore, at_other: NDArray[np.intp]
) -> None:
    for what, ours, theirs in (
        ("label", first.labels[at], other.labels[at_other]),
        ("split", first.splits[at], other.splits[at_other]),
        ("group", first.groups[at], other.groups[at_other]),
    ):
        # An item may have a label, and a store groups, in one of the two only.
        known = (what == "split") | ((ours != "") & (theirs != ""))
        differing = np.flatnonzero((ours != theirs) & known)
        if len(differing):
            item = differing[0]
            msg = (
                f"the {what} of {len(differing)} items differs between {first.path} and {other.path}, such as that of "
                f"{first.ids[at][item]} ({str(ours[item])!r} and {str(theirs[item])!r}); embed both again from one "
                f"source: computed features are kept"
            )
            raise DataError(msg)
