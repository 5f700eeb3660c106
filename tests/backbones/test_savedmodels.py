import json
import logging
import zipfile

import keras
import numpy as np
import pytest
from keras import layers
from tiny import save_network

from featx.backbones import describe_layers, load_backbone
from featx.backbones.savedmodels import flatten
from featx.errors import BackboneError, FeatxError, UnknownNameError, WeightsError
from featx.finetuning.network import TrainableNetwork
from featx.finetuning.unfreezing import plan_stages
from featx.heads.networks import NetworkClassifier
from featx.specs import FineTuneSpec

pytestmark = pytest.mark.keras

SIDE = 16


def build(*parts, side=SIDE, dtype="float32", channels=3):
    """Build a functional model of some layers that ends in two probabilities."""
    pixels = keras.Input((side, side, channels), dtype=dtype)
    x = pixels
    for part in parts:
        x = part(x)
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(x)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(pixels, layers.Dense(2, activation="softmax", name="head")(x))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def trained(images):
    """A model that scales its pixels, compiled and trained for a step as users' models are."""
    model = build(layers.Rescaling(1 / 127.5, offset=-1), layers.RandomFlip(), layers.Dropout(0.5))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(images, np.array([0, 1, 0, 1]), verbose=0)
    return model


@pytest.fixture
def saved(trained, tmp_path):
    path = tmp_path / "My Model.keras"
    trained.save(path)
    return path


def predict(model, images, layer):
    return keras.Model(model.input, model.get_layer(layer).output)(images.astype(np.float32), training=False).numpy()


def test_a_saved_model_returns_what_keras_predicts(saved, trained, images, capfd):
    backbone = load_backbone(f"file:{saved}")
    (found,) = backbone.embed(images)
    assert np.allclose(found, trained.predict(images.astype(np.float32), verbose=0), rtol=1e-4)
    assert (backbone.height, backbone.width, backbone.weights) == (SIDE, SIDE, "file")
    assert backbone.source_file == str(saved)
    assert [(output.layer, output.pooling, output.dim) for output in backbone.outputs] == [("head", "none", 2)]
    assert capfd.readouterr().out == ""


def test_a_saved_model_is_cut_where_its_layers_are_called_as_the_user_called_them(saved, trained, images):
    backbone = load_backbone(f"file:{saved}", layers=["conv", -2], pooling=None)
    found = backbone.embed(images)
    assert [(output.layer, output.dim) for output in backbone.outputs] == [("conv", 4), ("mean", 4)]
    for matrix, expected in zip(found, [predict(trained, images, "conv").mean(axis=(1, 2))] * 2, strict=True):
        assert np.allclose(matrix, expected, rtol=1e-4, atol=1e-6)
    assert [row.name for row in describe_layers(f"file:{saved}")] == [layer.name for layer in trained.layers]


def test_its_uri_depends_on_the_content_of_the_file_only(saved, tmp_path):
    before = load_backbone(f"file:{saved}")
    moved = tmp_path / "elsewhere" / "other.keras"
    moved.parent.mkdir()
    saved.rename(moved)
    after = load_backbone(f"FILE:{moved}")
    assert after.uri == before.uri
    assert after.weights_digest == before.weights_digest
    assert after.uri.startswith("file:")
    assert "other" not in after.uri
    assert after.source_file == str(moved)


def test_another_model_under_the_same_name_has_another_uri(saved):
    before = load_backbone(f"file:{saved}").uri
    build(layers.Rescaling(1 / 255)).save(saved)
    assert load_backbone(f"file:{saved}").uri != before


def test_a_path_relative_to_home_is_found(saved, monkeypatch):
    monkeypatch.setenv("HOME", str(saved.parent))
    monkeypatch.setenv("USERPROFILE", str(saved.parent))
    assert load_backbone(f"file:~/{saved.name}").source_file == str(saved)


def test_an_unknown_layer_is_explained_with_the_users_path(saved):
    with pytest.raises(UnknownNameError, match="did you mean conv") as caught:
        load_backbone(f"file:{saved}", layers=["con"])
    assert f"`featx layers file:{saved}`" in str(caught.value)


# --- other kinds of models


def make_sequential():
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, name="conv"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2),
        ]
    )


def make_sequential_by_calling():
    model = keras.Sequential([layers.Rescaling(1 / 255), layers.Conv2D(4, 3, name="conv"), layers.Flatten()])
    model(np.zeros((1, SIDE, SIDE, 3), np.float32))
    return model


def make_transfer_learner():
    base = keras.applications.MobileNet(alpha=0.25, include_top=False, weights=None, input_shape=(32, 32, 3))
    pixels = keras.Input((32, 32, 3))
    x = keras.applications.mobilenet.preprocess_input(pixels)
    x = base(x, training=False)
    return keras.Model(pixels, layers.Dense(2)(layers.GlobalMaxPooling2D()(x)))


def make_sequential_of_models():
    flips = keras.Sequential([layers.RandomFlip(), layers.RandomRotation(0.1)])
    base = keras.Sequential([keras.Input((SIDE, SIDE, 3)), layers.Rescaling(1 / 255), layers.Conv2D(4, 3)])
    return keras.Sequential([keras.Input((SIDE, SIDE, 3)), flips, base, layers.GlobalAveragePooling2D()])


@pytest.mark.parametrize(
    "make", [make_sequential, make_sequential_by_calling, make_transfer_learner, make_sequential_of_models]
)
def test_models_as_tutorials_build_them_are_loaded_without_a_note(make, tmp_path, caplog):
    model = make()
    model.save(tmp_path / "model.keras")
    side = model.inputs[0].shape[1]
    images = np.random.default_rng(2).integers(0, 256, (5, side, side, 3), dtype=np.uint8)
    backbone = load_backbone(f"file:{tmp_path / 'model.keras'}", layers=[-1, -2])
    last, before = backbone.embed(images)
    expected = np.concatenate([model(images[i : i + 1].astype(np.float32), training=False) for i in range(5)])
    assert np.allclose(last, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert len(np.unique(before, axis=0)) == 5
    names = [layer.name for layer in model.layers if not isinstance(layer, layers.InputLayer)]
    assert [row.name for row in backbone.layers][1:] == names
    again = load_backbone(f"file:{tmp_path / 'model.keras'}")
    assert again.layers == backbone.layers
    assert caplog.records == []


def test_a_network_inside_the_model_is_a_layer_of_it(tmp_path):
    model = make_transfer_learner()
    model.save(tmp_path / "model.keras")
    images = np.random.default_rng(2).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    backbone = load_backbone(f"file:{tmp_path / 'model.keras'}", layers=["mobilenet_0.25_32"])
    assert backbone.outputs[0].dim == 256
    scaled = keras.applications.mobilenet.preprocess_input(images.astype(np.float32))
    expected = model.get_layer("mobilenet_0.25_32")(scaled, training=False).numpy().mean(axis=(1, 2))
    (found,) = backbone.embed(images)
    assert (np.abs(found - expected).max(axis=1) <= 1e-4 * expected.max(axis=1)).all()


# --- the size of the images


@pytest.fixture
def open_sized(tmp_path):
    build(layers.Rescaling(1 / 255), side=None).save(tmp_path / "open.keras")
    return f"file:{tmp_path / 'open.keras'}"


def test_an_open_size_must_be_chosen(open_sized):
    with pytest.raises(BackboneError, match="takes images of any size; choose one with --image-size"):
        load_backbone(open_sized)
    one, other = (load_backbone(open_sized, image_size=size) for size in ((20, 24), (32, 16)))
    assert (one.height, one.width, other.height, other.width) == (20, 24, 32, 16)
    assert one.layers[2].output_shape == (18, 22, 4)
    assert (one.uri, one.weights_digest) == (other.uri, other.weights_digest)
    assert other.embed(np.zeros((2, 32, 16, 3), np.uint8))[0].shape == (2, 2)


def test_a_size_that_the_network_cannot_take_is_refused(open_sized):
    with pytest.raises(BackboneError, match="cannot take images of 2x8 px"):
        load_backbone(open_sized, image_size=(2, 8))


def test_a_fixed_size_stays(saved):
    assert load_backbone(f"file:{saved}", image_size=(SIDE, SIDE)).height == SIDE
    with pytest.raises(BackboneError, match="takes images of 16x16 px; leave out --image-size"):
        load_backbone(f"file:{saved}", image_size=(SIDE, 32))


# --- how its pixels are scaled


@pytest.mark.parametrize("mode", ["tf", "torch", "caffe", "none"])
def test_the_uri_can_say_how_pixels_are_scaled(tmp_path, images, caplog, mode):
    model = build()
    model.save(tmp_path / "bare.keras")
    backbone = load_backbone(f"file:{tmp_path / 'bare.keras'}?preprocess={mode}", layers=["conv"])
    pixels = images.astype(np.float32)
    if mode != "none":
        pixels = keras.applications.imagenet_utils.preprocess_input(pixels.copy(), mode=mode)
    assert np.allclose(
        backbone.embed(images)[0], predict(model, pixels, "conv").mean(axis=(1, 2)), rtol=1e-3, atol=1e-4
    )
    assert backbone.uri.endswith(f"?preprocess={mode}")
    assert caplog.records == []


def test_a_model_without_declared_scaling_gets_a_note(tmp_path, images, caplog):
    model = build()
    model.save(tmp_path / "bare.keras")
    backbone = load_backbone(f"file:{tmp_path / 'bare.keras'}", layers=["conv"])
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("featx.backbones.savedmodels", logging.WARNING)
    assert f"use --backbone file:{tmp_path / 'bare.keras'}?preprocess=tf" in record.getMessage()
    expected = predict(model, images, "conv").mean(axis=(1, 2))
    assert np.allclose(backbone.embed(images)[0], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "part",
    [
        layers.Rescaling(1 / 255),
        layers.Normalization(mean=127.0, variance=64.0),
        layers.BatchNormalization(),
        lambda x: x / 255.0,
        lambda x: x * (1 / 255),
        lambda x: x - 127.0,
        lambda x: keras.applications.imagenet_utils.preprocess_input(x, mode="caffe"),
        keras.Sequential([layers.RandomFlip(), layers.Rescaling(1 / 255)]),
        lambda x: layers.Rescaling(1 / 255)(layers.Dropout(0.1)(layers.RandomFlip()(layers.ZeroPadding2D(1)(x)))),
    ],
    ids=["rescaling", "normalization", "batch", "divided", "multiplied", "less", "caffe", "nested", "late"],
)
def test_a_model_that_scales_its_pixels_gets_no_note(tmp_path, caplog, part):
    build(part).save(tmp_path / "model.keras")
    load_backbone(f"file:{tmp_path / 'model.keras'}")
    assert caplog.records == []


def test_scaling_after_the_first_trained_layer_does_not_scale_pixels(tmp_path, caplog):
    build(layers.Conv2D(3, 1), layers.Rescaling(1 / 255)).save(tmp_path / "model.keras")
    load_backbone(f"file:{tmp_path / 'model.keras'}")
    assert len(caplog.records) == 1


def test_a_model_of_whole_numbers_cannot_have_them_scaled(tmp_path, images):
    model = build(layers.Rescaling(1 / 255), dtype="uint8")
    model.save(tmp_path / "whole.keras")
    found = load_backbone(f"file:{tmp_path / 'whole.keras'}").embed(images)[0]
    assert np.allclose(found, model(images), rtol=1e-4)
    with pytest.raises(BackboneError, match="takes uint8 pixels of 0 to 255; leave out preprocess"):
        load_backbone(f"file:{tmp_path / 'whole.keras'}?preprocess=tf")


# --- what is refused


def check_refused(path, message, kind=BackboneError, **options):
    with pytest.raises(kind, match=message) as caught:
        load_backbone(f"file:{path}", **options)
    assert isinstance(caught.value, FeatxError)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    check_refused(tmp_path / "no.keras", r"there is no file .*no\.keras; file: takes the path of a \.keras file")
    (tmp_path / "folder.keras").mkdir()
    check_refused(tmp_path / "folder.keras", "there is no file .*folder")
    check_refused("", "there is no file")


def test_another_format_is_refused_with_a_way_to_convert_it(tmp_path):
    build().save(tmp_path / "old.h5")
    check_refused(tmp_path / "old.h5", r"is not a \.keras file; load it in Keras and save it with model\.save")
    (tmp_path / "text.keras").write_text("no model")
    check_refused(tmp_path / "text.keras", r"is not a \.keras file")


def test_a_damaged_file_is_refused(saved, tmp_path):
    whole = saved.read_bytes()
    (tmp_path / "truncated.keras").write_bytes(whole[: len(whole) // 2])
    check_refused(tmp_path / "truncated.keras", "is not a .keras file")
    with zipfile.ZipFile(tmp_path / "empty.keras", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    check_refused(tmp_path / "empty.keras", "cannot be loaded in safe mode")
    with zipfile.ZipFile(saved) as archive, zipfile.ZipFile(tmp_path / "hollow.keras", "w") as copy:
        for name in archive.namelist():
            copy.writestr(name, archive.read(name)[:500])
    check_refused(tmp_path / "hollow.keras", "cannot be loaded in safe mode")


@keras.saving.register_keras_serializable("tests")
class OwnLayer(layers.Layer):
    def call(self, inputs):
        return inputs


def test_code_of_others_is_not_run(tmp_path):
    build(layers.Lambda(lambda x: x / 255)).save(tmp_path / "lambda.keras")
    check_refused(tmp_path / "lambda.keras", r"cannot be loaded in safe mode \(.*Lambda.*\); it must be")
    build(OwnLayer()).save(tmp_path / "own.keras")
    with zipfile.ZipFile(tmp_path / "own.keras") as archive, zipfile.ZipFile(tmp_path / "unknown.keras", "w") as copy:
        for name in archive.namelist():
            copy.writestr(name, archive.read(name).replace(b"OwnLayer", b"BadLayer"))
    check_refused(tmp_path / "unknown.keras", "cannot be loaded in safe mode")


def make_two_inputs():
    one, other = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    return keras.Model([one, other], layers.Concatenate()([one, other]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: keras.Sequential([keras.Input((64,)), layers.Dense(2)]), r"takes input of shape \(None, 64\)"),
        (lambda: build(channels=1), r"takes input of shape \(None, 16, 16, 1\)"),
        (make_two_inputs, r"takes 2 inputs; a backbone takes one input, RGB images of shape \(n, height, width, 3\)"),
    ],
    ids=["vectors", "grey", "two inputs"],
)
def test_a_model_of_anything_but_rgb_images_is_refused(tmp_path, make, message):
    make().save(tmp_path / "model.keras")
    check_refused(tmp_path / "model.keras", message)


def test_a_model_that_was_not_built_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="not yet been built"):
        keras.Sequential([layers.Conv2D(4, 3)]).save(tmp_path / "model.keras")
    check_refused(tmp_path / "model.keras", "was saved before it was built")


def test_a_model_has_its_own_weights(saved):
    check_refused(saved, "has its own weights; leave out --weights imagenet", WeightsError, weights="imagenet")
    assert load_backbone(f"file:{saved}", weights="file").weights == "file"


def test_unknown_arguments_are_refused(saved):
    check_refused(f"{saved}?alpha=1", "takes the argument preprocess; leave out alpha")
    check_refused(f"{saved}?preprocess=keras", "no preprocessing called 'keras'; known: none, tf, torch, caffe")


# --- a fine-tuned network is saved as one flat model with the names of the original, in every process

LARGE_SIDE = 32
LARGE_IMAGES = np.random.default_rng(3).integers(0, 256, (6, LARGE_SIDE, LARGE_SIDE, 3), dtype=np.uint8)
TARGETS = np.arange(6, dtype=np.int32) % 3


def tune(backbone, plan, steps=1):
    stages = plan_stages(plan, backbone.layers, "net")
    network = TrainableNetwork(backbone, stages, FineTuneSpec(unfreeze=plan, learning_rate=1e-3))
    head = NetworkClassifier(hidden="", dropout=0.0, scaling="none", epochs=1, random_state=0)
    head.fit(np.random.default_rng(1).normal(size=(30, network.dim)).astype(np.float32), np.arange(30) % 3)
    network.attach(head)
    network.start(stages[0])
    for _ in range(steps):
        network.train_batch([LARGE_IMAGES[:, : backbone.height, : backbone.width]], TARGETS, np.ones(6, np.float32))
    return network


def read_structure(flat):
    return json.dumps(flat.get_config(), default=repr)


@pytest.mark.parametrize(
    "uri",
    [
        "mobilenet?alpha=0.25",
        "mobilenet?alpha=0.25&precision=mixed_bfloat16",
        "convnexttiny",  # adds by `x + y`, and has networks inside
    ],
)
def test_the_saved_network_has_the_layers_of_the_original(uri, tmp_path):
    first, second = (load_backbone(uri, weights="none", image_size=(LARGE_SIDE, LARGE_SIDE)) for _ in range(2))
    flat = flatten(first.parts)
    assert read_structure(flat) == read_structure(flatten(second.parts))  # whatever this process has built before
    flat.save(tmp_path / "backbone.keras")
    saved = load_backbone(f"file:{tmp_path / 'backbone.keras'}", pooling=first.outputs[0].pooling)
    assert [layer.name for layer in saved.layers] == [layer.name for layer in describe_layers(uri)]
    assert saved.layers == first.layers
    assert saved.outputs == first.outputs
    np.testing.assert_allclose(saved.embed(LARGE_IMAGES)[0], first.embed(LARGE_IMAGES)[0], rtol=0, atol=1e-6)
    assert read_structure(flatten(saved.parts)) == read_structure(flat)


@pytest.mark.parametrize("kind", ["tiny", "mobilenet"])
def test_a_second_generation_trains_and_freezes_like_the_first(kind, tmp_path):
    if kind == "tiny":
        backbone = load_backbone(f"file:{save_network(tmp_path / 'tiny.keras')}")
        below, learning = "joined_relu", {"top/kernel", "top/bias", "top_bn/gamma", "top_bn/beta"}
    else:
        backbone = load_backbone("mobilenet?alpha=0.25", weights="none", image_size=(LARGE_SIDE, LARGE_SIDE))
        below, learning = "conv_dw_13_relu", {"conv_pw_13_bn/beta"}  # random weights see next to nothing
    tune(backbone, "last:3").save(tmp_path / "first.keras")
    again = load_backbone(f"file:{tmp_path / 'first.keras'}")
    before = {v.path: np.array(v.numpy()) for v in again.parts.trunk.weights}
    network = tune(again, "last:3", 2)
    assert network.frontier == (below,)
    after = {v.path: np.array(v.numpy()) for v in again.parts.trunk.weights}
    assert {path for path, array in before.items() if not np.array_equal(array, after[path])} == learning
    network.check_freezing()
    network.save(tmp_path / "second.keras")
    saved = load_backbone(f"file:{tmp_path / 'second.keras'}", pooling="avg")
    assert saved.layers == backbone.layers
    np.testing.assert_allclose(saved.embed(LARGE_IMAGES)[0], network.embed([LARGE_IMAGES]), rtol=1e-6, atol=1e-6)


def make_normalizing():
    return keras.Sequential(
        [
            keras.Input((LARGE_SIDE, LARGE_SIDE, 3)),
            keras.layers.Normalization(mean=[100.0, 110.0, 120.0], variance=[900.0, 800.0, 700.0]),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.BatchNormalization(name="bn"),
        ]
    )


def make_adapted():
    scaled = keras.layers.Normalization(name="adapted")
    scaled.adapt(LARGE_IMAGES.astype(np.float32))
    return keras.Sequential([keras.Input((None, None, 3)), scaled, keras.layers.Conv2D(4, 3, name="conv")])


def make_nested():
    inner = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, name="inner_conv")(inner)
    base = keras.Model(inner, keras.layers.BatchNormalization()(x) + 1.0, name="base")
    image = keras.Input((LARGE_SIDE, LARGE_SIDE, 3), name="image")
    x = base(keras.layers.Rescaling(1 / 255, name="scale")(image), training=False)
    return keras.Model(image, keras.layers.Conv2D(3, 1, name="last")(x))


def make_shared():
    image = keras.Input((LARGE_SIDE, LARGE_SIDE, 3), name="image")
    shared = keras.layers.Conv2D(4, 3, padding="same", name="shared")
    x = shared(keras.layers.Conv2D(4, 3, name="stem")(image / 255.0))
    x = shared(keras.layers.Conv2D(4, 1, name="mid")(x))
    return keras.Model(image, keras.layers.Conv2D(3, 1, name="last")(x))


def make_bytes():
    image = keras.Input((LARGE_SIDE, LARGE_SIDE, 3), dtype="uint8", name="image")
    x = keras.layers.Rescaling(1 / 255, name="scale")(image)
    return keras.Model(image, keras.layers.Conv2D(3, 1, name="last")(x))


@pytest.mark.parametrize("make", [make_normalizing, make_adapted, make_nested, make_shared, make_bytes])
@pytest.mark.parametrize("preprocess", ["", "?preprocess=caffe"])
def test_networks_of_users_are_saved_flat(make, preprocess, tmp_path):
    if preprocess and make is make_bytes:
        pytest.skip("bytes are not scaled")
    plain = make()
    plain.save(tmp_path / "own.keras")
    backbone = load_backbone(
        f"file:{tmp_path / 'own.keras'}{preprocess}", image_size=(LARGE_SIDE, LARGE_SIDE), pooling="avg"
    )
    if not preprocess:
        expected = np.mean(plain(LARGE_IMAGES.astype(np.float32), training=False), axis=(1, 2))
        np.testing.assert_allclose(backbone.embed(LARGE_IMAGES)[0], expected, rtol=1e-4, atol=1e-4)
    network = tune(backbone, "last:1")
    network.save(tmp_path / "tuned.keras")
    saved = load_backbone(f"file:{tmp_path / 'tuned.keras'}", pooling="avg")
    assert saved.layers == backbone.layers
    np.testing.assert_allclose(saved.embed(LARGE_IMAGES)[0], network.embed([LARGE_IMAGES]), rtol=1e-6, atol=1e-6)
    assert read_structure(flatten(saved.parts)) == read_structure(flatten(backbone.parts))


def test_a_network_is_cut_at_an_operation_that_is_not_a_layer():
    backbone = load_backbone("convnexttiny", weights="none", image_size=(64, 64))
    images = LARGE_IMAGES.repeat(2, axis=1).repeat(2, axis=2)
    network = tune(backbone, "blocks:1", 0)
    assert len(network.frontier) == 1
    assert network.map_shapes == ((4, 4, 384),)
    below = load_backbone("convnexttiny", weights="none", image_size=(64, 64), layers=network.frontier, pooling="none")
    assert below.outputs[0].layer == network.frontier[0]
    expected = network.embed([images])
    network.takes_maps = True
    maps = below.embed(images)[0].reshape(6, 4, 4, 384)
    np.testing.assert_allclose(network.embed([maps]), expected, rtol=1e-4, atol=1e-4)
