import json
import re
import shutil

import numpy as np
import pytest
import skops.io
from bundle_files import rewrite, sign
from pictures import write_digits

import featx
from featx.bundle import Bundle
from featx.bundle_page import make_bundle_page
from featx.errors import BundleError, DriftError, UsageError
from featx.evaluation import evaluate
from featx.options import FitOptions
from featx.prediction import Predictor
from featx.references import check_run_name

SPLIT = {"origin": "hold-out", "test_size": 0.2, "cv": 0, "group": "", "seed": 0}


@pytest.fixture
def bundle(digits_bundle, tmp_path):
    """A new bundle for each test, which may damage it."""
    return shutil.copytree(digits_bundle, tmp_path / "runs" / digits_bundle.name)


def test_a_bundle_opens_with_its_content(bundle, store):
    opened = Bundle.open(bundle)
    assert opened.embed_spec == store.spec
    assert opened.classes == tuple(store.classes)
    assert opened.head_spec.name == "centroid"
    assert opened.backbone_file is None
    assert np.array_equal(opened.golden.features, store.golden.features)
    assert opened.golden.files == store.golden.files
    assert opened.read_trained() < set(store.sha256.tolist())


def test_bundles_of_one_day_get_numbers(store, tmp_path):
    options = FitOptions(folder=tmp_path)
    names = [featx.fit(store, "dummy", options=options).bundle.name for _ in range(3)]
    assert names[0].endswith("-dummy-colour")
    assert [name.removeprefix(names[0]) for name in names] == ["", "-2", "-3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "latest"])
    assert (tmp_path / "latest").read_text() == f"{names[-1]}\n"


def test_a_bundle_may_move(bundle, tmp_path, digits):
    moved = bundle.rename(tmp_path / "elsewhere")
    (prediction,) = Predictor.load(moved).predict([min((digits / "3").iterdir())])
    assert prediction.label in "0123456789"


@pytest.mark.parametrize("name", ["head.skops", "golden.npz", "metrics.json", "items.csv"])
def test_a_missing_file_is_named(bundle, name):
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=f"lacks {name}"):
        Bundle.open(bundle)


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON"])
def test_a_broken_description_is_refused(bundle, text):
    (bundle / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match=r" is damaged \("):
        Bundle.open(bundle)


def test_a_foreign_description_is_refused(bundle):
    (bundle / "bundle.json").write_text('{"format": "other", "format_version": 1}')
    with pytest.raises(BundleError, match="a bundle of 'other', not of featx"):
        Bundle.open(bundle)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"no zip"])
def test_broken_golden_pictures_are_refused(bundle, content):
    (bundle / "golden.npz").write_bytes(content)
    sign(bundle)
    with pytest.raises(BundleError, match=r" is damaged \("):
        Bundle.open(bundle)


def test_a_broken_list_of_items_is_refused(bundle):
    (bundle / "items.csv").write_text("id\n1\n")
    sign(bundle)
    with pytest.raises(BundleError, match=r"items\.csv is damaged"):
        Bundle.open(bundle).read_trained()


def test_a_newer_format_is_refused(bundle):
    rewrite(bundle, format_version=99)
    with pytest.raises(BundleError, match="upgrade featx"):
        Bundle.open(bundle)


@pytest.mark.parametrize("name", ["head.skops", "golden.npz", "metrics.json", "items.csv", "confusion_matrix.png"])
@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data[:50] + b"?" + data[51:]])
def test_a_damaged_or_exchanged_file_is_named(bundle, name, change):
    (bundle / name).write_bytes(change((bundle / name).read_bytes()))
    with pytest.raises(
        BundleError, match=rf"{name} differs from the file that the bundle was made with; copy the bundle"
    ):
        Bundle.open(bundle)


def test_the_page_has_the_numbers_and_links_only_to_files_that_are_there(bundle):
    page = (bundle / "index.html").read_text(encoding="utf-8")
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert {"confusion_matrix.png", "confusion_matrix.svg", "reliability.png", "predictions.csv"} <= set(links)
    assert all((bundle / link).is_file() for link in links)
    test = json.loads((bundle / "metrics.json").read_text())["test"]
    assert f"{test['accuracy']:.3f} [{test['accuracy_low']:.3f}, {test['accuracy_high']:.3f}]" in page
    assert "featx predict . IMAGE" in page
    assert "--clf centroid --test-size 0.2 --seed 0" in page
    assert "<script" not in page


def test_the_page_escapes_names():
    test = evaluate(np.eye(2), [0, 1], ["<b>&", "日本"], resamples=2)
    record = {"store": {"path": "a'b<i>.h5", "source": "<u>"}, "split": {**SPLIT, "group": "<s>"}, "created_with": {}}
    head = {"name": "<h>", "params": {"<k>": 1}}
    about = {"embed": {"backbone": {"uri": "<x>"}}, "head": head, "classes": test.classes, "record": record}
    metrics = {"validation": test.to_dict(), "train_items": 2, "notes": ["<q>"], "test_name": "<t>"}
    page = make_bundle_page(about, metrics, test, ["head.skops"])
    assert not re.search("<[bisuxhkqt]>", page)
    assert all(f"&lt;{letter}&gt;" in page for letter in "bisuxhkqt")


def test_every_file_is_described_but_the_description_itself(bundle):
    files = json.loads((bundle / "bundle.json").read_text())["files"]
    assert set(files) | {"bundle.json"} == {path.name for path in bundle.iterdir()}
    assert files["items.csv"]["bytes"] == (bundle / "items.csv").stat().st_size


def test_foreign_types_in_the_head_are_listed_and_refused(bundle):
    class Foreign:
        pass

    (bundle / "head.skops").write_bytes(skops.io.dumps({"head": Foreign()}))
    sign(bundle)
    with pytest.raises(BundleError, match="Foreign"):
        Bundle.open(bundle).load_head()


def test_a_pickle_is_never_loaded(bundle):
    (bundle / "head.skops").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    sign(bundle)
    with pytest.raises(BundleError, match=r"head\.skops is damaged"):
        Bundle.open(bundle).load_head()


def test_a_bundle_without_its_plain_head_answers_the_same(bundle, digits):
    picture = min((digits / "3").iterdir())
    (with_it,) = Predictor.load(bundle).predict([picture])
    (bundle / "head.npz").unlink()
    with pytest.raises(BundleError, match=r"lacks head\.npz"):
        Bundle.open(bundle)
    sign(bundle)
    (without,) = Predictor.load(bundle).predict([picture])
    np.testing.assert_allclose(without.probabilities, with_it.probabilities, atol=1e-6)


def test_a_plain_head_that_the_description_does_not_list_is_not_read(bundle):
    (bundle / "head.npz").unlink()
    sign(bundle)
    (bundle / "head.npz").write_bytes(b"anything")
    assert hasattr(Bundle.open(bundle).load_head(plain=True), "predict")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("classes", np.arange(10) + 1, "other classes than bundle.json"),
        ("weights_0", np.zeros((3, 10), np.float32), "its parts do not match"),
        ("weights_1", np.full(10, np.inf, np.float32), r"head\.npz is damaged"),
        ("record", np.zeros(3), r"head\.npz is damaged"),
    ],
)
def test_a_plain_head_that_does_not_fit_is_refused(bundle, name, value, message):
    with np.load(bundle / "head.npz") as arrays:
        changed = {**arrays, name: value}
    np.savez(bundle / "head.npz", **changed)
    sign(bundle)
    with pytest.raises(BundleError, match=message):
        Predictor.load(bundle)


def test_golden_pictures_with_other_features_are_refused(bundle):
    with np.load(bundle / "golden.npz") as arrays:
        changed = {**arrays, "features": arrays["features"] + np.float32(0.01)}
    np.savez(bundle / "golden.npz", **changed)
    sign(bundle)
    with pytest.raises(DriftError, match="trained on features that this machine does not reproduce"):
        Predictor.load(bundle)


def test_other_weights_are_refused(bundle):
    rewrite(bundle, embed__backbone__weights_digest="0" * 64)
    with pytest.raises(BundleError, match="the weights of colour differ from those that the features were made with"):
        Predictor.load(bundle)


def test_a_failed_write_leaves_nothing(store, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("featx.bundle.write_json", fail)
    with pytest.raises(OSError, match="No space"):
        featx.fit(store, "dummy", options=FitOptions(folder=tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.keras
def test_a_network_of_the_user_travels_with_the_bundle(tmp_path):
    import keras

    keras.utils.set_random_seed(1)
    network = keras.Sequential(
        [keras.Input((24, 24, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(8, 3, activation="relu")]
    )
    network.save(tmp_path / "mine.keras")
    photos = write_digits(tmp_path / "photos", per_class=8, classes=3)
    store = featx.embed(photos, f"file:{tmp_path / 'mine.keras'}", folder=tmp_path / "f").store
    run = featx.fit(store, "centroid", options=FitOptions(folder=tmp_path / "runs"))
    (tmp_path / "mine.keras").unlink()
    predictions = list(Predictor.load(run.bundle).predict([photos]))
    assert len(predictions) == 24
    assert not any(prediction.error for prediction in predictions)
    with pytest.raises(BundleError, match=r"mine\.keras is gone"):
        featx.fit(store, "centroid", options=FitOptions(folder=tmp_path / "runs"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *((name, "stands for the run that was written last") for name in ("latest", "LATEST", "Latest")),
        *((name, "Windows reserves it") for name in ("con", "NUL", "aux.txt", "prn.", "COM1", "lpt9.a.b", "com²")),
        *((name, "begins (or ends )?with") for name in ("a.", "a ", " a", "..", ".hidden", "-p", " ")),
        *((name, "one of / ") for name in ("a/b", "a\\b", "c:d", "what?", "a*", "a\nb", "a\0b", "caf\udce9")),
        *((name, "more than 255 bytes") for name in ("x" * 256, "日" * 86)),
    ],
)
def test_a_run_has_a_name_that_every_system_can_have(name, reason):
    with pytest.raises(UsageError, match=reason) as caught:
        check_run_name(None, name)
    assert len(str(caught.value)) < 250
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["x" * 255, "日" * 85, "console", "com10", "a b.c-d_e+f", "latest-run", "größe"])
def test_a_plain_name_is_a_name_of_a_run(name, tmp_path):
    check_run_name(tmp_path, name)
    (tmp_path / name).mkdir()
    with pytest.raises(BundleError, match="exists already"):
        check_run_name(tmp_path, name)


def test_a_run_may_have_the_longest_name(store, tmp_path):
    options = FitOptions(folder=tmp_path, name="日" * 85)
    assert featx.fit(store, "centroid", options=options).bundle == tmp_path / options.name
    assert Bundle.open(tmp_path / "latest").path.name == options.name
