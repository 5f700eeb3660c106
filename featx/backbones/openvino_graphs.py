"""Networks in files that OpenVINO reads: their tensors, and a cut from uint8 pixels to pooled features.

Once the size of the images is known, all shapes but the number of images are, so what computes shapes is replaced by
constants. What is left runs faster, and is made of few enough operations that a bundle can hold the network.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featx.backbones.openvino import MOST_LAYER_BYTES, fold_constants, openvino, read_file, start, translate_errors
from featx.backbones.protocol import GEM_EXPONENT, GEM_FLOOR, LayerInfo, Output, check_pooling
from featx.backbones.recipes import CHANNELS, Recipe
from featx.backbones.untrusted_networks import OPERATIONS, copy_checked
from featx.errors import BackboneError

# OpenVINO has no types for mypy, so that its models, nodes and outputs are `Any` here.
# ruff: noqa: ANN401

LAYOUTS = ("nchw", "nhwc")

_IMAGE_RANK, _TOKENS_RANK = 4, 3

#: Operations that keep the channel axis of their first input, whatever else they do, if the rank stays.
_SPATIAL = ("Convolution", "GroupConvolution", "MaxPool", "AvgPool", "DepthToSpace", "SpaceToDepth")

#: Operations that move, join, split or remove axes, besides the reductions.
_MOVING = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Gather")

#: Operations after the last matrix product of a classifier.
_AFTER = ("Softmax", "LogSoftmax", "Sigmoid", "Reshape", "Squeeze", "Add", "Multiply", "Subtract", "Convert")

#: Arrays that are computed from weights take at most so many times their bytes, and so many more.
_MOST_COMPUTED, _COMPUTED_BYTES = 4, 2**28

#: The types of values that are broadcast.
_COMPUTED_TYPES = {"f32": np.float32, "f16": np.float16, "i64": np.int64, "i32": np.int32, "boolean": np.bool_}

#: A number of images that is not a usual size of anything else.
_PROBED = 7

#: Operations that change no value, through which the input of a product is looked for.
_SAME_VALUES = ("Reshape", "Squeeze", "Convert")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor at which a network can be cut.

    Attributes:
        name: Its name in the file.
        kind: The operation that computes it.
        shape: Its shape for one image.
        channels: The axis of its channels in `shape`; None if unknown.
        depth: Convolutions and matrix products with weights on the longest way from the pixels.
        parameters: Number of weights of its operation.
        output: The output of its operation.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    channels: int | None
    depth: int
    parameters: int
    output: Any

    @property
    def default_pooling(self) -> str:
        """`none` for vectors and for what has no known channels, else `avg`."""
        return "none" if len(self.shape) == 1 or self.channels is None else "avg"

    def describe(self, index: int) -> LayerInfo:
        """Describe it as a layer."""
        whole = 4 * math.prod(self.shape)
        item = whole if self.default_pooling == "none" else 4 * self.shape[self.channels or 0]
        return LayerInfo(index, self.name, self.kind, self.shape, self.parameters, item, whole, self.depth)


class Graph:
    """A network as it is in a file.

    Args:
        path: The file.
        kind: `onnx`, `ir` or `tflite`.

    Attributes:
        input_shape: The shape of its input; None for an open side.
        input_type: The type of its input, such as `f32`.
        tensors: The tensors at which it can be cut, in the order of their computation; empty before `fix`.

    Raises:
        BackboneError: If OpenVINO cannot read it, or it does not take one image of known rank.
        MemoryError: If there is not enough memory.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self._path, self._kind = path, kind
        with translate_errors(str(path), ""):
            self._model = _read_model(path, kind)
            inputs = self._model.inputs
            if len(inputs) != 1 or not inputs[0].partial_shape.rank.is_static:
                takes = f"{len(inputs)} inputs" if len(inputs) != 1 else "an input of any rank"
                msg = f"{path} takes {takes}; a backbone takes one input, images of shape (n, 3, height, width)"
                raise BackboneError(msg)
            self.input_type = inputs[0].element_type.get_type_name()
            sides = inputs[0].partial_shape
            self.input_shape = tuple(None if side.is_dynamic else side.get_length() for side in sides)
        if self.input_type not in {"f32", "f16", "u8"}:
            msg = f"{path} takes values of type {self.input_type}, not float32; export it without quantisation"
            raise BackboneError(msg)
        if len(self.input_shape) != _IMAGE_RANK:
            msg = f"{path} takes input of shape {self.describe_input()}; a backbone takes images (n, 3, height, width)"
            raise BackboneError(msg)
        self.tensors: tuple[Tensor, ...] = ()

    def describe_input(self) -> str:
        """Describe the shape of the input, such as `(n, 3, 224, 224)`."""
        return f"({', '.join('n' if side is None else str(side) for side in self.input_shape)})"

    def find_layout(self, asked: str | None) -> str:
        """Tell which axis of the input has the channels.

        Raises:
            BackboneError: If both or neither may, and none was asked for; or it does not take RGB.
        """
        fits = [layout for layout, axis in zip(LAYOUTS, (1, 3), strict=True) if self.input_shape[axis] in {3, None}]
        exact = [layout for layout in fits if self.input_shape[1 if layout == LAYOUTS[0] else 3] == 3]  # noqa: PLR2004 - red, green, blue
        if asked is not None and asked in fits:
            return asked
        if asked is None and len(exact or fits) == 1:
            return (exact or fits)[0]
        why = "it does not take three channels" if not fits else f"layout is {asked!r}" if asked else "either may be"
        msg = (
            f"{self._path} takes input of shape {self.describe_input()}, of which the channels are not known ({why}); "
            f"append ?layout=nchw or ?layout=nhwc to its name"
        )
        raise BackboneError(msg)

    def fix(self, layout: str, height: int, width: int) -> None:
        """Set the size of the images, replace what computes shapes, and list the tensors.

        Raises:
            BackboneError: If it does not work for this size, or a layer is too large.
            MemoryError: If there is not enough memory.
        """
        batch = self.input_shape[0] or -1
        shape = [batch, 3, height, width] if layout == LAYOUTS[0] else [batch, height, width, 3]
        with translate_errors(str(self._path), ""):
            self._model.reshape(openvino.PartialShape(shape))
            _check_sizes(self._model, self._path)
            _fix_shapes(self._model)
            _check_sizes(self._model, self._path)
            self.tensors = tuple(_list_tensors(self._model, layout, batch, named_only=self._kind == "onnx"))
        if not self.tensors:
            msg = f"{self._path} has no tensor with a row for each image; export it with an open batch dimension"
            raise BackboneError(msg)

    def find_default(self) -> tuple[Tensor, bool]:
        """Find where to cut if nothing is said, and whether a classifier is left out there.

        The input of the last matrix product, if the network ends in one that maps vectors to vectors; else its output.

        Raises:
            BackboneError: If it has several outputs.
        """
        known = {_identify(tensor.output): tensor for tensor in self.tensors}
        ends = [known.get(_identify(result.input_value(0))) for result in self._model.get_results()]
        if len(ends) != 1:
            shown = ", ".join(f"{end.name} {end.shape}" for end in ends if end)
            msg = f"{self._path} has {len(ends)} outputs ({shown}); choose one with --layer"
            raise BackboneError(msg)
        found = _find_classifier(self._model)
        while found is not None and _identify(found) not in known:
            node = found.get_node()
            found = node.input_value(0) if node.get_type_name() in _SAME_VALUES else None
        if found is not None:
            return known[_identify(found)], True
        return ends[0] or self.tensors[-1], False

    def cut(
        self, tensors: Sequence[Tensor], pooling: str | None, recipe: Recipe, layout: str, n_registers: int
    ) -> tuple[Any, tuple[Output, ...]]:
        """Build the network from uint8 pixels `(n, height, width, 3)` to pooled float32 features.

        The graph itself is used up.

        Args:
            tensors: Where to cut.
            pooling: How to pool each; None for its default.
            recipe: What the pixels become.
            layout: One of `LAYOUTS`.
            n_registers: Number of register tokens after the class token.

        Raises:
            BackboneError: If the pooling does not suit a tensor, or an operation is not one that featx runs.
            MemoryError: If there is not enough memory.
        """
        with translate_errors(str(self._path), ""):
            (source,) = self._model.get_parameters()
            shape = list(source.get_partial_shape())
            batch, height, width = (shape[0], *shape[2:]) if layout == LAYOUTS[0] else shape[:3]
            pixels = _ops.parameter(openvino.PartialShape([batch, height, width, 3]), openvino.Type.u8, name="pixels")
            scaled = _scale(pixels, recipe, layout, source.get_element_type())
            for target in source.output(0).get_target_inputs():
                target.replace_source_output(scaled.output(0))
            pooled, outputs = [], []
            for tensor in tensors:
                node, output = _pool(tensor, pooling or tensor.default_pooling, n_registers)
                pooled.append(_ops.result(node))
                outputs.append(output)
            network = openvino.Model(pooled, [pixels], "backbone")
            network.validate_nodes_and_infer_types()
        for node in network.get_ordered_ops():
            kind = node.get_type_name()
            if kind not in OPERATIONS and kind not in {"Constant", "Relu"}:
                msg = (
                    f"{self._path} has an operation {kind} ({node.get_friendly_name()}), which featx does not run; "
                    f"cut it at an earlier --layer, or export it without this operation"
                )
                raise BackboneError(msg)
        return network, tuple(outputs)


_ops = openvino.opset14


def _read_model(path: Path, kind: str) -> Any:
    if kind == "ir":
        description, weights = copy_checked(path)
        return start().read_model(description, openvino.Tensor(np.frombuffer(weights, np.uint8)))
    return read_file(path, kind)


def _identify(output: Any) -> tuple[str, int]:
    return output.get_node().get_name(), output.get_index()


def _list_inputs(node: Any) -> list[tuple[str, int]]:
    return [_identify(given) for given in node.input_values()]


def _list_shape(output: Any) -> tuple[int, ...]:
    """Return the shape of an output, with 0 for an open side; empty if its rank is open too."""
    shape = output.partial_shape
    return () if shape.rank.is_dynamic else tuple(side.get_length() if side.is_static else 0 for side in shape)


def _walk_dependent(model: Any) -> Iterator[tuple[Any, bool]]:
    """Yield the operations in order, and whether they depend on the input."""
    known: set[str] = set()
    for node in model.get_ordered_ops():
        depends = node.get_type_name() == "Parameter" or any(name in known for name, _ in _list_inputs(node))
        if depends:
            known.add(node.get_name())
        yield node, depends


def _check_sizes(model: Any, path: Path) -> None:
    """Refuse layers, and arrays that are computed from weights, that are too large, before they are computed."""
    given = computed = 0
    for node, depends in _walk_dependent(model):
        for output in node.outputs():
            n_bytes = math.prod(side or 1 for side in _list_shape(output)) * max(1, output.element_type.size)
            if depends and n_bytes > MOST_LAYER_BYTES:
                msg = (
                    f"{path} has a layer {node.get_friendly_name()!r} of {n_bytes:,} bytes for one image; the limit is "
                    f"{MOST_LAYER_BYTES:,}"
                )
                raise BackboneError(msg)
            if node.get_type_name() == "Constant":
                given += n_bytes
            elif not depends:
                computed += n_bytes
    if computed > _MOST_COMPUTED * given + _COMPUTED_BYTES:
        msg = f"{path} computes arrays of {computed:,} bytes from {given:,} bytes of weights; featx does not run it"
        raise BackboneError(msg)


def _fix_shapes(model: Any) -> None:
    """Replace what computes shapes by constants, except for the number of images."""
    fold_constants(model)
    rows: list[Any] = []
    for node in model.get_ordered_ops():
        shape = _list_shape(node.output(0)) if node.outputs() else ()
        if node.get_type_name() == "Reshape" and shape.count(0) <= 1:
            if shape:
                sides = _ops.constant(np.array([side or -1 for side in shape], np.int64))
                node.input(1).replace_source_output(sides.output(0))
        elif node.get_type_name() == "Broadcast" and 0 not in shape[1:]:
            _replace_broadcast(model, node, shape, rows)
    model.validate_nodes_and_infer_types()
    fold_constants(model)


def _replace_broadcast(model: Any, node: Any, shape: tuple[int, ...], rows: list[Any]) -> None:
    """Replace a broadcast by a product with ones, and the repetition of rows for each image by a choice of the first.

    Args:
        model: The network.
        node: The broadcast.
        shape: Its shape, with 0 for the number of images.
        rows: As many zeros as there are images, once they are needed; filled here.
    """
    given = node.input_value(0)
    kind = given.element_type.get_type_name()
    if not shape or kind not in _COMPUTED_TYPES or node.get_attributes().get("mode") not in {"numpy", "bidirectional"}:
        return
    ones = _ops.constant(np.ones([side or 1 for side in shape], _COMPUTED_TYPES[kind]))
    replaced = _ops.logical_and(given, ones) if kind == "boolean" else _ops.multiply(given, ones)
    own = _list_shape(given)
    if shape[0] == 0 and not (len(own) == len(shape) and own[0] == 0):
        if not rows:
            value = model.get_parameters()[0]
            for _ in range(_IMAGE_RANK - 1):
                value = _ops.gather(value, _ops.constant(np.int64(0)), _ops.constant(np.int64(1)))
            rows.append(_ops.multiply(_ops.convert(value, "i64"), _ops.constant(np.int64(0))))
        replaced = _ops.gather(replaced, rows[0], _ops.constant(np.int64(0)))
    replaced.output(0).set_names(node.output(0).get_names())
    for target in node.output(0).get_target_inputs():
        target.replace_source_output(replaced.output(0))


def _list_tensors(model: Any, layout: str, batch: int, *, named_only: bool) -> Iterator[Tensor]:
    """List the tensors that have a row for each image.

    Args:
        model: The network, for images of one size.
        layout: One of `LAYOUTS`.
        batch: The number of images that it takes; -1 if any.
        named_only: Whether to leave out tensors that have no name in the file.
    """
    probed = model.clone()
    if batch < 0:  # so that rows of each image are told from rows of each attention head
        probed.get_parameters()[0].set_partial_shape(
            openvino.PartialShape([_PROBED, *list(model.inputs[0].partial_shape)[1:]])
        )
        probed.validate_nodes_and_infer_types()
    axes: dict[tuple[str, int], int | None] = {}
    depths: dict[str, int] = {}
    counts: dict[str, int] = {}
    for (node, depends), fixed in zip(_walk_dependent(model), probed.get_ordered_ops(), strict=True):
        kind = node.get_type_name()
        if not depends or kind == "Result":
            continue
        weights = [value for value in node.input_values() if value.get_node().get_type_name() == "Constant"]
        weights = [value for value in weights if value.element_type.is_real()]
        deeper = bool(weights) and kind in {"Convolution", "GroupConvolution", "MatMul"}
        depths[node.get_name()] = max((depths.get(name, 0) for name, _ in _list_inputs(node)), default=0) + deeper
        for output, probe in zip(node.outputs(), fixed.outputs(), strict=True):
            shape = _list_shape(output)
            axis = axes[_identify(output)] = _find_channels(node, shape, axes, layout)
            counts[kind] = counts.get(kind, 0) + 1
            sides = _list_shape(probe)
            own_row = len(sides) > 1 and sides[0] == (batch if batch > 0 else _PROBED) and 0 not in sides
            if not own_row or kind == "Parameter" or not output.element_type.is_real():
                continue
            names = sorted(output.get_names())
            if not names and named_only:
                continue
            yield Tensor(
                names[0] if names else f"{kind}_{counts[kind]}",
                kind,
                sides[1:],
                None if axis is None else axis - 1,
                depths[node.get_name()],
                sum(math.prod(_list_shape(value)) for value in weights),
                output,
            )


def _find_channels(
    node: Any, shape: tuple[int, ...], axes: dict[tuple[str, int], int | None], layout: str
) -> int | None:
    """Find the axis of the channels in the output of an operation; None if unknown."""
    kind = node.get_type_name()
    if kind == "Parameter":
        return 1 if layout == LAYOUTS[0] else _IMAGE_RANK - 1
    values = node.input_values()
    if len(shape) < _TOKENS_RANK or kind in _SPATIAL:
        return 1 if len(shape) > 1 else None
    if kind == "MatMul":
        has_weights = any(value.get_node().get_type_name() == "Constant" for value in values)
        return len(shape) - 1 if has_weights or len(shape) == _TOKENS_RANK else None
    found = [(axes[_identify(value)], _list_shape(value)) for value in values if _identify(value) in axes]
    known = [(axis, given) for axis, given in found if axis is not None]
    if kind not in _MOVING and not kind.startswith("Reduce"):
        return next((axis for axis, given in known if len(given) == len(shape)), None)
    return _move_channels(node, shape, *known[0]) if known else None


def _move_channels(node: Any, shape: tuple[int, ...], axis: int, given: tuple[int, ...]) -> int | None:
    """Find the axis of the channels after an operation that moves, joins, splits or removes axes.

    Args:
        node: The operation.
        shape: Shape of its output.
        axis: The axis of the channels in its input.
        given: Shape of its input.
    """
    if node.get_type_name() == "Transpose":
        order = [int(side) for side in node.input_value(1).get_node().get_data()]
        return order.index(axis)
    after = math.prod(given[axis + 1 :])
    same = [at for at in range(1, len(shape)) if shape[at] == given[axis] and math.prod(shape[at + 1 :]) == after]
    if same:
        return same[0]
    return axis if len(given) == len(shape) and given[axis] == shape[axis] else None


def _find_classifier(model: Any) -> Any:
    """Find the input of the last matrix product of a classifier; None if the network does not end in one."""
    depending = {node.get_name() for node, depends in _walk_dependent(model) if depends}
    value = model.get_results()[0].input_value(0)
    while value.get_node().get_name() in depending:
        node = value.get_node()
        given = [each for each in node.input_values() if each.get_node().get_name() in depending]
        if len(given) != 1:
            return None
        if node.get_type_name() == "MatMul":
            return given[0] if len(_list_shape(given[0])) == _TOKENS_RANK - 1 else None
        if node.get_type_name() not in _AFTER:
            return None
        value = given[0]
    return None


def _scale(pixels: Any, recipe: Recipe, layout: str, wanted: Any) -> Any:
    """Turn uint8 pixels into the input of the network."""
    value = pixels
    if recipe.channels == CHANNELS[1]:
        value = _ops.gather(value, _ops.constant(np.array([2, 1, 0], np.int64)), _ops.constant(np.int64(3)))
    if wanted != openvino.Type.u8:
        value = _ops.convert(value, "f32")
        factor, offset = recipe.scale / np.array(recipe.std), np.array(recipe.mean) / recipe.std
        if (factor != 1).any():
            value = _ops.multiply(value, _ops.constant(factor.astype(np.float32)))
        if offset.any():
            value = _ops.subtract(value, _ops.constant(offset.astype(np.float32)))
        if wanted != openvino.Type.f32:
            value = _ops.convert(value, wanted.get_type_name())
    if layout == LAYOUTS[0]:
        value = _ops.transpose(value, _ops.constant(np.array([0, 3, 1, 2], np.int64)))
    return value


def _pool(tensor: Tensor, pooling: str, n_registers: int) -> tuple[Any, Output]:
    """Pool a tensor; its channels become the last axis, as in Keras."""
    check_pooling(pooling, tensor.shape, tensor.name)
    shape, last = tensor.shape, len(tensor.shape) - 1
    value = tensor.output if tensor.output.element_type == openvino.Type.f32 else _ops.convert(tensor.output, "f32")
    if tensor.channels not in {None, last}:
        axis = int(tensor.channels or 0)
        order = [*(at for at in range(len(shape)) if at != axis), axis]
        value = _ops.transpose(value, _ops.constant(np.array([0, *(at + 1 for at in order)], np.int64)))
        shape = tuple(shape[at] for at in order)
    if pooling not in {"none", "flatten"} and tensor.channels is None:
        msg = (
            f"tensor {tensor.name!r} of shape {shape} has no axis that is known to be its channels; use flatten or none"
        )
        raise BackboneError(msg)
    if pooling == "flatten":
        shape = (math.prod(shape),)
        value = _ops.reshape(value, _ops.constant(np.array([-1, *shape], np.int64)), special_zero=False)
    if pooling in {"none", "flatten"}:
        return value, Output(tensor.name, pooling, math.prod(shape), shape)
    value = _reduce(value, pooling, len(shape), n_registers)
    dim = shape[-1] * (2 if pooling in {"avgmax", "cls+mean"} else 1)
    return value, Output(tensor.name, pooling, dim, (dim,))


def _reduce(value: Any, pooling: str, rank: int, n_registers: int) -> Any:
    """Reduce a map or tokens, channels last, as `featx.backbones.networks.pool` does."""
    axes = _ops.constant(np.arange(1, rank, dtype=np.int64))
    if pooling == "gem":
        floor, exponent = _ops.constant(np.float32(GEM_FLOOR)), _ops.constant(np.float32(GEM_EXPONENT))
        mean = _ops.reduce_mean(_ops.power(_ops.maximum(value, floor), exponent), axes)
        return _ops.power(mean, _ops.constant(np.float32(1 / GEM_EXPONENT)))
    if pooling in {"avg", "max", "avgmax"}:
        parts = [_ops.reduce_mean(value, axes)] if pooling != "max" else []
        parts += [_ops.reduce_max(value, axes)] if pooling != "avg" else []
    else:
        one = _ops.constant(np.int64(1))
        parts = [_ops.gather(value, _ops.constant(np.int64(0)), one)] if pooling != "mean-patch" else []
        if pooling != "cls":
            bounds = [np.array([each], np.int64) for each in (1 + n_registers, np.iinfo(np.int64).max, 1, 1)]
            parts.append(_ops.reduce_mean(_ops.slice(value, *map(_ops.constant, bounds)), axes))
    return parts[0] if len(parts) == 1 else _ops.concat(parts, 1)
