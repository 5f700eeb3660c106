import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from featx.heads import logistic
from featx.heads.logistic import Point, ScaledLogisticRegression, descend
from featx.heads.rows import FeatureRows
from featx.heads.scaling import make_scaler


@pytest.mark.parametrize("n_classes", [2, 5])
@pytest.mark.parametrize(("scaling", "C"), [("none", 1e-2), ("standard", 1e-1), ("l2", 1e2)])
def test_coefficients_are_those_of_scikit_learn(digits, n_classes, scaling, C):
    X, y, _ = digits
    X, y = X[y < n_classes], y[y < n_classes]
    ours = ScaledLogisticRegression(C, scaling, tol=1e-7).fit(X, y)
    theirs = make_pipeline(make_scaler(scaling), LogisticRegression(C=C, tol=1e-9, max_iter=10_000))
    theirs.fit(X.astype(np.float64), y)
    expected = theirs[-1].coef_ / (theirs[0].scale_ if scaling == "standard" else 1)
    np.testing.assert_allclose(ours.coef_, expected, atol=2e-3 * np.abs(expected).max())
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X.astype(np.float64)), atol=1e-3)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X.astype(np.float64)))


def test_whitening_changes_the_steps_and_not_the_optimum(digits, monkeypatch):
    X, y, _ = digits
    white = ScaledLogisticRegression(1e-2, "standard", tol=1e-6).fit(X, y)
    monkeypatch.setattr(logistic, "_ITEMS_PER_FEATURE", 1_000)
    plain = ScaledLogisticRegression(1e-2, "standard", tol=1e-6).fit(X, y)
    assert white.n_iter_ < 0.8 * plain.n_iter_
    np.testing.assert_allclose(white.predict_proba(X), plain.predict_proba(X), atol=1e-3)


def test_rows_of_a_larger_matrix_give_what_a_copy_of_them_gives(digits):
    X, y, _ = digits
    some = np.random.default_rng(0).permutation(len(y))[:200]
    from_rows = ScaledLogisticRegression(1e-2, "standard").fit(FeatureRows(X, some), y[some])
    copied = ScaledLogisticRegression(1e-2, "standard").fit(X[some], y[some])
    np.testing.assert_allclose(from_rows.coef_, copied.coef_, rtol=1e-4, atol=1e-6)


def test_features_far_from_zero_and_features_that_never_vary(digits):
    X, y, _ = digits
    moved = np.concatenate([X + 1000, np.full((len(X), 3), 7, np.float32)], axis=1)
    ours = ScaledLogisticRegression(1e-1, "standard", tol=1e-5).fit(moved, y)
    expected = ScaledLogisticRegression(1e-1, "standard", tol=1e-5).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(moved), expected.predict_proba(X), atol=5e-3)


@pytest.mark.parametrize("rank", [1, 2, 10])
def test_features_of_low_rank_can_be_whitened(rank):
    random = np.random.default_rng(0)
    X = (random.standard_normal((900, rank)) @ random.standard_normal((rank, 400))).astype(np.float32)
    y = (X[:, 0] > 0).astype(int)
    assert ScaledLogisticRegression(1e3).fit(X, y).score(X, y) > 0.98


def test_it_is_an_estimator_by_the_rules_of_scikit_learn():
    check_estimator(ScaledLogisticRegression(), on_skip=None)


# Descent


def minimise(start, measure, steps=500, tol=1e-4):
    """Drive a descent with a function of a point: its value and gradient."""
    descent = descend(start, steps)
    x = next(descent)
    while True:
        value, gradient = measure(x.astype(np.float64))
        try:
            x = descent.send(Point(value, gradient.astype(np.float32), bool(np.abs(gradient).max() <= tol)))
        except StopIteration as stop:
            return stop.value


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 30), st.floats(1, 1e3))
def test_the_minimum_of_a_quadratic_is_found(seed, size, spread):
    random = np.random.default_rng(seed)
    scales, target = np.geomspace(1, spread, size), random.standard_normal(size)
    found = minimise(np.zeros(size, np.float32), lambda x: (scales @ (x - target) ** 2 / 2, scales * (x - target)))
    assert found.converged
    np.testing.assert_allclose(found.x, target, atol=2e-2)


def test_a_start_at_the_minimum_takes_no_step():
    found = minimise(np.ones(3, np.float32), lambda x: (float(np.sum((x - 1) ** 2)), 2 * (x - 1)))
    assert (found.steps, found.converged) == (0, True)


def test_too_few_steps_are_reported():
    scales = np.geomspace(1, 1e4, 50)
    found = minimise(np.ones(50, np.float32), lambda x: (scales @ x**2 / 2, scales * x), steps=3)
    assert (found.steps, found.converged) == (3, False)


def test_a_first_step_that_is_far_too_long_is_shortened():
    found = minimise(np.full(2, 5, np.float32), lambda x: (float(np.logaddexp(x, -x).sum()), np.tanh(x)), tol=1e-3)
    assert found.converged
    np.testing.assert_allclose(found.x, 0, atol=1e-2)
