"""What a file of image bytes is, found out before any pixel is decoded.

Files are opened through the classes of Pillow's plugins instead of `Image.open`.
`Image.open` warns above 89 megapixels, and nothing silences that warning without
touching the filters of the whole process: `warnings.catch_warnings` is not safe
in threads before Python 3.14, a filter set at import changes other people's code,
and so does `Image.MAX_IMAGE_PIXELS`. The classes warn of nothing, the limit here
is our own, and the short list keeps out formats that start other programs (EPS)
or that tell truncated files from whole ones badly.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from typing import cast

from PIL import Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ExifTags import Base
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from featx.errors import ImageError

#: Images with more pixels are refused. It is where Pillow's own `Image.open` gives up, and
#: above the largest camera sensors on sale (151 megapixels).
MAX_PIXELS = 178_956_970

#: So are images that would take more memory to decode, so that one file of 34 bytes (a WebP of
#: 16,383 x 16,383 px) cannot ask for 4 GB of it, and a process of featx with one image stays
#: below 1 GiB. Every image of `MAX_PIXELS` without alpha fits in PNG and plain JPEG.
MAX_DECODING_BYTES = 850 * 2**20

#: What decoders take beyond the decoded pixels, in bytes for each pixel and band; measured at
#: 17 and 25 megapixels with Pillow 12.3, and rounded up.
_WORKING_BYTES = {"WebP": 4.2, "JPEG 2000": 5.0, "AVIF": 2.0}

#: Likewise for a progressive JPEG, whose coefficients are all in memory at once.
_COEFFICIENT_BYTES = 2.0

#: Tags of a TIFF with the width and length of its tiles (TIFF 6.0, section 15).
_TILE_SIZE = (322, 323)

#: Values of the EXIF orientation that swap width and height (EXIF 2.32, section 4.6.5.1, tag 274).
SWAPPING = frozenset({5, 6, 7, 8})

_PLUGINS: dict[str, type[ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "GIF": GifImageFile,
    "WebP": WebPImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "JPEG 2000": Jpeg2KImageFile,
    "AVIF": AvifImageFile,
    "PNM": PpmImageFile,
}

# AVIF and HEIC share a container and, at times, its major brand: the list of compatible brands decides.
_SIGNATURES = tuple(
    (name, re.compile(pattern, re.DOTALL))
    for name, pattern in (
        ("JPEG", rb"\xff\xd8\xff"),
        ("PNG", rb"\x89PNG\r\n\x1a\n"),
        ("GIF", rb"GIF8[79]a"),
        ("WebP", rb"RIFF.{4}WEBP"),
        ("BMP", rb"BM"),
        ("TIFF", rb"II[*+]\0|MM\0[*+]"),
        ("JPEG 2000", rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n"),
        ("AVIF", rb".{4}ftyp(.{4}){0,12}?avi[fs]"),
        ("HEIC", rb".{4}ftyp(.{4}){0,12}?(he[iv][cmsx]|mif1|msf1)"),
        ("PNM", rb"P[1-6f]\s"),
    )
)


@dataclass(frozen=True, slots=True)
class Probe:
    """What the header of an image says.

    Attributes:
        format: Its format by content, whatever its file is called.
        mode: Pillow's name for the layout of its pixels, such as `RGB` or `I;16`.
        width_px: Columns as displayed, that is after the EXIF orientation.
        height_px: Rows as displayed.
        orientation: EXIF orientation, 1 to 8, that decoded pixels still need; 1 is none.
    """

    format: str
    mode: str
    width_px: int
    height_px: int
    orientation: int


def probe(data: bytes) -> Probe:
    """Read the header of an image; no pixel is decoded.

    Args:
        data: The bytes of the whole file.

    Returns:
        Format, mode, displayed size and orientation.

    Raises:
        ImageError: If this is no image of a known format, or it is too large.
    """
    return open_image(data)[1]


def open_image(data: bytes) -> tuple[ImageFile, Probe]:
    """Open an image without decoding it.

    Args:
        data: The bytes of the whole file.

    Returns:
        The image, whose pixels are still to be loaded, and what its header says.

    Raises:
        ImageError: If this is no image of a known format, or it is too large.
    """
    name = _recognise(data)
    plugin = _find_plugin(name)
    with translate_errors(name):
        image = plugin(BytesIO(data), "")
        width, height = image.size
    if width * height > MAX_PIXELS:
        msg = f"{width}x{height} px are more than the {MAX_PIXELS:,} that one image may have; make it smaller first"
        raise ImageError(msg)
    with translate_errors(name):
        needed = _estimate_bytes(image, name) + len(data)
    if needed > MAX_DECODING_BYTES:
        msg = (
            f"{width}x{height} px of {name} take {needed / 2**20:,.0f} MiB of memory to decode, and one image may take "
            f"{MAX_DECODING_BYTES / 2**20:.0f}; make it smaller, or save it as JPEG"
        )
        raise ImageError(msg)
    # Pillow turns a TIFF while it loads, and gives its displayed size from the start.
    orientation = 1 if name == "TIFF" else _read_orientation(image, data)
    if orientation in SWAPPING:
        width, height = height, width
    return image, Probe(name, image.mode, width, height, orientation)


def _estimate_bytes(image: ImageFile, name: str) -> float:
    """Estimate what decoding and converting to RGB take, without the file itself."""
    n_pixels = max(image.width * image.height, _count_tile_pixels(image))
    stored = 2 if image.mode.startswith("I;16") else 1 if image.mode in {"1", "L", "P"} else 4
    is_grey = image.mode in {"1", "L"} or image.mode.startswith("I")
    converted = 0 if image.mode in {"L", "RGB"} else 1 if is_grey else 4
    working = _COEFFICIENT_BYTES if "progressive" in image.info else _WORKING_BYTES.get(name, 0.0)
    return n_pixels * (stored + converted + working * len(image.getbands()))


def _count_tile_pixels(image: ImageFile) -> int:
    """Count the pixels of one tile of a TIFF, which is decoded whole, however small the image is."""
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    width, height = (tags.get(tag) for tag in _TILE_SIZE)
    return width * height if isinstance(width, int) and isinstance(height, int) else 0


@contextmanager
def translate_errors(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises inside into an `ImageError` with a short reason.

    Args:
        name: The format, for the message.

    Raises:
        ImageError: In place of any other exception.
    """
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        msg = f"there is not enough memory to decode this {name}; use fewer workers"
        raise ImageError(msg) from error
    except Exception as error:  # on hostile bytes Pillow's parsers raise nearly every built-in type
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        msg = f"truncated or damaged {name} ({reason}); export or download it again"
        raise ImageError(msg) from error


def _recognise(data: bytes) -> str:
    if not data:
        msg = "the file is empty; download or copy it again"
        raise ImageError(msg)
    for name, pattern in _SIGNATURES:
        if pattern.match(data):
            return name
    msg = f"no image: it starts with {data[:16]!r}; known are {', '.join(_PLUGINS)} and, with pillow-heif, HEIC"
    raise ImageError(msg)


def _find_plugin(name: str) -> type[ImageFile]:
    if name != "HEIC":
        return _PLUGINS[name]
    try:
        return cast("type[ImageFile]", import_module("pillow_heif").HeifImageFile)
    except ImportError as error:
        msg = "HEIC images need another package: pip install pillow-heif"
        raise ImageError(msg) from error


def _read_orientation(image: ImageFile, data: bytes) -> int:
    if isinstance(image, PngImageFile) and "exif" not in image.info and (exif := _find_exif_chunk(data)):
        image.info["exif"] = exif
    try:
        # The base class's method: the one of PngImageFile decodes all pixels to reach the end of the file.
        orientation = Image.Image.getexif(image).get(Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - broken EXIF raises as many types as broken images do, and the image is still good
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def _find_exif_chunk(data: bytes) -> bytes:
    """Find the EXIF of a PNG that follows its pixels, where Pillow's header does not look; empty if there is none."""
    at = len(b"\x89PNG\r\n\x1a\n")
    while kind := data[at + 4 : at + 8]:
        length = int.from_bytes(data[at : at + 4], "big")
        if kind == b"eXIf":
            return data[at + 8 : at + 8 + length]
        at += length + 12
    return b""
