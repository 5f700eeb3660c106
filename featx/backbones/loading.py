"""Loading a backbone by its uri: `inceptionv3`, `file:model.keras`, `onnx:model.onnx`, `hub:dinov2_small`."""

import dataclasses
import functools
import importlib.util
import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np

from featx.backbones import cache, presets
from featx.backbones.catalogue import APPLICATIONS, EFFICIENTNET_LITE, PRETRAINED, BackboneInfo, describe_entry
from featx.backbones.converted import ConvertedBackbone
from featx.backbones.protocol import (
    OWN_SCHEMES,
    Backbone,
    BackboneRequest,
    LayerInfo,
    UInt8Images,
    is_own,
    needs_openvino,
    refuse_keras,
)
from featx.backbones.recipes import has_recipe
from featx.backbones.running import MAX_RUNTIME_DRIFT, convert, measure_runtime_drift
from featx.errors import BackboneError, FeatxError, MissingExtraError, UnknownNameError, UsageError, WeightsError
from featx.options import RUNTIMES
from featx.registry import BACKBONES, list_names, make_unknown_name_error, resolve
from featx.reporting import Reporter
from featx.specs import DEFAULT_BACKBONE, IMPORTED, BackboneSpec, ImageSpec

_GROUP = "featx.backbones"

#: Schemes of a user's own networks, by the suffix of their files.
_SCHEMES = {".keras": "file:", ".onnx": "onnx:", ".xml": "ir:", ".tflite": "tflite:"}

#: What a machine with a GPU that TensorFlow may use has: NVIDIA's driver, AMD's, or either in Windows' Linux.
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")

#: Images on which a converted network is compared with Keras, and their seed.
_COMPARED = 8
_SEED = 20130

logger = logging.getLogger(__name__)


def load_backbone(
    uri: str,
    *,
    layers: Sequence[str | int] = (),
    pooling: str | None = None,
    weights: str | None = None,
    image_size: tuple[int, int] | None = None,
) -> Backbone:
    """Build the backbone that a uri names.

    Args:
        uri: A model of `keras.applications` in any case, with its constructor's
            arguments (`mobilenet?alpha=0.75`); `file:PATH` of a `.keras` file; `hub:PRESET`
            of keras-hub, or of a folder; `onnx:PATH`, `ir:PATH` or `tflite:PATH`, with the
            recipe of its input (`onnx:m.onnx?recipe=imagenet`); a built-in
            (`efficientnet-lite0`, `scattering`, `colour`) or a name from
            another package.
        layers: Where to cut: names or indices, one output each; the last layer if empty.
        pooling: One of `featx.specs.POOLINGS`; None for the default of each layer's rank.
        weights: `imagenet`, `none` or a path; None for the provider's default.
        image_size: Height and width in px; None for the network's own.

    Raises:
        UnknownNameError: If there is no such backbone.
        BackboneError: If it cannot be built or cut as requested.
        MissingExtraError: If it needs OpenVINO, which is not installed.
        UsageError: If the pooling does not exist, the size is not positive, or `layers` is not a list.
    """
    request = _make_request(uri, layers, pooling, weights, image_size)
    provider = _find_provider(request.name)
    if needs_openvino(request.name) and importlib.util.find_spec("openvino") is None:
        msg = f"{request.name} is run by OpenVINO, which is not installed; run pip install openvino"
        raise MissingExtraError(msg)
    backbone: Backbone = resolve("backbone", provider, BACKBONES, _GROUP)(request)
    return backbone


def name_backbone(backbone: str | None, reporter: Reporter) -> str:
    """Return the uri of a backbone; if none is named, report which one is taken."""
    if backbone is None:
        reporter.say(f"the backbone is {DEFAULT_BACKBONE}, since none was named")
    return backbone or DEFAULT_BACKBONE


def _make_request(
    uri: str,
    layers: Sequence[str | int],
    pooling: str | None,
    weights: str | None,
    image_size: tuple[int, int] | None,
) -> BackboneRequest:
    if isinstance(layers, str | int):
        msg = f"layers is {layers!r}; it must be a list: layers=[{layers!r}]"
        raise UsageError(msg)
    if image_size is not None and np.shape(image_size) != (2,):
        msg = f"image_size is {image_size!r}; it must be height and width, such as (224, 224)"
        raise UsageError(msg)
    height, width = image_size or (None, None)
    return dataclasses.replace(
        parse_uri(uri), layers=tuple(layers), pooling=pooling, weights=weights, height=height, width=width
    )


def find_backbone(
    uri: str,
    *,
    layers: Sequence[str | int] = (),
    pooling: str | None = None,
    weights: str | None = None,
    image_size: tuple[int, int] | None = None,
    runtime: str = RUNTIMES[0],
    build: Callable[[], Backbone] | None = None,
) -> Backbone:
    """Find a backbone in the cache of converted networks; build it and keep it there if it is not.

    A backbone from the cache has no Keras model: it can embed, and not be trained.

    Args:
        uri: As in `load_backbone`.
        layers: As in `load_backbone`.
        pooling: As in `load_backbone`.
        weights: As in `load_backbone`.
        image_size: As in `load_backbone`.
        runtime: One of `featx.options.RUNTIMES`; the cache is of use only where OpenVINO runs the network.
        build: Builds it; None for `load_backbone`.

    Raises:
        FeatxError: As `load_backbone`.
    """
    refuse_keras(uri, runtime)
    load = build or functools.partial(
        load_backbone, uri, layers=layers, pooling=pooling, weights=weights, image_size=image_size
    )
    request = _make_request(uri, layers, pooling, weights, image_size)
    place = _find_weights(request) if _may_use_cache(runtime) else None
    if place is None:
        return load()
    name = cache.name_entry(request, place)
    entry = cache.read_entry(name)
    if entry is not None:
        return ConvertedBackbone(entry)
    network = load()
    _keep(network, request, name)
    return network


def _may_use_cache(runtime: str) -> bool:
    is_wanted = runtime != "keras" and not cache.is_off()
    return is_wanted and not has_gpu() and importlib.util.find_spec("openvino") is not None


def _find_weights(request: BackboneRequest) -> str | None:
    """Return where the weights of a request come from; None if its network is not one to keep."""
    if needs_openvino(request.name):
        return None  # it is read as fast from its own file
    if request.name.startswith("file:"):
        return str(Path(request.name.removeprefix("file:")).expanduser().resolve())
    if request.name.startswith("hub:"):
        return presets.describe_place(request.name.removeprefix("hub:")) if request.weights != "none" else None
    if request.name not in PRETRAINED or request.arguments.get("precision", "float32") != "float32":
        return None
    if request.weights in {None, "imagenet"}:
        lite = EFFICIENTNET_LITE.get(request.name)
        return str(lite.find_weights()) if lite else os.environ.get("KERAS_HOME", "")
    return "" if request.weights == "none" else str(Path(request.weights).expanduser().resolve())


def has_gpu() -> bool:
    """Return whether TensorFlow may have a GPU, without importing it: whether there is the device of a driver."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    is_hidden = hidden is not None and hidden.strip() in {"", "-1"}
    has_device = not is_hidden and any(Path(path).exists() for path in _GPU_DEVICES)
    return has_device or importlib.util.find_spec("tensorflow-plugins") is not None


def _keep(network: Backbone, request: BackboneRequest, name: str) -> None:
    """Convert a network and keep it in the cache, if OpenVINO computes the same as Keras."""
    if not hasattr(network, "graph") or getattr(network, "precision", "") != "float32":
        return
    try:
        converted = convert(network)
        images = _make_images(network.height, network.width)
        drift = measure_runtime_drift(network.embed(images), converted.embed(images))
    except (FeatxError, MemoryError) as error:
        logger.debug("%s is not kept: %s", network.uri, error)  # the runner says so, if OpenVINO is to run it
        return
    if drift <= MAX_RUNTIME_DRIFT:
        described = cache.describe_backbone(network, request, drift)
        cache.write_entry(name, described, getattr(network, "weights_file", ""), converted.save)


def _make_images(height: int, width: int) -> UInt8Images:
    """Make images to compare two runtimes on: smooth colours under noise, uint8 `(n, height, width, 3)`."""
    generator = np.random.default_rng(_SEED)
    coarse = generator.integers(0, 256, (_COMPARED, 8, 8, 3))
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
    noise = generator.normal(0, 16, (_COMPARED, height, width, 3))
    return (coarse[:, rows][:, :, columns] + noise).clip(0, 255).astype(np.uint8)


def locate_backbone(spec: BackboneSpec, file: Path | None) -> tuple[str, str | None]:
    """Return what to load for the backbone of a spec.

    Args:
        spec: The backbone.
        file: The user's own network or weights, where the spec needs one.

    Returns:
        The uri and the weights that `load_backbone` takes.
    """
    if is_own(spec.uri, spec.weights):
        if file is None:
            msg = f"{spec.uri} needs its file, and where it is was not recorded; embed again"
            raise BackboneError(msg)
        scheme = parse_uri(spec.uri).name.partition(":")[0]
        return f"{scheme}:{file}" + (f"?{spec.uri.partition('?')[2]}" if "?" in spec.uri else ""), None
    if spec.weights == "file":
        return spec.uri, str(file)
    return spec.uri, None if spec.weights == "computed" else spec.weights


def rebuild_backbone(spec: BackboneSpec, image: ImageSpec, file: Path | None, runtime: str = RUNTIMES[0]) -> Backbone:
    """Build the backbone that a spec describes, and check that its weights are the same.

    Args:
        spec: The backbone.
        image: The size of its images.
        file: The user's own network or weights, where the spec needs one.
        runtime: As in `find_backbone`.

    Raises:
        WeightsError: If the weights differ from those in the spec.
        BackboneError: If it cannot be built.
    """
    if file is None and _may_use_cache(runtime) and (entry := cache.find_entry(spec, image.height, image.width)):
        return ConvertedBackbone(entry)
    uri, weights = locate_backbone(spec, file)
    size = (image.height, image.width)
    backbone = find_backbone(
        uri, layers=(spec.layer,), pooling=spec.pooling, weights=weights, image_size=size, runtime=runtime
    )
    if backbone.weights_digest != spec.weights_digest:
        msg = (
            f"the weights of {spec.uri} differ from those that the features were made with (sha256 "
            f"{backbone.weights_digest[:12]} here, {spec.weights_digest[:12]} then); restore those weights"
        )
        raise WeightsError(msg)
    return backbone


def describe_layers(uri: str, *, image_size: tuple[int, int] | None = None) -> tuple[LayerInfo, ...]:
    """List the layers of a backbone, without downloading its weights.

    Raises:
        UnknownNameError: If there is no such backbone.
        BackboneError: If it cannot be built.
    """
    request = parse_uri(uri)
    is_preset = request.name.startswith("hub:") and not presets.is_local(request.name.removeprefix("hub:"))
    weights = "none" if request.name in PRETRAINED or is_preset else None
    layers = (-1,) if needs_openvino(request.name) else ()  # it may have several outputs
    if layers and not has_recipe(request.arguments):
        uri += f"{'&' if '?' in uri else '?'}recipe=none"  # what its pixels become changes no layer
    return load_backbone(uri, layers=layers, weights=weights, image_size=image_size).layers


def parse_uri(uri: str) -> BackboneRequest:
    """Split a uri into its name and arguments.

    Raises:
        BackboneError: If the part after `?` is not `name=value` pairs joined by `&`.
    """
    name, _, query = uri.partition("?")
    scheme, colon, path = name.partition(":")
    try:
        pairs = parse_qsl(query, strict_parsing=True, keep_blank_values=True) if query else []
    except ValueError as error:
        msg = f"the arguments of {uri!r} are not name=value pairs joined by &, as in mobilenet?alpha=0.75"
        raise BackboneError(msg) from error
    return BackboneRequest(f"{scheme.lower()}{colon}{path}", dict(pairs))


def parse_layer(text: str) -> str | int:
    """Read a layer's name or index."""
    return int(text) if re.fullmatch(r"-?\d+", text) else text


def check_uri(uri: str) -> None:
    """Check that a uri names a backbone, without loading it.

    Raises:
        UnknownNameError: If there is no such backbone.
        BackboneError: If its arguments are not written as arguments.
    """
    _find_provider(parse_uri(uri).name)


def list_backbones() -> list[str]:
    """List every name that `load_backbone` takes, built-in ones first."""
    built_in = [name for name in list_names(BACKBONES, _GROUP) if not name.endswith(":")]
    return [*built_in, *APPLICATIONS]


def describe_backbones() -> tuple[BackboneInfo, ...]:
    """Describe every backbone that has a name, and some presets of keras-hub, to choose one.

    Returns:
        Those that need no download first, then by cost where it is known.

    Examples:
        >>> import featx
        >>> featx.describe_backbones()[0].name
        'efficientnet-lite0'
    """
    found = [*map(describe_entry, list_backbones()), *presets.describe_presets()]
    return tuple(
        sorted(found, key=lambda info: (not info.is_offline, info.gflops is None, info.gflops or 0, info.dim or 0))
    )


def _find_provider(name: str) -> str:
    if name.startswith(IMPORTED):
        msg = (
            f"the features were imported from {name.removeprefix(IMPORTED)}, and featx does not know the network that "
            f"computed them, so it cannot embed an image; for that, embed the images with a backbone of featx"
        )
        raise BackboneError(msg)
    if name in APPLICATIONS:
        return "keras:"
    scheme = "".join(name.partition(":")[:2])  # a name without a colon is its own scheme
    if scheme in BACKBONES and scheme != "keras:":  # whose models are named without it
        return scheme
    if name in list_backbones():
        return name
    if own := _SCHEMES.get(Path(name).suffix.lower()):
        msg = f"no backbone is called {name!r}; a network in a file has a scheme: {own}{name}"
        raise UnknownNameError(msg)
    kind = "backbone"
    raise make_unknown_name_error(kind, name, [*list_backbones(), *(f"{scheme}PATH" for scheme in OWN_SCHEMES)])
