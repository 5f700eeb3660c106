import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.metrics import log_loss
from sklearn.model_selection import PredefinedSplit
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import check_estimator

from featx.errors import DataError
from featx.heads import find_head, fit_head, tune
from featx.heads.calibrated import CalibratedHead
from featx.heads.calibration import METHODS
from featx.heads.fitting import split_folds
from featx.heads.ridge import ScaledRidge
from featx.specs import CALIBRATIONS, HeadSpec


@pytest.mark.parametrize("method", ["temperature", "sigmoid", "isotonic"])
@pytest.mark.parametrize("n_classes", [2, 10])
def test_without_scores_it_is_what_scikit_learn_does(digits, method, n_classes):
    X, y, folds = (array[digits[1] < n_classes] for array in digits)
    model = LinearSVC(C=1e-3, random_state=0)
    ours = CalibratedHead(model, method, cv=split_folds(folds, y)).fit(X, y)
    theirs = CalibratedClassifierCV(model, method=method, ensemble=False, cv=PredefinedSplit(folds)).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=0.02)


@pytest.mark.parametrize("method", CALIBRATIONS)
@pytest.mark.parametrize("name", ["logreg", "ridge", "knn", "svm"])
def test_every_calibration_of_a_head_is_better_than_a_guess(digits, name, method):
    X, y, folds = digits
    head, spec = find_head(name), HeadSpec(name, calibration=method)
    train, test = folds > 0, folds == 0
    tuned = tune(head, X[train], y[train], folds[train], spec=spec)
    fitted = fit_head(head, X[train], y[train], tuned.spec, folds[train], held_out=(tuned.scores, y[train]))
    chosen = tuned.spec.calibration
    assert chosen == method or (method == "auto" and chosen in METHODS)
    assert isinstance(fitted.estimator[-1], CalibratedHead) == (chosen != "none" or name == "svm")
    probabilities = fitted.estimator.predict_proba(X[test])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert log_loss(y[test], probabilities) < (2 if method in {"none", "isotonic"} else 0.6)


@pytest.mark.parametrize("method", ["temperature", "sigmoid", "isotonic"])
def test_calibration_does_not_undo_balanced_classes(method):
    random = np.random.default_rng(0)
    y = (random.random(1500) < 0.06).astype(int)
    X = (random.standard_normal((1500, 10)) + 0.4 * y[:, None]).astype(np.float32)
    shares = []
    for weight in ({}, {"class_weight": "balanced"}):
        spec = HeadSpec("logreg", {"C": 0.01, **weight}, "standard", calibration=method)
        fitted = fit_head(find_head("logreg"), X, y, spec, np.arange(1500) % 3)
        shares.append((fitted.estimator.predict(X) == 1).mean())
    assert shares[0] < 0.05
    assert shares[1] > 0.2


@pytest.mark.parametrize("name", ["logreg", "svm"])
def test_a_calibration_of_classes_that_are_each_in_one_fold_is_refused_in_words_of_the_user(name):
    y = np.arange(60) // 15
    X, folds = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32), y // 2
    message = "calibration sigmoid cannot be fitted, since no class has items in two folds; .* --calibration none"
    spec = HeadSpec(name, calibration="sigmoid")
    with pytest.raises(DataError, match=message):
        tune(find_head(name), X, y, folds, spec=spec)
    with pytest.raises(DataError, match=message):
        fit_head(find_head(name), X, y, spec, folds)
    assert tune(find_head(name), X, y, folds, spec=HeadSpec(name)).spec.calibration == "none"


def test_scores_that_tuning_made_spare_the_folds(digits, monkeypatch):
    X, y, folds = digits
    head, spec = find_head("ridge"), HeadSpec("ridge")
    tuned = tune(head, X, y, folds, spec=spec)
    monkeypatch.setattr(CalibratedHead, "_hold_out", None)  # calling it would be an error
    monkeypatch.setattr(ScaledRidge, "fit", None)
    fitted = fit_head(head, X, y, tuned.spec, folds, held_out=(tuned.scores, y), fitted=tuned.fitted)
    assert fitted.estimator.score(X, y) > 0.95


def test_it_is_an_estimator_by_the_rules_of_scikit_learn():
    check_estimator(CalibratedHead(ScaledRidge()), on_skip=None)
