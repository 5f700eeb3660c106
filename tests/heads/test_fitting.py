import numpy as np
import pytest
from head_names import ALL_HEADS
from sklearn.base import clone
from sklearn.metrics import log_loss

from featx.errors import DataError, UnknownNameError
from featx.heads import find_head, fit_head, make_head, tune
from featx.heads.fitting import check_data, count_parameters, split_folds
from featx.registry import HEADS
from featx.specs import HeadSpec

#: Accuracy on 300 digits after tuning on 300 others: a little below what each reaches.
FLOORS = dict.fromkeys(HEADS, 0.85) | {"dummy": 0.04, "hist-gb": 0.7}
QUICK = {
    "random-forest": {"n_estimators": 50},
    "hist-gb": {"max_iter": 10},
    "keras": {"learning_rate": 0.01, "epochs": 60},
    "mlp": {"learning_rate_init": 0.01, "max_iter": 400},
}


def fit(name, X, y, folds, seed=0, calibration=None):
    head = find_head(name)
    tuned = tune(head, X, y, folds, spec=HeadSpec(name, QUICK.get(name, {}), seed=seed, calibration=calibration))
    return tuned, fit_head(head, X, y, tuned.spec, folds, held_out=(tuned.scores, y))


@pytest.mark.parametrize("name", ALL_HEADS)
def test_every_head_from_features_to_probabilities(name, digits):
    X, y, folds = (array[:300] for array in digits)
    before = X.copy()
    tuned, fitted = fit(name, X, y + 5, folds)  # targets need not start at 0
    new, truth = digits[0][300:], digits[1][300:] + 5
    head, probabilities = fitted.estimator, fitted.estimator.predict_proba(new)
    np.testing.assert_array_equal(head.classes_, np.arange(5, 15))
    np.testing.assert_array_equal(tuned.classes, np.arange(5, 15))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(head.predict(new), head.classes_[probabilities.argmax(axis=1)])
    assert np.mean(head.predict(new) == truth) >= FLOORS[name]
    assert head.predict_proba(new[:1]).shape == (1, 10)
    again_tuned, again = fit(name, X, y + 5, folds)
    assert again_tuned.best == tuned.best
    np.testing.assert_array_equal(again_tuned.probabilities, tuned.probabilities)
    np.testing.assert_array_equal(again.estimator.predict_proba(new), probabilities)
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("name", ALL_HEADS)
def test_a_head_can_be_cloned_and_fitted_to_other_items(name, digits):
    X, y, folds = digits
    params = QUICK.get(name, {})
    fitted = fit_head(find_head(name), X[:300], y[:300], HeadSpec(name, params, "standard"), folds[:300])
    assert not fitted.notes or "converge" in fitted.notes[0]
    copy = clone(fitted.estimator).fit(X[100:220], y[100:220])
    assert copy.predict_proba(X[:2]).shape == (2, 10)
    assert make_head(HeadSpec(name, params)).fit(X[:120], y[:120]).score(X, y) > 0.05


@pytest.mark.parametrize("name", ["logreg", "ridge", "linear-svm", "lda", "centroid", "knn"])
def test_two_classes(name, wide):
    X, y, folds = wide
    X, y, folds = X[y < 2], y[y < 2], folds[y < 2]
    tuned, fitted = fit(name, X, y, folds)
    assert fitted.estimator.predict_proba(X).shape == tuned.probabilities.shape == (120, 2)
    assert tuned.best.accuracy > 0.9
    assert log_loss(y, tuned.probabilities) < 0.4


@pytest.mark.parametrize(
    ("name", "limit"), [("ridge", 0.6), ("linear-svm", 0.4), ("svm", 0.4), ("lda", 0.3), ("centroid", 0.5)]
)
def test_calibrated_probabilities_are_good_on_new_items(name, limit, digits):
    X, y, folds = digits
    _, fitted = fit(name, X[:300], y[:300], folds[:300])
    probabilities = fitted.estimator.predict_proba(X[300:])
    assert log_loss(y[300:], probabilities / probabilities.sum(axis=1, keepdims=True)) < limit


@pytest.mark.parametrize("name", ["ridge", "lda", "logreg"])
def test_accuracy_does_not_collapse_with_as_many_items_as_features(name):
    """Untuned, least squares fails where items and features are equally many (double descent)."""
    random = np.random.default_rng(0)
    y = np.arange(1000) % 10
    X = np.maximum(random.standard_normal((10, 512))[y] * 0.5 + random.standard_normal((1000, 512)), 0)
    X = X.astype(np.float32)
    folds = np.arange(500) // 10 % 3
    tuned, fitted = fit(name, X[:500], y[:500], folds)
    assert fitted.estimator.score(X[500:], y[500:]) > 0.95
    assert tuned.best.accuracy > 0.95


@pytest.mark.parametrize("name", ["ridge", "linear-svm", "svm", "lda", "centroid", "naive-bayes"])
def test_a_class_of_one_item_is_fitted_and_reported(name, wide):
    X, y, folds = wide
    y = y.copy()
    y[7] = 9
    tuned, fitted = fit(name, X, y, folds, calibration="temperature")
    assert tuned.single_fold == (9,)
    assert fitted.estimator.classes_.tolist() == [0, 1, 2, 3, 9]
    assert np.isfinite(fitted.estimator.predict_proba(X)).all()
    assert tuned.probabilities[7, 4] < 1e-6
    assert not (tuned.predictions == 9).any()


def test_a_fit_that_does_not_converge_is_a_note_not_a_warning(digits):
    X, y, folds = digits
    fitted = fit_head(find_head("logreg"), X, y, HeadSpec("logreg", {"C": 1.0, "max_iter": 5}, "none"), folds)
    assert fitted.notes == ("logreg did not converge in 5 iterations; allow more with --param max_iter=25",)


def test_balanced_class_weights_help_the_rare_class(wide):
    X, y, folds = wide
    X, y, folds = (array[(y == 0) | ((y == 1) & (np.arange(len(y)) % 20 == 1))] for array in (X, y, folds))
    noisy = X + np.random.default_rng(1).normal(0, 6, X.shape).astype(np.float32)
    for name, params in [("logreg", {"C": 1e-6}), ("ridge", {"alpha": 1e6}), ("linear-svm", {"C": 1e-7})]:
        counts = [
            (
                fit_head(find_head(name), noisy, y, HeadSpec(name, params | weight, "none"), folds).estimator.predict(
                    noisy
                )
                == 1
            ).sum()
            for weight in ({}, {"class_weight": "balanced"})
        ]
        assert counts[1] > counts[0], name


@pytest.mark.parametrize(
    ("X", "y", "words"),
    [
        (np.zeros((3, 2)), [1, 1, 1], "only one class in 3 items"),
        (np.zeros((3, 2)), [0, 1, 1], "features of all 3 items are equal"),
        ([[0, 1], [np.nan, 1], [1, 1]], [0, 1, 1], "1 items are not finite, the first is item 1"),
        (np.zeros((3, 2)), [0, 1], "shape"),
        (np.zeros(3), [0, 1, 1], "shape"),
    ],
)
def test_data_that_cannot_be_fitted_are_refused(X, y, words):
    with pytest.raises(DataError, match=words):
        check_data(X, y)


@pytest.mark.parametrize(
    ("folds", "words"),
    [
        ([0, 0, 0, 0], "all 4 items are in one fold"),
        ([0, 0, 1, 1], "leaves only one class"),
        ([0, 1], "one fold each"),
    ],
)
def test_folds_that_cannot_be_used_are_refused(folds, words):
    with pytest.raises(DataError, match=words):
        split_folds(folds, np.array([0, 0, 1, 1]))


def test_an_unknown_scaling_is_refused(digits):
    with pytest.raises(UnknownNameError, match="no scaling is called 'minmax'"):
        fit_head(find_head("logreg"), *digits[:2], HeadSpec("logreg", scaling="minmax"), digits[2])


@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [
        ("logreg", {"C": 1.0}, 3 * (6 + 1)),
        ("ridge", {"alpha": 1.0}, 3 * (6 + 1)),
        ("linear-svm", {"C": 1.0}, 3 * (6 + 1)),
        ("lda", {"shrinkage": 0.1}, 3 * (6 + 1)),
        ("centroid", {}, 3 * (6 + 1)),
        ("mlp", {"hidden_layer_sizes": (4,), "max_iter": 500}, 4 * (6 + 1) + 3 * (4 + 1)),
        ("knn", {"n_neighbors": 3}, None),
        ("random-forest", {"n_estimators": 5}, None),
        ("naive-bayes", {}, None),
        ("svm", {}, None),
        ("dummy", {}, None),
    ],
)
def test_trained_parameters_are_counted(name, params, expected):
    random = np.random.default_rng(0)
    y = np.arange(60) % 3
    X = (random.normal(size=(60, 6)) + y[:, np.newaxis]).astype(np.float32)
    head = find_head(name)
    fitted = fit_head(head, X, y, HeadSpec(name, params, head.scalings[0]), np.arange(60) // 3 % 3)
    assert count_parameters(fitted.estimator) == expected
