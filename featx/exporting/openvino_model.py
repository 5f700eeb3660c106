"""Export to OpenVINO: the network that a bundle holds, the head behind it, and a resize before it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from featx.backbones.converted import ConvertedBackbone
from featx.backbones.loading import rebuild_backbone
from featx.backbones.openvino import convert_network, openvino, read_network, read_untrusted_network, translate_errors
from featx.bundle import Bundle, Part
from featx.errors import UsageError
from featx.exporting.folding import Array, fold_head
from featx.heads.plain import PlainHead
from featx.specs import ImageSpec

# OpenVINO has no types for mypy, so that its models, nodes and outputs are `Any` here.
# ruff: noqa: ANN401, D102 - `Operations` describes the methods

FILE = "model.xml"

#: Pillow's filters, which equal those of Pillow but for one grey level.
_FILTERS = {"bilinear": "RESIZE_BILINEAR_PILLOW", "bicubic": "RESIZE_BICUBIC_PILLOW"}

_ops = openvino.opset14


class OpenVinoOperations:
    """The operations of OpenVINO; see `Operations`."""

    def dense(self, values: Any, kernel: Array, bias: Array) -> Any:
        return _ops.add(_ops.matmul(values, kernel, transpose_a=False, transpose_b=False), bias)

    def add(self, values: Any, other: Array) -> Any:
        return _ops.add(values, other)

    def multiply(self, values: Any, other: Array) -> Any:
        return _ops.multiply(values, other)

    def divide(self, values: Any, others: Any) -> Any:
        return _ops.divide(values, others)

    def relu(self, values: Any) -> Any:
        return _ops.relu(values)

    def sigmoid(self, values: Any) -> Any:
        return _ops.sigmoid(values)

    def softmax(self, values: Any) -> Any:
        return _ops.softmax(values, axis=1)

    def log_softmax(self, values: Any) -> Any:
        return _ops.log_softmax(values, axis=1)

    def log(self, values: Any) -> Any:
        return _ops.log(values)

    def length(self, values: Any, least: float) -> Any:
        lengths = _ops.sqrt(self.sum_rows(_ops.multiply(values, values)))
        return _ops.maximum(lengths, np.full(1, least, np.float32))

    def sum_rows(self, values: Any) -> Any:
        return _ops.reduce_sum(values, np.array([1], np.int64), keep_dims=True)

    def interpolate(self, values: Any, knots: Array, widths: Array, heights: Array) -> Any:
        places = _ops.divide(_ops.subtract(_ops.unsqueeze(values, np.array([2], np.int64)), knots), widths)
        pieces = _ops.multiply(_ops.clamp(places, 0.0, 1.0), heights)
        # OpenVINO 2026.4 adds what follows a sum without its axis to the wrong axis, so the axis is removed on its own.
        axis = np.array([2], np.int64)
        return _ops.squeeze(_ops.reduce_sum(pieces, axis, keep_dims=True), axis)


def write_openvino(bundle: Bundle, part: Part, head: PlainHead, about: Mapping[str, Any], folder: Path) -> Path:
    """Write a bundle as an OpenVINO model, with its weights in float32 next to it.

    Args:
        bundle: The bundle.
        part: Its network.
        head: Its head.
        about: What the model says of itself, written into its `rt_info`.
        folder: Where to write it.

    Returns:
        The file of the model.
    """
    uri = part.embed_spec.backbone.uri
    network = _read_graph(bundle, part)
    with translate_errors(uri, ""):
        features = _ops.reshape(network.output(0).get_node().input_value(0), np.array([-1, _count(part)]), False)  # noqa: FBT003 - OpenVINO's own argument
        probabilities = fold_head(head, len(bundle.classes), features, OpenVinoOperations()).output(0)
        probabilities.set_names({"probabilities"})
        parameters = network.get_parameters()
        parameters[0].output(0).set_names({"pixels"})
        model = openvino.Model([probabilities], parameters, "featx")
        if about["resizes"]:
            model = _prepend_resize(model, part.embed_spec.image)
        for name, value in about.items():
            model.set_rt_info(value if isinstance(value, str) else json.dumps(value), ["featx", name])
        openvino.save_model(model, folder / FILE, compress_to_fp16=False)
    return folder / FILE


def _prepend_resize(model: Any, image: ImageSpec) -> Any:
    preprocessing = openvino.preprocess
    layout, steps = openvino.Layout("NHWC"), preprocessing.PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(layout).set_spatial_dynamic_shape()
    steps.input().model().set_layout(layout)
    steps.input().preprocess().resize(getattr(preprocessing.ResizeAlgorithm, _FILTERS[image.interpolation]))
    return steps.build()


def _read_graph(bundle: Bundle, part: Part) -> Any:
    """Return the network of a part, from pixels to features."""
    spec, image = part.embed_spec.backbone, part.embed_spec.image
    if bundle.holds_network(part):
        path = bundle.path / part.network[0]
        return read_untrusted_network(path, spec.uri, (image.height, image.width), _count(part))
    backbone: Any = rebuild_backbone(spec, image, part.backbone_file)
    if isinstance(backbone, ConvertedBackbone):
        return read_network(backbone.path, spec.uri)
    if not hasattr(backbone, "graph"):
        msg = f"{spec.uri} is not a network, so no model can hold it; fit a head on the features of a network"
        raise UsageError(msg)
    return convert_network(backbone)


def _count(part: Part) -> int:
    return int(part.golden.features.shape[1])
