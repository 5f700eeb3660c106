"""The trainable network against Keras itself: where it is cut, and which weights are trained."""

import numpy as np
import pytest
from tiny import save_network

from featx.backbones import load_backbone
from featx.errors import BackboneError
from featx.finetuning.unfreezing import plan_stages
from featx.heads.networks import NetworkClassifier
from featx.specs import FineTuneSpec

pytestmark = pytest.mark.keras

N_ITEMS, SIZE = 12, 32
TARGETS = np.arange(N_ITEMS, dtype=np.int32) % 3
WEIGHTS = np.ones(N_ITEMS, np.float32)


@pytest.fixture(scope="module")
def network_file(tmp_path_factory):
    return save_network(tmp_path_factory.mktemp("network") / "tiny.keras")


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (N_ITEMS, SIZE, SIZE, 3), dtype=np.uint8)


def make_network(network_file, plan, *, hidden="", dropout=0.0, **settings):
    from featx.finetuning.network import TrainableNetwork

    backbone = load_backbone(f"file:{network_file}")
    spec = FineTuneSpec(unfreeze=plan, learning_rate=1e-2, **settings)
    stages = plan_stages(plan, backbone.layers, "tiny")
    network = TrainableNetwork(backbone, stages, spec)
    features = np.random.default_rng(1).normal(size=(30, network.dim)).astype(np.float32)
    head = NetworkClassifier(hidden=hidden, dropout=dropout, scaling="none", epochs=1, random_state=0)
    with np.errstate(all="ignore"):
        head.fit(features, np.arange(30) % 3)
    network.attach(head)
    return network, backbone, stages


def embed_maps(network_file, network, pixels):
    below = load_backbone(f"file:{network_file}", layers=network.frontier, pooling="none")
    return [m.reshape(len(pixels), *s) for m, s in zip(below.embed(pixels), network.map_shapes, strict=True)]


def train(network, stages, inputs, steps=3, parts=1):
    network.start(stages[0])
    return [network.train_batch(inputs, TARGETS, WEIGHTS, parts)[0] for _ in range(steps)]


@pytest.mark.parametrize(
    ("plan", "frontier"),
    [
        ("last:3", {"joined_relu"}),
        ("last:2", {"top"}),  # its batch normalisation is trained, the convolution before it is not
        ("from:right", {"stem_relu", "left_dropout"}),  # of the two branches, one stays frozen
        ("from:joined", {"joined_relu"}),  # layers without parameters do not move it
        ("from:stem", {"scale"}),
        ("all", {"scale"}),
    ],
)
def test_the_frontier_is_where_training_begins(network_file, pixels, plan, frontier):
    network, backbone, _ = make_network(network_file, plan)
    assert set(network.frontier) == frontier
    (expected,) = backbone.embed(pixels)
    np.testing.assert_allclose(network.embed([pixels]), expected, rtol=1e-5, atol=1e-6)
    maps = embed_maps(network_file, network, pixels)
    network.takes_maps = True
    np.testing.assert_allclose(network.embed(maps), expected, rtol=1e-5, atol=1e-6)


def test_training_on_maps_equals_training_the_whole_network(network_file, pixels):
    whole, _, stages = make_network(network_file, "last:3")
    losses = train(whole, stages, [pixels])
    cut, _, stages = make_network(network_file, "last:3")
    maps = embed_maps(network_file, cut, pixels)
    cut.takes_maps = True
    np.testing.assert_allclose(train(cut, stages, maps), losses, rtol=1e-4)
    assert losses[-1] < losses[0]
    for name, array in whole.dump().items():
        np.testing.assert_allclose(cut.dump()[name], array, rtol=1e-3, atol=1e-5)


def test_each_step_is_that_of_keras_itself(network_file, pixels):
    """The same as a loop that is written out by hand, on a model as a tutorial would build it.

    Not `train_on_batch`: in Keras 3.15 it runs `plain(inputs, training=False)` inside a functional model with
    `training=True` all the same, and so with the batch's own statistics.
    """
    from featx.frameworks import keras, ops, tf

    network, backbone, stages = make_network(network_file, "last:3", optimizer="sgd", head_learning_rate=1e-2)
    plain = keras.saving.load_model(network_file)
    for layer in plain.layers:
        layer.trainable = layer.name in stages[0].layers
    inputs = keras.Input((SIZE, SIZE, 3))
    dense = keras.layers.Dense(3)
    model = keras.Model(inputs, dense(ops.mean(plain(inputs), axis=(1, 2))))
    dense.set_weights(network.get_head_weights())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(1e-2, momentum=0.9)
    network.start(stages[0])
    for _ in range(3):
        with tf.GradientTape() as tape:
            expected = loss(TARGETS, model(pixels.astype(np.float32), training=False))
        optimizer.apply(tape.gradient(expected, model.trainable_weights), model.trainable_weights)
        assert network.train_batch([pixels], TARGETS, WEIGHTS)[0] == pytest.approx(float(expected), rel=1e-5)
    tuned = backbone.parts.layers["top"].get_weights()
    np.testing.assert_allclose(tuned[0], plain.get_layer("top").get_weights()[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(network.get_head_weights()[0], dense.get_weights()[0], rtol=1e-4, atol=1e-6)


def test_frozen_weights_stay_bit_by_bit_and_others_do_not(network_file, pixels):
    network, backbone, stages = make_network(network_file, "last:3")
    before = {v.path: np.array(v.numpy()) for v in backbone.parts.trunk.weights}
    train(network, stages, [pixels])
    after = {v.path: np.array(v.numpy()) for v in backbone.parts.trunk.weights}
    changed = {path for path, array in before.items() if not np.array_equal(array, after[path])}
    assert changed == {"top/kernel", "top/bias", "top_bn/gamma", "top_bn/beta"}
    assert network.check_freezing() == []
    counts = network.count_parameters()
    assert counts["trainable_parameters"] == 8 * 16 * 9 + 16 + 32
    assert counts["head_parameters"] == 16 * 3 + 3
    assert sum(counts.values()) == backbone.parts.trunk.count_params() + 51


def test_a_frozen_weight_that_changed_is_an_error(network_file, pixels):
    network, backbone, stages = make_network(network_file, "last:3")
    train(network, stages, [pixels], 1)
    stem = backbone.parts.layers["stem"]
    kernel, bias = stem.get_weights()
    kernel[0, 0, 0, 0] = np.nextafter(kernel[0, 0, 0, 0], np.float32(1))
    stem.set_weights([kernel, bias])
    with pytest.raises(BackboneError, match="1 frozen weights have changed, such as stem/kernel"):
        network.check_freezing()


def test_statistics_of_batch_normalisation_move_only_if_asked(network_file, pixels):
    def read_means(batch_norm):
        network, backbone, stages = make_network(network_file, "last:3", batch_norm=batch_norm)
        train(network, stages, [pixels])
        network.check_freezing()
        return {name: backbone.parts.layers[name].get_weights()[2] for name in ("stem_bn", "top_bn")}

    first = {n: load_backbone(f"file:{network_file}").parts.layers[n].get_weights()[2] for n in ("stem_bn", "top_bn")}
    kept, moved = read_means("inference"), read_means("train")
    assert all(np.array_equal(kept[name], first[name]) for name in first)
    assert np.array_equal(moved["stem_bn"], first["stem_bn"])  # frozen layers keep theirs in any case
    assert not np.array_equal(moved["top_bn"], first["top_bn"])


@pytest.mark.parametrize("parts", [2, 5, 12])
def test_gradients_of_parts_add_up_to_those_of_the_batch(network_file, pixels, parts):
    whole, _, stages = make_network(network_file, "last:3", optimizer="sgd")
    losses = train(whole, stages, [pixels])
    divided, _, stages = make_network(network_file, "last:3", optimizer="sgd")
    np.testing.assert_allclose(train(divided, stages, [pixels], parts=parts), losses, rtol=1e-4)


def test_running_out_of_memory_is_reported_and_changes_no_weights(network_file, pixels):
    from featx.frameworks import tf

    network, _, stages = make_network(network_file, "last:3")
    network.start(stages[0])
    before = network.dump()

    def fail(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "out of memory")

    network._differentiate = fail
    with pytest.raises(MemoryError, match="out of memory"):
        network.train_batch([pixels], TARGETS, WEIGHTS)
    assert all(np.array_equal(array, before[name]) for name, array in network.dump().items())


def test_a_restored_state_continues_where_it_was(network_file, pixels):
    one, _, stages = (
        make_network(network_file, "last:3", batch_norm="train", hidden="8", dropout=0.3)
        if False
        else make_network(network_file, "from:left", hidden="8", dropout=0.3, batch_norm="train")
    )
    train(one, stages, [pixels], 2)
    state = one.dump() | one.dump_optimizers()
    expected = [one.train_batch([pixels], TARGETS, WEIGHTS)[0] for _ in range(2)]
    other, _, stages = make_network(network_file, "from:left", hidden="8", dropout=0.3, batch_norm="train")
    other.start(stages[0])
    other.restore(state)
    other.restore_optimizers(state)
    assert [other.train_batch([pixels], TARGETS, WEIGHTS)[0] for _ in range(2)] == expected
    assert all(np.array_equal(array, one.dump()[name]) for name, array in other.dump().items())


def test_the_saved_network_has_the_features_of_the_trained_one(network_file, pixels, tmp_path):
    network, _, stages = make_network(network_file, "last:3")
    train(network, stages, [pixels])
    network.save(tmp_path / "backbone.keras")
    (found,) = load_backbone(f"file:{tmp_path / 'backbone.keras'}", pooling="avg").embed(pixels)
    np.testing.assert_allclose(found, network.embed([pixels]), rtol=1e-5, atol=1e-6)


def test_batches_of_all_sizes_are_traced_once(network_file, pixels):
    network, _, stages = make_network(network_file, "last:3")
    network.start(stages[0])
    for size in (12, 11, 5):
        network.embed([pixels[:size]])
        network.train_batch([pixels[:size]], TARGETS[:size], WEIGHTS[:size])
    counts = [traced.experimental_get_tracing_count() for traced in (network._infer, network._differentiate)]
    assert counts == [1, 1]


def test_pixels_can_be_embedded_without_tracing_where_batches_are_maps(network_file, pixels):
    network, backbone, stages = make_network(network_file, "last:3")
    (start,) = backbone.embed(pixels)
    np.testing.assert_allclose(network.embed_few(pixels), start, rtol=1e-5, atol=1e-6)
    maps = embed_maps(network_file, network, pixels)
    network.takes_maps = True
    train(network, stages, maps)
    np.testing.assert_allclose(network.embed_few(pixels), network.embed(maps), rtol=1e-5, atol=1e-6)
    assert not np.allclose(network.embed_few(pixels), start, rtol=1e-3)
