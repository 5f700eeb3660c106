"""Calibration: maps from scores to probabilities, fitted to scores of held-out items."""

import math
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special
from sklearn.base import BaseEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.utils.validation import check_is_fitted

from featx.errors import DataError, UnknownNameError
from featx.specs import CALIBRATIONS

FloatArray = NDArray[np.float64]

#: The methods of `Calibrator`. Isotonic regression can bend anywhere, so it needs about a thousand items or more.
METHODS = CALIBRATIONS


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
    # Less the largest score of its item, no score is above 0: nothing overflows, and float32 is enough.
    below = (scores - scores.max(axis=1, keepdims=True)).astype(np.float32)
    own = float(np.average(below[np.arange(len(below)), positions].astype(np.float64), weights=weights))
    work = np.empty_like(below)

    def measure_loss(log_factor: float) -> float:
        factor = math.exp(log_factor)
        np.exp(np.multiply(below, np.float32(factor), out=work), out=work)
        return float(np.average(np.log(work.sum(axis=1)).astype(np.float64), weights=weights)) - factor * own

    return math.exp(optimize.minimize_scalar(measure_loss, bounds=(-10, 10), method="bounded").x)


class Calibrator(BaseEstimator):
    """A map from scores to probabilities, fitted to items that the model of the scores was not trained on.

    - `none`: softmax of the scores.
    - `temperature`: softmax of the scores times one factor, see `fit_temperature`; the
      order of the classes stays.
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
        factor_: Of `none` and `temperature`.
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
        given = _check_scores(scores)
        columns = np.asarray(positions)
        if columns.shape != given.shape[:1] or columns.dtype.kind not in "iu":
            msg = f"positions are {columns.dtype} of shape {columns.shape}; pass integers of shape ({len(given)},)"
            raise DataError(msg)
        if ((columns < 0) | (columns >= given.shape[1])).any():
            msg = f"positions range from {columns.min()} to {columns.max()}; pass 0 to {given.shape[1] - 1}"
            raise DataError(msg)
        known = np.isfinite(given[np.arange(len(given)), columns])
        if not known.any():
            msg = "no item to calibrate on is of a class that was trained on; hold out items of every class"
            raise DataError(msg)
        given, columns = given[known], columns[known]
        weights = np.ones(len(given)) if sample_weight is None else np.asarray(sample_weight, np.float64)[known]
        self.n_classes_ = given.shape[1]
        if self.method in ("none", "temperature"):
            self.factor_ = 1.0 if self.method == "none" else fit_temperature(given, columns, weights)
        else:
            self._fit_curves(_list_curves(given), columns, weights)
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
        given = _check_scores(scores)
        if given.shape[1] != self.n_classes_:
            msg = f"scores have {given.shape[1]} columns; the calibration was fitted to {self.n_classes_}"
            raise DataError(msg)
        if self.method in ("none", "temperature"):
            return np.asarray(special.softmax(self.factor_ * given, axis=1))
        curves = _list_curves(given)
        chances = np.stack([self._apply_curve(number, curve) for number, curve in enumerate(curves.T)], axis=1)
        if self.n_classes_ == 2:  # noqa: PLR2004 - the other has the rest
            return np.concatenate([1 - chances, chances], axis=1)
        total = chances.sum(axis=1, keepdims=True)
        equal = np.isfinite(given) / np.isfinite(given).sum(axis=1, keepdims=True)
        return np.where(total > 0, chances / np.where(total > 0, total, 1), equal)

    def check_state(self) -> None:
        """Check a fitted state that comes from a file; an array instead of a number would multiply memory.

        Raises:
            AttributeError, TypeError: If a part is missing, or of another type than `fit` leaves.
            ValueError: If the parts do not fit together, or are not finite.
        """
        n_curves = 1 if self.n_classes_ == 2 else self.n_classes_  # noqa: PLR2004 - one curve is enough
        if self.method in ("none", "temperature"):
            fits = isinstance(self.factor_, float) and 0 < self.factor_ < np.inf
        elif self.method == "sigmoid":  # an offset of minus infinity is that of a class without items
            slopes, offsets = self.slopes_, self.offsets_
            fits = slopes.shape == offsets.shape == (n_curves,)
            fits = fits and bool(np.isfinite(slopes).all() and (offsets < np.inf).all())
        else:
            knots = [np.asarray(curve, np.float64) for curve in self.knots_]
            fits = len(knots) == n_curves and all(
                curve.shape == (2, curve.size // 2) and curve.size > 0 and np.isfinite(curve).all() for curve in knots
            )
        if not fits:
            msg = "a calibration whose parts do not fit"
            raise ValueError(msg)

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

    def _apply_curve(self, number: int, curve: FloatArray) -> FloatArray:
        """Return the probabilities for one curve's scores; 0 and 1 at the infinities."""
        finite = np.nan_to_num(curve)
        if self.method == "sigmoid":
            chances = special.expit(self.slopes_[number] * finite + self.offsets_[number])
        else:
            chances = np.interp(finite, *self.knots_[number])
        return np.where(np.isfinite(curve), chances, curve > 0)


def _check_scores(scores: ArrayLike) -> FloatArray:
    given = np.asarray(scores, np.float64)
    if given.ndim != 2 or len(given) == 0 or given.shape[1] < 2:  # noqa: PLR2004 - items and classes
        msg = f"scores have the shape {given.shape}; pass (items, classes), with at least one item and two classes"
        raise DataError(msg)
    if np.isnan(given).any() or (given == np.inf).any() or (given == -np.inf).all(axis=1).any():
        msg = "scores contain NaN, infinity, or a row without a finite score; pass margins or log-probabilities"
        raise DataError(msg)
    return given


def _list_curves(scores: FloatArray) -> FloatArray:
    """Return the scores that the curves map, float64 (n_items, n_curves); of two classes their difference."""
    return scores[:, 1:] - scores[:, :1] if scores.shape[1] == 2 else scores  # noqa: PLR2004 - one curve is enough


def _fit_sigmoid(scores: FloatArray, positive: FloatArray, weights: FloatArray) -> tuple[float, float]:
    """Fit Platt's curve, 1 / (1 + exp(-slope * score - offset)), to float64 (n_items,) each."""
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
    slope, offset = optimize.minimize(measure, start, jac=True, method="L-BFGS-B", options={"gtol": 1e-9, "ftol": 0}).x
    return slope / spread, offset - slope * center / spread


def _fit_steps(scores: FloatArray, positive: FloatArray, weights: FloatArray) -> FloatArray:
    """Fit a rising step curve to float64 (n_items,) each: its knots, float64 (2, n_knots)."""
    if scores.size == 0:
        return np.zeros((2, 1))
    steps = IsotonicRegression(out_of_bounds="clip").fit(scores, positive, weights)
    return np.stack([steps.X_thresholds_, steps.y_thresholds_])
