"""Samples of 12 and 16 bits, rescaled to 8.

Pillow has no images of 16-bit colour: it keeps the high byte of each sample. The low byte comes from decoding the
file a second time, with the other byte order.
"""

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from featx.errors import ImageError
from featx.specs import ImageSpec

_BITS = 16
_TIFF_BITS = 12
_WHITE = 255
_COLOURS = 3

_OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}

#: Pillow's only unpacker for 16-bit grey with alpha keeps the high bytes. As RGBA, its four bytes become four bands.
_GREY_ALPHA, _FOUR_BYTES = "LA;16B", "RGBA"

#: Modes of the same bands with colours multiplied by alpha.
_PREMULTIPLIED = {"LA": "La", "RGBA": "RGBa"}


def has_deep_colour(image: ImageFile) -> bool:
    """Return whether an image that is not loaded yet has colour samples of 16 bits whose low bytes can be read."""
    # Where bands are separate, the decoder of libtiff ignores the order that it is asked for.
    is_fixed = getattr(image, "is_separate", False) and any(tile.codec_name == "libtiff" for tile in image.tile)
    return bool(image.tile) and not is_fixed and all(_swap(tile.args) for tile in image.tile)


def load_low_bytes(image: ImageFile) -> Image.Image:
    """Decode the low bytes of the samples of an image that has deep colour and is not loaded yet."""
    image.tile = [tile._replace(args=_swap(tile.args)) for tile in image.tile]
    is_grey = image.tile[0].args == (_FOUR_BYTES,)
    image.load()
    if not is_grey:
        return image
    _, grey, _, alpha = image.split()
    return Image.merge("RGBA", (grey, grey, grey, alpha))


def _swap(args: Any) -> tuple[Any, ...]:  # noqa: ANN401 - each of Pillow's decoders has arguments of its own
    raw, *rest = args if isinstance(args, tuple) else (args,)
    name, _, order = str(raw).partition(";16")
    if raw == _GREY_ALPHA:
        return (_FOUR_BYTES, *rest)
    if name in {"RGB", "RGBA", "RGBX", "CMYK", *"RGBA"} and order in _OTHER_ORDER:
        return (f"{name};16{_OTHER_ORDER[order]}", *rest)
    return ()


@dataclass(slots=True)
class Rescaling:
    """The rescaling of one image's samples to 8 bits, strip by strip.

    Attributes:
        largest: The sample that becomes 255.
        counts_from_white: Whether 0 is white.
        is_premultiplied: Whether colours are stored multiplied by alpha.
        key: The sample, or one for each band, that is transparent; None if there is none.
        peak: The largest sample of grey or colour so far.
    """

    largest: int
    counts_from_white: bool
    is_premultiplied: bool
    key: int | tuple[int, ...] | None
    peak: int = 0

    def rescale_grey(self, strip: Image.Image) -> Image.Image:
        """Return a strip of an image of 12 or 16 bits in mode L, on white where it is transparent."""
        values = np.asarray(strip)
        self._note(values)
        grey = np.rint(values * np.float32(_WHITE / self.largest)).astype(np.uint8)
        if self.counts_from_white:
            grey = _WHITE - grey
        if self.key is not None:
            grey[values == self.key] = _WHITE
        return Image.fromarray(grey)

    def rescale_colour(self, high: Image.Image, low: Image.Image) -> Image.Image:
        """Return a strip of an image of 16 bits in its mode, or in RGBA if it has a transparent colour.

        Args:
            high: The high bytes.
            low: The low bytes.
        """
        values = np.asarray(high).astype(np.uint16) << 8 | np.asarray(low)
        n_colours = _COLOURS if high.mode != "CMYK" else values.shape[-1]
        self._note(values[..., :n_colours])
        scales = np.full(values.shape[-1], _WHITE / (2**_BITS - 1), np.float32)
        scales[:n_colours] = _WHITE / self.largest
        strip = Image.frombytes(high.mode, high.size, np.rint(values * scales).astype(np.uint8).tobytes())
        if self.key is not None:
            is_opaque = (values != self.key).any(axis=-1)
            strip.putalpha(Image.fromarray(np.where(is_opaque, _WHITE, 0).astype(np.uint8)))
        return strip

    def _note(self, values: NDArray[np.generic]) -> None:
        self.peak = max(self.peak, int(values.max()))
        if self.peak > self.largest:
            msg = (
                f"its largest sample is {self.peak:,}, and {self.largest.bit_length()} bits hold at most "
                f"{self.largest:,}; embed with more --bits, or without"
            )
            raise ImageError(msg)

    def unmultiply(self, strip: Image.Image) -> Image.Image:
        """Return a strip whose colours are not multiplied by alpha."""
        if not self.is_premultiplied:
            return strip
        return Image.frombytes(_PREMULTIPLIED[strip.mode], strip.size, strip.tobytes()).convert(strip.mode)


def plan_rescaling(image: ImageFile, spec: ImageSpec) -> Rescaling:
    """Return the rescaling of an image that is opened and not loaded yet.

    Raises:
        ImageError: If the spec names the used bits, and the low bytes of this image cannot be read.
    """
    used = spec.bits if spec.bits and has_open_range(image) else _BITS
    if used < _BITS and not (image.mode.startswith("I;16") or has_deep_colour(image)):
        msg = "a TIFF with separate, compressed bands of 16 bits cannot be read with --bits; save it uncompressed"
        raise ImageError(msg)
    stored = getattr(image, "bits", _BITS)
    return Rescaling(
        largest=2 ** (stored if stored == _TIFF_BITS else used) - 1,
        counts_from_white=getattr(image, "counts_from_white", False),
        is_premultiplied=getattr(image, "is_premultiplied", False),
        key=image.info.get("transparency"),
    )


def has_open_range(image: ImageFile) -> bool:
    """Return whether an image stores 16 bits a sample and may use fewer.

    Only PNG and TIFF leave this open; PNM and JPEG 2000 record it, and Pillow applies it.
    """
    return getattr(image, "bits", 0) == _BITS
