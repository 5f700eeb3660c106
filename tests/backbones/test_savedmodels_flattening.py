"""What is saved of a tuned network: one flat model with the names of the original, in whatever process."""

import json

import numpy as np
import pytest
from tiny import save_network

from featx.backbones import describe_layers, load_backbone
from featx.finetuning.unfreezing import plan_stages
from featx.heads.networks import NetworkClassifier
from featx.specs import FineTuneSpec

pytestmark = pytest.mark.keras

SIZE = 32
IMAGES = np.random.default_rng(3).integers(0, 256, (6, SIZE, SIZE, 3), dtype=np.uint8)
TARGETS = np.arange(6, dtype=np.int32) % 3


def tune(backbone, plan, steps=1):
    from featx.finetuning.network import TunableNetwork

    stages = plan_stages(plan, backbone.layers, "net")
    network = TunableNetwork(backbone, stages, FineTuneSpec(unfreeze=plan, learning_rate=1e-3))
    head = NetworkClassifier(hidden="", dropout=0.0, scaling="none", epochs=1, random_state=0)
    head.fit(np.random.default_rng(1).normal(size=(30, network.dim)).astype(np.float32), np.arange(30) % 3)
    network.attach(head)
    network.start(stages[0])
    for _ in range(steps):
        network.learn([IMAGES[:, : backbone.height, : backbone.width]], TARGETS, np.ones(6, np.float32))
    return network


def read_structure(flat):
    return json.dumps(flat.get_config(), default=repr)


@pytest.mark.parametrize(
    "uri",
    [
        "mobilenet?alpha=0.25",
        "mobilenet?alpha=0.25&precision=mixed_bfloat16",
        "efficientnetb0",
        "convnexttiny",  # adds by `x + y`, and has networks inside
    ],
)
def test_the_saved_network_has_the_layers_of_the_original(uri, tmp_path):
    from featx.backbones.savedmodels import flatten

    first, second = (load_backbone(uri, weights="none", image_size=(SIZE, SIZE)) for _ in range(2))
    flat = flatten(first.parts)
    assert read_structure(flat) == read_structure(flatten(second.parts))  # whatever this process has built before
    flat.save(tmp_path / "backbone.keras")
    saved = load_backbone(f"file:{tmp_path / 'backbone.keras'}", pooling=first.outputs[0].pooling)
    assert [layer.name for layer in saved.layers] == [layer.name for layer in describe_layers(uri)]
    assert saved.layers == first.layers
    assert saved.outputs == first.outputs
    np.testing.assert_allclose(saved.embed(IMAGES)[0], first.embed(IMAGES)[0], rtol=0, atol=1e-6)
    assert read_structure(flatten(saved.parts)) == read_structure(flat)


@pytest.mark.parametrize("kind", ["tiny", "mobilenet"])
def test_a_second_generation_learns_and_freezes_as_the_first(kind, tmp_path):
    if kind == "tiny":
        backbone = load_backbone(f"file:{save_network(tmp_path / 'tiny.keras')}")
        below, learning = "joined_relu", {"top/kernel", "top/bias", "top_bn/gamma", "top_bn/beta"}
    else:
        backbone = load_backbone("mobilenet?alpha=0.25", weights="none", image_size=(SIZE, SIZE))
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
    np.testing.assert_allclose(saved.embed(IMAGES)[0], network.embed([IMAGES]), rtol=1e-6, atol=1e-6)


def make_sequential(keras):
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            keras.layers.Normalization(mean=[100.0, 110.0, 120.0], variance=[900.0, 800.0, 700.0]),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.BatchNormalization(name="bn"),
        ]
    )


def make_adapted(keras):
    scaled = keras.layers.Normalization(name="adapted")
    scaled.adapt(IMAGES.astype(np.float32))
    return keras.Sequential([keras.Input((None, None, 3)), scaled, keras.layers.Conv2D(4, 3, name="conv")])


def make_nested(keras):
    inner = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, name="inner_conv")(inner)
    base = keras.Model(inner, keras.layers.BatchNormalization()(x) + 1.0, name="base")
    image = keras.Input((SIZE, SIZE, 3), name="image")
    x = base(keras.layers.Rescaling(1 / 255, name="scale")(image), training=False)
    return keras.Model(image, keras.layers.Conv2D(3, 1, name="last")(x))


def make_shared(keras):
    image = keras.Input((SIZE, SIZE, 3), name="image")
    shared = keras.layers.Conv2D(4, 3, padding="same", name="shared")
    x = shared(keras.layers.Conv2D(4, 3, name="stem")(image / 255.0))
    x = shared(keras.layers.Conv2D(4, 1, name="mid")(x))
    return keras.Model(image, keras.layers.Conv2D(3, 1, name="last")(x))


def make_bytes(keras):
    image = keras.Input((SIZE, SIZE, 3), dtype="uint8", name="image")
    x = keras.layers.Rescaling(1 / 255, name="scale")(image)
    return keras.Model(image, keras.layers.Conv2D(3, 1, name="last")(x))


@pytest.mark.parametrize("make", [make_sequential, make_adapted, make_nested, make_shared, make_bytes])
@pytest.mark.parametrize("preprocess", ["", "?preprocess=caffe"])
def test_networks_of_ones_own_are_saved_flat(make, preprocess, tmp_path):
    from featx.backbones.savedmodels import flatten
    from featx.frameworks import keras

    if preprocess and make is make_bytes:
        pytest.skip("bytes are not scaled")
    plain = make(keras)
    plain.save(tmp_path / "own.keras")
    backbone = load_backbone(f"file:{tmp_path / 'own.keras'}{preprocess}", image_size=(SIZE, SIZE), pooling="avg")
    if not preprocess:
        expected = np.mean(plain(IMAGES.astype(np.float32), training=False), axis=(1, 2))
        np.testing.assert_allclose(backbone.embed(IMAGES)[0], expected, rtol=1e-4, atol=1e-4)
    network = tune(backbone, "last:1")
    network.save(tmp_path / "tuned.keras")
    saved = load_backbone(f"file:{tmp_path / 'tuned.keras'}", pooling="avg")
    assert saved.layers == backbone.layers
    np.testing.assert_allclose(saved.embed(IMAGES)[0], network.embed([IMAGES]), rtol=1e-6, atol=1e-6)
    assert read_structure(flatten(saved.parts)) == read_structure(flatten(backbone.parts))


def test_a_network_is_cut_at_an_operation_that_is_no_layer():
    backbone = load_backbone("convnexttiny", weights="none", image_size=(64, 64))
    images = IMAGES.repeat(2, axis=1).repeat(2, axis=2)
    network = tune(backbone, "blocks:1", 0)
    assert len(network.frontier) == 1
    assert network.map_shapes == ((4, 4, 384),)
    below = load_backbone("convnexttiny", weights="none", image_size=(64, 64), layers=network.frontier, pooling="none")
    assert below.outputs[0].layer == network.frontier[0]
    expected = network.embed([images])
    network.takes_maps = True
    maps = below.embed(images)[0].reshape(6, 4, 4, 384)
    np.testing.assert_allclose(network.embed([maps]), expected, rtol=1e-4, atol=1e-4)
