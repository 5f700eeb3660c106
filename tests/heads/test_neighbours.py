import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.estimator_checks import check_estimator

from featx.heads.neighbours import CosineNeighbours, find_nearest


@pytest.mark.parametrize("count", [1, 7, 3000])
def test_the_nearest_are_found_in_order_whatever_the_blocks(count):
    random = np.random.default_rng(0)
    queries, keys = random.standard_normal((40, 12), np.float32), random.standard_normal((5000, 12), np.float32)
    hood = find_nearest(queries, keys, count)
    products = queries @ keys.T
    expected = -np.sort(-products, axis=1)[:, :count]
    np.testing.assert_allclose(hood.similarities, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(products, hood.positions, axis=1), expected, rtol=1e-5, atol=1e-5)
    assert all(len(set(row)) == count for row in hood.positions.tolist())


@pytest.mark.parametrize(
    ("weights", "theirs"),
    [("uniform", "uniform"), ("distance", "distance"), ("temperature", lambda far: np.exp((1 - far) / 0.07))],
)
def test_votes_are_those_of_scikit_learn(digits, weights, theirs):
    X, y, folds = digits
    train, held = folds > 0, folds == 0
    ours = CosineNeighbours(9, weights).fit(X[train], y[train])
    reference = KNeighborsClassifier(9, metric="cosine", algorithm="brute", weights=theirs)
    expected = reference.fit(X[train].astype(np.float64), y[train]).predict_proba(X[held].astype(np.float64))
    np.testing.assert_allclose(ours.predict_proba(X[held]), expected, atol=2e-3)
    assert (ours.predict(X[held]) == ours.classes_[expected.argmax(axis=1)]).mean() > 0.99


def test_more_neighbours_than_items_are_all_of_them():
    X, y = np.eye(4, dtype=np.float32), [0, 0, 1, 1]
    shares = CosineNeighbours(50, "uniform").fit(X, y).predict_proba(X)
    np.testing.assert_allclose(shares, 0.5)


def test_an_unknown_vote_is_refused():
    with pytest.raises(ValueError, match="temperature, distance, uniform"):
        CosineNeighbours(weights="loud").fit(np.eye(3), [0, 1, 1])


def test_it_is_an_estimator_by_the_rules_of_scikit_learn():
    check_estimator(CosineNeighbours(), on_skip=None)
