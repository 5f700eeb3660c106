import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import GridSearchCV, PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.class_weight import compute_sample_weight

from featx.errors import DataError, UnknownNameError, UsageError
from featx.heads import find_head, tune
from featx.heads.calibration import fit_temperature
from featx.heads.rows import FeatureRows
from featx.heads.tuning import Entry, Shortlist, measure_accuracy, plan_candidates
from featx.results import Candidate
from featx.specs import HeadSpec


def choose_again(tuned, n_items, tolerance=1):
    """Apply the rule to the table of candidates."""
    best = max(c.accuracy for c in tuned.candidates)
    least = best - tolerance * np.sqrt(best * (1 - best) / (n_items - 1)) - 1e-9
    close = [c for c in tuned.candidates if c.accuracy >= least]
    good = [c for c in close if c.log_loss <= min(c.log_loss for c in close) + 0.01]
    return min(good, key=lambda c: (c.strength, c.log_loss))


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


def test_held_out_predictions_are_those_of_the_chosen_candidate(digits):
    X, y, folds = digits
    tuned = tune(find_head("logreg"), X, y, folds, spec=HeadSpec("logreg"))
    model = make_pipeline(StandardScaler(), find_head("logreg").build({"C": 0.1, "tol": 1e-6}))
    spec = HeadSpec("logreg", {"C": 0.1, "tol": 1e-6}, "standard", calibration="none")
    fixed = tune(find_head("logreg"), X, y, folds, spec=spec)
    expected = cross_val_predict(model, X, y, cv=PredefinedSplit(folds), method="predict_proba")
    np.testing.assert_allclose(fixed.probabilities, expected, atol=5e-3)
    assert len(fixed.candidates) == 1
    assert len(tuned.candidates) == 39
    assert tuned.best.accuracy == np.mean(tuned.predictions == y)
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


def test_equals_go_to_the_stronger_regularisation_unless_a_weaker_one_has_a_lower_log_loss():
    y = np.arange(60) % 2
    X = np.random.default_rng(0).normal(0, 0.1, (60, 5)).astype(np.float32)
    X[:, 0] += y  # every candidate is right about every item
    folds = np.arange(60) // 2 % 3
    logreg = tune(find_head("logreg"), X, y, folds, spec=HeadSpec("logreg"))
    assert logreg.best.accuracy == 1
    assert set(logreg.params) == {"tol", "C"}
    assert logreg.best == choose_again(logreg, len(y))
    ridge = tune(find_head("ridge"), X, y, folds, spec=HeadSpec("ridge"))
    assert ridge.best == choose_again(ridge, len(y))
    assert ridge.best.strength == min(c.strength for c in ridge.candidates if c.accuracy == 1)
    copied = replace(find_head("svm"), grid={"C": (1.0, 1.0)}, scalings=("none", "none"))
    assert tune(copied, X, y, folds, spec=HeadSpec("svm")).best.strength == 0


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


@pytest.mark.parametrize(
    ("name", "grid", "advice"),
    [
        (
            "logreg",
            {"C": (1e-4, 1e-2)},
            "C=0.0001 was chosen and is the last of the values tried; also try --param C=0.01",
        ),
        ("logreg", {"C": (1e2, 1e4)}, "C=1 was chosen and is the last of the values tried; also try --param C=0.01"),
        (
            "ridge",
            {"alpha": (1e-2, 1e-6)},
            "alpha=1 was chosen and is the last of the values tried; also try --param alpha=10000",
        ),
    ],
)
def test_a_value_at_the_end_of_the_grid_is_noted_with_one_beyond_it(name, grid, advice, digits):
    head = replace(find_head(name), grid=grid)
    notes = tune(head, *digits, spec=HeadSpec(name, scaling="standard")).notes
    [note] = [note for note in notes if "last of the values tried" in note]
    assert note.startswith(f"{name} ")
    assert advice in note


@pytest.mark.parametrize("name", ["logreg", "ridge"])
def test_the_end_of_the_grid_is_not_noted_if_more_of_the_same_gains_nothing(name):
    random = np.random.default_rng(0)
    X, y = random.standard_normal((80, 3)).astype(np.float32), np.arange(80) % 2  # nothing to find
    head = replace(
        find_head(name), grid={next(iter(find_head(name).grid)): {"logreg": (1e-6, 1e-5), "ridge": (1e9, 1e8)}[name]}
    )
    tuned = tune(head, X, y, np.arange(80) // 2 % 2, spec=HeadSpec(name))
    assert tuned.best.strength == 0
    assert not [note for note in tuned.notes if "last of the values tried" in note]


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


@pytest.mark.parametrize("name", ["logreg", "ridge", "lda", "knn", "svm", "naive-bayes"])
@pytest.mark.parametrize("noise", [0.1, 6, 20])
def test_the_lowest_log_loss_is_chosen_among_candidates_of_about_the_best_accuracy(name, noise, digits):
    X, y, folds = (array[:200] for array in digits)
    X = X + np.random.default_rng(0).normal(0, noise, X.shape).astype(np.float32)
    tuned = tune(find_head(name), X, y, folds, spec=HeadSpec(name))
    assert tuned.best == choose_again(tuned, len(y))
    most_accurate = [c for c in tuned.candidates if c.accuracy == max(c.accuracy for c in tuned.candidates)]
    assert tuned.best.log_loss <= min(c.log_loss for c in most_accurate) + 0.01


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_the_rule_holds_for_any_scores(data):
    n_items, n_candidates = data.draw(st.integers(6, 30)), data.draw(st.integers(1, 6))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    y = np.arange(n_items) % 3
    steepness = 10.0 ** random.uniform(-1, 2, n_candidates)
    made = steepness[:, None, None] * (random.normal(size=(n_candidates, n_items, 3)) + np.eye(3)[y])
    made[random.random(made.shape) < 0.1] = -np.inf
    made[..., 0] = np.where(np.isfinite(made).any(axis=2), made[..., 0], 0)
    head = replace(
        find_head("svm"),
        calibrated=data.draw(st.booleans()),
        grid={"C": tuple(range(1, n_candidates + 1))},
        scalings=("none",),
        sweep=lambda *_: iter(made.astype(np.float32)),
    )
    X, folds = y[:, None], np.arange(n_items) // 3 % 2
    spec = HeadSpec("svm", calibration="temperature")
    tuned = tune(head, X, y, folds, spec=spec)
    assert tuned.best == choose_again(tuned, n_items)
    np.testing.assert_array_equal(tuned.scores, made[tuned.best.strength].astype(np.float32))
    by_accuracy = tune(replace(head, tolerance=0), X, y, folds, spec=spec)
    assert by_accuracy.best == choose_again(by_accuracy, n_items, tolerance=0)


def test_the_log_loss_is_that_of_the_probabilities_the_head_will_have(digits):
    X, y, folds = (array[:200] for array in digits)
    for calibration in ("none", "temperature", None):
        tuned = tune(find_head("lda"), X, y, folds, spec=HeadSpec("lda", calibration=calibration))
        assert tuned.best == choose_again(tuned, len(y))
        if calibration:
            own = tuned.probabilities[np.arange(200), y]
            assert tuned.best.log_loss == pytest.approx(-np.log(np.maximum(own, 1e-12)).mean(), rel=1e-4)


@pytest.mark.parametrize("first", [0, 60, 120])
def test_separable_classes_do_not_take_the_weakest_penalty(first, wide):
    X, y, folds = (array[first : first + 120] for array in wide)
    tuned = tune(find_head("logreg"), X, y, folds, spec=HeadSpec("logreg"))
    assert tuned.best.accuracy == 1
    assert tuned.best.strength < max(c.strength for c in tuned.candidates)
    assert tuned.best.log_loss <= min(c.log_loss for c in tuned.candidates) + 0.01


FIGURES = st.tuples(
    st.sampled_from([0.85, 0.885, 0.89, 0.9, 0.901]),
    st.sampled_from([0.0, 0.005, 0.01, 0.02, 0.05]),
    st.sampled_from([0.3, 0.305, 0.5, 0.505, 0.52, 0.6]),
    st.integers(0, 4),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(FIGURES, min_size=1, max_size=6), st.randoms())
def test_the_choice_does_not_depend_on_the_order_of_the_candidates(figures, random):
    close = [one for one in figures if one[0] >= max(other[0] - other[1] for other in figures) - 1e-9]
    good = [one for one in close if one[2] <= min(other[2] for other in close) + 0.01]
    expected = min(good, key=lambda one: (one[3], one[2], -one[0]))
    for _ in range(6):
        random.shuffle(figures)
        shortlist = Shortlist(1.0)
        for figure in figures:
            accuracy, error, loss, strength = figure
            scores = np.array([figure], np.float32)
            shortlist.add(Entry(Candidate({}, "none", strength), accuracy, error, loss, scores))
            scores[:] = np.nan  # a sweep uses the array again
        chosen = shortlist.choose()
        assert (chosen.accuracy, chosen.log_loss, chosen.candidate.strength) == (expected[0], expected[2], expected[3])
        assert chosen.scores[0, [0, 2]] == pytest.approx([expected[0], expected[2]])


def test_an_accuracy_that_is_known_badly_does_not_make_more_candidates_close():
    rows = {"a": (0.900, 0.01, 0.50), "b": (0.885, 0.01, 0.30), "c": (0.901, 0.02, 0.60)}
    for order in ("abc", "cba", "bca", "cab", "acb", "bac"):
        shortlist = Shortlist(1.0)
        for strength, name in enumerate(order):
            shortlist.add(Entry(Candidate({"name": name}, "none", strength), *rows[name], np.zeros((1, 2), np.float32)))
        assert shortlist.choose().candidate.params == {"name": "a"}


def test_the_standard_error_of_plain_accuracy_is_that_of_a_mean():
    right = np.arange(50) < 41
    accuracy, error = measure_accuracy(right, np.ones(50), np.arange(50) % 3, np.arange(50))
    assert (accuracy, error) == pytest.approx((0.82, right.std(ddof=1) / np.sqrt(50)))


def test_the_standard_error_of_balanced_accuracy_is_that_of_a_mean_of_recalls():
    y = np.repeat([0, 1, 2], [900, 90, 10])
    right = np.concatenate([np.arange(n) < share * n for n, share in ((900, 0.99), (90, 0.8), (10, 0.3))])
    accuracy, error = measure_accuracy(right, compute_sample_weight("balanced", y), y, np.arange(1000))
    recalls = [right[y == k] for k in range(3)]
    assert accuracy == pytest.approx(np.mean([recall.mean() for recall in recalls]))
    assert error == pytest.approx(np.sqrt(sum(recall.var(ddof=1) / recall.size for recall in recalls)) / 3)


def test_the_standard_error_of_balanced_accuracy_agrees_with_a_bootstrap_of_units():
    random = np.random.default_rng(0)
    units = np.arange(800) // 8
    y = (random.permutation(100) % 4 == 0).astype(int)[units]
    right = random.random(800) < np.where(y, 0.5, 0.95) + random.uniform(-0.3, 0.05, 100)[units]
    drawn = random.multinomial(100, np.full(100, 0.01), size=4000)[:, units]
    by_class = [(drawn[:, y == k] @ right[y == k]) / drawn[:, y == k].sum(axis=1) for k in (0, 1)]
    _, error = measure_accuracy(right, compute_sample_weight("balanced", y), y, units)
    assert error == pytest.approx(np.mean(by_class, axis=0).std(), rel=0.05)


def test_a_few_items_more_do_not_buy_a_steep_head():
    """As on 736 photos of flowers: 0.861 right with C=10,000 and 0.853 with C=100, with log-losses of 0.51 and 0.41."""
    y = np.arange(736) % 5
    random = np.random.default_rng(0)
    soft = 2 * (random.normal(size=(736, 5)) + 2 * np.eye(5)[y])  # the true log-odds
    steep = 5 * soft
    wrong = np.flatnonzero(soft.argmax(axis=1) != y)[:6]
    steep[wrong] = 5 * np.eye(5)[y[wrong]]
    scores = special.log_softmax(np.stack([soft, steep]), axis=2).astype(np.float32)
    head = replace(find_head("logreg"), grid={"C": (1, 100)}, scalings=("none",), sweep=lambda *_: iter(scores))
    folds, spec = np.arange(736) // 5 % 3, HeadSpec("logreg")
    by_accuracy = tune(replace(head, tolerance=0), y[:, None], y, folds, spec=spec).best
    tuned = tune(head, y[:, None], y, folds, spec=spec).best
    assert by_accuracy.accuracy - tuned.accuracy == pytest.approx(6 / 736)
    assert (by_accuracy.strength, tuned.strength) == (1, 0)
    assert by_accuracy.log_loss > 1.2 * tuned.log_loss


def test_items_of_one_unit_count_as_one_in_the_standard_error():
    y = np.arange(64) % 2
    units = np.arange(64) // 16
    steep = np.where(np.eye(2)[y] > 0, 0.0, -20.0)
    steep[units == 3] = steep[units == 3][:, ::-1]  # one unit of four is wrong
    soft = steep / 20
    soft[:2] = soft[:2, ::-1]  # two more items are wrong
    soft[16:20] = soft[16:20, ::-1]
    soft[32:36] = soft[32:36, ::-1]
    head = replace(
        find_head("hist-gb"),
        params={"max_iter": int},
        grid={"max_iter": (1, 2)},
        sweep=lambda *_: iter(np.stack([soft, steep]).astype(np.float32)),
    )
    folds, X = np.arange(64) // 32, y[:, None]
    chosen = [tune(head, X, y, folds, spec=HeadSpec("hist-gb"), units=given).best.strength for given in (None, units)]
    assert chosen == [1, 0]


def test_balanced_classes_are_tuned_by_balanced_accuracy_and_log_loss():
    random = np.random.default_rng(0)
    y = (random.random(600) < 0.08).astype(int)
    X = (random.standard_normal((600, 20)) + 0.6 * y[:, None]).astype(np.float32)
    folds = np.arange(600) % 3
    spec = HeadSpec("logreg", {"class_weight": "balanced"}, "standard")
    by_accuracy = tune(replace(find_head("logreg"), tolerance=0), X, y, folds, spec=spec)
    assert by_accuracy.best.balanced_accuracy == max(c.balanced_accuracy for c in by_accuracy.candidates)
    recalls = [(by_accuracy.predictions[y == k] == k).mean() for k in (0, 1)]
    assert by_accuracy.best.balanced_accuracy == pytest.approx(np.mean(recalls))
    tuned = tune(find_head("logreg"), X, y, folds, spec=spec)
    losses = -tuned.scores[np.arange(600), y]
    assert tuned.best.log_loss == pytest.approx(np.mean([losses[y == k].mean() for k in (0, 1)]), rel=1e-5)
    assert tuned.best.log_loss <= by_accuracy.best.log_loss
    assert tuned.best.balanced_accuracy > by_accuracy.best.balanced_accuracy - 0.03


def test_a_class_that_a_fold_lacks_does_not_break_the_choice():
    random = np.random.default_rng(0)
    y = np.r_[np.arange(60) % 2, [2, 2, 2]]
    X = (random.standard_normal((63, 8)) + 2 * np.eye(8)[y]).astype(np.float32)
    folds = np.r_[np.arange(60) // 2 % 3, [1, 1, 1]]
    for name in ("logreg", "ridge", "lda", "knn"):
        tuned = tune(find_head(name), X, y, folds, spec=HeadSpec(name))
        assert tuned.single_fold == (2,)
        assert all(np.isfinite(c.log_loss) for c in tuned.candidates)
        assert tuned.best == choose_again(tuned, len(y))


def test_a_feature_that_varies_only_in_what_is_held_out_changes_no_scale():
    random = np.random.default_rng(0)
    X, y, folds = random.standard_normal((90, 5)).astype(np.float32), np.arange(90) % 2, np.arange(90) // 30
    X[:, 0] = np.where(folds == 0, random.standard_normal(90), 0)
    X[:, 1] += 2 * y
    for name in ("logreg", "lda", "ridge", "knn"):
        tuned = tune(find_head(name), X, y, folds, spec=HeadSpec(name, scaling="standard"))
        assert tuned.best.accuracy > 0.6, name
        assert np.abs(tuned.scores[np.isfinite(tuned.scores)]).max() < 100, name
