"""Views in prediction: those that the head was trained on, and those that the caller requests."""

import hashlib
import json

import numpy as np
import pytest
from pictures import write_digits

import featx
from featx.errors import BundleError, UsageError
from featx.items.augmentation import parse_augmentation, view_image
from featx.options import EmbedOptions, FitOptions
from featx.specs import ViewSpec

TTA = ViewSpec(2, "rotate:10,shift:0.1", 5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def plain(store, runs):
    return featx.Predictor.load(featx.fit(store, "logreg", params={"C": 1}, options=FitOptions(folder=runs)).bundle)


@pytest.fixture(scope="module")
def averaging(digits, runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("viewed")
    store = featx.embed(digits, "colour", views=3, augmentation="shift:0.1", folder=folder).store
    return featx.Predictor.load(featx.fit(store, "logreg", params={"C": 1}, options=FitOptions(folder=runs)).bundle)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("others"), per_class=4, skip=80)


def predict(predictor, paths, *, views=None, **options):
    return np.stack([p.probabilities for p in predictor.predict(paths, EmbedOptions(**options), views=views)])


def list_views(pixels, spec, sha256):
    augmentation = parse_augmentation(spec.augmentation)
    return [
        view_image(pixels, augmentation, seed=spec.seed, sha256=sha256, number=number)
        for number in range(spec.count + 1)
    ]


@pytest.mark.parametrize("which", ["plain", "averaging"])
def test_probabilities_are_the_mean_over_the_image_and_its_views(which, others, request):
    predictor = request.getfixturevalue(which)
    paths = sorted(others.rglob("*.png"))[::7]
    expected = []
    for path in paths:
        data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        views = list_views(featx.decode(data, predictor.bundle.embed_spec.image).pixels, TTA, sha256)
        expected.append(predictor.predict_proba(np.stack(views), [sha256] * len(views)).mean(axis=0))
    found = predict(predictor, paths, views=TTA)
    assert np.allclose(found, expected, atol=1e-6)
    assert not np.allclose(found, predict(predictor, paths), atol=1e-4)
    assert np.allclose(found.sum(axis=1), 1)


@pytest.mark.parametrize("which", ["plain", "averaging"])
def test_neither_batches_nor_order_change_a_prediction(which, others, request):
    predictor = request.getfixturevalue(which)
    paths = sorted(others.rglob("*.png"))
    one = predict(predictor, paths, views=TTA, batch_size=1, workers=1)
    many = predict(predictor, paths[::-1], views=TTA, batch_size=7, workers=3)[::-1]
    assert np.allclose(one, many, atol=1e-6)


def test_decoded_images_have_the_views_of_their_files_if_their_sha256s_are_passed(averaging, others):
    path = next(others.rglob("*.png"))
    data = path.read_bytes()
    pixels = featx.decode(data, averaging.bundle.embed_spec.image).pixels[None]
    by_file = predict(averaging, [path])
    assert np.allclose(averaging.predict_proba(pixels, [hashlib.sha256(data).hexdigest()]), by_file, atol=1e-6)
    alone = averaging.predict_proba(pixels)
    assert np.array_equal(alone, averaging.predict_proba(pixels))
    assert averaging.embed(pixels).shape == averaging.bundle.golden.features[:1].shape
    assert averaging.embed(pixels[:0]).shape == (0, averaging.bundle.golden.features.shape[1])


def test_errors_keep_their_places_among_views(averaging, others, tmp_path):
    (tmp_path / "page.jpg").write_bytes(b"<html></html>")
    good = sorted(others.rglob("*.png"))[:2]
    paths = [tmp_path / "page.jpg", good[0], tmp_path / "gone.png", good[1]]
    predictions = list(averaging.predict(paths, EmbedOptions(batch_size=5), views=TTA))
    assert [p.path for p in predictions] == [str(path) for path in paths]
    assert [bool(p.error) for p in predictions] == [True, False, True, False]


def test_evaluation_takes_views(plain, others):
    with_views, without = plain.evaluate(others, views=TTA), plain.evaluate(others)
    assert with_views.n_items == without.n_items == 40
    assert with_views.log_loss != without.log_loss


@pytest.mark.parametrize(
    "views",
    [
        {"count": 3, "augmentation": "blur", "seed": 0},
        {"count": 3, "augmentation": "Flip ", "seed": 0},
        {"count": 10**9, "augmentation": "flip", "seed": 0},
        {"count": 3, "augmentation": ["flip"], "seed": 0},
        {"count": 3},
        [],
        "flip",
    ],
)
def test_the_views_of_an_untrusted_bundle_are_checked(averaging, runs, views, tmp_path):
    import shutil

    folder = tmp_path / "bundle"
    shutil.copytree(averaging.bundle.path, folder)
    about = json.loads((folder / "bundle.json").read_text())
    about["embed"]["views"] = views
    (folder / "bundle.json").write_text(json.dumps(about))
    with pytest.raises(BundleError):
        featx.Predictor.load(folder)


def test_views_of_views_with_too_many_pixels_are_refused(averaging, others, monkeypatch):
    monkeypatch.setattr("featx.prediction.MAX_PIXELS", 10**7)
    with pytest.raises(
        UsageError, match=r"1,001 times 4 images of \d+x\d+ px, more than the limit of .*; use fewer --views"
    ):
        next(averaging.predict(others, views=ViewSpec(1000, "flip")))
