"""Linear heads: scores from coefficients for unscaled features, with the scaling folded in."""

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from featx.heads.rows import FeatureRows
from featx.heads.scaling import Floats, Frame, check_scaling, measure_lengths

BINARY = 2


class LinearHead(ClassifierMixin, BaseEstimator):
    """A classifier whose margins are linear in the features, after scaling.

    The scaling is folded into the coefficients, so that neither fitting nor predicting
    copies the features. Items go through in blocks.

    Attributes:
        classes_: (n_classes,), sorted.
        coef_: float32 (n_classes, dim), or (1, dim) for two classes: for unscaled
            features; for the scaling `l2`, of the features divided by their item's length.
        intercept_: float32 (n_classes,) or (1,).
    """

    scaling: str

    def decision_function(self, X: ArrayLike | FeatureRows) -> NDArray[np.float32]:
        """Return margins (n_items, n_classes), or (n_items,) for two classes."""
        check_is_fitted(self)
        rows = self._accept(X)
        margins = score_rows(rows, self.coef_.T, self.intercept_, measure_lengths(rows, self.scaling))
        return margins[:, 0] if len(self.classes_) == BINARY else margins

    def predict(self, X: ArrayLike | FeatureRows) -> NDArray[Any]:
        """Return the class (n_items,) with the largest margin."""
        margins = self.decision_function(X)
        chosen: NDArray[Any] = self.classes_[(margins > 0).astype(int) if margins.ndim == 1 else margins.argmax(axis=1)]
        return chosen

    def score_classes(self, X: ArrayLike | FeatureRows) -> NDArray[np.float32]:
        """Return the scores that a calibrator is fitted to, (n_items, n_classes): log-softmax of the margins."""
        scores: NDArray[np.float32] = special.log_softmax(spread_margins(self.decision_function(X)), axis=1)
        return scores

    def predict_proba(self, X: ArrayLike | FeatureRows) -> NDArray[np.float64]:
        """Return the softmax of the margins, (n_items, n_classes); they are not calibrated."""
        margins = spread_margins(self.decision_function(X)).astype(np.float64)
        probabilities: NDArray[np.float64] = special.softmax(margins, axis=1)
        return probabilities

    def _accept(self, X: ArrayLike | FeatureRows) -> FeatureRows:
        if isinstance(X, FeatureRows):
            if X.shape[1] != self.n_features_in_:
                msg = f"X has {X.shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_}"
                raise ValueError(msg)
            return X
        return FeatureRows.wrap(validate_data(self, X, dtype=[np.float32, np.float64], reset=False))

    def _read_classes(self, X: ArrayLike | FeatureRows, y: ArrayLike) -> tuple[FeatureRows, NDArray[np.intp]]:
        """Check the training items, and set the classes.

        Returns:
            The features, and the position of each item's class.

        Raises:
            UnknownNameError: If the scaling does not exist.
            ValueError: If there are not two classes, or the features cannot be used.
        """
        check_scaling(self.scaling)
        rows, y = accept_items(self, X, y)
        self.classes_, positions = np.unique(y, return_inverse=True)
        if len(self.classes_) < BINARY:
            msg = f"Classifier can't train when only one class is present: {self.classes_[0]!r}"
            raise ValueError(msg)
        return rows, positions

    def adopt(self, coef: Floats, intercept: Floats, n_classes: int) -> Self:
        """Become a head whose classes are 0, 1 ... and whose coefficients are those that `unfold` returned."""
        self.classes_, self.n_features_in_ = np.arange(n_classes), len(coef)
        return self.set_coefficients(coef, intercept)

    def set_coefficients(self, coef: Floats, intercept: Floats) -> Self:
        """Set what `unfold` returned; the margins of two classes become one."""
        if coef.shape[1] == BINARY:
            coef, intercept = coef[:, 1:] - coef[:, :1], intercept[1:] - intercept[:1]
        self.coef_, self.intercept_ = np.ascontiguousarray(coef.T), intercept
        return self


def accept_items(estimator: Any, X: ArrayLike | FeatureRows, y: ArrayLike) -> tuple[FeatureRows, NDArray[Any]]:  # noqa: ANN401 - scikit-learn's
    """Check features and targets as scikit-learn does; rows of a store were checked when it was written.

    Raises:
        ValueError: If they cannot be trained on.
    """
    if isinstance(X, FeatureRows):
        estimator.n_features_in_ = X.shape[1]
        return X, np.asarray(y)
    X, y = validate_data(estimator, X, y, dtype=[np.float32, np.float64], ensure_min_samples=2)
    check_classification_targets(y)
    return FeatureRows.wrap(X), np.asarray(y)


def spread_margins(margins: Floats) -> Floats:
    """Give both classes a column, 0 and the margin, where there is one margin for two."""
    if margins.ndim == BINARY and margins.shape[1] > 1:
        return margins
    column = margins.reshape(-1, 1)
    return np.concatenate([np.zeros_like(column), column], axis=1)


def unfold(weights: NDArray[Any], bias: NDArray[Any], frame: Frame) -> tuple[Floats, Floats]:
    """Turn weights (dim, n_outputs) and bias (n_outputs,) for scaled features into those for unscaled ones."""
    coef = weights / frame.scale[:, None].astype(np.float64)
    return coef.astype(np.float32), (bias - frame.shift.astype(np.float64) @ coef).astype(np.float32)


def score_rows(X: FeatureRows, coef: NDArray[Any], intercept: NDArray[Any], lengths: Floats | None) -> Floats:
    """Return margins float32 (n_items, n_outputs), a block of items at a time.

    Args:
        X: (n_items, dim).
        coef: float32 (dim, n_outputs).
        intercept: float32 (n_outputs,).
        lengths: float32 (n_items,), what items are divided by; None for no division.
    """
    margins = np.empty((len(X), coef.shape[1]), np.float32)
    for rows, block in iterate_margins(X, coef, intercept, lengths):
        margins[rows] = block
    return margins


def iterate_margins(
    X: FeatureRows, coef: NDArray[Any], intercept: NDArray[Any], lengths: Floats | None
) -> Iterator[tuple[slice, Floats]]:
    """Yield the margins of `score_rows` a block of items at a time: positions, and float32 (n_block, n_outputs)."""
    for rows, block in X.iterate_blocks(coef.shape[1]):
        margins = block @ coef
        if lengths is not None:
            margins /= lengths[rows, None]
        margins += intercept
        yield rows, margins
