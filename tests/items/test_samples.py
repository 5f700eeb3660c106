"""Files of every depth and layout: which values become which pixels, and which are refused."""

import struct
import zlib

import numpy as np
import pytest
from image_files import encode, load_photo, make_chunk, make_png, make_tiff
from PIL import Image

from featx.errors import ImageError, UsageError
from featx.items import decoding
from featx.items.decoding import decode
from featx.specs import ImageSpec

WHITE = [255, 255, 255]
GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
COLOURS = make_chunk(b"PLTE", bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9]))


def decode_row(data, width, **fields):
    return decode(data, ImageSpec(height=1, width=width, **fields)).pixels[0].tolist()


def pack(*values, order=">"):
    return struct.pack(f"{order}{len(values)}H", *values)


def make_row_png(bits, colour, row, *, key=b"", before=b""):
    width = 8 * len(row) // (bits * {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}[colour])
    return make_png(width, 1, bits, colour, [row], before=before + (make_chunk(b"tRNS", key) if key else b""))


# --- transparent colours of PNG


@pytest.mark.parametrize(
    ("bits", "row", "key", "wanted"),
    [
        (1, b"\x50", 1, [0, 255, 0, 255, 0, 0, 0, 0]),
        (1, b"\x50", 0, [255, 255, 255, 255, 255, 255, 255, 255]),
        (2, b"\x1b", 1, [0, 255, 170, 255]),
        (2, b"\x1b", 3, [0, 85, 170, 255]),
        (4, b"\x15", 5, [17, 255]),
        (4, b"\x15", 0xF1, [255, 85]),  # only the lowest bits of a key count
        (8, b"\x20\x21", 0x20, [255, 33]),
        (8, b"\x20\x21", 0x120, [255, 33]),
        (16, pack(0x2001, 0x2002), 0x2001, [255, 32]),
        (16, pack(0x0020, 0x2000), 0x2000, [0, 255]),
    ],
)
def test_a_grey_value_of_any_depth_is_transparent(bits, row, key, wanted):
    pixels = decode_row(make_row_png(bits, GREY, row, key=pack(key)), len(wanted))
    assert pixels == [[value] * 3 for value in wanted]


@pytest.mark.parametrize(
    ("bits", "row", "key", "wanted"),
    [
        (8, bytes([1, 2, 3, 1, 2, 4]), (1, 2, 3), [WHITE, [1, 2, 4]]),
        (8, bytes([1, 2, 3, 1, 2, 4]), (0x101, 2, 3), [WHITE, [1, 2, 4]]),
        (16, pack(0x2001, 0x3002, 0x4003, 0x2001, 0x3002, 0x4004), (0x2001, 0x3002, 0x4003), [WHITE, [32, 48, 64]]),
        (16, pack(0x2099, 0x3099, 0x4099, 0x2001, 0x3002, 0x4003), (0x2001, 0x3002, 0x4003), [[32, 48, 64], WHITE]),
        # The key has the high bytes of no pixel, and the value that the first pixel has after rescaling.
        (16, pack(0x2000, 0x3000, 0x4000, 0x20, 0x30, 0x40), (0x20, 0x30, 0x40), [[32, 48, 64], WHITE]),
    ],
)
def test_a_colour_of_any_depth_is_transparent(bits, row, key, wanted):
    assert decode_row(make_row_png(bits, RGB, row, key=pack(*key)), 2) == wanted


@pytest.mark.parametrize(("bits", "row"), [(1, b"\x50"), (2, b"\x11"), (4, b"\x01\x01"), (8, b"\0\1\0\1")])
def test_colours_of_a_palette_are_transparent(bits, row):
    data = make_row_png(bits, PALETTE, row, before=COLOURS, key=b"\xff\x00")
    assert decode_row(data, 8 * len(row) // bits)[:4] == [[255, 0, 0], WHITE, [255, 0, 0], WHITE]


def test_a_transparent_colour_of_an_interlaced_png_counts():
    # Adam7 of 2 x 1 pixels: the first pixel is in pass 1, the second in pass 6.
    header = struct.pack(">IIBBBBB", 2, 1, 16, RGB, 0, 0, 1)
    raw = b"\0" + pack(0x2001, 0x3002, 0x4003) + b"\0" + pack(0x20FF, 0x30FF, 0x40FF)
    chunks = [(b"IHDR", header), (b"tRNS", pack(0x2001, 0x3002, 0x4003)), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(make_chunk(*chunk) for chunk in chunks)
    assert decode_row(data, 2) == [WHITE, [33, 49, 65]]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_that_is_missing_is_an_error(bits):
    with pytest.raises(ImageError, match=r"damaged PNG .its palette is missing.; export or download it again"):
        decode_row(make_row_png(bits, PALETTE, b"\x01\x01"), 1)


# --- 16 bits


def test_colours_of_16_bits_are_rounded_to_the_nearest_level():
    values = [0x1200, 0x12FF, 0xFFFF, 0, 0x8080, 0x0101, 0x20FF, 0x30FF, 0x40FF, 128, 129, 0xFF7E]
    wanted = np.rint(np.array(values) / 257).reshape(-1, 3).tolist()
    assert decode_row(make_row_png(16, RGB, pack(*values)), 4) == wanted
    for order in "<>":
        raw = pack(*values, order=order)
        assert decode_row(make_tiff(4, 1, 16, 3, 2, [raw], order=order), 4) == wanted
        planes = [pack(*values[band::3], order=order) for band in range(3)]
        assert decode_row(make_tiff(4, 1, 16, 3, 2, planes, order=order, separate=True), 4) == wanted


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("predictor", [1, 2])
def test_compressed_colours_of_16_bits_are_rounded(order, predictor):
    values = np.arange(0, 65536, 683, dtype=np.uint16)[:96].reshape(2, 16, 3)
    stored = values if predictor == 1 else np.diff(values, axis=1, prepend=np.uint16(0))
    strip = zlib.compress(stored.astype(f"{order}u2").tobytes())
    data = make_tiff(16, 2, 16, 3, 2, [strip], order=order, more={259: 8, 317: predictor})
    assert np.array_equal(decode(data, ImageSpec(height=2, width=16)).pixels, np.rint(values / 257))


def test_separate_compressed_colours_of_16_bits_keep_their_high_bytes():
    values = [0x1200, 0x12FF, 0xFFFF]
    planes = [zlib.compress(pack(value, order="<")) for value in values]
    data = make_tiff(1, 1, 16, 3, 2, planes, separate=True, more={259: 8})
    assert decode_row(data, 1) == [[0x12, 0x12, 0xFF]]
    with pytest.raises(ImageError, match="separate, compressed bands of 16 bits cannot be read with --bits"):
        decode_row(data, 1, bits=12)


@pytest.mark.parametrize(
    ("colour", "row", "wanted"),
    [
        (GREY_ALPHA, pack(0x4000, 0x8000), 159),
        (GREY_ALPHA, pack(0x20FF, 0xFFFF), 33),
        (GREY_ALPHA, pack(0x20FF, 0), 255),
        (RGB_ALPHA, pack(0x4000, 0x4000, 0x4000, 0x8000), 159),
        (RGB_ALPHA, pack(0x20FF, 0x20FF, 0x20FF, 0xFFFF), 33),
    ],
)
def test_alpha_of_16_bits(colour, row, wanted):
    assert decode_row(make_row_png(16, colour, row), 1) == [[wanted] * 3]


def test_gamma_and_significant_bits_do_not_change_pixels():
    before = make_chunk(b"gAMA", struct.pack(">I", 100_000)) + make_chunk(b"sBIT", b"\x05")
    assert decode_row(make_row_png(8, GREY, b"\x80", before=before), 1) == [[128] * 3]
    before = make_chunk(b"sBIT", b"\x0c")  # the samples are stored in the full range (PNG, section 11.3.2.7)
    assert decode_row(make_row_png(16, GREY, pack(0x0FFF), before=before), 1) == [[16] * 3]


# --- fewer bits than 16


@pytest.mark.parametrize(
    ("bits", "values"), [(12, [0, 4095, 2048, 16]), (10, [0, 1023, 512, 4]), (8, [0, 255, 128, 1]), (14, [9999, 16383])]
)
def test_the_used_bits_are_rescaled(bits, values):
    wanted = np.rint(np.array(values) * 255 / (2**bits - 1)).repeat(3).reshape(-1, 3).tolist()
    size = len(values)
    assert decode_row(make_row_png(16, GREY, pack(*values)), size, bits=bits) == wanted
    colours = pack(*np.repeat(values, 3).tolist())
    assert decode_row(make_row_png(16, RGB, colours), size, bits=bits) == wanted
    tiff = make_tiff(size, 1, 16, 1, 1, [pack(*values, order="<")])
    assert decode_row(tiff, size, bits=bits) == wanted
    inverted = make_tiff(size, 1, 16, 1, 0, [pack(*values)], order=">")
    assert decode_row(inverted, size, bits=bits) == (255 - np.array(wanted)).tolist()


def test_alpha_has_all_its_bits():
    row = pack(4095, 4095, 0, 0xFFFF, 0, 0, 0, 0)
    assert decode_row(make_row_png(16, RGB_ALPHA, row), 2, bits=12) == [[255, 255, 0], WHITE]


def test_samples_above_the_used_bits_are_refused():
    for colour, row in ((GREY, pack(4095, 5000)), (RGB, pack(0, 4096, 0))):
        with pytest.raises(ImageError, match=r"its largest sample is \d,\d{3}, and 12 bits hold at most 4,095; "):
            decode_row(make_row_png(16, colour, row), 1, bits=12)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_used_bits_leave_files_of_8_bits_alone(kind):
    data = encode(load_photo(), kind)
    plain, spec = ImageSpec(height=24, width=32), ImageSpec(height=24, width=32, bits=12)
    assert np.array_equal(decode(data, spec).pixels, decode(data, plain).pixels)
    assert decode(data, plain).peak == 0


def test_used_bits_leave_files_alone_that_record_their_range():
    pgm = b"P5\n2 1\n4095\n" + pack(2048, 4095)
    tiff = make_tiff(2, 1, 12, 1, 1, [b"\x80\x0f\xff"])
    for data in (pgm, tiff):
        assert decode_row(data, 2, bits=10) == decode_row(data, 2) == [[128] * 3, WHITE]
        assert decode(data, ImageSpec(height=1, width=2)).peak == 0


def test_the_largest_sample_is_known():
    spec = ImageSpec(height=1, width=2)
    assert decode(make_row_png(16, GREY, pack(7, 4095)), spec).peak == 4095
    assert decode(make_row_png(16, RGB, pack(7, 1023, 1, 2, 3, 4)), spec).peak == 1023
    assert decode(make_row_png(16, RGB_ALPHA, pack(7, 300, 1, 0xFFFF)), spec).peak == 300
    assert decode(make_tiff(2, 1, 16, 1, 1, [pack(500, 499, order="<")]), spec).peak == 500


@pytest.mark.parametrize("bits", [1, 7, 16, 12.0, True])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(UsageError, match="it must be 8 to 15, or 0 for all 16"):
        ImageSpec(height=1, width=1, bits=bits)


# --- bands of TIFF


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("samples", "photometric", "row", "extra", "wanted", "ignored"),
    [
        (4, 2, [32, 48, 64, 0], None, [32, 48, 64], 1),
        (4, 2, [32, 48, 64, 0], (0,), [32, 48, 64], 1),
        (4, 2, [32, 48, 64, 128], (1,), [159, 175, 191], 0),
        (4, 2, [32, 48, 64, 128], (2,), [143, 151, 159], 0),
        (5, 2, [32, 48, 64, 80, 96], None, [32, 48, 64], 2),
        (5, 2, [32, 48, 64, 80, 96], (0, 0), [32, 48, 64], 2),
        (5, 2, [32, 48, 64, 128, 96], (2, 0), [143, 151, 159], 1),
        (5, 2, [32, 48, 64, 128, 96], (1,), [159, 175, 191], 1),
        (2, 1, [32, 0], None, [32, 32, 32], 1),
        (2, 1, [32, 0], (0,), [32, 32, 32], 1),
        (2, 1, [32, 128], (2,), [143, 143, 143], 0),
        (5, 5, [0, 255, 255, 0, 17], None, [255, 0, 0], 1),
        (4, 5, [0, 255, 255, 0], None, [255, 0, 0], 0),
    ],
)
def test_only_declared_alpha_is_alpha(order, samples, photometric, row, extra, wanted, ignored):
    more = {338: extra} if extra else {}
    data = make_tiff(2, 1, 8, samples, photometric, [bytes(row) * 2], order=order, more=more)
    decoded = decode(data, ImageSpec(height=1, width=2))
    assert decoded.pixels[0].tolist() == [wanted] * 2
    assert decoded.ignored == ignored
    if (samples, photometric, ignored) == (2, 1, 0):
        return  # separate bands of grey and alpha are refused below
    planes = [bytes([value] * 2) for value in row]
    separate = make_tiff(2, 1, 8, samples, photometric, planes, order=order, separate=True, more=more)
    assert decode_row(separate, 2) == [wanted] * 2


@pytest.mark.parametrize(
    ("extra", "wanted", "ignored"),
    [(None, [32, 48, 64], 1), ((0,), [32, 48, 64], 1), ((1,), [159, 175, 191], 0), ((2,), [143, 151, 159], 0)],
)
def test_only_declared_alpha_of_16_bits_is_alpha(extra, wanted, ignored):
    row = [257 * value for value in (32, 48, 64, 128)]
    for order in "<>":
        more = {338: extra} if extra else {}
        data = make_tiff(1, 1, 16, 4, 2, [pack(*row, order=order)], order=order, more=more)
        decoded = decode(data, ImageSpec(height=1, width=1))
        assert (decoded.pixels[0, 0].tolist(), decoded.ignored) == (wanted, ignored)
        planes = [pack(value, order=order) for value in row]
        separate = make_tiff(1, 1, 16, 4, 2, planes, order=order, separate=True, more=more)
        assert decode_row(separate, 1) == [wanted]


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize(
    ("bits", "row", "wanted"),
    [
        (1, b"\x40", [0, 255]),
        (2, b"\xb0", [170, 255]),
        (4, b"\x8f", [136, 255]),
        (8, b"\x20\xff", [32, 255]),
        (12, b"\x80\x8f\xff", [128, 255]),
        (16, None, [32, 255]),
    ],
)
def test_grey_of_any_depth_counts_from_black_or_white(separate, bits, row, wanted):
    inverted = [255 - value for value in wanted]
    orders = "<" if bits == 12 else "<>"  # 12 bits in the other order are refused below
    for order, photometric, values in ((order, *case) for order in orders for case in ((1, wanted), (0, inverted))):
        strip = row or pack(32 * 257, 0xFFFF, order=order)
        data = make_tiff(2, 1, bits, 1, photometric, [strip], order=order, separate=separate)
        assert decode_row(data, 2) == [[value] * 3 for value in values]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_tiff(1, 1, 16, 1, 1, [bytes(2)], more={339: 3}), "TIFF with float samples, which featx does not"),
        (lambda: make_tiff(1, 1, 16, 1, 1, [bytes(2)], more={339: 2}), "TIFF with signed samples, which featx does"),
        (lambda: make_tiff(1, 1, 8, 1, 1, [bytes(2)], more={339: 2}), "TIFF with signed samples, which featx does"),
        (lambda: make_tiff(1, 1, 32, 1, 1, [bytes(4)]), "TIFF with samples of 32 bits, which featx does not read"),
        (lambda: make_tiff(1, 1, 32, 3, 2, [bytes(12)], more={339: (3, 3, 3)}), "TIFF with float samples"),
        (lambda: make_tiff(1, 1, 64, 1, 1, [bytes(8)]), "TIFF with samples of 64 bits"),
        (lambda: make_tiff(2, 1, 12, 1, 1, [bytes(3)], order=">"), "1 band of 12 bits, photometric interpretation 1"),
        (lambda: make_tiff(1, 1, 16, 2, 1, [bytes(4)], more={338: 2}), "2 bands of 16 bits"),
        (lambda: make_tiff(1, 1, 8, 2, 1, [b"\1"] * 2, separate=True, more={338: 2}), "2 bands of 8 bits"),
        (lambda: make_tiff(1, 1, 8, 1, 32803, [bytes(1)]), "photometric interpretation 32803"),
        (lambda: make_tiff(1, 1, 8, 3, 2, [bytes(3)], more={259: 34712}), "compression 34712"),
        (lambda: make_tiff(1, 1, 8, 3, 2, [bytes(3)], more={259: 34676}), "compression 34676"),
        (lambda: make_tiff(4, 1, 10, 1, 1, [bytes(5)]), "1 band of 10 bits"),
        (lambda: make_tiff(1, 1, 8, 3, 9, [bytes(3)]), "photometric interpretation 9"),
        (lambda: make_tiff(2, 2, 8, 3, 6, [bytes(6)], more={530: (2, 2)}), "photometric interpretation 6"),
        (lambda: make_tiff(1, 1, 8, 3, 6, [b"\x80"] * 3, separate=True), "photometric interpretation 6"),
    ],
)
def test_layouts_that_are_not_supported_are_not_called_damaged(make, message):
    with pytest.raises(ImageError, match=message) as caught:
        decode_row(make(), 1)
    assert "convert it to" in str(caught.value)
    assert "damaged" not in str(caught.value)
    assert "download" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_tiff(4, 4, 8, 3, 2, [bytes(48)], separate=True), "it has 1 of its 3 strips"),
        (lambda: make_tiff(4, 4, 8, 1, 1, [bytes(8)], more={278: 2}), "it has 1 of its 2 strips"),
        (lambda: make_tiff(4, 4, 8, 1, 3, [bytes(16)]), "its palette is missing"),
    ],
)
def test_pixels_that_are_missing_are_not_black(make, message):
    with pytest.raises(ImageError, match=f"truncated or damaged TIFF .{message}"):
        decode_row(make(), 4)


def test_a_palette_of_8_bits_where_16_are_meant():
    colours = [255, 0, 9, 0, 255, 9, 0, 0, 9]
    short = tuple(colours[0:3] + [0] * 253 + colours[3:6] + [0] * 253 + colours[6:9] + [0] * 253)
    for colormap in (short, tuple(256 * value for value in short)):
        data = make_tiff(3, 1, 8, 1, 3, [bytes([0, 1, 2])], more={320: colormap})
        assert decode_row(data, 3) == [[255, 0, 0], [0, 255, 0], [9, 9, 9]]


# --- other formats


def test_transparency_of_other_formats():
    clear = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    assert decode_row(encode(clear, "WEBP", lossless=True), 2) == [WHITE, WHITE]
    assert decode_row(encode(clear, "GIF"), 2) == [WHITE, WHITE]
    assert decode_row(encode(clear.convert("RGB"), "BMP"), 2) == [[10, 20, 30]] * 2
    cmyk = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    assert decode_row(cmyk, 1) == [[255, 0, 0]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\n", "a pointer of Git LFS; run `git lfs pull`"),
        (b"\x93NUMPY\x01\0", "a NumPy array; save it as PNG"),
        (b"8BPS\0\1" + bytes(40), "a Photoshop file"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b"\xff\x0a\0\0", "a JPEG XL file"),
        (b"P7\nWIDTH 2\n", "a PAM file"),
        (b"\x1f\x8b\x08\0", "a compressed file; unpack it first"),
        (b"PK\3\4", "a compressed file; unpack it first"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "a video; extract its frames"),
        (b"\x5c\1\0\0" + bytes(348), "a NIfTI file"),
    ],
)
def test_other_kinds_of_files_are_named(data, message):
    with pytest.raises(ImageError, match=f"not an image that featx reads, but {message}"):
        decode_row(data, 1)


def test_the_low_bytes_of_16_bits_count_as_memory(monkeypatch):
    data = make_row_png(16, RGB, pack(*range(300)))
    monkeypatch.setattr(decoding, "MAX_DECODING_BYTES", 100 * 12 + len(data))
    assert len(decode_row(data, 1)) == 1
    monkeypatch.setattr(decoding, "MAX_DECODING_BYTES", 100 * 12 + len(data) - 1)
    with pytest.raises(ImageError, match="100x1 px of PNG take"):
        decode_row(data, 1)
