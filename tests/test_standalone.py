"""Bundles that predict without the packages that only fitting needs."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundle_files import sign

import featx
from featx.backbones import cache
from featx.backbones.converted import ConvertedBackbone
from featx.bundle import Bundle
from featx.completion import complete_bundle, slim_bundle
from featx.errors import BundleError, DriftError, UsageError
from featx.prediction import Predictor

#: What a prediction must not import once its network is in the cache.
HEAVY = ("tensorflow", "keras", "sklearn", "skops", "scipy", "pandas", "pyarrow", "matplotlib", "h5py", "joblib")

SIZE = {"height": 64, "width": 64}

POISONED = """
import sys
for name in {names!r}:
    sys.modules[name] = None
from featx.__main__ import main
sys.argv = ["featx", *{arguments!r}]
main()
"""


def run_poisoned(names, *arguments):
    """Run the command line where some packages cannot be imported."""
    code = POISONED.format(names=names, arguments=list(map(str, arguments)))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def predict_poisoned(bundle, pictures, names=HEAVY):
    """Predict in another process, without heavy packages; return the probabilities of each image."""
    done = run_poisoned(names, "predict", bundle, pictures, "--format", "csv")
    assert done.returncode == 0, done.stderr
    return np.array([line.split(",")[3:5] for line in done.stdout.splitlines()[1:]], float)


def predict(bundle, pictures):
    found = featx.Predictor.load(bundle).predict(pictures)
    return np.stack([prediction.probabilities for prediction in found])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def warm(folder, monkeypatch):
    monkeypatch.setenv("FEATX_CACHE", str(folder))


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    """A store with the features of a small network, whose converted form is in the cache."""
    from runs import draw

    pictures = tmp_path_factory.mktemp("made") / "pictures"
    for number in range(24):
        draw(pictures / ("cat" if number % 2 else "dog") / f"{number}.png", number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATX_CACHE", str(folder))
        result = featx.embed(
            pictures, "mobilenet?alpha=0.25", weights="none", image=SIZE, folder=pictures.parent / "features"
        )
    return pictures, result.store


@pytest.mark.keras
@pytest.mark.parametrize("head", ["logreg", "ridge", "lda", "centroid", "linear-svm"])
def test_a_prediction_imports_nothing_heavy(head, made, tmp_path):
    pictures, store = made
    bundle = featx.fit(store, head, options=featx.FitOptions(folder=tmp_path)).bundle
    expected = predict(bundle, pictures)  # also notes that the golden pictures were checked
    np.testing.assert_allclose(predict_poisoned(bundle, pictures), expected, atol=1e-5)


@pytest.mark.keras
def test_other_heads_load_scikit_learn_when_they_are_used(made, tmp_path):
    pictures, store = made
    bundle = featx.fit(store, "knn", options=featx.FitOptions(folder=tmp_path)).bundle
    expected = predict(bundle, pictures)
    lighter = [name for name in HEAVY if name not in {"sklearn", "skops", "scipy", "pandas", "joblib"}]
    np.testing.assert_allclose(predict_poisoned(bundle, pictures, lighter), expected, atol=1e-5)


@pytest.mark.keras
def test_golden_pictures_are_computed_once_for_a_network_and_a_bundle(made, tmp_path, folder, monkeypatch):
    _, store = made
    bundle = featx.fit(store, "lda", options=featx.FitOptions(folder=tmp_path)).bundle
    for note in (folder / "checks").glob("*"):
        note.unlink()
    computed = []
    embed_golden = featx.prediction.embed_golden

    def count(*arguments):
        computed.append(arguments)
        return embed_golden(*arguments)

    monkeypatch.setattr(featx.prediction, "embed_golden", count)
    for _ in range(2):
        featx.Predictor.load(bundle)
    assert len(computed) == 1
    assert len(list((folder / "checks").iterdir())) == 1
    monkeypatch.setattr(cache, "_describe_machine", lambda: ["another"])
    featx.Predictor.load(bundle)
    assert len(computed) == 2
    monkeypatch.setenv("FEATX_CACHE", "off")
    featx.Predictor.load(bundle)
    assert len(computed) == 3


@pytest.mark.keras
def test_golden_features_that_were_changed_are_checked_again(made, tmp_path):
    _, store = made
    bundle = featx.fit(store, "lda", options=featx.FitOptions(folder=tmp_path)).bundle
    featx.Predictor.load(bundle)
    with np.load(bundle / "golden.npz") as arrays:
        changed = {**arrays, "features": arrays["features"] + np.float32(0.1)}
    np.savez(bundle / "golden.npz", **changed)
    sign(bundle)
    for _ in range(2):
        with pytest.raises(DriftError):
            featx.Predictor.load(bundle)


@pytest.mark.keras
def test_a_network_is_found_by_its_content_and_not_only_by_its_request(made):
    _, store = made
    spec, image = store.spec.backbone, store.spec.image
    entry = cache.find_entry(spec, image.height, image.width)
    assert (entry.uri, entry.weights_digest) == (spec.uri, spec.weights_digest)
    assert cache.find_entry(spec, image.height, image.width + 1) is None
    for change in ({"weights_digest": "0" * 64}, {"layer": "other"}, {"pooling": "max"}, {"uri": "mobilenet"}):
        assert cache.find_entry(replace(spec, **change), image.height, image.width) is None


def test_pruning_removes_notes(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATX_CACHE", str(tmp_path))
    cache.note({"fact": 1})
    assert cache.is_noted({"fact": 1})
    assert not cache.is_noted({"fact": 2})
    cache.prune(1)
    assert cache.is_noted({"fact": 1})
    cache.prune(0)
    assert not cache.is_noted({"fact": 1})


# --- bundles that hold their network

NETWORK = {"network.xml", "network.bin"}


@pytest.fixture(scope="module")
def whole(made, folder, tmp_path_factory):
    """A bundle with its network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATX_CACHE", str(folder))
        return featx.fit(made[1], "centroid", options=featx.FitOptions(folder=tmp_path_factory.mktemp("runs"))).bundle


@pytest.fixture
def bundle(whole, tmp_path):
    """A copy of it, whose network is a link into the cache as well."""

    def copy(source, target):
        return os.link(source, target) if Path(source).name in NETWORK else shutil.copy2(source, target)

    return shutil.copytree(whole, tmp_path / "runs" / whole.name, copy_function=copy)


@pytest.mark.keras
def test_a_bundle_runs_without_tensorflow_weights_and_cache(bundle, made, tmp_path, monkeypatch):
    pictures, _ = made
    expected = predict(bundle, pictures)
    monkeypatch.setenv("FEATX_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "nothing"))
    for _ in range(2):  # the first time, it also computes the golden pictures
        np.testing.assert_allclose(predict_poisoned(bundle, pictures), expected, atol=1e-5)
    assert not (tmp_path / "empty" / "networks").exists()
    monkeypatch.setenv("FEATX_CACHE", "off")
    np.testing.assert_allclose(predict_poisoned(bundle, pictures), expected, atol=1e-5)


@pytest.mark.keras
def test_the_network_is_the_one_of_the_cache_and_listed(bundle, folder):
    (entry,) = cache.list_entries()
    for name in NETWORK:
        assert (bundle / name).stat().st_ino == (entry.folder / name).stat().st_ino
    assert set(json.loads((bundle / "bundle.json").read_text())["files"]) >= NETWORK
    for note in (folder / "checks").glob("*"):
        note.unlink()
    assert not Predictor.load(bundle)._backbones[0].is_trusted
    assert Predictor.load(bundle)._backbones[0].is_trusted  # the same digest was checked
    assert not isinstance(Predictor.load(bundle, runtime="keras")._backbones[0], ConvertedBackbone)


@pytest.mark.keras
def test_a_network_is_copied_where_there_are_no_links(made, tmp_path, folder, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    bundle = featx.fit(made[1], "centroid", options=featx.FitOptions(folder=tmp_path)).bundle
    (entry,) = cache.list_entries()
    for name in NETWORK:
        assert (bundle / name).stat().st_ino != (entry.folder / name).stat().st_ino
        assert (bundle / name).read_bytes() == (entry.folder / name).read_bytes()


@pytest.mark.keras
def test_a_fit_leaves_the_network_out_where_it_is_told_to_or_there_is_none(made, tmp_path, monkeypatch):
    _, store = made
    without = featx.fit(store, "centroid", options=featx.FitOptions(folder=tmp_path, network=False))
    assert not NETWORK & {path.name for path in without.bundle.iterdir()}
    assert not any("network" in note for note in without.notes)
    monkeypatch.setenv("FEATX_CACHE", str(tmp_path / "empty"))
    done = run_poisoned(("tensorflow", "keras"), "fit", store.path, "--clf", "centroid", "--runs", tmp_path / "r")
    assert done.returncode == 0, done.stderr
    assert "does not hold its network" in done.stderr
    assert "`featx bundle complete BUNDLE` adds it" in done.stderr


@pytest.mark.keras
def test_an_evaluation_needs_scipy_for_its_intervals_and_nothing_else(bundle, made):
    names = tuple(name for name in HEAVY if name != "scipy")
    expected = Predictor.load(bundle).evaluate(made[0])
    # The verb also writes plots, which need matplotlib.
    code = (
        f"import sys\nsys.modules.update(dict.fromkeys({names!r}))\nfrom featx import Predictor\n"
        f"print(Predictor.load({str(bundle)!r}).evaluate({str(made[0])!r}).accuracy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == expected.accuracy


@pytest.mark.keras
def test_a_network_can_be_removed_and_added(bundle, made, tmp_path, monkeypatch):
    pictures, _ = made
    expected, before = predict(bundle, pictures), (bundle / "bundle.json").stat().st_mtime_ns
    assert not complete_bundle(bundle)
    assert slim_bundle(bundle)
    assert not slim_bundle(bundle)
    files = set(json.loads((bundle / "bundle.json").read_text())["files"]) | {"bundle.json"}
    assert files == {path.name for path in bundle.iterdir()}
    assert not files & NETWORK
    np.testing.assert_allclose(predict(bundle, pictures), expected, atol=1e-5)  # from the cache
    monkeypatch.setenv("FEATX_CACHE", "off")  # so that it is converted
    assert complete_bundle(bundle)
    assert {path.name for path in bundle.iterdir()} == files | NETWORK
    assert (bundle / "bundle.json").stat().st_mtime_ns == before
    np.testing.assert_allclose(predict_poisoned(bundle, pictures, ("tensorflow", "keras")), expected, atol=1e-5)


@pytest.mark.keras
def test_a_network_that_computes_other_features_is_not_added(bundle, monkeypatch):
    slim_bundle(bundle)
    before = sorted(path.name for path in bundle.iterdir())
    monkeypatch.setenv("FEATX_CACHE", "off")
    monkeypatch.setattr("featx.prediction.MAX_DRIFT", -1.0)  # no drift is so small
    with pytest.raises(DriftError, match="this machine does not reproduce: they differ by") as caught:
        complete_bundle(bundle)
    assert "cannot be written" not in str(caught.value)
    assert sorted(path.name for path in bundle.iterdir()) == before


@pytest.mark.keras
def test_a_bundle_without_its_network_says_what_it_needs_where_keras_is_missing(bundle, made, tmp_path, monkeypatch):
    slim_bundle(bundle)
    monkeypatch.setenv("FEATX_CACHE", str(tmp_path / "empty"))
    done = run_poisoned(("tensorflow", "keras"), "predict", bundle, made[0])
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {bundle} cannot be used here: without OpenVINO and a network of its")
    assert "`featx bundle complete`" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.keras
def test_an_own_network_can_be_held_too(made, tmp_path):
    from tiny import save_network

    pictures, _ = made
    store = featx.embed(pictures, f"file:{save_network(tmp_path / 'mine.keras')}", folder=tmp_path / "f").store
    bundle = featx.fit(store, "centroid", options=featx.FitOptions(folder=tmp_path / "r")).bundle
    assert {path.name for path in bundle.iterdir()} >= {"backbone.keras", *NETWORK}
    (tmp_path / "mine.keras").unlink()
    expected = predict(bundle, pictures)
    np.testing.assert_allclose(predict_poisoned(bundle, pictures), expected, atol=1e-5)


def test_a_backbone_without_a_network_cannot_be_completed(store, tmp_path):
    run = featx.fit(store, "centroid", options=featx.FitOptions(folder=tmp_path))
    assert not any("network" in note for note in run.notes)
    before = sorted(path.name for path in run.bundle.iterdir())
    with pytest.raises(UsageError, match="colour is not a network in float32"):
        complete_bundle(run.bundle)
    assert sorted(path.name for path in run.bundle.iterdir()) == before


@pytest.mark.keras
def test_a_network_with_other_weights_or_operations_is_refused(bundle, tmp_path):
    weights = bytearray((bundle / "network.bin").read_bytes())
    xml = (bundle / "network.xml").read_text()
    for name in NETWORK:
        (bundle / name).unlink()  # the links into the cache
    (bundle / "network.xml").write_text(xml)
    size, offset = max(
        (int(size), int(at)) for at, size in re.findall(r'"f32" shape="[^"]*" offset="(\d+)" size="(\d+)"', xml)
    )
    (bundle / "network.bin").write_bytes(weights[:offset] + bytes(size) + weights[offset + size :])
    with pytest.raises(BundleError, match=r"network\.bin differs from the file"):
        Bundle.open(bundle)
    sign(bundle)
    with pytest.raises(DriftError):
        Predictor.load(bundle)
    (bundle / "network.bin").write_bytes(weights[:1000])
    sign(bundle)
    with pytest.raises(BundleError, match=r"network\.xml cannot be used: a constant of"):
        Predictor.load(bundle)
    (bundle / "network.bin").write_bytes(weights)
    (bundle / "network.xml").write_text(xml.replace('type="ReduceMean"', 'type="Loop"'))
    sign(bundle)
    with pytest.raises(BundleError, match=r"cannot be used here: .*network\.xml cannot be used: an operation 'Loop'"):
        Predictor.load(bundle)


@pytest.mark.keras
def test_the_command_completes_and_slims(bundle):
    for action, said in (
        ("slim", "does not hold its network any more"),
        ("slim", "does not hold its network"),
        ("complete", "now holds its network"),
        ("complete", "holds its network already"),
    ):
        done = run_poisoned(("tensorflow", "sklearn"), "bundle", action, bundle)
        assert (done.returncode, done.stdout.rstrip()) == (0, f"{bundle} {said}"), done.stderr
