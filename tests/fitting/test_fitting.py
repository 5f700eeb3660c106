import csv
import json

import numpy as np
import pytest
from head_names import ALL_HEADS
from pictures import write_digits
from sklearn.metrics import accuracy_score

import featx
from featx.errors import BundleError, StoreError, StoreFormatError, UnknownNameError, UsageError
from featx.fitting import fitting
from featx.fitting.dataset import HeldOut
from featx.heads import describe_single_fold, tuning
from featx.options import FitOptions


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    return featx.fit(store, "logreg", options=FitOptions(folder=tmp_path_factory.mktemp("runs")))


def test_a_run_reports_what_its_predictions_say(run, store):
    with (run.bundle / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == run.test.n_items
    assert accuracy_score([row["label"] for row in rows], [row["predicted"] for row in rows]) == run.test.accuracy
    labels = dict(zip(store.ids.tolist(), store.labels.tolist(), strict=True))
    assert all(labels[row["id"]] == row["label"] for row in rows)
    assert run.test.accuracy_low < run.test.accuracy <= run.test.accuracy_high
    assert run.test.accuracy > 0.8  # chance is 0.1


def test_a_run_writes_the_whole_bundle(run, store):
    names = {path.name for path in run.bundle.iterdir()}
    assert {"bundle.json", "head.skops", "golden.npz", "metrics.json", "predictions.csv", "items.csv"} <= names
    assert {"confusion_matrix.png", "confusion_matrix.svg"} <= names
    assert not [path for path in run.bundle.rglob("*") if path.suffix in {".pkl", ".joblib", ".pickle"}]
    metrics = json.loads((run.bundle / "metrics.json").read_text())
    assert metrics["test"]["accuracy"] == run.test.accuracy
    assert {"validation", "test", "head", "seconds"} <= metrics.keys()
    split = json.loads((run.bundle / "bundle.json").read_text())["record"]["split"]
    assert split == {"origin": "hold-out", "test_size": 0.2, "cv": 0, "group": "", "seed": 0}
    with (run.bundle / "items.csv").open(newline="") as file:
        roles = [row["role"] for row in csv.DictReader(file)]
    assert len(roles) == len(store)
    assert roles.count("tested") == run.test.n_items
    assert roles.count("trained") == run.n_train


def test_a_bundle_shows_the_path_and_the_reliability(run):
    for name in ("path", "reliability"):
        assert all((run.bundle / f"{name}.{kind}").stat().st_size > 100 for kind in ("png", "svg", "csv"))
    with (run.bundle / "path.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = [row for row in rows if row["scaling"] == run.head.scaling and float(row["C"]) == run.head.params["C"]]
    [best] = [one for one in run.candidates if (one.params, one.scaling) == (run.head.params, run.head.scaling)]
    assert float(chosen[0]["log_loss"]) == pytest.approx(best.log_loss)
    assert float(chosen[0]["accuracy"]) > max(float(row["accuracy"]) for row in rows) - 0.02
    with (run.bundle / "reliability.csv").open(newline="") as file:
        counts = {}
        for row in csv.DictReader(file):
            counts[row["items"]] = counts.get(row["items"], 0) + int(row["count"])
    assert counts["test"] == run.test.n_items
    assert counts["held out"] == run.n_train


@pytest.mark.parametrize("calibration", ["sigmoid", "isotonic", "none"])
def test_a_calibration_that_is_asked_for_is_used_and_recorded(store, tmp_path, calibration):
    run = featx.fit(store, "ridge", calibration=calibration, options=FitOptions(folder=tmp_path))
    assert run.head.calibration == calibration
    bundle = featx.Bundle.open(run.bundle)
    assert bundle.head_spec == run.head
    assert bundle.load_head().predict_proba(store.features).shape == (len(store), 10)


def test_balanced_classes_are_asked_of_heads_that_know_them(store):
    run = featx.fit(store, "ridge", params={"class_weight": "balanced"}, options=FitOptions(folder=None))
    assert run.head.params["class_weight"] == "balanced"
    with pytest.raises(UsageError, match="knn cannot weight classes; choose one of logreg, ridge"):
        featx.fit(store, "knn", params={"class_weight": "balanced"}, options=FitOptions(folder=None))


def test_the_same_command_gives_the_same_numbers(run, store):
    again = featx.fit(store, "logreg", options=FitOptions(folder=None))
    assert again.head == run.head
    assert again.test.to_dict() == run.test.to_dict()
    assert again.bundle is None


def test_another_seed_draws_another_test(run, store):
    other = featx.fit(store, "centroid", options=FitOptions(folder=None, seed=5))
    assert not np.array_equal(other.test.confusion.sum(axis=1), run.test.confusion.sum(axis=1))


def test_the_test_targets_are_taken_once_and_last(store, monkeypatch):
    events = []
    take = HeldOut.open_targets

    def spy(held):
        events.append("test targets")
        return take(held)

    def record(name):
        function = getattr(tuning, name)
        monkeypatch.setattr(tuning, name, lambda *args, **kwargs: (events.append(name), function(*args, **kwargs))[1])

    monkeypatch.setattr(HeldOut, "open_targets", spy)
    record("tune")
    record("fit_head")
    featx.fit(store, "ridge", options=FitOptions(folder=None))
    assert events == ["tune", "fit_head", "test targets"]


def test_shuffled_test_labels_change_nothing_but_the_test(store, monkeypatch):
    honest = featx.fit(store, "ridge", options=FitOptions(folder=None))
    take = HeldOut.open_targets
    monkeypatch.setattr(HeldOut, "open_targets", lambda held: np.roll(take(held), 7))
    shuffled = featx.fit(store, "ridge", options=FitOptions(folder=None))
    assert shuffled.head == honest.head
    assert shuffled.validation.to_dict() == honest.validation.to_dict()
    assert shuffled.test.accuracy < honest.test.accuracy


@pytest.fixture(scope="module")
def few_digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("few"), per_class=20, classes=4)


@pytest.fixture(scope="module")
def small_store(few_digits, tmp_path_factory):
    return featx.embed(few_digits, "colour", folder=tmp_path_factory.mktemp("f")).store


@pytest.mark.parametrize("clf", ALL_HEADS)
def test_every_head_fits_predicts_and_loads(clf, small_store, few_digits, tmp_path):
    run = featx.fit(small_store, clf, options=FitOptions(folder=tmp_path))
    assert run.test.accuracy > (0.7 if clf != "dummy" else 0.0)
    assert np.isfinite(run.test.log_loss)
    predictor = featx.Predictor.load(run.bundle)
    with (run.bundle / "predictions.csv").open(newline="") as file:
        expected = {row["id"]: float(row["probability"]) for row in csv.DictReader(file)}
    found = {p.path: p.probability for p in predictor.predict(featx.read_folder(few_digits)) if p.path in expected}
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.keras
def test_a_bundle_of_a_keras_head_has_its_curves_and_a_model_for_keras(small_store, tmp_path):
    from featx.frameworks import keras

    quick = {"epochs": 5, "learning_rate": "0.01"}
    run = featx.fit(small_store, "keras:16-8", params=quick, options=FitOptions(folder=tmp_path))
    assert run.head.name == "keras:16-8"
    with (run.bundle / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert 1 <= len(rows) <= 5
    assert {"epoch", "loss", "accuracy", "auc", "learning_rate"} <= set(rows[0])
    assert {"curves.png", "curves.svg", "head.keras"} <= json.loads((run.bundle / "bundle.json").read_text())[
        "files"
    ].keys()
    model = keras.saving.load_model(run.bundle / "head.keras")
    head = featx.Predictor.load(run.bundle).bundle.load_head()
    expected = head.predict_proba(small_store.features)
    np.testing.assert_allclose(model.predict(np.asarray(small_store.features), verbose=0), expected, atol=1e-5)
    (run.bundle / "head.keras").write_bytes(b"another network")
    with pytest.raises(BundleError, match=r"head\.keras differs from the file that the bundle was made with"):
        featx.Predictor.load(run.bundle)


def test_other_heads_have_no_files_for_keras(run):
    assert not list(run.bundle.glob("curves.*"))
    assert not list(run.bundle.glob("*.keras"))


def test_params_and_scaling_are_fixed_or_tuned(store):
    fixed = featx.fit(store, "knn", params={"n_neighbors": "3"}, scaling="standard", options=FitOptions(folder=None))
    assert fixed.head.params["n_neighbors"] == 3
    assert fixed.head.scaling == "standard"
    tuned = featx.fit(store, "knn", options=FitOptions(folder=None))
    assert tuned.head.params["n_neighbors"] >= 1
    assert tuned.validation.accuracy >= fixed.validation.accuracy


def test_cross_validation_tests_every_item_once(store, tmp_path):
    run = featx.fit(store, "centroid", options=FitOptions(cv=4, folder=tmp_path))
    assert run.test.n_items == len(store)
    assert run.test_name == "4-fold cross-validation"
    assert run.n_train == len(store)
    with (run.bundle / "predictions.csv").open(newline="") as file:
        assert sorted(row["id"] for row in csv.DictReader(file)) == sorted(store.ids.tolist())


def test_groups_stay_together_in_cross_validation(store, monkeypatch):
    seen = []
    predict = fitting.predict_items
    monkeypatch.setattr(
        fitting,
        "predict_items",
        lambda fitted, dataset, members: (
            seen.append((set(dataset.groups[members]), set(dataset.groups[~members]))),
            predict(fitted, dataset, members),
        )[1],
    )
    featx.fit(store, "centroid", options=FitOptions(cv=3, group=r"digit-(\d{3})", folder=None))
    assert len(seen) == 3
    assert all(not held & train for held, train in seen)


def test_a_class_of_one_image_is_trained_on_and_reported(tmp_path):
    write_digits(tmp_path / "d", per_class=12, classes=3)
    for path in sorted((tmp_path / "d" / "2").iterdir())[1:]:
        path.unlink()
    store = featx.embed(tmp_path / "d", "colour", folder=tmp_path / "f").store
    run = featx.fit(store, "logreg", options=FitOptions(folder=None))
    assert run.test.per_class[2].support == 0
    assert any("single image" in note for note in run.notes)
    assert any("class '2' is in one fold only" in note for note in run.notes)
    folded = featx.fit(store, "logreg", options=FitOptions(folder=None, cv=3))
    assert any("a single image are trained on and never tested (1 image)" in note for note in folded.notes)


def test_notes_name_classes_and_not_their_numbers():
    classes = ("cat", "dog", "eel", "fox")
    assert describe_single_fold((), classes) == []
    assert describe_single_fold((3,), classes)[0].startswith("class 'fox' is in one fold only")
    assert describe_single_fold((1, 3), classes)[0].startswith("classes 'dog', 'fox' are each in one fold only")
    (many,) = describe_single_fold(range(20), "abcdefghijklmnopqrst")
    assert "'g', 'h' and 12 more are each in one fold only" in many


def test_wrong_names_and_values_are_clear(store):
    with pytest.raises(UnknownNameError, match="did you mean logreg"):
        featx.fit(store, "logrge")
    with pytest.raises(UnknownNameError, match="C"):
        featx.fit(store, "logreg", params={"c0": "1"})
    with pytest.raises(UsageError, match="C"):
        featx.fit(store, "logreg", params={"C": "minus one"})
    with pytest.raises(StoreError, match="there is no store"):
        featx.fit("nowhere.h5")


def test_heads_are_not_fitted_on_damaged_features(digits, tmp_path):
    store = featx.embed(digits, "colour", folder=tmp_path).store
    content = bytearray(store.path.read_bytes())
    content[content.index(store.features[7].tobytes()) + 3] ^= 1
    store.path.unlink()
    store.path.write_bytes(content)
    with pytest.raises(StoreFormatError, match=r"rows 0 to \d+ of /features of .* are damaged; run `featx repair"):
        featx.fit(store.path, "ridge")


@pytest.mark.keras
def test_a_calibrated_network_has_its_curves_too(store, tmp_path):
    pytest.importorskip("keras")
    params = {"epochs": 2, "learning_rate": 1e-3}
    run = featx.fit(store, "keras", params=params, calibration="sigmoid", options=FitOptions(folder=tmp_path))
    assert {"curves.csv", "curves.png", "head.keras"} <= {path.name for path in run.bundle.iterdir()}
    assert featx.Bundle.open(run.bundle).load_head().predict_proba(store.features).shape == (len(store), 10)


@pytest.mark.parametrize("clf", ["svm", "linear-svm"])
def test_a_head_without_probabilities_can_go_without_calibration(store, clf):
    run = featx.fit(store, clf, calibration="none", options=FitOptions(folder=None))
    assert run.test.accuracy > 0.8
