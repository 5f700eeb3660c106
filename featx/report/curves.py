"""Curves of each class against the others: ROC, precision and recall, and the thresholds between."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featx.evaluation.ranking import measure_areas, rank_among_positives

FloatArray = NDArray[np.float64]

#: Specificities and recalls at which the curves are read: 0, 0.01 ... 1.
GRID = np.linspace(0, 1, 101)


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """The curves of each class against the others, read at `GRID`; NaN where a class or its rest has no items.

    Attributes:
        sensitivities: Largest sensitivity at each specificity or a higher one, float64 (n_classes, 101).
        thresholds: The probability from which an item then counts as the class, float64 (n_classes, 101); above 1 for
            none.
        precisions: Precision at the largest threshold with each recall or a higher one, float64 (n_classes, 101).
        roc_aucs: Areas under the ROC curves, float64 (n_classes,).
        average_precisions: Mean precision, weighted by the steps of recall, float64 (n_classes,).
        supports: Items of each class, int64 (n_classes,).
        n_items: Number of all items.
    """

    sensitivities: FloatArray
    thresholds: FloatArray
    precisions: FloatArray
    roc_aucs: FloatArray
    average_precisions: FloatArray
    supports: NDArray[np.int64]
    n_items: int


def measure_curves(probabilities: FloatArray, targets: NDArray[np.intp]) -> Curves:
    """Measure the curves of each class against the others.

    Args:
        probabilities: float64 (n_items, n_classes).
        targets: True classes as positions, int (n_items,); -1 for an item of no class.
    """
    n_items, n_classes = probabilities.shape
    tables = np.full((3, n_classes, len(GRID)), np.nan)
    areas = np.full((2, n_classes), np.nan)
    supports = np.bincount(targets[targets >= 0], minlength=n_classes)
    for number in np.flatnonzero((supports > 0) & (supports < n_items)):
        scores, is_own = probabilities[:, number], targets == number
        tables[:, number] = _trace(scores, is_own)
        found = measure_areas(rank_among_positives(scores, is_own), is_own)
        areas[:, number] = found["roc_auc"], found["average_precision"]
    return Curves(tables[0], tables[1], tables[2], areas[0], areas[1], supports, n_items)


def _trace(scores: FloatArray, is_own: NDArray[np.bool_]) -> FloatArray:
    """Trace the curves of one class: (3, 101)."""
    from sklearn.metrics import confusion_matrix_at_thresholds

    true_negatives, false_alarms, misses, hits, thresholds = (
        np.asarray(counts, np.float64) for counts in confusion_matrix_at_thresholds(is_own, scores)
    )
    n_own, n_others = hits[0] + misses[0], false_alarms[0] + true_negatives[0]
    # Without any alarm, before the first threshold.
    all_hits, all_false = np.append(0, hits), np.append(0, false_alarms)
    # A count that the grid's share only misses by rounding is reached.
    allowed = np.floor((1 - GRID) * n_others + 1e-9)
    at = np.searchsorted(all_false, allowed, side="right") - 1
    # Of equal sensitivities, that with the fewest false alarms.
    at = np.searchsorted(all_hits, all_hits[at], side="left")
    first = np.searchsorted(hits, np.maximum(np.ceil(GRID * n_own - 1e-9), 0), side="left")
    precision = hits / (hits + false_alarms)
    return np.stack([all_hits[at] / n_own, np.append(np.inf, thresholds)[at], precision[first]])
