"""Fine-tuning of networks as users build them: layers that are used twice, regularisers, and half precision."""

import numpy as np
import pytest

from featx.backbones import load_backbone
from featx.errors import UsageError
from featx.finetuning.unfreezing import Stage, plan_stages
from featx.heads.networks import NetworkClassifier
from featx.specs import FineTuneSpec

pytestmark = pytest.mark.keras

SIZE = 16
IMAGES = np.random.default_rng(3).integers(0, 256, (6, SIZE, SIZE, 3), dtype=np.uint8)
TARGETS = np.arange(6, dtype=np.int32) % 3
WEIGHTS = np.ones(6, np.float32)


def make_shared(keras):
    """Stem, shared, mid, shared, top."""
    layers = keras.layers
    keras.utils.set_random_seed(1)
    image = keras.Input((SIZE, SIZE, 3), name="image")
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    x = layers.Conv2D(4, 3, name="stem")(layers.Rescaling(1 / 255, name="scale")(image))
    x = layers.Conv2D(4, 1, name="mid", activation="relu")(shared(x))
    return keras.Model(image, layers.Conv2D(3, 1, name="top")(shared(x)))


def make_regular(keras):
    layers, regularizers = keras.layers, keras.regularizers
    keras.utils.set_random_seed(1)
    image = keras.Input((SIZE, SIZE, 3), name="image")
    x = layers.Rescaling(1 / 255, name="scale")(image)
    x = layers.Conv2D(4, 3, name="stem", kernel_regularizer=regularizers.L2(0.3))(x)
    x = layers.Conv2D(4, 3, name="mid", kernel_regularizer="l1", activity_regularizer=regularizers.L2(1e-4))(x)
    return keras.Model(image, layers.Conv2D(3, 1, name="top", bias_regularizer="l2", kernel_regularizer="l2")(x))


def open_network(make, folder, plan, stages=None):
    from featx.finetuning.network import TrainableNetwork
    from featx.frameworks import keras

    make(keras).save(folder / "own.keras")
    backbone = load_backbone(f"file:{folder / 'own.keras'}")
    spec = FineTuneSpec(unfreeze=plan, learning_rate=1e-2, optimizer="sgd", head_learning_rate=1e-2)
    stages = stages or plan_stages(plan, backbone.layers, "own")
    network = TrainableNetwork(backbone, stages, spec)
    head = NetworkClassifier(hidden="", dropout=0.0, scaling="none", epochs=1, random_state=0)
    head.fit(np.random.default_rng(1).normal(size=(30, network.dim)).astype(np.float32), np.arange(30) % 3)
    network.attach(head)
    network.start(stages[0])
    return network, backbone, stages


def train_by_hand(folder, trainable, head_weights, steps):
    """A loop as a tutorial would write it; returns the losses without penalties, and the network."""
    from featx.frameworks import keras, ops, tf

    plain = keras.saving.load_model(folder / "own.keras")
    for layer in plain.layers:
        layer.trainable = layer.name in trainable
    dense = keras.layers.Dense(3)
    image = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(image, dense(ops.mean(plain(image), axis=(1, 2))))
    dense.set_weights(head_weights)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer, found = keras.optimizers.SGD(1e-2, momentum=0.9), []
    for _ in range(steps):
        with tf.GradientTape() as tape:
            plain_loss = loss(TARGETS, model(IMAGES.astype(np.float32), training=False))
            whole = plain_loss + sum(model.losses)
        optimizer.apply(tape.gradient(whole, model.trainable_weights), model.trainable_weights)
        found.append(float(plain_loss))
    return found, plain


@pytest.mark.parametrize("make", [make_shared, make_regular])
@pytest.mark.parametrize("plan", ["last:1", "from:mid", "all"])
@pytest.mark.parametrize("parts", [1, 3])
def test_each_step_is_that_of_a_loop_by_hand(make, plan, parts, tmp_path):
    network, backbone, stages = open_network(make, tmp_path, plan)
    expected, plain = train_by_hand(tmp_path, stages[0].layers, network.get_head_weights(), 3)
    found = [network.train_batch([IMAGES], TARGETS, WEIGHTS, parts)[0] for _ in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for layer in plain.layers:
        for one, other in zip(backbone.parts.layers[layer.name].get_weights(), layer.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    network.check_freezing()


def test_a_layer_that_is_used_twice_is_an_obstacle_to_a_cut(tmp_path):
    network, _, _ = open_network(make_shared, tmp_path, "last:1")
    assert network.frontier == ()
    assert network.obstacle == "its layer shared is used more than once"
    assert open_network(make_regular, tmp_path, "last:1")[0].obstacle == ""


def test_half_precision_is_refused_with_what_works(tmp_path):
    from featx.frameworks import keras

    stages = [Stage("last:3", frozenset({"conv_pw_13_bn"}))]

    def open_mobilenet(precision):
        from featx.finetuning.network import TrainableNetwork

        uri = f"mobilenet?alpha=0.25&precision={precision}"
        backbone = load_backbone(uri, weights="none", image_size=(32, 32))
        return TrainableNetwork(backbone, stages, FineTuneSpec(unfreeze="last:3"))

    with pytest.raises(UsageError, match=r"mobilenet.*float16.*mixed_bfloat16"):
        open_mobilenet("mixed_float16")
    assert open_mobilenet("mixed_bfloat16").frontier

    def make_half(keras):
        image = keras.Input((SIZE, SIZE, 3))
        return keras.Model(image, keras.layers.Conv2D(3, 1, name="top", dtype="mixed_float16")(image))

    with pytest.raises(UsageError, match=r"own\.keras computes in float16"):
        open_network(make_half, tmp_path, "all")
    assert keras.config.dtype_policy().name == "float32"


def test_layers_off_the_path_to_the_cut_do_not_count(tmp_path):
    from featx.finetuning.network import TrainableNetwork
    from featx.frameworks import keras

    def make(keras):
        layers = keras.layers
        image = keras.Input((SIZE, SIZE, 3), name="image")
        stem = layers.Conv2D(4, 3, name="stem")(image)
        left, right = (layers.Conv2D(4, 3, name=name)(stem) for name in ("left", "right"))
        return keras.Model(image, layers.Add(name="joined")([left, right]))

    make(keras).save(tmp_path / "own.keras")
    backbone = load_backbone(f"file:{tmp_path / 'own.keras'}", layers=["left"])
    spec = FineTuneSpec(unfreeze="all")
    network = TrainableNetwork(backbone, [Stage("all", frozenset({"left", "right"}))], spec)
    network.attach(
        NetworkClassifier(hidden="", dropout=0.0, scaling="none", epochs=1).fit(
            np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32), np.arange(30) % 3
        )
    )
    counts = network.count_parameters()
    assert (counts["trainable_parameters"], counts["frozen_parameters"]) == (4 * 4 * 9 + 4, 3 * 4 * 9 + 4)
    with pytest.raises(UsageError, match="none of the unfrozen layers is used by the network"):
        TrainableNetwork(backbone, [Stage("all", frozenset({"right", "image"}))], spec)
