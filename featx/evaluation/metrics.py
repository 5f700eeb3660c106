"""The metrics of class probabilities against targets, each with its 95 % interval."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.errors import DataError, UsageError
from featx.evaluation.intervals import (
    FloatArray,
    IntArray,
    WeightedMetric,
    bound_mean,
    check_groups,
    count_drawn,
    count_units,
    estimate_effective_items,
    fit_fraction,
    invert_gaps,
    measure_accuracy,
    resample,
    studentize,
)
from featx.evaluation.ranking import make_indicator, make_roc_auc, measure_areas, rank_among_positives

if TYPE_CHECKING:
    from scipy.sparse import csc_array


#: The metrics of an `Evaluation`; the ends of each interval are `<name>_low` and `<name>_high`.
METRICS = ("accuracy", "mean_per_class_accuracy", "macro_f1", "log_loss", "expected_calibration_error", "roc_auc")

# Value, lower and upper end; NaN where undefined.
_Interval = tuple[float, float, float]

# Rows of probabilities in float16 sum to 1 within 5e-4.
_SUM_TOLERANCE = 1e-3

# The log-loss is bounded as if one loss could be this large, even if none was: a probability below 1 %.
_USUAL_LOSS = 5.0

# Items x resamples: some twenty seconds on one core. Above it, the interval is narrow, and there are fewer resamples.
_WORK = 200_000_000
_FEWEST_RESAMPLES = 200

# Items x classes x resamples of ROC-AUC: ten seconds on one core. Above it, ROC-AUC has fewer resamples.
_AUC_WORK = 4_000_000_000
_FEWEST_AUC_RESAMPLES = 100

#: With more classes, JSON holds the cells of a confusion matrix that are not zero, instead of all of them.
MOST_DENSE = 100


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """The metrics of one class against the others.

    Attributes:
        name: The class.
        precision: Share of the items predicted as this class that belong to it; None if none was predicted.
        recall: Share of the items of this class that were predicted as it; None if there are none.
        f1: Harmonic mean of the two; None if no item belongs to this class or was predicted as it.
        support: Number of items of this class.
        roc_auc: Area under the ROC curve of this class against the rest; None without items of both, or if the
            version that wrote a file did not measure it.
        average_precision: Mean precision over the items of this class, each at its own score as the threshold; None
            as for `roc_auc`.
    """

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    roc_auc: float | None = None
    average_precision: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The metrics of a classifier on items that it has not seen.

    Every metric has a 95 % interval, `<metric>_low` to `<metric>_high` (see
    `featx.evaluation.intervals`). Accuracy has Wilson's interval. The other fractions have
    it too, with their variance from the bootstrap. Log-loss has the bootstrap-t interval, within
    `bound_mean`; the expected calibration error has that of `invert_gaps`. An undefined value is
    None, as is a metric that the version that wrote a file did not have. Both ends are None if all
    resamples agree. Averages over classes cover the classes that are present among the targets.

    Attributes:
        n_items: Number of items.
        accuracy: Share of the items that were predicted correctly.
        mean_per_class_accuracy: Mean of the classes' recalls, also called balanced accuracy.
        macro_f1: Mean of the classes' F1.
        log_loss: Mean of -ln(probability of the true class), in nats.
        expected_calibration_error: Mean distance between confidence and accuracy over 15 bins.
        roc_auc: Area under the ROC curve: of the second class if there are two, else the
            mean of one class against the rest; None if only one class is present.
        classes: The classes, in the order of the targets.
        per_class: One `ClassMetrics` for each class.
        cells: The true class, the predicted class and the number of items of each pair of classes that has
            any, int64 (n_cells, 3), in the order of the confusion matrix.
    """

    n_items: int
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    mean_per_class_accuracy: float | None
    mean_per_class_accuracy_low: float | None
    mean_per_class_accuracy_high: float | None
    macro_f1: float | None
    macro_f1_low: float | None
    macro_f1_high: float | None
    log_loss: float | None
    log_loss_low: float | None
    log_loss_high: float | None
    expected_calibration_error: float | None
    expected_calibration_error_low: float | None
    expected_calibration_error_high: float | None
    roc_auc: float | None
    roc_auc_low: float | None
    roc_auc_high: float | None
    classes: tuple[str, ...]
    per_class: tuple[ClassMetrics, ...]
    cells: IntArray

    @property
    def confusion(self) -> IntArray:
        """Items by true class (rows) and predicted class (columns), int64 (n_classes, n_classes), made each time."""
        matrix = np.zeros((len(self.classes), len(self.classes)), np.int64)
        matrix[self.cells[:, 0], self.cells[:, 1]] = self.cells[:, 2]
        return matrix

    def get_interval(self, metric: str) -> tuple[float | None, float | None, float | None]:
        """Return the value, lower end and upper end of one of `METRICS`."""
        return getattr(self, metric), getattr(self, f"{metric}_low"), getattr(self, f"{metric}_high")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON: `items`, the metrics, `classes`, `per_class`, `confusion`.

        With more than `MOST_DENSE` classes, `confusion` is an object of three lists, `true`, `predicted` and
        `items`, with an entry for each pair of classes that has items.
        """
        values: dict[str, Any] = {"items": self.n_items}
        for metric in METRICS:
            values |= zip(_name_fields(metric), self.get_interval(metric), strict=True)
        values["classes"] = list(self.classes)
        values["per_class"] = [asdict(row) for row in self.per_class]
        dense = len(self.classes) <= MOST_DENSE
        values["confusion"] = (
            self.confusion.tolist() if dense else dict(zip(_CELL_COLUMNS, self.cells.T.tolist(), strict=True))
        )
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build the evaluation from what `to_dict` returned.

        A metric that `values` lacks, as in a file of another version, becomes None; other keys are ignored.

        Raises:
            DataError: If the items, classes or confusion matrix are missing, or a value has the wrong type.
        """
        try:
            return cls(
                n_items=_read_count(values, "items"),
                classes=tuple(values["classes"]),
                per_class=tuple(_read_class(row) for row in values["per_class"]),
                cells=_read_cells(values["confusion"], len(values["classes"])),
                **{name: _read_number(values, name) for metric in METRICS for name in _name_fields(metric)},
            )
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            msg = f"these are not the metrics of an evaluation ({error!r}); evaluate again to write them"
            raise DataError(msg) from error


_CELL_COLUMNS = ("true", "predicted", "items")


def _read_cells(confusion: Any, n_classes: int) -> IntArray:  # noqa: ANN401 - of JSON, as every version wrote it
    """Read a confusion matrix, dense or as its cells.

    Raises:
        ValueError: If it does not have the size that the classes need, or a class does not exist.
    """
    if not isinstance(confusion, dict):
        return _list_cells(np.asarray(confusion, dtype=np.int64).reshape(n_classes, n_classes))
    cells = np.stack([np.asarray(confusion[name], dtype=np.int64) for name in _CELL_COLUMNS], axis=-1)
    if cells.ndim != 2 or (cells < 0).any():  # noqa: PLR2004 - cells and columns
        msg = "the confusion matrix is not a list of cells with their numbers of items"
        raise ValueError(msg)
    if cells.size and cells[:, :2].max() >= n_classes:
        msg = "the confusion matrix has classes that do not exist"
        raise ValueError(msg)
    return cells


def _list_cells(confusion: IntArray) -> IntArray:
    """List the cells of a matrix that are not zero: row, column and value, int64 (n_cells, 3)."""
    rows, columns = confusion.nonzero()
    return np.stack([rows, columns, confusion[rows, columns]], axis=1).astype(np.int64)


def _read_class(row: Mapping[str, Any]) -> ClassMetrics:
    names = ("precision", "recall", "f1", "roc_auc", "average_precision")
    scores = {name: _read_number(row, name) for name in names}
    return ClassMetrics(name=row["name"], support=_read_count(row, "support"), **scores)


def _read_count(values: Mapping[str, Any], name: str) -> int:
    if type(values[name]) is not int or values[name] < 0:
        msg = f"{name} is {str(values[name])[:40]!r}, not a count"
        raise TypeError(msg)
    return int(values[name])


def _read_number(values: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 - an int or float of JSON, or None
    value = values.get(name)
    if type(value) not in {int, float, type(None)}:
        msg = f"{name} is {str(value)[:40]!r}, not a number"
        raise TypeError(msg)
    return value


def evaluate(
    probabilities: ArrayLike,
    targets: ArrayLike,
    classes: Sequence[str],
    *,
    predictions: ArrayLike | None = None,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Evaluation:
    """Evaluate predictions against the true classes.

    Args:
        probabilities: Class probabilities, float (n_items, n_classes); rows sum to 1.
        targets: True classes as positions in `classes`, int (n_items,).
        classes: The names of the classes, in the order of the columns.
        predictions: Predicted classes, int (n_items,), for a head that does not always
            predict the most probable class; by default the most probable class.
        groups: The group of every item; items of one group are resampled together. An
            item whose group is empty has none.
        seed: Seed of the bootstrap.
        resamples: Number of resamples. There are fewer, but at least 200, if items x resamples exceed 2e8. ROC-AUC
            has fewer, but at least 100, if items x classes x resamples exceed 4e9 (10,000 items of 400 classes).

    Returns:
        The metrics and their 95 % intervals.

    Raises:
        DataError: If an array does not have the shape or values above.
        UsageError: If `resamples` is below 1.
    """
    if resamples < 1:
        msg = f"resamples is {resamples}; pass at least 1 (1000 is usual)"
        raise UsageError(msg)
    chances, epsilon = check_probabilities(probabilities, len(classes))
    truth = check_labels("targets", targets, chances.shape)
    chosen = chances.argmax(axis=1) if predictions is None else check_labels("predictions", predictions, chances.shape)
    units = None if groups is None else check_groups(groups, truth.size)
    losses = -np.log(np.clip(chances[np.arange(truth.size), truth], epsilon, 1 - epsilon))
    sample = _Sample(truth, units, seed)
    resamples = min(resamples, max(_FEWEST_RESAMPLES, _WORK // truth.size))
    ranked = min(resamples, max(_FEWEST_AUC_RESAMPLES, _AUC_WORK // chances.size))
    accuracy = measure_accuracy(chosen == truth, units)
    ranks = {column: rank_among_positives(chances[:, column], truth == column) for column in np.unique(truth).tolist()}
    intervals = {
        "accuracy": accuracy,
        **_measure_classes(sample, make_class_scores(chances, truth, chosen), losses, accuracy, resamples),
        "roc_auc": sample.measure_fraction(*sample.measure(make_roc_auc(chances, truth, ranks), ranked)[0]),
    }
    cells = _count_cells(truth, chosen, len(classes))
    return Evaluation(
        n_items=truth.size,
        **_name_intervals(intervals),
        classes=tuple(classes),
        per_class=_describe_classes(cells, classes, ranks, truth),
        cells=cells,
    )


def check_probabilities(probabilities: ArrayLike, n_classes: int) -> tuple[FloatArray, float]:
    """Return class probabilities as float64 (n_items, n_classes), and the machine epsilon of their own dtype.

    Raises:
        DataError: If they do not have this shape, are negative, or do not sum to 1 in each row.
    """
    given = np.asarray(probabilities)
    if given.dtype.kind not in "fiu":
        msg = f"probabilities have the dtype {given.dtype}; pass numbers, such as predict_proba returns"
        raise DataError(msg)
    if given.ndim != 2 or given.shape[1] != n_classes or given.size == 0:  # noqa: PLR2004 - items and classes
        msg = f"probabilities have the shape {given.shape}; pass (items, {n_classes}), with at least one item"
        raise DataError(msg)
    chances = given.astype(np.float64, copy=False)
    sums = chances.sum(axis=1)
    # NaN compares as false, so it counts as wrong too.
    wrong = ~((chances >= 0).all(axis=1) & (np.abs(sums - 1) <= _SUM_TOLERANCE))
    if wrong.any():
        item = int(wrong.argmax())
        msg = (
            f"probabilities of item {item} (and {wrong.sum() - 1} more) sum to {sums[item]:.6g}, the smallest is "
            f"{chances[item].min():.6g}; pass probabilities that are not negative and sum to 1"
        )
        raise DataError(msg)
    return chances, float(np.finfo(given.dtype if given.dtype.kind == "f" else np.float64).eps)


def check_labels(name: str, labels: ArrayLike, shape: tuple[int, ...]) -> IntArray:
    """Return targets or predictions as int64 (n_items,).

    Args:
        name: Their name in an error message.
        labels: Positions in the list of classes, int (n_items,).
        shape: (n_items, n_classes).

    Raises:
        DataError: If they are not integers of this shape, from 0 to n_classes - 1.
    """
    n_items, n_classes = shape
    given = np.asarray(labels)
    if given.dtype.kind not in "iu" or given.shape != (n_items,):
        msg = f"{name} have the dtype {given.dtype} and the shape {given.shape}; pass integers of shape ({n_items},)"
        raise DataError(msg)
    wrong = (given < 0) | (given >= n_classes)
    if wrong.any():
        item = int(wrong.argmax())
        msg = f"{name}[{item}] is {given[item]}; pass positions in the {n_classes} classes, from 0 to {n_classes - 1}"
        raise DataError(msg)
    return given.astype(np.int64)


@dataclass(frozen=True, slots=True)
class _Sample:
    """The items that the bootstrap draws from."""

    targets: IntArray
    groups: IntArray | None
    seed: int

    @property
    def n_units(self) -> int:
        return count_drawn(self.targets.size, self.groups)

    def measure(self, metric: WeightedMetric, resamples: int) -> list[tuple[float, FloatArray]]:
        """Return, for each column of the metric, its value on the items and its values on resamples."""
        n_items = self.targets.size
        points = metric(np.ones((n_items, 1)))[0].tolist()
        values = resample(metric, n_items, groups=self.groups, seed=self.seed, resamples=resamples)
        return list(zip(points, values.T, strict=True))

    def measure_fraction(self, point: float, values: FloatArray) -> _Interval:
        """Return value, lower and upper end."""
        return point, *fit_fraction(point, values, self.n_units, count_units(self.targets, self.groups))


def _measure_classes(
    sample: _Sample, scores: WeightedMetric, losses: FloatArray, accuracy: _Interval, resamples: int
) -> dict[str, _Interval]:
    """Measure `CLASS_SCORES`, the calibration error and the log-loss, on the same resamples."""
    log_loss = make_log_loss(losses, sample.groups)

    def measure(weights: FloatArray) -> FloatArray:
        return np.concatenate([scores(weights), log_loss(weights)], axis=1)

    *columns, (loss, resampled), (loss_error, loss_errors) = sample.measure(measure, resamples)
    named = dict(zip(CLASS_SCORES, columns, strict=False))
    gaps = np.array([point for point, _ in columns[len(named) :]])
    resampled_gaps = np.stack([values for _, values in columns[len(named) :]], axis=1)
    worth = losses.size if sample.groups is None else estimate_effective_items(losses, sample.groups)
    low, high = studentize(loss, loss_error, resampled, loss_errors)
    least, most = bound_mean(loss, max(float(losses.max()), _USUAL_LOSS), worth)
    return {name: sample.measure_fraction(*column) for name, column in named.items()} | {
        "expected_calibration_error": (
            float(np.abs(gaps).sum()),
            *_widen_gaps(invert_gaps(gaps, resampled_gaps, sample.n_units), float(gaps.sum()), accuracy),
        ),
        "log_loss": (loss, float(np.maximum(low, least)), float(np.minimum(high, most))),  # these keep NaN
    }


def _widen_gaps(ends: tuple[float, float], excess: float, accuracy: _Interval) -> tuple[float, float]:
    """Widen the interval of the calibration error by that of the accuracy, as few errors say little of either.

    Args:
        ends: The interval; NaN stays.
        excess: Mean confidence less accuracy: the error is at least as large.
        accuracy: The accuracy and its interval.
    """
    point, low, high = accuracy
    return ends[0], float(np.maximum(ends[1], max(excess + point - low, high - point - excess)))


def _name_fields(metric: str) -> tuple[str, str, str]:
    return metric, f"{metric}_low", f"{metric}_high"


def _name_intervals(intervals: Mapping[str, _Interval]) -> dict[str, Any]:
    """Name the values and ends of `METRICS`; NaN becomes None."""
    named: dict[str, float] = {}
    for metric, interval in intervals.items():
        named |= zip(_name_fields(metric), interval, strict=True)
    return {name: None if np.isnan(value) else value for name, value in named.items()}


def _count_cells(targets: IntArray, predictions: IntArray, n_classes: int) -> IntArray:
    """Count the items of each pair of a true and a predicted class, int64 (n_cells, 3)."""
    pairs, counts = np.unique(targets * n_classes + predictions, return_counts=True)
    return np.stack([pairs // n_classes, pairs % n_classes, counts], axis=1).astype(np.int64)


def _describe_classes(
    cells: IntArray, classes: Sequence[str], ranks: Mapping[int, NDArray[np.int32]], targets: IntArray
) -> tuple[ClassMetrics, ...]:
    """Describe every class by its row, its column and its place on the diagonal, and by the ranks of its scores."""
    areas = {at: measure_areas(rank, targets == at) for at, rank in ranks.items()}
    true, chosen, counts = cells.T
    hits, supports, predicted = (
        np.bincount(positions, weights, len(classes)).astype(np.int64).tolist()
        for positions, weights in ((true, counts * (true == chosen)), (true, counts), (chosen, counts))
    )
    return tuple(
        ClassMetrics(
            name=name,
            precision=hit / chosen if chosen else None,
            recall=hit / support if support else None,
            f1=2 * hit / (support + chosen) if support + chosen else None,
            support=support,
            **areas.get(at, {}),
        )
        for at, (name, hit, support, chosen) in enumerate(zip(classes, hits, supports, predicted, strict=True))
    )


#: The first columns of `make_class_scores`.
CLASS_SCORES = ("mean_per_class_accuracy", "macro_f1")

#: Equal-width bins of confidence in the expected calibration error.
N_BINS = 15


def assign_bins(confidences: FloatArray, edges: FloatArray) -> NDArray[np.intp]:
    """Return the bin of each confidence, of the same shape; a bin includes its upper end.

    Args:
        confidences: Of any shape.
        edges: Ends of the bins, float64 (n_bins + 1,).
    """
    bins: NDArray[np.intp] = np.searchsorted(edges[1:-1], confidences, side="left")
    return bins


def make_gaps(confidences: FloatArray, right: NDArray[np.bool_]) -> "csc_array":
    """Make the sparse matrix (N_BINS, n_items) of confidence less accuracy, whose product with weights is a gap by bin.

    The absolute gaps, over the sum of the weights, add up to the expected calibration error of C. Guo,
    G. Pleiss, Y. Sun and K. Q. Weinberger, "On calibration of modern neural networks", ICML 2017, eq. 3.

    Args:
        confidences: The probability of each predicted class, float64 (n_items,).
        right: Whether the prediction is right, bool (n_items,).
    """
    return make_indicator(assign_bins(confidences, np.linspace(0, 1, N_BINS + 1)), confidences - right, N_BINS)


def make_class_scores(
    probabilities: FloatArray,
    targets: IntArray,
    predictions: IntArray,
) -> WeightedMetric:
    """Make the weighted metric whose columns are `CLASS_SCORES`, and a gap for each of `N_BINS` bins.

    Mean per-class accuracy is the mean recall, macro-F1 the mean of
    2 TP / (2 TP + FP + FN), both over the classes that are present among the
    weighted targets. The gaps are those of `make_gaps`.

    Args:
        probabilities: Class probabilities, float64 (n_items, n_classes).
        targets: True classes, int64 (n_items,).
        predictions: Predicted classes, int64 (n_items,).

    Returns:
        The metric: weights (n_items, n_resamples) to values (n_resamples, 2 + N_BINS).
    """
    n_items, n_classes = probabilities.shape
    items = np.arange(n_items)
    confidences = probabilities[items, predictions]
    correct = predictions == targets
    ones = np.ones(n_items)
    by_target = make_indicator(targets, ones, n_classes)
    by_prediction = make_indicator(predictions, ones, n_classes)
    hits = make_indicator(targets, correct.astype(np.float64), n_classes)
    gaps = make_gaps(confidences, correct)

    def score(weights: FloatArray) -> FloatArray:
        total = weights.sum(axis=0)
        support = by_target @ weights
        found = hits @ weights
        n_present = (support > 0).sum(axis=0)
        recall = found / np.where(support > 0, support, 1)
        # An absent class has no hits, so it adds nothing to either sum.
        f1 = 2 * found / np.maximum(support + by_prediction @ weights, 1)
        means = np.stack([recall.sum(axis=0), f1.sum(axis=0)]) / n_present
        return np.concatenate([means, gaps @ weights / total]).T

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
    # Sparse, since a dense product of so few rows waits for threads longer than it computes.
    moments = csr_array(np.stack([sizes, sizes**2, sizes * totals, totals**2]))

    def score(weights: FloatArray) -> FloatArray:
        mean = losses @ weights / weights.sum(axis=0)
        size, squared_sizes, products, squared_totals = moments @ weights[firsts]
        squares = squared_totals - 2 * mean * products + mean**2 * squared_sizes
        return np.stack([mean, np.sqrt(np.maximum(squares, 0)) / size], axis=1)

    return score


def align_probabilities(
    probabilities: NDArray[np.floating], classes: NDArray[np.integer], n_classes: int
) -> NDArray[np.float64]:
    """Return a head's probabilities `(n, n_classes)`, with zeros for classes that it was not trained on.

    Args:
        probabilities: `(n, n_trained)`, a column for each class that the head was trained on.
        classes: int `(n_trained,)`: these classes, as positions among all classes.
        n_classes: Number of all classes.
    """
    if np.array_equal(classes, np.arange(n_classes)):  # nearly always, and a copy of millions of rows is large
        return np.asarray(probabilities, np.float64)
    aligned = np.zeros((len(probabilities), n_classes))
    aligned[:, classes] = probabilities
    return aligned
