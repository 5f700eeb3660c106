import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import GridSearchCV, PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from featx.errors import DataError, UnknownNameError, UsageError
from featx.heads import find_head, tune
from featx.heads.calibration import fit_temperature
from featx.heads.rows import FeatureRows
from featx.heads.tuning import plan_candidates
from featx.specs import HeadSpec


def test_it_chooses_like_a_grid_search(digits):
    X, y, folds = digits
    values = find_head("svm").grid["C"]
    tuned = tune(find_head("svm"), X, y, folds, spec=HeadSpec("svm", scaling="standard"))
    search = GridSearchCV(
        make_pipeline(StandardScaler(), SVC(break_ties=True)), {"svc__C": values}, cv=PredefinedSplit(folds)
    ).fit(X, y)
    assert [c.accuracy for c in tuned.candidates] == pytest.approx(search.cv_results_["mean_test_score"], abs=1e-9)
    assert [c.accuracy_std for c in tuned.candidates] == pytest.approx(search.cv_results_["std_test_score"], abs=1e-9)
    assert tuned.best.accuracy == pytest.approx(search.best_score_)


def test_held_out_predictions_are_those_of_the_winner(digits):
    X, y, folds = digits
    tuned = tune(find_head("logreg"), X, y, folds, spec=HeadSpec("logreg"))
    model = make_pipeline(StandardScaler(), find_head("logreg").build({"C": 0.1, "tol": 1e-6}))
    spec = HeadSpec("logreg", {"C": 0.1, "tol": 1e-6}, "standard", calibration="none")
    fixed = tune(find_head("logreg"), X, y, folds, spec=spec)
    expected = cross_val_predict(model, X, y, cv=PredefinedSplit(folds), method="predict_proba")
    np.testing.assert_allclose(fixed.probabilities, expected, atol=5e-3)
    assert len(fixed.candidates) == 1
    assert len(tuned.candidates) == 39
    assert tuned.best.accuracy == np.mean(tuned.predictions == y) == max(c.accuracy for c in tuned.candidates)
    assert fixed.best.log_loss == pytest.approx(-np.log(expected[np.arange(len(y)), y]).mean(), rel=1e-4)


def test_fixed_parameters_are_not_searched(digits):
    tuned = tune(find_head("ridge"), *digits, spec=HeadSpec("ridge", {"alpha": "3", "class_weight": "balanced"}, "l2"))
    assert tuned.params == {"alpha": 3.0, "class_weight": "balanced"}
    assert tuned.scaling == "l2"
    assert len(tuned.candidates) == 1


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_the_grid_follows_the_unit_of_the_features(digits, factor):
    X, y, folds = digits
    factor = np.float32(factor)
    for name, power in [("logreg", -2), ("ridge", 2)]:
        spec = HeadSpec(name, scaling="none")
        plain, scaled = (tune(find_head(name), features, y, folds, spec=spec) for features in (X, X * factor))
        [parameter] = find_head(name).grid
        for before, after in zip(plain.candidates, scaled.candidates, strict=True):
            assert after.params[parameter] == pytest.approx(before.params[parameter] * float(factor) ** power, rel=1e-3)
            assert after.accuracy == pytest.approx(before.accuracy, abs=0.015)


def test_equals_go_to_the_lower_log_loss_then_the_stronger_regularisation():
    y = np.arange(60) % 2
    X = np.random.default_rng(0).normal(0, 0.1, (60, 5)).astype(np.float32)
    X[:, 0] += y  # every candidate is right about every item
    folds = np.arange(60) // 2 % 3
    logreg = tune(find_head("logreg"), X, y, folds, spec=HeadSpec("logreg"))
    assert logreg.best.accuracy == 1
    assert set(logreg.params) == {"tol", "C"}
    assert logreg.best.log_loss == min(c.log_loss for c in logreg.candidates if c.accuracy == 1)
    ridge = tune(find_head("ridge"), X, y, folds, spec=HeadSpec("ridge"))
    assert ridge.best.log_loss is None
    assert ridge.best.strength == min(c.strength for c in ridge.candidates if c.accuracy == 1)


def test_progress_counts_every_fit(digits):
    seen = []
    tune(find_head("knn"), *digits, spec=HeadSpec("knn"), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 6 * 2 * 3) for i in range(36)]


def test_trouble_is_noted_and_no_warning_escapes(digits):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tuned = tune(find_head("logreg"), *digits, spec=HeadSpec("logreg", {"max_iter": 3}, "none"))
    [note] = [note for note in tuned.notes if "converge" in note]
    assert "did not converge in 3 iterations" in note
    assert "of 13 candidates" in note
    assert "C=" in note


def test_a_best_value_at_the_end_of_the_grid_is_noted():
    random = np.random.default_rng(0)
    X, y = random.standard_normal((80, 3)).astype(np.float32), np.arange(80) % 2
    folds = np.arange(80) // 2 % 2
    notes = {
        note
        for name in ("logreg", "ridge")
        for note in tune(find_head(name), X, y, folds, spec=HeadSpec(name)).notes
        if "end of the range tried" in note
    }
    for name in ("logreg", "ridge"):
        tuned = tune(find_head(name), X, y, folds, spec=HeadSpec(name))
        at_end = tuned.best.strength in (0, max(c.strength for c in tuned.candidates))
        assert at_end == any(note.startswith(name) for note in notes)


def test_neighbours_never_outnumber_the_items(digits):
    X, y, folds = (array[:45] for array in digits)
    tuned = tune(find_head("knn"), X, y, folds, spec=HeadSpec("knn"))
    assert max(c.params["n_neighbors"] for c in tuned.candidates) == 20
    with pytest.raises(DataError, match="n_neighbors=31, but a fold leaves 30 items"):
        tune(find_head("knn"), X, y, folds, spec=HeadSpec("knn", {"n_neighbors": 31}))


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        (HeadSpec("logreg", {"c": 1}), UnknownNameError),
        (HeadSpec("logreg", {"C": 0}), UsageError),
        (HeadSpec("logreg", scaling="minmax"), UnknownNameError),
    ],
)
def test_a_spec_that_does_not_fit_is_refused_before_any_fit(spec, error, digits):
    with pytest.raises(error):
        plan_candidates(find_head("logreg"), FeatureRows(digits[0]), spec, 100)


def test_candidates_are_plain_values(digits):
    tuned = tune(find_head("knn"), *digits, spec=HeadSpec("knn"))
    rows = json.loads(json.dumps([candidate.to_dict() for candidate in tuned.candidates]))
    assert rows[0]["params"] == {"n_neighbors": 50}
    assert str(tuned.candidates[0]) == "n_neighbors=50 scaling=none"


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 20))
def test_the_temperature_undoes_a_factor(factor):
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (3000, 4))
    y = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)  # softmax(logits) are the true probabilities
    assert fit_temperature(logits * factor, y) == pytest.approx(1 / factor, rel=0.1)


def test_the_temperature_is_that_of_scikit_learn(digits):
    X, y, folds = digits
    splits = list(PredefinedSplit(folds).split())
    model = CalibratedClassifierCV(SVC(), method="temperature", ensemble=False, cv=splits).fit(X, y)
    scores = cross_val_predict(SVC(), X, y, cv=splits, method="decision_function")
    theirs = model.calibrated_classifiers_[0].calibrators[0].beta_
    assert fit_temperature(scores, y) == pytest.approx(float(theirs), rel=1e-3)  # ours sums float32 exponentials


def test_balanced_classes_are_tuned_by_balanced_accuracy():
    random = np.random.default_rng(0)
    y = (random.random(600) < 0.08).astype(int)
    X = (random.standard_normal((600, 20)) + 0.6 * y[:, None]).astype(np.float32)
    folds = np.arange(600) % 3
    tuned = tune(find_head("logreg"), X, y, folds, spec=HeadSpec("logreg", {"class_weight": "balanced"}, "standard"))
    assert tuned.best.balanced_accuracy == max(candidate.balanced_accuracy for candidate in tuned.candidates)
    recalls = [(tuned.predictions[y == k] == k).mean() for k in (0, 1)]
    assert tuned.best.balanced_accuracy == pytest.approx(np.mean(recalls))


def test_a_feature_that_varies_only_in_what_is_held_out_changes_no_scale():
    random = np.random.default_rng(0)
    X, y, folds = random.standard_normal((90, 5)).astype(np.float32), np.arange(90) % 2, np.arange(90) // 30
    X[:, 0] = np.where(folds == 0, random.standard_normal(90), 0)
    X[:, 1] += 2 * y
    for name in ("logreg", "lda", "ridge", "knn"):
        tuned = tune(find_head(name), X, y, folds, spec=HeadSpec(name, scaling="standard"))
        assert tuned.best.accuracy > 0.6, name
        assert np.abs(tuned.scores[np.isfinite(tuned.scores)]).max() < 100, name
