"""Makers of odd and hostile image files, most of them of one chart whose pixels are known."""

import struct
import zlib

import numpy as np
from image_files import encode, make_chunk, make_png
from PIL import Image

#: Blocks of 8 x 8 px, the unit of JPEG, so that every format keeps them flat; no two flips of the chart are equal.
SIDE = 8
COLOURS = np.array([[(200, 30, 40), (20, 180, 60), (30, 60, 210)], [(230, 230, 230), (240, 200, 20), (90, 20, 120)]])
GREYS = np.array([[10, 60, 110], [160, 210, 255]])


def enlarge(blocks):
    """Make the pixels of a chart from its blocks."""
    return np.kron(blocks, np.ones((SIDE, SIDE) + (1,) * (blocks.ndim - 2), int)).astype(np.uint8)


CHART, GREY_CHART = enlarge(COLOURS), enlarge(GREYS)
GREY = np.repeat(GREY_CHART[..., None], 3, axis=2)
PICTURE, GREY_PICTURE = Image.fromarray(CHART), Image.fromarray(GREY_CHART)
BLACK = Image.new("RGB", PICTURE.size)


def paint(alpha):
    """Lay the chart on white, its blocks as opaque as given, 0 to 255."""
    opacity = enlarge(np.array(alpha))[..., None] / 255
    return np.rint(CHART * opacity + 255 * (1 - opacity))


ALPHA = [[255, 0, 128], [255, 64, 255]]


def make_rgba():
    return Image.fromarray(np.dstack([CHART, enlarge(np.array(ALPHA))]))


def make_palette():
    image = Image.fromarray(enlarge(np.arange(6).reshape(2, 3))).convert("P")
    image.putpalette(COLOURS.astype(np.uint8).tobytes())
    return image


def make_jpeg(**options):
    return encode(PICTURE, "JPEG", **{"quality": 95, "subsampling": 0, **options})


def animate(kind, **options):
    frames = [PICTURE.copy(), BLACK.copy(), PICTURE.copy()]  # Pillow keeps the last options in the image
    return encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)


#: What the chart looks like after its EXIF orientation (EXIF 2.32, section 4.6.5.1, tag 274).
UPRIGHT = {
    1: CHART,
    2: CHART[:, ::-1],
    3: CHART[::-1, ::-1],
    4: CHART[::-1],
    5: CHART.transpose(1, 0, 2),
    6: np.rot90(CHART, -1),
    7: CHART[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(CHART),
}

DEEP = np.array([[0, 2600, 15000], [30000, 45000, 65535]])
DEEP_GREY = np.repeat(enlarge(np.array([[0, 10, 58], [117, 175, 255]]))[..., None], 3, axis=2)


def make_deep(kind, **options):
    values = np.kron(DEEP, np.ones((SIDE, SIDE), int)).astype(np.uint16)
    return encode(Image.fromarray(values), kind, **options)


def make_deep_colour():
    rows = (CHART.astype(">u2") * 257).reshape(len(CHART), -1)
    return make_png(CHART.shape[1], len(CHART), 16, 2, [row.tobytes() for row in rows])


def make_bilevel(kind, **options):
    return encode(GREY_PICTURE.point(lambda value: 255 * (value > 100)).convert("1"), kind, **options)


BILEVEL = np.where(GREY > 100, 255, 0)


def make_plain_png(side, colour):
    """A PNG of one RGBA colour, written row by row."""
    packer = zlib.compressobj(1)
    row = b"\0" + bytes(colour) * side
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = make_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + make_chunk(b"IDAT", body) + make_chunk(b"IEND", b"")


# --- headers that ask for more than there is


def resize_jpeg(data, marker, width, height):
    """Change the size in a JPEG's frame header, of which `marker` is the second byte."""
    at = data.index(b"\xff" + marker) + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def resize_webp(side):
    data = encode(Image.new("RGB", (8, 8)), "WEBP", lossless=True)
    at = data.index(b"VP8L") + 9
    return data[:at] + struct.pack("<I", (side - 1) | (side - 1) << 14) + data[at + 4 :]


def resize_jpeg_2000(side):
    data = encode(PICTURE, "JPEG2000", no_jp2=True)
    at = data.index(b"\xff\x51") + 6
    return data[:at] + struct.pack(">II", side, side) + data[at + 8 :]


def make_tiled_tiff(side, tile):
    """A grey TIFF of one deflated tile that is larger than the image."""
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(bytes(tile)) for _ in range(tile)) + packer.flush()
    tags = [(256, side), (257, side), (258, 8), (259, 8), (262, 1), (277, 1), (322, tile), (323, tile)]
    tags += [(324, 14 + 12 * 10), (325, len(body))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + body


def flip_byte(data, at):
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


def cut(data):
    return data[: len(data) // 2]


def make_noise(kind, **options):
    """A picture whose file is long enough to be cut in its pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    return encode(Image.fromarray(noise), kind, **options)


def make_broken_exif():
    return make_jpeg(exif=b"Exif\0\0II*\0" + b"\xff" * 60)


def make_text_bomb():
    text = b"comment\0\0" + zlib.compress(bytes(100 * 2**20), 9)
    rows = [row.tobytes() for row in CHART.reshape(len(CHART), -1)]
    return make_png(CHART.shape[1], len(CHART), 8, 2, rows, before=make_chunk(b"zTXt", text))
