"""Every sweep is compared with scikit-learn fitted once per candidate and fold."""

import numpy as np
import pytest
from scipy import special
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier, RidgeClassifierCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC, LinearSVC

from featx.heads import find_head, sweeps
from featx.heads.fitting import split_folds
from featx.heads.rows import FeatureRows
from featx.heads.scaling import make_scaler
from featx.heads.sweeps import Problem, score_items

SCALINGS = ["none", "standard", "l2"]


class Counter:
    """Counts fits, and keeps what is reported."""

    def __init__(self):
        self.fits, self.reports, self.offers = 0, [], {}

    def advance(self):
        self.fits += 1

    def report(self, number, warning):
        self.reports.append((number, warning))


def pose(data, n_classes=None, units=None):
    X, y, folds = data
    kept = y < (n_classes or y.max() + 1)
    X, y, folds = X[kept], y[kept], folds[kept]
    counter = Counter()
    units = np.arange(len(y)) if units is None else units
    rows, splits = FeatureRows(X), split_folds(folds, y)
    return Problem(
        rows, y, splits, units, y.max() + 1, 0, counter.advance, counter.report, counter.offers.__setitem__
    ), counter


def sweep(name, problem, candidates, scaling="none"):
    head = find_head(name)
    return [scores.copy() for scores in head.sweep(head.build, candidates, scaling, problem)]


def fit_each(model, problem, scaling):
    """Fit scikit-learn's pipeline on each fold, in float64; yield it with the items to score."""
    for train, held in problem.splits:
        pipeline = make_pipeline(make_scaler(scaling), clone(model))
        yield pipeline.fit(problem.X[train].astype(np.float64), problem.positions[train]), held


def as_columns(margins):
    return np.stack([np.zeros_like(margins), margins], axis=1) if margins.ndim == 1 else margins


@pytest.fixture(params=["digits", "wide"])
def data(request):
    X, y, folds = request.getfixturevalue(request.param)
    # Not all of `wide`, for which liblinear takes up to a minute.
    return (X[:120, :200], y[:120], folds[:120]) if request.param == "wide" else (X, y, folds)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_path_of_linear_support_vector_machines(data, n_classes, scaling, class_weight):
    problem, counter = pose(data, n_classes)
    values = [1e-4, 1e-2, 1e0] if scaling != "l2" else [1e-1, 1e1, 1e3]
    swept = sweep("linear-svm", problem, [{"C": C, "class_weight": class_weight} for C in values], scaling)
    assert counter.fits == len(values) * len(problem.splits)
    assert not counter.reports
    for C, scores in zip(values, swept, strict=True):
        reference = LinearSVC(C=C, class_weight=class_weight, dual=False, tol=1e-8, max_iter=100_000)
        for model, held in fit_each(reference, problem, scaling):
            expected = as_columns(model.decision_function(problem.X[held].astype(np.float64)))
            np.testing.assert_allclose(scores[held], expected, atol=3e-2 * np.abs(expected).max())
            assert (scores[held].argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.98


@pytest.mark.parametrize("kept", [[0, 1, 3], [0, 3]])
@pytest.mark.parametrize("name", ["linear-svm", "svm"])
def test_a_class_that_a_fold_lacks_is_never_chosen(digits, name, kept):
    X, y, _ = digits
    X, y = X[y < 4], y[y < 4]
    folds = np.where(np.isin(y, kept), np.arange(len(y)) % 2, 0)
    problem, _ = pose((X, y, folds))
    [scores] = sweep(name, problem, [{"C": 1.0}], "standard")
    held = folds == 0
    absent = np.setdiff1d(np.arange(4), kept)
    assert np.isneginf(scores[np.ix_(held, absent)]).all()
    assert np.isfinite(scores[np.ix_(held, kept)]).all()
    assert np.isfinite(scores[~held]).all()
    assert (scores[held].argmax(axis=1) == y[held])[np.isin(y[held], kept)].mean() > 0.9


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("fixed", [{}, {"gamma": 1e-2, "class_weight": "balanced"}])
def test_a_shared_kernel_decides_as_one_computed_for_each_fit(data, n_classes, scaling, fixed):
    problem, counter = pose(data, n_classes)
    values = [1e-1, 1e1]
    swept = sweep("svm", problem, [{"C": C, **fixed} for C in values], scaling)
    assert counter.fits == len(values) * len(problem.splits)
    for C, scores in zip(values, swept, strict=True):
        reference = SVC(C=C, **{"gamma": "scale", **fixed})
        for model, held in fit_each(reference, problem, scaling):
            expected = score_items(model[-1], model[:-1].transform(problem.X[held].astype(np.float64)), n_classes)
            np.testing.assert_allclose(scores[held], expected, atol=1e-2)
            np.testing.assert_array_equal(scores[held].argmax(axis=1), expected.argmax(axis=1))


def test_a_kernel_that_needs_too_much_memory_is_not_shared(digits, monkeypatch):
    problem, _ = pose(digits)
    shared = sweep("svm", problem, [{"C": 1.0}], "standard")
    monkeypatch.setattr(sweeps, "_KERNEL_BYTES", 1_000)
    monkeypatch.setattr(sweeps, "compute_kernel", None)
    np.testing.assert_allclose(shared, sweep("svm", problem, [{"C": 1.0}], "standard"), atol=1e-2)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_path_of_logistic_regression(data, n_classes, scaling, class_weight):
    problem, counter = pose(data, n_classes)
    values = [1e-3, 1e-2, 1e-1] if scaling != "l2" else [1e-1, 1e0, 1e1]
    candidates = [{"C": C, "tol": 1e-6, "class_weight": class_weight} for C in values]
    swept = sweep("logreg", problem, candidates, scaling)
    assert counter.fits == len(values) * len(problem.splits)
    assert not counter.reports
    for C, scores in zip(values, swept, strict=True):
        reference = LogisticRegression(C=C, max_iter=5000, tol=1e-8, class_weight=class_weight)
        for model, held in fit_each(reference, problem, scaling):
            expected = model.predict_proba(problem.X[held].astype(np.float64))
            np.testing.assert_allclose(np.exp(scores[held]), expected, atol=2e-3)


def test_a_path_that_is_cut_short_is_reported(digits):
    problem, counter = pose(digits)
    sweep("logreg", problem, [{"C": 1e-3, "max_iter": 2}, {"C": 1e3, "max_iter": 2}])
    assert {number for number, _ in counter.reports} == {0, 1}


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_ridge_leaves_out_every_unit(data, n_classes, class_weight, scaling):
    """Against a regression fitted without the unit; its scaling and weights are those of all items."""
    problem, _ = pose(data, n_classes)
    units = np.arange(len(problem.positions))
    units[:20] = units[:20] // 4  # five units of four
    problem, _ = pose(data, n_classes, units)
    values = [1e4, 1e2, 1e1] if scaling == "none" else [1e2, 1e1, 1e0]
    swept = sweep("ridge", problem, [{"alpha": alpha, "class_weight": class_weight} for alpha in values], scaling)
    X, y = problem.X[:].astype(np.float64), problem.positions
    X = X if scaling == "none" else make_scaler(scaling).fit_transform(X)
    weights = np.ones(len(y)) if class_weight is None else len(y) / n_classes / np.bincount(y)[y]
    for unit in (0, 3, units[21], units[-1]):
        kept = units != unit
        for alpha, scores in zip(values, swept, strict=True):
            model = RidgeClassifier(alpha).fit(X[kept], y[kept], weights[kept])
            np.testing.assert_allclose(scores[~kept], as_columns(model.decision_function(X[~kept])), atol=2e-4)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize(
    ("name", "candidates"),
    [("ridge", [{"alpha": 1e3}, {"alpha": 1e1}]), ("lda", [{"shrinkage": 0.9}, {"shrinkage": 0.1}])],
)
def test_what_a_sweep_offers_is_the_fitted_head(name, candidates, data, scaling):
    problem, counter = pose(data)
    sweep(name, problem, candidates, scaling)
    for number, params in enumerate(candidates):
        if number not in counter.offers:  # fewer items than features: each fold was rotated for itself
            assert problem.X.shape[0] < problem.X.shape[1]
            continue
        offered = counter.offers[number]()
        fitted = find_head(name).build(params, 0, scaling).fit(problem.X, problem.positions)
        expected = fitted.decision_function(problem.X)
        np.testing.assert_allclose(offered.decision_function(problem.X), expected, atol=1e-5 * np.ptp(expected))
        np.testing.assert_array_equal(offered.classes_, fitted.classes_)


def test_leaving_out_one_is_what_scikit_learn_does(digits):
    problem, _ = pose(digits)
    values = [1e3, 1e2, 1e1]
    swept = sweep("ridge", problem, [{"alpha": alpha} for alpha in values])
    theirs = RidgeClassifierCV(values, store_cv_results=True).fit(problem.X[:].astype(np.float64), problem.positions)
    targets = np.where(problem.positions[:, None] == np.arange(10), 1, -1)
    errors = np.stack([(targets - scores) ** 2 for scores in swept], axis=2)
    np.testing.assert_allclose(errors, theirs.cv_results_, atol=1e-3)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_discriminants_from_one_covariance(data, scaling):
    problem, _ = pose(data)
    values = [1.0, 0.6, 0.1, 0.01]
    swept = sweep("lda", problem, [{"shrinkage": s} for s in values], scaling)
    for shrinkage, scores in zip(values, swept, strict=True):
        reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
        for model, held in fit_each(reference, problem, scaling):
            expected = model.predict_proba(problem.X[held].astype(np.float64))
            np.testing.assert_allclose(special.softmax(scores[held], axis=1), expected, atol=1e-3)


@pytest.mark.parametrize("scaling", ["none", "standard"])
@pytest.mark.parametrize("weights", ["temperature", "distance", "uniform"])
def test_neighbours_from_one_search(data, weights, scaling):
    X, y, folds = data
    X = np.concatenate([X, X[:3]])  # the last three have a neighbour at distance 0
    problem, _ = pose((X, np.append(y, y[:3]), np.append(folds, (folds[:3] + 1) % 3)))
    values = [20, 5, 1]
    swept = sweep("knn", problem, [{"n_neighbors": k, "weights": weights} for k in values], scaling)
    theirs = {"temperature": lambda distances: np.exp((1 - distances) / 0.07)}.get(weights, weights)
    for k, scores in zip(values, swept, strict=True):
        reference = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=theirs)
        for model, held in fit_each(reference, problem, scaling):
            expected = model.predict_proba(problem.X[held].astype(np.float64))
            near = model[-1].kneighbors(
                model[0].transform(problem.X[held].astype(np.float64)) if scaling != "none" else problem.X[held]
            )[0]
            apart = near[:, 0] > 1e-6  # at distance 0 rounding decides how many votes are counted
            np.testing.assert_allclose(np.exp(scores[held])[apart], expected[apart], atol=2e-3)
            np.testing.assert_array_equal(scores[held][~apart].argmax(axis=1), expected[~apart].argmax(axis=1))


@pytest.mark.parametrize("name", ["logreg", "ridge", "svm", "knn", "lda", "naive-bayes"])
def test_a_class_that_was_not_trained_on_is_never_chosen(name, digits):
    X, y, _ = digits
    problem, _ = pose(
        (X, y, np.where(y == 4, 0, 1 + np.arange(len(y)) % 2)), units=np.where(y == 4, 0, 1 + np.arange(len(y)))
    )
    params = {parameter: values[0] for parameter, values in find_head(name).grid.items()}
    [scores] = sweep(name, problem, [params])
    assert scores.shape == (len(y), 10)
    assert not (scores[y == 4].argmax(axis=1) == 4).any()


def test_scores_are_log_probabilities_where_there_are_any(digits):
    X, y, folds = digits
    forest = find_head("random-forest").build({"n_estimators": 5}).fit(X[folds > 0], y[folds > 0])
    scores = score_items(forest, X[folds == 0], 10)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(np.exp(scores), forest.predict_proba(X[folds == 0]), atol=1e-9)


@pytest.mark.parametrize("name", ["logreg", "ridge", "lda", "knn", "linear-svm"])
@pytest.mark.parametrize("scaling", ["none", "standard"])
def test_held_out_scores_are_in_the_units_of_the_fitted_head(name, scaling, wide):
    """A calibrator is fitted on the same kind of scores that it maps afterwards."""
    for n_classes in (2, 4):
        problem, _ = pose(wide, n_classes)
        head = find_head(name)
        params = {parameter: values[2] for parameter, values in head.grid.items()}
        if name == "ridge":  # what is left out is an item, so leave out what the first fold holds
            held = problem.splits[0][1]
            units = np.arange(len(problem.positions))
            units[held] = held[0]
            problem, _ = pose(wide, n_classes, units)
            params["alpha"] = 1e3
        [scores] = sweep(name, problem, [params], scaling)
        train, held = problem.splits[0]
        model = head.build(params, 0, scaling).fit(problem.X[train], problem.positions[train])
        expected = score_items(model, problem.X[held], n_classes)
        np.testing.assert_allclose(scores[held], expected, atol=0.05 * np.ptp(expected))


def test_a_forest_leaves_each_item_out_of_the_trees_that_drew_it(digits):
    problem, counter = pose(digits)
    [scores] = sweep("random-forest", problem, [{"n_estimators": 100}])
    forest = RandomForestClassifier(100, random_state=0, oob_score=True).fit(digits[0], digits[1])
    np.testing.assert_allclose(np.exp(scores), forest.oob_decision_function_, atol=1e-6)
    assert counter.fits == 3
    offered = counter.offers[0]()
    plain = RandomForestClassifier(100, random_state=0).fit(digits[0], digits[1])
    np.testing.assert_array_equal(offered.predict_proba(digits[0]), plain.predict_proba(digits[0]))
    assert vars(offered).keys() == vars(plain).keys()


@pytest.mark.parametrize(
    ("units", "trees", "scaling"), [("pairs", 100, "none"), ("single", 99, "none"), ("single", 100, "l2")]
)
def test_a_forest_uses_the_folds_for_units_few_trees_and_a_scaling(digits, units, trees, scaling):
    problem, counter = pose(digits, units=np.arange(len(digits[1])) // (2 if units == "pairs" else 1))
    [scores] = sweep("random-forest", problem, [{"n_estimators": trees}], scaling)
    for train, held in problem.splits[:1]:
        pipeline = make_pipeline(make_scaler(scaling), RandomForestClassifier(trees, random_state=0))
        expected = pipeline.fit(digits[0][train], digits[1][train]).predict_proba(digits[0][held])
        np.testing.assert_allclose(np.exp(scores[held]), expected, atol=1e-6)
    assert not counter.offers
