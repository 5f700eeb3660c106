"""Linear discriminant analysis with shrinkage; at shrinkage 1 it is the nearest class mean."""

from collections.abc import Iterable, Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, special
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data


class ShrunkDiscriminant(ClassifierMixin, BaseEstimator):
    """Assign an item to the class mean that is nearest in a shrunk common covariance.

    The answer of `LinearDiscriminantAnalysis(solver="lsqr", shrinkage=...)`, from one
    Cholesky factorisation where that takes a singular value decomposition (20 times
    the seconds at 2,048 features), without copying float32 features to float64.

    With shrinkage 1 and uniform priors it predicts what `NearestCentroid` does. That
    class measures distances for its probabilities otherwise than for its predictions,
    divided by the spread within the classes, which is nearly 0 for a feature that is
    nearly always off: log-loss was 3.8 where these margins, calibrated, have 0.4.

    Args:
        shrinkage: From near 0, the covariance as it is, to 1, a multiple of the identity.
        priors: `empirical`, the frequency of each class, or `uniform`.

    Attributes:
        classes_: (n_classes,), sorted.
        coef_: float (n_classes, dim).
        intercept_: float (n_classes,).
    """

    def __init__(self, shrinkage: float = 0.1, priors: str = "empirical") -> None:
        self.shrinkage = shrinkage
        self.priors = priors

    def fit(self, X: NDArray[Any], y: NDArray[Any]) -> Self:
        """Fit to features (n_items, dim) and targets (n_items,)."""
        X, y = validate_data(self, X, y, dtype=[np.float32, np.float64], ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, positions = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:  # noqa: PLR2004 - a discriminant lies between two
            msg = f"Classifier can't train when only one class is present: {self.classes_[0]!r}"
            raise ValueError(msg)
        means, basis = average_classes(X, positions), None
        if len(X) < X.shape[1] and self.shrinkage < 1:
            basis, triangle = linalg.qr(X.T, mode="economic", check_finite=False)
            X, means = np.ascontiguousarray(triangle.T), means @ basis
        coef, intercept = next(
            solve_discriminants(X, positions, means, [self.shrinkage], self.n_features_in_, self.priors)
        )
        self.coef_ = (coef if basis is None else basis @ coef).T.astype(X.dtype)
        self.intercept_ = intercept.astype(X.dtype)
        return self

    def decision_function(self, X: NDArray[Any]) -> NDArray[Any]:
        """Return margins (n_items, n_classes), or (n_items,) for two classes."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float32, np.float64], reset=False)
        margins: NDArray[Any] = X @ self.coef_.T + self.intercept_
        return margins[:, 1] - margins[:, 0] if len(self.classes_) == 2 else margins  # noqa: PLR2004 - as scikit-learn does

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        """Return the class (n_items,) with the largest margin."""
        margins = self.decision_function(X)
        chosen: NDArray[Any] = self.classes_[(margins > 0).astype(int) if margins.ndim == 1 else margins.argmax(axis=1)]
        return chosen

    def predict_proba(self, X: NDArray[Any]) -> NDArray[Any]:
        """Return probabilities (n_items, n_classes) if the classes are Gaussian; too sure if they are not."""
        margins = self.decision_function(X)
        both = np.stack([np.zeros_like(margins), margins], axis=1) if margins.ndim == 1 else margins
        probabilities: NDArray[Any] = special.softmax(both, axis=1)
        return probabilities


def average_classes(X: NDArray[Any], positions: NDArray[np.intp]) -> NDArray[Any]:
    """Return the mean of each class: float (n_classes, columns)."""
    return np.stack([X[positions == k].mean(axis=0) for k in range(positions.max() + 1)])


def solve_discriminants(
    X: NDArray[Any],
    positions: NDArray[np.intp],
    means: NDArray[Any],
    shrinkages: Iterable[float],
    dim: int,
    priors: str,
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Solve for the discriminants of several shrinkages from one covariance.

    The covariance is (1 - s) S + s trace(S) / dim I (Ledoit & Wolf 2004, eq. 2 with
    a given s); it is linear in S, so shrinking that of each class, as scikit-learn
    does, is shrinking their mean. Discriminants: Hastie, Tibshirani & Friedman,
    The Elements of Statistical Learning (2009), eq. 4.10.

    Args:
        X: float (n_items, columns), features, perhaps rotated.
        positions: int (n_items,), the class of each item; each has at least one.
        means: float (n_classes, columns).
        shrinkages: The values of s.
        dim: Width of the features before any rotation.
        priors: `empirical` or `uniform`.

    Yields:
        For each shrinkage, coefficients (columns, n_classes) and intercepts (n_classes,).
    """
    counts = np.bincount(positions)
    bias = np.log(counts / len(X)) if priors == "empirical" else np.zeros(len(counts))
    centred = X - means[positions]
    trace = np.einsum("ij,ij->", centred, centred, dtype=np.float64) / len(X)
    covariance: NDArray[np.float64] | None = None
    # What all discriminants share changes no probability; without it, float32 loses less.
    middle = means.mean(axis=0)
    apart = (means - middle).T
    for s in shrinkages:
        ridge = s * (trace / dim or 1.0)  # a trace of 0: every item is its class's mean
        if s == 1:
            coef = apart / ridge
        else:
            if covariance is None:
                covariance = (centred.T @ centred).astype(np.float64) / len(X)
            shrunk = (1 - s) * covariance
            shrunk.flat[:: len(shrunk) + 1] += ridge
            coef = linalg.solve(shrunk, apart, assume_a="pos", check_finite=False)
        yield coef, bias - np.sum((means + middle).T * coef, axis=0) / 2
