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
from featx.report.maps import MOST_POINTS
from featx.results import Predictions
from featx.store.joining import AnyStore
from featx.wording import to_text

#: The longer side of a thumbnail in px, and its quality: 1.2 kB for a photograph.
THUMBNAIL_PX = 64
_QUALITY = 50

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
        sampled_of: Number of all items if only some are here; 0 if all are.
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
    """List the items of a store and those that were tested.

    Of too many, those that the head got wrong come first, then others that were tested, then the rest, at random.

    Args:
        store: The store; None for none.
        predictions: What was predicted; None for nothing.
        seed: Seed of the sample.
    """
    names = [to_text(name) for name in store.ids.tolist()] if store is not None else []
    row_of = {name: row for row, name in enumerate(names)}
    ids = list(predictions.ids) if predictions else []
    rows = np.array([row_of.get(name, -1) for name in ids], np.intp)
    others = np.setdiff1d(np.arange(len(names)), rows)
    n_all, rng = len(ids) + len(others), np.random.default_rng(seed)
    tested = _sample(find_wrong(predictions), MOST_POINTS, rng) if predictions else np.arange(0)
    others = _sample(np.zeros(len(others), bool), MOST_POINTS - len(tested), rng, others)
    every = np.concatenate([rows[tested], others]).astype(np.intp)
    is_stored = every >= 0
    stored: list[str] = store.ids[every].tolist() if store is not None and names else [""] * len(every)
    splits: list[str] = store.splits[every].tolist() if store is not None and names else [""] * len(every)
    labels: list[str] = store.labels[every].tolist() if store is not None and names else [""] * len(every)
    for at, row in enumerate(tested.tolist()):
        labels[at] = predictions.labels[row] if predictions else ""
        if not is_stored[at]:
            stored[at], splits[at] = ids[row], ""
    from_tests = np.concatenate([tested, np.full(len(others), -1)]).astype(np.intp)
    return Items(stored, labels, splits, from_tests, every, n_all if n_all > len(every) else 0)


def find_wrong(predictions: Predictions) -> NDArray[np.bool_]:
    """Return which tested items the head got wrong, bool `(n_tested,)`."""
    return np.asarray(np.array(predictions.labels, np.str_) != np.array(predictions.predicted, np.str_))


def _sample(
    is_first: NDArray[np.bool_], most: int, rng: np.random.Generator, values: NDArray[np.intp] | None = None
) -> NDArray[np.intp]:
    """Choose at most so many positions, or values at them, in their order: some first, the others at random."""
    order = rng.permutation(len(is_first))
    chosen = np.sort(order[np.argsort(~is_first[order], kind="stable")][:most])
    return chosen if values is None else values[chosen]


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
