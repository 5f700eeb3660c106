"""Every sweep is compared with scikit-learn fitted once per candidate."""

import numpy as np
import pytest
from scipy import special
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier

from featx.heads import find_head
from featx.heads.sweeps import Fold, rotate, score_items


def cut(data, n_classes=None):
    """Make the first fold of some data; a class may be missing from what is learnt from."""
    X, y, folds = data
    keep = y < (n_classes or y.max() + 1)
    X, y, held = X[keep], y[keep], folds[keep] == 0
    return Fold(X[~held], y[~held], X[held], X.shape[1], y.max() + 1)


def sweep(name, fold, candidates):
    head = find_head(name)
    return list(head.sweep(head.build, candidates, fold, 0))


def as_columns(margins):
    return np.stack([-margins, margins], axis=1) if margins.ndim == 1 else margins


@pytest.fixture(params=["digits", "wide"])
def fold(request):
    return cut(request.getfixturevalue(request.param))


def test_rotation_keeps_all_inner_products(wide):
    before = cut(wide)
    after = rotate(before)
    assert after.X_train.shape == (160, 160)
    assert after.X_held.dtype == np.float32
    assert after.dim == 500
    np.testing.assert_allclose(after.X_train @ after.X_train.T, before.X_train @ before.X_train.T, rtol=1e-4)
    np.testing.assert_allclose(after.X_held @ after.X_train.T, before.X_held @ before.X_train.T, rtol=1e-4)


@pytest.mark.parametrize("name", ["logreg", "ridge", "linear-svm", "lda"])
def test_rotation_changes_no_score(name, wide):
    before = cut(wide)
    candidates = [{parameter: values[2] for parameter, values in find_head(name).grid.items()}]
    if name == "logreg":
        candidates[0] |= {"C": 1e-2, "tol": 1e-6}
    if name == "linear-svm":
        candidates[0] |= {"C": 1e-4, "max_iter": 100_000}  # dual coordinate descent takes random steps
    direct, rotated = sweep(name, before, candidates)[0], sweep(name, rotate(before), candidates)[0]
    if name == "logreg":
        direct, rotated = np.exp(direct), np.exp(rotated)
    np.testing.assert_allclose(rotated, direct, atol=2e-3 * np.ptp(direct))
    assert (rotated.argmax(axis=1) == direct.argmax(axis=1)).mean() > 0.98


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("rotated", [False, True])
def test_path_of_logistic_regression(wide, n_classes, rotated):
    plain = cut(wide, n_classes)
    values = [1e-4, 1e-3, 1e-2]
    swept = sweep("logreg", rotate(plain) if rotated else plain, [{"C": C, "tol": 1e-7} for C in values])
    for C, scores in zip(values, swept, strict=True):
        model = LogisticRegression(C=C, max_iter=1000, tol=1e-8).fit(plain.X_train, plain.y_train)
        np.testing.assert_allclose(np.exp(scores), model.predict_proba(plain.X_held), atol=1e-3)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_ridge_from_one_gram_matrix(fold, n_classes, class_weight):
    keep, held = fold.y_train < n_classes, slice(None)
    keep[np.flatnonzero(fold.y_train == 0)[::2]] = False  # classes of unequal size
    small = Fold(fold.X_train[keep], fold.y_train[keep], fold.X_held[held], fold.dim, n_classes)
    values = [1e4, 1e2, 1e1]
    candidates = [{"alpha": alpha, "class_weight": class_weight} for alpha in values]
    for params, scores in zip(candidates, sweep("ridge", small, candidates), strict=True):
        model = RidgeClassifier(**params).fit(small.X_train.astype(np.float64), small.y_train)
        np.testing.assert_allclose(scores, as_columns(model.decision_function(small.X_held)), atol=1e-3)


def test_discriminants_from_one_covariance(fold):
    values = [1.0, 0.6, 0.1, 0.01]
    for shrinkage, scores in zip(values, sweep("lda", fold, [{"shrinkage": s} for s in values]), strict=True):
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(
            fold.X_train.astype(np.float64), fold.y_train
        )
        np.testing.assert_allclose(special.softmax(scores, axis=1), model.predict_proba(fold.X_held), atol=1e-2)


@pytest.mark.parametrize("weights", ["distance", "uniform"])
def test_neighbours_from_one_search(fold, weights):
    X_held = np.concatenate([fold.X_held, fold.X_train[:3]])  # the last three have a neighbour at distance 0
    fold = Fold(fold.X_train, fold.y_train, X_held, fold.dim, fold.n_classes)
    values = [20, 5, 1]
    candidates = [{"n_neighbors": k, "weights": weights} for k in values]
    for k, scores in zip(values, sweep("knn", fold, candidates), strict=True):
        model = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=weights)
        expected = model.fit(fold.X_train, fold.y_train).predict_proba(X_held)
        # Distances of 1e-7 are rounding; 1 / distance then differs, not whose vote it is.
        np.testing.assert_allclose(np.exp(scores[:-3]), expected[:-3], atol=1e-3)
        np.testing.assert_array_equal(scores.argmax(axis=1)[-3:], expected.argmax(axis=1)[-3:])


@pytest.mark.parametrize("name", ["logreg", "ridge", "svm", "knn", "lda", "naive-bayes"])
def test_a_class_that_was_not_learnt_is_never_chosen(name, digits):
    whole = cut(digits)
    known = whole.y_train != 4
    fold = Fold(whole.X_train[known], whole.y_train[known], whole.X_held, whole.dim, whole.n_classes)
    params = {parameter: values[0] for parameter, values in find_head(name).grid.items()}
    scores = sweep(name, fold, [params])[0]
    assert scores.shape == (len(fold.X_held), 10)
    assert not (scores.argmax(axis=1) == 4).any()


def test_scores_are_log_probabilities_where_there_are_any(digits):
    fold = cut(digits)
    forest = find_head("random-forest").build({"n_estimators": 5}).fit(fold.X_train, fold.y_train)
    scores = score_items(forest, fold)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(np.exp(scores), forest.predict_proba(fold.X_held), atol=1e-9)
