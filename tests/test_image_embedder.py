import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_sample_image
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import featx
from featx import ImageEmbedder
from featx.errors import BackboneError, DataError, UnknownNameError, UsageError

DIM = 240  # of the backbone `colour`, which needs no TensorFlow


@pytest.fixture(scope="module")
def paths(digits):
    """Fifteen scans of each of three classes."""
    return [str(path) for target in "012" for path in sorted((digits / target).iterdir())[:15]]


@pytest.fixture(scope="module")
def labels(paths):
    return [Path(path).parent.name for path in paths]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of pictures of several sizes, modes and formats."""
    folder = tmp_path_factory.mktemp("photos")
    china, flower = (Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg"))
    china.save(folder / "a.jpg")
    flower.resize((90, 70)).save(folder / "b.png")
    china.convert("L").resize((50, 300)).save(folder / "c.png")
    flower.convert("RGBA").resize((33, 33)).save(folder / "d.png")
    return folder


def embed_colour(X, **options):
    return ImageEmbedder("colour", **options).fit_transform(X)


# --- images in, features out


def test_files_have_the_vectors_of_the_store(paths, digits, store):
    features = embed_colour(paths)
    assert features.dtype == np.float32
    rows = dict(zip(store.ids, store.features, strict=True))
    assert np.array_equal(features, [rows[Path(path).relative_to(digits).as_posix()] for path in paths])


@pytest.mark.keras
def test_photos_have_the_vectors_of_the_embedding_loop(photos, tmp_path):
    uri = "scattering?J=2&L=4"
    result = featx.embed(photos, uri, folder=tmp_path)
    features = ImageEmbedder(uri).fit_transform([photos / item for item in result.store.ids])
    assert features.shape == (4, 8 * 8 * (1 + 8 + 16))
    assert np.allclose(features, result.store.features, rtol=1e-4, atol=1e-4 * np.abs(features).max())


def test_pixels_have_the_vectors_of_a_lossless_file_of_them():
    images = [
        np.random.default_rng(height).integers(0, 256, (height, width, *channels), dtype=np.uint8)
        for height, width, channels in [(64, 64, (3,)), (20, 90, (3,)), (1, 1, (3,)), (300, 40, ()), (28, 28, (1,))]
    ]
    before = [image.copy() for image in images]
    features = embed_colour(images)
    for image, copy, row in zip(images, before, features, strict=True):
        assert np.array_equal(image, copy)
        file = io.BytesIO()
        Image.fromarray(image.squeeze(axis=2) if image.shape[2:] == (1,) else image).save(file, "PNG")
        pixels = featx.decode(file.getvalue(), featx.ImageSpec(64, 64)).pixels
        assert np.array_equal(row, featx.load_backbone("colour").embed(pixels[None])[0][0])


def test_every_collection_of_images_is_accepted(paths):
    arrays = np.stack([np.asarray(Image.open(path)) for path in paths[:6]])
    expected = embed_colour(paths[:6])
    mixed = [paths[0], Path(paths[1]), arrays[2], np.repeat(arrays[3][..., None], 3, axis=2), arrays[4][::1], arrays[5]]
    object_array = np.empty(6, object)
    object_array[:] = mixed
    for X in (
        arrays,
        arrays[..., None],
        np.array(paths[:6]),
        pd.Series(paths[:6], index=range(5, 11)),
        mixed,
        object_array,
    ):
        assert np.array_equal(embed_colour(X), expected)
    assert np.array_equal(embed_colour(arrays[:, ::-1]), embed_colour(arrays[:, ::-1].copy()))


def test_an_iterator_may_use_its_files_and_arrays_again(paths):
    def read_files():
        for path in paths:
            with Path(path).open("rb") as file:
                yield file

    def fill_one_array():
        array = np.empty_like(np.asarray(Image.open(paths[0])))
        for path in paths:
            array[:] = np.asarray(Image.open(path))
            yield array

    expected = embed_colour(paths)
    assert np.array_equal(embed_colour(read_files()), expected)
    assert np.array_equal(embed_colour(fill_one_array()), expected)


def test_an_empty_list_gives_no_rows():
    assert embed_colour([]).shape == (0, DIM)


@pytest.mark.parametrize("batch_size", [1, 7, 45, 100])
def test_the_batch_size_does_not_change_the_features(paths, batch_size):
    assert np.array_equal(embed_colour(paths, batch_size=batch_size), embed_colour(paths))


@pytest.mark.parametrize(
    ("size", "height", "width"), [(16, 16, 16), ((16, 24), 16, 24), ([8, 40], 8, 40), (np.int64(8), 8, 8)]
)
def test_the_size_is_a_number_or_a_pair(photos, size, height, width):
    paths = sorted(photos.iterdir())
    spec = featx.ImageSpec(height, width)
    backbone = featx.load_backbone("colour", image_size=(height, width))
    expected = backbone.embed(np.stack([featx.decode(path.read_bytes(), spec).pixels for path in paths]))[0]
    assert np.array_equal(embed_colour(paths, image_size=size), expected)


@pytest.mark.keras
def test_layer_and_pooling_are_those_of_the_backbone(photos):
    paths = sorted(photos.iterdir())
    embedder = ImageEmbedder("scattering?J=2&L=4", layer="order1", pooling="avgmax", image_size=16).fit(paths)
    options = {"layers": ["order1"], "pooling": "avgmax", "image_size": (16, 16)}
    backbone = featx.load_backbone("scattering?J=2&L=4", **options)
    pixels = [featx.decode(path.read_bytes(), featx.ImageSpec(16, 16)).pixels for path in paths]
    features = embedder.transform(paths)
    assert features.shape == (4, 16)
    assert np.allclose(features, backbone.embed(np.stack(pixels))[0], rtol=1e-4)


# --- what cannot be embedded


def make_broken(folder):
    path = folder / "page.jpg"
    path.write_text("<html>not found</html>")
    return path


def test_an_undecodable_file_is_named(paths, tmp_path):
    broken = make_broken(tmp_path)
    with pytest.raises(DataError) as caught:
        embed_colour([*paths[:3], broken, *paths[3:]])
    message = str(caught.value)
    assert message.startswith(f"image 3 ({broken}) cannot be embedded: not an image: it starts with b'<html>")
    assert message.endswith("; leave it out")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(
        DataError, match=r"^image 0 \(.*nowhere\.png\) cannot be embedded: No such file or directory; leave"
    ):
        embed_colour([tmp_path / "nowhere.png"])
    with pytest.raises(DataError, match=r"^image 0 \(.*\) cannot be embedded: "):
        embed_colour([tmp_path])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            np.zeros((8, 8, 3)),
            r"its pixels are float64; they must be uint8 from 0 to 255, not scaled: for .* pass \(255 \* image\).round",
        ),
        (np.full((8, 8, 3), 200, np.float32), r"its pixels are float32; .*pass image.round\(\).clip\(0, 255\)"),
        (np.zeros((8, 8, 3), bool), r"its pixels are bool; .*such as 255 \* image"),
        (np.zeros((8, 8), np.uint16), "its pixels are uint16"),
        (
            np.zeros((3, 8, 8), np.uint8),
            r"its shape is \(3, 8, 8\); it must be \(height, width, 3\), \(height, width, 4\) or \(height, width\)",
        ),
        (np.zeros((8, 8, 2), np.uint8), r"its shape is \(8, 8, 2\)"),
        (np.zeros((8, 8, 3, 1), np.uint8), r"its shape is \(8, 8, 3, 1\)"),
        (np.zeros(8, np.uint8), r"its shape is \(8,\)"),
        (np.zeros((0, 8, 3), np.uint8), r"its shape is \(0, 8, 3\)"),
        (np.array(["a.png"]), "its pixels are <U5"),
        (np.uint8(3), "it is of type uint8; it must be a path, bytes, a file, a PIL image or a uint8 array"),
        (Image.new("F", (8, 8)), "its mode is F, which has no defined black and white; convert it to L or RGB"),
        (Image.new("I", (8, 8)), "its mode is I, which"),
        (None, "it is of type NoneType"),
        (b"photo.png", "not an image: it starts with b'photo.png'"),
        (b"", "the file is empty"),
        (io.StringIO("photo.png"), "its read.. returns str; open the file with mode 'rb'"),
        ([[0, 0]], "it is of type list"),
    ],
)
def test_other_objects_are_refused_with_their_position(paths, image, message):
    with pytest.raises(DataError, match=f"^image 1 cannot be embedded: {message}.*; leave it out$"):
        embed_colour([paths[0], image])


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ("photo.png", "X is a single path, 'photo.png'; pass a list of images"),
        (Path("photo.png"), "X is a single path"),
        (np.zeros((64, 64, 3), np.uint8), r"X is a single image of shape \(64, 64, 3\); pass a list of images"),
        (b"photo", "X is a single bytes; pass a list of images"),
        (Image.new("RGB", (8, 8)), "X is a single Image; pass a list of images"),
        (io.BytesIO(), "X is a single BytesIO; pass a list of images"),
        (pd.DataFrame({"path": ["photo.png"]}), r"X is a table; pass one of its columns, such as X\['path'\]"),
    ],
)
def test_other_collections_are_refused(X, message):
    with pytest.raises(DataError, match=message):
        embed_colour(X)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backbone": "color"}, UnknownNameError, "did you mean colour"),
        ({"backbone": "colour", "pooling": "median"}, UsageError, "no pooling called 'median'"),
        ({"backbone": "colour", "pooling": "avg"}, BackboneError, "cannot reduce"),
        ({"backbone": "colour", "layer": "conv"}, UnknownNameError, "nown: colour"),
        ({"backbone": "colour", "weights": "imagenet"}, BackboneError, "are computed"),
        ({"backbone": "colour", "image_size": 0}, UsageError, "image size is 0x0 px"),
        ({"backbone": "colour", "image_size": 64.0}, UsageError, "image size is 64.0x64.0 px"),
        ({"backbone": "colour", "image_size": (64, 64, 3)}, UsageError, "it must be height and width"),
        ({"backbone": "colour", "batch_size": 0}, UsageError, "batch_size is 0; it must be at least 1"),
    ],
)
def test_invalid_parameters_are_refused(paths, options, error, message):
    with pytest.raises(error, match=message):
        ImageEmbedder(**options).fit(paths).transform(paths)


# --- as an estimator of scikit-learn


def test_it_must_be_fitted_first(paths):
    with pytest.raises(NotFittedError):
        ImageEmbedder("colour").transform(paths)


def test_a_clone_has_the_same_parameters_and_is_not_fitted(paths):
    embedder = ImageEmbedder("colour", image_size=(16, 24), batch_size=3).fit(paths)
    copy = clone(embedder)
    assert copy.get_params() == embedder.get_params()
    assert copy.get_params() == {
        "backbone": "colour",
        "layer": None,
        "pooling": None,
        "weights": None,
        "image_size": (16, 24),
        "batch_size": 3,
        "runtime": "auto",
    }
    assert not hasattr(copy, "n_features_in_")
    assert embedder.n_features_in_ == 1


def test_fitting_neither_reads_images_nor_labels(tmp_path):
    embedder = ImageEmbedder("colour")
    assert embedder.fit([tmp_path / "nowhere.png"], ["a"]) is embedder


def test_features_are_named_and_come_as_a_table_on_request(paths):
    embedder = ImageEmbedder("colour").fit(paths)
    names = [f"imageembedder{number}" for number in range(DIM)]
    assert list(embedder.get_feature_names_out()) == names
    column = pd.Series(paths[:5], index=list("abcde"))
    table = embedder.set_output(transform="pandas").transform(column)
    assert list(table.columns) == names
    assert list(table.index) == list("abcde")
    assert np.array_equal(table.to_numpy(), embed_colour(paths[:5]))


def test_it_works_in_a_pipeline_and_a_column_transformer(paths, labels):
    head = make_pipeline(ImageEmbedder("colour"), StandardScaler(), LogisticRegression(max_iter=200))
    assert head.fit(paths, labels).score(paths, labels) == 1
    assert head[:-1].get_feature_names_out()[0] == "imageembedder0"
    table = pd.DataFrame({"path": paths, "width": 8.0})
    both = ColumnTransformer([("image", ImageEmbedder("colour"), "path"), ("rest", "passthrough", ["width"])])
    assert both.fit_transform(table).shape == (45, DIM + 1)
    assert both.get_feature_names_out()[-1] == "rest__width"


def test_a_pipeline_predicts_pictures_of_every_form_alike(paths, labels):
    head = make_pipeline(ImageEmbedder("colour"), LogisticRegression(max_iter=200)).fit(paths, labels)
    expected = head.predict_proba(paths[:6])
    data = [Path(path).read_bytes() for path in paths[:6]]
    opened = [Image.open(io.BytesIO(one)) for one in data]
    arrays = [np.asarray(Image.open(io.BytesIO(one))) for one in data]
    mixed = [paths[0], data[1], io.BytesIO(data[2]), opened[3], arrays[4], memoryview(data[5])]
    for pictures in (data, list(map(io.BytesIO, data)), opened, arrays, mixed, iter(mixed)):
        assert np.array_equal(head.predict_proba(pictures), expected)


def test_it_can_be_searched_over_in_parallel(paths, labels):
    head = make_pipeline(ImageEmbedder("colour"), StandardScaler(), LogisticRegression(max_iter=200))
    grid = {"imageembedder__image_size": [8, 64], "logisticregression__C": [0.01, 1.0]}
    search = GridSearchCV(head, grid, cv=3, n_jobs=2, error_score="raise").fit(paths, labels)
    alone = GridSearchCV(head, grid, cv=3, error_score="raise").fit(paths, labels)
    assert np.array_equal(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])
    assert search.best_score_ > 0.9
    assert search.predict(paths[:1]) == labels[:1]


@pytest.mark.keras
def test_networks_can_be_searched_over(paths, labels):
    head = make_pipeline(ImageEmbedder("scattering?J=1&L=4"), StandardScaler(), LogisticRegression(max_iter=200))
    grid = {
        "imageembedder__layer": [-1, 0],
        "imageembedder__image_size": [8],
        "imageembedder__pooling": ["avg", "flatten"],
    }
    search = GridSearchCV(head, grid, cv=3, error_score="raise").fit(paths, labels)
    assert search.best_params_ == {
        "imageembedder__layer": -1,
        "imageembedder__image_size": 8,
        "imageembedder__pooling": "flatten",
    }
    assert search.best_score_ > 0.9


@pytest.mark.parametrize("backbone", ["colour", pytest.param("scattering?J=1&L=4", marks=pytest.mark.keras)])
def test_it_pickles_without_its_network(paths, backbone):
    embedder = ImageEmbedder(backbone, image_size=8).fit(paths)
    embedder.transform(paths[:1])
    data = pickle.dumps(embedder)
    assert len(data) < 1000
    assert np.array_equal(pickle.loads(data).transform(paths), embedder.transform(paths))  # noqa: S301 - our own bytes


def test_it_works_in_other_processes(paths):
    embedder = ImageEmbedder("colour").fit(paths)
    halves = joblib.Parallel(n_jobs=2)(joblib.delayed(embedder.transform)(part) for part in (paths[:20], paths[20:]))
    assert np.array_equal(np.concatenate(halves), embedder.transform(paths))


def test_it_is_cross_validated_like_any_classifier(paths, labels):
    head = make_pipeline(ImageEmbedder("colour"), LogisticRegression(max_iter=200))
    assert cross_val_score(head, paths, labels, cv=3).mean() > 0.9


# --- one network for equal settings


@pytest.mark.keras
def test_a_model_file_that_was_written_again_is_loaded_again(tmp_path):
    from featx.frameworks import keras

    def save(factor):
        pixels = keras.Input((4, 4, 3))
        keras.Model(pixels, keras.layers.Rescaling(factor)(pixels)).save(tmp_path / "model.keras")

    images = np.full((2, 4, 4, 3), 10, np.uint8)
    embedder = ImageEmbedder(f"file:{tmp_path / 'model.keras'}")
    save(2.0)
    assert np.array_equal(embedder.fit(images).transform(images), np.full((2, 3), 20, np.float32))
    save(3.0)
    os.utime(tmp_path / "model.keras", ns=(1, 1))  # two saves may fall into one tick of the clock
    assert np.array_equal(embedder.fit(images).transform(images), np.full((2, 3), 30, np.float32))


def test_it_runs_without_a_framework(tmp_path, paths):
    for name in ("keras", "tensorflow"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('a framework was imported')\n")
    code = "import sys, featx; print(featx.ImageEmbedder('colour').fit_transform(sys.argv[1:]).shape)"
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code, *paths[:2]],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "(2, 240)", done.stderr
