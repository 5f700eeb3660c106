import pickle
import random

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from featx.errors import DataError, UnknownNameError, UsageError
from featx.heads import find_head, fit_head, tune
from featx.heads.architectures import Architecture, TrainingPlan, measure_loss
from featx.heads.networks import NetworkClassifier, hold_out_units
from featx.heads.rows import FeatureRows
from featx.specs import HeadSpec

pytestmark = pytest.mark.keras

PRESETS = {
    "keras": {},
    "keras:24": {"hidden": "24"},
    "keras:24-12": {"hidden": "24-12", "dropout": 0.3},
    "keras:bn": {"batch_norm": True, "dropout": 0.5},
}


def make_network(**params):
    return NetworkClassifier(**{"learning_rate": 0.01, "epochs": 4, "random_state": 0, **params})


class Spy(FeatureRows):
    """Rows that note which of them are read, how many at a time."""

    def __init__(self, features, rows=None, reads=None):
        super().__init__(features, rows)
        self.reads = [] if reads is None else reads

    def __getitem__(self, key):
        numbers = np.arange(len(self.features)) if self.rows is None else self.rows
        self.reads.append(numbers[key])
        return super().__getitem__(key)

    def __array__(self, dtype=None, copy=None):
        message = "all rows were copied"
        raise AssertionError(message)

    def take(self, rows):
        return Spy(self.features, FeatureRows(self.features, self.rows).take(rows).rows, self.reads)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks([NetworkClassifier(epochs=15, learning_rate=0.05, dropout=0.0, random_state=0)])
def test_it_is_a_classifier_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("n_classes", [2, 10])
@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("scaling", ["none", "standard", "l2"])
def test_it_answers_without_keras_what_keras_answers(name, n_classes, scaling, digits):
    X, y, _ = digits
    network = make_network(scaling=scaling, **PRESETS[name]).fit(X[:300], y[:300] % n_classes)
    answer = network.to_keras().predict(X, verbose=0)
    if n_classes == 2:
        answer = np.concatenate([1 - answer, answer], axis=1)
    np.testing.assert_allclose(network.predict_proba(X), answer, atol=1e-5)
    assert network.predict_proba(X).dtype == np.float32


def test_presets_are_the_networks_that_their_names_say():
    names = {name: [layer.__class__.__name__ for layer in build(name).layers[2:-1]] for name in PRESETS}
    assert names == {
        "keras": ["Dropout", "Dense"],
        "keras:24": ["Dropout", "Dense"] * 2,
        "keras:24-12": ["Dropout", "Dense"] * 3,
        "keras:bn": ["BatchNormalization", "Dropout", "Dense"],
    }
    assert [layer.rate for layer in build("keras:24-12").layers if layer.name.startswith("dropout")] == [0.3] * 3
    assert [layer.rate for layer in build("keras:bn").layers if layer.name.startswith("dropout")] == [0.5]
    assert [layer.units for layer in build("keras:24-12").layers if hasattr(layer, "units")] == [24, 12, 3]


def build(name):
    X, y = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32), np.arange(30) % 3
    return find_head(name).build({"epochs": 1}, 0, "standard").fit(X, y).to_keras()


def test_the_same_seed_gives_the_same_network_and_another_does_not(digits):
    X, y, _ = digits
    first, again, other = (make_network(hidden="16", random_state=seed).fit(X, y) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.predict_proba(X), again.predict_proba(X))
    assert first.history_ == again.history_
    assert not np.array_equal(first.predict_proba(X), other.predict_proba(X))


def test_no_random_state_outside_is_touched(digits):
    from featx.frameworks import tf

    X, y, _ = digits
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002 - the old generator is what is looked at
    tf.random.set_seed(3)
    before = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002 - as above
    make_network(hidden="16", batch_norm=True).fit(X[:100], y[:100])
    after = random.getstate(), np.random.get_state()[1]  # noqa: NPY002 - as above
    assert before[0] == after[0]
    np.testing.assert_array_equal(before[1], after[1])
    drawn = tf.random.uniform((3,)).numpy()
    tf.random.set_seed(3)
    np.testing.assert_array_equal(drawn, tf.random.uniform((3,)).numpy())


def test_rows_of_a_half_precision_store_are_read_a_block_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("featx.heads.network_training.BLOCK_BYTES", 64 * 4 * 32)
    monkeypatch.setattr("featx.heads.rows.BLOCK_BYTES", 64 * 4 * 32)
    monkeypatch.setattr("featx.heads.networks._KEPT_BYTES", 0)
    generator = np.random.default_rng(0)
    y = np.arange(2000) % 4
    X = (generator.standard_normal((2000, 32)) + 2 * np.eye(4, 32)[y]).astype(np.float16)
    np.save(tmp_path / "X.npy", X)
    rows = Spy(np.load(tmp_path / "X.npy", mmap_mode="r"))
    validation = np.arange(2000) % 9 == 0
    network = make_network(epochs=2).fit(rows, y, validation=validation)
    assert max(map(len, rows.reads)) <= 64
    np.testing.assert_array_equal(network.weights_[0], make_network(epochs=2).fit(X, y, validation).weights_[0])
    assert network.score(rows, y) > 0.7


def test_held_out_items_are_never_trained_on(digits):
    """Nonsense in the held-out items changes their metrics, but not the weights."""
    X, y, _ = digits
    validation = np.arange(len(X)) % 5 == 0
    honest = make_network(patience=10).fit(X, y, validation)
    spoilt = X.copy()
    spoilt[validation] = 50 * np.random.default_rng(0).standard_normal((validation.sum(), X.shape[1]))
    other = make_network(patience=10).fit(spoilt, y, validation)
    assert other.history_["loss"] == honest.history_["loss"]
    assert other.history_["val_loss"] != honest.history_["val_loss"]
    np.testing.assert_array_equal(other.scaler_.mean_, X[~validation].mean(axis=0, dtype=np.float64))


def test_the_curves_equal_the_metrics_of_scikit_learn(digits):
    X, y, _ = digits
    for n_classes in (2, 10):
        targets = y % n_classes
        validation = np.arange(len(X)) % 3 == 0
        network = make_network(epochs=1, dropout=0.0).fit(X, targets, validation)
        probabilities = network.predict_proba(X[validation]).astype(np.float64)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        truth, shown = targets[validation], {name: values[0] for name, values in network.history_.items()}
        assert shown["val_loss"] == pytest.approx(log_loss(truth, probabilities), rel=1e-4)
        assert shown["val_accuracy"] == pytest.approx(network.score(X[validation], truth))
        scores = probabilities[:, 1] if n_classes == 2 else probabilities
        assert shown["val_auc"] == pytest.approx(roc_auc_score(truth, scores, multi_class="ovr"), abs=1e-5)
        assert shown["loss"] == pytest.approx(
            log_loss(targets[~validation], network.predict_proba(X[~validation]), labels=np.unique(targets)), rel=1e-3
        )


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_training_stops_early_with_the_best_weights_and_a_lower_rate(digits):
    X, y, _ = digits
    network = make_network(hidden="64", epochs=200, patience=4, learning_rate=0.02).fit(X[:200], y[:200])
    losses, rates = network.history_["val_loss"], network.history_["learning_rate"]
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 4 < 200
    assert rates[-1] < rates[0]
    assert set(np.round(np.divide(rates[1:], rates[:-1]), 4)) <= {1.0, 0.5}
    shorter = make_network(hidden="64", epochs=best + 1, patience=4, learning_rate=0.02)
    shorter.fit(X[:200], y[:200])
    np.testing.assert_array_equal(network.predict_proba(X), shorter.predict_proba(X))


def test_an_epoch_is_the_batches_of_keras_in_the_same_order():
    """70 items in three batches of 23 or 24, filled up to 32 with rows that do not count."""
    from featx.frameworks import keras
    from featx.heads.network_training import KerasNetwork, _Steps

    generator = np.random.default_rng(0)
    X, y = generator.standard_normal((70, 6)).astype(np.float32), (np.arange(70) % 3).astype(np.int32)
    plan = TrainingPlan(
        read=X.__getitem__, targets=y, weights=generator.uniform(0, 2, 70).astype(np.float32), train=np.arange(70),
        held=np.arange(0), optimizer="adam", learning_rate=0.02, epochs=1, batch_size=32, label_smoothing=0.0,
        patience=1, random=np.random.default_rng(1), curves=False, keep=None,
    )  # fmt: skip
    architecture = Architecture((6, 8, 3), batch_norm=True, dropout=0.0)
    steps, ours = _Steps(architecture, "adam", 0.0, 32, compiled=True), KerasNetwork(architecture, 0)
    steps.start(ours.get_weights(), 0.02)
    steps.train_epoch(plan, 0.02)
    random = np.random.default_rng(1)
    random.permutation(70)
    order = random.permutation(70)
    theirs = KerasNetwork(architecture, 0).network
    theirs.compile(keras.optimizers.Adam(0.02), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for batch in np.split(order, [23, 46]):
        theirs.train_on_batch(X[batch], y[batch], plan.weights[batch])
    for mine, expected in zip(steps.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_the_loss_is_that_of_keras(n_outputs, smoothing):
    from featx.heads.network_training import make_loss

    generator = np.random.default_rng(0)
    logits = generator.normal(scale=8, size=(50, n_outputs)).astype(np.float32)
    targets = generator.integers(max(2, n_outputs), size=50).astype(np.int32)
    weights = generator.uniform(0, 2, 50).astype(np.float32)
    expected = float(make_loss(n_outputs, smoothing)(targets, logits, weights))
    assert measure_loss(logits, targets, weights, smoothing) == pytest.approx(expected, rel=1e-5)


def test_dropout_leaves_out_its_share_and_keeps_the_mean():
    from featx.heads.network_training import drop_out

    noise = np.random.default_rng(0).integers(2**16, size=(32, 400), dtype=np.uint16)
    values = np.asarray(drop_out(np.ones((32, 400), np.float32), noise, round(0.3 * 2**16)))
    assert np.mean(values == 0) == pytest.approx(0.3, abs=0.02)
    assert values.max() == pytest.approx(1 / 0.7, rel=1e-4)


def test_a_loss_that_still_falls_is_a_warning(digits):
    X, y, _ = digits
    with pytest.warns(match="fell by more than 5% in the last 2 of 4 epochs"):
        make_network(learning_rate=1e-3, patience=2).fit(X, y)


def test_label_smoothing_keeps_probabilities_from_the_ends(digits):
    X, y, _ = digits
    for n_classes in (2, 10):
        sharp, smooth = (
            make_network(epochs=30, patience=30, dropout=0.0, label_smoothing=share).fit(
                X[:60], y[:60] % n_classes, np.zeros(60, bool)
            )
            for share in (0.0, 0.2)
        )
        assert smooth.predict_proba(X[:60]).max() < sharp.predict_proba(X[:60]).max()
        assert smooth.history_["loss"][-1] > 0.3  # the entropy of the smoothed targets is a bound
        assert sharp.history_["loss"][-1] < 0.3


def test_class_weights_favour_the_rare_class():
    generator = np.random.default_rng(0)
    y = np.r_[np.zeros(190, int), np.ones(10, int)]
    X = (generator.standard_normal((200, 5)) + y[:, None]).astype(np.float32)
    plain, balanced = (make_network(epochs=20, patience=20, class_weight=w).fit(X, y) for w in (None, "balanced"))
    assert balanced.predict(X).sum() > plain.predict(X).sum()
    assert (balanced.predict(X)[y == 1] == 1).mean() > 0.6


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "sgd"])
def test_every_optimizer_trains(optimizer, digits):
    X, y, _ = digits
    assert make_network(optimizer=optimizer, epochs=10).fit(X[:300], y[:300]).score(X[300:], y[300:]) > 0.8


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_batch_larger_than_the_data_is_all_of_them(batch_norm, digits):
    X, y, _ = digits
    network = make_network(batch_size=10_000, batch_norm=batch_norm, epochs=30, patience=30).fit(X, y)
    assert network.score(X, y) > 0.8


def test_two_items_of_each_class(digits):
    X, y, _ = digits
    few = np.concatenate([np.flatnonzero(y == k)[:2] for k in range(10)])
    network = make_network(epochs=20, patience=20).fit(X[few], y[few])
    np.testing.assert_array_equal(network.classes_, np.arange(10))
    assert network.score(X, y) > 0.5
    assert "val_loss" not in network.history_


@pytest.mark.parametrize("counts", [[60, 40], [500, 30, 1], [7] * 20])
def test_a_tenth_is_held_out_and_the_last_of_a_class_never(counts):
    y = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    held = hold_out_units(y, 0)
    assert np.bincount(y[~held], minlength=len(counts)).min() >= 1
    assert abs(held.sum() - len(y) / 10) <= 1
    shares = np.bincount(y[held], minlength=len(counts)) - np.array(counts) / 10
    assert np.abs(shares).max() <= 1
    np.testing.assert_array_equal(held, hold_out_units(y, 0))
    assert not np.array_equal(held, hold_out_units(y, 1))


@pytest.mark.parametrize("counts", [[1, 1], [1] * 300, [2, 1], [45, 40]])
def test_too_few_items_are_not_held_out(counts):
    assert not hold_out_units(np.repeat(np.arange(len(counts)), counts), 0).any()


def test_items_of_one_unit_are_held_out_together():
    generator = np.random.default_rng(0)
    units = np.repeat(np.arange(80), generator.integers(1, 12, 80))
    y = units % 3
    held = hold_out_units(y, 0, units)
    assert not set(units[held]) & set(units[~held])
    assert 0.07 < held.mean() < 0.13
    coarse = np.arange(300) // 100
    held = hold_out_units(np.arange(300) % 3, 0, coarse)
    assert held.sum() == 100
    assert len(np.unique(coarse[held])) == 1
    assert not hold_out_units(coarse, 0, coarse).any()  # each unit is a whole class


def test_it_is_cloned_pickled_and_joblibbed(digits, tmp_path):
    X, y, _ = digits
    network = make_network(hidden="8").fit(X, y)
    joblib.dump(network, tmp_path / "network.joblib")
    unpickled = pickle.loads(pickle.dumps(network))  # noqa: S301 - the test wrote it
    for copy in (unpickled, joblib.load(tmp_path / "network.joblib"), clone(network).fit(X, y)):
        np.testing.assert_array_equal(copy.predict_proba(X), network.predict_proba(X))


def test_the_checkpoint_is_the_best_network(digits, tmp_path):
    from featx.frameworks import keras

    X, y, _ = digits
    path = tmp_path / "best.keras"
    network = make_network(hidden="32", epochs=30, patience=3, checkpoint=path).fit(X, y)
    assert len(network.history_["loss"]) < 30
    saved = keras.saving.load_model(path)
    np.testing.assert_allclose(saved.predict(X, verbose=0), network.predict_proba(X), atol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == ["best.keras"]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"hidden": "5,5"}, "such as 256 or 512-256"),
        ({"optimizer": "lbfgs"}, "one of adam, rmsprop, sgd"),
        ({"dropout": 1.0}, "a share from 0 to below 1"),
        ({"label_smoothing": -0.1}, "a share from 0 to below 1"),
        ({"learning_rate": 0}, "a number above 0"),
        ({"epochs": 0}, "a whole number of at least 1"),
        ({"batch_size": 2.5}, "a whole number of at least 1"),
        ({"patience": 0}, "a whole number of at least 1"),
        ({"checkpoint": "best.h5"}, "the path of a .keras file"),
    ],
)
def test_wrong_settings_are_refused(params, words, digits):
    with pytest.raises(UsageError, match=words):
        make_network(**params).fit(*digits[:2])


def test_wrong_data_are_refused(digits):
    X, y, _ = digits
    with pytest.raises(UnknownNameError, match="did you mean standard"):
        make_network(scaling="standart").fit(X, y)
    with pytest.raises(UsageError, match=r"validation is int64 \(600,\); it must be bool \(600,\)"):
        make_network().fit(X, y, np.arange(600))
    with pytest.raises(ValueError, match="one class"):
        make_network().fit(X, y, y > 0)
    with pytest.raises(ValueError, match="600 rows of features and 599 targets"):
        make_network().fit(FeatureRows.wrap(X), y[1:])
    with pytest.raises(ValueError, match="63 columns; the network was trained on 64"):
        make_network(epochs=1).fit(X, y).predict(FeatureRows.wrap(X[:, 1:]))
    with pytest.raises(DataError, match="the loss is not finite at a learning rate of 1e\\+30"):
        make_network(hidden="8", learning_rate=1e30).fit(X, y)


def test_tuning_stops_by_whole_units_of_the_items_that_a_fold_leaves(digits, monkeypatch):
    X, y, _ = digits
    units = np.arange(len(X)) // 2
    folds = units % 3
    seen = []
    fit = NetworkClassifier.fit

    def spy(self, X, y, validation=None, **more):
        seen.append((len(X), validation))
        return fit(self, X, y, validation, **more)

    monkeypatch.setattr(NetworkClassifier, "fit", spy)
    spec = HeadSpec("keras", {"learning_rate": 0.01, "epochs": 2}, calibration="none")
    tuned = tune(find_head("keras"), X, y, folds, spec=spec, units=units)
    fit_head(find_head("keras"), X, y, tuned.spec, folds, units=units)
    assert len(seen) == 4
    for (n_items, validation), fold in zip(seen, (0, 1, 2, None), strict=True):
        of_training = units[folds != fold] if fold is not None else units
        assert len(validation) == n_items == len(of_training)
        assert not set(of_training[validation]) & set(of_training[~validation])
        assert 0.08 < validation.mean() < 0.12


def test_a_calibrated_network_stops_early_by_whole_groups(monkeypatch, digits):
    X, y, folds = digits
    masks, fit = [], NetworkClassifier.fit

    def spy(self, X, y, validation=None, **more):
        masks.append(validation)
        return fit(self, X, y, validation, **more)

    monkeypatch.setattr(NetworkClassifier, "fit", spy)
    units = np.arange(len(y)) // 5
    spec = HeadSpec("keras", {"epochs": 2, "learning_rate": 1e-3}, calibration="sigmoid")
    scores = np.random.default_rng(0).standard_normal((len(y), 10))
    fit_head(find_head("keras"), X, y, spec, folds, units=units, held_out=(scores, y))
    (mask,) = masks
    assert 0 < mask.sum() < len(y) / 3
    assert not set(units[mask]) & set(units[~mask])
