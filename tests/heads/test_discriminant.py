import numpy as np
import pytest
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from featx.heads.discriminant import ShrunkDiscriminant
from featx.heads.scaling import make_scaler


@pytest.mark.parametrize("shrinkage", [0.01, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("data", ["digits", "wide"])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_it_is_the_linear_discriminant_analysis_of_scikit_learn(data, shrinkage, n_classes, request):
    X, y, _ = request.getfixturevalue(data)
    X, y = X[y < n_classes].astype(np.float64), y[y < n_classes]
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(X[: len(X) // 2], y[: len(X) // 2])
    ours = ShrunkDiscriminant(shrinkage).fit(X[: len(X) // 2], y[: len(X) // 2])
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-5)  # ours computes in float32
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


@pytest.mark.parametrize("scaling", ["standard", "l2"])
@pytest.mark.parametrize("data", ["digits", "wide"])
def test_the_scaling_that_is_folded_in_is_that_of_scikit_learn(data, scaling, request):
    X, y, _ = request.getfixturevalue(data)
    theirs = make_pipeline(make_scaler(scaling), LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3))
    ours = ShrunkDiscriminant(0.3, scaling=scaling).fit(X[::2], y[::2])
    np.testing.assert_allclose(
        ours.predict_proba(X),
        theirs.fit(X[::2].astype(np.float64), y[::2]).predict_proba(X.astype(np.float64)),
        atol=1e-4,
    )


@pytest.mark.parametrize("data", ["digits", "wide"])
def test_fully_shrunk_it_is_the_nearest_centroid(data, request):
    X, y, _ = request.getfixturevalue(data)
    X = X.astype(np.float64) + 1  # the other class warns of features that are always 0
    X += 1e-3 * np.random.default_rng(0).standard_normal(X.shape)
    ours = ShrunkDiscriminant(1.0, priors="uniform").fit(X[: len(X) // 2], y[: len(X) // 2])
    np.testing.assert_array_equal(ours.predict(X), NearestCentroid().fit(X[: len(X) // 2], y[: len(X) // 2]).predict(X))


def test_it_is_an_estimator_by_the_rules_of_scikit_learn():
    # The check allows 1e-7, and float32 margins of one item and of many differ by 5e-7: half of all data passes it.
    noise = {"check_methods_subset_invariance": "margins are float32"}
    check_estimator(ShrunkDiscriminant(), on_skip=None, expected_failed_checks=noise, on_fail="raise")
    assert clone(ShrunkDiscriminant(0.5)).shrinkage == 0.5


def test_a_class_of_one_item_and_a_feature_that_is_always_off():
    X = np.array([[1, 0, 0], [1.1, 0.1, 0], [0.9, -0.1, 0], [-1, 0, 0]], np.float32)
    assert ShrunkDiscriminant(0.1).fit(X, [0, 0, 0, 1]).predict([[-0.9, 0, 0]]) == [1]
    alone = ShrunkDiscriminant(1.0).fit(X[[0, 3]], [0, 1])  # no item differs from its class's mean
    assert np.isfinite(alone.predict_proba(X)).all()
    assert alone.predict(X).tolist() == [0, 0, 0, 1]
