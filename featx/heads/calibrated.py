"""A classifier whose probabilities are calibrated on its scores of held-out items."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.model_selection import check_cv
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import check_is_fitted, validate_data

from featx.heads.calibration import Calibrator
from featx.heads.linear import accept_items
from featx.heads.rows import FeatureRows
from featx.heads.sweeps import Split, score_items

Scores = NDArray[np.floating[Any]]


class CalibratedHead(ClassifierMixin, BaseEstimator):
    """A classifier fitted to all items, whose scores a `Calibrator` turns into probabilities.

    The calibrator is fitted to scores of items that were held out when they were scored.
    Tuning has these scores already. Without them, `fit` computes them on folds, as
    scikit-learn's CalibratedClassifierCV does with `ensemble=False`.

    Args:
        classifier: The classifier to calibrate, not fitted.
        method: One of `featx.heads.calibration.METHODS`.
        cv: Folds for the held-out scores: a number, or the positions of the training items and
            of the held-out items of each.

    Attributes:
        classes_: (n_classes,), sorted.
        classifier_: The classifier, fitted to all items.
        calibrator_: The calibrator.
    """

    def __init__(self, classifier: Any, method: str = "temperature", cv: int | Sequence[Split] = 3) -> None:  # noqa: ANN401 - a scikit-learn classifier
        self.classifier = classifier
        self.method = method
        self.cv = cv

    def fit(
        self,
        X: ArrayLike | FeatureRows,
        y: ArrayLike,
        held_out: tuple[Scores, NDArray[Any]] | None = None,
        fitted: Any = None,  # noqa: ANN401 - a scikit-learn classifier
        validation: NDArray[np.bool_] | None = None,
    ) -> Self:
        """Fit the classifier to all items, and the calibrator to held-out scores.

        Args:
            X: (n_items, dim).
            y: (n_items,).
            held_out: Scores (n, n_classes) of items that were held out, and the class of each;
                None computes them on the folds.
            fitted: The classifier fitted to all items, with positions as classes; None fits it.
            validation: bool (n_items,), the items by which a classifier stops early.
        """
        rows, y = accept_items(self, X, y)
        self.classes_, positions = np.unique(y, return_inverse=True)
        if self.method == "none":  # nothing is fitted to scores
            held_out = (np.eye(len(self.classes_)), self.classes_)
        scores, own = (self._hold_out(rows, positions), y) if held_out is None else held_out
        targets = np.searchsorted(self.classes_, own)
        # Weighted like the classifier; otherwise the calibration would undo the weights.
        weights = compute_sample_weight(getattr(self.classifier, "class_weight", None), targets)
        self.calibrator_ = Calibrator(self.method).fit(scores, targets, weights)
        stopping = {} if validation is None else {"validation": validation}
        self.classifier_ = fitted or clone(self.classifier).fit(
            _adapt_rows(self.classifier, rows), positions, **stopping
        )
        return self

    def predict_proba(self, X: ArrayLike | FeatureRows) -> NDArray[np.float64]:
        """Return calibrated probabilities (n_items, n_classes)."""
        check_is_fitted(self)
        if not isinstance(X, FeatureRows):
            X = validate_data(self, X, dtype=[np.float32, np.float64], reset=False)
        rows = FeatureRows.wrap(X)
        scores = score_items(self.classifier_, _adapt_rows(self.classifier_, rows), len(self.classes_))
        probabilities: NDArray[np.float64] = self.calibrator_.predict_proba(scores)
        return probabilities

    def predict(self, X: ArrayLike | FeatureRows) -> NDArray[Any]:
        """Return the most probable class (n_items,)."""
        probabilities = self.predict_proba(X)
        chosen: NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return chosen

    def _hold_out(self, rows: FeatureRows, positions: NDArray[np.intp]) -> Scores:
        scores = np.full((len(rows), len(self.classes_)), -np.inf)
        splits = check_cv(self.cv, positions, classifier=True).split(np.zeros(len(rows)), positions)
        for train, held in splits:
            model = clone(self.classifier).fit(_adapt_rows(self.classifier, rows.take(train)), positions[train])
            scores[held] = score_items(model, _adapt_rows(model, rows.take(held)), len(self.classes_))
        return scores


def _adapt_rows(classifier: Any, rows: FeatureRows) -> FeatureRows | NDArray[np.float32]:  # noqa: ANN401 - a scikit-learn classifier
    """Return rows for a classifier of this package, which does not copy them, and an array for any other."""
    return rows if hasattr(classifier, "scaling") else np.asarray(rows)
