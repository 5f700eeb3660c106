import gc
import weakref

import numpy as np
import pytest
import skops.io
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from featx.errors import DataError, UnknownNameError
from featx.heads import calibration
from featx.heads.calibration import METHODS, Calibrator


class Scorer(ClassifierMixin, BaseEstimator):
    """A classifier whose features are its scores."""

    def fit(self, X, y):  # noqa: ARG002 - the protocol of scikit-learn
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, X):
        return X[:, 1] - X[:, 0] if X.shape[1] == 2 else X

    def predict(self, X):
        return self.classes_[X.argmax(axis=1)]


def make_scores(n_items, n_classes, seed=0, sharpness=4.0):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(n_classes), rng.integers(n_classes, size=n_items - n_classes)])
    scores = rng.normal(size=(n_items, n_classes))
    scores[np.arange(n_items), y] += 2
    return sharpness * scores, y


@pytest.mark.parametrize("n_classes", [2, 3, 7])
@pytest.mark.parametrize(("method", "tolerance"), [("sigmoid", 1e-4), ("isotonic", 1e-12)])
def test_curves_equal_those_of_scikit_learn(method, tolerance, n_classes):
    scores, y = make_scores(400, n_classes)
    new, _ = make_scores(200, n_classes, seed=1, sharpness=6)
    scorer = FrozenEstimator(Scorer().fit(scores, y))
    reference = CalibratedClassifierCV(scorer, method=method).fit(scores, y)
    ours = Calibrator(method).fit(scores, y).predict_proba(new)
    assert ours == pytest.approx(reference.predict_proba(new), abs=tolerance)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_classes", [2, 5])
def test_rows_are_probabilities_and_survive_a_file(method, n_classes):
    scores, y = make_scores(300, n_classes)
    calibrator = Calibrator(method).fit(scores, y)
    chances = calibrator.predict_proba(scores)
    assert chances.dtype == np.float64
    assert (chances >= 0).all()
    assert chances.sum(axis=1) == pytest.approx(1)
    stored = skops.io.dumps(calibrator)
    back = skops.io.loads(stored, trusted=["featx.heads.calibration.Calibrator"])
    assert (back.predict_proba(scores) == chances).all()
    assert skops.io.get_untrusted_types(data=stored) == ["featx.heads.calibration.Calibrator"]


@pytest.mark.parametrize("method", ["temperature", "sigmoid", "isotonic"])
@pytest.mark.parametrize("n_classes", [2, 5])
def test_overconfident_scores_lose_log_loss_on_new_items(method, n_classes):
    scores, y = make_scores(2000, n_classes, sharpness=6)
    new, truth = make_scores(2000, n_classes, seed=1, sharpness=6)
    items = np.arange(2000)
    before = Calibrator("none").fit(scores, y).predict_proba(new)[items, truth]
    after = Calibrator(method).fit(scores, y).predict_proba(new)[items, truth]
    assert -np.log(np.maximum(after, 1e-3)).mean() < 0.9 * -np.log(np.maximum(before, 1e-3)).mean()


def test_no_calibration_is_softmax_and_temperature_keeps_the_order():
    scores, y = make_scores(200, 4)
    plain = Calibrator("none").fit(scores, y).predict_proba(scores)
    assert plain == pytest.approx(softmax(scores, axis=1))
    cooled = Calibrator().fit(scores, y)
    assert cooled.factor_ == pytest.approx(0.5, rel=0.2)  # log-odds of 2 a unit, shown as 4
    assert (cooled.predict_proba(scores).argsort(axis=1) == plain.argsort(axis=1)).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_classes", [2, 4])
def test_a_class_that_was_not_trained_on_has_no_probability(method, n_classes):
    scores, y = make_scores(200, n_classes)
    scores[:, 1] = -np.inf
    chances = Calibrator(method).fit(scores, y).predict_proba(scores)
    assert (chances[:, 1] == 0).all()
    assert chances.sum(axis=1) == pytest.approx(1)
    assert np.isfinite(chances).all()


def test_where_no_class_has_a_chance_all_trained_ones_are_equal():
    scores = np.repeat(np.eye(3), 20, axis=0)
    calibrator = Calibrator("isotonic").fit(scores, np.repeat(np.arange(3), 20))
    assert calibrator.predict_proba([[-1.0, -1, -1], [-1, -1, -np.inf]]) == pytest.approx(
        np.array([[1 / 3, 1 / 3, 1 / 3], [1 / 2, 1 / 2, 0]])
    )


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_unit_of_the_scores_does_not_matter(scale):
    scores, y = make_scores(300, 3)
    for method in ("sigmoid", "isotonic"):
        one, other = (Calibrator(method).fit(unit * scores, y).predict_proba(unit * scores) for unit in (1, scale))
        assert other == pytest.approx(one, abs=1e-6)


def test_one_item_and_equal_scores_are_enough():
    for method in METHODS:
        chances = Calibrator(method).fit([[1.0, 2, 3]], [1]).predict_proba([[1.0, 2, 3]])
        assert chances.sum() == pytest.approx(1)
        equal = Calibrator(method).fit(np.zeros((6, 2)), [0, 1] * 3).predict_proba([[0.0, 0]])
        assert equal == pytest.approx(np.full((1, 2), 0.5))


def test_it_is_an_estimator():
    assert clone(Calibrator("sigmoid")).get_params() == {"method": "sigmoid"}


@pytest.mark.parametrize(
    ("scores", "positions", "message"),
    [
        ([[1.0]], [0], "scores have the shape"),
        ([[np.nan, 1]], [0], "NaN"),
        ([[-np.inf, -np.inf]], [0], "without a finite score"),
        ([[1.0, 2]], [0.5], "positions are float64"),
        ([[1.0, 2]], [0, 1], "positions are int64 of shape"),
        ([[1.0, 2]], [2], "positions range from 2 to 2"),
        ([[-np.inf, 2]], [0], "calibration temperature cannot be fitted, since no class has items in two"),
    ],
)
def test_wrong_input_is_refused_in_one_line(scores, positions, message):
    with pytest.raises(DataError, match=message):
        Calibrator().fit(scores, positions)


def test_other_wrong_input():
    with pytest.raises(UnknownNameError, match="calibration 'platt' is unknown"):
        Calibrator("platt").fit([[1.0, 2]], [0])
    with pytest.raises(DataError, match="scores have 3 columns"):
        Calibrator().fit([[1.0, 2]], [0]).predict_proba([[1.0, 2, 3]])


def test_a_sigmoid_does_not_turn_the_classes_round():
    """Scores of noise, as of ridge on items left out one at a time, are wrong more often than right."""
    random = np.random.default_rng(0)
    positions = np.arange(24) % 2
    margins = random.normal(np.where(positions == 1, -1.0, 1.0), 0.3)
    scores = np.stack([-margins, margins], axis=1)
    fitted = Calibrator("sigmoid").fit(scores, positions)
    assert (fitted.slopes_ >= 0).all()
    ranked = fitted.predict_proba([[2.0, -2.0], [0.0, 0.0], [-2.0, 2.0]])[:, 1]
    assert (np.diff(ranked) >= 0).all()


def test_a_fitted_share_leaves_no_arrays_behind():
    """Each of some twenty fits would leave one of the size of the probabilities, until a garbage collection."""
    chances = np.array([0.9, 0.8, 0.05, 0.7])
    seen = weakref.ref(chances)
    gc.disable()
    try:
        share = calibration._fit_share(chances, np.full(4, 0.25), None)
        del chances
        assert seen() is None
    finally:
        gc.enable()
    assert 0 < share < 1
