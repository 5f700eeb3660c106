"""Bundles that predict without the packages that only fitting needs."""

import subprocess
import sys

import numpy as np
import pytest

import featx
from featx.backbones import cache

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
    embed_golden = featx.embedding.embed_golden

    def count(*arguments):
        computed.append(arguments)
        return embed_golden(*arguments)

    monkeypatch.setattr(featx.embedding, "embed_golden", count)
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
    from bundle_files import sign

    _, store = made
    bundle = featx.fit(store, "lda", options=featx.FitOptions(folder=tmp_path)).bundle
    featx.Predictor.load(bundle)
    with np.load(bundle / "golden.npz") as arrays:
        changed = {**arrays, "features": arrays["features"] + np.float32(0.1)}
    np.savez(bundle / "golden.npz", **changed)
    sign(bundle)
    for _ in range(2):
        with pytest.raises(featx.errors.DriftError):
            featx.Predictor.load(bundle)


@pytest.mark.keras
def test_a_network_is_found_by_its_content_and_not_only_by_its_request(made):
    _, store = made
    spec, image = store.spec.backbone, store.spec.image
    entry = cache.find_entry(spec, image.height, image.width)
    assert (entry.uri, entry.weights_digest) == (spec.uri, spec.weights_digest)
    assert cache.find_entry(spec, image.height, image.width + 1) is None
    from dataclasses import replace

    for change in ({"weights_digest": "0" * 64}, {"layer": "other"}, {"pooling": "max"}, {"uri": "mobilenet"}):
        assert cache.find_entry(replace(spec, **change), image.height, image.width) is None


def test_pruning_removes_notes(folder):
    cache.note({"fact": 1})
    assert cache.is_noted({"fact": 1})
    assert not cache.is_noted({"fact": 2})
    cache.prune(1)
    assert cache.is_noted({"fact": 1})
    cache.prune(0)
    assert not cache.is_noted({"fact": 1})
