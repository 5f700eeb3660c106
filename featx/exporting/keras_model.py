"""Export to Keras, and by Keras to a SavedModel, ONNX and LiteRT: the network is rebuilt, the head becomes layers."""

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from featx.backbones.loading import rebuild_backbone
from featx.backbones.protocol import needs_openvino
from featx.bundle import Bundle, Part
from featx.errors import DataError, UsageError
from featx.exporting.folding import Array, fold_head
from featx.frameworks import keras, ops
from featx.heads.plain import PlainHead

# Keras has no types for mypy, so that its models and tensors are `Any` here.
# ruff: noqa: ANN401, D102 - `Operations` describes the methods

#: The file of each format, and what Keras calls the format.
FILES = {"keras": "model.keras", "savedmodel": "saved_model", "onnx": "model.onnx", "litert": "model.tflite"}
_NAMES = {"savedmodel": "tf_saved_model", "onnx": "onnx", "litert": "litert"}


class KerasOperations:
    """The operations of Keras; see `Operations`. Nothing in a saved model needs featx to load."""

    def dense(self, values: Any, kernel: Array, bias: Array) -> Any:
        layer = keras.layers.Dense(kernel.shape[1])
        outputs = layer(values)
        layer.set_weights([kernel, bias])
        return outputs

    def add(self, values: Any, other: Array) -> Any:
        return ops.add(values, other)

    def multiply(self, values: Any, other: Array) -> Any:
        return ops.multiply(values, other)

    def divide(self, values: Any, others: Any) -> Any:
        return ops.divide(values, others)

    def relu(self, values: Any) -> Any:
        return ops.relu(values)

    def sigmoid(self, values: Any) -> Any:
        return ops.sigmoid(values)

    def softmax(self, values: Any) -> Any:
        return ops.softmax(values, axis=-1)

    def log_softmax(self, values: Any) -> Any:
        return ops.log_softmax(values, axis=-1)

    def log(self, values: Any) -> Any:
        return ops.log(values)

    def length(self, values: Any, least: float) -> Any:
        return ops.maximum(ops.sqrt(self.sum_rows(ops.square(values))), least)

    def sum_rows(self, values: Any) -> Any:
        return ops.sum(values, axis=1, keepdims=True)

    def interpolate(self, values: Any, knots: Array, widths: Array, heights: Array) -> Any:
        places = ops.divide(ops.subtract(ops.expand_dims(values, 2), knots), widths)
        return ops.sum(ops.multiply(ops.clip(places, 0.0, 1.0), heights), axis=2)


def build_model(bundle: Bundle, part: Part, head: PlainHead, *, named: bool) -> Any:
    """Build one Keras model from uint8 pixels to probabilities.

    Args:
        bundle: The bundle.
        part: Its network.
        head: Its head.
        named: Whether it returns a dict, from which converters take the name of the output.

    Raises:
        UsageError: If Keras does not run the network.
    """
    spec, image = part.embed_spec.backbone, part.embed_spec.image
    msg = f"Keras does not run {spec.uri}, so the bundle has no such export; use --to openvino"
    if needs_openvino(spec.uri):
        raise UsageError(msg)
    backbone: Any = rebuild_backbone(spec, image, part.backbone_file, "keras")
    if not hasattr(backbone, "model"):
        raise UsageError(msg)
    features = backbone.model.outputs[0]
    if len(features.shape) > 2:  # noqa: PLR2004 - a matrix
        features = ops.reshape(features, (-1, int(np.prod(features.shape[1:]))))
    probabilities = fold_head(head, len(bundle.classes), features, KerasOperations())
    outputs = {"probabilities": probabilities} if named else probabilities
    return keras.Model(backbone.model.inputs[0], outputs, name="featx")


def write_keras(bundle: Bundle, part: Part, head: PlainHead, about: Mapping[str, Any], folder: Path) -> Path:
    """Write a bundle in a format that Keras writes.

    Args:
        bundle: The bundle.
        part: Its network.
        head: Its head.
        about: What the model says of itself; its `to` is one of `FILES`.
        folder: Where to write it.

    Returns:
        The file or folder of the model.

    Raises:
        DataError: If Keras cannot write the model.
    """
    to = str(about["to"])
    model, path = build_model(bundle, part, head, named=to != "keras"), folder / FILES[to]
    try:
        with _quiet():
            if to == "keras":
                model.save(path)
            else:
                model(np.zeros((1, *model.inputs[0].shape[1:]), np.uint8))  # Keras exports only what it has called
                model.export(path, format=_NAMES[to], verbose=False)
    except Exception as error:  # each converter has its own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        msg = f"Keras cannot export {bundle.path} to {to} ({reason}); use --to openvino"
        raise DataError(msg) from error
    return path


@contextlib.contextmanager
def _quiet() -> Any:
    """Drop what the converters print and log about their own steps."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of Keras's patch of tf2onnx for NumPy 2
            yield
    finally:
        logging.disable(level)
