"""Hostile and odd files, each with what featx must make of it; `docs/images.md` lists them for users."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from faults.charts import (
    ALPHA,
    BILEVEL,
    CHART,
    DEEP_GREY,
    GREY,
    GREY_PICTURE,
    PICTURE,
    UPRIGHT,
    animate,
    cut,
    flip_byte,
    make_bilevel,
    make_broken_exif,
    make_deep,
    make_deep_colour,
    make_jpeg,
    make_noise,
    make_palette,
    make_plain_png,
    make_rgba,
    make_text_bomb,
    make_tiled_tiff,
    paint,
    resize_jpeg,
    resize_jpeg_2000,
    resize_webp,
)
from image_files import encode, make_exif, make_png
from PIL import Image

EMBEDDED, QUARANTINED, LEFT_OUT = "embedded", "quarantined", "left out"


@dataclass(frozen=True)
class Entry:
    """One file.

    Attributes:
        file: Its name.
        what: What it is, for the table in the docs.
        outcome: `EMBEDDED`, `QUARANTINED` or `LEFT_OUT`.
        note: A remark on what is embedded, words of the reason for the quarantine, or for leaving it out.
        make: Writes it.
        pixels: uint8 `(height, width, 3)`, or one colour for all, that it must decode to.
        tolerance: Grey levels that these may be off.
        item: Its id, where that is not its name.
    """

    file: str
    what: str
    outcome: str
    note: str
    make: Callable[[Path], object]
    pixels: np.ndarray = field(default_factory=lambda: CHART)
    tolerance: int = 0
    item: str = ""

    @property
    def row(self):
        """What it is and what it gives, as in the docs."""
        return self.what, f"{self.outcome}: {self.note}" if self.note else self.outcome

    @property
    def id(self):
        return self.item or self.file


def show(file, what, data, pixels=CHART, tolerance=0, note=""):
    return Entry(file, what, EMBEDDED, note, lambda path: path.write_bytes(data()), np.asarray(pixels), tolerance)


def refuse(file, what, data, reason):
    return Entry(file, what, QUARANTINED, reason, lambda path: path.write_bytes(data()))


def skip(file, what, make, reason):
    return Entry(file, what, LEFT_OUT, reason, make)


# --- not plain files


def make_unreadable(path):
    """A regular file whose every read fails: the first page of the reader's own memory."""
    if sys.platform != "linux":
        msg = "only Linux has a file of which every read fails"
        raise OSError(msg)
    path.symlink_to("/proc/self/mem")


def make_pipe(path):
    if not hasattr(os, "mkfifo"):
        msg = "pipes have no names there"
        raise OSError(msg)
    os.mkfifo(path)


def make_sparse(path, size_bytes):
    path.write_bytes(b"\xff\xd8\xff")
    os.truncate(path, size_bytes)


def make_folder(path):
    path.mkdir()
    (path / "inside.png").write_bytes(encode(PICTURE, "PNG"))


def make_link(path):
    target = path.parent.parent / "elsewhere.png"
    target.write_bytes(encode(PICTURE, "PNG"))
    path.symlink_to(target)


ORIENTED = [
    show(f"exif-{turn}.jpg", f"EXIF orientation {turn}", lambda turn=turn: make_jpeg(exif=make_exif(turn)), upright, 3)
    for turn, upright in UPRIGHT.items()
]

PICTURES = [
    show("baseline.jpg", "JPEG", make_jpeg, tolerance=3),
    show("progressive.jpg", "progressive JPEG", lambda: make_jpeg(progressive=True), tolerance=3),
    show("grey.jpg", "grey JPEG", lambda: encode(GREY_PICTURE, "JPEG", quality=95), GREY, 3),
    show("cmyk.jpg", "CMYK JPEG", lambda: encode(PICTURE.convert("CMYK"), "JPEG", quality=95, subsampling=0), CHART, 4),
    *ORIENTED,
    show("exif-broken.jpg", "JPEG with broken EXIF", make_broken_exif, CHART, 3, "as it is stored"),
    show("tail.jpg", "JPEG with other bytes after its end", lambda: make_jpeg() + bytes(500), CHART, 3),
    show(
        "phone.jpg",
        "JPEG with a second image inside (MPO)",
        lambda: animate("MPO", quality=95, subsampling=0),
        CHART,
        3,
    ),
    show("row.jpg", "JPEG of 65,500 x 1 px", lambda: encode(Image.new("L", (65_500, 1), 90), "JPEG"), [90] * 3, 1),
    show("column.png", "PNG of 1 x 65,500 px", lambda: encode(Image.new("L", (1, 65_500), 90), "PNG"), [90] * 3),
    show("dot.png", "PNG of 1 x 1 px", lambda: encode(Image.new("RGB", (1, 1), (9, 80, 7)), "PNG"), [9, 80, 7]),
    show(
        "100-megapixels.jpg",
        "JPEG of 100 megapixels",
        lambda: encode(Image.new("L", (10**4, 10**4), 77), "JPEG"),
        [77] * 3,
        1,
    ),
    show(
        "alpha-90-megapixels.png",
        "PNG of 90 megapixels with alpha",
        lambda: make_plain_png(9500, (200, 0, 100, 51)),
        [244, 204, 224],
    ),
    show("plain.png", "PNG", lambda: encode(PICTURE, "PNG")),
    show("grey-16.png", "16-bit grey PNG", lambda: make_deep("PNG"), DEEP_GREY, note="rescaled to 8 bits"),
    show("colour-16.png", "16-bit RGB PNG", make_deep_colour, CHART, 1, "rescaled to 8 bits"),
    show("palette.png", "PNG with a palette", lambda: encode(make_palette(), "PNG")),
    show(
        "palette-alpha.png",
        "PNG with a palette with alpha",
        lambda: encode(make_palette(), "PNG", transparency=bytes(np.ravel(ALPHA).tolist())),
        paint(ALPHA),
        1,
        "on white",
    ),
    show(
        "grey-alpha.png",
        "grey PNG with alpha (LA)",
        lambda: encode(Image.merge("LA", [GREY_PICTURE, Image.new("L", PICTURE.size, 51)]), "PNG"),
        np.rint(GREY * 0.2 + 255 * 0.8),
        1,
        "on white",
    ),
    show("alpha.png", "PNG with alpha", lambda: encode(make_rgba(), "PNG"), paint(ALPHA), 1, "on white"),
    show("bilevel.png", "black and white PNG, 1 bit", lambda: make_bilevel("PNG"), BILEVEL),
    show("animated.png", "animated PNG", lambda: animate("PNG"), note="its first frame"),
    show("plain.gif", "GIF", lambda: encode(make_palette(), "GIF")),
    show("animated.gif", "animated GIF", lambda: animate("GIF"), note="its first frame"),
    show("lossy.webp", "WebP", lambda: encode(GREY_PICTURE, "WEBP", quality=95), GREY, 4),
    show(
        "alpha.webp",
        "lossless WebP with alpha",
        lambda: encode(make_rgba(), "WEBP", lossless=True, exact=True),
        paint(ALPHA),
        1,
        "on white",
    ),
    show("animated.webp", "animated WebP", lambda: animate("WEBP", lossless=True), note="its first frame"),
    show("plain.avif", "AVIF", lambda: encode(PICTURE, "AVIF", quality=95, subsampling="4:4:4"), CHART, 6),
    show("plain.tif", "TIFF", lambda: encode(PICTURE, "TIFF", compression="tiff_lzw")),
    show("grey-16.tif", "16-bit grey TIFF", lambda: make_deep("TIFF"), DEEP_GREY, note="rescaled to 8 bits"),
    show("cmyk.tif", "CMYK TIFF", lambda: encode(PICTURE.convert("CMYK"), "TIFF"), CHART),
    show("fax.tif", "black and white TIFF (fax)", lambda: make_bilevel("TIFF", compression="group4"), BILEVEL),
    show(
        "big-tiff",
        "BigTIFF without a suffix",
        lambda: encode(PICTURE, "TIFF", big_tiff=True),
        note="recognised by its content",
    ),
    show("pages.tif", "TIFF of several pages", lambda: animate("TIFF"), note="its first page"),
    show("plain.bmp", "BMP", lambda: encode(PICTURE, "BMP")),
    show("plain.jp2", "JPEG 2000", lambda: encode(PICTURE, "JPEG2000")),
    show("deep.pgm", "16-bit PGM", lambda: make_deep("PPM"), DEEP_GREY, note="rescaled to 8 bits"),
    show("png-called.jpg", "PNG called .jpg", lambda: encode(PICTURE, "PNG"), note="recognised by its content"),
    show("UPPER.JPG", "suffix in capitals", make_jpeg, tolerance=3),
    show("no suffix", "picture without a suffix", lambda: encode(PICTURE, "PNG"), note="recognised by its content"),
    show(
        os.fsdecode(b"caf\xe9.png"),
        "name that is not UTF-8",
        lambda: encode(PICTURE, "PNG"),
        note="the name is kept as it is",
    ),
    show("two\nlines.png", "name with a line break", lambda: encode(PICTURE, "PNG")),
    Entry("link.png", "link to a picture", EMBEDDED, "", make_link),
    Entry("folder.jpg", "folder called .jpg", EMBEDDED, "what is in it", make_folder, item="folder.jpg/inside.png"),
]

DAMAGED = [
    refuse("empty.jpg", "file of zero bytes", lambda: b"", "the file is empty"),
    refuse(
        "page.jpg",
        "web page called .jpg",
        lambda: b"<!DOCTYPE html><html>404</html>",
        "not an image: it starts with b'<!DOCTYPE html><'",
    ),
    refuse("report.png", "PDF called .png", lambda: b"%PDF-1.7\n" + bytes(99), "not an image"),
    refuse("drawing.png", "SVG called .png", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    refuse("program.jpg", "PostScript called .jpg", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n(file) run\n", "not an image"),
    refuse("icon.ico", "Windows icon", lambda: encode(PICTURE, "ICO"), "not an image"),
    refuse("zeros.jpg", "file full of zeros", lambda: bytes(2**20), "not an image"),
    refuse("noise.png", "random bytes called .png", lambda: np.random.default_rng(1).bytes(5000), "not an image"),
    refuse("cut.jpg", "JPEG cut in the middle", lambda: cut(make_noise("JPEG")), "truncated or damaged JPEG"),
    refuse(
        "cut-progressive.jpg",
        "progressive JPEG cut in the middle",
        lambda: cut(make_noise("JPEG", progressive=True)),
        "truncated or damaged JPEG",
    ),
    refuse(
        "filled.jpg",
        "JPEG whose second half is zeros",
        lambda: cut(make_noise("JPEG")) + bytes(5000),
        "its end is missing",
    ),
    refuse("cut.png", "PNG cut in the middle", lambda: cut(make_noise("PNG")), "truncated or damaged PNG"),
    refuse(
        "flipped.png", "PNG with a flipped byte", lambda: flip_byte(make_noise("PNG"), 5000), "truncated or damaged PNG"
    ),
    refuse("cut.gif", "GIF cut in the middle", lambda: cut(make_noise("GIF")), "truncated or damaged GIF"),
    refuse("cut.webp", "WebP cut in the middle", lambda: cut(make_noise("WEBP")), "truncated or damaged WebP"),
    refuse("cut.avif", "AVIF cut in the middle", lambda: cut(make_noise("AVIF")), "truncated or damaged AVIF"),
    refuse("cut.tif", "TIFF cut in the middle", lambda: cut(make_noise("TIFF")), "truncated or damaged TIFF"),
    refuse("cut.bmp", "BMP cut in the middle", lambda: cut(make_noise("BMP")), "truncated or damaged BMP"),
    refuse(
        "cut.jp2", "JPEG 2000 cut in the middle", lambda: cut(make_noise("JPEG2000")), "truncated or damaged JPEG 2000"
    ),
    refuse(
        "float.tif", "TIFF of floats", lambda: encode(Image.new("F", (9, 9), 0.5), "TIFF"), "TIFF with float samples"
    ),
    refuse(
        "32-bit.tif",
        "TIFF of 32-bit integers",
        lambda: encode(Image.new("I", (9, 9), 70_000), "TIFF"),
        "TIFF with signed samples",
    ),
    refuse(
        "196-megapixels.png",
        "PNG of 196 megapixels, 24 kB",
        lambda: encode(Image.new("1", (14_000, 14_000)), "PNG"),
        "14000x14000 px are more than the 178,956,970",
    ),
    refuse(
        "header.jpg",
        "JPEG header of 65,500 x 65,500 px",
        lambda: resize_jpeg(make_jpeg(), b"\xc0", 65_500, 65_500),
        "65500x65500 px are more than the 178,956,970",
    ),
    refuse(
        "header.png",
        "PNG header of 2,147,483,647 px a side",
        lambda: make_png(2**31 - 1, 2**31 - 1, 8, 2, []),
        "px are more than the 178,956,970",
    ),
    refuse(
        "header-progressive.jpg",
        "progressive JPEG header of 144 megapixels",
        lambda: resize_jpeg(make_jpeg(progressive=True), b"\xc2", 12_000, 12_000),
        "MiB of memory to decode",
    ),
    refuse("bomb.webp", "WebP of 144 megapixels, 34 bytes", lambda: resize_webp(12_000), "MiB of memory to decode"),
    refuse("bomb.j2k", "JPEG 2000 header of 81 megapixels", lambda: resize_jpeg_2000(9000), "MiB of memory to decode"),
    refuse(
        "bomb.tif",
        "TIFF of 16 x 16 px in a tile of 32,000 x 32,000, 1 MB",
        lambda: make_tiled_tiff(16, 32_000),
        "MiB of memory to decode",
    ),
    refuse("bomb.png", "PNG with a comment that unpacks to 100 MiB", make_text_bomb, "truncated or damaged PNG"),
    Entry(
        "sparse.jpg",
        "file larger than 512 MiB",
        QUARANTINED,
        "larger than 536,870,912 bytes",
        lambda path: make_sparse(path, 2**29 + 1),
    ),
    Entry("unreadable.jpg", "file that cannot be read", QUARANTINED, "cannot be read", make_unreadable),
]

JUNK = [
    skip("loop.jpg", "link to itself", lambda path: path.symlink_to(path.name), "broken links"),
    skip("broken.jpg", "link to nowhere", lambda path: path.symlink_to("nowhere.jpg"), "broken links"),
    skip(
        "folder loop",
        "link to the folder that it lies in",
        lambda path: path.symlink_to("."),
        "folders linked twice or in a loop",
    ),
    skip("pipe.jpg", "pipe", make_pipe, "pipes, sockets and devices"),
    skip("device.jpg", "link to a device", lambda path: path.symlink_to("/dev/zero"), "pipes, sockets and devices"),
    skip("._photo.jpg", "hidden file of macOS", lambda path: path.write_bytes(b"\0\5\26\7"), "hidden files"),
    skip("Thumbs.db", "thumbnails of Windows", lambda path: path.write_bytes(b"\xd0\xcf\x11\xe0"), "system files"),
    skip("notes.txt", "text", lambda path: path.write_text("not a picture"), "files that are not images"),
]

CORPUS = [*PICTURES, *DAMAGED, *JUNK]


def write_corpus(folder):
    """Write all files that this system can make.

    Returns:
        By file name, why one could not be made.
    """
    folder.mkdir(parents=True)
    unmade = {}
    for entry in CORPUS:
        try:
            entry.make(folder / entry.file)
        except OSError as error:
            unmade[entry.file] = str(error)
    return unmade
