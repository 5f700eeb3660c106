"""Metrics as functions of item weights.

A resample of the bootstrap is a set of weights, and so is the test split itself:
all ones. Written for weights, every metric is a few weighted sums over the items,
and a thousand resamples are one matrix product; the point value and its interval
come from the same lines.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featx.evaluation.intervals import FloatArray, IntArray, WeightedMetric

if TYPE_CHECKING:
    from scipy.sparse import csc_array

#: The columns of `make_class_scores`.
CLASS_SCORES = ("mean_per_class_accuracy", "macro_f1", "expected_calibration_error")

#: Equal-width bins of confidence in the expected calibration error.
N_BINS = 15


def make_class_scores(
    probabilities: FloatArray,
    targets: IntArray,
    predictions: IntArray,
) -> WeightedMetric:
    """Make the weighted metric whose columns are `CLASS_SCORES`.

    Mean per-class accuracy is the mean recall, macro-F1 the mean of
    2 TP / (2 TP + FP + FN), both over the classes that are present among the
    weighted targets. The expected calibration error is that of C. Guo, G. Pleiss,
    Y. Sun and K. Q. Weinberger, "On calibration of modern neural networks", ICML
    2017, eq. 3: the confidence, in `N_BINS` bins closed on the right, is the
    probability of the predicted class.

    Args:
        probabilities: Class probabilities, float64 (n_items, n_classes).
        targets: True classes, int64 (n_items,).
        predictions: Predicted classes, int64 (n_items,).

    Returns:
        The metric: weights (n_items, n_resamples) to values (n_resamples, 3).
    """
    n_items, n_classes = probabilities.shape
    items = np.arange(n_items)
    confidences = probabilities[items, predictions]
    correct = predictions == targets
    edges = np.linspace(0, 1, N_BINS + 1)[1:-1]
    bins = np.searchsorted(edges, confidences, side="left")
    ones = np.ones(n_items)
    by_target = _make_indicator(targets, ones, n_classes)
    by_prediction = _make_indicator(predictions, ones, n_classes)
    hits = _make_indicator(targets, correct.astype(np.float64), n_classes)
    gaps = _make_indicator(bins, confidences - correct, N_BINS)

    def score(weights: FloatArray) -> FloatArray:
        total = weights.sum(axis=0)
        support = by_target @ weights
        found = hits @ weights
        n_present = (support > 0).sum(axis=0)
        recall = found / np.where(support > 0, support, 1)
        # A class that is absent has no hits: it adds nothing to either sum.
        f1 = 2 * found / np.maximum(support + by_prediction @ weights, 1)
        gap = np.abs(gaps @ weights).sum(axis=0)
        return np.stack(
            [recall.sum(axis=0) / n_present, f1.sum(axis=0) / n_present, gap / total],
            axis=1,
        )

    return score


def make_log_loss(losses: FloatArray, groups: IntArray | None) -> WeightedMetric:
    """Make the weighted log-loss and its standard error, as a metric of two columns.

    The standard error is that of the ratio estimator over groups (W. G. Cochran,
    "Sampling Techniques", 3rd ed. 1977, section 3.12), or over items.

    Args:
        losses: Log-loss of each item in nats, float64 (n_items,).
        groups: Group numbers as from `encode_groups`, int64 (n_items,); the items of a
            group have the same weight.

    Returns:
        The metric: weights (n_items, n_resamples) to values (n_resamples, 2).
    """
    from scipy.sparse import csr_array

    units = np.arange(losses.size) if groups is None else groups
    firsts = slice(None) if groups is None else np.unique(groups, return_index=True)[1]
    sizes = np.bincount(units).astype(np.float64)
    totals = np.bincount(units, weights=losses)
    # A sparse product, as a dense one of so few rows would wait for threads longer than it computes.
    moments = csr_array(np.stack([sizes, sizes**2, sizes * totals, totals**2]))

    def score(weights: FloatArray) -> FloatArray:
        mean = losses @ weights / weights.sum(axis=0)
        size, squared_sizes, products, squared_totals = moments @ weights[firsts]
        squares = squared_totals - 2 * mean * products + mean**2 * squared_sizes
        return np.stack([mean, np.sqrt(np.maximum(squares, 0)) / size], axis=1)

    return score


def make_roc_auc(probabilities: FloatArray, targets: IntArray) -> WeightedMetric:
    """Make the weighted area under the ROC curve, as a metric of one column.

    With two classes the second is the positive one. With more, each class that is
    present among the targets is held against the rest, and the areas are averaged.
    The area is the probability that a positive item scores above a negative one,
    ties counting half (J. A. Hanley and B. J. McNeil, Radiology 143 (1982), 29-36).
    It is NaN where no class has both positive and negative items.

    Args:
        probabilities: Class probabilities, float64 (n_items, n_classes).
        targets: True classes, int64 (n_items,).

    Returns:
        The metric: weights (n_items, n_resamples) to values (n_resamples, 1).
    """
    columns = [1] if probabilities.shape[1] == 2 else np.unique(targets).tolist()  # noqa: PLR2004 - two classes
    ranks = [_rank_among_positives(probabilities[:, column], targets == column) for column in columns]
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


def _rank_among_positives(scores: FloatArray, positive: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Rank every item among the distinct scores of the positive ones.

    Rank 2t + 1 is the t-th smallest positive score itself, 2t what lies between it
    and the one before. Only positive items need to be told apart, so that a class of
    few items has few ranks, however many items there are.
    """
    distinct = np.unique(scores[positive])
    ranks = np.searchsorted(distinct, scores, side="left") + np.searchsorted(distinct, scores, side="right")
    return ranks.astype(np.int32)


def _measure_area(rank: NDArray[np.int32], positive: IntArray, weights: FloatArray) -> FloatArray:
    """Measure the area under one curve, float64 (n_resamples,); NaN if either side is empty."""
    n_ranks = int(rank.max()) + 1
    above = _make_indicator(rank[positive], np.ones(positive.size), n_ranks) @ weights[positive]
    below = _make_indicator(rank, np.ones(rank.size), n_ranks) @ weights - above
    passed = np.cumsum(below, axis=0) - below / 2
    pairs = above.sum(axis=0) * below.sum(axis=0)
    wins = np.einsum("ij,ij->j", above, passed)
    return np.where(pairs > 0, wins / np.maximum(pairs, 1), np.nan)


def _make_indicator(rows: NDArray[np.integer], values: FloatArray, n_rows: int) -> "csc_array":
    """Make the sparse (n_rows, n_items) matrix with one value per item, in the given row."""
    from scipy.sparse import csc_array

    return csc_array((values, rows, np.arange(rows.size + 1)), shape=(n_rows, rows.size))
