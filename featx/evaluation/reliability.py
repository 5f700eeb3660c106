"""Reliability of probabilities: confidence against accuracy, bin by bin."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.errors import UsageError
from featx.evaluation.intervals import FloatArray, IntArray, compute_wilson_interval
from featx.evaluation.metrics import N_BINS, assign_bins, check_labels, check_probabilities


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Confidence against accuracy in bins; the values of an empty bin are NaN.

    Attributes:
        edges: Ends of the bins, float64 (n_bins + 1,); a bin includes its upper end.
        confidences: Mean confidence in each bin, float64 (n_bins,).
        accuracies: Share of each bin's items that were predicted correctly, float64 (n_bins,).
        lows: Lower ends of the accuracies' 95 % intervals (Wilson), float64 (n_bins,).
        highs: Upper ends of these intervals, float64 (n_bins,).
        counts: Number of items in each bin, int64 (n_bins,); of pairs of item and class if classwise.
        histogram: Share of all confidences in each fifteenth from 0 to 1, float64 (15,).
        calibration_error: Mean distance between confidence and accuracy over the bins, weighted by their items.
        brier_score: Mean over the items of the squared distance between the probabilities
            and 1 for the true class, 0 for the others: 0 to 2 (G. W. Brier, Monthly
            Weather Review 78 (1950), 1-3).
        n_items: Number of items.
        classwise: Whether every class is compared with the rest, instead of only the predicted one.
    """

    edges: FloatArray
    confidences: FloatArray
    accuracies: FloatArray
    lows: FloatArray
    highs: FloatArray
    counts: IntArray
    histogram: FloatArray
    calibration_error: float
    brier_score: float
    n_items: int
    classwise: bool

    @property
    def start(self) -> float:
        """Where axes start so that all bins, intervals and the histogram are on them: a tenth, at most 0.9."""
        least = np.flatnonzero(self.histogram)[:1] / self.histogram.size
        values = np.concatenate([self.confidences, self.lows, least])
        return float(np.clip(math.floor(10 * np.nanmin(values, initial=1) + 1e-9) / 10, 0, 0.9))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, ready for JSON; NaN becomes None."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: _make_plain(value) for name, value in values.items()}


def measure_reliability(
    probabilities: ArrayLike,
    targets: ArrayLike,
    bins: int = N_BINS,
    *,
    predictions: ArrayLike | None = None,
    equal_mass: bool = False,
    classwise: bool = False,
) -> Reliability:
    """Measure how often a classifier is right at each level of confidence.

    With the defaults, the error is the expected calibration error of `evaluate`. Bins
    with equal numbers of items follow K. Nguyen and B. O'Connor, "Posterior calibration
    and exploratory analysis for natural language processing models", EMNLP 2015; equal
    confidences share a bin. The classwise error is the mean over the classes of
    each one's error against the rest (M. Kull et al., "Beyond temperature scaling",
    NeurIPS 2019, eq. 3); its bins are the same for all classes.

    Args:
        probabilities: Class probabilities, float (n_items, n_classes); rows sum to 1.
        targets: True classes as positions, int (n_items,).
        bins: Number of bins; with equal mass there may be fewer.
        predictions: Predicted classes, int (n_items,); by default the most probable ones.
        equal_mass: Whether the bins hold equal numbers of items instead of having equal widths.
        classwise: Whether to measure all probabilities instead of only the predicted class's.

    Raises:
        DataError: If an array does not have the shape or the values above.
        UsageError: If `bins` is below 1.
    """
    if bins < 1:
        msg = f"bins is {bins}; pass at least 1 ({N_BINS} is usual)"
        raise UsageError(msg)
    chances, _ = check_probabilities(probabilities, np.shape(probabilities)[-1])
    truth = check_labels("targets", targets, chances.shape)
    confidences, right = (
        (chances.T, np.arange(chances.shape[1])[:, np.newaxis] == truth)
        if classwise
        else _take_predicted(chances, truth, predictions)
    )
    edges = _place_edges(confidences, bins, equal_mass=equal_mass)
    counts, sums, hits = _count_bins(confidences, right, edges)
    own, squares = chances[np.arange(truth.size), truth], np.einsum("ij,ij->i", chances, chances)
    gaps = np.abs(sums - hits).sum(axis=1) / truth.size
    total, won = counts.sum(axis=0), hits.sum(axis=0)
    divisor = np.where(total > 0, total, np.nan)
    low, high = compute_wilson_interval(won, total)
    return Reliability(
        edges=edges,
        confidences=sums.sum(axis=0) / divisor,
        accuracies=won / divisor,
        lows=np.where(total > 0, low, np.nan),
        highs=np.where(total > 0, high, np.nan),
        counts=total.astype(np.int64),
        histogram=_count_bins(confidences, right, np.linspace(0, 1, N_BINS + 1))[0].sum(axis=0) / confidences.size,
        calibration_error=float(gaps.mean()),
        brier_score=float((squares - 2 * own + 1).mean()),
        n_items=truth.size,
        classwise=classwise,
    )


def measure_reliability_for_plot(probabilities: ArrayLike, targets: ArrayLike) -> Reliability:
    """Measure reliability in as many equally filled bins as the items allow, for a picture.

    With bins of equal width, a small set has empty bins, and bins with one item whose intervals say nothing. The
    calibration error stays that of `evaluate`, with 15 bins of equal width, so that a picture and a table agree.

    Args:
        probabilities: As for `measure_reliability`.
        targets: As for `measure_reliability`.

    Raises:
        DataError: As for `measure_reliability`.
    """
    # Half the square root of the number of items: 3 bins for 20 items, 5 for 70, 14 for 700.
    bins = int(np.clip(int(np.sqrt(np.size(targets)) / 2) + 1, 2, N_BINS))
    drawn = measure_reliability(probabilities, targets, bins, equal_mass=True)
    return replace(drawn, calibration_error=measure_reliability(probabilities, targets).calibration_error)


def _take_predicted(
    chances: FloatArray, truth: IntArray, predictions: ArrayLike | None
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return the probability of each predicted class, and whether it is right: (1, n_items) each."""
    chosen = chances.argmax(axis=1) if predictions is None else check_labels("predictions", predictions, chances.shape)
    return chances[np.arange(truth.size), chosen][np.newaxis], (chosen == truth)[np.newaxis]


def _place_edges(confidences: FloatArray, bins: int, *, equal_mass: bool) -> FloatArray:
    if not equal_mass:
        return np.linspace(0, 1, bins + 1)
    # Edges that are confidences themselves, so that equal confidences share a bin.
    inner = np.quantile(confidences, np.arange(1, bins) / bins, method="inverted_cdf")
    return np.unique([0.0, *inner, 1.0])


def _count_bins(
    confidences: FloatArray, right: NDArray[np.bool_], edges: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Count items, add confidences and count hits by row and bin, each float64 (n_rows, n_bins)."""
    n_rows, n_bins = len(confidences), len(edges) - 1
    cells = (assign_bins(confidences, edges) + n_bins * np.arange(n_rows)[:, np.newaxis]).ravel()

    def add(values: FloatArray | NDArray[np.bool_]) -> FloatArray:
        sums = np.bincount(cells, weights=values.ravel().astype(np.float64), minlength=n_rows * n_bins)
        return np.asarray(sums, np.float64).reshape(n_rows, n_bins)

    return add(np.ones_like(confidences)), add(confidences), add(right)


def _make_plain(value: Any) -> Any:  # noqa: ANN401 - arrays, numbers and truth values
    if not isinstance(value, np.ndarray):
        return value
    return [None if np.isnan(number) else number for number in value.tolist()]
