"""Areas under the curves of each class against the rest, from the ranks of its scores."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featx.evaluation.intervals import FloatArray, IntArray, WeightedMetric

if TYPE_CHECKING:
    from scipy.sparse import csc_array


def make_roc_auc(
    probabilities: FloatArray, targets: IntArray, ranked: Mapping[int, NDArray[np.int32]] | None = None
) -> WeightedMetric:
    """Make the weighted area under the ROC curve, as a metric of one column.

    With two classes the second is the positive one. With more, each class that is
    present among the targets is compared with the rest, and the areas are averaged.
    The area is the probability that a positive item scores above a negative one,
    ties counting half (J. A. Hanley and B. J. McNeil, Radiology 143 (1982), 29-36).
    It is NaN where no class has both positive and negative items.

    Args:
        probabilities: Class probabilities, float64 (n_items, n_classes).
        targets: True classes, int64 (n_items,).
        ranked: The ranks of `rank_among_positives` by class, where they are known.

    Returns:
        The metric: weights (n_items, n_resamples) to values (n_resamples, 1).
    """
    known = ranked or {}
    columns = [1] if probabilities.shape[1] == 2 else np.unique(targets).tolist()  # noqa: PLR2004 - two classes
    ranks = [
        known[column] if column in known else rank_among_positives(probabilities[:, column], targets == column)
        for column in columns
    ]
    positives = [np.flatnonzero(targets == column) for column in columns]

    def score(weights: FloatArray) -> FloatArray:
        areas = np.zeros(weights.shape[1])
        n_defined = np.zeros(weights.shape[1])
        for rank, positive in zip(ranks, positives, strict=True):
            area = _measure_area(rank, positive, weights)
            defined = ~np.isnan(area)
            areas[defined] += area[defined]
            n_defined += defined
        return np.where(n_defined > 0, areas / np.maximum(n_defined, 1), np.nan)[:, np.newaxis]

    return score


def rank_among_positives(scores: FloatArray, positive: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Rank every item among the distinct scores of the positive ones.

    Rank 2t + 1 is the t-th smallest positive score itself; rank 2t holds the scores
    between it and the one before. Only the positive items need distinct ranks, so a class of
    few items has few ranks, however many items there are.
    """
    distinct = np.unique(scores[positive])
    ranks = np.searchsorted(distinct, scores, side="left") + np.searchsorted(distinct, scores, side="right")
    return ranks.astype(np.int32)


def _measure_area(rank: NDArray[np.int32], positive: IntArray, weights: FloatArray) -> FloatArray:
    """Measure the area under one curve, float64 (n_resamples,); NaN if either side is empty."""
    n_ranks = int(rank.max()) + 1
    above = make_indicator(rank[positive], np.ones(positive.size), n_ranks) @ weights[positive]
    below = make_indicator(rank, np.ones(rank.size), n_ranks) @ weights - above
    passed = np.cumsum(below, axis=0) - below / 2
    pairs = above.sum(axis=0) * below.sum(axis=0)
    wins = np.einsum("ij,ij->j", above, passed)
    return np.where(pairs > 0, wins / np.maximum(pairs, 1), np.nan)


def make_indicator(rows: NDArray[np.integer], values: FloatArray, n_rows: int) -> "csc_array":
    """Make the sparse (n_rows, n_items) matrix with one value per item, in the given row."""
    from scipy.sparse import csc_array

    return csc_array((values, rows, np.arange(rows.size + 1)), shape=(n_rows, rows.size))


def measure_areas(rank: NDArray[np.int32], positive: NDArray[np.bool_]) -> dict[str, float]:
    """Measure ROC-AUC and average precision of one class; nothing if no item is outside of it.

    Average precision is the sum over thresholds of precision times the rise in recall (scikit-learn's
    `average_precision_score`); only at scores of positive items does recall rise.

    Args:
        rank: As from `rank_among_positives`, int32 (n_items,).
        positive: Whether each item is of the class, bool (n_items,).
    """
    every = np.bincount(rank)
    wins = np.bincount(rank[positive], minlength=every.size)
    losses = every - wins
    n_positive, n_negative = int(wins.sum()), int(losses.sum())
    if not n_negative:
        return {}
    passed = np.cumsum(losses) - losses / 2
    above, found = np.cumsum(every[::-1])[::-1], np.cumsum(wins[::-1])[::-1]
    return {
        "roc_auc": float(wins @ passed / (n_positive * n_negative)),
        "average_precision": float(wins @ (found / np.maximum(above, 1)) / n_positive),
    }
