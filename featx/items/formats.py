"""The image formats that featx reads: one table for finding files and for opening them.

A new format is one row here. Nothing of Pillow is imported: a row only names the class.
"""

import re
from dataclasses import dataclass

#: How many bytes of a file `recognise` needs; the mark of DICOM ends there, and an AVIF's or HEIC's brands before it.
HEAD_BYTES = 132

#: How many bytes of a file `name_foreign` looks at.
_FOREIGN_BYTES = 512


@dataclass(frozen=True, slots=True)
class Format:
    """One image format.

    Attributes:
        name: What messages call it.
        suffixes: How the names of its files end, in lower case and without the dot.
        signature: Regular expression that matches at the start of its files.
        plugin: `module:class` that opens its files as a Pillow image.
        strict: Signature that a file without an image's suffix must match, where `signature` is too weak
            for a guess; empty if it is not.
        package: What to install if the plugin's module is missing; empty for what is always there.
    """

    name: str
    suffixes: tuple[str, ...]
    signature: bytes
    plugin: str
    strict: bytes = b""
    package: str = ""

    def matches(self, head: bytes) -> bool:
        """Return whether a file that begins with these bytes has this format."""
        return re.match(self.signature, head, re.DOTALL) is not None

    def matches_strictly(self, head: bytes) -> bool:
        """Return whether these bytes alone, without a suffix, are enough to recognise this format."""
        return re.match(self.strict or self.signature, head, re.DOTALL) is not None


#: In the order in which they are tried. AVIF and HEIC share a container and sometimes its major brand
#: (ISO/IEC 14496-12, section 4.3), so the compatible brands count too, and AVIF comes first.
FORMATS = (
    Format("JPEG", ("jpg", "jpeg", "jpe", "jfif"), rb"\xff\xd8\xff", "PIL.JpegImagePlugin:JpegImageFile"),
    Format("PNG", ("png",), rb"\x89PNG\r\n\x1a\n", "featx.items.png:PngReader"),
    Format("GIF", ("gif",), rb"GIF8[79]a", "PIL.GifImagePlugin:GifImageFile"),
    Format("WebP", ("webp",), rb"RIFF.{4}WEBP", "PIL.WebPImagePlugin:WebPImageFile"),
    # Two letters are a weak sign; the four reserved bytes of a bitmap are usually zero.
    Format("BMP", ("bmp",), rb"BM", "PIL.BmpImagePlugin:BmpImageFile", strict=rb"BM.{4}\0{4}"),
    # 42 marks a TIFF and 43, the plus sign, a BigTIFF.
    Format("TIFF", ("tif", "tiff"), rb"II[*+]\0|MM\0[*+]", "featx.items.tiff:TiffReader"),
    Format(
        "JPEG 2000",
        ("jp2", "j2k"),
        rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n",  # a codestream, or a JP2 file
        "PIL.Jpeg2KImagePlugin:Jpeg2KImageFile",
    ),
    Format("AVIF", ("avif",), rb".{4}ftyp(.{4}){0,12}?avi[fs]", "PIL.AvifImagePlugin:AvifImageFile"),
    Format(
        "HEIC",
        ("heic", "heif", "hif"),
        rb".{4}ftyp(.{4}){0,12}?(he[iv][cmsx]|mif1|msf1)",
        "pillow_heif:HeifImageFile",
        package="featx[heic]",
    ),
    # A preamble of any content, then the mark (DICOM PS3.10, section 7.1).
    Format("DICOM", ("dcm", "dicom"), rb".{128}DICM", "featx.items.dicom:DicomReader", package="featx[dicom]"),
    # Another weak sign, after which a number or a comment follows.
    Format(
        "PNM",
        ("ppm", "pgm", "pbm", "pnm"),
        rb"P[1-6f]\s",
        "PIL.PpmImagePlugin:PpmImageFile",
        strict=rb"P[1-6f]\s[#0-9]",
    ),
)

#: Files that are often found among images, and what to do: name, signature at the start, advice.
_FOREIGN = (
    ("a pointer of Git LFS", rb"version https://git-lfs", "run `git lfs pull` where it lies"),
    ("a NumPy array", rb"\x93NUMPY", "save it as PNG first"),
    ("a Photoshop file", rb"8BPS", "export it as PNG first"),
    ("an SVG drawing", rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?<svg", "export it as PNG first"),
    ("a JPEG XL file", rb"\xff\x0a|\0\0\0\x0cJXL ", "convert it to JPEG or PNG first"),
    ("a PAM file", rb"P7\s", "convert it to PPM or PNG first"),
    ("a Windows icon", rb"\0\0[\x01\x02]\0", "convert it to PNG first"),
    ("a PDF", rb"%PDF", "export its pages as PNG first"),
    ("a compressed file", rb"\x1f\x8b|BZh|\xfd7zXZ|PK\x03\x04|7z\xbc\xaf", "unpack it first"),
    ("a video", rb".{4}ftyp(mp4|isom|iso2|avc1|M4V|qt  )|RIFF.{4}AVI |\x1aE\xdf\xa3", "extract its frames first"),
    ("an HDF5 file", rb"\x89HDF\r\n", "export its images as PNG first"),
    ("a FITS file", rb"SIMPLE  =", "export it as PNG or TIFF of 16 bits first"),
    ("a NIfTI file", rb"\\\x01\0\0|\0\0\x01\\", "export its slices as PNG first"),
)

#: Suffixes of images that cannot be opened. Their files are quarantined with a reason, not overlooked.
_CLOSED_SUFFIXES = ("ico",)

_IMAGE_NAME = re.compile(
    rf".*\.({'|'.join([*(suffix for row in FORMATS for suffix in row.suffixes), *_CLOSED_SUFFIXES])})",
    re.IGNORECASE | re.DOTALL,
)


def has_image_suffix(name: str) -> bool:
    """Return whether a file's name ends as an image's does, in any case.

    Such a file is an item whatever it holds: if it is broken, it is quarantined instead of overlooked.
    """
    return _IMAGE_NAME.fullmatch(name) is not None


def looks_like_image(head: bytes) -> bool:
    """Return whether a file is an image, judged by its first `HEAD_BYTES` bytes alone."""
    return any(row.matches_strictly(head) for row in FORMATS)


def recognise(head: bytes) -> Format | None:
    """Return the format of a file that is known to be an image; None if it is not in the table.

    Args:
        head: Its first `HEAD_BYTES` bytes, or more.
    """
    return next((row for row in FORMATS if row.matches(head)), None)


def name_foreign(data: bytes) -> tuple[str, str] | None:
    """Return what a file is that is not an image of these formats, and what to do; None if it is unknown.

    Args:
        data: The bytes of the file.
    """
    head = data[:_FOREIGN_BYTES]
    return next(((name, advice) for name, sign, advice in _FOREIGN if re.match(sign, head, re.DOTALL)), None)
