"""A small network of one's own, with all that fine-tuning has to do with: branches, and batch normalisation."""


def save_network(path, size=32):
    """Save it as a `.keras` file; its layers have the names that the tests use."""
    from featx.frameworks import keras

    layers = keras.layers
    keras.utils.set_random_seed(7)
    inputs = keras.Input((size, size, 3), name="image")
    x = layers.Rescaling(1 / 255, name="scale")(inputs)
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="stem")(x)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = stem = layers.ReLU(name="stem_relu")(x)
    x = layers.Conv2D(8, 3, padding="same", name="left")(x)
    x = layers.BatchNormalization(name="left_bn")(x)
    x = layers.Dropout(0.2, name="left_dropout")(x)
    right = layers.Conv2D(8, 1, name="right")(stem)
    x = layers.Add(name="joined")([x, right])
    x = layers.ReLU(name="joined_relu")(x)
    x = layers.Conv2D(16, 3, strides=2, padding="same", name="top")(x)
    x = layers.BatchNormalization(name="top_bn")(x)
    x = layers.ReLU(name="top_relu")(x)
    network = keras.Model(inputs, x)
    # Statistics that are not those of a new network, so that a change of them shows.
    for name in ("stem_bn", "left_bn", "top_bn"):
        layer = network.get_layer(name)
        gamma, beta, mean, variance = layer.get_weights()
        layer.set_weights([gamma + 0.1, beta + 0.2, mean + 0.05, variance * 0.5])
    network.save(path)
    return path
