import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from featx.heads.ridge import RidgeSystem, ScaledRidge, cut_units
from featx.heads.rows import FeatureRows
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


@pytest.mark.parametrize(("n_items", "dim"), [(60, 400), (60, 62), (400, 300)])
@pytest.mark.parametrize("alpha", [1e-9, 1e-4, 1e-1])
def test_noise_stays_noise_however_small_alpha_is(n_items, dim, alpha):
    """With random labels, leave-one-out accuracy must not exceed chance."""
    random = np.random.default_rng(0)
    X, y = random.standard_normal((n_items, dim)).astype(np.float32), random.integers(0, 2, n_items)
    units = np.arange(n_items)
    units[:6] = [0, 0, 0, 1, 1, 1]
    system = RidgeSystem.prepare(FeatureRows(X), y, "none", None)
    predictions = system.follow_path([alpha], units).predictions[0, :, 0]
    kept = np.array([0, 4, 30])
    for unit in units[kept]:
        rest = units != unit
        model = Ridge(alpha=alpha, solver="svd").fit(X[rest].astype(np.float64), 2.0 * y[rest] - 1)
        np.testing.assert_allclose(predictions[~rest], model.predict(X[~rest].astype(np.float64)), atol=0.02)
    assert 0.3 < ((predictions > 0) == y).mean() < 0.7


def test_large_groups_are_left_out_as_small_ones_are():
    random = np.random.default_rng(0)
    X, y = random.standard_normal((300, 8)).astype(np.float32), random.integers(0, 3, 300)
    units = np.arange(300) // 60  # more items than features: the other way to solve
    system = RidgeSystem.prepare(FeatureRows(X), y, "standard", None)
    predictions = system.follow_path([3.0], units).predictions[0]
    scaled, targets = StandardScaler().fit_transform(X.astype(np.float64)), np.where(np.eye(3)[y] > 0, 1, -1)
    for unit in range(5):
        rest = units != unit
        model = Ridge(alpha=3.0).fit(scaled[rest], targets[rest])
        np.testing.assert_allclose(predictions[~rest], model.predict(scaled[~rest]), atol=1e-4)


def test_an_alpha_of_nothing_gives_a_head():
    X, y = np.random.default_rng(0).standard_normal((30, 200)).astype(np.float32), np.arange(30) % 2
    assert ScaledRidge(1e-12).fit(X, y).score(X, y) == 1


def test_it_is_an_estimator_by_the_rules_of_scikit_learn():
    check_estimator(ScaledRidge(), on_skip=None)
