import random
import subprocess
import sys
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from photos import check_rows, make_photos

from featx.backbones import describe_layers, load_backbone
from featx.backbones.applications import name_layers
from featx.backbones.catalogue import APPLICATIONS
from featx.backbones.openvino import OpenVino, convert_network
from featx.backbones.running import measure_runtime_drift
from featx.errors import BackboneError, UnknownNameError
from featx.testing import BackboneContract

pytestmark = pytest.mark.keras

SMALL = "mobilenet?alpha=0.25"

# The smallest model of each family, and a side that is quick to compute; for the Inceptions it is Keras's minimum.
# The other process builds the first model first, so that its names there are certainly those of a fresh process.
# Without InceptionResNetV2, whose 780 layers take a minute: its pixels are scaled as those of InceptionV3.
FAMILIES = {
    "inceptionv3": 75,
    "convnexttiny": 32,
    "densenet121": 32,
    "efficientnetb0": 32,
    "efficientnetv2b0": 32,
    "mobilenet": 32,
    "mobilenetv2": 32,
    "mobilenetv3small": 32,
    "nasnetmobile": 32,
    "resnet50": 32,
    "resnet50v2": 32,
    "vgg16": 32,
    "xception": 71,
}
# Plain Keras in a process that runs in parallel to this one. Calling a network eagerly computes what `predict` does.
REFERENCES = """
import hashlib, random, sys
from pathlib import Path
import keras, numpy as np
from featx.backbones.catalogue import APPLICATIONS

for path in map(Path, sys.argv[1:]):
    keras.utils.clear_session()
    random.seed(0)
    images = np.load(path)
    application = APPLICATIONS[path.stem]
    constructor = getattr(keras.applications, application.attribute)
    network = constructor(include_top=False, weights=None, input_shape=images.shape[1:])
    preprocess_input = getattr(keras.applications, application.module).preprocess_input
    features = network(preprocess_input(images.astype("float32")), training=False).numpy().mean(axis=(1, 2))
    digest = hashlib.sha256()
    for weight in network.get_weights():
        digest.update(f"{weight.dtype.str}{weight.shape}".encode() + weight.tobytes())
    part = path.with_suffix(".part.npz")
    names = [layer.name for layer in network.layers]
    np.savez(part, features=features, digest=digest.hexdigest(), names=names, parameters=network.count_params())
    part.rename(path.with_suffix(".npz"))
"""


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """Start computing Keras's results, and return a function that waits for them."""
    folder = tmp_path_factory.mktemp("references")
    for name, side in FAMILIES.items():
        np.save(folder / f"{name}.npy", make_photos(side))
    paths = [str(folder / f"{name}.npy") for name in FAMILIES]
    log = (folder / "log").open("w+b")
    process = subprocess.Popen([sys.executable, "-c", REFERENCES, *paths], stdout=log, stderr=log)

    def read(name):
        path = folder / f"{name}.npz"
        while not path.exists():
            assert process.poll() in {None, 0}, (folder / "log").read_text()
            time.sleep(0.05)
        with np.load(path) as arrays:
            return SimpleNamespace(**arrays)

    with log, process:
        yield read
        process.kill()


# --- every family, against plain Keras


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    name, side = request.param, FAMILIES[request.param]
    images = make_photos(side)
    before = images.copy()
    # Optimising the graphs takes a third of the time of these tests; the tests of the contract do it.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    backbone = load_backbone(name, weights="none", image_size=(side, side))
    features = backbone.embed(images)
    yield SimpleNamespace(name=name, images=images, before=before, backbone=backbone, features=features)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


def test_a_family_returns_one_finite_vector_per_image_and_leaves_the_images_unchanged(family):
    (features,) = family.features
    assert features.dtype == np.float32
    assert features.shape == (3, APPLICATIONS[family.name].dim)
    assert np.isfinite(features).all()
    assert len(np.unique(features, axis=0)) == 3
    assert np.array_equal(family.images, family.before)


def test_an_image_alone_has_its_row_of_the_batch(family):
    alone = [family.backbone.embed(family.images[index : index + 1])[0] for index in range(3)]
    check_rows(np.concatenate(alone), family.features[0])


def test_a_family_preprocesses_and_computes_as_plain_keras(family, references):
    check_rows(family.features[0], references(family.name).features)


def test_random_weights_and_names_are_the_same_in_another_process(family, references):
    reference = references(family.name)
    assert family.backbone.weights_digest == reference.digest
    assert [layer.name for layer in family.backbone.layers] == list(reference.names)


def test_a_family_matches_the_catalogue(family, references):
    row = APPLICATIONS[family.name]
    assert sum(layer.parameters for layer in family.backbone.layers) == row.parameters
    assert references(family.name).parameters == row.parameters
    (output,) = family.backbone.outputs
    assert (output.layer, output.pooling) == (family.backbone.layers[-1].name, "avg")
    assert (output.dim, output.feature_shape) == (row.dim, (row.dim,))


def test_a_family_describes_itself(family):
    backbone = family.backbone
    assert (backbone.uri, backbone.weights, backbone.source_file) == (family.name, "none", "")
    assert (backbone.height, backbone.width) == family.images.shape[1:3]


def test_openvino_gives_the_features_of_keras(family):
    runtime = OpenVino(family.backbone, convert_network(family.backbone))
    runtime.fix_batch_size(3)
    assert measure_runtime_drift(family.features, runtime.embed(family.images)) < 1e-5


# --- the contract


class TestSmallMobileNet(BackboneContract):
    """Includes that a network's BatchNorm and Dropout do not mix the images of a batch."""

    @pytest.fixture(scope="class")
    @classmethod
    def backbone(cls):
        return load_backbone(SMALL, weights="none", image_size=(64, 64), layers=[-1, "conv_pw_1"], pooling="avgmax")


@pytest.fixture(scope="module")
def small():
    return load_backbone(SMALL, weights="none", image_size=(32, 48))


def test_the_default_size_is_that_of_the_weights(small):
    backbone = load_backbone(SMALL, weights="none")
    assert (backbone.height, backbone.width) == (224, 224)
    assert (small.height, small.width) == (32, 48)
    assert small.layers[0].output_shape == (32, 48, 3)


def test_names_do_not_depend_on_models_built_before():
    first = load_backbone("mobilenetv2", weights="none", image_size=(32, 32))
    load_backbone("mobilenetv3small", weights="none", image_size=(32, 32))
    second = load_backbone("MobileNetV2", weights="none", image_size=(32, 32))
    assert first.layers == second.layers
    assert first.weights_digest == second.weights_digest
    assert first.uri == second.uri == "mobilenetv2"


def test_layers_are_named_as_in_a_fresh_process_even_if_some_have_names_or_are_unused():
    def build():
        pixels = keras.Input((8, 8, 3))
        x = keras.layers.Conv2D(2, 3)(pixels)
        x = keras.layers.Conv2D(2, 3, name="mine")(x)
        keras.layers.Conv2D(2, 3)
        return keras.Model(pixels, keras.layers.Conv2D(2, 3)(keras.layers.ReLU()(x)))

    keras.utils.clear_session()
    fresh, later = build(), build()
    expected = ["input_layer", "conv2d", "mine", "re_lu", "conv2d_2"]
    assert [layer.name for layer in fresh.layers] == expected
    assert [layer.name for layer in later.layers] != expected
    assert name_layers(fresh) == name_layers(later) == expected


def test_a_deeper_layer_is_cut_in_the_same_pass(small):
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), dtype=np.uint8)
    backbone = load_backbone(SMALL, weights="none", image_size=(32, 48), layers=["conv_pw_3_relu", -1])
    assert [(output.layer, output.dim) for output in backbone.outputs] == [
        ("conv_pw_3_relu", 32),
        ("conv_pw_13_relu", 256),
    ]
    deeper = load_backbone(SMALL, weights="none", image_size=(32, 48), layers=["conv_pw_3_relu"])
    for alone, found in zip([deeper, small], backbone.embed(images), strict=True):
        check_rows(found, alone.embed(images)[0], 1e-5)


def test_an_unknown_layer_names_the_closest():
    with pytest.raises(UnknownNameError, match="mobilenet has no layer called 'conv_pw13'; did you mean conv_pw_13"):
        load_backbone("mobilenet", weights="none", image_size=(32, 32), layers=["conv_pw13"])


def test_layers_are_listed_without_weights():
    described = describe_layers(SMALL, image_size=(32, 48))
    assert describe_layers(SMALL, image_size=(32, 48)) == described
    last = described[-1]
    assert (last.index, last.name, last.output_shape) == (85, "conv_pw_13_relu", (1, 1, 256))
    assert (last.bytes_per_item, last.bytes_per_map) == (1024, 1024)


# --- arguments


@pytest.mark.parametrize(
    ("uri", "canonical", "dim"),
    [
        ("mobilenet?alpha=.5", "mobilenet?alpha=0.5", 512),
        ("MobileNet?dropout=0&alpha=0.50", "mobilenet?alpha=0.5&dropout=0.0", 512),
        ("mobilenet?alpha=0.25&depth_multiplier=2", "mobilenet?alpha=0.25&depth_multiplier=2", 256),
    ],
)
def test_arguments_reach_the_constructor_and_have_one_spelling(uri, canonical, dim):
    backbone = load_backbone(uri, weights="none", image_size=(32, 32))
    assert (backbone.uri, backbone.outputs[0].dim) == (canonical, dim)


def test_booleans_are_read():
    kinds = {}
    for text in ("True", "false"):
        rows = describe_layers(f"mobilenetv3small?minimalistic={text}", image_size=(32, 32))
        kinds[text] = {row.kind for row in rows}
    assert "Multiply" not in kinds["True"]  # squeeze-and-excite blocks are what it leaves out
    assert "Multiply" in kinds["false"]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("vgg16?alpha=1", "vgg16 takes the arguments precision; leave out alpha"),
        (
            "vgg16?precision=int8",
            "precision of vgg16 is .int8.; it must be one of float32, mixed_bfloat16, mixed_float16",
        ),
        (
            "mobilenet?width=2&alpha=1",
            "mobilenet takes the arguments alpha, depth_multiplier, dropout, precision; leave out width",
        ),
        ("mobilenet?include_top=true&weights=none", "leave out include_top, weights"),
        ("mobilenet?alpha=wide", "alpha of mobilenet is 'wide'; it must be a number, such as 1.0"),
        ("mobilenet?alpha=", "alpha of mobilenet is ''; it must be a number"),
        (
            "mobilenet?depth_multiplier=1.5",
            "depth_multiplier of mobilenet is '1.5'; it must be a whole number, such as 1",
        ),
        ("mobilenetv3small?minimalistic=1", "minimalistic of mobilenetv3small is '1'; it must be true or false"),
        ("mobilenet?alpha=0.001", "mobilenet.alpha=0.001 cannot be built: "),
        ("mobilenet?alpha=nan", "mobilenet.alpha=nan cannot be built: "),
    ],
)
def test_invalid_arguments_are_refused(uri, message):
    with pytest.raises(BackboneError, match=message) as caught:
        load_backbone(uri, weights="none", image_size=(32, 32))
    assert "\n" not in str(caught.value)


def test_a_size_that_is_too_small_is_refused():
    with pytest.raises(BackboneError, match="inceptionv3 cannot be built: Input size must be at least 75x75") as caught:
        load_backbone("inceptionv3", weights="none", image_size=(74, 80))
    assert "\n" not in str(caught.value)


def test_random_weights_leave_the_random_state_unchanged():
    random.seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002 - the state of others is the point
    load_backbone(SMALL, weights="none", image_size=(32, 32))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002 - as above


def test_reduced_precision_is_another_backbone_with_the_same_weights():
    plain = load_backbone(SMALL, weights="none", image_size=(32, 32))
    reduced = load_backbone(f"{SMALL}&precision=mixed_bfloat16", weights="none", image_size=(32, 32))
    assert reduced.uri == f"{SMALL}&precision=mixed_bfloat16"
    assert reduced.weights_digest == plain.weights_digest
    assert (plain.precision, reduced.precision) == ("float32", "bfloat16")
    (ours,), (theirs,) = reduced.embed(make_photos(32)), plain.embed(make_photos(32))
    assert ours.dtype == np.float32
    assert 1e-6 < np.abs(ours - theirs).max() / np.abs(theirs).max() < 0.1
    assert keras.config.dtype_policy().name == "float32"


def test_full_precision_by_name_is_the_same_backbone():
    assert load_backbone(f"{SMALL}&precision=float32", weights="none", image_size=(32, 32)).uri == SMALL
