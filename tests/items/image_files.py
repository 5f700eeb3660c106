"""Image files of every kind, made from a photo that scikit-learn ships."""

import io
import struct
import zlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image


@cache
def load_photo(width=320, height=214):
    photo = Path(find_spec("sklearn").origin).parent / "datasets/images/china.jpg"
    return Image.open(photo).resize((width, height), Image.Resampling.LANCZOS)


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def make_exif(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def make_png(width, height, bits, colour, rows, before=b"", after=b""):
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    raw = b"".join(b"\0" + row for row in rows)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            make_chunk(b"IHDR", header),
            before,
            make_chunk(b"IDAT", zlib.compress(raw)),
            after,
            make_chunk(b"IEND", b""),
        ]
    )


def make_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def make_tiff(width, height, bits, samples, photometric, strips, *, order="<", **options):
    """Make an uncompressed TIFF of one strip for each plane; options are `separate` and `more`, other tags."""
    separate, more = options.get("separate", False), options.get("more")
    tags = {256: width, 257: height, 258: (bits,) * samples, 259: 1, 262: photometric, 277: samples, 278: height}
    tags |= {279: tuple(map(len, strips)), 284: 2 if separate else 1} | (more or {})
    begin = 8 + 2 + 12 * (len(tags) + 1) + 4

    def lay_out(offsets):
        entries, extra = b"", b""
        for tag, value in sorted((tags | {273: offsets}).items()):
            values = value if isinstance(value, tuple) else (value,)
            raw = struct.pack(f"{order}{len(values)}H", *values)
            entries += struct.pack(f"{order}HHI", tag, 3, len(values))
            entries += raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack(f"{order}I", begin + len(extra))
            extra += raw if len(raw) > 4 else b""
        head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags) + 1)
        return head + entries + bytes(4) + extra

    start = len(lay_out((0,) * len(strips)))
    offsets = tuple(start + sum(map(len, strips[:number])) for number in range(len(strips)))
    return lay_out(offsets) + b"".join(strips)


RECIPES = {
    "jpeg": lambda photo: encode(photo, "JPEG", quality=90),
    "jpeg progressive": lambda photo: encode(photo, "JPEG", progressive=True),
    "jpeg grey": lambda photo: encode(photo.convert("L"), "JPEG"),
    "jpeg cmyk": lambda photo: encode(photo.convert("CMYK"), "JPEG", quality=95),
    "jpeg exif": lambda photo: encode(photo, "JPEG", exif=make_exif(1)),
    "png": lambda photo: encode(photo, "PNG"),
    "png palette": lambda photo: encode(photo.convert("P"), "PNG", transparency=3),
    "png 16": lambda photo: encode(photo.convert("L").convert("I;16"), "PNG"),
    "gif": lambda photo: encode(photo, "GIF"),
    "webp": lambda photo: encode(photo, "WEBP"),
    "webp lossless": lambda photo: encode(photo.convert("RGBA"), "WEBP", lossless=True),
    "bmp": lambda photo: encode(photo, "BMP"),
    "tiff": lambda photo: encode(photo, "TIFF"),
    "tiff lzw": lambda photo: encode(photo, "TIFF", compression="tiff_lzw"),
    "tiff jpeg": lambda photo: encode(photo, "TIFF", compression="jpeg"),
    "tiff fax": lambda photo: encode(photo.convert("1"), "TIFF", compression="group4"),
    "jp2": lambda photo: encode(photo, "JPEG2000"),
    "j2k": lambda photo: encode(photo, "JPEG2000", no_jp2=True, quality_mode="rates", quality_layers=[10]),
    "avif": lambda photo: encode(photo, "AVIF"),
    "ppm": lambda photo: encode(photo, "PPM"),
    "pgm 16": lambda photo: encode(photo.convert("L").convert("I;16"), "PPM"),
}


@cache
def make_file(name, width=320, height=214):
    return RECIPES[name](load_photo(width, height))
