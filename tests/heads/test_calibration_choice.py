import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import optimize
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info, threadpool_limits

import featx.heads.calibration_choice as choosing
from featx.evaluation import measure_reliability
from featx.heads import find_head, fit_head, fit_tuned, tune
from featx.heads.calibrated import CalibratedHead
from featx.heads.calibration import METHODS, Calibrator
from featx.heads.calibration_choice import HeldOut, choose_calibration
from featx.heads.rows import FeatureRows, TrainingRows
from featx.specs import CALIBRATIONS, HeadSpec


def hold_out(scores, positions, groups=None, n_folds=5, seed=0):
    """Deal whole groups to folds."""
    units = np.arange(len(scores)) if groups is None else groups
    folds = (np.random.default_rng(seed).permutation(units.max() + 1) % n_folds)[units]
    splits = [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in range(n_folds)]
    return HeldOut(scores.astype(np.float32), positions, splits, units, np.ones(len(scores)))


def draw(n_items, n_classes, size=1, factor=1.0, seed=0, distance=2.5):
    """Draw log-probabilities of a calibrated head, times a factor, and the classes; `size` items share a shift."""
    random = np.random.default_rng(seed)
    groups = np.arange(n_items) // size
    y = random.integers(n_classes, size=groups[-1] + 1)[groups]
    z = random.normal(size=(n_items, n_classes)) + distance * np.eye(n_classes)[y]
    if size > 1:
        z = (z + random.normal(size=(groups[-1] + 1, n_classes))[groups]) / 2
    return log_softmax(factor * log_softmax(distance * z, axis=1), axis=1), y, groups


def steepen(scores, seed=0):
    """Make a tenth of the scores eight times as steep."""
    return np.where(np.random.default_rng(seed).random((len(scores), 1)) < 0.1, 8, 1) * scores


def measure(method, scores, y, new, truth):
    """Return log-loss, Brier score and calibration error on new items."""
    return score(Calibrator(method).fit(scores, y).predict_proba(new), truth)


def score(chances, truth):
    """Return log-loss, Brier score and calibration error."""
    own = chances[np.arange(len(truth)), truth]
    gaps = chances.max(axis=1) - (chances.argmax(axis=1) == truth)
    error = np.abs(np.bincount((chances.max(axis=1) * 14.99).astype(int), weights=gaps)).sum() / len(truth)
    return -np.log(np.maximum(own, 1e-12)).mean(), ((chances**2).sum(axis=1) - 2 * own + 1).mean(), error


@pytest.mark.parametrize(("n_items", "n_classes", "size"), [(60, 2, 1), (300, 5, 1), (1000, 10, 10), (1200, 2, 5)])
def test_calibrated_probabilities_stay_as_they_are(n_items, n_classes, size):
    chosen = []
    for seed in range(5):
        scores, y, groups = draw(n_items, n_classes, size, seed=seed)
        choice = choose_calibration(hold_out(scores, y, groups), None)
        chosen.append(choice.method)
        if choice.method == "none":
            assert choice.probabilities == pytest.approx(np.exp(scores), abs=1e-5)
            assert choice.notes == ()
    assert chosen.count("none") >= 4


@pytest.mark.parametrize("factor", [3.0, 0.3])
@pytest.mark.parametrize(("n_items", "n_classes", "size"), [(500, 5, 1), (1000, 2, 1), (1000, 10, 10)])
def test_wrong_confidence_is_corrected(n_items, n_classes, size, factor):
    scores, y, groups = draw(n_items, n_classes, size, factor)
    new, truth, _ = draw(20_000, n_classes, size, factor, seed=1)
    choice = choose_calibration(hold_out(scores, y, groups), None)
    assert choice.method != "none"
    before, after = (measure(method, scores, y, new, truth) for method in ("none", choice.method))
    assert after[0] < 0.9 * before[0]
    assert after[1] < before[1]
    assert after[2] < 0.5 * before[2]
    [note] = choice.notes
    assert note.startswith(f"calibration {choice.method} is chosen by held-out items: log-loss ")


@pytest.mark.parametrize(("n_classes", "size"), [(2, 1), (5, 1), (10, 1), (5, 10)])
def test_heavy_tails_do_not_bend_all_other_probabilities(n_classes, size):
    scores, y, groups = draw(1000, n_classes, size, distance=1.5)
    new, truth, _ = draw(20_000, n_classes, size, seed=1, distance=1.5)
    scores, new = steepen(scores), steepen(new, seed=1)
    before, flat = (measure(method, scores, y, new, truth) for method in ("none", "temperature"))
    assert flat[2] > 1.5 * before[2], "the case does not show the fault"
    after = measure(choose_calibration(hold_out(scores, y, groups), None).method, scores, y, new, truth)
    assert after[0] <= before[0] * 1.001
    assert after[2] < max(1.5 * before[2], 0.02)


def make_groups(random, n_groups, size=20, dim=300):
    """Draw features with heavy tails; the items of a group share an offset and their class."""
    groups = np.arange(n_groups * size) // size
    y = (random.permutation(n_groups) % 4)[groups]
    scale = np.clip(random.standard_t(3, size=(len(y), 1)), -8, 8)
    X = scale * random.normal(size=(len(y), dim)) + 0.6 * random.normal(size=(n_groups, dim))[groups]
    return X + 6.6 * np.eye(4, dim)[y], y, groups


@pytest.mark.parametrize("shrinkage", [0.001, 0.1])
def test_a_discriminant_with_steep_tails_is_not_flattened(shrinkage):
    """With few more items than features, lda is too sure of some errors: one temperature would bend everything."""
    random = np.random.default_rng(0)
    X, y, groups = make_groups(random, 50)
    new, truth, _ = make_groups(random, 200)
    head, found = find_head("lda"), {}
    for calibration in ("none", "temperature", "auto"):
        spec = HeadSpec("lda", {"shrinkage": shrinkage}, "none", calibration=calibration)
        tuned = tune(head, X, y, groups % 3, spec=spec, units=groups)
        fitted = fit_head(head, X, y, tuned.spec, groups % 3, units=groups, held_out=(tuned.scores, y))
        found[calibration] = score(fitted.estimator.predict_proba(new), truth)
    assert found["temperature"][2] > 1.8 * found["none"][2], "the case does not show the fault"
    assert found["auto"][0] < 0.8 * found["temperature"][0] < 0.8 * found["none"][0]
    assert found["auto"][1] < 0.85 * found["temperature"][1]
    assert found["auto"][2] < 0.5 * found["temperature"][2]
    assert any("lda calibration mixture is chosen by held-out items" in note for note in tuned.notes)


@pytest.mark.parametrize("method", ["temperature", "sigmoid"])
def test_a_rise_of_the_calibration_error_is_reported(method):
    scores, y, _ = draw(2000, 5, distance=1.5)
    [note] = choose_calibration(hold_out(steepen(scores), y), method).notes
    assert note.startswith(f"calibration {method} raises the calibration error on held-out items from 0.")
    assert note.endswith("; try --calibration none")
    assert choose_calibration(hold_out(steepen(scores), y), "none").notes == ()


def test_the_calibration_error_is_that_of_an_evaluation_also_at_the_edge_of_a_bin():
    # Confidences of 5 / 15, and a little more.
    equal, first = np.zeros((40, 3)), np.tile([0.1, 0, 0], (40, 1))
    held_out = hold_out(np.concatenate([equal, first]), np.repeat([0, 1], 40))
    trial = choosing._Trial.measure(held_out, "none")
    expected = measure_reliability(trial.probabilities, held_out.positions).calibration_error
    assert trial.calibration_error == pytest.approx(expected)
    assert expected == pytest.approx((2 / 3 + np.exp(0.1) / (np.exp(0.1) + 2)) / 2)


def test_a_group_is_never_on_both_sides(monkeypatch):
    scores, y, groups = draw(300, 3, size=10, factor=3)
    numbered = scores.astype(np.float32)
    rows = {row.tobytes(): group for row, group in zip(numbered, groups, strict=True)}
    fitted, scored = [], []

    class Recorder(Calibrator):
        def fit(self, scores, positions, sample_weight=None):
            self.seen = {rows[row.tobytes()] for row in np.asarray(scores)}
            fitted.append(self.seen)
            return super().fit(scores, positions, sample_weight)

        def predict_proba(self, scores):
            scored.append((self.seen, {rows[row.tobytes()] for row in np.asarray(scores)}))
            return super().predict_proba(scores)

    monkeypatch.setattr(choosing, "Calibrator", Recorder)
    choose_calibration(hold_out(numbered, y, groups), None)
    assert len(fitted) == len(scored) == 5 * 4
    assert all(len(seen) == 24 and seen.isdisjoint(held) for seen, held in scored)


@pytest.mark.parametrize("n_items", [2, 3, 6, 11])
@pytest.mark.parametrize("margins", [False, True])
def test_tiny_data_keep_the_base(n_items, margins):
    y = np.arange(n_items) % 2
    scores = log_softmax(np.eye(2)[y] * 3 + np.random.default_rng(0).normal(size=(n_items, 2)), axis=1)
    choice = choose_calibration(hold_out(scores, y, n_folds=2), None, margins=margins)
    assert choice.method == ("temperature" if margins else "none")
    assert choice.probabilities.sum(axis=1) == pytest.approx(1)
    one = choose_calibration(hold_out(scores, y, np.zeros(n_items, int), 1), None, margins=margins)
    assert one.probabilities.sum(axis=1) == pytest.approx(1)


def test_classes_that_no_fold_was_trained_on_cannot_choose():
    scores, y = np.array([[0.0, -np.inf], [-np.inf, 0.0]] * 5), np.array([1, 0] * 5)
    assert choose_calibration(hold_out(scores, y), None).method == "none"


def test_the_choice_is_recorded_and_used_for_more_rows(digits):
    X, y, folds = digits
    head = find_head("random-forest")
    spec = HeadSpec("random-forest", {"n_estimators": 30})
    assert spec.calibration is None
    tuned = tune(head, X[:400], y[:400], folds[:400], spec=spec)
    assert tuned.spec.calibration in set(METHODS) - {"none"}
    assert any(note.startswith("random-forest calibration ") for note in tuned.notes)
    again = tune(head, X[:400], y[:400], folds[:400], spec=spec)
    assert (again.spec, (again.probabilities == tuned.probabilities).all()) == (tuned.spec, True)
    rows = TrainingRows(FeatureRows.wrap(X), y, folds, np.arange(len(y)))
    calibrated = fit_tuned(head, rows, tuned).estimator[-1]
    assert isinstance(calibrated, CalibratedHead)
    assert calibrated.calibrator_.method == tuned.spec.calibration


@pytest.mark.parametrize("name", ["ridge", "linear-svm", "svm"])
def test_margins_are_always_calibrated(name, digits):
    X, y, folds = (array[:300] for array in digits)
    tuned = tune(find_head(name), X, y, folds, spec=HeadSpec(name, scaling="none"))
    assert tuned.spec.calibration not in {None, "none"}


def test_auto_is_the_default_of_a_spec():
    assert CALIBRATIONS[0] == "auto"
    assert HeadSpec("lda", calibration="auto") == HeadSpec("lda")
    assert HeadSpec("lda", calibration="auto").digest == HeadSpec("lda").digest
    assert HeadSpec.from_dict(HeadSpec("lda", calibration="auto").to_dict()).calibration is None


@pytest.mark.parametrize("n_classes", [2, 4])
def test_biases_are_those_of_a_multinomial_regression(n_classes):
    """One factor and a constant for each class: logistic regression on the difference of the scores, of two classes."""
    scores, y, _ = draw(3000, n_classes, factor=2.0)
    scores = scores + np.linspace(0, 2, n_classes)
    fitted = Calibrator("bias").fit(scores, y)
    ours = fitted.predict_proba(scores)
    assert ours.mean(axis=0) == pytest.approx(np.bincount(y) / len(y), abs=1e-3)
    if n_classes == 2:
        model = LogisticRegression(C=np.inf).fit(scores[:, 1:] - scores[:, :1], y)
        assert ours == pytest.approx(model.predict_proba(scores[:, 1:] - scores[:, :1]), abs=5e-3)
    else:
        assert np.diff(fitted.biases_) == pytest.approx(np.full(n_classes - 1, -2 / 3 / 2), abs=0.15)


def test_a_mixture_finds_its_factor_and_share():
    random = np.random.default_rng(0)
    scores, y, _ = draw(5000, 5, factor=3.0)
    wild = random.random(len(y)) < 0.05
    y = np.where(wild, random.integers(5, size=len(y)), y)
    fitted = Calibrator("mixture").fit(scores, y)
    assert fitted.factor_ == pytest.approx(1 / 3, rel=0.1)
    assert fitted.share_ == pytest.approx(0.05, abs=0.01)


def test_a_mixture_of_few_items_does_not_call_all_others_certain():
    """Where one error is confident and all other items are right, only the penalty bounds the factor."""
    scores, y, _ = draw(60, 2, distance=3.0, seed=2)
    scores[0] = -12 * np.eye(2)[y[0]]
    assert (scores.argmax(axis=1) != y).sum() == 1
    fitted = Calibrator("mixture").fit(scores, y)
    assert 0.2 < fitted.factor_ < 5
    assert 0 < fitted.share_ < 0.1


def test_the_views_of_an_item_count_once():
    random = np.random.default_rng(0)
    units = np.arange(40) // 4
    scores, positions = random.normal(size=(40, 3)), units % 3
    splits = [(np.flatnonzero(units % 2 != fold), np.flatnonzero(units % 2 == fold)) for fold in range(2)]
    kept = HeldOut(scores, positions, splits, units, np.ones(40)).keep_items(4)
    assert np.array_equal(kept.scores, scores[::4])
    assert np.array_equal(kept.units, np.arange(10))
    assert [held.tolist() for _, held in kept.splits] == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]


def test_evidence_of_unequal_weights_shows_nothing():
    positions = np.arange(60) % 2
    scores = np.stack([np.where(positions == 0, 0.5, -0.5), np.where(positions == 1, 0.5, -0.5)], axis=1)
    units = np.arange(60)
    splits = [(np.flatnonzero(units % 3 != fold), np.flatnonzero(units % 3 == fold)) for fold in range(3)]
    equal = HeldOut(scores, positions, splits, units, np.ones(60))
    weighted = HeldOut(scores, positions, splits, units, np.where(positions == 0, 1.0, 5.0))
    assert choose_calibration(equal, None).method != "none"  # thirty right of thirty are likelier than said
    assert choose_calibration(weighted, None).method == "none"  # fewer than four errors, and no likelihood to go by


def test_of_all_methods_two_keep_their_probabilities():
    scores, y, _ = draw(2000, 100, factor=1.5, distance=3.5)
    held_out = hold_out(scores, y)
    tracemalloc.start()
    choose_calibration(held_out, None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 9 * scores.nbytes  # the probabilities of the base, the best and the current one, and work on a fold


def test_fits_use_one_thread(monkeypatch):
    scores, y, _ = draw(100, 3)
    seen = []

    def spy(*arguments, **options):
        seen.append({pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"})
        return optimize.minimize(*arguments, **options)

    monkeypatch.setattr("featx.heads.calibration.optimize", SimpleNamespace(**vars(optimize) | {"minimize": spy}))
    with threadpool_limits(2):
        for method in ("bias", "sigmoid"):
            Calibrator(method).fit(scores, y)
    assert seen == [{1}] * 4
