"""The Open Inference Protocol, version 2, with its extension for binary tensors.

https://github.com/kserve/open-inference-protocol, and
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md

A model has one input, `images`: pixels as UINT8 `(n, height, width, 3)`, of any size, or encoded pictures as BYTES
`(n,)`. Its outputs are `probabilities`, FP32 `(n, n_classes)`, and `labels`, BYTES `(n,)`.
"""

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import ImageError
from featx.items.pictures import encode_picture
from featx.serving.bodies import RequestError, check_count, decode_base64, read_json

#: The header with the length of the JSON that binary tensors follow.
LENGTH_HEADER = "inference-header-content-length"

INPUT, OUTPUTS = "images", ("probabilities", "labels")

_LENGTH_BYTES = 4
_PIXEL_RANK, _CHANNELS = 4, 3
_MOST_ID = 256


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request for inference.

    Attributes:
        id: Its id, which the response repeats; empty for none.
        pictures: Encoded pictures.
        outputs: The outputs that are wanted, each with whether it is binary.
    """

    id: str
    pictures: list[bytes]
    outputs: dict[str, bool]


def describe_model(name: str, version: str, classes: Sequence[str]) -> dict[str, Any]:
    """Return the metadata of a model."""
    return {
        "name": name,
        "versions": [version],
        "platform": "featx",
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, -1, -1, _CHANNELS]}],
        "outputs": [
            {"name": OUTPUTS[0], "datatype": "FP32", "shape": [-1, len(classes)]},
            {"name": OUTPUTS[1], "datatype": "BYTES", "shape": [-1]},
        ],
        "parameters": {"classes": list(classes), "also_takes": f"{INPUT}: BYTES [-1], encoded pictures"},
    }


def read_request(body: bytes, length: str, max_images: int, max_pixels: int) -> InferRequest:
    """Read a request for inference.

    Args:
        body: The whole body.
        length: The header with the length of its JSON; empty if all of it is JSON.
        max_images: Most images, as in `ServeOptions`.
        max_pixels: Most pixels of one image, as in `ServeOptions`.

    Raises:
        RequestError: If it is malformed, or has too many or too large images.
    """
    if length and not (length.isascii() and length.isdigit() and len(length) < 12 and int(length) <= len(body)):  # noqa: PLR2004 - digits
        raise RequestError(400, f"the header {LENGTH_HEADER} is not a number of bytes of the body")
    size = int(length) if length else len(body)
    values, binary = read_json(body[:size]), memoryview(body)[size:]
    if not isinstance(values, dict) or not isinstance(values.get("inputs"), list):
        raise RequestError(400, "the JSON has no list of inputs")
    if len(values["inputs"]) != 1 or not isinstance(values["inputs"][0], dict):
        raise RequestError(400, f"there must be one input, called {INPUT}")
    request_id = values.get("id", "")
    if not isinstance(request_id, str) or len(request_id) > _MOST_ID:
        raise RequestError(400, f"id is not a text of at most {_MOST_ID} letters")
    pictures = _read_input(values["inputs"][0], binary, max_images, max_pixels)
    return InferRequest(request_id, pictures, _read_outputs(values))


def _read_input(tensor: dict[str, Any], binary: memoryview, max_images: int, max_pixels: int) -> list[bytes]:
    name, kind = tensor.get("name"), tensor.get("datatype")
    if name != INPUT or not isinstance(kind, str) or kind not in {"UINT8", "BYTES"}:
        raise RequestError(400, f"the input must be called {INPUT} and have the datatype UINT8 or BYTES")
    shape, size = _read_shape(tensor), _read_size(tensor, binary)
    if kind == "BYTES":
        n_images = math.prod(shape)
        check_count(n_images, max_images)
        found = _split_bytes(binary) if size is not None else _read_texts(tensor["data"])
        if len(found) != n_images:
            raise RequestError(400, f"the input has {len(found)} elements; by its shape, it has {n_images}")
        return found
    check_count(shape[0], max_images)
    if shape[1] * shape[2] > max_pixels:
        raise RequestError(413, f"{shape[2]}x{shape[1]} px are more than the {max_pixels:,} that this server takes")
    return _encode_pixels(_read_pixels(tensor, binary, size, shape))


def _read_shape(tensor: dict[str, Any]) -> list[int]:
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not all(type(side) is int and 0 < side < 2**31 for side in shape):
        raise RequestError(400, "the shape of the input is not a list of whole numbers above 0")
    if tensor["datatype"] == "BYTES" and len(shape) not in {1, 2}:
        raise RequestError(400, "an input of BYTES has the shape (n,) or (n, 1)")
    if tensor["datatype"] == "UINT8" and (len(shape) != _PIXEL_RANK or shape[3] != _CHANNELS):
        raise RequestError(400, "an input of UINT8 has the shape (n, height, width, 3)")
    return shape


def _read_size(tensor: dict[str, Any], binary: memoryview) -> int | None:
    """Read how many bytes after the JSON the input has; None if it is in the JSON."""
    size = _read_parameters(tensor).get("binary_data_size")
    if size is not None and (type(size) is not int or size != len(binary)):
        raise RequestError(400, f"binary_data_size is not the number of bytes after the JSON, {len(binary):,}")
    if size is None and ("data" not in tensor or len(binary)):
        raise RequestError(400, "the input needs either data or binary_data_size")
    return size


def _read_parameters(values: dict[str, Any]) -> dict[str, Any]:
    parameters = values.get("parameters", {})
    if not isinstance(parameters, dict):
        raise RequestError(400, "parameters is not an object")
    return parameters


def _split_bytes(binary: memoryview) -> list[bytes]:
    """Split elements, each of which follows its length, little-endian of 4 bytes."""
    found, at = [], 0
    while at < len(binary):
        end = at + _LENGTH_BYTES + int.from_bytes(binary[at : at + _LENGTH_BYTES], "little")
        if end > len(binary):
            raise RequestError(400, "the last element of BYTES is not complete")
        found.append(bytes(binary[at + _LENGTH_BYTES : end]))
        at = end
    return found


def _read_texts(data: Any) -> list[bytes]:  # noqa: ANN401 - any JSON value
    texts = [one for row in data for one in (row if isinstance(row, list) else [row])] if isinstance(data, list) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise RequestError(400, "data of BYTES is not a list of texts in base64")
    return [decode_base64(text, at) for at, text in enumerate(texts)]


def _read_pixels(
    tensor: dict[str, Any], binary: memoryview, size: int | None, shape: Sequence[int]
) -> NDArray[np.uint8]:
    n_values = math.prod(shape)
    if size is not None:
        if size != n_values:
            raise RequestError(400, f"the input has {size:,} bytes; by its shape, it has {n_values:,}")
        return np.frombuffer(binary, np.uint8).reshape(shape)
    try:
        values = np.array(tensor["data"])
    except ValueError as error:  # rows of several lengths, or too deep
        raise RequestError(400, "data of UINT8 is not a list of numbers, flat or of the given shape") from error
    is_of_shape = values.size == n_values and values.shape in {(n_values,), tuple(shape)}
    if values.dtype.kind != "i" or not is_of_shape or _holds_booleans(tensor["data"], values.ndim):
        raise RequestError(
            400, f"data of UINT8 is not a list of {n_values:,} whole numbers, flat or of the given shape"
        )
    if values.min() < 0 or values.max() > 255:  # noqa: PLR2004 - of uint8
        raise RequestError(400, "data of UINT8 has values outside 0 to 255")
    return values.astype(np.uint8).reshape(shape)


def _holds_booleans(data: list[Any], depth: int) -> bool:
    """Return whether true or false is among the numbers, which NumPy takes for 1 and 0."""
    values: Iterable[Any] = data
    for _ in range(depth - 1):
        values = itertools.chain.from_iterable(values)
    return bool in set(map(type, values))


def _encode_pixels(images: NDArray[np.uint8]) -> list[bytes]:
    """Turn pixels into image files, so that they go through the decoder of all pictures, which resizes them."""
    try:
        return [encode_picture(pixels) for pixels in images]
    except ImageError as error:
        raise RequestError(400, str(error)) from error


def _read_outputs(values: dict[str, Any]) -> dict[str, bool]:
    asked = values.get("outputs")
    default = _read_parameters(values).get("binary_data_output", False) is True
    if asked is None or asked == []:
        return dict.fromkeys(OUTPUTS, default)
    if not isinstance(asked, list) or not all(isinstance(one, dict) for one in asked):
        raise RequestError(400, "outputs is not a list of objects")
    wanted: dict[str, bool] = {}
    for one in asked:
        parameters = _read_parameters(one)
        if one.get("name") not in OUTPUTS:
            raise RequestError(400, f"an output is unknown; the outputs are {', '.join(OUTPUTS)}")
        if "classification" in parameters:
            raise RequestError(400, "classification is not supported; ask for labels and probabilities")
        wanted[one["name"]] = parameters.get("binary_data", default) is True
    return wanted


def format_response(
    request: InferRequest, name: str, version: str, classes: Sequence[str], probabilities: NDArray[np.float64]
) -> tuple[bytes, int | None]:
    """Format the response to a request.

    Args:
        request: The request.
        name: Name of the model.
        version: Its version.
        classes: Its classes.
        probabilities: float64 `(n, n_classes)`.

    Returns:
        The body, and the length of its JSON; None if all of it is JSON.
    """
    labels = [classes[at] for at in probabilities.argmax(axis=1)]
    outputs, binary = [], b""
    for output, is_binary in request.outputs.items():
        is_labels = output == OUTPUTS[1]
        values = probabilities.astype(np.float32)
        about: dict[str, Any] = {
            "name": output,
            "datatype": "BYTES" if is_labels else "FP32",
            "shape": [len(labels)] if is_labels else list(values.shape),
        }
        if is_binary:
            data = b"".join(map(_pack, labels)) if is_labels else values.astype("<f4").tobytes()
            about["parameters"] = {"binary_data_size": len(data)}
            binary += data
        else:
            about["data"] = labels if is_labels else values.ravel().tolist()
        outputs.append(about)
    about = {"model_name": name, "model_version": version, "outputs": outputs}
    head = json.dumps({"id": request.id, **about} if request.id else about).encode()
    return head + binary, len(head) if any(request.outputs.values()) else None


def _pack(label: str) -> bytes:
    data = label.encode("utf-8", "surrogateescape")
    return len(data).to_bytes(_LENGTH_BYTES, "little") + data
