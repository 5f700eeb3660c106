"""The weights of `keras.applications`: from a file, or from the folder where Keras keeps the published ones."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from photos import check_rows, make_photos
from tiny import save_network

from featx.backbones import describe_layers, load_backbone
from featx.backbones.networks import digest_weights
from featx.errors import WeightsError

pytestmark = pytest.mark.keras

SMALL = "mobilenet?alpha=0.25"


# --- a file


@pytest.fixture(scope="module")
def trained():
    """A network with the shapes of the small model and other weights."""
    keras.utils.set_random_seed(3)
    return keras.applications.MobileNet(include_top=False, weights=None, input_shape=(32, 32, 3), alpha=0.25)


@pytest.fixture(scope="module")
def wider():
    return keras.applications.MobileNet(include_top=False, weights=None, input_shape=(32, 32, 3), alpha=0.5)


def save(network, path):
    """Save in the format of the file name: weights, a whole model, or a model in the old format."""
    (network.save_weights if path.name.endswith(".weights.h5") else network.save)(path)


@pytest.mark.parametrize("file_name", ["trained.weights.h5", "legacy.h5", "whole.keras"])
def test_weights_are_read_from_a_file(trained, tmp_path, file_name):
    path = tmp_path / file_name
    save(trained, path)
    images = make_photos(32)
    backbone = load_backbone(SMALL, weights=str(path), image_size=(32, 32))
    scaled = keras.applications.mobilenet.preprocess_input(images.astype(np.float32))
    check_rows(backbone.embed(images)[0], trained(scaled, training=False).numpy().mean(axis=(1, 2)))
    assert (backbone.uri, backbone.weights, backbone.source_file) == (SMALL, "file", str(path))
    assert backbone.weights_digest == digest_weights(trained)


def test_a_missing_weights_file_is_named():
    with pytest.raises(
        WeightsError, match=r"there is no weights file no/such\.h5; --weights takes imagenet, none or the"
    ):
        load_backbone(SMALL, weights="no/such.h5", image_size=(32, 32))


@pytest.mark.parametrize("file_name", ["other.weights.h5", "other.h5", "other.keras"])
def test_weights_of_another_shape_are_refused(wider, tmp_path, file_name):
    save(wider, tmp_path / file_name)
    check_refused(tmp_path / file_name)


@pytest.mark.parametrize("file_name", ["other.weights.h5", "other.h5", "other.keras"])
def test_weights_of_another_architecture_are_refused(tmp_path, file_name):
    save(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)]), tmp_path / file_name)
    check_refused(tmp_path / file_name)


@pytest.mark.parametrize("file_name", ["text.weights.h5", "text.h5", "text.keras", "text.bin"])
def test_files_without_weights_are_refused(tmp_path, file_name):
    (tmp_path / file_name).write_text("no weights")
    check_refused(tmp_path / file_name)


def check_refused(path):
    with pytest.raises(WeightsError) as caught:
        load_backbone(SMALL, weights=str(path), image_size=(32, 32))
    message = str(caught.value)
    assert message.startswith(f"{path} does not match MobileNet without its classifier (")
    assert message.endswith("); use another file, such as those of Keras that end in notop.h5 or no_top.h5")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 400


# --- published weights, in processes that have a folder of their own for them

# ImageNet's mean and deviation, and a variance that is neither the deviation nor its square.
MEAN, DEVIATION = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
OWN_VARIANCE = np.float32([0.08, 0.07, 0.09])


def run_with_weights(folder, code, *arguments):
    """Run code that prints JSON, with a given folder for Keras's weights and without downloads."""
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = {name: value for name, value in os.environ.items() if name not in {"no_proxy", "NO_PROXY"}}
    environment = {k: v for k, v in environment.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment | proxies | {"KERAS_HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Only the result is on stdout, and only Keras's messages about downloads are on stderr.
    assert [line for line in done.stderr.splitlines() if not line.startswith("Downloading data from ")] == []
    return json.loads(done.stdout)


def test_published_weights_load_offline(shared):
    code = (
        "import json, numpy as np, featx\n"
        "from sklearn.datasets import load_sample_image\n"
        "from PIL import Image\n"
        "photos = [Image.fromarray(load_sample_image(n)).resize((64, 64)) for n in ('china.jpg', 'flower.jpg')]\n"
        "photos = np.stack([np.asarray(photo) for photo in photos])\n"
        "found = []\n"
        "for uri in ('mobilenetv2', 'mobilenet?alpha=0.25'):\n"
        "    backbone = featx.load_backbone(uri, image_size=(64, 64))\n"
        "    (features,) = backbone.embed(photos)\n"
        "    found.append([backbone.weights, features.shape, float(features.max()), backbone.weights_digest])\n"
        "print(json.dumps(found))\n"
    )
    found = run_with_weights(shared / "keras", code)
    assert [(weights, shape) for weights, shape, _, _ in found] == [("imagenet", [2, 1280]), ("imagenet", [2, 256])]
    # Trained networks end in a ReLU of 6 whose features are neither silent nor saturated; random ones are silent.
    assert all(0.1 < largest <= 6 for _, _, largest, _ in found)
    path = shared / "keras" / "models" / "mobilenet_2_5_224_tf_no_top.h5"
    by_path = load_backbone(SMALL, weights=str(path), image_size=(64, 64))
    assert (by_path.weights, by_path.weights_digest) == ("file", found[1][3])


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """An EfficientNet whose weights have, like the published file, a deviation instead of the variance."""
    folder = tmp_path_factory.mktemp("keras")
    (folder / "models").mkdir()
    keras.utils.set_random_seed(1)
    plain = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(32, 32, 3))
    normalization = next(layer for layer in plain.layers if isinstance(layer, keras.layers.Normalization))
    normalization.set_weights([MEAN, DEVIATION, np.int32(0)])
    plain.save(folder / "models" / "efficientnetb0_notop.h5")
    normalization.set_weights([MEAN, OWN_VARIANCE, np.int32(0)])
    plain.save_weights(folder / "own.weights.h5")
    (folder / "models" / "mobilenet_5_0_224_tf_no_top.h5").write_bytes(b"half of a download")
    return folder


PUBLISHED = """
import hashlib, json, sys
import numpy as np
import featx
from featx.frameworks import keras
from keras.src.applications import efficientnet

path, images = sys.argv[1], np.load(sys.argv[2])
# Keras checks the hash of the file against that of the published one, which is not available here.
efficientnet.WEIGHTS_HASHES["b0"] = (None, hashlib.md5(open(path, "rb").read()).hexdigest())
plain = keras.applications.EfficientNetB0(include_top=False, weights="imagenet", input_shape=(32, 32, 3))
scaled = keras.Model(plain.input, plain.get_layer("rescaling_1").output)
found = {"plain": scaled(images.astype("float32")).numpy().tolist()}
for weights in ("imagenet", path):
    options = {"layers": ["normalization"], "pooling": "none", "image_size": (32, 32)}
    backbone = featx.load_backbone("efficientnetb0", weights=weights, **options)
    names = [layer.name for layer in backbone.layers]
    found[backbone.weights] = [backbone.weights_digest, names, backbone.embed(images)[0].tolist()]
for uri in ("mobilenetv2", "mobilenet?alpha=0.5", "mobilenet?alpha=0.3"):
    try:
        featx.load_backbone(uri)
    except featx.errors.FeatxError as error:
        found[uri] = [type(error).__name__, str(error)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(published, tmp_path_factory):
    """The results of loading published weights, and the messages if they are missing or damaged."""
    images = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(images, make_photos(32))
    return run_with_weights(published, PUBLISHED, published / "models" / "efficientnetb0_notop.h5", images)


def test_published_efficientnet_weights_compute_what_they_do_in_keras(found):
    plain = np.array(found["plain"])
    assert np.allclose(plain, (make_photos(32) / 255 - MEAN) / DEVIATION, atol=1e-4)
    check_rows(np.array(found["imagenet"][2]), plain.reshape(3, -1))


def test_the_same_weights_by_name_and_from_a_file_are_one_backbone_with_the_listed_layers(found):
    assert found["imagenet"] == found["file"]
    assert found["imagenet"][1] == [row.name for row in describe_layers("efficientnetb0", image_size=(32, 32))]


def test_a_variance_of_the_user_is_kept(published):
    path, images = str(published / "own.weights.h5"), make_photos(32)
    options = {"layers": ["normalization"], "pooling": "none", "image_size": (32, 32)}
    (features,) = load_backbone("efficientnetb0", weights=path, **options).embed(images)
    check_rows(features, ((images / 255 - MEAN) / np.sqrt(OWN_VARIANCE)).reshape(3, -1))


def test_weights_that_cannot_be_downloaded_are_named_with_their_folder(found, published):
    kind, message = found["mobilenetv2"]
    assert kind == "WeightsError"
    assert "put mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5 into " in message
    assert str(published / "models") in message
    assert "--weights PATH" in message
    assert "\n" not in message


def test_damaged_weights_are_named_with_their_folder(found, published):
    kind, message = found["mobilenet?alpha=0.5"]
    assert kind == "WeightsError"
    assert f"read from {published / 'models'} (" in message
    assert "delete a damaged file there" in message
    assert "\n" not in message


def test_weights_that_were_never_published_are_refused(found):
    kind, message = found["mobilenet?alpha=0.3"]
    assert kind == "BackboneError"
    assert "`0.25`, `0.50`, `0.75` or `1.0` only" in message


@pytest.mark.parametrize(
    ("layer", "weight", "value", "words"),
    [
        ("stem", 0, np.nan, r"stem/kernel \(216 of 216 values\)"),
        ("stem", 1, np.inf, r"stem/bias \(8 of 8 values\)"),
        ("top_bn", 3, np.nan, r"top_bn/moving_variance \(16 of 16 values\)"),
        ("top_bn", 2, -np.inf, r"top_bn/moving_mean \(16 of 16 values\)"),
        ("left", 0, "one", r"left/kernel \(1 of 576 values\)"),
    ],
)
def test_weights_that_are_not_finite_are_refused_and_named(tmp_path, layer, weight, value, words):
    network = keras.models.load_model(save_network(tmp_path / "own.keras"))
    values = network.get_layer(layer).get_weights()
    values[weight] = np.full_like(values[weight], value) if value != "one" else values[weight].copy()
    if value == "one":
        values[weight].flat[7] = np.nan
    network.get_layer(layer).set_weights(values)
    network.save(tmp_path / "own.keras")
    with pytest.raises(WeightsError, match=rf"own\.keras has weights that are NaN or infinite, in {words}; use a copy"):
        load_backbone(f"file:{tmp_path / 'own.keras'}")
