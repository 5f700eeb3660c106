import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import check_estimator

from featx.heads import linear_svm
from featx.heads.linear_svm import HingePath, ScaledLinearSVC
from featx.heads.rows import FeatureRows
from featx.heads.scaling import make_scaler


@pytest.fixture(params=["digits", "wide"])
def data(request):
    X, y, _ = request.getfixturevalue(request.param)
    # Not all of `wide`, for which liblinear takes up to a minute.
    return (X[:100, :160], y[:100]) if request.param == "wide" else (X, y)


def measure(coef, intercept, X, y, weights, C):
    """Return the objective of liblinear for each class against the rest, in float64."""
    signs = np.where(y[:, None] == np.arange(len(coef)), 1, -1) if len(coef) > 1 else np.where(y, 1, -1)[:, None]
    slack = np.maximum(0, 1 - signs * (X @ coef.T + intercept))
    return (np.square(coef).sum(axis=1) + intercept**2) / 2 + C * (weights * slack**2).sum(axis=0)


def fit_reference(X, y, scaling, C, class_weight=None):
    scaler = make_scaler(scaling)
    scaled = X.astype(np.float64) if scaler == "passthrough" else scaler.fit_transform(X.astype(np.float64))
    theirs = LinearSVC(C=C, class_weight=class_weight, dual=False, tol=1e-8, max_iter=100_000).fit(scaled, y)
    return scaler, scaled, theirs


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize(
    ("scaling", "C"), [("none", 1e-5), ("none", 1e-1), ("standard", 1e-4), ("standard", 1e1), ("l2", 1e-1), ("l2", 1e3)]
)
def test_the_optimum_is_that_of_liblinear(data, n_classes, scaling, C, class_weight):
    X, y = (array[data[1] < n_classes] for array in data)
    kept = np.flatnonzero((y > 0) | (np.arange(len(y)) % 3 == 0))  # classes of unequal size
    X, y = X[kept], y[kept]
    ours = ScaledLinearSVC(C, scaling, class_weight).fit(X, y)
    scaler, scaled, theirs = fit_reference(X, y, scaling, C, class_weight)
    coef, intercept = ours.coef_.astype(np.float64), ours.intercept_.astype(np.float64)
    if scaling == "standard":
        coef, intercept = coef * scaler.scale_, intercept + coef @ scaler.mean_
    balance = len(y) / n_classes / np.bincount(y) if class_weight else np.ones(n_classes)
    own = y[:, None] == np.arange(n_classes)
    weights = np.where(own, balance, 1.0) if n_classes > 2 else balance[y][:, None]
    reached = measure(coef, intercept, scaled, y, weights, C)
    expected = measure(theirs.coef_, theirs.intercept_, scaled, y, weights, C)
    np.testing.assert_array_less(reached, expected * (1 + 1e-4))
    margins = theirs.decision_function(scaled)
    np.testing.assert_allclose(ours.decision_function(X), margins, atol=2e-2 * np.abs(margins).max())
    assert (ours.predict(X) == theirs.predict(scaled)).mean() > 0.99


@pytest.mark.parametrize(("limit", "value"), [("_FEW_INSIDE", 10_000), ("_MOST_VALUES", 1)])
def test_each_way_of_solving_finds_the_same_optimum(digits, monkeypatch, limit, value):
    X, y, _ = digits
    usual = ScaledLinearSVC(1e-2, "standard", tol=1e-7).fit(X, y)
    monkeypatch.setattr(linear_svm, limit, value)
    other = ScaledLinearSVC(1e-2, "standard", tol=1e-7).fit(X, y)
    assert not np.array_equal(other.coef_, usual.coef_)
    np.testing.assert_allclose(other.decision_function(X), usual.decision_function(X), atol=1e-2)


def test_rows_of_a_larger_matrix_give_what_a_copy_of_them_gives(digits):
    X, y, _ = digits
    some = np.random.default_rng(0).permutation(len(y))[:200]
    from_rows = ScaledLinearSVC(1e-2, "standard").fit(FeatureRows(X, some), y[some])
    copied = ScaledLinearSVC(1e-2, "standard").fit(X[some], y[some])
    np.testing.assert_allclose(from_rows.coef_, copied.coef_, rtol=1e-3, atol=1e-6)


def test_features_of_low_rank_and_features_that_never_vary(digits):
    X, y, _ = digits
    twice = np.concatenate([X, X, np.full((len(X), 3), 7, np.float32)], axis=1)
    ours = ScaledLinearSVC(1e2, "standard").fit(twice, y)
    expected = LinearSVC(C=1e2, dual=False, max_iter=100_000).fit(
        StandardScaler().fit_transform(twice.astype(np.float64)), y
    )
    agreed = ours.predict(twice) == expected.predict(StandardScaler().fit_transform(twice.astype(np.float64)))
    assert agreed.mean() > 0.99


def test_too_few_steps_are_reported(digits):
    X, y, _ = digits
    path = HingePath.prepare(FeatureRows(X), y, [np.arange(len(y))], "none", None)
    assert not next(path.follow([1e-1], 1e-5, 1)).converged
    [weak, strong] = path.follow([1e-6, 1e-1], 1e-5, 100)
    assert weak.converged
    assert strong.converged
    assert weak.steps < strong.steps


def test_it_is_an_estimator_by_the_rules_of_scikit_learn():
    check_estimator(ScaledLinearSVC(), on_skip=None)
