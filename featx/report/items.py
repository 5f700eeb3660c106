"""The items of a page: what is known of each, where it is on the map, and its thumbnail."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import ImageError
from featx.items.manifest import Reader
from featx.items.thumbnails import encode_thumbnail
from featx.options import EmbedOptions
from featx.prefetching import prefetch
from featx.results import Predictions
from featx.store.joining import AnyStore
from featx.wording import to_text

#: The longer side of a thumbnail in px, and its quality: 1.2 kB for a photograph.
THUMBNAIL_PX = 64
_QUALITY = 50

#: More points are sampled.
MOST_POINTS = 20_000

#: Thumbnails of one item that is decoded in advance, for each thread.
_AHEAD = 8


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """The items of a page.

    Attributes:
        ids: The items, as their files are named.
        labels: Their classes; empty for none.
        splits: Their splits; empty for none.
        tested: int `(n_items,)`, the row of each item among the predictions; -1 if it was not tested.
        rows: int `(n_items,)`, the row of each item in the store; -1 if it is not there.
        sampled_of: Number of items that the store has if only some are here; 0 if all are.
    """

    ids: Sequence[str]
    labels: Sequence[str]
    splits: Sequence[str]
    tested: NDArray[np.intp]
    rows: NDArray[np.intp]
    sampled_of: int = 0

    def __len__(self) -> int:
        return len(self.ids)


def list_items(store: AnyStore | None, predictions: Predictions | None, seed: int = 0) -> Items:
    """List the items of a store and those that were tested; of too many, all that were tested and a sample.

    Args:
        store: The store; None for none.
        predictions: What was predicted; None for nothing.
        seed: Seed of the sample.
    """
    names = [to_text(name) for name in store.ids.tolist()] if store is not None else []
    row_of = {name: row for row, name in enumerate(names)}
    ids = list(predictions.ids) if predictions else []
    rows = np.array([row_of.get(name, -1) for name in ids], np.intp)
    # Tested items first: the sample always has them.
    others = np.setdiff1d(np.arange(len(names)), rows)
    room = max(0, MOST_POINTS - len(ids))
    sampled_of = len(names) if len(others) > room else 0
    if sampled_of:
        others = np.sort(np.random.default_rng(seed).choice(others, room, replace=False))
    every = np.concatenate([rows, others]).astype(np.intp)
    is_stored = every >= 0
    stored: list[str] = store.ids[every].tolist() if store is not None and names else [""] * len(every)
    splits: list[str] = store.splits[every].tolist() if store is not None and names else [""] * len(every)
    labels: list[str] = store.labels[every].tolist() if store is not None and names else [""] * len(every)
    known = zip(is_stored.tolist(), stored, splits, strict=True)
    pairs = [(stored_id, split) if there else (ids[at], "") for at, (there, stored_id, split) in enumerate(known)]
    tested = np.concatenate([np.arange(len(ids)), np.full(len(others), -1)]).astype(np.intp)
    if predictions:
        labels = [*predictions.labels, *labels[len(ids) :]]
    return Items([name for name, _ in pairs], labels, [split for _, split in pairs], tested, every, sampled_of)


def read_pictures(
    reader: Reader | None, ids: Sequence[str], chosen: Sequence[int], options: EmbedOptions
) -> tuple[list[str], int]:
    """Read the thumbnails of some items, each a WebP file in base64; empty for the others.

    Args:
        reader: Reads the pictures; None if they are nowhere.
        ids: All items.
        chosen: Positions of the items that get a thumbnail.
        options: Threads and reporter.

    Returns:
        The thumbnails, one for each item, and how many could not be read.
    """
    pictures = [""] * len(ids)
    if reader is None:
        return pictures, 0

    def read(position: int) -> str:
        try:
            return encode_thumbnail(reader.read(ids[position]), THUMBNAIL_PX, "WEBP", quality=_QUALITY)
        except (ImageError, OSError):
            return ""  # it is counted below, and the page shows its name

    workers = options.count_workers()
    found: Iterator[Any] = prefetch(read, chosen, workers=workers, ahead=_AHEAD * workers)
    for done, (position, picture) in enumerate(zip(chosen, found, strict=True), 1):
        pictures[position] = picture
        options.reporter.advance(done, len(chosen))
    return pictures, sum(not pictures[position] for position in chosen)
