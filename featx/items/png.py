"""PNG files whose transparent colour or palette Pillow reads wrongly: corrected before their pixels are decoded.

The chunks are those of the PNG specification, third edition.
"""

from PIL.PngImagePlugin import PngImageFile

_PALETTE = 3


class PngReader(PngImageFile):
    """A PNG whose `info["transparency"]` is a value of the decoded pixels.

    Attributes:
        bits: Bits of a sample.
    """

    bits = 8

    def _open(self) -> None:
        super()._open()
        if self.fp is None:
            return
        at = self.fp.tell()
        self.fp.seek(24)  # the bits of a sample and the kind of colour, in the header chunk
        self.bits, colour = self.fp.read(2)
        self.fp.seek(at)
        if colour == _PALETTE and self.palette is None:
            msg = "its palette is missing"
            raise SyntaxError(msg)
        key = self.info.get("transparency")
        if key is None or colour == _PALETTE:
            return
        # Only the lowest bits of a key count (section 11.3.1.1), and Pillow spreads grey values over 0 to 255.
        most = 2**self.bits - 1
        if isinstance(key, tuple):
            self.info["transparency"] = tuple(value & most for value in key)
        elif self.mode != "1":
            self.info["transparency"] = (key & most) * max(1, 255 // most)
