import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from featx.heads.ridge import ScaledRidge, cut_units
from featx.heads.scaling import make_scaler


@pytest.mark.parametrize("data", ["digits", "wide"])
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("scaling", ["none", "standard", "l2"])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_margins_are_those_of_scikit_learn(data, n_classes, scaling, class_weight, request):
    X, y, _ = request.getfixturevalue(data)
    X, y = X[y < n_classes], y[y < n_classes].copy()
    y[: len(y) // 3] = 0
    ours = ScaledRidge(3.0, scaling, class_weight).fit(X, y)
    theirs = make_pipeline(make_scaler(scaling), RidgeClassifier(3.0, class_weight=class_weight))
    theirs.fit(X.astype(np.float64), y)
    expected = theirs.decision_function(X.astype(np.float64))
    np.testing.assert_allclose(ours.decision_function(X), expected, atol=1e-4)
    coef = theirs[-1].coef_ / (theirs[0].scale_ if scaling == "standard" else 1)
    np.testing.assert_allclose(ours.coef_, np.atleast_2d(coef), atol=1e-4 * np.abs(coef).max())


def test_units_are_cut_whole():
    units = np.array([5, 1, 1, 2, 0, 2, 3, 2, 4])
    parts = [(np.arange(9)[rows].tolist(), alone) for rows, alone in cut_units(units, dim=10**9)]
    assert parts == [([0, 4, 6, 8], True), ([1, 2, 3, 5, 7], False)]
    many = np.arange(1000) // 3
    blocks = [rows for rows, alone in cut_units(many, dim=10**9) if not alone]
    assert len(blocks) > 5
    assert sorted(np.concatenate(blocks).tolist()) == list(range(999))
    owners = [set(many[rows]) for rows in blocks]
    assert sum(map(len, owners)) == len(set.union(*owners))


def test_it_is_an_estimator_by_the_rules_of_scikit_learn():
    check_estimator(ScaledRidge(), on_skip=None)
