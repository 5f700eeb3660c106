"""Features of several networks side by side, each scaled by itself."""

import numpy as np
import pytest

from featx.errors import BundleError
from featx.heads import dump_head, find_head, fit_head, load_head, tune
from featx.heads.persistence import make_plain_head
from featx.heads.plain import PlainHead
from featx.heads.rows import FeatureRows, divide_parts
from featx.heads.scaling import PartDivider
from featx.specs import HeadSpec

WIDTHS = (40, 24)


@pytest.fixture
def parts(digits):
    """The same digits, the second part of whose columns is a thousand times as large."""
    X, y, folds = (array[:300] for array in digits)
    larger = X.copy()
    larger[:, WIDTHS[0] :] *= 1000
    return larger, y, folds


def test_each_part_of_each_row_gets_the_length_one():
    X = np.array([[3, 4, 0, 0, 5], [0, 0, 6, 8, 0]], np.float32)
    assert np.allclose(divide_parts(X, (2, 3)), [[0.6, 0.8, 0, 0, 1], [0, 0, 0.6, 0.8, 0]])
    rows = FeatureRows(X, np.array([1]), widths=(2, 3)).scale_parts("l2")
    assert np.allclose(rows[:], [[0, 0, 0.6, 0.8, 0]])
    assert np.allclose(np.asarray(rows.take(np.array([0]))), [[0, 0, 0.6, 0.8, 0]])
    assert FeatureRows(X, widths=(2, 3)).scale_parts("standard").divided is False
    assert FeatureRows(X, widths=(5,)).scale_parts("l2").divided is False


@pytest.mark.parametrize("name", ["logreg", "lda", "knn", "svm", "naive-bayes"])
def test_l2_scales_each_part_by_itself(name, parts, tmp_path):
    larger, y, folds = parts
    X, spec = larger / np.repeat([1, 1000], WIDTHS), HeadSpec(name, {}, "l2")
    found = [tune(find_head(name), FeatureRows(one, widths=WIDTHS), y, folds, spec=spec) for one in (larger, X)]
    assert np.allclose(found[0].scores, found[1].scores, atol=1e-3)
    rows = FeatureRows(larger, widths=WIDTHS)
    estimator = fit_head(find_head(name), rows, y, found[0].spec, folds).estimator
    plainly = fit_head(find_head(name), divide_parts(larger, WIDTHS), y, found[0].spec, folds).estimator
    expected = plainly.predict_proba(divide_parts(larger, WIDTHS))
    assert np.allclose(estimator.predict_proba(larger), expected, atol=1e-5)
    dump_head(estimator, tmp_path / "head.skops")
    assert np.array_equal(load_head(tmp_path / "head.skops").predict_proba(larger), estimator.predict_proba(larger))
    if plain := make_plain_head(estimator):
        plain.write(tmp_path / "head.npz")
        assert np.allclose(PlainHead.load(tmp_path / "head.npz").predict_proba(larger), expected, atol=1e-5)


def test_neighbours_are_also_looked_for_by_equal_parts(parts):
    larger, y, folds = parts
    tuned = tune(find_head("knn"), FeatureRows(larger, widths=WIDTHS), y, folds, spec=HeadSpec("knn"))
    assert {one.scaling for one in tuned.candidates} == {"none", "standard", "l2"}
    whole = tune(find_head("knn"), larger, y, folds, spec=HeadSpec("knn"))
    assert {one.scaling for one in whole.candidates} == {"none", "standard"}


def test_parts_that_do_not_fit_are_refused(parts, tmp_path):
    larger, y, folds = parts
    estimator = fit_head(
        find_head("lda"), FeatureRows(larger, widths=WIDTHS), y, HeadSpec("lda", {}, "l2"), folds
    ).estimator
    plain = make_plain_head(estimator)
    object.__setattr__(plain, "widths", (40, 25))
    plain.write(tmp_path / "head.npz")
    with pytest.raises(BundleError, match="parts of features that do not fit"):
        PlainHead.load(tmp_path / "head.npz")
    estimator.steps[0] = ("parts", PartDivider((0, 64)))
    dump_head(estimator, tmp_path / "head.skops")
    with pytest.raises(BundleError, match="parts of features without columns"):
        load_head(tmp_path / "head.skops")
