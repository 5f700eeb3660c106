"""From the bytes of a file to the pixels that a backbone takes.

One function serves embedding, fine-tuning and prediction, so that all of them see the
same pixels. The header is read first, and an image that is too large
is never decoded.

Files are opened through the classes of Pillow's plugins instead of `Image.open`.
`Image.open` warns above 89 megapixels, and nothing silences that warning without
touching the filters of the whole process: `warnings.catch_warnings` is not safe
in threads before Python 3.14, a filter set at import changes other people's code,
and so does `Image.MAX_IMAGE_PIXELS`. The classes do not warn, the limit here is
our own, and the short table of formats keeps out those that start other programs
(EPS) or that often load truncated files without an error.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base
from PIL.ImageFile import ImageFile

from featx.errors import ImageError
from featx.items.formats import FORMATS, Format, name_foreign, recognise
from featx.items.resizing import Box, check_decoder, decode_jpeg, resize
from featx.items.samples import Rescaling, has_deep_colour, has_open_range, load_low_bytes, plan_rescaling
from featx.specs import ImageSpec

#: Images with more pixels are refused. The limit is that of Pillow's own `Image.open`, and
#: above the largest camera sensors on sale (151 megapixels).
MAX_PIXELS = 178_956_970

#: Images that need more memory to decode are refused too. Otherwise one file of 34 bytes (a WebP
#: of 16,383 x 16,383 px) can take 4 GB; with the limit, a process of featx with one image stays
#: below 1 GiB. Every PNG and plain JPEG of `MAX_PIXELS` without alpha fits.
MAX_DECODING_BYTES = 850 * 2**20

#: Memory that decoders need in addition to the decoded pixels, in bytes for each pixel and band;
#: measured at 17 and 25 megapixels with Pillow 12.3, and rounded up.
_WORKING_BYTES = {"WebP": 4.2, "JPEG 2000": 5.0, "AVIF": 2.0, "DICOM": 10.0}

#: The same for a progressive JPEG, whose coefficients are all in memory at once.
_COEFFICIENT_BYTES = 2.0

#: Tags of a TIFF with the width and length of its tiles (TIFF 6.0, section 15).
_TILE_SIZE = (322, 323)

#: Values of the EXIF orientation that swap width and height (EXIF 2.32, section 4.6.5.1, tag 274).
SWAPPING = frozenset({5, 6, 7, 8})

# Operations that turn pixels upright, by their EXIF orientation (EXIF 2.32, section 4.6.5.1, tag 274).
_UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels.swapaxes(0, 1)[::-1, ::-1],
    8: lambda pixels: np.rot90(pixels, 1),
}

# Transparent images are mostly cut-outs and line art, which people see on white pages. On black, dark
# lines would vanish; without alpha, transparent pixels would show colours that nobody ever saw.
_PAPER = 255

# Images are converted to RGB in strips of this many pixels, so that a large one is in memory twice at most.
_STRIP_PX = 2**20


@dataclass(frozen=True, slots=True)
class Probe:
    """The header of an image.

    Attributes:
        format: Its format, recognised by content; the file's name does not matter.
        mode: Pillow's name for the layout of its pixels, such as `RGB` or `I;16`.
        width_px: Columns as displayed, that is after the EXIF orientation.
        height_px: Rows as displayed.
        orientation: EXIF orientation, 1 to 8, still to be applied to decoded pixels; 1 changes nothing.
    """

    format: str
    mode: str
    width_px: int
    height_px: int
    orientation: int


def probe(data: bytes) -> Probe:
    """Read the header of an image without decoding a pixel.

    Args:
        data: The bytes of the whole file.

    Returns:
        Format, mode, displayed size and orientation.

    Raises:
        ImageError: If this is not an image of a known format, or it is too large.
    """
    return open_image(data)[1]


def open_image(data: bytes) -> tuple[ImageFile, Probe]:
    """Open an image without decoding it.

    Args:
        data: The bytes of the whole file.

    Returns:
        The image, whose pixels are not loaded yet, and its header.

    Raises:
        ImageError: If this is not an image of a known format, or it is too large.
    """
    row = _recognise(data)
    name, plugin = row.name, _load_plugin(row)
    with _translate_errors(name):
        image = plugin(BytesIO(data), "")
        width, height = image.size
    if width * height > MAX_PIXELS:
        msg = f"{width}x{height} px are more than the {MAX_PIXELS:,} that one image may have; make it smaller first"
        raise ImageError(msg)
    with _translate_errors(name):
        needed = _estimate_bytes(image, name) + len(data)
    if needed > MAX_DECODING_BYTES:
        msg = (
            f"{width}x{height} px of {name} take {needed / 2**20:,.0f} MiB of memory to decode, and one image may take "
            f"{MAX_DECODING_BYTES / 2**20:.0f}; make it smaller, or save it as JPEG"
        )
        raise ImageError(msg)
    # Pillow rotates a TIFF while loading it, and reports the displayed size from the start.
    orientation = 1 if name == "TIFF" else _read_orientation(image, name, data)
    if orientation in SWAPPING:
        width, height = height, width
    return image, Probe(name, image.mode, width, height, orientation)


def _estimate_bytes(image: ImageFile, name: str) -> float:
    """Estimate the memory for decoding and converting to RGB, without that of the file."""
    n_pixels = max(image.width * image.height, _count_tile_pixels(image))
    stored = 2 if image.mode.startswith("I;16") else 1 if image.mode in {"1", "L", "P"} else 4
    is_grey = image.mode in {"1", "L"} or image.mode.startswith("I")
    is_deep = has_deep_colour(image)  # its low bytes are decoded too
    converted = 0 if image.mode in {"L", "RGB"} and not is_deep else 1 if is_grey else 4
    stored += 4 if is_deep else 0
    working = _COEFFICIENT_BYTES if "progressive" in image.info else _WORKING_BYTES.get(name, 0.0)
    return n_pixels * (stored + converted + working * len(image.getbands()))


def _count_tile_pixels(image: ImageFile) -> int:
    """Count the pixels of one tile of a TIFF; a tile is decoded whole, even if the image is smaller."""
    tags = getattr(image, "tag_v2", {})
    width, height = (tags.get(tag) for tag in _TILE_SIZE)
    return width * height if isinstance(width, int) and isinstance(height, int) else 0


@contextmanager
def _translate_errors(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises inside into an `ImageError` with a short reason.

    Args:
        name: The format, for the message.

    Raises:
        ImageError: Instead of any other exception.
    """
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        msg = f"not enough memory to decode this {name}; use fewer workers"
        raise ImageError(msg) from error
    except Exception as error:  # on hostile bytes Pillow's parsers raise nearly every built-in type
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        msg = f"truncated or damaged {name} ({reason}); export or download it again"
        raise ImageError(msg) from error


def _recognise(data: bytes) -> Format:
    if not data:
        msg = "the file is empty; download or copy it again"
        raise ImageError(msg)
    if found := recognise(data):
        return found
    if foreign := name_foreign(data):
        msg = f"not an image that featx reads, but {foreign[0]}; {foreign[1]}"
        raise ImageError(msg)
    known = ", ".join(row.name + (f" (with {row.package})" if row.package else "") for row in FORMATS)
    msg = f"not an image: it starts with {data[:16]!r}; known formats are {known}"
    raise ImageError(msg)


def _load_plugin(row: Format) -> type[ImageFile]:
    module, _, name = row.plugin.partition(":")
    try:
        return cast("type[ImageFile]", getattr(import_module(module), name))
    except ImportError as error:
        msg = f"{row.name} images need another package: pip install '{row.package or 'pillow'}'"
        raise ImageError(msg) from error


def _read_orientation(image: ImageFile, name: str, data: bytes) -> int:
    if name == "PNG" and "exif" not in image.info and (exif := _find_exif_chunk(data)):
        image.info["exif"] = exif
    try:
        # The base class's method, since that of PngImageFile decodes all pixels to reach the end of the file.
        orientation = Image.Image.getexif(image).get(Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - broken EXIF raises as many types as broken images do, and the image is still usable
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def _find_exif_chunk(data: bytes) -> bytes:
    """Return the EXIF chunk of a PNG, which Pillow misses after the pixels; empty without such a chunk."""
    at = len(b"\x89PNG\r\n\x1a\n")
    while kind := data[at + 4 : at + 8]:
        length = int.from_bytes(data[at : at + 4], "big")
        if kind == b"eXIf":
            return data[at + 8 : at + 8 + length]
        at += length + 12
    return b""


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """An image, ready for a backbone.

    Attributes:
        pixels: uint8 RGB `(height, width, 3)`, C-contiguous, of the size in the spec; for an item that is
            embedded with views, `(n_views, height, width, 3)`.
        width_px: Columns of the original as displayed, before the resize.
        height_px: Rows of the original as displayed, before the resize.
        peak: The largest sample, without alpha, of a file that stores 16 bits and may use fewer; 0 for other files.
        ignored: Number of bands that are neither colour nor alpha, and have no effect on the pixels.
        applied: What turned the samples of a DICOM file into grey levels; empty for other files.
    """

    pixels: NDArray[np.uint8]
    width_px: int
    height_px: int
    peak: int = 0
    ignored: int = 0
    applied: str = ""


def decode(data: bytes, spec: ImageSpec) -> Decoded:
    """Decode an image to upright RGB pixels of the size in the spec.

    Only the first frame is used. Samples of 16 bits are rescaled to 8, transparent
    pixels are put on white, the EXIF orientation is applied; colour profiles, gamma and
    the bands of a TIFF that are neither colour nor alpha are ignored.

    Args:
        data: The bytes of the whole file, in any format of `featx.items.formats`.
        spec: Size, resize, filter and decoder.

    Returns:
        The pixels and the size that the original is displayed at.

    Raises:
        ImageError: If this is not a complete image of a known format, is too large, or has
            pixels without an agreed range (float, 32-bit or signed integers).
        MissingExtraError: If the package of the decoder's resizer is not installed.
    """
    check_decoder(spec.decoder)
    image, header = open_image(data)
    _refuse_unbounded(header)
    size = (spec.width, spec.height)
    stored_size = size[::-1] if header.orientation in SWAPPING else size
    with _translate_errors(header.format):
        _refuse_endless(image, header, data)
        rescaling = plan_rescaling(image, spec)
        low = load_low_bytes(open_image(data)[0]) if has_deep_colour(image) else None
        pixels, extent = _load(image, data, stored_size, spec)
        fitted, box = _fit(extent, stored_size, spec)
        small = resize(_flatten(image, low, rescaling) if pixels is None else pixels, fitted, spec, box)
        # Rotating the small result instead of the large original is faster, and differs only by rounding.
        if header.orientation in _UPRIGHT:
            small = _UPRIGHT[header.orientation](small)
        peak = rescaling.peak if has_open_range(image) else 0
        ignored, applied = getattr(image, "ignored", 0), getattr(image, "applied", "")
        return Decoded(_pad(small, spec), header.width_px, header.height_px, peak, ignored, applied)


def _pad(pixels: NDArray[np.uint8], spec: ImageSpec) -> NDArray[np.uint8]:
    """Return pixels as RGB, in the middle of an image of the size in the spec."""
    height, width, n_channels = pixels.shape
    if (height, width, n_channels) == (spec.height, spec.width, 3):
        return np.array(pixels, order="C")
    canvas = np.zeros((spec.height, spec.width, 3), np.uint8)
    top, left = (spec.height - height) // 2, (spec.width - width) // 2
    canvas[top : top + height, left : left + width] = pixels
    return canvas


def _refuse_unbounded(header: Probe) -> None:
    """Refuse pixels whose black and white are not defined.

    Guessing them for each image would give different numbers for the same scene.
    """
    if header.mode == "F" or (header.mode == "I" and header.format != "PNM"):
        kind = "float samples" if header.mode == "F" else "samples of 32 bits"
        msg = f"a {header.format} with {kind}, which featx does not read; convert it to 8 or 16 bits"
        raise ImageError(msg)


def _refuse_endless(image: ImageFile, header: Probe, data: bytes) -> None:
    """Refuse a JPEG without its end marker, which an interrupted copy into a preallocated file leaves.

    libjpeg reads the zeros that fill such a file as grey or smeared pixels, without an error.
    """
    if header.format == "JPEG" and image.fp is not None and data.rfind(b"\xff\xd9", image.fp.tell()) < 0:
        msg = "its end is missing"
        raise EOFError(msg)


def _load(
    image: ImageFile, data: bytes, size: tuple[int, int], spec: ImageSpec
) -> tuple[NDArray[np.uint8] | None, tuple[float, float]]:
    """Decode the pixels, a JPEG at a reduced scale if the spec allows it.

    libjpeg decodes at 1/2, 1/4 or 1/8 by leaving out high frequencies. At least twice the wanted size
    remains for the resize, so only images of four times the wanted size or more are affected.

    Returns:
        The pixels, or None if the image has them; width and height of the image in decoded pixels, with a fraction
        where the last pixel extends past the edge.
    """
    drafted, whole = None, image.size
    # A HEIC would be drafted as the small picture that the camera put beside it, which differs.
    if spec.decoder.endswith("-scaled") and image.format == "JPEG":
        (width, height), _ = _fit(image.size, size, spec)
        drafted = image.draft(None, (math.ceil(2 * width / spec.crop), math.ceil(2 * height / spec.crop)))
    extent = drafted[1][2:] if drafted else whole
    pixels = decode_jpeg(image, data, round(whole[0] / extent[0])) if image.format == "JPEG" else None
    if pixels is None:
        image.load()
        return None, extent if drafted else image.size
    return pixels, extent


def _fit(extent: tuple[float, float], size: tuple[int, int], spec: ImageSpec) -> tuple[tuple[int, int], Box]:
    """Return the size to resize to, as (width, height), and the box to take, as (left, top, right, bottom).

    Resizing a box takes memory for the result alone. Resizing the shorter side first and cropping then
    would enlarge an image of 1 x 65,500 px to 224 x 14,672,000.
    """
    width, height = extent
    whole = (0.0, 0.0, width, height)
    if spec.resize == "stretch":
        return size, whole
    if spec.resize == "pad":
        scale = min(size[0] / width, size[1] / height)
        return (max(1, round(width * scale)), max(1, round(height * scale))), whole
    scale = max(size[0] / width, size[1] / height) / spec.crop
    kept_width, kept_height = min(width, size[0] / scale), min(height, size[1] / scale)
    left, top = (width - kept_width) / 2, (height - kept_height) / 2
    return size, (left, top, (width + kept_width) / 2, (height + kept_height) / 2)


def find_view(width_px: int, height_px: int, spec: ImageSpec) -> Box:
    """Find which part of an image is what a network takes, in shares of the image's width and height.

    Returns:
        Left, top, width and height. A padded image is taken with its borders, which are outside 0 to 1.
    """
    (width, height), (left, top, right, bottom) = _fit((width_px, height_px), (spec.width, spec.height), spec)
    across, down = (right - left) / width, (bottom - top) / height
    left, top = left - (spec.width - width) // 2 * across, top - (spec.height - height) // 2 * down
    return left / width_px, top / height_px, spec.width * across / width_px, spec.height * down / height_px


def _flatten(image: Image.Image, low: Image.Image | None, rescaling: Rescaling) -> Image.Image:
    """Convert an image of any mode to L or RGB.

    Args:
        image: The image; the high bytes of its samples if `low` is not None.
        low: The low bytes of samples of 16 bits; None if there are none.
        rescaling: How samples of more than 8 bits become 8 bits.
    """
    if image.mode in {"L", "RGB"} and low is None and not image.has_transparency_data:
        return image
    width, height = image.size
    flat: Image.Image | None = None
    step = max(1, _STRIP_PX // width)
    for top in range(0, height, step):
        box = (0, top, width, min(top + step, height))
        strip = _flatten_strip(image.crop(box), low.crop(box) if low else None, rescaling)
        flat = flat or Image.new(strip.mode, image.size)
        flat.paste(strip, (0, top))
    return flat or image


def _flatten_strip(image: Image.Image, low: Image.Image | None, rescaling: Rescaling) -> Image.Image:
    if image.mode.startswith("I"):
        return rescaling.rescale_grey(image)
    image = rescaling.unmultiply(rescaling.rescale_colour(image, low) if low else image)
    if image.mode == "La":
        image = image.convert("LA")  # the only mode to which Pillow converts premultiplied grey
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGB", image.size, (_PAPER,) * 3)
        paper.paste(image, mask=image)
        return paper
    return image.convert("L" if image.mode == "1" else "RGB")
