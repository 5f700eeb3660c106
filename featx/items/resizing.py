"""Resizing, and decoding of JPEGs, with SIMD instructions.

The same filters as Pillow's, computed by the crate fast_image_resize. Its sums are in integers, so every processor
gives the same pixels; those of Pillow differ by one grey level in about every tenth value, since both round twice.
Networks amplify that to 1 to 4 % of their features, so each of the two is a recipe of its own.
"""

import functools
import importlib.util
import math
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Resampling
from PIL.ImageFile import ImageFile

from featx.errors import MissingExtraError
from featx.specs import DECODERS, DEFAULT_DECODER, ImageSpec

#: What the names of the decoders that resize with SIMD instructions start with.
SIMD = "simd"

Box = tuple[float, float, float, float]

_FILTERS = {
    "bilinear": Resampling.BILINEAR,
    "bicubic": Resampling.BICUBIC,
    "lanczos": Resampling.LANCZOS,
    "nearest": Resampling.NEAREST,
}

#: The same filters in fast_image_resize; bicubic with a = -0.5, like Pillow's (Keys 1981), is called Catmull-Rom.
_SIMD_FILTERS = {"bilinear": "bilinear", "bicubic": "catmull_rom", "lanczos": "lanczos3"}

#: Larger images are resized where they are, since the resizer copies what it is given.
_MOST_COPIED_PX = 2**24

#: Whether the package is installed.
_HAS_FAST_JPEG = importlib.util.find_spec("simplejpeg") is not None

_local = threading.local()


def check_decoder(decoder: str) -> None:
    """Check that this machine has what a decoder needs.

    Raises:
        MissingExtraError: If the package of its resizer is not installed.
    """
    if decoder.startswith(SIMD) and DECODERS[0] != DEFAULT_DECODER:
        instead = decoder.replace(SIMD, "pillow")
        msg = (
            f"the decoder {decoder} needs another package: pip install cykooz-resizer (on Linux on ARM it is compiled, "
            f"which needs Rust); or embed again with --decoder {instead}, whose features differ a little"
        )
        raise MissingExtraError(msg)


def decode_jpeg(image: ImageFile, data: bytes, scale: int) -> NDArray[np.uint8] | None:
    """Decode a JPEG to the pixels that Pillow would decode.

    Args:
        image: The image, opened and not loaded yet; drafted, if the scale is not 1.
        data: The bytes of its file.
        scale: The divisor of its size, 1, 2, 4 or 8.

    Returns:
        uint8 `(height, width, 3)`, or `(height, width, 1)` for grey; None if only Pillow reads such a file, or
        tells what is wrong with it.
    """
    if not _HAS_FAST_JPEG or image.mode not in {"L", "RGB"} or image.width * image.height > _MOST_COPIED_PX:
        return None
    import simplejpeg

    space = "GRAY" if image.mode == "L" else "RGB"
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, space, min_height=image.height, min_width=image.width, min_factor=scale
        )
    except ValueError:  # what libjpeg warns of, Pillow accepts
        return None
    return pixels if pixels.shape[:2] == (image.height, image.width) else None


def resize(
    image: Image.Image | NDArray[np.uint8], size: tuple[int, int], spec: ImageSpec, box: Box
) -> NDArray[np.uint8]:
    """Resize a part of an image, antialiased.

    Args:
        image: In mode L or RGB; or uint8 `(height, width, 1 or 3)`.
        size: Width and height of the result.
        spec: Its filter and decoder are used.
        box: The part, as (left, top, right, bottom).

    Returns:
        uint8 `(height, width, 1 or 3)`.
    """
    if spec.interpolation not in _SIMD_FILTERS or not spec.decoder.startswith("simd"):
        whole = (
            image
            if isinstance(image, Image.Image)
            else Image.fromarray(image.squeeze(axis=2) if image.shape[2] == 1 else image)
        )
        return _unwrap(whole.resize(size, _FILTERS[spec.interpolation], box=box))
    import cykooz_resizer

    width, height = image.size if isinstance(image, Image.Image) else image.shape[1::-1]
    (left, right), (top, bottom) = _snap(box[0], box[2], width, size[0]), _snap(box[1], box[3], height, size[1])
    x, y, past_x, past_y = math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)
    options = _make_options(spec.interpolation, (left - x, top - y, right - x, bottom - y))
    if isinstance(image, Image.Image):
        part = image if (x, y, past_x, past_y) == (0, 0, width, height) else image.crop((x, y, past_x, past_y))
        if part.width * part.height > _MOST_COPIED_PX:
            target = Image.new(part.mode, size)
            _find_resizer().resize_pil(part, target, options)
            return _unwrap(target)
        mode, pixels = part.mode, part.tobytes()
    else:
        mode, pixels = "L" if image.shape[2] == 1 else "RGB", image[y:past_y, x:past_x].tobytes()
    kind = cykooz_resizer.PixelType.U8 if mode == "L" else cykooz_resizer.PixelType.U8x3
    source = cykooz_resizer.ImageData(past_x - x, past_y - y, kind, pixels)
    result = cykooz_resizer.ImageData(*size, kind)
    _find_resizer().resize(source, result, options)
    return np.frombuffer(result.get_buffer(), np.uint8).reshape(size[1], size[0], -1)


def _snap(start: float, end: float, length: int, target: int) -> tuple[float, float]:
    """Move the start and end of a box to whole pixels, unless it becomes smaller by half or more.

    Version 4 of the resizer reads outside its buffer for other fractions, and then the process may crash. It looks at
    the first and the last result for the pixels that it needs. Others need pixels further out if the outermost weights
    of these two are zero; two results that are at least two pixels apart do not.
    """
    if end - start >= 2 * target:
        return start, end
    size = max(1, round(end - start))
    first = min(round(start), length - size)
    return first, first + size


def _wrap(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _unwrap(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image).reshape(image.height, image.width, -1)


def _find_resizer() -> Any:  # noqa: ANN401 - the package has no types
    """Return the resizer of this thread, which keeps its buffers."""
    if not hasattr(_local, "resizer"):
        import cykooz_resizer

        _local.resizer = cykooz_resizer.Resizer()
    return _local.resizer


@functools.lru_cache(maxsize=256)
def _make_options(interpolation: str, box: Box) -> Any:  # noqa: ANN401 - as above
    import cykooz_resizer

    left, top, right, bottom = box
    return cykooz_resizer.ResizeOptions(
        cykooz_resizer.ResizeAlg.convolution(cykooz_resizer.FilterType[_SIMD_FILTERS[interpolation]]),
        use_alpha=False,
        crop_box=cykooz_resizer.CropBox(left, top, right - left, bottom - top),
    )
