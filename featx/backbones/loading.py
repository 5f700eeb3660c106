"""Loading a backbone by its uri: `inceptionv3`, `mobilenet?alpha=0.75`, `file:model.keras`, `scattering`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np

from featx.backbones.catalogue import APPLICATIONS
from featx.backbones.protocol import Backbone, BackboneRequest, LayerInfo
from featx.errors import BackboneError, UsageError, WeightsError
from featx.registry import BACKBONES, list_names, make_unknown_name_error, resolve
from featx.specs import BackboneSpec, ImageSpec

_GROUP = "featx.backbones"


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
            arguments (`mobilenet?alpha=0.75`); `file:PATH` of a `.keras` file; a
            built-in (`scattering`, `colour`) or a name from another package.
        layers: Where to cut: names or indices, one output each; the last layer if empty.
        pooling: One of `featx.specs.POOLINGS`; None for the default of each layer's rank.
        weights: `imagenet`, `none` or a path; None for the provider's default.
        image_size: Height and width in px; None for the network's own.

    Raises:
        UnknownNameError: If there is no such backbone.
        BackboneError: If it cannot be built or cut as requested.
        UsageError: If the pooling does not exist, the size is not positive, or `layers` is not a list.
    """
    if isinstance(layers, str | int):
        msg = f"layers is {layers!r}; it must be a list: layers=[{layers!r}]"
        raise UsageError(msg)
    if image_size is not None and np.shape(image_size) != (2,):
        msg = f"image_size is {image_size!r}; it must be height and width, such as (224, 224)"
        raise UsageError(msg)
    height, width = image_size or (None, None)
    request = dataclasses.replace(
        parse_uri(uri), layers=tuple(layers), pooling=pooling, weights=weights, height=height, width=width
    )
    provider = _find_provider(request.name)
    backbone: Backbone = resolve("backbone", provider, BACKBONES, _GROUP)(request)
    return backbone


def locate_backbone(spec: BackboneSpec, file: Path | None) -> tuple[str, str | None]:
    """Return what to load for the backbone of a spec.

    Args:
        spec: The backbone.
        file: The user's own network or weights, where the spec needs one.

    Returns:
        The uri and the weights that `load_backbone` takes.
    """
    if parse_uri(spec.uri).name.startswith("file:"):  # in any case: an untrusted spec may have `FILE:/path`
        return f"file:{file}" + (f"?{spec.uri.partition('?')[2]}" if "?" in spec.uri else ""), None
    if spec.weights == "file":
        return spec.uri, str(file)
    return spec.uri, None if spec.weights == "computed" else spec.weights


def rebuild_backbone(spec: BackboneSpec, image: ImageSpec, file: Path | None) -> Backbone:
    """Build the backbone that a spec describes, and check that its weights are the same.

    Args:
        spec: The backbone.
        image: The size of its images.
        file: The user's own network or weights, where the spec needs one.

    Raises:
        WeightsError: If the weights differ from those in the spec.
        BackboneError: If it cannot be built.
    """
    uri, weights = locate_backbone(spec, file)
    size = (image.height, image.width)
    backbone = load_backbone(uri, layers=(spec.layer,), pooling=spec.pooling, weights=weights, image_size=size)
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
    weights = "none" if parse_uri(uri).name in APPLICATIONS else None
    return load_backbone(uri, weights=weights, image_size=image_size).layers


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


def check_uri(uri: str) -> None:
    """Check that a uri names a backbone, without loading it.

    Raises:
        UnknownNameError: If there is no such backbone.
        BackboneError: If its arguments are not written as arguments.
    """
    _find_provider(parse_uri(uri).name)


def list_backbones() -> list[str]:
    """List every name that `load_backbone` takes, built-in ones first."""
    built_in = [name for name in list_names(BACKBONES, _GROUP) if name not in {"keras", "file"}]
    return [*built_in, *APPLICATIONS]


def _find_provider(name: str) -> str:
    if name in APPLICATIONS:
        return "keras"
    if name.startswith("file:"):
        return "file"
    if name in list_backbones():
        return name
    kind = "backbone"
    raise make_unknown_name_error(kind, name, [*list_backbones(), "file:PATH"])
