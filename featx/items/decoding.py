"""From the bytes of a file to the pixels that a backbone takes.

One function serves embedding, fine-tuning, prediction and the server, so that no
two of them can see an image differently.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base
from PIL.Image import Resampling, Transpose
from PIL.ImageFile import ImageFile

from featx.errors import ImageError
from featx.items.probing import SWAPPING, Probe, open_image, translate_errors
from featx.specs import ImageSpec

_FILTERS = {
    "bilinear": Resampling.BILINEAR,
    "bicubic": Resampling.BICUBIC,
    "lanczos": Resampling.LANCZOS,
    "nearest": Resampling.NEAREST,
}

# What makes an image upright, by its EXIF orientation (EXIF 2.32, section 4.6.5.1, tag 274).
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}

# Transparent images are mostly cut-outs and line art, seen by people on white pages. On black, dark
# lines would vanish; without their alpha, transparent pixels would show colours that nobody ever saw.
_PAPER = 255

# Images are brought to RGB in strips of so many pixels: a large one is in memory twice at most.
_STRIP_PX = 2**20

_Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """An image, ready for a backbone.

    Attributes:
        pixels: uint8 RGB `(height, width, 3)`, C-contiguous, of the size in the spec; for an item that is
            embedded with views, `(n_views, height, width, 3)`.
        width_px: Columns of the original as displayed, before the resize.
        height_px: Rows of the original as displayed, before the resize.
    """

    pixels: NDArray[np.uint8]
    width_px: int
    height_px: int


def decode(data: bytes, spec: ImageSpec) -> Decoded:
    """Decode an image to upright RGB pixels of the size in the spec.

    The first frame counts. Grey values of 16 bits are rescaled to 8, transparency is
    laid on white, the EXIF orientation is applied; colour profiles are not.

    Args:
        data: The bytes of the whole file, in any format that `probe` knows.
        spec: Size, resize, filter and decoder.

    Returns:
        The pixels and the size that the original is displayed at.

    Raises:
        ImageError: If this is no whole image of a known format, is too large, or has
            pixels without an agreed range (float, 32-bit or signed integers).
    """
    image, header = open_image(data)
    _refuse_unbounded(header)
    size = (spec.width, spec.height)
    stored_size = size[::-1] if header.orientation in SWAPPING else size
    with translate_errors(header.format):
        _refuse_endless(image, header, data)
        extent = _load(image, stored_size, spec)
        fitted, box = _fit(extent, stored_size, spec.resize)
        # Turning the small result instead of the large original is faster, and differs by rounding alone.
        small = _flatten(image).resize(fitted, _FILTERS[spec.interpolation], box=box)
        if header.orientation in _UPRIGHT:
            small = small.transpose(_UPRIGHT[header.orientation])
        canvas = Image.new("RGB", size)
        canvas.paste(small, ((size[0] - small.width) // 2, (size[1] - small.height) // 2))
        return Decoded(np.array(canvas), header.width_px, header.height_px)


def _refuse_unbounded(header: Probe) -> None:
    """Refuse pixels whose black and white are nowhere stated.

    Guessing them for each image would give the same scene other numbers.
    """
    if header.mode == "F" or (header.mode == "I" and header.format != "PNM"):
        kind = "float" if header.mode == "F" else "32-bit or signed"
        msg = f"{header.format} with {kind} pixels, which have no agreed black and white; save it with 8 or 16 bits"
        raise ImageError(msg)


def _refuse_endless(image: ImageFile, header: Probe, data: bytes) -> None:
    """Refuse a JPEG without its end marker, as an interrupted copy into a preallocated file leaves it.

    libjpeg reads the zeros that fill such a file as grey or smeared pixels, and says nothing.
    """
    if header.format == "JPEG" and image.fp is not None and data.rfind(b"\xff\xd9", image.fp.tell()) < 0:
        msg = "its end is missing"
        raise EOFError(msg)


def _load(image: ImageFile, size: tuple[int, int], spec: ImageSpec) -> tuple[float, float]:
    """Decode the pixels, a JPEG at a reduced scale if the spec allows it.

    libjpeg decodes at 1/2, 1/4 or 1/8 by leaving out high frequencies, so only images of four times the
    wanted size and more are affected; at least twice the wanted size is left for the resize.

    Returns:
        Width and height of the image in decoded pixels; a fraction where the last one reaches past the edge.
    """
    drafted = None
    if spec.decoder == "pillow-scaled":
        (width, height), _ = _fit(image.size, size, spec.resize)
        drafted = image.draft(None, (2 * width, 2 * height))
    image.load()
    return drafted[1][2:] if drafted else image.size


def _fit(extent: tuple[float, float], size: tuple[int, int], resize: str) -> tuple[tuple[int, int], _Box]:
    """Say which box of an image becomes how many pixels; all as width, height or left, top, right, bottom.

    One resize of a box costs memory for its result alone; cropping after a resize to the shorter side
    would blow up an image of 1 x 65,500 px to 224 x 14,672,000.
    """
    width, height = extent
    whole = (0.0, 0.0, width, height)
    if resize == "stretch":
        return size, whole
    if resize == "pad":
        scale = min(size[0] / width, size[1] / height)
        return (max(1, round(width * scale)), max(1, round(height * scale))), whole
    scale = max(size[0] / width, size[1] / height)
    kept_width, kept_height = min(width, size[0] / scale), min(height, size[1] / scale)
    left, top = (width - kept_width) / 2, (height - kept_height) / 2
    return size, (left, top, (width + kept_width) / 2, (height + kept_height) / 2)


def _flatten(image: Image.Image) -> Image.Image:
    """Return the image in mode L or RGB, whatever its mode was."""
    if image.mode in {"L", "RGB"} and not image.has_transparency_data:
        return image
    width, height = image.size
    convert = _make_rescaling(image) if image.mode.startswith("I") else _flatten_strip
    flat: Image.Image | None = None
    step = max(1, _STRIP_PX // width)
    for top in range(0, height, step):
        strip = convert(image.crop((0, top, width, min(top + step, height))))
        flat = flat or Image.new(strip.mode, image.size)
        flat.paste(strip, (0, top))
    return flat or image


def _flatten_strip(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")  # Pillow converts premultiplied grey to nothing else
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGB", image.size, (_PAPER,) * 3)
        paper.paste(image, mask=image)
        return paper
    return image.convert("L" if image.mode == "1" else "RGB")


def _make_rescaling(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Make the function that brings grey values of 16 bits to 8; Pillow's own conversion turns all above 255 white.

    Of TIFFs, Pillow neither rescales 12-bit values nor inverts those of 16 bits that count from white.
    """
    tags = getattr(image, "tag_v2", {})
    largest = 2 ** tags.get(Base.BitsPerSample, (16,))[0] - 1
    counts_from_white = tags.get(Base.PhotometricInterpretation) == 0

    def rescale(strip: Image.Image) -> Image.Image:
        values = np.asarray(strip)
        grey = np.rint(values * np.float32(255 / largest)).astype(np.uint8)
        if counts_from_white:
            grey = 255 - grey
        if "transparency" in strip.info:
            grey[values == strip.info["transparency"]] = _PAPER
        return Image.fromarray(grey)

    return rescale
