"""Bodies of requests, read as streams within limits, and the pictures in them."""

import base64
import binascii
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from featx.serving.batching import OverloadError, Room

#: Commas and brackets of a JSON text. A byte may become 60 bytes of Python objects, so that 2 million take 120 MB.
_MOST_JSON_VALUES = 2_000_000

#: Header fields and fields of a form that anybody needs, and their bytes.
_MOST_FIELDS, _MOST_FIELD_BYTES = 16, 1000

_FIELDS = ("top", "explain", "model")


class RequestError(Exception):
    """A request that is refused.

    Args:
        status: The HTTP status.
        reason: What is wrong, and what to send instead.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(slots=True)
class Request:
    """What a client asks for.

    Attributes:
        pictures: Name and bytes of each picture.
        top: Number of best classes to return; 0 for all.
        explain: Whether to explain the predictions.
        model: Name of the model; empty for the first.
    """

    pictures: list[tuple[str, bytes]] = field(default_factory=list)
    top: int = 0
    explain: bool = False
    model: str = ""


class BodyReader:
    """Reads bodies; all that are in memory at one time share a limit.

    Args:
        max_bytes: Most bytes of one body.
        max_images: Most pictures of one request.
    """

    def __init__(self, max_bytes: int, max_images: int) -> None:
        self.max_bytes, self.max_images = max_bytes, max_images
        self.room = Room(4 * max_bytes)

    def check_length(self, headers: Mapping[str, str]) -> None:
        """Refuse a body by its headers.

        Raises:
            RequestError: If it is too large, or compressed.
        """
        encoding = headers.get("content-encoding", "identity").lower()
        if encoding != "identity":
            raise RequestError(415, "the body is compressed; send it as it is, since pictures are compressed already")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.max_bytes:
            raise RequestError(413, self._describe_limit())

    def _describe_limit(self) -> str:
        return f"the body is larger than {self.max_bytes:,} bytes; send fewer or smaller images per request"

    async def read(self, stream: AsyncIterator[bytes], taken: list[int]) -> bytes:
        """Read a body.

        Args:
            stream: Its chunks.
            taken: Receives the bytes that the caller gives back to the room when the request is over.

        Raises:
            RequestError: If it is too large.
            OverloadError: If the bodies of all requests take too much memory.
        """
        body = bytearray()
        async for chunk in stream:
            if len(body) + len(chunk) > self.max_bytes:
                raise RequestError(413, self._describe_limit())
            if not self.room.take(len(chunk)):
                msg = "the bodies of other requests take all memory for bodies; try again later"
                raise OverloadError(msg)
            taken.append(len(chunk))
            body += chunk
        return bytes(body)

    def parse(self, body: bytes, content_type: str, query: Mapping[str, str]) -> Request:
        """Find the pictures of a body, and what is asked for.

        Args:
            body: The whole body.
            content_type: The header, which says what it is.
            query: The parameters in the URL.

        Raises:
            RequestError: If it is malformed.
        """
        request, kind = Request(), content_type.partition(";")[0].strip().lower()
        _read_fields(request, query, "parameter of the URL")
        if kind == "multipart/form-data":
            self._parse_form(request, body, content_type)
        elif kind == "application/json":
            self._parse_json(request, body)
        elif kind.startswith("image/") or kind == "application/octet-stream":
            request.pictures = [("image", body)] if body else []
        else:
            shown = repr(kind[:60]) if kind else "missing"
            reason = (
                f"the content type is {shown}; send multipart/form-data (curl -F images=@picture.jpg), "
                f"application/json with base64, or the bytes of one image as image/jpeg or application/octet-stream"
            )
            raise RequestError(415, reason)
        if not request.pictures:
            raise RequestError(400, "there is no image in the request; name the fields of a form images")
        check_count(len(request.pictures), self.max_images)
        return request

    def _parse_form(self, request: Request, body: bytes, content_type: str) -> None:
        fields: dict[str, str] = {}
        for name, file, data in read_form(body, content_type, self.max_images):
            if name in {"images", "image", "file"}:
                request.pictures.append((file or f"image {len(request.pictures)}", data))
            elif file:
                raise RequestError(400, f"the field {name[:60]!r} has a file; call the fields of pictures images")
            elif len(data) > _MOST_FIELD_BYTES or name in fields:
                raise RequestError(400, f"the field {name[:60]!r} is too long, or there twice")
            else:
                fields[name] = data.decode("utf-8", "replace")
        _read_fields(request, fields, "field of the form")

    def _parse_json(self, request: Request, body: bytes) -> None:
        values = read_json(body)
        if not isinstance(values, dict):
            raise RequestError(400, 'the JSON is not an object such as {"images": ["BASE64", ...]}')
        images = values.pop("images", [])
        images = [images] if isinstance(images, str) else images
        if not isinstance(images, list) or not all(isinstance(one, str) for one in images):
            raise RequestError(400, "images is not a list of texts in base64")
        check_count(len(images), self.max_images)  # before they are decoded
        _read_fields(request, values, "field of the JSON")
        request.pictures = [(f"image {at}", decode_base64(text, at)) for at, text in enumerate(images)]


def check_count(n_images: int, max_images: int) -> None:
    """Refuse a request of too many images.

    Raises:
        RequestError: If there are more than a request may have.
    """
    if n_images > max_images:
        raise RequestError(413, f"{n_images:,} images are more than the {max_images:,} of one request")


def _read_fields(request: Request, values: Mapping[str, Any], place: str) -> None:
    """Read what is asked for, besides pictures.

    Raises:
        RequestError: If a name is unknown, or a value invalid.
    """
    for name, value in values.items():
        text = str(value).lower() if isinstance(value, str | int) else ""
        if name not in _FIELDS:
            raise RequestError(400, f"there is no {place} called {name[:60]!r}; known: images, {', '.join(_FIELDS)}")
        if name == "top":
            if not (text.isascii() and text.isdigit() and 0 < len(text) < 7 and int(text)):  # noqa: PLR2004 - digits
                raise RequestError(400, "top is not a whole number from 1")
            request.top = int(text)
        elif name == "explain":
            if text not in {"true", "false", "1", "0"}:
                raise RequestError(400, "explain is neither true nor false")
            request.explain = text in {"true", "1"}
        elif not isinstance(value, str):
            raise RequestError(400, "model is not a text")
        else:
            request.model = value


def read_json(body: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Parse JSON whose objects fit into memory.

    Raises:
        RequestError: If it is not JSON, or too deep or too long.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > _MOST_JSON_VALUES:
        raise RequestError(413, f"the JSON has more than {_MOST_JSON_VALUES:,} values; send images as bytes or base64")
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise RequestError(400, "the JSON is nested too deeply") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RequestError(400, f"the body is not JSON ({' '.join(str(error).split())[:100]})") from error
    except ValueError as error:  # Python converts no text of thousands of digits
        raise RequestError(400, "the JSON has a number of thousands of digits; no field takes one") from error


def _refuse_constant(name: str) -> None:
    raise RequestError(400, f"the body is not JSON ({name} is not a JSON value)")


def decode_base64(text: str, number: int) -> bytes:
    """Decode base64, also after the head of a data URL.

    Raises:
        RequestError: If it is not base64.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:  # ValueError: a letter that is not ASCII
        raise RequestError(400, f"image {number} is not base64 ({error})") from error


def read_form(body: bytes, content_type: str, max_images: int) -> list[tuple[str, str, bytes]]:
    """Read the parts of a form, in memory.

    Args:
        body: The whole body.
        content_type: The header, with the boundary.
        max_images: Most parts with a file.

    Returns:
        Name, file name and content of each part.

    Raises:
        RequestError: If it is malformed, not complete, or has too many parts.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not boundary:
        raise RequestError(400, "the content type of the form has no boundary; let the HTTP library write that header")
    form = _Form(max_images + _MOST_FIELDS)
    try:
        parser = MultipartParser(boundary, form.callbacks)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise RequestError(400, f"the form is malformed ({' '.join(str(error).split())[:100]})") from error
    if not form.is_complete:
        raise RequestError(400, "the form is not complete: its last boundary is missing")
    return form.parts


class _Form:
    """Collects the parts of a form, as the parser finds them."""

    def __init__(self, most_parts: int) -> None:
        self.parts: list[tuple[str, str, bytes]] = []
        self.is_complete = False
        self._most_parts = most_parts
        self._slices: list[bytes] = []
        self._name, self._value, self._disposition = b"", b"", b""
        self.callbacks: Any = {
            "on_part_begin": self._begin,
            "on_part_data": lambda data, start, end: self._slices.append(data[start:end]),
            "on_part_end": self._end,
            "on_header_field": self._add_name,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        if len(self.parts) >= self._most_parts:
            raise RequestError(413, f"the form has more than {self._most_parts:,} parts; send fewer images per request")
        self._slices, self._disposition = [], b""

    def _add_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def _end(self) -> None:
        options = parse_options_header(self._disposition)[1]
        name, file = (options.get(key, b"").decode("utf-8", "replace") for key in (b"name", b"filename"))
        if not name:
            raise RequestError(400, "a part of the form has no name; name the pictures images")
        self.parts.append((name, file[-200:], b"".join(self._slices)))

    def _finish(self) -> None:
        self.is_complete = True
