"""The models of `keras.applications` as backbones."""

import contextlib
import dataclasses
import inspect
import os
import random
import re
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from featx.backbones.catalogue import APPLICATIONS, Application
from featx.backbones.inspection import inspect_model, inspect_weights
from featx.backbones.networks import KerasBackbone, make_backbone
from featx.backbones.protocol import BackboneRequest
from featx.errors import BackboneError, WeightsError
from featx.frameworks import keras

#: Seed of `--weights none`.
SEED = 0

#: Constructor arguments that featx sets itself.
RESERVED = {
    *("include_top", "weights", "input_tensor", "input_shape", "pooling"),
    *("classes", "classifier_activation", "include_preprocessing", "name"),
}

#: What networks may be computed in; all but the first change the numbers, so they are part of the uri.
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")

Argument = bool | int | float | str

_TRUTH = {"true": True, "false": False}
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


def load_application(request: BackboneRequest) -> KerasBackbone:
    """Build a model of `keras.applications` and make it a backbone.

    Args:
        request: `arguments` go to the model's constructor, but `precision`, which is one of `PRECISIONS`;
            `weights` is `imagenet` (the default), `none` (random, seeded) or the path of a weights file.

    Raises:
        BackboneError: If the constructor refuses the arguments or the image size.
        WeightsError: If the weights are missing or do not fit.
    """
    application = APPLICATIONS[request.name]
    constructor = getattr(keras.applications, application.attribute)
    arguments = _parse_arguments(request, constructor)
    shape = (request.height or application.size_px, request.width or application.size_px, 3)
    weights = request.weights or "imagenet"
    own = {name: value for name, value in arguments.items() if name != "precision"}

    def build(preset: str | None) -> keras.Model:
        with _set_precision(str(arguments.get("precision", PRECISIONS[0]))):
            return constructor(include_top=False, weights=preset, input_shape=shape, **own)

    # Keras prints its download progress on stdout.
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        # MobileNets warn at most sizes that their weights are those of 224 px, as those of all others are.
        warnings.simplefilter("ignore", UserWarning)
        network, origin = _build_with_weights(build, weights, request, application)
    return make_backbone(
        network,
        # Each value in one spelling, so that one network has one name.
        uri=dataclasses.replace(request, arguments={k: str(v).lower() for k, v in arguments.items()}).uri,
        weights=origin,
        source_file=str(Path(weights).expanduser().resolve()) if origin == "file" else "",
        layers=request.layers,
        pooling=request.pooling,
        scale=getattr(keras.applications, application.module).preprocess_input,
        names=name_layers(network),
    )


def name_layers(network: keras.Model) -> list[str]:
    """Name the layers of a model as if it were the first that its process built.

    Keras numbers unnamed layers on from those of every model built before, so
    `conv2d_95` means another layer in every process. The numbers of one model are
    consecutive for each class, so subtracting the first one restores the fresh names.

    Returns:
        One name for each of `network.layers`, in their order.
    """
    numbers: dict[int, tuple[str, int]] = {}
    first: dict[str, int] = defaultdict(lambda: sys.maxsize)
    for index, layer in enumerate(network.layers):
        stem = _snake_case(type(layer).__name__)
        match = re.fullmatch(rf"{stem}(?:_(\d+))?", layer.name)
        if match:
            numbers[index] = (stem, int(match[1] or 0))
            first[stem] = min(first[stem], numbers[index][1])
    names = [layer.name for layer in network.layers]
    for index, (stem, number) in numbers.items():
        names[index] = f"{stem}_{number - first[stem]}" if number > first[stem] else stem
    return names


def _snake_case(name: str) -> str:
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _parse_arguments(request: BackboneRequest, constructor: Callable[..., keras.Model]) -> dict[str, Argument]:
    """Read each argument as the type of its default; Keras has only numbers and truth values."""
    defaults = {n: p.default for n, p in inspect.signature(constructor).parameters.items() if n not in RESERVED}
    defaults["precision"] = PRECISIONS[0]
    unknown = sorted(set(request.arguments) - set(defaults))
    if unknown:
        msg = f"{request.name} takes the arguments {', '.join(defaults)}, not {', '.join(unknown)}"
        raise BackboneError(msg)
    parsed: dict[str, Argument] = {}
    for name, text in request.arguments.items():
        default = defaults[name]
        try:
            parsed[name] = _TRUTH[text.lower()] if isinstance(default, bool) else type(default)(text)
        except (KeyError, ValueError) as error:
            kind = {bool: "true or false", int: "a whole number", float: "a number"}[type(default)]
            msg = f"{name} of {request.name} is {text!r}; it must be {kind}, such as {str(default).lower()}"
            raise BackboneError(msg) from error
    if parsed.get("precision", PRECISIONS[0]) not in PRECISIONS:
        msg = f"precision of {request.name} is {parsed['precision']!r}; it must be one of {', '.join(PRECISIONS)}"
        raise BackboneError(msg)
    if parsed.get("precision") == PRECISIONS[0]:
        del parsed["precision"]  # one network, one name
    return parsed


def _build_with_weights(
    build: Callable[[str | None], keras.Model], weights: str, request: BackboneRequest, application: Application
) -> tuple[keras.Model, str]:
    if weights == "imagenet":
        network = _build(build, weights, request)
        if application.module == "efficientnet":
            network = _unify_efficientnet(network, build(None))
        return network, weights
    with _seed_initializers(SEED):
        network = _build(build, None, request)
    if weights == "none":
        return network, weights
    _load_weights(network, Path(weights).expanduser(), application)
    return network, "file"


def _build(build: Callable[[str | None], keras.Model], preset: str | None, request: BackboneRequest) -> keras.Model:
    try:
        return build(preset)
    except (ValueError, TypeError) as error:
        msg = f"{request.uri} cannot be built: {' '.join(str(error).split())}"
        raise BackboneError(msg) from error
    except Exception as error:
        if preset is None:
            raise
        # Keras raises a bare Exception for a failed download, and h5py several types for a damaged file.
        raise _explain_missing_weights(error, request) from error


def _explain_missing_weights(error: Exception, request: BackboneRequest) -> WeightsError:
    folder = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    if not os.access(folder, os.W_OK):
        folder = Path(tempfile.gettempdir()) / ".keras"  # where Keras turns to if it cannot write to its own
    folder /= "models"
    match = re.search(r"URL fetch failure on (\S+?):? ", str(error))
    if match:
        name = match[1].rsplit("/", 1)[-1]
        what = f"cannot be downloaded: put {name} into {folder}, where Keras looks for it"
    else:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        what = f"cannot be fetched into or read from {folder} ({reason}): delete a damaged file there"
    return WeightsError(
        f"the ImageNet weights of {request.uri} {what}, or pass a local file with --weights PATH "
        "(--weights none runs with random weights)"
    )


@contextlib.contextmanager
def _set_precision(policy: str) -> Iterator[None]:
    """Build layers that compute in a precision; their parameters stay float32."""
    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(usual)


@contextlib.contextmanager
def _seed_initializers(seed: int) -> Iterator[None]:
    """Make Keras's unseeded initializers draw from a known state, and restore the caller's."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _load_weights(network: keras.Model, path: Path, application: Application) -> None:
    if not path.is_file():
        msg = f"there is no weights file {path}; --weights takes imagenet, none or the path of an existing file"
        raise WeightsError(msg)
    try:
        if path.suffix == ".keras":
            inspect_model(path, keras.saving.get_custom_objects())
        else:
            inspect_weights(path, path.stat().st_size)
        network.load_weights(path)
    except Exception as error:  # h5py and Keras raise many types on a file that does not fit
        reason = " ".join(str(error).split())[:200].rstrip(".")
        msg = (
            f"{path} does not fit {application.attribute} without its classifier, for which Keras's own files end in "
            f"notop.h5 or no_top.h5; name another file ({reason})"
        )
        raise WeightsError(msg) from error
    if application.module == "efficientnet":
        _mend_variance(network)


def _unify_efficientnet(pretrained: keras.Model, plain: keras.Model) -> keras.Model:
    """Move weights into the network without the layer that Keras adds only for them.

    So `featx layers` shows the layers that are there, and the same weights by name and from a file are one backbone.
    """
    plain.set_weights(pretrained.get_weights())
    _mend_variance(plain)
    return plain


def _mend_variance(network: keras.Model) -> None:
    """Make the published EfficientNet weights mean from a file what they mean by name.

    They were trained with pixels divided by ImageNet's deviation, but store that
    deviation where Keras's Normalization keeps the variance, and takes its root.
    Keras adds a layer for it only under `weights="imagenet"`; squaring the stored
    value does the same (github.com/tensorflow/tensorflow/issues/49930).
    """
    for layer in network.layers:
        if isinstance(layer, keras.layers.Normalization):
            mean, variance, *rest = layer.get_weights()
            if np.allclose(variance, _IMAGENET_DEVIATION, atol=1e-3):
                layer.set_weights([mean, variance**2, *rest])
                layer.finalize_state()
