"""A user's own `.keras` file as a backbone: `file:path/to/model.keras`."""

import dataclasses
import functools
import hashlib
import logging
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from featx.backbones.networks import (
    KerasBackbone,
    Parts,
    copy_weights,
    make_backbone,
    name_operations,
    walk_operations,
)
from featx.backbones.protocol import BackboneRequest
from featx.backbones.untrusted_files import Inspected, inspect_model
from featx.errors import BackboneError, WeightsError
from featx.frameworks import keras

logger = logging.getLogger(__name__)

_IMAGE_SHAPE_LENGTH = 4
_SCALING_LAYERS = (keras.layers.Rescaling, keras.layers.Normalization, keras.layers.BatchNormalization)
#: What `x / 255` and Keras's `preprocess_input` become in a functional model.
_SCALING_OPERATIONS = {"TrueDivide", "Divide", "Multiply", "Subtract", "Add"}


def load_saved_model(request: BackboneRequest) -> KerasBackbone:
    """Load a `.keras` file in safe mode and make it a backbone.

    Its uri has the digest of the file, so a moved or renamed file is the same backbone, and another
    file with the same name is not.

    A saved model does not declare how its pixels should be scaled, so the uri can:
    `file:model.keras?preprocess=tf` (or caffe, torch). By default the pixels are 0 to 255.

    Args:
        request: `name` is `file:PATH`; the weights are those in the file.

    Raises:
        BackboneError: If the file is missing, is not a Keras model of RGB images, or needs code that safe
            mode refuses to run.
        WeightsError: If the request names other weights.
    """
    path = Path(request.name.removeprefix("file:")).expanduser()
    unknown = set(request.arguments) - {"preprocess"}
    if unknown:
        msg = f"{request.name} takes the argument preprocess; leave out {', '.join(sorted(unknown))}"
        raise BackboneError(msg)
    if request.weights not in {None, "file"}:
        msg = f"{path} has its own weights; leave out --weights {request.weights}"
        raise WeightsError(msg)
    scale = find_preprocessing(request.arguments.get("preprocess", "none"))
    network = _read_model(path)
    height, width = _choose_size(network, request, path)
    if scale and "float" not in network.inputs[0].dtype:
        msg = f"{path} takes {network.inputs[0].dtype} pixels of 0 to 255; leave out preprocess"
        raise BackboneError(msg)
    if "preprocess" not in request.arguments and not _scales_itself(network):
        logger.warning(
            "%s does not declare how its pixels are scaled, so it gets 0 to 255; if it was trained on other values, "
            "use --backbone file:%s?preprocess=tf (one of %s)",
            path.name,
            path,
            ", ".join(PREPROCESSINGS),
        )
    return make_backbone(
        network,
        uri=dataclasses.replace(request, name=f"file:{_digest_file(path)[:16]}").uri,
        weights="file",
        source_file=str(path.resolve()),
        layers=request.layers,
        pooling=request.pooling,
        scale=scale,
        size=(height, width),
    )


def flatten(parts: Parts) -> keras.Model:
    """Combine a network and the scaling of its pixels into one functional model.

    Args:
        parts: The network; it is left unchanged.

    Returns:
        A copy that takes uint8 pixels and has the layer names of the backbone. The same network always has
        the same structure, whatever its process has built before.

    Raises:
        BackboneError: If a layer cannot be built again from its config.
    """
    trunk = parts.trunk
    names = {id(layer): name for name, layer in {**parts.operations, **parts.layers}.items()}
    pixels = keras.Input(trunk.inputs[0].shape[1:], dtype="uint8", name=_find_input(trunk, names))
    scaled = _copy_scaling(parts, pixels, set(names.values()))
    pairs: dict[int, tuple[Any, Any]] = {}

    def copy(layer: Any) -> Any:  # noqa: ANN401 - Keras is untyped
        pairs[id(layer)] = (layer, _rename(layer, names[id(layer)]))
        return pairs[id(layer)][1]

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as above
        args, kwargs = keras.tree.map_structure(lambda x: scaled if x is pixels else x, (args, kwargs))
        return layer(*args, **kwargs)

    try:
        flat = keras.models.clone_model(trunk, input_tensors=pixels, clone_function=copy, call_function=call)
        for layer, copied in pairs.values():
            copy_weights(layer, copied)
    except (ValueError, TypeError, NotImplementedError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        msg = f"the network cannot be copied ({reason}); a custom layer needs `get_config` and `from_config`"
        raise BackboneError(msg) from error
    return keras.Model(flat.inputs[0], flat.outputs, name="backbone")


def _find_input(trunk: keras.Model, names: Mapping[int, str]) -> str:
    found = (names[id(one)] for one in trunk.operations if isinstance(one, keras.layers.InputLayer))
    return next(found, "pixels")


def _copy_scaling(parts: Parts, pixels: Any, taken: set[str]) -> Any:  # noqa: ANN401 - symbolic tensors
    """Scale pixels with operations under fixed names, whatever names Keras chooses."""
    given = keras.Input(pixels.shape[1:], dtype="uint8")
    scaled = parts.take_pixels(given)
    if scaled is given:
        return pixels
    scaling = keras.Model(given, scaled)
    fresh = {id(one): f"scaling_{name}" for name, one in name_operations(scaling, ()).items()}
    return keras.models.clone_model(
        scaling, input_tensors=pixels, clone_function=lambda one: _rename(one, _find_free(fresh[id(one)], taken))
    ).outputs[0]


def _find_free(name: str, taken: set[str]) -> str:
    while name in taken:
        name = f"{name}_again"
    return name


def _rename(layer: Any, name: str) -> Any:  # noqa: ANN401 - a layer or operation of an untyped library
    """Copy a layer under another name, without its weights."""
    config = {**layer.get_config(), "name": name}
    _name_hidden_inputs({"class_name": type(layer).__name__, "config": config})
    copy = type(layer).from_config(config)
    if copy.name != name:
        msg = f"{type(layer).__name__} {layer.name!r} takes no name"
        raise ValueError(msg)
    if isinstance(copy, keras.layers.Layer):
        copy.trainable = True  # a layer that is frozen now need not stay frozen
    return copy


def _name_hidden_inputs(config: Any) -> None:  # noqa: ANN401 - the config of a network
    """Rename, in place, the inputs of nested `Sequential` models, which Keras adds and numbers."""
    if isinstance(config, dict):
        for entry in config["config"]["layers"] if config.get("class_name") == "Sequential" else ():
            if entry["class_name"] == "InputLayer":
                entry["config"]["name"] = "input_layer"
        config = list(config.values())
    if isinstance(config, list | tuple):
        for part in config:
            _name_hidden_inputs(part)


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_model(path: Path) -> keras.Model:
    if not path.is_file():
        msg = f"there is no file {path}; file: takes the path of a .keras file"
        raise BackboneError(msg)
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        msg = f"{path} is not a .keras file; load it in Keras and save it with model.save('model.keras')"
        raise BackboneError(msg)
    try:
        inspected = inspect_model(path, keras.saving.get_custom_objects())
        if not inspected.has_own:  # custom code may not work without values
            _check_parameters(inspected)
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # for a bad file, Keras raises many types, from KeyError to its own
        reason = " ".join(str(error).split()).partition(". ")[0][:200] or type(error).__name__
        msg = (
            f"{path} cannot be loaded in safe mode ({reason}); it must be a complete file of a model that is built "
            "of Keras's own layers, without Lambda layers or custom code"
        )
        raise BackboneError(msg) from error


def _check_parameters(inspected: Inspected) -> None:
    """Build the network without values, and refuse it if it has more parameters than the file has bytes for them."""
    with keras.StatelessScope(initialize_variables=False):
        network = keras.saving.deserialize_keras_object(inspected.config, safe_mode=True)
    declared = sum(math.prod(variable.shape) for variable in network.weights)
    if declared > inspected.held_bytes:
        msg = f"its layers have {declared:,} parameters, but the file holds only {inspected.held_bytes:,} bytes of them"
        raise ValueError(msg)


def _choose_size(network: keras.Model, request: BackboneRequest, path: Path) -> tuple[int, int]:
    inputs = getattr(network, "inputs", None)
    if not inputs:
        msg = f"{path} was saved before it was built; call the model on an image, then save it again"
        raise BackboneError(msg)
    shape = inputs[0].shape
    if len(inputs) > 1 or len(shape) != _IMAGE_SHAPE_LENGTH or shape[-1] != 3:  # noqa: PLR2004 - red, green, blue
        takes = f"{len(inputs)} inputs" if len(inputs) > 1 else f"input of shape {shape}"
        msg = f"{path} takes {takes}; a backbone takes one input, RGB images of shape (n, height, width, 3)"
        raise BackboneError(msg)
    sides: list[int] = []
    for own, asked in zip(shape[1:3], (request.height, request.width), strict=True):
        if own is not None and asked not in {None, own}:
            msg = f"{path} takes images of {shape[1]}x{shape[2]} px; leave out --image-size"
            raise BackboneError(msg)
        if own is None and asked is None:
            msg = f"{path} takes images of any size; choose one with --image-size"
            raise BackboneError(msg)
        sides.append(own or asked or 0)
    return sides[0], sides[1]


def _scales_itself(network: keras.Model) -> bool:
    """Return whether pixels are scaled before the first layer with trained weights."""
    for operation in walk_operations(network):
        if isinstance(operation, _SCALING_LAYERS) or type(operation).__name__ in _SCALING_OPERATIONS:
            return True
        if isinstance(operation, keras.layers.Layer) and operation.weights:
            return False
    return False


#: Keras's names: `tf` scales to -1 to 1; `torch` scales to 0 to 1, subtracts ImageNet's mean and divides by its
#: standard deviation; `caffe` converts to BGR and subtracts ImageNet's mean; `none` keeps 0 to 255.
PREPROCESSINGS = ("none", "tf", "torch", "caffe")


def find_preprocessing(mode: str) -> Callable[[Any], Any] | None:
    """Find the function that scales float32 pixels of 0 to 255; None for `none`.

    Raises:
        BackboneError: If there is no such mode.
    """
    if mode not in PREPROCESSINGS:
        msg = f"there is no preprocessing called {mode!r}; known: {', '.join(PREPROCESSINGS)}"
        raise BackboneError(msg)
    if mode == "none":
        return None
    return functools.partial(keras.applications.imagenet_utils.preprocess_input, data_format="channels_last", mode=mode)
