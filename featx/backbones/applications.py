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
from typing import Any

import numpy as np

from featx.backbones.catalogue import APPLICATIONS, Application
from featx.backbones.networks import KerasBackbone, make_backbone
from featx.backbones.protocol import BackboneRequest
from featx.backbones.untrusted_files import inspect_model, inspect_weights
from featx.errors import BackboneError, WeightsError
from featx.frameworks import keras

#: Seed of `--weights none`.
SEED = 0

#: Constructor arguments that only featx sets.
RESERVED = {
    *("include_top", "weights", "input_tensor", "input_shape", "pooling"),
    *("classes", "classifier_activation", "include_preprocessing", "name"),
}

#: Supported precisions; all but the first change the numbers, so they are part of the uri.
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")

Argument = bool | int | float | str

_TRUTH = {"true": True, "false": False}
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


def load_application(request: BackboneRequest) -> KerasBackbone:
    """Build a model of `keras.applications` and make it a backbone.

    Args:
        request: `arguments` go to the model's constructor, except `precision`, which is one of
            `PRECISIONS`; `weights` is `imagenet` (the default), `none` (random, seeded) or the path of a weights file.

    Raises:
        BackboneError: If the constructor refuses the arguments or the image size.
        WeightsError: If the weights are missing or do not match the network.
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
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(), _note_files() as files:
        # At most sizes, MobileNets warn that their weights are for 224 px. So are those of most other models.
        warnings.simplefilter("ignore", UserWarning)
        network, origin = _build_with_weights(build, weights, request, application)
    backbone = make_backbone(
        network,
        # One spelling per value, so that a network has only one name.
        uri=dataclasses.replace(request, arguments={k: str(v).lower() for k, v in arguments.items()}).uri,
        weights=origin,
        source_file=str(Path(weights).expanduser().resolve()) if origin == "file" else "",
        layers=request.layers,
        pooling=request.pooling,
        scale=getattr(keras.applications, application.module).preprocess_input,
        names=name_layers(network),
    )
    if files:
        backbone.weights_file = files[-1]
    return backbone


@contextlib.contextmanager
def _note_files() -> Iterator[list[str]]:
    """Note the files that Keras finds or downloads inside; nothing else tells where weights came from."""
    utilities: Any = sys.modules[keras.utils.get_file.__module__]
    get_file, found = utilities.get_file, []

    def note(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as Keras has it
        found.append(str(get_file(*arguments, **options)))
        return found[-1]

    utilities.get_file = note
    try:
        yield found
    finally:
        utilities.get_file = get_file


def name_layers(network: keras.Model) -> list[str]:
    """Name the layers of a model as if it were the first model built in its process.

    Keras numbers unnamed layers across all models built so far, so `conv2d_95` is another layer in
    each process. Within a model, the numbers of a class are consecutive, so subtracting the first
    number restores the names of a fresh process.

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
    """Read each argument as the type of its default; in Keras these are only numbers and booleans."""
    defaults = {n: p.default for n, p in inspect.signature(constructor).parameters.items() if n not in RESERVED}
    defaults["precision"] = PRECISIONS[0]
    unknown = sorted(set(request.arguments) - set(defaults))
    if unknown:
        msg = f"{request.name} takes the arguments {', '.join(defaults)}; leave out {', '.join(unknown)}"
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
    with seed_initializers(SEED):
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
        # Keras raises a bare Exception for a failed download; h5py raises several types for a damaged file.
        raise _explain_missing_weights(error, request) from error


def _explain_missing_weights(error: Exception, request: BackboneRequest) -> WeightsError:
    folder = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    if not os.access(folder, os.W_OK):
        folder = Path(tempfile.gettempdir()) / ".keras"  # where Keras looks if it cannot write to its own folder
    folder /= "models"
    match = re.search(r"URL fetch failure on (\S+?):? ", str(error))
    if match:
        name = match[1].rsplit("/", 1)[-1]
        what = f"cannot be downloaded: put {name} into {folder}, where Keras looks for it"
    else:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        what = f"cannot be downloaded to or read from {folder} ({reason}): delete a damaged file there"
    return WeightsError(
        f"the ImageNet weights of {request.uri} {what}, or pass a local file with --weights PATH "
        "(--weights none runs with random weights)"
    )


@contextlib.contextmanager
def _set_precision(policy: str) -> Iterator[None]:
    """Build layers that compute in another precision; their parameters stay float32."""
    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(usual)


@contextlib.contextmanager
def seed_initializers(seed: int) -> Iterator[None]:
    """Seed Keras's unseeded initializers, and restore the caller's random state afterwards."""
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
    except Exception as error:  # h5py and Keras raise many types for a file that does not match
        reason = " ".join(str(error).split())[:200].rstrip(".")
        msg = (
            f"{path} does not match {application.attribute} without its classifier ({reason}); use another file, such "
            f"as those of Keras that end in notop.h5 or no_top.h5"
        )
        raise WeightsError(msg) from error
    if application.module == "efficientnet":
        _fix_variance(network)


def _unify_efficientnet(pretrained: keras.Model, plain: keras.Model) -> keras.Model:
    """Copy the weights into a network without the layer that Keras adds only for ImageNet weights.

    Then the same weights, by name or from a file, have the same layers and are the same backbone.
    """
    plain.set_weights(pretrained.get_weights())
    _fix_variance(plain)
    return plain


def _fix_variance(network: keras.Model) -> None:
    """Make the published EfficientNet weights compute the same from a file as by name.

    They were trained with pixels divided by ImageNet's standard deviation, but the file has that
    deviation where Keras's Normalization expects the variance and takes its root. Keras corrects
    this by an extra layer, but only for `weights="imagenet"`. Squaring the stored value does the same
    (github.com/tensorflow/tensorflow/issues/49930).
    """
    for layer in network.layers:
        if isinstance(layer, keras.layers.Normalization):
            mean, variance, *rest = layer.get_weights()
            if np.allclose(variance, _IMAGENET_DEVIATION, atol=1e-3):
                layer.set_weights([mean, variance**2, *rest])
                layer.finalize_state()
