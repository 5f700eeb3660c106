"""A head as operations that follow a network, written once for all libraries that build graphs.

Numbers follow `PlainHead.predict_proba`, but for rounding: everything is float32, and features that were stored as
float16 are not rounded.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featx.bundle import Bundle, Part
from featx.errors import UsageError
from featx.heads.architectures import EPSILON, Block, split_blocks
from featx.heads.persistence import make_plain_head
from featx.heads.plain import DIVIDED, Calibration, PlainHead
from featx.registry import HEAD_SETS

#: Added where a sum may be 0, before it divides; any sum that is not 0 absorbs it.
_TINY = 1e-20

#: A step of a curve is at least this wide, which is below the rounding of scores.
_LEAST_WIDTH = 1e-6

#: As `PlainHead` adds it to probabilities before their logarithm.
_SMALLEST = 1e-12

_BINARY = 2

# What stands for a value of a graph is of a type of its library, so it is `Any` here.
# ruff: noqa: ANN401

Array = NDArray[np.float32]


class Operations(Protocol):
    """The operations of a library, on values of a graph `(n, width)`; constants are float32 arrays."""

    def dense(self, values: Any, kernel: Array, bias: Array) -> Any:
        """Return `values @ kernel + bias`."""
        ...

    def add(self, values: Any, other: Array) -> Any:
        """Return `values + other`."""
        ...

    def multiply(self, values: Any, other: Array) -> Any:
        """Return `values * other`."""
        ...

    def divide(self, values: Any, others: Any) -> Any:
        """Return `values / others`, both of the graph."""
        ...

    def relu(self, values: Any) -> Any:
        """Return the values, and 0 for those below 0."""
        ...

    def sigmoid(self, values: Any) -> Any:
        """Return `1 / (1 + exp(-values))`."""
        ...

    def softmax(self, values: Any) -> Any:
        """Return the softmax of each row."""
        ...

    def log_softmax(self, values: Any) -> Any:
        """Return the logarithm of the softmax of each row."""
        ...

    def log(self, values: Any) -> Any:
        """Return the natural logarithm."""
        ...

    def length(self, values: Any, least: float) -> Any:
        """Return the Euclidean length of each row `(n, 1)`, at least `least`."""
        ...

    def sum_rows(self, values: Any) -> Any:
        """Return the sum of each row `(n, 1)`."""
        ...

    def interpolate(self, values: Any, knots: Array, widths: Array, heights: Array) -> Any:
        """Return the sum over k of `heights[:, k] * clip((values - knots[:, k]) / widths[:, k], 0, 1)`."""
        ...


def find_plain_head(bundle: Bundle) -> tuple[Part, PlainHead]:
    """Find the network and the head of a bundle that one model can hold.

    Raises:
        UsageError: If one model cannot hold them; the message says why, and what would do.
    """
    if len(bundle.parts) > 1:
        msg = f"{bundle.path} has {len(bundle.parts)} networks, and an export holds one; fit a head on one store"
        raise UsageError(msg)
    if bundle.views is not None:
        msg = (
            f"the head of {bundle.path} takes the mean over {bundle.parts[0].embed_spec.n_views} views of each image, "
            f"which one model cannot make; fit it with --views original"
        )
        raise UsageError(msg)
    head: Any = bundle.load_head(plain=True)
    plain = head if isinstance(head, PlainHead) else make_plain_head(head)
    if plain is None:
        linear = ", ".join(HEAD_SETS["linear"])
        msg = (
            f"the head of {bundle.path} is {bundle.head_spec.name}, which is not made of layers, so no model can hold "
            f"it; fit one of {linear} or keras"
        )
        raise UsageError(msg)
    return bundle.parts[0], plain


def fold_head(head: PlainHead, n_classes: int, features: Any, ops: Operations) -> Any:
    """Append a head to a graph.

    Args:
        head: The head.
        n_classes: Number of classes of the bundle; those that the head was not trained on get the probability 0.
        features: `(n, dim)`, the output of the network.
        ops: The operations of the graph.

    Returns:
        The probabilities `(n, n_classes)`.
    """
    if head.widths:  # of a single network
        features = ops.divide(features, ops.length(features, _TINY))
    outputs = _fold_layers(head, features, ops)
    if head.calibration is None:
        probabilities = ops.softmax(outputs)
    else:
        probabilities = _fold_calibration(head.calibration, _fold_scores(head, outputs, ops), ops)
    if np.array_equal(head.classes_, np.arange(n_classes)):
        return probabilities
    places = np.eye(n_classes)[head.classes_]
    return ops.dense(probabilities, _to_float32(places), np.zeros(n_classes, np.float32))


def _fold_layers(head: PlainHead, features: Any, ops: Operations) -> Any:
    """Return the outputs `(n, n_trained)`, a column for each class."""
    lengths = ops.length(features, _TINY) if head.scaling in {"l2", DIVIDED} else None
    values = features
    if head.scaling == "standard":
        shift, scale = np.asarray(head.shift), np.asarray(head.scale)
        values = ops.multiply(ops.add(values, _to_float32(-shift)), _to_float32(1 / scale))
    elif head.scaling == "l2":
        values = ops.divide(values, lengths)
    blocks = list(split_blocks(head.weights, head.weights[0].shape[0], head.weights[-1].size))
    for number, block in enumerate(blocks):
        if number:
            values = ops.relu(values)
        if block.normalization:
            gamma, beta, mean, variance = (part.astype(np.float64) for part in block.normalization)
            factors = gamma / np.sqrt(variance + EPSILON)
            values = ops.add(ops.multiply(ops.add(values, _to_float32(-mean)), _to_float32(factors)), _to_float32(beta))
        kernel, bias = _spread(head, block) if block is blocks[-1] else (block.kernel, block.bias)
        if head.scaling == DIVIDED:
            values = ops.divide(ops.dense(values, _to_float32(kernel), np.zeros(bias.size, np.float32)), lengths)
            values = ops.add(values, _to_float32(bias))
        else:
            values = ops.dense(values, _to_float32(kernel), _to_float32(bias))
    return values


def _spread(head: PlainHead, block: Block) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return kernel and bias of the last layer; where two classes share one output, each gets its own."""
    if block.bias.size > 1:
        return block.kernel, block.bias
    signs = np.array([[-1.0 if head.scores == "opposed" and head.calibration else 0.0, 1.0]])
    return block.kernel @ signs, block.bias @ signs


def _fold_scores(head: PlainHead, outputs: Any, ops: Operations) -> Any:
    if head.scores == "log-softmax":
        return ops.log_softmax(outputs)
    if head.scores == "log-probabilities":
        return ops.log(ops.add(ops.softmax(outputs), np.full(1, _SMALLEST, np.float32)))
    return outputs


def _fold_calibration(calibration: Calibration, scores: Any, ops: Operations) -> Any:
    n_classes = calibration.n_classes
    if calibration.method in {"sigmoid", "isotonic"}:
        return _fold_curves(calibration, scores, ops)
    margins = ops.multiply(scores, np.full(1, calibration.factor, np.float32))
    if calibration.method == "bias":
        margins = ops.add(margins, _to_float32(calibration.biases))
    probabilities = ops.softmax(margins)
    if calibration.method == "mixture":
        kept = ops.multiply(probabilities, np.full(1, 1 - calibration.share, np.float32))
        probabilities = ops.add(kept, np.full(1, calibration.share / n_classes, np.float32))
    return probabilities


def _fold_curves(calibration: Calibration, scores: Any, ops: Operations) -> Any:
    if calibration.n_classes == _BINARY:
        scores = ops.dense(scores, np.array([[-1], [1]], np.float32), np.zeros(1, np.float32))
    if calibration.method == "sigmoid":
        # An offset of minus infinity is that of a class without items; infinity times 0 would not be a number.
        offsets = np.maximum(calibration.offsets, -1 / _TINY)
        chances = ops.sigmoid(ops.add(ops.multiply(scores, _to_float32(calibration.slopes)), _to_float32(offsets)))
    else:
        starts, knots, widths, heights = _join_knots(calibration.knots)
        chances = ops.add(ops.interpolate(scores, knots, widths, heights), starts)
    if calibration.n_classes == _BINARY:
        return ops.dense(chances, np.array([[-1, 1]], np.float32), np.array([1, 0], np.float32))
    raised = ops.add(chances, np.full(1, _TINY, np.float32))  # without any chance, all classes are equal
    return ops.divide(raised, ops.sum_rows(raised))


def _join_knots(curves: Any) -> tuple[Array, Array, Array, Array]:
    """Join curves of different lengths: their starts `(n,)`, and the knots, widths and heights `(n, most - 1)`."""
    most = max(2, *(curve.shape[1] for curve in curves))
    padded = [np.pad(np.asarray(curve, np.float64), ((0, 0), (0, most - curve.shape[1])), "edge") for curve in curves]
    x, y = np.stack(padded).transpose(1, 0, 2)
    widths = np.maximum(np.diff(x, axis=1), _LEAST_WIDTH)
    return _to_float32(y[:, 0]), _to_float32(x[:, :-1]), _to_float32(widths), _to_float32(np.diff(y, axis=1))


def _to_float32(values: Any) -> Array:
    return np.array(values, np.float32, order="C")
