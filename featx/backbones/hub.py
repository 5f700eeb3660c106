"""Presets of keras-hub as backbones: `hub:dinov2_small`, `hub:hf://user/model`, `hub:path/to/preset`."""

import contextlib
import dataclasses
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from featx.backbones.applications import SEED, name_layers, seed_initializers
from featx.backbones.networks import KerasBackbone, copy_weights, make_backbone
from featx.backbones.presets import (
    CONFIG,
    CONVERTER,
    FAMILIES,
    SETTINGS,
    WEIGHTS,
    check_settings,
    digest_preset,
    find_weights,
    is_local,
    unpack_preset,
)
from featx.backbones.protocol import BackboneRequest
from featx.backbones.savedmodels import find_preprocessing
from featx.backbones.untrusted_files import inspect_weights
from featx.errors import BackboneError, MissingExtraError, UnknownNameError, WeightsError
from featx.frameworks import keras
from featx.registry import suggest

# The hubs' clients report what is loaded unless told not to.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

try:
    import keras_hub
    from keras_hub.src.utils import preset_utils
except ImportError as _error:
    _msg = f"presets of keras-hub need another package: pip install 'featx[hub]' ({_error})"
    raise MissingExtraError(_msg) from _error

#: keras-hub's names of interpolations, and featx's.
_INTERPOLATIONS = {"bilinear": "bilinear", "nearest": "nearest", "bicubic": "bicubic", "lanczos3": "lanczos"}

#: For CNNs whose preset names no size: that of ImageNet's networks.
_USUAL_SIZE = (224, 224)

#: What turns the tokens of a vision encoder into one vector, in this order, where the backbone has it.
_POOLERS = ("vision_pooler", "vision_post_layer_norm")


def load_preset(request: BackboneRequest) -> KerasBackbone:
    """Load a preset of keras-hub and make it a backbone.

    The uri of a local preset has the digest of its files, so that a moved or renamed folder is the same backbone.

    Args:
        request: `name` is `hub:` with the name of a built-in preset, a handle (`hf://`, `kaggle://`), or the path
            of a folder or of the zip file in a bundle. The argument `preprocess` is as for `file:`, and replaces the
            scaling of the preset. `weights` is `none` for random ones of a preset on a hub, or not given.

    Raises:
        UnknownNameError: If there is no such preset.
        BackboneError: If the preset is not a vision network that featx knows, or cannot be built.
        WeightsError: If weights are missing, cannot be downloaded or do not match.
    """
    name = request.name.removeprefix("hub:")
    allowed = (None, "file") if is_local(name) else (None, "preset", "none")
    if unknown := sorted(set(request.arguments) - {"preprocess"}):
        msg = f"{request.name} takes the argument preprocess; leave out {', '.join(unknown)}"
        raise BackboneError(msg)
    if request.weights not in allowed:
        msg = f"{request.name} has its own weights; leave out --weights {request.weights}"
        raise WeightsError(msg)
    with _find_folder(name, needs_weights=request.weights != "none") as folder:
        with _explain(request.name):
            network, decoding, scale = _read_preset(folder, request)
        uri, source_file, weights = request.uri, "", request.weights or "preset"
        if is_local(name):
            uri = dataclasses.replace(request, name=f"hub:{digest_preset(folder)[:16]}").uri
            source_file, weights = str(Path(name).expanduser().resolve()), "file"
        weights_file = "" if weights == "none" else str(find_weights(folder))
    backbone = make_backbone(
        network,
        uri=uri,
        weights=weights,
        source_file=source_file,
        layers=request.layers,
        pooling=request.pooling,
        scale=scale,
        names=name_layers(network),
    )
    backbone.decoding, backbone.weights_file = decoding, weights_file
    return backbone


@contextlib.contextmanager
def _find_folder(name: str, *, needs_weights: bool) -> Iterator[Path]:
    """Find the folder of a preset: the user's, one with the content of a zip file, or where it is downloaded to."""
    path = Path(name).expanduser()
    if not is_local(name):
        yield _download(name, needs_weights=needs_weights)
    elif path.is_file():
        with tempfile.TemporaryDirectory(prefix="featx-") as folder:
            unpack_preset(path, Path(folder))
            yield Path(folder)
    elif (path / CONFIG).is_file():
        yield path.resolve()
    else:
        msg = f"there is no preset {path}; hub: takes a folder with {CONFIG}, as save_to_preset writes it"
        raise BackboneError(msg)


def _download(name: str, *, needs_weights: bool) -> Path:
    """Download the files of a preset that are not in the cache of its hub, and return their folder."""
    known = {preset for family in FAMILIES for preset in getattr(keras_hub.models, family).presets}
    if name not in known and "://" not in name:
        where = "https://keras.io/keras_hub/presets lists all, also those for text"
        msg = f"keras-hub has no preset for images called {name!r}; {suggest(name, sorted(known))} {where}"
        raise UnknownNameError(" ".join(msg.split()))
    with contextlib.redirect_stdout(sys.stderr):
        try:
            folder = Path(preset_utils.get_file(name, CONFIG)).parent
            with _explain(f"hub:{name}"):
                is_own = bool(check_settings(folder))
            # Only files that a preset of its kind has: asking for others needs a network, also if all is in the cache.
            preset_utils.check_file_exists(name, CONVERTER if is_own else SETTINGS[-1])
            if needs_weights and not preset_utils.check_file_exists(name, WEIGHTS[0 if is_own else -1]):
                find_weights(folder)
        except BackboneError:
            raise
        except Exception as error:  # each hub's client raises its own types
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            msg = (
                f"the preset {name} cannot be downloaded ({reason}); where there is no network, name a folder that "
                f"holds it: hub:path/to/{name.rpartition('/')[2]}"
            )
            raise WeightsError(msg) from error
    return folder


def _read_preset(folder: Path, request: BackboneRequest) -> tuple[keras.Model, dict[str, str], Callable[[Any], Any]]:
    """Read the network of a preset, how its images are decoded, and the function that scales their pixels."""
    check_settings(folder)
    family = preset_utils.get_preset_loader(str(folder)).check_backbone_class().__name__
    if family not in FAMILIES:
        msg = f"it holds {family}, which featx does not know as a network for single images"
        raise ValueError(msg)
    converter = _read_converter(folder)
    with keras.StatelessScope(initialize_variables=False):
        sketch = keras_hub.models.Backbone.from_preset(str(folder), load_weights=False)
    shape = _choose_shape(sketch, request, converter)
    if request.weights == "none":
        with seed_initializers(SEED):
            backbone = keras_hub.models.Backbone.from_preset(str(folder), load_weights=False, **shape)
    else:
        _check_parameters(sketch, find_weights(folder))
        backbone = keras_hub.models.Backbone.from_preset(str(folder), **shape)
    network = _take_images(backbone, FAMILIES[family].pooled)
    if "preprocess" in request.arguments:
        return network, {}, find_preprocessing(request.arguments["preprocess"]) or _keep
    if converter is None:
        msg = "it does not say how its pixels are scaled; append ?preprocess=tf, torch, caffe or none"
        raise ValueError(msg)
    return network, _describe_decoding(converter), _make_scale(converter)


def _keep(pixels: Any) -> Any:  # noqa: ANN401 - symbolic tensors of an untyped library
    return pixels


def _read_converter(folder: Path) -> Any:  # noqa: ANN401 - keras-hub is untyped
    try:
        return keras_hub.layers.ImageConverter.from_preset(str(folder))
    except FileNotFoundError:
        return None


def _describe_decoding(converter: Any) -> dict[str, str]:  # noqa: ANN401 - as above
    """Describe a converter in featx's words; its own resizing has no filter against aliasing, which featx's has."""
    if converter.interpolation not in _INTERPOLATIONS:
        msg = f"its images are resized by {converter.interpolation}, which featx does not support"
        raise ValueError(msg)
    resize = "crop" if converter.crop_to_aspect_ratio else "pad" if converter.pad_to_aspect_ratio else "stretch"
    return {"resize": resize, "interpolation": _INTERPOLATIONS[converter.interpolation]}


def _make_scale(converter: Any) -> Callable[[Any], Any]:  # noqa: ANN401 - as above
    scale = np.asarray(1.0 if converter.scale is None else converter.scale, np.float32)
    offset = np.asarray(0.0 if converter.offset is None else converter.offset, np.float32)
    return lambda pixels: pixels * scale + offset


def _choose_shape(sketch: Any, request: BackboneRequest, converter: Any) -> dict[str, tuple[int, int, int]]:  # noqa: ANN401 - as above
    """Choose the size of the images, and return the setting of the network for it; none if the size is its own."""
    own = tuple(getattr(sketch, "vision_encoder", sketch).inputs[0].shape[1:3])
    usual = own if None not in own else (converter.image_size if converter is not None else None) or _USUAL_SIZE
    size = (request.height or usual[0], request.width or usual[1])
    if size == own:
        return {}
    if hasattr(sketch, "vision_encoder"):
        msg = f"it takes images of {own[0]}x{own[1]} px; leave out --image-size"
        raise ValueError(msg)
    name = "image_shape" if hasattr(sketch, "image_shape") else "input_shape"  # the latter is EfficientNet's
    return {name: (*size, 3)}


def _check_parameters(sketch: Any, weights: Path) -> None:  # noqa: ANN401 - as above
    """Refuse a network that has more parameters than the file has bytes for them; nothing was allocated for it yet."""
    size = weights.stat().st_size
    held = inspect_weights(weights, size) if weights.suffix == ".h5" else size
    declared = sum(math.prod(variable.shape) for variable in sketch.weights)
    if declared > held:
        msg = f"its layers have {declared:,} parameters, but {weights.name} holds only {held:,} bytes of them"
        raise ValueError(msg)


def _take_images(backbone: Any, pooled: str) -> keras.Model:  # noqa: ANN401 - as above
    """Take the part of a network from an image to its features, with names for what the network has inside."""
    if pooled == "pooled":
        encoder = backbone.vision_encoder
        features = encoder.outputs[-1]
        for pooler in (getattr(backbone, name) for name in _POOLERS if hasattr(backbone, name)):
            copy = type(pooler).from_config(pooler.get_config())  # the layer itself is part of another graph
            features = copy(features)
            copy_weights(pooler, copy)
        return keras.Model(encoder.inputs[0], features)
    if isinstance(backbone.output, dict):  # the stages of HGNetV2, which one layer computes
        named = {name: keras.layers.Identity(name=name)(stage) for name, stage in backbone.output.items()}
        return keras.Model(backbone.inputs[0], list(named.values()))
    tokens = backbone.outputs[0]
    if type(backbone).__name__ == "ViTBackbone":  # its blocks one by one, so that each is a layer
        encoder = backbone.get_layer("vit_encoder")
        tokens = encoder.dropout(encoder.input)
        for block in encoder.encoder_layers:
            tokens = block(tokens)
        tokens = encoder.layer_norm(tokens)
    if pooled == "average" or not getattr(backbone, "use_class_token", True):
        return keras.Model(backbone.inputs[0], tokens)
    blocks = [
        keras.layers.Identity(name=name)(output) for name, output in getattr(backbone, "pyramid_outputs", {}).items()
    ]
    others = int(tokens.shape[1]) - 1
    ahead = 1 + getattr(backbone, "num_register_tokens", int(type(backbone).__name__ == "DeiTBackbone"))
    patches = keras.layers.Cropping1D((ahead, 0), name="patch_tokens")(tokens)
    first = keras.layers.Cropping1D((0, others), name="first_token")(tokens)
    return keras.Model(backbone.inputs[0], [*blocks, patches, keras.layers.Flatten(name="class_token")(first)])


@contextlib.contextmanager
def _explain(title: str) -> Iterator[None]:
    """Turn the many types of errors of a bad preset into one, and keep the progress of keras-hub off stdout."""
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    except (BackboneError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        msg = f"{title} cannot be loaded: {reason}"
        raise BackboneError(msg) from error
