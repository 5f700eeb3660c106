"""Copies: items whose files are the same, and items whose pictures are nearly the same."""

from collections.abc import Iterable, Sequence
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from featx.audit.findings import Finding
from featx.audit.looks import Looks
from featx.audit.near_copies import find_pairs
from featx.reporting import Progress
from featx.store import FeatureStore
from featx.wording import join_first

#: Least cosine between the looks of a picture and of its copy. Of 143 copies of photographs (saved again, reduced,
#: cropped by 5 %, brightened, mirrored) none was below 0.974; of 2.2 million pairs of different ones, none above 0.912.
THRESHOLD = 0.95


def find_copies(store: FeatureStore) -> list[Finding]:
    """Find items whose files have the same bytes."""
    groups = [(rows, np.ones(len(rows))) for rows in store.find_duplicates()]
    return _describe_groups(store, groups, "copy")


def find_near_copies(
    store: FeatureStore, looks: Looks, threshold: float = THRESHOLD, progress: Progress | None = None
) -> list[Finding]:
    """Find items whose pictures are nearly the same, and whose files are not.

    Of equal files one is compared, and the others are in its group.

    Args:
        store: The store.
        looks: The looks of its items.
        threshold: Least cosine between looks.
        progress: Called with the rows that were compared, and all.

    Raises:
        DataError: If there are too many.
    """
    _, distinct, files = np.unique(store.sha256, return_index=True, return_inverse=True)
    pairs = find_pairs(looks.compare_rows(distinct), threshold, progress)
    first, second = pairs.first % len(distinct), pairs.second % len(distinct)
    other = first != second  # a picture resembles its own middle, and a symmetrical one its mirror image
    first, second, cosines = first[other], second[other], pairs.cosines[other]
    best = np.zeros(len(distinct))
    for ends in (first, second):
        np.maximum.at(best, ends, cosines)
    groups = []
    for joined in join_pairs(len(distinct), first, second):
        rows = np.flatnonzero(np.isin(files, joined))
        groups.append((rows.tolist(), best[files[rows]]))
    return _describe_groups(store, groups, "near-copy")


def join_pairs(n_items: int, first: NDArray[np.intp], second: NDArray[np.intp]) -> list[list[int]]:
    """Join pairs to groups: the rows that pairs connect, each sorted, in the order of their first rows."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(first), bool), (first, second)), shape=(n_items, n_items))
    _, names = connected_components(links, directed=False)
    order = np.argsort(names, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(names[order])) + 1)
    return sorted(part.tolist() for part in parts if len(part) > 1)


def _describe_groups(
    store: FeatureStore, groups: Iterable[tuple[Sequence[int], NDArray[np.float64]]], kind: str
) -> list[Finding]:
    """Describe groups, those first that are in several splits or have several labels."""
    described = []
    for rows, scores in groups:
        labels, splits = _list(store.labels, rows), _list(store.splits, rows)
        words = [f"{len(rows)} pictures"]
        words += [f"labels {join_first(labels, 4)}"] if len(labels) > 1 else []
        words += [f"splits {join_first(splits, 4)}"] if len(splits) > 1 else []
        name = str(store.ids[rows[0]])
        suggestion = "check" if len(labels) > 1 else "group"
        found = [
            Finding(str(store.ids[row]), kind, float(score), suggestion, name, "; ".join(words))
            for row, score in zip(rows, scores, strict=True)
        ]
        described.append(((len(splits) < 2, len(labels) < 2, -float(scores.max()), name), found))  # noqa: PLR2004 - several
    described.sort(key=itemgetter(0))
    return [finding for _, found in described for finding in found]


def _list(column: NDArray[np.str_], rows: Sequence[int]) -> list[str]:
    return sorted(set(column[list(rows)].tolist()) - {""})
