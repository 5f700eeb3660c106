"""A user's own network in a file that OpenVINO reads: `onnx:model.onnx`, `ir:model.xml`, `tflite:model.tflite`."""

import hashlib
import json
import logging
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from featx.backbones.converted import OpenVinoBackbone
from featx.backbones.onnx_files import OnnxFile, inspect_onnx
from featx.backbones.openvino import OpenVino
from featx.backbones.openvino_graphs import LAYOUTS, Graph, Tensor
from featx.backbones.probing import probe
from featx.backbones.protocol import BackboneRequest
from featx.backbones.recipes import ARGUMENTS, RECIPES, Recipe, has_recipe, parse_config, read_recipe
from featx.errors import BackboneError, UnknownNameError, UsageError, WeightsError
from featx.registry import suggest

logger = logging.getLogger(__name__)

#: The names of a file's metadata that are read: a recipe as a uri has it, or just its name; and the register tokens.
_RECIPE, _REGISTERS = "featx.recipe", ("registers", "num_register_tokens")

_SUFFIXES = {"onnx": ".onnx", "ir": ".xml", "tflite": ".tflite"}
_OWN_ARGUMENTS = ("layout", "registers")

#: Where `parse_config` finds what it reads, if it lies next to a network.
_CONFIGS = ("preprocessor_config.json", "open_clip_config.json", "config.json")

#: What the names of files and of what wrote them suggest; the first that occurs counts.
_HINTS = (
    ("siglip", "siglip"),
    ("clip", "clip"),
    ("dino", "dinov2"),
    ("pytorch", "imagenet"),
    ("tf2onnx", "inception"),
    ("tflite", "inception"),
)


#: Types of values by OpenVINO's names, as NumPy calls them.
_TYPES = {"f32": "float32", "f16": "float16", "u8": "uint8"}


class NetworkFile(OpenVinoBackbone):
    """A network of a user's own, run by OpenVINO; see `load_network_file`."""

    def __init__(self, network: Any, described: Mapping[str, Any]) -> None:  # noqa: ANN401 - OpenVINO has no types
        for name, value in described.items():
            setattr(self, name, value)
        self._runtime = OpenVino(self, network)

    @property
    def runtime(self) -> OpenVino:
        """What runs it."""
        return self._runtime


@dataclass(frozen=True, slots=True)
class _About:
    """What a file says besides its network: its digest, what wrote it, a recipe and other metadata.

    `n_bytes` is its size, with that of its other files; `is_plain` whether reading it cannot take much memory.
    """

    digest: str
    n_bytes: int
    producer: str = ""
    recipe: Recipe | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    is_plain: bool = False


def load_network_file(request: BackboneRequest) -> NetworkFile:
    """Load a network that OpenVINO reads, and make it a backbone.

    Its uri has the digest of the file and the recipe of its input, which a file seldom declares. It is never guessed.

    Args:
        request: `name` is `onnx:PATH`, `ir:PATH` or `tflite:PATH`. The arguments are those of a recipe, `layout`
            (`nchw` or `nhwc`) where the shape of the input does not tell, and `registers`, the number of register
            tokens after the class token.

    Raises:
        BackboneError: If the file is missing or damaged, is not a network of RGB images, or has no recipe.
        WeightsError: If the request names other weights.
        UsageError: If an argument is not valid.
        UnknownNameError: If there is no such layer.
        MemoryError: If there is not enough memory.
    """
    path, about = _inspect(request)
    if not about.is_plain:
        probe(request, about.digest, about.n_bytes)
    return _load(request, path, about)


def load_probed(request: BackboneRequest) -> NetworkFile:
    """Load a network file as `load_network_file` does, in a process that was started to try it."""
    return _load(request, *_inspect(request))


def _inspect(request: BackboneRequest) -> tuple[Path, _About]:
    kind, _, name = request.name.partition(":")
    path = Path(name).expanduser()
    _check_request(request, path, kind)
    return path, _read_about(path, kind)


def _load(request: BackboneRequest, path: Path, about: _About) -> NetworkFile:
    kind = request.name.partition(":")[0]
    graph = Graph(path, kind)
    recipe = _choose_recipe(request, path, graph, about)
    layout = graph.find_layout(request.arguments.get("layout"))
    height, width = _choose_size(request, path, graph, layout, recipe)
    if graph.input_type == "u8" and replace(recipe, channels="rgb", image={}) != Recipe():
        msg = f"{path} takes uint8 pixels of 0 to 255, which it scales itself; use --recipe none"
        raise BackboneError(msg)
    graph.fix(layout, height, width)
    tensors = _choose_tensors(request.layers, graph, path)
    layers = tuple(tensor.describe(index) for index, tensor in enumerate(graph.tensors))
    n_registers = _count_registers(request, about)
    network, outputs = graph.cut(tensors, request.pooling, recipe, layout, n_registers)
    arguments = recipe.arguments | ({"registers": str(n_registers)} if n_registers else {})
    if "layout" in request.arguments:
        arguments["layout"] = layout
    described = {
        "uri": replace(request, name=f"{kind}:{about.digest[:16]}", arguments=arguments).uri,
        "weights": "file",
        "weights_digest": about.digest,
        "source_file": str(path.resolve()),
        "height": height,
        "width": width,
        "outputs": outputs,
        "layers": layers,
        "decoding": {key: value for key, value in recipe.image.items() if key not in {"height", "width"}},
    }
    return NetworkFile(network, described)


def _check_request(request: BackboneRequest, path: Path, kind: str) -> None:
    known = {*ARGUMENTS, *_OWN_ARGUMENTS}
    if unknown := sorted(set(request.arguments) - known):
        hint = suggest(unknown[0], known)
        msg = f"{kind}:{path} takes the arguments {', '.join(sorted(known))}, not {', '.join(unknown)}; {hint}"
        raise BackboneError(msg.removesuffix("; "))
    if request.weights not in {None, "file"}:
        msg = f"{path} has its own weights; leave out --weights {request.weights}"
        raise WeightsError(msg)
    layout = request.arguments.get("layout")
    if layout not in {None, *LAYOUTS}:
        msg = f"layout is {layout!r}; it must be nchw or nhwc"
        raise UsageError(msg)
    if not path.is_file():
        msg = f"there is no file {path}; {kind}: takes the path of a {_SUFFIXES[kind]} file"
        raise BackboneError(msg)


def _read_about(path: Path, kind: str) -> _About:
    """Read what a file says of itself, before OpenVINO sees it, and digest it with its other files."""
    try:
        if kind == "onnx":
            found = inspect_onnx(path)
            if len(found.inputs) != 1:
                shown = ", ".join(found.inputs[:5])
                msg = f"it takes {len(found.inputs)} inputs ({shown}); a backbone takes one, the images"
                raise ValueError(msg)  # noqa: TRY301 - all reasons are reported alike
            _refuse_onnx(found)
            recipe = _find_recipe(found.metadata)
            plain = not found.computes_shapes
            return _About(*_digest([path, *found.external]), found.producer, recipe, found.metadata, plain)
        if kind == "ir":
            weights, metadata = path.with_suffix(".bin"), _read_rt_info(path)
            if not weights.is_file():
                msg = f"its weights are missing; copy {weights.name} next to it"
                raise ValueError(msg)  # noqa: TRY301 - as above
            return _About(*_digest([path, weights]), "OpenVINO", _find_recipe(metadata), metadata)
        with path.open("rb") as file:
            if file.read(8)[4:] != b"TFL3":
                msg = "it does not begin as a TensorFlow Lite file does"
                raise ValueError(msg)  # noqa: TRY301 - as above
        return _About(*_digest([path]), "TensorFlow Lite")
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be used: {' '.join(str(error).split())[:300]}"
        raise BackboneError(msg) from error


def _refuse_onnx(found: OnnxFile) -> None:
    """Refuse what OpenVINO would refuse in the words of its own operations."""
    if found.input_type not in {1, 2, 10}:  # float32, uint8, float16
        msg = f"it takes values of ONNX's type {found.input_type}, not float32; export it without quantisation"
    elif not found.has_rank:
        msg = "it takes an input of any rank; export it for images, (n, 3, height, width)"
    elif found.custom:
        msg = f"it needs the custom operator {found.custom[:100]}; export it with ONNX's own operators"
    else:
        return
    raise ValueError(msg)


def _digest(paths: Sequence[Path]) -> tuple[str, int]:
    """Return one sha256 over the bytes of several files, and their size; of one file, it is what `sha256sum` prints."""
    digest, n_bytes = hashlib.sha256(), 0
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
                n_bytes += len(block)
    return digest.hexdigest(), n_bytes


def _read_rt_info(path: Path) -> dict[str, str]:
    """Read what the IR's `rt_info` says, with a point between the levels."""
    text = path.read_bytes()
    if b"<!" in text:
        msg = "it has declarations of its own, as no network has"
        raise ValueError(msg)
    try:
        info = ET.fromstring(text).find("rt_info")  # noqa: S314 - a document without declarations has no entities
    except (ET.ParseError, RecursionError, LookupError) as error:
        msg = f"it is not a description of a network ({error})"
        raise ValueError(msg) from error
    found: dict[str, str] = {}
    for one in () if info is None else info:
        found |= {one.tag: one.get("value", "")} | {f"{one.tag}.{each.tag}": each.get("value", "") for each in one}
    return found


def _find_recipe(metadata: Mapping[str, str]) -> Recipe | None:
    """Find the recipe in the metadata of a file; None if it has none.

    Raises:
        ValueError: If it has one that cannot be read.
    """
    if text := metadata.get(_RECIPE):
        return read_recipe(dict(parse_qsl(text, strict_parsing=True)) if "=" in text else {"recipe": text})
    means, deviations = (metadata.get(f"model_info.{name}_values") for name in ("mean", "scale"))
    if means or deviations:  # https://docs.openvino.ai, "Model API": the values of pixels from 0 to 255
        if metadata.get("model_info.embedded_processing", "").lower() == "true":
            return RECIPES["none"]
        channels = (
            "bgr" if metadata.get("model_info.reverse_input_channels", "").lower() not in {"true", "yes"} else "rgb"
        )
        return read_recipe({"mean": means or "0", "std": deviations or "1", "scale": "1", "channels": channels})
    for value in metadata.values():
        if value.lstrip().startswith("{"):
            try:
                return parse_config(json.loads(value))
            except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
                logger.debug("metadata are not a recipe: %s", value[:200])
    return None


def _choose_recipe(request: BackboneRequest, path: Path, graph: Graph, about: _About) -> Recipe:
    if has_recipe(request.arguments):
        return read_recipe(request.arguments, about.recipe)
    if about.recipe is not None:
        recipe = read_recipe(request.arguments, about.recipe)
        logger.warning("%s says how its pixels are scaled: %s", path.name, recipe.describe())
        return recipe
    lying = [str(path.parent / name) for name in _CONFIGS if (path.parent / name).is_file()]
    told = f"{about.producer} {path.name}".lower()
    named = next((name for word, name in _HINTS if word in told), "imagenet")
    takes = f"{_TYPES[graph.input_type]} {graph.describe_input()}"
    wrote = f", was written by {about.producer}" if about.producer else ""
    near = f", and {lying[0]} lies next to it" if lying else ""
    msg = (
        f"{path} does not say how its pixels are scaled. It takes {takes}{wrote}{near}. Add --recipe "
        f"{lying[0] if lying else named} if that is what it was trained with; or --recipe with another file or one of "
        f"{', '.join(RECIPES)}; or --mean, --std, --scale and --channels"
    )
    raise BackboneError(msg)


def _choose_size(request: BackboneRequest, path: Path, graph: Graph, layout: str, recipe: Recipe) -> tuple[int, int]:
    own = graph.input_shape[2:] if layout == LAYOUTS[0] else graph.input_shape[1:3]
    sides = []
    for side, asked, usual in zip(own, (request.height, request.width), ("height", "width"), strict=True):
        if side is not None and asked not in {None, side}:
            msg = f"{path} takes images of {own[0]}x{own[1]} px; leave out --image-size"
            raise BackboneError(msg)
        chosen = side or asked or recipe.image.get(usual)
        if not chosen:
            msg = f"{path} takes images of any size; choose one with --image-size"
            raise BackboneError(msg)
        sides.append(int(chosen))
    return sides[0], sides[1]


def _choose_tensors(layers: Sequence[str | int], graph: Graph, path: Path) -> list[Tensor]:
    if not layers:
        tensor, is_before_classifier = graph.find_default()
        if is_before_classifier:
            logger.warning(
                "%s is cut at %s %s, the input of its last matrix product; --layer -1 takes its output",
                path.name,
                tensor.name,
                tensor.shape,
            )
        return [tensor]
    return list({tensor.name: tensor for tensor in (_find_tensor(layer, graph, path) for layer in layers)}.values())


def _find_tensor(layer: str | int, graph: Graph, path: Path) -> Tensor:
    tensors = graph.tensors
    if not isinstance(layer, str):
        if -len(tensors) <= layer < len(tensors):
            return tensors[layer]
        msg = f"{path} has {len(tensors)} tensors; there is no tensor {layer}. `featx layers` lists them"
        raise UnknownNameError(msg)
    for tensor in tensors:
        if layer in {tensor.name, *tensor.output.get_names()}:
            return tensor
    hint = suggest(layer, [tensor.name for tensor in tensors])
    msg = f"{path} has no tensor called {layer!r}; {f'{hint} ' if hint else ''}`featx layers` lists all {len(tensors)}"
    raise UnknownNameError(msg)


def _count_registers(request: BackboneRequest, about: _About) -> int:
    text = request.arguments.get("registers") or next(
        (about.metadata[name] for name in _REGISTERS if name in about.metadata), "0"
    )
    if not text.isdecimal() or len(text) > 3:  # noqa: PLR2004 - no network has a thousand
        msg = f"registers is {text!r}; it must be a whole number, such as 4"
        raise UsageError(msg)
    return int(text)
