"""A frozen Keras network as a backbone: cut at layers, pooled, digested, run.

Scaling and pooling are part of one graph that takes uint8 pixels, so every runtime executes the same
operations.
"""

import functools
import hashlib
import itertools
import math
import operator
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from featx.backbones.protocol import (
    GEM_EXPONENT,
    GEM_FLOOR,
    OWN_SCHEMES,
    TOKEN_POOLINGS,
    Features,
    LayerInfo,
    Output,
    UInt8Images,
    check_images,
    check_pooling,
)
from featx.errors import BackboneError, UnknownNameError, WeightsError
from featx.frameworks import keras, ops, tf
from featx.registry import suggest
from featx.wording import join_first

#: 100 times the largest output of a layer of `keras.applications` at 331 px.
MAX_OUTPUT_BYTES = 2**31

_MAP_RANK = 4

#: Weights that an error names.
_NAMED_WEIGHTS = 3


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a backbone, for training.

    Attributes:
        trunk: The network from scaled images to a list of feature maps, one per output.
        scale: Function that scales float32 pixels of 0 to 255 for the trunk; None if the trunk does so itself.
        layers: The layers of the network by name, in order.
        operations: Its operations that are not layers, such as `x + y`, by names that are the same in every process.
        network: The whole network; the trunk is its part before the cuts.
    """

    trunk: keras.Model
    scale: Callable[[Any], Any] | None
    layers: Mapping[str, keras.layers.Layer]
    operations: Mapping[str, keras.Operation]
    network: keras.Model

    def take_pixels(self, pixels: Any) -> Any:  # noqa: ANN401 - symbolic tensors of an untyped library
        """Turn uint8 pixels into the input of the trunk."""
        if self.scale:
            return self.scale(ops.cast(pixels, "float32"))
        wanted = self.trunk.inputs[0].dtype
        return pixels if wanted == "uint8" else ops.cast(pixels, wanted)


class KerasBackbone:
    """A `Backbone` made of one Keras network; see `make_backbone`.

    Attributes:
        weights_file: The file that its parameters were read from; empty if there is none.
        decoding: How its images are decoded; see `find_decoding`.
    """

    def __init__(
        self,
        model: keras.Model,
        parts: Parts,
        *,
        uri: str,
        weights: str,
        weights_digest: str,
        outputs: tuple[Output, ...],
        layers: tuple[LayerInfo, ...],
        source_file: str = "",
    ) -> None:
        self.model = model
        self.parts = parts
        self.uri = uri
        self.weights = weights
        self.weights_digest = weights_digest
        self.outputs = outputs
        self.layers = layers
        self.source_file = self.weights_file = source_file
        self.decoding: Mapping[str, str] = {}
        self.height, self.width = int(model.input.shape[1]), int(model.input.shape[2])

    @functools.cached_property
    def graph(self) -> Callable[[Any], Mapping[str, Any]]:
        """The network as one TensorFlow function: uint8 images in, `output_0`, `output_1`, ... out.

        It is traced once with an open batch dimension, so that a smaller last batch costs nothing. It is a concrete
        function because TensorFlow mistakes the traces of several backbones for retracing of one function.
        """
        signature = tf.TensorSpec((None, self.height, self.width, 3), tf.uint8)
        concrete: Callable[[Any], Mapping[str, Any]] = tf.function(self._call, autograph=False).get_concrete_function(
            signature
        )
        return concrete

    def _call(self, images: Any) -> dict[str, Any]:  # noqa: ANN401 - a symbolic tensor of an untyped library
        outputs = self.model(images, training=False)
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]  # Keras unpacks a single output
        return {f"output_{number}": output for number, output in enumerate(outputs)}

    @functools.cached_property
    def precision(self) -> str:
        """The type that its layers compute in: `float32`, or the first other type."""
        types = {layer.compute_dtype for layer in walk_operations(self.model) if hasattr(layer, "compute_dtype")}
        return next(iter(sorted(types - {"float32", "uint8", None})), "float32")

    @property
    def is_on_gpu(self) -> bool:
        """Whether TensorFlow has a GPU to run it on."""
        return bool(tf.config.list_physical_devices("GPU"))

    def cut(self, layers: Sequence[str], pooling: str) -> "KerasBackbone":
        """Cut the same network at other layers; nothing is built again, and the weights are shared.

        Args:
            layers: Names in `Parts.layers` or `Parts.operations`.
            pooling: How to pool each cut.
        """
        model, parts, outputs = _cut(self.parts, layers, pooling)
        again = KerasBackbone(
            model,
            parts,
            uri=self.uri,
            weights=self.weights,
            weights_digest=self.weights_digest,
            outputs=outputs,
            layers=self.layers,
            source_file=self.source_file,
        )
        again.weights_file, again.decoding = self.weights_file, self.decoding
        return again

    def embed_few(self, images: UInt8Images) -> Features:
        """Embed a few images as `embed` does, without the seconds that it takes to trace a network; one output."""
        features = np.array(self.model(tf.convert_to_tensor(images), training=False), np.float32)
        return features.reshape(len(images), -1)

    def embed(self, images: UInt8Images) -> tuple[Features, ...]:
        """Embed a batch; see `Backbone.embed`.

        Raises:
            MemoryError: If the batch does not fit into the memory of the device.
        """
        check_images(images, self.height, self.width)
        if not len(images):
            return tuple(np.empty((0, output.dim), np.float32) for output in self.outputs)
        try:
            found = self.graph(tf.convert_to_tensor(np.ascontiguousarray(images)))
            batches = [np.array(found[f"output_{number}"], np.float32) for number in range(len(self.outputs))]
        except tf.errors.ResourceExhaustedError as error:
            raise MemoryError(" ".join(str(error).split())[:200]) from error
        return tuple(batch.reshape(len(images), -1) for batch in batches)


def make_backbone(  # noqa: PLR0913 - one keyword for each difference between providers
    network: keras.Model,
    *,
    uri: str,
    weights: str,
    layers: Sequence[str | int] = (),
    pooling: str | None = None,
    default_pooling: str | None = None,
    scale: Callable[[Any], Any] | None = None,
    names: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    source_file: str = "",
) -> KerasBackbone:
    """Cut a network at layers, pool each cut, and freeze the whole.

    Args:
        network: A network that takes images `(n, height, width, 3)`.
        uri: Canonical name of the backbone.
        weights: `imagenet`, `none`, `computed` or `file`.
        layers: Names or indices of the layers to cut at, or names of `Parts.operations`; empty for the last layer.
        pooling: How to pool each cut; None for the default of its rank.
        default_pooling: Default for feature maps; `avg` if None.
        scale: Function that scales float32 pixels of 0 to 255 for the network; None if the network does
            so itself.
        names: Names of `network.layers`, if they differ from those that the layers have.
        size: Height and width of the images in px, if the network leaves them open.
        source_file: The user's file that the parameters came from, if any.

    Returns:
        The backbone, with one output per layer.

    Raises:
        WeightsError: If a weight is not finite.
        BackboneError: If a layer has several outputs, or more than `MAX_OUTPUT_BYTES` for an image, or the
            pooling does not suit its rank.
        UnknownNameError: If there is no such layer.
    """
    scheme = "".join(uri.partition(":")[:2])
    title = f"{scheme}{source_file}" if source_file and scheme in OWN_SCHEMES else uri  # the name that users know
    network = _fix_input(network, size)
    network.trainable = False
    _check_outputs(network)
    weights_digest = digest_weights(network, title)
    known = list(names or (layer.name for layer in network.layers))
    named = dict(zip(known, network.layers, strict=True))
    operations = name_operations(network, known)
    cuts = list(dict.fromkeys(_find_layer(layer, known, operations, title) for layer in layers or (len(known) - 1,)))
    whole = Parts(network, scale, named, operations, network)
    model, parts, described = _cut(whole, cuts, pooling, default_pooling)
    return KerasBackbone(
        model,
        parts,
        uri=uri,
        weights=weights,
        weights_digest=weights_digest,
        outputs=described,
        layers=tuple(_describe_layers(network, known, default_pooling)),
        source_file=source_file,
    )


def _cut(
    parts: Parts, cuts: Sequence[str], pooling: str | None, default_pooling: str | None = None
) -> tuple[keras.Model, Parts, tuple[Output, ...]]:
    """Cut a network at layers or operations, and pool each cut: the model, its parts, and its outputs."""
    places = {**parts.operations, **parts.layers}
    trunk = keras.Model(parts.network.inputs[0], [_read_output(places[cut], cut) for cut in cuts])
    parts = replace(parts, trunk=trunk)
    pixels = keras.Input(trunk.inputs[0].shape[1:], dtype="uint8", name="pixels")
    maps = trunk(parts.take_pixels(pixels), training=False)
    maps = maps if isinstance(maps, list | tuple) else [maps]
    poolings = [pooling or choose_pooling(len(m.shape), default_pooling) for m in maps]
    pooled = [pool(m, p, cut) for cut, m, p in zip(cuts, maps, poolings, strict=True)]
    outputs = tuple(_describe_output(*each) for each in zip(cuts, poolings, pooled, strict=True))
    return keras.Model(pixels, pooled, name="backbone"), parts, outputs


def _describe_output(cut: str, pooling: str, vector: Any) -> Output:  # noqa: ANN401 - a symbolic tensor
    """Describe one output of a backbone.

    Raises:
        BackboneError: If its size is unknown.
    """
    shape = tuple(vector.shape[1:])
    if None in shape:
        msg = f"the size of the output of layer {cut!r} is unknown; choose another layer or pooling"
        raise BackboneError(msg)
    return Output(cut, pooling, int(np.prod(shape)), shape)


def choose_pooling(rank: int, default: str | None = None) -> str:
    """Choose the pooling for an output by its rank, which includes the batch axis.

    Maps are pooled by `default` (`avg` if None), token sequences are averaged, vectors are kept.
    """
    if rank == _MAP_RANK:
        return default or "avg"
    return "avg" if rank == _MAP_RANK - 1 else "none"


def digest_weights(network: keras.Model, title: str = "the network") -> str:
    """Return the sha256 over a network's weights: dtype, shape and bytes of each, in order.

    Raises:
        WeightsError: If some are NaN or infinite. A layer such as ReLU can turn these into zeros, which look sound.
    """
    digest, found = hashlib.sha256(), []
    for weight in network.weights:
        values = np.asarray(weight.numpy())
        digest.update(f"{values.dtype.str}{values.shape}".encode("ascii"))
        digest.update(values.tobytes())
        if bad := values.size - int(np.isfinite(values).sum()):
            found.append(f"{weight.path} ({bad:,} of {values.size:,} values)")
    if found:
        where = join_first(found, _NAMED_WEIGHTS, what="more weights")
        msg = (
            f"{title} has weights that are NaN or infinite, in {where}; use a copy that was saved before its training "
            f"failed"
        )
        raise WeightsError(msg)
    return digest.hexdigest()


def walk_operations(network: keras.Model) -> Iterator[keras.Operation]:
    """Yield the operations of a network in order; a nested network is replaced by its own operations."""
    for operation in network.layers if isinstance(network, keras.Sequential) else network.operations:
        if isinstance(operation, keras.Model):
            yield from walk_operations(operation)
        else:
            yield operation


def name_operations(network: keras.Model, taken: Iterable[str]) -> dict[str, keras.Operation]:
    """Name the operations of a functional model as if it were the first model built in its process.

    Args:
        network: The model.
        taken: The names of its layers.

    Returns:
        The operations that are not layers by name, in order.
    """
    layers, used = {id(layer) for layer in network.layers}, set(taken)
    named: dict[str, keras.Operation] = {}
    for operation in network.operations:
        if id(operation) in layers:
            continue
        stem = re.sub(r"(_\d+)+$", "", operation.name)
        numbered = (f"{stem}_{number}" if number else stem for number in itertools.count())
        name = next(name for name in numbered if name not in used)
        used.add(name)
        named[name] = operation
    return named


def copy_weights(source: keras.Operation, copy: keras.Operation) -> None:
    """Copy the weights of a layer or network to its copy; layers inside are matched by name."""
    if isinstance(source, keras.Sequential) or hasattr(source, "operations"):
        for layer in (one for one in source.layers if one.weights):
            copy_weights(layer, copy.get_layer(layer.name))
    elif getattr(source, "weights", ()):
        copy.set_weights(source.get_weights())
    if isinstance(copy, keras.layers.Normalization) and copy.weights:
        copy.finalize_state()  # it computes with values derived from its weights


def _check_outputs(network: keras.Model) -> None:
    for operation in walk_operations(network):
        outputs = operation.output
        for output in outputs if isinstance(outputs, list | tuple) else [outputs]:
            size_bytes = 4 * math.prod(side or 1 for side in getattr(output, "shape", ()))
            if size_bytes > MAX_OUTPUT_BYTES:
                msg = (
                    f"layer {operation.name!r} outputs {size_bytes / 2**30:,.1f} GiB for one image; the limit is "
                    f"{MAX_OUTPUT_BYTES / 2**30:g} GiB; choose smaller images or another network"
                )
                raise BackboneError(msg)


def _fix_input(network: keras.Model, size: tuple[int, int] | None) -> keras.Model:
    """Make a network functional, for any number of images of one size.

    A loaded `Sequential` has no `input`, and one that was built by a call keeps the batch size of that
    call. Sizes are fixed so that every layer knows the shape of its output.
    """
    given = network.inputs[0]
    shape = (*(size or given.shape[1:3]), 3)
    if not isinstance(network, keras.Sequential) and tuple(given.shape) == (None, *shape):
        return network
    try:
        copy = keras.models.clone_model(network, input_tensors=keras.Input(shape, dtype=given.dtype, name="pixels"))
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        msg = f"the network cannot take images of {shape[0]}x{shape[1]} px ({reason}); choose another size"
        raise BackboneError(msg) from error
    copy_weights(network, copy)
    return keras.Model(copy.inputs[0], copy.outputs)


def _find_layer(layer: str | int, known: list[str], operations: Collection[str], title: str) -> str:
    if not isinstance(layer, str):
        index = operator.index(layer)  # also NumPy's integers, which a parameter grid may hold
        if -len(known) <= index < len(known):
            return known[index]
        msg = f"{title} has {len(known)} layers; there is no layer {index}. `featx layers {title}` lists them"
        raise UnknownNameError(msg)
    if layer in known or layer in operations:
        return layer
    hint, advice = suggest(layer, known), f"`featx layers {title}` lists all {len(known)}"
    msg = f"{title} has no layer called {layer!r}; {f'{hint} ' if hint else ''}{advice}"
    raise UnknownNameError(msg)


def find_output(layer: keras.Operation) -> Any:  # noqa: ANN401 - a symbolic tensor of an untyped library
    """Find the output of a layer within its network; None if it is not a single tensor.

    A model that is used as a layer has an `output` in its own graph, which is not connected to that of
    the network. The base class knows where the model was called.
    """
    output = keras.Operation.output.fget(layer)
    return None if isinstance(output, list | tuple | dict) else output


def _read_output(layer: keras.layers.Layer, name: str) -> Any:  # noqa: ANN401 - a symbolic tensor, as above
    output = find_output(layer)
    if output is None:
        msg = f"layer {name!r} has several outputs, so the network cannot be cut there; choose another layer"
        raise BackboneError(msg)
    return output


def pool(feature_map: Any, pooling: str, layer: str) -> Any:  # noqa: ANN401 - symbolic tensors, as above
    """Pool a feature map, in float32.

    Raises:
        BackboneError: If the pooling does not suit the rank of the layer's output.
    """
    check_pooling(pooling, feature_map.shape[1:], layer)
    feature_map = ops.cast(feature_map, "float32")  # a mean in half precision loses digits
    if pooling == "none":
        return feature_map
    if pooling == "flatten":
        return ops.reshape(feature_map, (-1, int(np.prod(feature_map.shape[1:]))))
    axes = tuple(range(1, len(feature_map.shape) - 1))
    if pooling in TOKEN_POOLINGS:
        tokens = [feature_map[:, 0]] if pooling != "mean-patch" else []
        tokens += [ops.mean(feature_map[:, 1:], axis=1)] if pooling != "cls" else []
        return tokens[0] if len(tokens) == 1 else ops.concatenate(tokens, axis=-1)
    if pooling == "gem":
        powered = ops.power(ops.maximum(feature_map, GEM_FLOOR), GEM_EXPONENT)
        return ops.power(ops.mean(powered, axis=axes), 1.0 / GEM_EXPONENT)
    reduced = {"avg": [ops.mean], "max": [ops.max], "avgmax": [ops.mean, ops.max]}[pooling]
    parts = [reduce(feature_map, axis=axes) for reduce in reduced]
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)


def _describe_layers(network: keras.Model, known: list[str], default_pooling: str | None) -> list[LayerInfo]:
    described = []
    for index, (name, layer) in enumerate(zip(known, network.layers, strict=True)):
        output = find_output(layer)
        shape = () if output is None or None in output.shape[1:] else tuple(output.shape[1:])
        whole = 4 * int(np.prod(shape)) if shape else 0
        averaged = bool(whole) and choose_pooling(len(shape) + 1, default_pooling) == "avg"
        per_item = 4 * shape[-1] if averaged else whole
        described.append(LayerInfo(index, name, type(layer).__name__, shape, layer.count_params(), per_item, whole))
    return described
