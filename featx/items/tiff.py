"""TIFF files whose layout Pillow reads wrongly or not at all: corrected before their pixels are decoded.

Tags and their values are those of TIFF 6.0 and its supplements.
"""

import math
from typing import Any

from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COLORMAP,
    COMPRESSION,
    COMPRESSION_INFO,
    EXTRASAMPLES,
    FILLORDER,
    IMAGELENGTH,
    IMAGEWIDTH,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    ROWSPERSTRIP,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    STRIPOFFSETS,
    TILELENGTH,
    TILEOFFSETS,
    TILEWIDTH,
    YCBCRSUBSAMPLING,
    TiffImageFile,
)

from featx.errors import ImageError
from featx.wording import agree

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_UNSPECIFIED, _ASSOCIATED, _UNASSOCIATED = 0, 1, 2
_SEPARATE = 2

#: Bands that are colours, for each photometric interpretation; 1 for the others.
_COLOURS = {_RGB: 3, 5: 4, _YCBCR: 3, 8: 3}

#: Sample formats that have another range than unsigned integers.
_KINDS = {2: "signed", 3: "float", 5: "complex", 6: "complex"}
_MOST_BITS = 16

#: Codecs that the libtiff of Pillow lacks, or that it only decodes for other layouts.
_RARE_CODECS = {"webp", "tiff_sgilog", "tiff_sgilog24", "tiff_thunderscan"}
_DEEP_BITS = (12, 16)


class TiffReader(TiffImageFile):
    """A TIFF with the layout that its tags describe.

    Attributes:
        counts_from_white: Whether 0 is white in pixels of 12 or 16 bits, which Pillow does not invert.
        is_premultiplied: Whether the colours of pixels with alpha are stored multiplied by it.
        ignored: Number of bands that are neither colour nor alpha.
        bits: Bits of a sample.
    """

    counts_from_white = False
    is_premultiplied = False
    ignored = 0
    bits = 8

    def _setup(self) -> None:
        self._refuse_ranges()
        self._complete_tags()
        self._check_planes()
        try:
            super()._setup()
        except (KeyError, SyntaxError) as error:
            raise self._make_refusal() from error
        if self._is_raw() and self._n_planes > 1 and self.bits == _MOST_BITS:
            order = "L" if self.tag_v2.prefix == b"II" else "B"
            for at, tile in enumerate(self.tile):
                if isinstance(tile.args, tuple):
                    self.tile[at] = tile._replace(args=(f"{tile.args[0]};16{order}", *tile.args[1:]))

    def load(self) -> Any:  # noqa: ANN401 - the type of Pillow's access to pixels is private
        """Decode the pixels; a codec that this build of libtiff lacks is not damage."""
        try:
            return super().load()
        except OSError as error:
            if self._compression in _RARE_CODECS:
                raise self._make_refusal() from error
            raise

    def _refuse_ranges(self) -> None:
        """Refuse samples whose black and white are not defined: guesses would differ from image to image."""
        self.bits = max(self.tag_v2.get(BITSPERSAMPLE, (1,)))
        kinds = [_KINDS[value] for value in self.tag_v2.get(SAMPLEFORMAT, ()) if value in _KINDS]
        if kinds or self.bits > _MOST_BITS:
            kind = f"{kinds[0]} samples" if kinds else f"samples of {self.bits} bits"
            msg = f"a TIFF with {kind}, which featx does not read; convert it to 8 or 16 bits"
            raise ImageError(msg)

    def _complete_tags(self) -> None:
        """Replace values that Pillow does not know by equal ones that it knows."""
        tags, colours = self.tag_v2, self._colours()
        samples, extra = tags.get(SAMPLESPERPIXEL, 1), tags.get(EXTRASAMPLES, ())
        if SAMPLEFORMAT in tags:
            tags[SAMPLEFORMAT] = (1,)  # 4, undefined, is read as unsigned, as in libtiff
        if self.bits in _DEEP_BITS and tags.get(PHOTOMETRIC_INTERPRETATION, _WHITE_IS_ZERO) == _WHITE_IS_ZERO:
            self.counts_from_white = True
            tags[PHOTOMETRIC_INTERPRETATION] = _BLACK_IS_ZERO
        if samples > colours + len(extra):  # extra bands must be declared; those that are not have no meaning
            extra = (*extra, *[_UNSPECIFIED] * (samples - colours - len(extra)))
            tags[EXTRASAMPLES] = extra
        self.ignored = extra.count(_UNSPECIFIED)
        if samples == 1:
            tags[PLANAR_CONFIGURATION] = 1  # the same, and Pillow misreads the other
        if extra[:1] == (_ASSOCIATED,) and (self.bits == _MOST_BITS or self._n_planes > 1):
            self.is_premultiplied = True
            tags[EXTRASAMPLES] = (_UNASSOCIATED, *extra[1:])
        colormap = tags.get(COLORMAP, (0,))
        if tags.get(PHOTOMETRIC_INTERPRETATION) == _PALETTE and COLORMAP not in tags:
            msg = "its palette is missing"
            raise EOFError(msg)
        if max(colormap) in range(1, 256):  # some writers store 8 bits where 16 are meant; libtiff does the same
            tags[COLORMAP] = tuple(256 * value for value in colormap)

    def _check_planes(self) -> None:
        """Refuse a file that lacks strips or tiles, whose pixels would be black, and separate bands of odd kinds.

        Raises:
            EOFError: If strips or tiles are missing.
        """
        tags, planes = self.tag_v2, self._n_planes
        width, height = tags.get(IMAGEWIDTH, 0), tags.get(IMAGELENGTH, 0)
        where = STRIPOFFSETS if STRIPOFFSETS in tags else TILEOFFSETS
        across, down = width, tags.get(ROWSPERSTRIP, height)
        if where == TILEOFFSETS:
            across, down = tags.get(TILEWIDTH, 0), tags.get(TILELENGTH, 0)
        if self._is_raw() and where not in tags:
            msg = "it has neither strips nor tiles"
            raise EOFError(msg)
        if where not in tags or not all(isinstance(size, int) and size > 0 for size in (width, height, across, down)):
            return  # Pillow reports it
        each = math.ceil(width / across) * math.ceil(height / down)
        offsets = tags[where]
        if len(offsets) < each * planes:
            msg = f"it has {len(offsets)} of its {each * planes} strips or tiles"
            raise EOFError(msg)
        if not self._is_raw():
            return
        photometric = tags.get(PHOTOMETRIC_INTERPRETATION)
        colours = self._colours()
        is_odd = planes > 1 and (
            photometric == _YCBCR
            or planes - self.ignored > colours == 1
            or tags.get(FILLORDER, 1) != 1
            or (self.bits == _MOST_BITS and photometric != _RGB)
        )
        if is_odd or (photometric == _YCBCR and tuple(tags.get(YCBCRSUBSAMPLING, (1, 1))) != (1, 1)):
            raise self._make_refusal()
        if planes > 1:
            tags[where] = offsets[: each * (planes - self.ignored)]

    def _colours(self) -> int:
        return _COLOURS.get(self.tag_v2.get(PHOTOMETRIC_INTERPRETATION, _WHITE_IS_ZERO), 1)

    @property
    def is_separate(self) -> bool:
        """Whether each band is stored on its own."""
        return bool(self.tag_v2.get(PLANAR_CONFIGURATION, 1) == _SEPARATE)

    @property
    def _n_planes(self) -> int:
        return int(self.tag_v2.get(SAMPLESPERPIXEL, 1)) if self.is_separate else 1

    def _is_raw(self) -> bool:
        return COMPRESSION_INFO.get(self.tag_v2.get(COMPRESSION, 1)) == "raw"

    def _make_refusal(self) -> ImageError:
        tags = self.tag_v2
        samples = tags.get(SAMPLESPERPIXEL, 1)
        layout = f"{samples} {agree(samples, 'band', 'bands')} of {self.bits} bits"
        msg = (
            f"a TIFF with a layout that featx does not read ({layout}, photometric interpretation "
            f"{tags.get(PHOTOMETRIC_INTERPRETATION, 'missing')}, compression {tags.get(COMPRESSION, 1)}); "
            "convert it to grey or RGB with 8 or 16 bits"
        )
        return ImageError(msg)
