"""Calibration: maps from scores to probabilities, fitted to scores of held-out items."""

import math
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special
from sklearn.base import BaseEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.utils.validation import check_is_fitted

from featx.errors import DataError, UnknownNameError
from featx.heads.plain import CURVES, METHODS, Calibration, FloatArray, check_scores, list_curves
from featx.heads.rows import cut_rows, find_thread_pools

#: The parameters of each method that are fitted, if not a factor alone.
_FITTED = {
    "mixture": ("factor", "share"),
    "bias": ("factor", "biases"),
    "sigmoid": ("slopes", "offsets"),
    "isotonic": ("knots",),
}

#: The logarithm of a factor on the scores stays between these.
_LOG_FACTORS = (-10, 10)


def fit_temperature(
    scores: NDArray[Any], positions: NDArray[np.intp], weights: NDArray[np.float64] | None = None
) -> float:
    """Fit the factor that makes softmax(factor * scores) the best probabilities.

    The factor is 1 / temperature (Guo et al. 2017, On Calibration of Modern Neural
    Networks, section 4.2); it minimises the log-loss, which is convex in it.

    Args:
        scores: float (n_items, n_classes); minus infinity for a class that was not trained on.
        positions: int (n_items,), the column of each item's class; its score is finite.
        weights: float (n_items,), the weight of each item; None for equal weights.
    """
    return _fit_factor(_prepare_chances(scores, positions), weights)


def fit_mixture(
    scores: NDArray[Any], positions: NDArray[np.intp], weights: NDArray[np.float64] | None = None
) -> tuple[float, float]:
    """Fit factor and share of (1 - share) * softmax(factor * scores) + share / (number of trained classes).

    This is ensemble temperature scaling with two of its three parts (J. Zhang, B. Kailkhura and
    T. Y.-J. Han, "Mix-n-Match", ICML 2020, section 3.2), fitted together. The share bounds the
    loss of a confident error, so that a few of them do not flatten all other probabilities. Then a factor
    without bound would cost nothing where all other items are right; its distance from that of
    `fit_temperature`, in logarithms, has a penalty worth one item.

    Args:
        scores: As for `fit_temperature`.
        positions: As for `fit_temperature`.
        weights: As for `fit_temperature`.
    """
    measure = _prepare_chances(scores, positions)
    equal = 1 / np.isfinite(scores).sum(axis=1)
    plain = _fit_factor(measure, weights)

    def measure_loss(factor: float) -> float:
        chances = np.exp(measure(factor))
        share = _fit_share(chances, equal, weights)
        logarithms = np.log(chances + share * (equal - chances) + _TINY)
        return math.log(factor / plain) ** 2 / len(scores) - float(np.average(logarithms, weights=weights))

    factor = _minimize_factor(measure_loss)
    return factor, _fit_share(np.exp(measure(factor)), equal, weights)


class Calibrator(BaseEstimator):
    """A map from scores to probabilities, fitted to items that the model of the scores was not trained on.

    - `none`: softmax of the scores.
    - `temperature`: softmax of the scores times one factor, see `fit_temperature`; the
      order of the classes stays.
    - `mixture`: that softmax, mixed with equal probabilities, see `fit_mixture`; the order
      of the classes stays.
    - `bias`: softmax of the scores times one factor, plus a constant for each class
      (A. Alexandari, A. Kundaje and A. Shrikumar, "Maximum likelihood with bias-corrected
      calibration is hard-to-beat at label shift adaptation", ICML 2020, section 3.2).
    - `sigmoid`: a logistic curve for each class against the rest (J. Platt,
      "Probabilistic outputs for support vector machines", 1999, with his smoothed targets).
    - `isotonic`: a rising step curve for each class against the rest (B. Zadrozny and
      C. Elkan, "Transforming classifier scores into accurate multiclass probability
      estimates", KDD 2002).

    The last two are normalised to sum to 1, and equal where every class has 0; with two
    classes there is one curve, of the difference of the scores. They are those of
    scikit-learn's CalibratedClassifierCV.

    Attributes:
        n_classes_: Number of columns.
        factor_: Of `none`, `temperature`, `mixture` and `bias`.
        share_: Of `mixture`, the share of the equal probabilities.
        biases_: Of `bias`, float64 (n_classes,).
        slopes_: Of `sigmoid`, float64 (n_curves,).
        offsets_: Of `sigmoid`, float64 (n_curves,).
        knots_: Of `isotonic`, for each curve the scores and the probabilities between which
            it is a straight line, float64 (2, n_knots).
    """

    def __init__(self, method: str = "temperature") -> None:
        self.method = method

    def fit(self, scores: ArrayLike, positions: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the map.

        Args:
            scores: Margins or log-probabilities, float (n_items, n_classes); minus
                infinity for a class that was not trained on, whose probability stays 0.
            positions: The column of each item's class, int (n_items,); items of a class
                that was not trained on are left out.
            sample_weight: The weight of each item, float (n_items,); None for equal weights.

        Raises:
            DataError: If the arrays do not have these shapes, or no item is left.
            UnknownNameError: If the method is not known.
        """
        if self.method not in METHODS:
            msg = f"calibration {self.method!r} is unknown; choose one of {', '.join(METHODS)}"
            raise UnknownNameError(msg)
        given = check_scores(scores)
        columns = np.asarray(positions)
        if columns.shape != given.shape[:1] or columns.dtype.kind not in "iu":
            msg = f"positions are {columns.dtype} of shape {columns.shape}; pass integers of shape ({len(given)},)"
            raise DataError(msg)
        if ((columns < 0) | (columns >= given.shape[1])).any():
            msg = f"positions range from {columns.min()} to {columns.max()}; pass 0 to {given.shape[1] - 1}"
            raise DataError(msg)
        known = np.isfinite(given[np.arange(len(given)), columns])
        if not known.any():
            msg = (
                f"calibration {self.method} cannot be fitted, since no class has items in two folds; "
                "add items or groups of each class, or use --calibration none"
            )
            raise DataError(msg)
        weights = np.ones(len(given)) if sample_weight is None else np.asarray(sample_weight, np.float64)
        if not known.all():
            given, columns, weights = given[known], columns[known], weights[known]
        self.n_classes_ = given.shape[1]
        # The matrices of L-BFGS are so small that a second thread makes it up to 60 times as slow.
        with find_thread_pools().limit(limits=1):
            self._fit_map(given, columns, weights)
        return self

    def predict_proba(self, scores: ArrayLike) -> FloatArray:
        """Map scores to probabilities.

        Args:
            scores: As for `fit`, float (n_items, n_classes).

        Returns:
            float64 (n_items, n_classes); rows sum to 1.

        Raises:
            DataError: If there are not as many columns as were fitted.
        """
        check_is_fitted(self, "n_classes_")
        return self.read().predict_proba(scores)

    def read(self) -> Calibration:
        """Return the fitted parameters, with which SciPy is not needed."""
        parts = _FITTED.get(self.method, ("factor",))
        return Calibration(self.method, self.n_classes_, **{name: getattr(self, f"{name}_") for name in parts})

    def check_state(self) -> None:
        """Check a fitted state that comes from a file; an array instead of a number would multiply memory.

        Raises:
            AttributeError, TypeError: If a part is missing, or of another type than `fit` leaves.
            ValueError: If the parts do not fit together, or are not finite.
        """
        self.read().check()

    def _fit_map(self, scores: NDArray[np.floating[Any]], columns: NDArray[Any], weights: FloatArray) -> None:
        if self.method in CURVES:
            self._fit_curves(list_curves(scores.astype(np.float64)), columns, weights)
        elif self.method == "mixture":
            self.factor_, self.share_ = fit_mixture(scores, columns, weights)
        else:
            self.factor_ = 1.0 if self.method == "none" else fit_temperature(scores, columns, weights)
        if self.method == "bias":
            self.factor_, self.biases_ = _fit_biases(scores.astype(np.float64), columns, weights, self.factor_)

    def _fit_curves(self, curves: FloatArray, columns: NDArray[Any], weights: FloatArray) -> None:
        first = 1 if self.n_classes_ == 2 else 0  # noqa: PLR2004 - the curve of two classes is the second one's
        used = [np.isfinite(curve) for curve in curves.T]
        pairs = [
            (curve[rows], (columns[rows] == number).astype(np.float64), weights[rows])
            for number, (curve, rows) in enumerate(zip(curves.T, used, strict=True), start=first)
        ]
        if self.method == "sigmoid":
            self.slopes_, self.offsets_ = np.array([_fit_sigmoid(*pair) for pair in pairs]).T
        else:
            self.knots_ = [_fit_steps(*pair) for pair in pairs]


#: Added to probabilities, which stay finite in logarithms and denominators.
_TINY = 1e-30

#: Stands for the score of a class that was not trained on: finite with any factor, and its exponential is 0.
_LEAST_SCORE = -1e100


def _prepare_chances(scores: NDArray[Any], positions: NDArray[np.intp]) -> Callable[[float], FloatArray]:
    """Return the function of the factor that is the log-probability of each item's class, float64 (n_items,)."""
    # Less the largest score of its item, no score is above 0: nothing overflows, and float32 is enough.
    below: NDArray[np.float32] = np.empty(scores.shape, np.float32)
    np.subtract(scores, scores.max(axis=1, keepdims=True), out=below, casting="same_kind")
    own = below[np.arange(len(below)), positions].astype(np.float64)

    def measure(factor: float) -> FloatArray:
        logarithms = factor * own
        for part in cut_rows(len(below), below.shape[1]):
            chances = below[part] * np.float32(factor)
            logarithms[part] -= np.log(np.exp(chances, out=chances).sum(axis=1))
        return logarithms

    return measure


def _fit_factor(measure: Callable[[float], FloatArray], weights: FloatArray | None) -> float:
    return _minimize_factor(lambda factor: -float(np.average(measure(factor), weights=weights)))


def _minimize_factor(measure_loss: Callable[[float], float]) -> float:
    found = optimize.minimize_scalar(lambda log: measure_loss(math.exp(log)), bounds=_LOG_FACTORS, method="bounded")
    return math.exp(found.x)


def _fit_share(chances: FloatArray, equal: FloatArray, weights: FloatArray | None) -> float:
    """Fit the share of the equal probabilities, by which the log-loss is convex."""
    given = chances, equal, weights
    if _measure_gain(0.0, *given) <= 0:
        return 0.0
    # With `args`: SciPy leaves the function that it is given in a cycle, with all arrays that this holds.
    return (
        1.0 if _measure_gain(1.0, *given) >= 0 else float(optimize.brentq(_measure_gain, 0, 1, args=given, xtol=1e-9))
    )


def _measure_gain(share: float, chances: FloatArray, equal: FloatArray, weights: FloatArray | None) -> float:
    return float(np.average((equal - chances) / (chances + share * (equal - chances) + _TINY), weights=weights))


def _fit_biases(
    scores: FloatArray, columns: NDArray[Any], weights: FloatArray, start: float
) -> tuple[float, FloatArray]:
    """Fit a factor and a constant for each class; the penalty of a constant is worth one item."""
    # A score that is finite, but far below all others, stands for a class without one: its exponential is 0.
    below = np.maximum((scores - scores.max(axis=1, keepdims=True)) * start, _LEAST_SCORE)
    own = below[np.arange(len(below)), columns]
    totals = np.bincount(columns, weights, scores.shape[1])
    work = np.empty_like(below)  # reused, since new memory takes longer than the exponentials

    def measure(parameters: FloatArray) -> tuple[float, FloatArray]:
        factor, biases = math.exp(parameters[0]), parameters[1:]
        highest = biases.max()
        np.add(np.multiply(below, factor, out=work), biases - highest, out=work)
        sums = np.exp(work, out=work).sum(axis=1) + _TINY
        shares = weights / sums
        loss = weights @ (np.log(sums) + highest - factor * own) - totals @ biases + biases @ biases
        slope = factor * (shares @ np.einsum("ij,ij->i", work, below) - weights @ own)
        return loss / len(scores), np.append(slope, shares @ work - totals + 2 * biases) / len(scores)

    first = np.zeros(1 + scores.shape[1])
    bounds = [_LOG_FACTORS, *[(None, None)] * scores.shape[1]]
    found = optimize.minimize(measure, first, jac=True, method="L-BFGS-B", bounds=bounds).x
    return start * math.exp(found[0]), found[1:]


def _fit_sigmoid(scores: FloatArray, positive: FloatArray, weights: FloatArray) -> tuple[float, float]:
    """Fit Platt's curve, 1 / (1 + exp(-slope * score - offset)), to float64 (n_items,) each.

    The slope is not negative: held-out scores of noise can be lower for the right class by chance, and a curve that
    falls would turn the classifier round.
    """
    if scores.size == 0:
        return 0.0, -np.inf
    n_positive = weights @ positive
    n_negative = weights.sum() - n_positive
    # Platt (1999), section 2.2: targets as if there were one more item of either class.
    targets = np.where(positive, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    center, spread = scores.mean(), scores.std() or 1.0
    scaled = (scores - center) / spread

    def measure(parameters: FloatArray) -> tuple[float, FloatArray]:
        z = parameters[0] * scaled + parameters[1]
        excess = weights * (special.expit(z) - targets)
        loss = float(weights @ (np.logaddexp(0, z) - targets * z))
        return loss / z.size, np.array([excess @ scaled, excess.sum()]) / z.size

    start = np.array([0.0, math.log((n_positive + 1) / (n_negative + 1))])
    bounds = [(0.0, None), (None, None)]
    slope, offset = optimize.minimize(
        measure, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"gtol": 1e-9, "ftol": 0}
    ).x
    return slope / spread, offset - slope * center / spread


def _fit_steps(scores: FloatArray, positive: FloatArray, weights: FloatArray) -> FloatArray:
    """Fit a rising step curve to float64 (n_items,) each: its knots, float64 (2, n_knots)."""
    if scores.size == 0:
        return np.zeros((2, 1))
    steps = IsotonicRegression(out_of_bounds="clip").fit(scores, positive, weights)
    return np.stack([steps.X_thresholds_, steps.y_thresholds_])
