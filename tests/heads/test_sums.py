import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featx.heads import rows as blocks
from featx.heads.discriminant import Scatter, ShrunkDiscriminant
from featx.heads.ridge import RidgeSystem
from featx.heads.rows import FeatureRows
from featx.heads.sums import ClassSums, GramSum, add_sums, measure_sums

N_ITEMS, N_CLASSES = 90, 3


def make_items():
    """Features far from 0, one of which is constant in a class, in the order of their classes."""
    y = np.repeat(np.arange(N_CLASSES), N_ITEMS // N_CLASSES)
    X = 20 + np.random.default_rng(0).standard_normal((N_ITEMS, 5)) + y[:, None]
    X[y == 1, 2] = 3.3
    return X.astype(np.float32), y


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 4), min_size=N_ITEMS, max_size=N_ITEMS), st.sampled_from(["none", "standard"]))
def test_sums_over_any_partition_of_the_items_give_the_same_heads(owners, scaling):
    X, y = make_items()
    owners = np.array(owners)
    [whole] = measure_sums(FeatureRows(X), y, None)
    parts = []
    for owner in np.unique(owners):  # a part may lack a class, or have one item
        part = ClassSums.start(whole.shift, N_CLASSES)
        part.add_block(X[owners == owner] - whole.shift, y[owners == owner])
        parts.append(part)
    total = add_sums(parts)
    for sums in (whole, total):
        np.testing.assert_array_equal(sums.counts, N_ITEMS // N_CLASSES)
    np.testing.assert_allclose(total.find_moments().variances, whole.find_moments().variances, rtol=1e-9)
    of_ridge = [RidgeSystem.prepare(FeatureRows(X), y, scaling, None, sums).solve(1.0) for sums in (whole, total)]
    of_lda = [next(Scatter(scaling, (sums,)).solve(None, [0.1], "empirical")) for sums in (whole, total)]
    for (coef, intercept), (other, at) in (of_ridge, of_lda):
        margins, expected = X @ other + at, X @ coef + intercept
        np.testing.assert_allclose(margins, expected, atol=2e-5 * np.abs(expected).max())


def test_a_fold_is_left_out_by_the_sums_of_the_others():
    X, y = make_items()
    folds = np.arange(N_ITEMS) % 3
    scatter = Scatter("standard", tuple(measure_sums(FeatureRows(X), y, None, folds=folds)))
    for fold in range(3):
        coef, intercept = next(scatter.solve(fold, [0.1], "empirical"))
        alone = ShrunkDiscriminant(0.1, scaling="standard").fit(X[folds != fold], y[folds != fold])
        expected = alone.decision_function(X)
        margins = X @ coef + intercept  # they may share a constant
        np.testing.assert_allclose(margins - margins.mean(1, keepdims=True), expected - expected.mean(1, keepdims=True),
                                   atol=1e-3)  # fmt: skip


def test_a_class_that_a_block_lacks_and_one_that_only_the_last_block_has(monkeypatch):
    X, y = (np.repeat(values, 5, axis=0) for values in make_items())
    [whole] = measure_sums(FeatureRows(X), y, None)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)  # blocks of 64 items
    [cut] = measure_sums(FeatureRows(X), y, None)
    np.testing.assert_array_equal(cut.counts, whole.counts)
    np.testing.assert_allclose(cut.sums, whole.sums, rtol=1e-12, atol=1e-9)
    assert cut.find_moments().variances[0, 2] == pytest.approx(whole.find_moments().variances[0, 2])


def test_a_long_sum_of_products_is_not_in_float32_alone():
    block = np.full((64, 2), 1 / 3, np.float32)
    gram = GramSum(2)
    for _ in range(4000):
        gram.add_block(block)
    expected = 4000 * 64 * float(np.float32(1 / 3)) ** 2
    assert gram.take()[1, 0] == pytest.approx(expected, rel=2e-6)
