"""Export of a network that was an ONNX file already: its preprocessing, pooling and head become nodes of its graph."""

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from featx.backbones.loading import parse_uri
from featx.backbones.onnx_files import inspect_onnx
from featx.backbones.openvino_graphs import LAYOUTS, Graph, Tensor
from featx.backbones.protocol import GEM_EXPONENT, GEM_FLOOR
from featx.backbones.recipes import CHANNELS, read_recipe
from featx.bundle import Bundle, Part
from featx.errors import FeatxError, UsageError
from featx.exporting.folding import Array, fold_head
from featx.heads.plain import PlainHead
from featx.references import MANIFEST, read_json
from featx.store import FeatureStore

# onnx has no types for mypy, so that its graphs and nodes are `Any` here.
# ruff: noqa: ANN401, D102 - `Operations` describes the methods

FILE = "model.onnx"

#: Operators change between versions of ONNX: from this one on, all that are appended are as `OnnxOperations` has them.
_OLDEST, _AXES_ARE_INPUTS = 11, {"ReduceSum": 13, "ReduceMean": 18, "ReduceMax": 18}

#: A file of an older format lists its weights as inputs too.
_OLDEST_IR = 4

#: Begins the names of what is appended, which the names of a file do not.
_PREFIX = "featx/"


class OnnxOperations:
    """The operations of ONNX; see `Operations`. A value of the graph is its name.

    Args:
        opset: The version of ONNX's operators that the file uses.

    Attributes:
        nodes, weights: What was made so far.
    """

    def __init__(self, opset: int) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._opset, self._numbers = opset, itertools.count()

    def make(self, kind: str, *inputs: str | NDArray[Any], output: str = "", **attributes: Any) -> str:
        """Append an operation, whose arrays become weights, and return the name of its output."""
        names = []
        for value in inputs:
            if isinstance(value, np.ndarray):
                self.weights.append(numpy_helper.from_array(value, f"{_PREFIX}weight_{next(self._numbers)}"))
            names.append(value if isinstance(value, str) else self.weights[-1].name)
        name = f"{_PREFIX}{kind.lower()}_{next(self._numbers)}"
        self.nodes.append(helper.make_node(kind, names, [output or name], name=name, **attributes))
        return output or name

    def reduce(self, kind: str, values: str, axes: Sequence[int], *, keep: bool) -> str:
        """Append a reduction, whose axes are an input or an attribute, depending on the version."""
        if self._opset >= _AXES_ARE_INPUTS[kind]:
            return self.make(kind, values, np.array(axes, np.int64), keepdims=int(keep))
        return self.make(kind, values, axes=list(axes), keepdims=int(keep))

    def dense(self, values: str, kernel: Array, bias: Array) -> str:
        return self.make("Add", self.make("MatMul", values, kernel), bias)

    def add(self, values: str, other: Array) -> str:
        return self.make("Add", values, other)

    def multiply(self, values: str, other: Array) -> str:
        return self.make("Mul", values, other)

    def divide(self, values: str, others: str) -> str:
        return self.make("Div", values, others)

    def relu(self, values: str) -> str:
        return self.make("Relu", values)

    def sigmoid(self, values: str) -> str:
        return self.make("Sigmoid", values)

    def softmax(self, values: str) -> str:
        return self.make("Softmax", values, axis=1)

    def log_softmax(self, values: str) -> str:
        return self.make("LogSoftmax", values, axis=1)

    def log(self, values: str) -> str:
        return self.make("Log", values)

    def length(self, values: str, least: float) -> str:
        lengths = self.make("Sqrt", self.sum_rows(self.make("Mul", values, values)))
        return self.make("Max", lengths, np.full(1, least, np.float32))

    def sum_rows(self, values: str) -> str:
        return self.reduce("ReduceSum", values, [1], keep=True)

    def interpolate(self, values: str, knots: Array, widths: Array, heights: Array) -> str:
        columns = self.make("Reshape", values, np.array([-1, len(knots), 1], np.int64))
        places = self.make("Div", self.make("Sub", columns, knots), widths)
        clipped = self.make("Min", self.make("Max", places, np.zeros(1, np.float32)), np.ones(1, np.float32))
        return self.reduce("ReduceSum", self.make("Mul", clipped, heights), [2], keep=False)


def append_head(bundle: Bundle, part: Part, head: PlainHead, folder: Path) -> Path:
    """Write a bundle whose network is an ONNX file as that graph, with what is before and behind it as nodes.

    Args:
        bundle: The bundle.
        part: Its network.
        head: Its head.
        folder: Where to write it.

    Returns:
        The file of the model, without what it says of itself.

    Raises:
        UsageError: If the graph cannot be extended; the message says why.
    """
    uri, image = part.embed_spec.backbone.uri, part.embed_spec.image
    try:
        model, tensor, layout = _read(_find_file(bundle, part), part)
    except (FeatxError, OSError, ValueError) as error:
        msg = f"no ONNX model can hold {uri}: {' '.join(str(error).split())[:300]}; use --to openvino"
        raise UsageError(msg) from error
    graph, operations = model.graph, OnnxOperations(_find_opset(model))
    arguments = parse_uri(uri).arguments
    _scale(operations, model, layout, arguments)
    n_before = len(operations.nodes)
    features = _pool(operations, tensor, part.embed_spec.backbone.pooling, int(arguments.get("registers", "0")))
    probabilities = fold_head(head, len(bundle.classes), features, operations)
    operations.make("Identity", probabilities, output="probabilities")
    kept = list(_keep_needed(graph.node, tensor.name))
    used = {name for node in kept for name in _list_inputs(node)}
    merged = helper.make_graph(
        [*operations.nodes[:n_before], *kept, *operations.nodes[n_before:]],
        "featx",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ("n", image.height, image.width, 3))],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ("n", len(bundle.classes)))],
        [*(weight for weight in graph.initializer if weight.name in used), *operations.weights],
    )
    made = helper.make_model(
        merged, opset_imports=model.opset_import, ir_version=model.ir_version, functions=model.functions
    )
    onnx.checker.check_model(made)
    onnx.save(made, folder / FILE)
    return folder / FILE


def _find_file(bundle: Bundle, part: Part) -> Path:
    """Find the file that the features were made with, where it was then: a bundle holds the network as OpenVINO's.

    Raises:
        FeatxError: If the store is gone.
        ValueError: If the file is gone, or is another one now.
    """
    about = read_json(bundle.path, MANIFEST).get("record", {}).get("store", {})
    path = Path(FeatureStore(str(about.get("path"))).backbone_file)
    if not path.is_file():
        msg = f"its file {path} is gone; put it back"
        raise ValueError(msg)
    digest = hashlib.sha256()
    for file in (path, *inspect_onnx(path).external):
        digest.update(file.read_bytes())
    if digest.hexdigest() != part.embed_spec.backbone.weights_digest:
        msg = f"{path} is another file now; put the one back that the features were made with"
        raise ValueError(msg)
    return path


def _read(path: Path, part: Part) -> tuple[Any, Tensor, str]:
    """Read the file of a network, the tensor that it is cut at, and the layout of its input.

    Raises:
        ValueError: If nothing can be appended to it.
    """
    spec, image = part.embed_spec.backbone, part.embed_spec.image
    found, model = Graph(path, "onnx"), onnx.load(path)
    if found.input_shape[0] is not None:
        msg = f"it takes {found.input_shape[0]} images at a time; export it with an open batch dimension"
        raise ValueError(msg)
    opset = _find_opset(model)
    if opset < _OLDEST or model.ir_version < _OLDEST_IR:
        msg = f"it has version {opset} of ONNX's operators; export it with version {_OLDEST} or later"
        raise ValueError(msg)
    layout = found.find_layout(parse_uri(spec.uri).arguments.get("layout"))
    found.fix(layout, image.height, image.width)
    own = {name for node in model.graph.node for name in node.output}
    cut = next((tensor for tensor in found.tensors if tensor.name == spec.layer and tensor.name in own), None)
    if cut is None:
        msg = f"{spec.layer!r} is not one of the file's own tensors, at which it can be cut"
        raise ValueError(msg)
    if any(name.startswith(_PREFIX) or name in {"pixels", "probabilities"} for name in own):
        msg = "it has tensors with names that an export gives"
        raise ValueError(msg)
    return model, cut, layout


def _find_opset(model: Any) -> int:
    return next((int(one.version) for one in model.opset_import if one.domain in {"", "ai.onnx"}), 0)


def _scale(operations: OnnxOperations, model: Any, layout: str, arguments: Mapping[str, str]) -> None:
    """Turn uint8 pixels into what the network takes, under the name of its input."""
    weights = {weight.name for weight in model.graph.initializer}
    (given,) = (one for one in model.graph.input if one.name not in weights)
    kind, recipe, value = given.type.tensor_type.elem_type, read_recipe(arguments), "pixels"
    if recipe.channels == CHANNELS[1]:
        value = operations.make("Gather", value, np.array([2, 1, 0], np.int64), axis=3)
    if kind != TensorProto.UINT8:
        value = operations.make("Cast", value, to=TensorProto.FLOAT)
        factor, offset = recipe.scale / np.array(recipe.std), np.array(recipe.mean) / recipe.std
        value = operations.make("Mul", value, factor.astype(np.float32))
        value = operations.make("Sub", value, offset.astype(np.float32))
        value = operations.make("Cast", value, to=kind)
    if layout == LAYOUTS[0]:
        value = operations.make("Transpose", value, perm=[0, 3, 1, 2])
    operations.make("Identity", value, output=given.name)


def _pool(operations: OnnxOperations, tensor: Tensor, pooling: str, n_registers: int) -> str:
    """Pool a tensor as `featx.backbones.openvino_graphs` does, to features `(n, dim)`."""
    value, shape = operations.make("Cast", tensor.name, to=TensorProto.FLOAT), tensor.shape
    last = len(shape) - 1
    if tensor.channels not in {None, last}:
        axis = int(tensor.channels or 0)
        order = [*(at for at in range(len(shape)) if at != axis), axis]
        value = operations.make("Transpose", value, perm=[0, *(at + 1 for at in order)])
        shape = tuple(shape[at] for at in order)
    if pooling not in {"none", "flatten"}:
        value = _reduce(operations, value, pooling, len(shape), n_registers)
        shape = (shape[-1] * (2 if pooling in {"avgmax", "cls+mean"} else 1),)
    return operations.make("Reshape", value, np.array([-1, math.prod(shape)], np.int64))


def _reduce(operations: OnnxOperations, value: str, pooling: str, rank: int, n_registers: int) -> str:
    axes = range(1, rank)
    if pooling == "gem":
        raised = operations.make("Max", value, np.float32(GEM_FLOOR).reshape(1))
        raised = operations.make("Pow", raised, np.float32(GEM_EXPONENT).reshape(1))
        mean = operations.reduce("ReduceMean", raised, axes, keep=False)
        return operations.make("Pow", mean, np.float32(1 / GEM_EXPONENT).reshape(1))
    if pooling in {"avg", "max", "avgmax"}:
        kinds = {"avg": ["ReduceMean"], "max": ["ReduceMax"]}.get(pooling, ["ReduceMean", "ReduceMax"])
        parts = [operations.reduce(kind, value, axes, keep=False) for kind in kinds]
    else:
        parts = [operations.make("Gather", value, np.array(0, np.int64), axis=1)] if pooling != "mean-patch" else []
        if pooling != "cls":
            ends = (1 + n_registers, np.iinfo(np.int64).max, 1)
            patches = operations.make("Slice", value, *(np.array([end], np.int64) for end in ends))
            parts.append(operations.reduce("ReduceMean", patches, axes, keep=False))
    return parts[0] if len(parts) == 1 else operations.make("Concat", *parts, axis=1)


def _keep_needed(nodes: Sequence[Any], wanted: str) -> Iterator[Any]:
    """Yield the operations that a tensor depends on, in their order."""
    needed, kept = {wanted}, []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(_list_inputs(node))
            kept.append(node)
    yield from reversed(kept)


def _list_inputs(node: Any) -> Iterator[str]:
    """Yield the names that an operation, or a graph inside it, takes."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in graph.node:
                yield from _list_inputs(inner)
            yield from (output.name for output in graph.output)
