"""Count the multiply-adds of a network: run as a script, it prints those of every model of `keras.applications`.

Counted are convolutions and dense layers, for one image of the network's input size; a multiply-add is one operation,
as in the papers of these networks. Activations, normalisations and pooling add a few per cent, and are left out.
"""

import math
import sys


def count_multiply_adds(network):
    """Count those of a functional model whose sizes are fixed."""
    from keras import layers

    total = 0
    for layer in network.layers:
        if isinstance(layer, layers.SeparableConv2D):
            positions = math.prod(layer.output.shape[1:3])
            total += positions * (math.prod(layer.depthwise_kernel.shape) + math.prod(layer.pointwise_kernel.shape))
        elif isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D):  # a kernel has only the inputs of its group
            total += math.prod(layer.output.shape[1:3]) * math.prod(layer.kernel.shape)
        elif isinstance(layer, layers.Dense):
            total += math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
        elif hasattr(layer, "layers") and layer is not network:
            total += count_multiply_adds(layer)
    return total


def build(application):
    """Build a model of the catalogue without its classifier and without values for its weights."""
    from featx.frameworks import keras

    shape = (application.size_px, application.size_px, 3)
    with keras.StatelessScope(initialize_variables=False):
        return getattr(keras.applications, application.attribute)(include_top=False, weights=None, input_shape=shape)


if __name__ == "__main__":
    from featx.backbones.catalogue import APPLICATIONS

    for name in sys.argv[1:] or APPLICATIONS:
        print(f"{name} {count_multiply_adds(build(APPLICATIONS[name])) / 1e9:.3g}", flush=True)  # noqa: T201 - a script
