"""Fine-tuning as a user sees it: the same items as `fit`, a bundle that predicts, and runs that go on."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pictures import write_digits
from reporters import Recorder
from tiny import save_network

import featx
from featx.backbones import loading
from featx.errors import DataError, StoreError, StoreLockedError, UnknownNameError, UsageError
from featx.explaining.basis import read_basis
from featx.finetuning import finetuning, loop
from featx.options import FineTuneOptions, FitOptions
from featx.reporting import SILENT
from featx.specs import FineTuneSpec, HeadSpec

pytestmark = pytest.mark.keras

FEW = {"epochs": 3, "batch_size": 16, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return f"file:{save_network(tmp_path_factory.mktemp('network') / 'tiny.keras')}"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = write_digits(tmp_path_factory.mktemp("pictures"), per_class=60, classes=3)
    (folder / "0" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    return folder


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def tune(pictures, network, features, tmp_path):
    def run(source=pictures, *, reporter=SILENT, options=None, **settings):
        spec = FineTuneSpec(**{"unfreeze": "last:3", **FEW, **settings})
        usual = {"features": features, "folder": tmp_path / "runs", "reporter": reporter}
        where = FineTuneOptions(**{**usual, **(options or {})})
        return featx.finetune(source, network, spec=spec, options=where)

    return run


def read_weights(bundle):
    backbone = featx.load_backbone(f"file:{bundle / 'backbone.keras'}")
    head = featx.Bundle.open(bundle).load_head()[-1]
    return [np.array(v.numpy()) for v in backbone.parts.trunk.weights] + head.weights_


def read_predictions(bundle):
    with (bundle / "predictions.csv").open(newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def watched(pictures, network, features, tmp_path_factory):
    """A run, what it reported, and how many items were tested each time that their labels were opened."""
    opened, reporter, original = [], Recorder(), featx.fitting.dataset.HeldOut.open_targets
    options = FineTuneOptions(features=features, folder=tmp_path_factory.mktemp("runs"), reporter=reporter)
    spec = FineTuneSpec(unfreeze="last:3", **{**FEW, "epochs": 6})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "featx.fitting.dataset.HeldOut.open_targets", lambda self: opened.append(len(self)) or original(self)
        )
        return featx.finetune(pictures, network, spec=spec, options=options), reporter.lines, opened


@pytest.fixture(scope="module")
def run(watched):
    return watched[0]


def test_it_is_tested_on_the_items_that_fit_is_tested_on(run, pictures, network, tmp_path):
    store = featx.embed(pictures, network, folder=tmp_path).store
    fitted = featx.fit(store, "logreg", options=FitOptions(folder=tmp_path / "runs"))
    assert read_predictions(run.bundle).keys() == read_predictions(fitted.bundle).keys()
    assert len(store.quarantine) == 1


def test_its_bundle_predicts_the_tested_probabilities(run, pictures):
    rows = read_predictions(run.bundle)
    predictor = featx.Predictor.load(run.bundle)
    names = sorted(rows)
    for name, prediction in zip(names, predictor.predict([pictures / name for name in names]), strict=True):
        assert prediction.label == rows[name]["predicted"]
        assert prediction.probability == pytest.approx(float(rows[name]["probability"]), abs=1e-4)


def test_its_bundle_explains_by_items_that_were_held_out(run, pictures):
    predictor, trained = featx.Predictor.load(run.bundle), featx.Bundle.open(run.bundle).read_trained()
    basis = read_basis(predictor.bundle)
    assert len(basis.conformal.scores) == len(basis.known.familiarity) == run.validation.n_items
    assert len(basis.known.rows) == len(trained)
    (one,) = predictor.explain(pictures / next(iter(read_predictions(run.bundle))))
    assert {near.sha256 for near in one.neighbours} <= trained
    assert one.heat_method == "class activation"


def test_its_bundle_evaluates(run, pictures, notes):
    evaluation = featx.Predictor.load(run.bundle).evaluate(featx.read_source(pictures))
    assert evaluation.n_items == 180
    assert any("were used in training" in note for note in notes())


def test_losses_fall_and_the_best_epoch_is_kept(run):
    with (run.bundle / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(7))
    assert rows[0]["loss"] == ""  # the start: nothing has been trained
    assert float(rows[-1]["loss"]) < float(rows[1]["loss"])
    losses = [float(row["val_loss"]) for row in rows]
    assert run.finetuned.best_epoch == int(np.argmin(losses))
    assert run.validation.log_loss == pytest.approx(min(losses), rel=1e-3)
    assert run.test.accuracy > 0.7  # chance is a third


def test_its_record_is_complete(run):
    metrics = json.loads((run.bundle / "metrics.json").read_text())
    about = json.loads((run.bundle / "bundle.json").read_text())
    tuned = metrics["finetuned"]
    assert tuned["trainable_parameters"] == 8 * 16 * 9 + 16 + 32
    assert tuned["cached"]
    assert tuned["cut"] == ["joined_relu"]
    assert FineTuneSpec.from_dict(about["record"]["finetune"]).epochs == 6
    with (run.bundle / "items.csv").open(newline="") as file:
        roles = [row["role"] for row in csv.DictReader(file)]
    assert roles.count("trained") == run.n_train
    assert roles.count("tested") == run.test.n_items
    assert roles.count("validated") == run.validation.n_items
    assert len(roles) == 180


def test_the_tuned_backbone_is_a_backbone(run, pictures, tmp_path):
    store = featx.embed(pictures, f"file:{run.bundle / 'backbone.keras'}", folder=tmp_path).store
    assert store.dim == 16
    assert featx.fit(store, "logreg", options=FitOptions(folder=None)).test.accuracy > 0.7


def test_the_same_command_gives_the_same_numbers(run, tune):
    again = tune(epochs=6)
    assert all(np.array_equal(a, b) for a, b in zip(read_weights(run.bundle), read_weights(again.bundle), strict=True))
    assert again.test.to_dict() == run.test.to_dict()


@pytest.mark.parametrize("varied", [{}, {"augmentation": "flip,rotate:10", "views": 2}])
def test_the_cache_changes_nothing_but_the_time(tune, varied):
    # Without a penalty, the last digits of the features would decide how large the first coefficients are.
    head = HeadSpec("logreg", {"C": 1.0})
    cached = tune(head=head, options={"cache": "yes"}, **varied)
    whole = tune(head=head, options={"cache": "no"}, **varied)
    assert cached.finetuned.cached
    assert not whole.finetuned.cached
    curves = [read_curve(one.bundle) for one in (cached, whole)]
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-3, atol=1e-4)
    for a, b in zip(read_weights(cached.bundle), read_weights(whole.bundle), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)
    rows = [read_predictions(one.bundle) for one in (cached, whole)]
    for name, row in rows[0].items():
        assert float(row["probability"]) == pytest.approx(float(rows[1][name]["probability"]), abs=1e-3)


def read_curve(bundle):
    with (bundle / "curves.csv").open(newline="") as file:
        return [(float(row["val_loss"]), float(row["loss"] or 0)) for row in csv.DictReader(file)]


def test_fresh_views_are_drawn_in_every_epoch_and_shown_before(tune):
    reporter = Recorder()
    run = tune(augmentation="light", reporter=reporter)
    assert not run.finetuned.cached
    assert any("--views" in line for line in reporter.lines)
    sheet = next(at for at, line in enumerate(reporter.lines) if "augmentation.png" in line)
    assert sheet < next(at for at, line in enumerate(reporter.lines) if line.startswith("epoch"))
    assert (run.bundle / "augmentation.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("clf", ["keras", "keras:8-8", "keras:bn"])
def test_keras_heads_are_trained_first(tune, clf):
    run = tune(head=HeadSpec(clf, {"epochs": 5, "dropout": 0.3}), label_smoothing=0.1, class_weight="balanced")
    assert run.head.name == clf
    assert featx.Predictor.load(run.bundle).classes == ("0", "1", "2")


def test_blocks_thaw_one_after_the_other(tune):
    reporter = Recorder()
    run = tune(unfreeze="gradual:2", epochs=2, reporter=reporter)
    assert run.finetuned.epochs == 4
    assert [line for line in reporter.lines if line.startswith("stage")] == [
        "stage 1/2: blocks:1",
        "stage 2/2: blocks:2",
    ]
    with (run.bundle / "curves.csv").open(newline="") as file:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    assert rates[-1] < rates[1]


@pytest.mark.parametrize("unfreeze", ["all", "from:stem", "blocks:1"])
def test_every_plan_trains(tune, unfreeze):
    run = tune(unfreeze=unfreeze, epochs=1)
    assert run.finetuned.unfreeze == unfreeze
    assert run.finetuned.cached == (unfreeze == "blocks:1")  # the maps of pixels alone would spare nothing


def test_two_classes_and_their_auc(tune, tmp_path):
    run = tune(write_digits(tmp_path / "two", per_class=20, classes=2), monitor="auc", epochs=2)
    assert len(run.test.classes) == 2


def test_the_val_split_of_the_source_is_watched(tune, tmp_path):
    source = tmp_path / "split"
    for skip, (split, count) in zip((0, 20, 30), {"train": 20, "val": 8, "test": 9}.items(), strict=True):
        write_digits(source / split, per_class=count, classes=2, skip=skip)
    run = tune(source, epochs=1)
    assert (run.n_train, run.validation.n_items, run.test.n_items) == (40, 16, 18)


def test_of_few_items_a_fifth_is_held_out(tune, tmp_path):
    run = tune(write_digits(tmp_path / "few", per_class=12, classes=2), epochs=1)
    assert 2 <= run.validation.n_items < 10
    assert run.finetuned.validated_on == "validation"


def test_where_nothing_can_be_held_out_the_training_images_are_watched(tune, tmp_path):
    source = tmp_path / "split"
    for skip, (split, count) in zip((0, 20), {"train": 8, "test": 6}.items(), strict=True):
        write_digits(source / split, per_class=count, classes=2, skip=skip)
    head = HeadSpec("keras", {"epochs": 2})
    run = tune(source, head=head, epochs=1, options={"group": r"(\d)/digit"})
    assert run.finetuned.validated_on == "training"
    assert run.validation.n_items == run.n_train == 16
    assert any("no image could be held out" in note for note in run.notes)


@pytest.mark.parametrize(("classes", "per_class"), [(6, 3), (3, 4)])
def test_where_few_images_are_enough_for_fit_they_are_for_fine_tuning(tune, tmp_path, classes, per_class):
    source = write_digits(tmp_path / "few", per_class=per_class, classes=classes)
    store = featx.embed(source, "colour", folder=tmp_path).store
    fitted = featx.fit(store, "logreg", options=FitOptions(folder=None))
    run = tune(source, epochs=1)
    assert run.test.n_items == fitted.test.n_items


def test_too_few_images_are_refused_before_anything_is_embedded(tune, tmp_path):
    source = write_digits(tmp_path / "few", per_class=2, classes=3)
    with pytest.raises(
        DataError, match=r"few has too few images to choose parameters: .*'0' has 2 images, 1 to train on"
    ):
        tune(source, options={"features": tmp_path / "none"})
    copies = tmp_path / "copies"
    for split in ("train", "test"):
        write_digits(copies / split, per_class=3, classes=2, skip=3 if split == "test" else 0)
    shutil.rmtree(copies / "train" / "1")
    shutil.copytree(copies / "test" / "1", copies / "train" / "1")
    with pytest.raises(DataError, match=r"all training images of '1' \(3\) have the same bytes as images of a later"):
        tune(copies, options={"features": tmp_path / "none"})
    assert not (tmp_path / "none").exists()


def test_a_class_that_train_lacks_counts_as_wrong(tune, tmp_path):
    source = tmp_path / "split"
    write_digits(source / "train", per_class=20, classes=2)
    write_digits(source / "val", per_class=8, classes=3, skip=20)
    write_digits(source / "test", per_class=8, classes=2, skip=30)
    run = tune(source, epochs=2)
    assert run.validation.n_items == 24
    assert run.validation.accuracy <= 16 / 24


def test_a_branch_is_tuned_without_the_other(tune, network, pictures, features, tmp_path):
    options = FineTuneOptions(features=features, folder=tmp_path / "runs", neighbours=False)
    spec = FineTuneSpec(unfreeze="all", **{**FEW, "epochs": 1})
    run = featx.finetune(pictures, network, layer="right", spec=spec, options=options)
    counts = run.finetuned
    assert counts.trainable_parameters == (3 * 9 * 8 + 8 + 16) + (8 * 8 + 8)
    assert counts.frozen_parameters == 16  # the statistics
    assert featx.Predictor.load(run.bundle).classes == ("0", "1", "2")
    basis = read_basis(featx.Bundle.open(run.bundle))
    assert basis.known is None  # as asked
    assert len(basis.conformal.scores) == run.validation.n_items


def test_other_settings_have_other_stores(tune, network, pictures, features, tmp_path):
    for pooling in (None, "max"):
        options = FineTuneOptions(features=features, folder=tmp_path / "runs", cache="no")
        featx.finetune(
            pictures, network, pooling=pooling, spec=FineTuneSpec(unfreeze="last:3", epochs=1), options=options
        )


def test_quarantine_is_reported(watched):
    _, lines, _ = watched
    assert any("broken.png" in line and "quarantined" in line for line in lines)


def test_two_processes_do_not_share_a_state(tune, monkeypatch):
    original = loop.TrainingLoop.run

    def run_twice(self):
        with pytest.raises(StoreLockedError):
            tune(epochs=1)
        original(self)

    monkeypatch.setattr(loop.TrainingLoop, "run", run_twice)
    tune(epochs=1)


def test_the_test_is_opened_once(watched):
    run, _, opened = watched
    assert opened == [run.test.n_items]


def test_no_epoch_better_than_the_start_keeps_the_start(tune, network):
    reporter = Recorder()
    run = tune(
        learning_rate=10.0,
        head_learning_rate=10.0,
        schedule="constant",
        optimizer="adam",
        label_smoothing=0.1,
        epochs=1,
        reporter=reporter,
    )
    assert run.finetuned.best_epoch == 0
    assert any("no epoch was better than the start" in line for line in reporter.lines)
    note = (
        "kept the start: the frozen network with its first head; nothing was trained, since no epoch (1 in all) had a "
        "better loss on the validation images"
    )
    assert run.notes[0] == note
    metrics = json.loads((run.bundle / "metrics.json").read_text())
    assert metrics["notes"][0] == note
    assert metrics["finetuned"]["kept_start"] is True
    assert metrics["finetuned"]["trained_parameters"] == metrics["finetuned"]["head_parameters"]
    first = featx.load_backbone(network).parts.trunk.weights
    for variable, array in zip(first, read_weights(run.bundle), strict=False):
        assert np.array_equal(variable.numpy(), array)


def test_out_of_memory_divides_the_batch(tune, monkeypatch):
    from featx.finetuning.network import TrainableNetwork

    original = TrainableNetwork.train_batch

    def train_batch(self, inputs, targets, weights, parts=1):
        if len(targets) / parts > 4:
            msg = "as a full device says"
            raise MemoryError(msg)
        return original(self, inputs, targets, weights, parts)

    monkeypatch.setattr(TrainableNetwork, "train_batch", train_batch)
    reporter = Recorder()
    run = tune(epochs=1, reporter=reporter)
    assert run.finetuned.batch_parts == 4
    assert sum("gradients are added up" in line for line in reporter.lines) == 2


def test_an_epoch_that_was_interrupted_is_begun_again(tune, monkeypatch):
    whole = tune(batch_norm="train", head=HeadSpec("keras:8", {"epochs": 3}), options={"fresh": True})
    original, calls = loop.TrainingLoop._train_batch, []

    def stop(self, items, inputs):
        calls.append(1)
        if len(calls) == 9:  # in the second epoch
            raise KeyboardInterrupt
        return original(self, items, inputs)

    monkeypatch.setattr(loop.TrainingLoop, "_train_batch", stop)
    with pytest.raises(KeyboardInterrupt):
        tune(batch_norm="train", head=HeadSpec("keras:8", {"epochs": 3}))
    monkeypatch.undo()
    reporter = Recorder()
    resumed = tune(batch_norm="train", head=HeadSpec("keras:8", {"epochs": 3}), reporter=reporter)
    assert any(line.startswith("resuming after epoch 1 of an interrupted run") for line in reporter.lines)
    for a, b in zip(read_weights(whole.bundle), read_weights(resumed.bundle), strict=True):
        assert np.array_equal(a, b)
    assert read_curve(whole.bundle) == read_curve(resumed.bundle)


def test_an_unfinished_run_of_another_rule_starts_again_and_says_so(tune, monkeypatch):
    monkeypatch.setattr(finetuning, "RULES", finetuning.RULES - 1)
    monkeypatch.setattr(loop.TrainingLoop, "_train_batch", None)  # ends the run in its first epoch
    with pytest.raises(TypeError):
        tune(epochs=1)
    monkeypatch.undo()
    reporter = Recorder()
    run = tune(epochs=1, reporter=reporter)
    (line,) = [line for line in reporter.lines if line.startswith("curves and state: ")]
    assert line.endswith(
        "; this run starts from scratch, since the unfinished run next to it has other settings, images or versions"
    )
    assert json.loads((run.bundle / "bundle.json").read_text())["record"]["rules"] == finetuning.RULES


def test_a_damaged_state_is_reported(tune, monkeypatch, tmp_path):
    monkeypatch.setattr(loop.TrainingLoop, "_take_head", None)  # ends the run before its first epoch
    with pytest.raises(TypeError):
        tune(epochs=1)
    (folder,) = (path for path in (tmp_path / "runs" / ".finetune").iterdir() if path.is_dir())
    (folder / loop.STATE).write_bytes(b"PK\x03\x04 half of it")
    monkeypatch.undo()
    with pytest.raises(StoreError, match=r"is damaged .* --fresh"):
        tune(epochs=1)
    assert tune(epochs=1, options={"fresh": True}).finetuned.epochs == 1


def start(pictures, network, runs, features, n_epochs):
    command = [
        sys.executable,
        "-m",
        "featx",
        "finetune",
        str(pictures),
        "--backbone",
        network,
        "--unfreeze",
        "gradual:2",
    ]
    command += ["--epochs", str(n_epochs), "--batch-size", "8", "--patience", "50", "--learning-rate", "0.001"]
    command += ["--runs", str(runs), "--features", str(features), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_run_goes_on_to_the_same_weights(pictures, network, features, tmp_path):
    n_epochs = 12
    spec = FineTuneSpec(unfreeze="gradual:2", epochs=n_epochs, batch_size=8, patience=50, learning_rate=1e-3)
    expected = featx.finetune(
        pictures, network, spec=spec, options=FineTuneOptions(features=features, folder=tmp_path / "whole")
    )
    killed = start(pictures, network, tmp_path / "killed", features, n_epochs)
    state = tmp_path / "killed" / ".finetune"
    while not list(state.glob("*/state.npz")):
        time.sleep(0.01)
    time.sleep(np.random.default_rng().random())  # any moment will do
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert list(state.glob("*/state.npz"))
    output, errors = start(pictures, network, tmp_path / "killed", features, n_epochs).communicate()
    found = json.loads(output)
    assert "resuming after epoch" in errors
    pairs = zip(read_weights(expected.bundle), read_weights(Path(found["bundle"])), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    assert found["test"] == json.loads(json.dumps(expected.test.to_dict()))
    assert not list(state.iterdir())


def test_usage_errors(pictures, tune, tmp_path):
    with pytest.raises(UsageError, match="colour has no trainable weights"):
        featx.finetune(pictures, "colour", options=FineTuneOptions(features=tmp_path, folder=tmp_path))
    with pytest.raises(UsageError, match="ridge cannot be trained together"):
        tune(head=HeadSpec("ridge"))
    with pytest.raises(UsageError, match="a fine-tuned head cannot be calibrated by"):
        tune(head=HeadSpec("logreg", calibration="temperature"))
    with pytest.raises(UnknownNameError, match="no layer called 'topp'"):
        tune(unfreeze="from:topp")
    with pytest.raises(UsageError, match="scattering has no trainable weights"):
        featx.finetune(pictures, "scattering", options=FineTuneOptions(features=tmp_path, folder=tmp_path))
    with pytest.raises(UnknownNameError, match="flp"):
        tune(augmentation="flp")
    with pytest.raises(UsageError, match="each epoch augments the images differently"):
        tune(augmentation="light", options={"cache": "yes"})
    with pytest.raises(UsageError, match="at most 1000"):
        tune(head_learning_rate=1e30)


def test_a_non_finite_loss_is_reported(tune, monkeypatch):
    from featx.finetuning.network import TrainableNetwork

    original = TrainableNetwork.train_batch

    def train_batch(self, *arguments):
        return np.nan, original(self, *arguments)[1]

    monkeypatch.setattr(TrainableNetwork, "train_batch", train_batch)
    with pytest.raises(DataError, match=r"the loss is not finite at a learning rate of 0.001; choose a smaller rate"):
        tune(epochs=1)


def test_a_changed_file_is_noticed(tune, pictures, tmp_path):
    source = write_digits(tmp_path / "changing", per_class=8, classes=2)
    original = finetuning._fit_head

    def change(*arguments):
        for path in source.rglob("*.png"):
            path.write_bytes((pictures / "2" / "digit-0002.png").read_bytes())
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetuning, "_fit_head", change)
        with pytest.raises(DataError, match="has changed since it was embedded"):
            tune(source, options={"cache": "no"})


def test_mixed_precision_without_a_gpu_is_reported_and_not_used(tune):
    reporter = Recorder()
    tune(epochs=1, options={"mixed_precision": True}, reporter=reporter)
    assert any("none was found" in line for line in reporter.lines)


@pytest.fixture(scope="module")
def fixed():
    """The first run with a fixed head. Features of another runtime, with other last digits, may choose another head."""
    return {}


@pytest.mark.parametrize("cache", ["yes", "no"])
def test_the_network_is_built_once_and_its_conversion_is_kept(fixed, pictures, network, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("FEATX_CACHE", str(tmp_path / "cache"))
    built = []

    def load(uri, **asked):
        built.append(uri)
        return featx.load_backbone(uri, **asked)

    monkeypatch.setattr(finetuning, "load_backbone", load)
    monkeypatch.setattr(loading, "load_backbone", load)
    head = HeadSpec("logreg", {"C": 1.0}, "none")
    spec = FineTuneSpec(head=head, unfreeze="last:3", **{**FEW, "epochs": 6})
    found = []
    for name in ("first", "second"):
        options = FineTuneOptions(features=tmp_path / name, folder=tmp_path / name, cache=cache)
        found.append(featx.finetune(pictures, network, spec=spec, options=options))
        assert len(list((tmp_path / "cache" / "networks").iterdir())) == 1
    saved = [uri for uri in built if uri.endswith("backbone.keras")]
    assert (len(saved), built.count(network), len(built)) == (2, 2, 4)
    run = fixed.setdefault("run", found[0])
    for one in found:
        assert one.validation.log_loss == pytest.approx(run.validation.log_loss, rel=1e-2)
        assert one.test.accuracy == run.test.accuracy
    (path,) = (tmp_path / "second").glob("maps/*.h5" if cache == "yes" else "*.h5")
    store = featx.FeatureStore(path)
    assert store.runtime == "openvino"
    assert 0 < store.drift < 1e-4
