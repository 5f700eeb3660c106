"""Pictures in memory, as the bytes of an image file: file objects, images of Pillow and arrays.

So all pictures go through the one decoder, and the same pixels give the same numbers.
"""

import io
import os
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base
from PIL.ImageFile import ImageFile

from featx.errors import ImageError
from featx.items.formats import HEAD_BYTES, recognise
from featx.items.manifest import MAX_FILE_BYTES, Item

Picture = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | NDArray[np.uint8]

_CHANNELS = {1, 3, 4}
_ARRAY_RANK = 3

#: Modes that PNG holds; the others are converted, or saved as TIFF, which holds them as they are.
_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
_TIFF_MODES = {"CMYK", "YCbCr", "LAB"}
_CONVERTED = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA", "RGBX": "RGB", "HSV": "RGB"}
_GREY_16 = {"I;16B", "I;16L", "I;16N"}


@dataclass(frozen=True, slots=True)
class PictureItem(Item):
    """An item whose bytes are in memory.

    Attributes:
        data: The bytes of an image file.
        reason: Why there are none; empty if there are.
    """

    data: bytes = field(default=b"", repr=False)
    reason: str = ""


def make_item(name: str, picture: Picture) -> PictureItem:
    """Make an item of a picture that is not a path; one that cannot be read gets a reason."""
    try:
        return PictureItem(name, data=encode_picture(picture))
    except (ImageError, OSError, ValueError) as error:  # ValueError: the file object is closed
        return PictureItem(name, reason=getattr(error, "strerror", None) or str(error))


def is_picture(value: object) -> bool:
    """Return whether a value is one picture that is not a path, and not a collection of pictures."""
    if isinstance(value, np.ndarray):
        return value.ndim in {_ARRAY_RANK - 1, _ARRAY_RANK}
    return isinstance(value, bytes | bytearray | memoryview | Image.Image) or hasattr(value, "read")


def encode_picture(picture: Any) -> bytes:  # noqa: ANN401 - a Picture; what callers pass instead gets an error
    """Return a picture that is not a path as the bytes of an image file.

    Args:
        picture: Bytes; a file object, which is read from its start; an image of Pillow; or a uint8 array of shape
            (height, width), (height, width, 1), (height, width, 3), or (height, width, 4) with alpha.

    Raises:
        ImageError: If it is none of these, or an array of another dtype or shape.
        OSError: If a file object cannot be read.
    """
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, Image.Image):
        return _encode_image(picture)
    if isinstance(picture, np.ndarray):
        return _encode_array(picture)
    if hasattr(picture, "read"):
        return _read_whole(picture)
    msg = f"it is of type {type(picture).__name__}; it must be a path, bytes, a file, a PIL image or a uint8 array"
    raise ImageError(msg)


def _read_whole(file: IO[bytes]) -> bytes:
    if not hasattr(file, "seekable") or file.seekable():
        file.seek(0)  # as Pillow does: a BytesIO that was just written stands at its end
    data = file.read(MAX_FILE_BYTES + 1)
    if not isinstance(data, bytes):
        msg = f"its read() returns {type(data).__name__}; open the file with mode 'rb'"
        raise ImageError(msg)
    if len(data) > MAX_FILE_BYTES:
        msg = f"larger than {MAX_FILE_BYTES:,} bytes"
        raise ImageError(msg)
    return data


def _encode_array(array: NDArray[Any]) -> bytes:
    if array.dtype != np.uint8:
        msg = f"its pixels are {array.dtype}; they must be uint8 from 0 to 255, not scaled{_advise(array)}"
        raise ImageError(msg)
    if array.shape[2:] not in {(), *((channels,) for channels in _CHANNELS)} or array.ndim < 2 or not array.size:  # noqa: PLR2004 - rows and columns
        msg = f"its shape is {array.shape}; it must be (height, width, 3), (height, width, 4) or (height, width)"
        raise ImageError(msg)
    return _encode_image(Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array))


def _advise(array: NDArray[Any]) -> str:
    """Return how to convert an array of another dtype; empty if that depends on what its values mean."""
    if array.dtype == bool:
        return ", such as 255 * image.astype('uint8')"
    if not np.issubdtype(array.dtype, np.floating) or not array.size:
        return ""
    top = float(np.nanmax(array))
    return (
        ": for values of 0 to 1, pass (255 * image).round().astype('uint8')"
        if top <= 1
        else (": pass image.round().clip(0, 255).astype('uint8')")
    )


def _encode_image(image: Image.Image) -> bytes:
    """Encode an image of Pillow without loss; one that is opened and not loaded yet is read from its own file."""
    if original := _read_original(image):
        return original
    image.load()
    orientation = _read_orientation(image)
    if image.mode in {"L", "RGB"} and not image.has_transparency_data and orientation == 1:
        kind = 5 if image.mode == "L" else 6
        return b"P%d %d %d 255\n" % (kind, *image.size) + image.tobytes()
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    if image.mode in _GREY_16 or (image.mode == "I" and image.format == "PPM"):
        image = Image.fromarray(np.asarray(image).astype(np.uint16))  # Pillow's conversion would cut off at 255
    mode = _CONVERTED.get(image.mode, image.mode)
    if mode not in _PNG_MODES | _TIFF_MODES:
        msg = f"its mode is {mode}, which has no defined black and white; convert it to L or RGB"
        raise ImageError(msg)
    if mode != image.mode:
        image = image.convert(mode)
    buffer = io.BytesIO()
    if mode in _TIFF_MODES:
        Image.frombytes(mode, image.size, image.tobytes()).save(buffer, "TIFF", exif=exif)
    else:
        image.save(buffer, "PNG", compress_level=0, exif=exif)
    return buffer.getvalue()


def _read_original(image: Image.Image) -> bytes:
    """Return the bytes of the file of an image that is not loaded yet; empty without such a file."""
    file = image.fp if isinstance(image, ImageFile) and image.tile and image.tell() == 0 else None
    if file is None or not file.seekable():
        return b""
    at = file.tell()
    file.seek(0)
    head = file.read(HEAD_BYTES)
    data = head + file.read(MAX_FILE_BYTES) if recognise(head) else b""
    file.seek(at)
    return data


def _read_orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - broken EXIF raises many types, and the image is still usable
        return 1
    return int(orientation) if orientation in range(1, 9) else 1
