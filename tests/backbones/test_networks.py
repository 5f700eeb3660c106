import hashlib

import keras
import numpy as np
import pytest
from keras import layers

from featx.backbones.networks import GEM_EXPONENT, GEM_FLOOR, choose_pooling, digest_weights, make_backbone
from featx.errors import BackboneError, UnknownNameError

pytestmark = pytest.mark.keras

HEIGHT, WIDTH = 12, 10


def build_network():
    """Build a network with a map (some of it negative), tokens, vectors, and layers that differ in training."""
    pixels = keras.Input((HEIGHT, WIDTH, 3), name="pixels")
    x = layers.Conv2D(4, 3, name="conv")(pixels)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Dropout(0.5, name="dropout")(x)
    x = layers.Reshape((80, 4), name="tokens")(x)
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(pixels, layers.Dense(3, name="head")(x))


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    network = build_network()
    network.get_layer("norm").set_weights([np.float32(values) for values in np.random.default_rng(0).random((4, 4))])
    return network


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (5, HEIGHT, WIDTH, 3), dtype=np.uint8)


def embed(network, images, **options):
    """Embed with a new backbone; one float32 matrix per output."""
    return make_backbone(network, uri="test", weights="none", **options).embed(images)


def compute(network, layer, images):
    """Compute Keras's output of a layer, for float32 pixels."""
    return keras.Model(network.input, network.get_layer(layer).output).predict(images.astype(np.float32), verbose=0)


def pool_in_numpy(maps, pooling):
    """Pool `(n, ..., channels)` by the definition of each pooling."""
    flat = maps.reshape(len(maps), -1, maps.shape[-1]).astype(np.float64)
    if pooling in {"flatten", "none"}:
        return maps.reshape(len(maps), -1)
    if pooling == "avgmax":
        return np.hstack([pool_in_numpy(maps, "avg"), pool_in_numpy(maps, "max")])
    if pooling == "gem":
        return np.cbrt((np.maximum(flat, 1e-6) ** 3).mean(axis=1))
    return {"avg": flat.mean, "max": flat.max}[pooling](axis=1)


# --- pooling


@pytest.mark.parametrize("pooling", ["avg", "max", "avgmax", "gem", "flatten", "none"])
@pytest.mark.parametrize(("layer", "shape"), [("conv", (10, 8, 4)), ("tokens", (80, 4))])
def test_a_pooling_is_its_formula(network, images, layer, shape, pooling):
    backbone = make_backbone(network, uri="test", weights="none", layers=[layer], pooling=pooling)
    maps = compute(network, layer, images)
    assert maps.shape == (5, *shape)
    assert (maps < 0).any()
    expected = pool_in_numpy(maps, pooling)
    (found,) = backbone.embed(images)
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    (output,) = backbone.outputs
    assert (output.layer, output.pooling, output.dim) == (layer, pooling, expected.shape[1])
    assert output.feature_shape == (shape if pooling == "none" else (expected.shape[1],))


def test_tokens_have_poolings_of_their_own(network, images):
    tokens = compute(network, "tokens", images)
    first, rest = tokens[:, 0], tokens[:, 1:].mean(axis=1)
    for pooling, expected in (("cls", first), ("mean-patch", rest), ("cls+mean", np.hstack([first, rest]))):
        (found,) = embed(network, images, layers=["tokens"], pooling=pooling)
        assert np.allclose(found, expected, rtol=1e-4, atol=1e-3)
        with pytest.raises(BackboneError, match=r"layer 'conv' returns maps of shape .* which have no class token"):
            embed(network, images, layers=["conv"], pooling=pooling)


def test_generalised_mean_has_the_published_exponent():
    assert (GEM_EXPONENT, GEM_FLOOR) == (3.0, 1e-6)


@pytest.mark.parametrize("pooling", ["flatten", "none"])
def test_a_vector_is_kept(network, images, pooling):
    (found,) = embed(network, images, layers=["mean"], pooling=pooling)
    assert np.allclose(found, compute(network, "mean", images), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("pooling", ["avg", "max", "avgmax", "gem"])
def test_a_vector_cannot_be_reduced(network, pooling):
    with pytest.raises(BackboneError, match=f"layer 'head' returns vectors, which pooling '{pooling}' cannot reduce"):
        make_backbone(network, uri="test", weights="none", layers=["conv", "head"], pooling=pooling)


@pytest.mark.parametrize(
    ("layer", "default", "pooling", "dim"),
    [
        ("conv", None, "avg", 4),
        ("conv", "flatten", "flatten", 320),
        ("tokens", None, "avg", 4),
        ("tokens", "flatten", "avg", 4),
        ("mean", None, "none", 4),
        ("mean", "flatten", "none", 4),
    ],
)
def test_the_default_pooling_depends_on_the_rank(network, layer, default, pooling, dim):
    backbone = make_backbone(network, uri="test", weights="none", layers=[layer], default_pooling=default)
    assert [(output.pooling, output.dim) for output in backbone.outputs] == [(pooling, dim)]
    described = next(row for row in backbone.layers if row.name == layer)
    assert described.bytes_per_item == 4 * dim


def test_an_output_of_unusual_rank_is_kept():
    assert [choose_pooling(rank) for rank in (1, 2, 3, 4, 5)] == ["none", "none", "avg", "avg", "none"]


# --- layers


def test_layers_are_described(network):
    described = make_backbone(network, uri="test", weights="none").layers
    assert [(row.index, row.name, row.kind, row.output_shape, row.parameters) for row in described] == [
        (0, "pixels", "InputLayer", (12, 10, 3), 0),
        (1, "conv", "Conv2D", (10, 8, 4), 3 * 3 * 3 * 4 + 4),
        (2, "norm", "BatchNormalization", (10, 8, 4), 16),
        (3, "dropout", "Dropout", (10, 8, 4), 0),
        (4, "tokens", "Reshape", (80, 4), 0),
        (5, "mean", "GlobalAveragePooling1D", (4,), 0),
        (6, "head", "Dense", (3,), 15),
    ]
    assert [row.bytes_per_item for row in described] == [12, 16, 16, 16, 16, 16, 12]
    assert [row.bytes_per_map for row in described] == [1440, 1280, 1280, 1280, 1280, 16, 12]


@pytest.mark.parametrize(
    ("layer", "name"),
    [("conv", "conv"), (1, "conv"), (-6, "conv"), (np.int64(-2), "mean"), (-1, "head"), (0, "pixels")],
)
def test_a_layer_is_found_by_name_and_by_index_from_either_end(network, images, layer, name):
    backbone = make_backbone(network, uri="test", weights="none", layers=[layer])
    assert [output.layer for output in backbone.outputs] == [name]
    expected = compute(network, name, images)
    (found,) = backbone.embed(images)
    pooled = pool_in_numpy(expected, "avg" if expected.ndim > 2 else "none")
    assert np.allclose(found, pooled, rtol=1e-4, atol=1e-4 * np.abs(pooled).max())


def test_the_default_is_the_last_layer(network):
    assert [output.layer for output in make_backbone(network, uri="test", weights="none").outputs] == ["head"]


def test_several_layers_in_one_pass_are_those_of_single_passes(network, images):
    names = ["head", "conv", "tokens"]
    together = embed(network, images, layers=names)
    for name, found in zip(names, together, strict=True):
        (alone,) = embed(network, images, layers=[name])
        assert np.allclose(found, alone, rtol=1e-5, atol=1e-5 * np.abs(alone).max())


def test_a_layer_that_is_named_twice_is_cut_once(network):
    backbone = make_backbone(network, uri="test", weights="none", layers=["conv", 1, -6, "head"])
    assert [output.layer for output in backbone.outputs] == ["conv", "head"]


def test_names_can_be_replaced(network):
    names = [f"layer{index}" for index in range(7)]
    backbone = make_backbone(network, uri="test", weights="none", layers=["layer1"], names=names)
    assert [row.name for row in backbone.layers] == names
    assert backbone.outputs[0].dim == 4
    with pytest.raises(UnknownNameError, match="no layer called 'conv'"):
        make_backbone(network, uri="test", weights="none", layers=["conv"], names=names)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("token", "^test has no layer called 'token'; did you mean tokens.* `featx layers test` lists all 7$"),
        ("Conv", "did you mean conv"),
        ("zzz", "^test has no layer called 'zzz'; `featx layers test` lists all 7$"),
        (7, "^test has 7 layers; there is no layer 7. `featx layers test` lists them$"),
        (-8, "there is no layer -8"),
    ],
)
def test_an_unknown_layer_names_the_closest_and_the_command_that_lists_all(network, layer, message):
    with pytest.raises(UnknownNameError, match=message):
        make_backbone(network, uri="test", weights="none", layers=["conv", layer])


def test_a_users_file_is_named_by_its_path(network):
    with pytest.raises(
        UnknownNameError, match=r"^file:/nets/my\.keras has no layer called 'x'; `featx layers file:/nets/"
    ):
        make_backbone(network, uri="file:0a1b", weights="file", source_file="/nets/my.keras", layers=["x"])


def test_a_network_cannot_be_cut_at_a_layer_with_several_outputs_but_next_to_it():
    pixels = keras.Input((4, 4, 3), name="pixels")
    rows = layers.Reshape((4, 12), name="rows")(pixels)
    whole, state, _ = layers.LSTM(5, return_sequences=True, return_state=True, name="lstm")(rows)
    network = keras.Model(pixels, layers.Concatenate(name="both")([layers.Flatten(name="flat")(whole), state]))
    backbone = make_backbone(network, uri="test", weights="none")
    assert backbone.outputs[0].dim == 25
    described = next(row for row in backbone.layers if row.name == "lstm")
    assert (described.output_shape, described.bytes_per_item, described.bytes_per_map) == ((), 0, 0)
    with pytest.raises(BackboneError, match="layer 'lstm' has several outputs"):
        make_backbone(network, uri="test", weights="none", layers=["lstm"])


def test_a_network_can_be_cut_at_a_nested_model(images):
    inner = keras.Sequential(
        [keras.Input((HEIGHT, WIDTH, 3)), layers.Conv2D(6, 3, name="deep")], name="sequential_part"
    )
    part_input = keras.Input((10, 8, 6))
    part = keras.Model(part_input, layers.Conv2D(5, 3)(part_input), name="functional_part")
    pixels = keras.Input((HEIGHT, WIDTH, 3))
    x = inner(layers.Rescaling(1 / 255, name="scaled")(pixels))
    network = keras.Model(pixels, layers.GlobalAveragePooling2D(name="mean")(part(x)))
    found = embed(network, images, layers=["sequential_part", "functional_part", "mean"])
    scaled = images.astype(np.float32) / 255
    for matrix, expected in zip(found, [inner(scaled), part(inner(scaled)), part(inner(scaled))], strict=True):
        assert np.allclose(matrix, expected.numpy().mean(axis=(1, 2)), rtol=1e-4, atol=1e-6)


# --- pixels


def test_pixels_are_scaled_inside(network, images):
    plain = embed(network, images)
    scaled = embed(network, images, scale=lambda pixels: pixels / 127.5 - 1)
    expected = network.predict(images.astype(np.float32) / 127.5 - 1, verbose=0)
    assert np.allclose(scaled, expected, rtol=1e-4, atol=1e-4)
    assert not np.allclose(scaled, plain, rtol=1e-2)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])
def test_a_network_gets_pixels_of_its_input_dtype(images, dtype):
    pixels = keras.Input((HEIGHT, WIDTH, 3), dtype=dtype)
    network = keras.Model(pixels, layers.Rescaling(1 / 255)(pixels))
    (found,) = embed(network, images)
    assert np.allclose(found, images.mean(axis=(1, 2)) / 255, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_features_are_float32_in_every_precision(policy):
    pixels = keras.Input((HEIGHT, WIDTH, 3))
    network = keras.Model(pixels, layers.Rescaling(200.0, dtype=keras.DTypePolicy(policy))(pixels))
    (found,) = embed(network, np.full((2, HEIGHT, WIDTH, 3), 255, np.uint8))
    assert found.dtype == np.float32
    # Half precision can hold the 51,000 of each pixel, but not their sum.
    assert np.allclose(found, 51_000, rtol=4e-3)


def test_the_result_is_writable_and_the_images_are_unchanged(network, images):
    before = images.copy()
    (found,) = embed(network, images)
    found += 1
    assert np.array_equal(images, before)


# --- frozen


def test_layers_run_in_inference_mode(network, images):
    mean, variance = np.float32([5, -3, 0, 100]), np.float32([4, 1, 9, 0.5])
    copy = keras.models.clone_model(network)
    copy.get_layer("norm").set_weights([np.ones(4), np.zeros(4), mean, variance])
    maps = compute(copy, "conv", images)
    (found,) = embed(copy, images, layers=["dropout"], pooling="none")
    expected = (maps - mean) / np.sqrt(variance + 1e-3)
    assert np.allclose(found.reshape(expected.shape), expected, rtol=1e-4, atol=1e-3)


def test_nothing_can_be_trained_and_embedding_changes_no_weight(network, images):
    copy = keras.models.clone_model(network)
    backbone = make_backbone(copy, uri="test", weights="none")
    assert backbone.model.weights
    assert not backbone.model.trainable_weights
    backbone.embed(images)
    assert digest_weights(copy) == backbone.weights_digest


@keras.saving.register_keras_serializable()
class CountedLayer(layers.Layer):
    calls = 0

    def call(self, inputs):
        CountedLayer.calls += 1
        return inputs


def test_the_network_is_traced_once_for_all_batch_sizes(images):
    pixels = keras.Input((HEIGHT, WIDTH, 3))
    backbone = make_backbone(keras.Model(pixels, CountedLayer()(pixels)), uri="test", weights="none")
    backbone.embed(images)
    before = CountedLayer.calls
    for size in (1, 2, 5, 3, 1):
        backbone.embed(images[:size])
    assert CountedLayer.calls == before


# --- the size and number of the images


def test_an_open_size_is_fixed_and_the_weights_are_kept(images):
    pixels = keras.Input((None, None, 3), name="any")
    network = keras.Model(pixels, layers.Conv2D(4, 3, name="conv")(pixels))
    backbone = make_backbone(network, uri="test", weights="none", size=(HEIGHT, WIDTH))
    assert (backbone.height, backbone.width) == (HEIGHT, WIDTH)
    assert [(row.name, row.output_shape, row.bytes_per_map) for row in backbone.layers] == [
        ("pixels", (12, 10, 3), 1440),
        ("conv", (10, 8, 4), 1280),
    ]
    assert backbone.weights_digest == digest_weights(network)
    expected = network.predict(images.astype(np.float32), verbose=0).mean(axis=(1, 2))
    assert np.allclose(backbone.embed(images)[0], expected, rtol=1e-4, atol=1e-3)


def test_a_size_that_is_too_small_for_the_network_is_refused():
    pixels = keras.Input((None, None, 3))
    network = keras.Model(pixels, layers.Conv2D(4, 9)(pixels))
    with pytest.raises(BackboneError, match=r"cannot take images of 8x40 px .*; choose another size"):
        make_backbone(network, uri="test", weights="none", size=(8, 40))


@pytest.mark.parametrize("sequential", [True, False])
def test_a_network_for_one_image_takes_any_number(images, sequential):
    if sequential:
        network = keras.Sequential([layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()])
        network(images[:1].astype(np.float32))
    else:
        pixels = keras.Input(batch_shape=(1, HEIGHT, WIDTH, 3))
        network = keras.Model(pixels, layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(pixels)))
    assert network.inputs[0].shape[0] == 1
    (found,) = embed(network, images)
    expected = np.concatenate([network(images[i : i + 1].astype(np.float32)) for i in range(5)])
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-3)


# --- the digest


def test_the_digest_covers_dtype_shape_and_bytes_in_order(network):
    digest = hashlib.sha256()
    for weight in network.get_weights():
        digest.update(f"{weight.dtype.str}{weight.shape}".encode() + weight.tobytes())
    assert digest_weights(network) == digest.hexdigest()
    assert make_backbone(network, uri="test", weights="none", layers=["conv"]).weights_digest == digest.hexdigest()


def test_one_changed_weight_changes_the_digest(network):
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    assert digest_weights(copy) == digest_weights(network)
    weights = copy.get_weights()
    weights[-1] = weights[-1] + np.float32([0, 0, 1e-6])
    copy.set_weights(weights)
    assert digest_weights(copy) != digest_weights(network)


def test_a_network_is_cut_again_without_being_built_again(network, images):
    whole = make_backbone(network, uri="test", weights="none")
    (expected,) = whole.embed(images)
    again = whole.cut(["norm", "conv"], "none")
    for found, layer in zip(again.embed(images), ("norm", "conv"), strict=True):
        np.testing.assert_allclose(found, compute(network, layer, images).reshape(len(images), -1), rtol=1e-5)
    assert [output.layer for output in again.outputs] == ["norm", "conv"]
    assert {id(one) for one in again.parts.trunk.weights} <= {id(one) for one in whole.parts.trunk.weights}
    assert (again.uri, again.weights_digest, again.layers) == (whole.uri, whole.weights_digest, whole.layers)
    assert np.array_equal(whole.embed(images)[0], expected)


def test_a_few_images_have_the_features_that_many_have(network, images):
    backbone = make_backbone(network, uri="test", weights="none", layers=["norm"], pooling="none")
    np.testing.assert_allclose(backbone.embed_few(images), backbone.embed(images)[0], rtol=1e-5, atol=1e-6)
