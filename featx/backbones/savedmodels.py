"""A user's own `.keras` file as a backbone: `file:path/to/model.keras`."""

import dataclasses
import hashlib
import logging
import math
import zipfile
from pathlib import Path

from featx.backbones.inspection import Inspected, inspect_model
from featx.backbones.networks import KerasBackbone, make_backbone, walk_operations
from featx.backbones.preprocessing import PREPROCESSINGS, find_preprocessing
from featx.backbones.protocol import BackboneRequest
from featx.errors import BackboneError, WeightsError
from featx.frameworks import keras

logger = logging.getLogger(__name__)

_IMAGE_SHAPE_LENGTH = 4
_SCALING_LAYERS = (keras.layers.Rescaling, keras.layers.Normalization, keras.layers.BatchNormalization)
#: What `x / 255` and Keras's `preprocess_input` become in a functional model.
_SCALING_OPERATIONS = {"TrueDivide", "Divide", "Multiply", "Subtract", "Add"}


def load_saved_model(request: BackboneRequest) -> KerasBackbone:
    """Load a `.keras` file in safe mode and make it a backbone.

    Its uri names the content of the file, so that a moved or renamed file is the same
    backbone and a file with the same name and other layers is not.

    A saved model does not say how its pixels should be scaled, so the uri may:
    `file:model.keras?preprocess=tf` (or caffe, torch). Without that it gets 0 to 255.

    Args:
        request: `name` is `file:PATH`; the weights are those in the file.

    Raises:
        BackboneError: If the file is missing, is no Keras model of RGB images, or
            needs code that safe mode refuses to run.
        WeightsError: If other weights are asked for.
    """
    path = Path(request.name.removeprefix("file:")).expanduser()
    unknown = set(request.arguments) - {"preprocess"}
    if unknown:
        msg = f"{request.name} takes the argument preprocess, not {', '.join(sorted(unknown))}"
        raise BackboneError(msg)
    if request.weights not in {None, "file"}:
        msg = f"{path} brings its own weights; leave out --weights {request.weights}"
        raise WeightsError(msg)
    scale = find_preprocessing(request.arguments.get("preprocess", "none"))
    network = _read_model(path)
    height, width = _choose_size(network, request, path)
    if scale and "float" not in network.inputs[0].dtype:
        msg = f"{path} takes {network.inputs[0].dtype} pixels of 0 to 255; leave out preprocess"
        raise BackboneError(msg)
    if "preprocess" not in request.arguments and not _scales_itself(network):
        logger.warning(
            "%s does not say how its pixels are scaled, so it gets 0 to 255; if it was trained otherwise, "
            "name it as file:%s?preprocess=tf (one of %s)",
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


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_model(path: Path) -> keras.Model:
    if not path.is_file():
        msg = f"{path} is no file; file: takes the path of a .keras file"
        raise BackboneError(msg)
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        msg = f"{path} is no .keras file; load it in Keras and save it with model.save('model.keras')"
        raise BackboneError(msg)
    try:
        inspected = inspect_model(path, keras.saving.get_custom_objects())
        if not inspected.has_own:  # such code need not work without values
            _check_parameters(inspected)
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises anything from KeyError to its own types on a bad file
        reason = " ".join(str(error).split()).partition(". ")[0][:200] or type(error).__name__
        msg = (
            f"{path} cannot be loaded in safe mode ({reason}); it must be a whole file of a model that is built "
            "of Keras's own layers, without Lambda layers or custom code"
        )
        raise BackboneError(msg) from error


def _check_parameters(inspected: Inspected) -> None:
    """Build the network without values, and refuse one that has more parameters than the file has bytes for them."""
    with keras.StatelessScope(initialize_variables=False):
        network = keras.saving.deserialize_keras_object(inspected.config, safe_mode=True)
    declared = sum(math.prod(variable.shape) for variable in network.weights)
    if declared > inspected.held_bytes:
        msg = f"its layers have {declared:,} parameters, and the file holds {inspected.held_bytes:,} bytes of them"
        raise ValueError(msg)


def _choose_size(network: keras.Model, request: BackboneRequest, path: Path) -> tuple[int, int]:
    inputs = getattr(network, "inputs", None)
    if not inputs:
        msg = f"{path} was saved before it had seen an image; call the model on one, then save it again"
        raise BackboneError(msg)
    shape = inputs[0].shape
    if len(inputs) > 1 or len(shape) != _IMAGE_SHAPE_LENGTH or shape[-1] != 3:  # noqa: PLR2004 - red, green, blue
        takes = f"{len(inputs)} inputs" if len(inputs) > 1 else f"input of shape {shape}"
        msg = f"{path} takes {takes}; a backbone takes one, RGB images of shape (n, height, width, 3)"
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
    """Tell whether pixels are scaled before the first layer that has learnt something."""
    for operation in walk_operations(network):
        if isinstance(operation, _SCALING_LAYERS) or type(operation).__name__ in _SCALING_OPERATIONS:
            return True
        if isinstance(operation, keras.layers.Layer) and operation.weights:
            return False
    return False
