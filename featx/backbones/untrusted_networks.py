"""Checks of a network in OpenVINO's format that may be untrusted, before OpenVINO sees any of it.

Only what is checked is passed on: the description is parsed, and written anew with the parts that featx knows.
"""

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

#: The largest of `keras.applications` takes 2 MB; parsed, XML takes up to 40 times its size.
_MOST_BYTES = 8 * 2**20

_MOST_LAYERS = 20_000

#: Operations of networks that compute one result from pixels. Left out are those with networks inside them, those
#: with a state or text, and those that make an array of any size from a few numbers, such as Range; see `GROWING`.
OPERATIONS = frozenset(
    {
        *("Parameter", "Result", "Const", "Convert", "Add", "Subtract", "Multiply", "Divide", "Maximum", "Minimum"),
        *("Power", "Sqrt", "Exp", "Log", "Abs", "Negative", "SquaredDifference", "Erf", "Tanh", "Sigmoid", "ReLU"),
        *("PReLU", "Elu", "Gelu", "Clamp", "Swish", "HSwish", "HSigmoid", "HardSigmoid", "Mish", "SoftPlus", "Selu"),
        *("SoftMax", "Softmax", "Convolution", "GroupConvolution", "MaxPool", "AvgPool", "ReduceMean", "ReduceMax"),
        *("ReduceMin", "ReduceSum", "ReduceL2", "Pad", "Concat", "Reshape", "Squeeze", "Unsqueeze", "Transpose"),
        *("MatMul", "MVN", "BatchNormInference", "NormalizeL2", "Split", "VariadicSplit", "StridedSlice", "Slice"),
        *("ShapeOf", "Gather", "DepthToSpace", "SpaceToDepth", "SpaceToBatch", "BatchToSpace", "LogSoftmax"),
        *("GroupNormalization", "Sin", "Cos", "Floor", "Select", "Equal", "NotEqual", "Less", "Greater", "LogicalNot"),
        *("LogicalAnd", "LogicalOr", "LogicalXor", "IsNaN", "IsInf", "Mod", "Tile", "Einsum"),
        "ScaledDotProductAttention",
    }
)

#: Operations that compute shapes, or arrays from weights. A network loses them when the size of its images is fixed.
_SHAPE_OPERATIONS = frozenset(
    {
        *("Broadcast", "Range", "Interpolate", "LessEqual", "GreaterEqual", "FloorMod", "Ceiling", "ReduceProd"),
        *("NonZero", "ScatterUpdate", "ScatterNDUpdate", "ScatterElementsUpdate", "GatherND"),
    }
)

#: These also make large arrays, but transformers need them: the class token is repeated for each image. Their sizes are
#: checked before they are run. Only arrays that decide shapes are computed while a network is read, hence these may not
#: lead into an input of `_SHAPED` but the first.
GROWING = frozenset({"Tile", "Einsum"})
_SHAPED = frozenset(
    {
        *("Reshape", "Squeeze", "Unsqueeze", "Transpose", "Tile", "Pad", "Slice", "StridedSlice", "Split", "Gather"),
        *("VariadicSplit", "SpaceToBatch", "BatchToSpace", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"),
        *("ReduceL2", "MVN", "NormalizeL2"),
    }
)

_OPSETS = frozenset(f"opset{number}" for number in range(1, 17))

#: Bytes of one value.
_SIZES = {"f32": 4, "f16": 2, "f64": 8, "i32": 4, "i64": 8, "u8": 1, "boolean": 1}

_NAMES = {
    "layer": {"id", "name", "type", "version", "output_names"},
    "port": {"id", "precision", "names"},
    "edge": {"from-layer", "from-port", "to-layer", "to-port"},
}

#: Numbers, words, lists of them, and the sums of Einsum (`abc,cd->abd`): the attribute of an operation is nothing else.
_PLAIN = re.compile(r"[\w.,+ ?>-]*", re.ASCII)


def read_checked(path: Path, height: int, width: int) -> tuple[bytes, bytes]:
    """Read a network and its weights, and check that it computes one result from pixels with known operations.

    Args:
        path: The description; its weights are next to it.
        height: Rows of the images that it must take, in px.
        width: Columns of the images.

    Returns:
        The description, written anew from what was checked, and the weights.

    Raises:
        ValueError: If it is anything else.
        OSError: If a file cannot be read.
    """
    checked, weights = _check(path, OPERATIONS)
    _check_growth(checked)
    layers = _find(checked, "layers")
    kinds = [layer.get("type") for layer in layers]
    images = [layer.find("data") for layer in layers if layer.get("type") == "Parameter"]
    shape = images[0].get("shape", "").replace(" ", "") if len(images) == 1 and images[0] is not None else ""
    fits = re.fullmatch(rf"(\?|[1-9]\d{{0,3}}),{height},{width},3", shape)  # some files fix the number of images
    if kinds.count("Result") != 1 or not fits or images[0].get("element_type") != "u8":  # type: ignore[union-attr]
        msg = f"{path.name} does not compute one result from images of {height}x{width} px"
        raise ValueError(msg)
    return ET.tostring(checked), weights


def copy_checked(path: Path) -> tuple[bytes, bytes]:
    """Read a user's own network and its weights, and check that it is made of known operations.

    Args:
        path: The description; its weights are next to it.

    Returns:
        As `read_checked`.

    Raises:
        ValueError: If it is anything else.
        OSError: If a file cannot be read.
    """
    checked, weights = _check(path, OPERATIONS | _SHAPE_OPERATIONS)
    return ET.tostring(checked), weights


def _check(path: Path, operations: frozenset[str]) -> tuple[ET.Element, bytes]:
    if path.stat().st_size > _MOST_BYTES:
        msg = f"{path.name} has {path.stat().st_size:,} bytes; the limit is {_MOST_BYTES:,}"
        raise ValueError(msg)
    text, weights = path.read_bytes(), path.with_suffix(".bin").read_bytes()
    if b"<!" in text:
        msg = f"{path.name} has declarations of its own, as no network has"
        raise ValueError(msg)
    try:
        given = ET.fromstring(text)  # noqa: S314 - a document without declarations has no entities to expand
    except (ET.ParseError, RecursionError, LookupError) as error:
        msg = f"{path.name} is not a description of a network ({error})"
        raise ValueError(msg) from error
    layers, edges = _find(given, "layers"), _find(given, "edges")
    if given.tag != "net" or len(layers) > _MOST_LAYERS:
        msg = f"{path.name} does not describe a network, or one of more than {_MOST_LAYERS:,} operations"
        raise ValueError(msg)
    checked = ET.Element("net", name="network", version=str(int(given.get("version", "0"))))
    ports = _copy_layers(layers, ET.SubElement(checked, "layers"), len(weights), operations)
    _copy_edges(edges, ET.SubElement(checked, "edges"), ports)
    return checked, weights


def _find(parent: ET.Element, name: str) -> ET.Element:
    found = parent.findall(name)
    if len(found) != 1:
        msg = f"a network without its {name}"
        raise ValueError(msg)
    return found[0]


def _copy(source: ET.Element, target: ET.Element) -> ET.Element:
    """Copy the attributes of a layer, a port or an edge that featx knows; others are left out."""
    known = {name: source.get(name, "") for name in _NAMES[source.tag] if name in source.attrib}
    return ET.SubElement(target, source.tag, known)


def _copy_layers(
    layers: ET.Element, target: ET.Element, n_bytes: int, operations: frozenset[str]
) -> dict[str, set[str]]:
    """Check and copy the operations; return the numbers of the ports of each."""
    ports: dict[str, set[str]] = {}
    for layer in layers:
        kind, number = layer.get("type", ""), layer.get("id", "")
        if layer.tag != "layer" or kind not in operations or layer.get("version") not in _OPSETS or number in ports:
            msg = f"an operation {kind[:40]!r} of {layer.get('version', '')[:20]!r}, which featx does not run"
            raise ValueError(msg)
        copied = _copy(layer, target)
        data = layer.find("data")
        if data is not None and not all(_PLAIN.fullmatch(value) for value in data.attrib.values()):
            msg = f"an operation {kind!r} with an attribute that is neither numbers nor words"
            raise ValueError(msg)
        if kind == "Const":
            ET.SubElement(copied, "data", _check_constant(data, n_bytes))
        elif data is not None:
            ET.SubElement(copied, "data", data.attrib)
        ports[number] = _copy_ports(layer, copied)
    return ports


def _copy_ports(layer: ET.Element, target: ET.Element) -> set[str]:
    numbers = set()
    for side in layer:
        if side.tag in {"data", "rt_info"}:
            continue
        if side.tag not in {"input", "output"}:
            msg = f"an operation with a part {side.tag[:40]!r}"
            raise ValueError(msg)
        copied = ET.SubElement(target, side.tag)
        for port in side:
            if port.tag != "port" or port.get("id") in numbers:
                msg = f"an operation with a port {port.tag[:40]!r}, or with two of one number"
                raise ValueError(msg)
            own = _copy(port, copied)
            numbers.add(port.get("id", ""))
            for dim in port.findall("dim"):
                ET.SubElement(own, "dim").text = str(int(dim.text or ""))
    return numbers


def _check_constant(data: ET.Element | None, n_bytes: int) -> dict[str, str]:
    """Check that a constant lies in the file of the weights and has the size of its shape.

    Returns:
        The same, with numbers that everything reads alike: to Python, 1_0 is ten.
    """
    given = {} if data is None else data.attrib
    if set(given) != {"element_type", "shape", "offset", "size"} or given["element_type"] not in _SIZES:
        msg = "a constant that is not described by its type, shape, offset and size"
        raise ValueError(msg)
    offset, size = int(given["offset"]), int(given["size"])
    shape = [int(side) for side in given["shape"].split(",") if side.strip()]
    fits = offset >= 0 and offset + size <= n_bytes and min(shape, default=0) >= 0
    # OpenVINO writes a constant without values as one byte.
    if not fits or max(size, 1) != max(math.prod(shape) * _SIZES[given["element_type"]], 1):
        msg = f"a constant of {size} bytes at {offset} with the shape {shape}, in a file of {n_bytes:,} bytes"
        raise ValueError(msg)
    sides = ", ".join(map(str, shape))
    return {"element_type": given["element_type"], "shape": sides, "offset": str(offset), "size": str(size)}


def _copy_edges(edges: ET.Element, target: ET.Element, ports: dict[str, set[str]]) -> None:
    for edge in edges:
        ends = [(edge.get(f"{end}-layer", ""), edge.get(f"{end}-port", "")) for end in ("from", "to")]
        if edge.tag != "edge" or not all(port in ports.get(layer, ()) for layer, port in ends):
            msg = "an edge between operations or ports that do not exist"
            raise ValueError(msg)
        _copy(edge, target)


def _check_growth(network: ET.Element) -> None:
    """Check that nothing of `GROWING` leads to what decides a shape."""
    kinds = {layer.get("id", ""): layer.get("type", "") for layer in network.iter("layer")}
    inputs = {
        layer.get("id"): [port.get("id") for port in layer.iterfind("input/port")] for layer in network.iter("layer")
    }
    after: dict[str, list[tuple[str, str]]] = {}
    for edge in network.iter("edge"):
        after.setdefault(edge.get("from-layer", ""), []).append((edge.get("to-layer", ""), edge.get("to-port", "")))
    waiting = [number for number, kind in kinds.items() if kind in GROWING]
    seen = set(waiting)
    while waiting:
        for number, port in after.get(waiting.pop(), ()):
            kind = kinds[number]
            if kind in _SHAPED and inputs[number].index(port) > 0:
                msg = f"an operation {kind!r} whose parameters are not constants"
                raise ValueError(msg)
            if kind != "ShapeOf" and number not in seen:
                seen.add(number)
                waiting.append(number)
