"""The nearest items of a store."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

import featx
from featx.errors import DataError, UsageError
from featx.store.neighbours import find_nearest, measure_lengths


def make_features(n, dim, dtype="float32"):
    return np.random.default_rng(5).standard_normal((n, dim)).astype(dtype)


def search(features, X, k, views=1):
    return find_nearest(features, measure_lengths(features, views), X, k, views)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("n_queries", [1, 70])
def test_they_are_those_of_scikit_learn(monkeypatch, dtype, n_queries):
    monkeypatch.setattr("featx.store.neighbours._BLOCK_BYTES", 64 * 4 * 24)
    monkeypatch.setattr("featx.store.neighbours._QUERIES", 32)
    features, queries = make_features(1000, 24, dtype), make_features(n_queries, 24)[::-1] * 3
    rows, similarities = search(features, queries, 7)
    exact = NearestNeighbors(n_neighbors=7, metric="cosine", algorithm="brute").fit(features.astype(np.float64))
    distances, expected = exact.kneighbors(queries.astype(np.float64))
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(similarities, 1 - distances, atol=1e-12)


def test_equal_items_come_in_their_order_and_zeros_are_similar_to_nothing(monkeypatch):
    monkeypatch.setattr("featx.store.neighbours._BLOCK_BYTES", 1)
    features = np.tile(make_features(2, 30), (150, 1))
    features[4] = 0
    rows, similarities = search(features, features[[1, 4]], 40)
    assert rows[0].tolist() == list(range(1, 80, 2))
    assert (similarities[0] == similarities[0, 0]).all()
    assert similarities[0, 0] == pytest.approx(1, abs=1e-7)
    assert rows[1].tolist() == list(range(40))
    assert not similarities[1].any()
    assert 4 in search(features, features[[1]], 300)[0][0, 148:152]


def test_views_count_as_their_mean():
    features = make_features(50, 3 * 8)
    means = features.reshape(50, 3, 8).mean(axis=1)
    np.testing.assert_array_equal(search(features, means[:5], 4, views=3)[0], search(means, means[:5], 4)[0])


def test_a_store_answers_with_all_items_if_more_are_wanted(store):
    rows, similarities = store.nearest(store.features[:3], len(store) + 5)
    assert rows.shape == similarities.shape == (3, len(store))
    assert (np.diff(similarities, axis=1) <= 0).all()
    again, _ = featx.FeatureStore(store.path).nearest(store.features[:3])
    np.testing.assert_array_equal(again, rows[:, :10])
    assert store.nearest(store.features[:0], 2)[0].shape == (0, 2)


def test_queries_that_do_not_fit_are_said(store):
    with pytest.raises(DataError, match=rf"shape of the queries is \(1, 3\); it must be \(n, {store.dim}\)"):
        store.nearest([[1, 2, 3]])
    with pytest.raises(DataError, match="as wide as the features"):
        store.nearest(store.features[0])
    broken = np.array(store.features[:3])
    broken[2, 1] = np.nan
    with pytest.raises(DataError, match="query 2 has values that are not finite"):
        store.nearest(broken)
    with pytest.raises(UsageError, match="k is 0"):
        store.nearest(store.features[:1], 0)
