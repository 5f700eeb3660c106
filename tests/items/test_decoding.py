import io
import struct
import threading
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from image_files import RECIPES, encode, load_photo, make_chunk, make_exif, make_file, make_png
from PIL import Image, ImageFile, ImageOps
from PIL.PngImagePlugin import PngInfo

from featx.errors import ImageError
from featx.items import decoding
from featx.items.decoding import MAX_PIXELS, Probe, decode, find_view, open_image, probe
from featx.specs import ImageSpec

SPEC = ImageSpec(height=24, width=32)
FORMATS = {
    "jpeg": "JPEG",
    "png": "PNG",
    "gif": "GIF",
    "webp": "WebP",
    "bmp": "BMP",
    "tiff": "TIFF",
    "jp2": "JPEG 2000",
    "j2k": "JPEG 2000",
    "avif": "AVIF",
    "ppm": "PNM",
    "pgm": "PNM",
}
WHITE, GREY, BLACK = [255, 255, 255], [128, 128, 128], [0, 0, 0]


def decode_plain(data, **fields):
    """Decode at the image's own size, so that the resize changes nothing."""
    header = probe(data)
    return decode(data, ImageSpec(height=header.height_px, width=header.width_px, **fields)).pixels


# --- headers


@pytest.mark.parametrize("name", RECIPES)
def test_every_format_is_recognised_by_content(name):
    header = probe(make_file(name))
    assert (header.format, header.width_px, header.height_px) == (FORMATS[name.split()[0]], 320, 214)


@pytest.mark.parametrize("name", ["jpeg", "png", "gif", "bmp", "tiff", "jp2", "ppm"])
def test_probing_decodes_no_pixel(name):
    image, _ = open_image(make_file(name))
    assert image.tile  # Pillow's list of the parts that are still to be decoded


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (
            b"<!DOCTYPE html><html></html>",
            "not an image: it starts with b'<!DOCTYPE html><'.*known formats are JPEG, PNG",
        ),
        (b"\xff", "not an image"),
        (b"\xff\xd8\xff", "truncated or damaged JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"MM\0*" + bytes(20), "truncated or damaged TIFF"),
    ],
)
def test_a_file_that_is_not_an_image_is_refused(data, message):
    with pytest.raises(ImageError, match=message) as caught:
        decode(data, SPEC)
    assert "\n" not in str(caught.value)


def test_nothing_larger_than_the_limit_is_decoded():
    bomb = encode(Image.new("1", (14_000, 14_000)), "PNG")
    assert len(bomb) < 100_000
    with pytest.raises(ImageError, match=f"14000x14000 px are more than the {MAX_PIXELS:,}"):
        decode(bomb, SPEC)
    for data in (bomb[:60], make_png(2**31 - 1, 2**31 - 1, 8, 2, []), b"P6 99999999 99999999 255\n"):
        with pytest.raises(ImageError, match="px are more than"):
            probe(data)


@pytest.mark.parametrize(
    ("name", "bytes_per_pixel"),
    [
        ("jpeg", 4),
        ("jpeg grey", 1),
        ("jpeg cmyk", 8),
        ("jpeg progressive", 10),
        ("png", 4),
        ("png 16", 3),
        ("png palette", 5),
        ("webp", 16.6),
        ("jp2", 19),
        ("avif", 10),
    ],
)
def test_the_memory_that_an_image_takes_is_limited_before_it_is_decoded(name, bytes_per_pixel, monkeypatch):
    data = make_file(name)
    needed = 320 * 214 * bytes_per_pixel + len(data)
    monkeypatch.setattr(decoding, "MAX_DECODING_BYTES", needed + 1)
    assert decode(data, SPEC).width_px == 320
    monkeypatch.setattr(decoding, "MAX_DECODING_BYTES", needed - 1)
    with pytest.raises(ImageError, match=r"320x214 px of .* MiB of memory to decode, .*make it smaller, or save it"):
        decode(data, SPEC)


def test_tags_of_tiles_that_are_not_numbers_do_no_harm():
    tiff = encode(load_photo(), "TIFF", tiffinfo={322: "wide", 323: 10**9})
    assert probe(tiff).width_px == 320


def test_exif_after_the_pixels_of_a_png_counts():
    exif = make_chunk(b"eXIf", make_exif(6).tobytes()[6:])
    rows = [bytes([0, 50, 100]), bytes([150, 200, 250])]
    for data in (make_png(3, 2, 8, 0, rows, before=exif), make_png(3, 2, 8, 0, rows, after=exif)):
        assert probe(data) == Probe("PNG", "L", width_px=2, height_px=3, orientation=6)
        pixels = decode(data, ImageSpec(height=3, width=2)).pixels
        assert pixels[..., 0].tolist() == [[150, 0], [200, 50], [250, 100]]


def test_exif_in_the_text_of_a_png_counts():
    # Older writers store it as hexadecimal text instead of a chunk.
    exif = make_exif(8).tobytes()
    text = PngInfo()
    text.add_text("Raw profile type exif", f"\nexif\n{len(exif):8}\n{exif.hex()}\n", zip=True)
    header = probe(encode(load_photo(), "PNG", pnginfo=text))
    assert (header.orientation, header.width_px, header.height_px) == (8, 214, 320)


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"garbage",
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        make_exif(9).tobytes(),
        make_exif(0).tobytes(),
        make_exif(6).tobytes()[:-9],
    ],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Truncated File Read")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_does_not_lose_the_image(kind, exif):
    decoded = decode(encode(load_photo(), kind, exif=exif), SPEC)
    assert (decoded.width_px, decoded.height_px) == (320, 214)


# --- formats


@pytest.mark.parametrize("name", RECIPES)
def test_every_format_is_decoded(name):
    decoded = decode(make_file(name), SPEC)
    assert (decoded.width_px, decoded.height_px) == (320, 214)
    assert decoded.pixels.shape == (24, 32, 3)
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.flags.c_contiguous
    assert decoded.pixels.flags.writeable


@pytest.mark.parametrize("name", [name for name in RECIPES if "grey" not in name and "16" not in name])
def test_every_format_shows_the_same_photo(name):
    photo = load_photo().convert("1" if "fax" in name else "RGB").convert("RGB")
    wanted = np.asarray(photo.resize((32, 24), Image.Resampling.BILINEAR), dtype=float)
    allowed = 16 if name in {"gif", "png palette"} else 4  # 256 colours, dithered
    assert np.abs(decode(make_file(name), SPEC).pixels - wanted).mean() < allowed


@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.filterwarnings(
    "ignore"
)  # by default warnings are not errors, and must not be the reason for refusing the file
def test_a_truncated_file_is_refused(name, part):
    whole = make_file(name)
    cut = whole[: int(len(whole) * part)]
    if (name, part) == ("tiff fax", 0.9):  # only metadata is missing: every pixel is there
        assert np.array_equal(decode(cut, SPEC).pixels, decode(whole, SPEC).pixels)
        return
    with pytest.raises(ImageError, match=r"truncated or damaged|not an image"):
        decode(cut, SPEC)


def test_a_jpeg_that_ends_in_zeros_is_refused():
    # An interrupted copy into a preallocated file: the right size, but zeros from the middle on.
    data = make_file("jpeg")
    with pytest.raises(ImageError, match="its end is missing"):
        decode(data[: len(data) // 2] + bytes(len(data) - len(data) // 2), SPEC)


def test_zeros_after_the_end_of_a_jpeg_do_no_harm():
    assert np.array_equal(decode(make_file("jpeg") + bytes(1000), SPEC).pixels, decode(make_file("jpeg"), SPEC).pixels)


def test_a_photo_of_100_megapixels_is_decoded_without_a_warning():
    # Image.open would warn here, and a warning is an error in these tests.
    decoded = decode(encode(Image.new("L", (10_000, 10_000), 77), "JPEG"), SPEC)
    assert (decoded.width_px, decoded.height_px) == (10_000, 10_000)
    assert np.unique(decoded.pixels).tolist() == [77]


def test_pillows_global_state_stays_as_it_was():
    before = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, list(warnings.filters), list(Image.ID))
    for name in RECIPES:
        decode(make_file(name), SPEC)
    assert (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, list(warnings.filters), list(Image.ID)) == before


# --- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_exif_orientation_is_applied(orientation, kind, resize):
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind in {"JPEG", "AVIF"} else {}
    data = encode(load_photo(120, 80), kind, exif=make_exif(orientation), **options)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    spec = ImageSpec(height=40, width=48, resize=resize, decoder="pillow-full")
    decoded = decode(data, spec)
    assert (decoded.width_px, decoded.height_px) == upright.size
    assert (probe(data).width_px, probe(data).height_px) == upright.size
    wanted = decode(encode(upright, "PNG"), spec).pixels
    assert np.abs(decoded.pixels.astype(int) - wanted).max() <= 2  # the two passes of a resize round in another order


# --- modes


@pytest.mark.parametrize(
    ("mode", "colour", "kind", "wanted"),
    [
        ("1", 255, "PNG", WHITE),
        ("1", 0, "TIFF", BLACK),
        ("L", 128, "PNG", GREY),
        ("LA", (128, 255), "PNG", GREY),
        ("LA", (0, 128), "PNG", [127, 127, 127]),
        ("LA", (0, 0), "TIFF", WHITE),
        ("RGB", (10, 20, 30), "BMP", [10, 20, 30]),
        ("RGBA", (10, 20, 30, 255), "PNG", [10, 20, 30]),
        ("RGBA", (200, 0, 100, 0), "PNG", WHITE),
        ("RGBA", (200, 0, 100, 51), "PNG", [244, 204, 224]),
        ("RGBA", (200, 0, 100, 51), "JPEG2000", [244, 204, 224]),
        ("CMYK", (0, 255, 255, 0), "TIFF", [255, 0, 0]),
        ("CMYK", (0, 0, 0, 255), "TIFF", BLACK),
        ("CMYK", (255, 0, 0, 0), "JPEG2000", [0, 255, 255]),
        ("YCbCr", (255, 128, 128), "TIFF", WHITE),
        ("LAB", (255, 128, 128), "TIFF", WHITE),
        ("I;16", 65535, "PNG", WHITE),
        ("I;16", 256, "PNG", [1, 1, 1]),
        ("I;16", 128 * 257, "TIFF", GREY),
        ("I;16", 128 * 257 - 128, "TIFF", GREY),
        ("I;16", 128 * 257 - 129, "TIFF", [127, 127, 127]),
        ("I;16B", 128 * 257, "TIFF", GREY),
        ("I;16", 128 * 257, "JPEG2000", GREY),
        ("I;16", 128 * 257, "PPM", GREY),
    ],
)
def test_every_mode_becomes_rgb(mode, colour, kind, wanted):
    data = encode(Image.new(mode, (7, 5), colour), kind)
    assert probe(data).mode in {mode, "I", "RGB"}
    pixels = decode(data, ImageSpec(height=4, width=6)).pixels
    assert np.abs(pixels.astype(int) - wanted).max() <= (1 if kind == "JPEG2000" or mode == "LAB" else 0)


def test_lab_photo_keeps_its_colours():
    # Pillow writes LAB with the encoding of its own conversion, so that only rounding remains.
    photo = load_photo(80, 54)
    pixels = decode_plain(encode(photo.convert("LAB"), "TIFF"))
    assert np.abs(pixels.astype(int) - np.asarray(photo)).mean() < 3


def test_inverted_cmyk_of_adobe_is_read_correctly():
    photo = load_photo()
    data = encode(photo.convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data[:100]
    assert np.abs(decode_plain(data).astype(int) - np.asarray(photo)).mean() < 4


def test_palette_with_and_without_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 100, 0])
    image.putdata([0, 1])
    assert decode_plain(encode(image, "PNG")).tolist() == [[[200, 0, 0], [0, 100, 0]]]
    assert decode_plain(encode(image, "PNG", transparency=0)).tolist() == [[WHITE, [0, 100, 0]]]
    assert decode_plain(encode(image, "PNG", transparency=bytes([0, 51]))).tolist() == [[WHITE, [204, 224, 204]]]
    assert decode_plain(encode(image, "GIF", transparency=1)).tolist() == [[[200, 0, 0], WHITE]]
    assert decode_plain(encode(image.convert("PA"), "TIFF")).tolist() == [[[200, 0, 0], [0, 100, 0]]]


def test_a_colour_key_is_transparent():
    key = make_chunk(b"tRNS", struct.pack(">H", 7))
    assert decode_plain(make_png(2, 1, 8, 0, [bytes([7, 8])], before=key)).tolist() == [[WHITE, [8, 8, 8]]]
    rows = [struct.pack(">2H", 7, 257 * 8)]
    assert decode_plain(make_png(2, 1, 16, 0, rows, before=key)).tolist() == [[WHITE, [8, 8, 8]]]
    key = make_chunk(b"tRNS", struct.pack(">3H", 7, 8, 9))
    assert decode_plain(make_png(2, 1, 8, 2, [bytes([7, 8, 9, 9, 8, 7])], before=key)).tolist() == [[WHITE, [9, 8, 7]]]


def make_grey_tiff(width, bits, data, photometric=1):
    tags = [(256, width), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 122), (277, 1), (278, 1)]
    tags.append((279, len(data)))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return (b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)).ljust(122, b"\0") + data


def test_tiff_of_12_bits_and_of_16_counted_from_white():
    black_and_white = bytes([0x00, 0x0F, 0xFF])  # two values of 12 bits
    assert decode_plain(make_grey_tiff(2, 12, black_and_white)).tolist() == [[BLACK, WHITE]]
    values = struct.pack("<3H", 0, 65535, 127 * 257)
    assert decode_plain(make_grey_tiff(3, 16, values)).tolist() == [[BLACK, WHITE, [127] * 3]]
    assert decode_plain(make_grey_tiff(3, 16, values, photometric=0)).tolist() == [[WHITE, BLACK, GREY]]


def test_premultiplied_grey_is_put_on_white():
    # Pillow reads this mode but does not write it. Its files differ from those of LA only in the kind of extra sample.
    straight = encode(Image.new("LA", (7, 5), (64, 128)), "TIFF")
    tag = struct.pack("<HHI", 338, 3, 1)
    assert straight.count(tag + b"\2") == 1
    data = straight.replace(tag + b"\2", tag + b"\1")
    assert probe(data).mode == "La"
    assert np.unique(decode_plain(data)).tolist() == [191]


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "CMYK", "I;16"])
def test_strips_leave_no_seam(mode):
    photo = load_photo(1500, 1400)  # one strip and a half
    if mode == "I;16":
        image = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
        wanted = np.repeat(np.asarray(photo.convert("L"))[..., None], 3, axis=2)
    elif mode in {"LA", "RGBA"}:
        image = photo.convert(mode)
        image.putalpha(Image.linear_gradient("L").resize(photo.size))
        paper = Image.new("RGB", photo.size, "white")
        paper.paste(image.convert("RGBA"), mask=image.getchannel("A"))
        wanted = np.asarray(paper)
    else:
        image = photo.convert(mode)
        wanted = np.asarray(image.convert("RGB"))
    assert np.array_equal(decode_plain(encode(image, "TIFF")), wanted)


@pytest.mark.parametrize(
    ("mode", "kind", "message"),
    [
        ("F", "TIFF", "TIFF with float samples, which"),
        ("I", "TIFF", "signed samples"),
        ("F", "PPM", "PNM with float samples"),
    ],
)
def test_pixels_without_a_range_are_refused(mode, kind, message):
    with pytest.raises(ImageError, match=message):
        decode(encode(Image.new(mode, (7, 5)), kind), SPEC)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF", "MPO"])
def test_the_first_frame_counts(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("black", "white", "white")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames > 1
    assert decode_plain(data).max() == 0


# --- resize


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
def test_stretch_is_pillows_antialiased_resize(interpolation):
    photo = load_photo()
    wanted = photo.resize((32, 24), Image.Resampling[interpolation.upper()])
    spec = ImageSpec(height=24, width=32, interpolation=interpolation, decoder="pillow-full")
    assert np.array_equal(decode(encode(photo, "PNG"), spec).pixels, np.asarray(wanted))


def test_crop_keeps_the_middle_and_pad_keeps_everything():
    stripes = Image.new("RGB", (80, 20))
    for at, colour in enumerate(("red", "lime", "lime", "blue")):
        stripes.paste(colour, (20 * at, 0, 20 * at + 20, 20))
    data = encode(stripes, "PNG")
    cropped = decode(data, ImageSpec(height=20, width=40, resize="crop")).pixels
    assert (cropped == [0, 255, 0]).all()
    padded = decode(data, ImageSpec(height=40, width=40, resize="pad")).pixels
    assert not padded[:15].any()
    assert not padded[25:].any()
    assert (padded[15:25].max(axis=-1) > 0).all()
    assert padded[20, 0].tolist() == [255, 0, 0]
    assert padded[20, -1].tolist() == [0, 0, 255]


def test_a_share_of_a_crop_is_a_resize_to_a_longer_side_before_it():
    photo = load_photo().crop((0, 0, 400, 300))
    wanted = np.asarray(photo.resize((128, 96), Image.Resampling.BICUBIC).crop((22, 6, 106, 90)), int)
    data = encode(photo, "PNG")
    for decoder in ("pillow-full", "simd-full"):
        found = decode(data, ImageSpec(84, 84, "crop", "bicubic", decoder, crop=0.875)).pixels
        assert np.abs(found - wanted).mean() < 1
    assert np.abs(decode(data, ImageSpec(84, 84, "crop", "bicubic")).pixels - wanted).mean() > 4


@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    target=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    resize=st.sampled_from(["stretch", "crop", "pad"]),
    interpolation=st.sampled_from(["bilinear", "bicubic", "lanczos", "nearest"]),
    orientation=st.integers(1, 8),
    kind=st.sampled_from(["JPEG", "PNG"]),
)
@example((65_500, 1), (40, 40), "crop", "bilinear", 1, "JPEG")
@example((65_500, 1), (40, 40), "pad", "lanczos", 6, "JPEG")
@example((65_500, 1), (3, 40), "crop", "bicubic", 1, "PNG")
@example((1, 65_500), (40, 40), "stretch", "nearest", 5, "PNG")
@example((1, 65_500), (40, 1), "pad", "bilinear", 1, "PNG")
@settings(deadline=None, max_examples=150)
def test_a_plain_image_stays_plain_at_any_shape(size, target, resize, interpolation, orientation, kind):
    data = encode(Image.new("L", size, 90), kind, exif=make_exif(orientation))
    spec = ImageSpec(height=target[0], width=target[1], resize=resize, interpolation=interpolation)
    decoded = decode(data, spec)
    assert decoded.pixels.shape == (*target, 3)
    levels = set(np.unique(decoded.pixels).tolist())
    assert levels <= ({0, 90} if resize == "pad" else {90})
    assert 90 in levels
    assert {decoded.width_px, decoded.height_px} == set(size)


# --- decoding at a reduced scale


@pytest.mark.parametrize("resizer", ["simd", "pillow"])
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_reduced_scale_leaves_images_below_four_times_the_size_alone(resize, orientation, resizer):
    # 223 px are less than four times 56, and the wide side alone must not decide.
    data = encode(load_photo(1000, 223), "JPEG", exif=make_exif(orientation))
    height, width = (56, 56) if resize != "pad" else (251, 251)
    scaled = decode(data, ImageSpec(height, width, resize, decoder=f"{resizer}-scaled")).pixels
    assert np.array_equal(scaled, decode(data, ImageSpec(height, width, resize, decoder=f"{resizer}-full")).pixels)


@pytest.mark.parametrize("resizer", ["simd", "pillow"])
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(4256, 2840), (4001, 2999), (2999, 4001)])
def test_reduced_scale_is_within_a_grey_level_of_full(resize, size, resizer):
    data = encode(load_photo(*size), "JPEG", quality=92, exif=make_exif(6))
    scaled = decode(data, ImageSpec(224, 224, resize, decoder=f"{resizer}-scaled")).pixels
    full = decode(data, ImageSpec(224, 224, resize, decoder=f"{resizer}-full")).pixels
    difference = np.abs(scaled.astype(int) - full)
    assert 0 < difference.mean() < 0.6
    assert difference.max() < 16


# --- hostile bytes and threads


@pytest.mark.parametrize("warning_filter", ["default", "error"])
@pytest.mark.parametrize("name", RECIPES)
def test_damaged_bytes_give_an_image_or_an_image_error(name, warning_filter):
    whole = make_file(name, 40, 28)
    random = np.random.default_rng(len(whole))
    reasons = []
    with warnings.catch_warnings(record=warning_filter == "default"):
        warnings.simplefilter(warning_filter)
        for _ in range(100):
            try:
                assert decode(damage(whole, random), SPEC).pixels.shape == (24, 32, 3)
            except ImageError as error:
                reasons.append(str(error))
    assert reasons
    assert all(0 < len(reason) < 250 and "\n" not in reason for reason in reasons)


def damage(data, random):
    damaged = bytearray(data)
    for _ in range(random.integers(1, 6)):
        # Headers are short and decide most: half of the damage goes there.
        end = len(data) if random.random() < 0.5 else min(len(data), 150)
        damaged[random.integers(end)] = random.integers(256)
    if random.random() < 0.3:
        del damaged[random.integers(len(data)) :]
    return bytes(damaged)


def test_threads_decode_the_same_pixels():
    wanted = {name: decode(make_file(name), SPEC).pixels for name in RECIPES}
    wrong = []

    def work():
        wrong.extend(name for name in RECIPES if not np.array_equal(decode(make_file(name), SPEC).pixels, wanted[name]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_real_photos_decode(shared):
    paths = sorted((shared / "data" / "ants_bees" / "val").glob("*/*"))
    assert len(paths) == 153
    for path in paths[::10]:
        decoded = decode(path.read_bytes(), ImageSpec(224, 224))
        assert decoded.pixels.std() > 10


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("extent", [(120, 60), (50, 90)])
def test_what_a_network_sees_of_an_image_is_found(resize, extent):
    columns, rows = np.meshgrid(*(np.arange(length) * 2 + 10 for length in extent))
    data = encode(Image.fromarray(np.stack([columns, rows, rows], axis=2).astype(np.uint8)), "PNG")
    spec = ImageSpec(height=24, width=32, resize=resize, **({"crop": 0.8} if resize == "crop" else {}))
    pixels = decode(data, spec).pixels
    left, top, width, height = find_view(*extent, spec)
    for at, (start, share, length) in enumerate(((left, width, extent[0]), (top, height, extent[1]))):
        seen = pixels[..., at].max(axis=at)
        places = (start + share * (np.arange(len(seen)) + 0.5) / len(seen)) * length
        inside = (places > 4) & (places < length - 4)
        assert inside.sum() > 8
        np.testing.assert_allclose(seen[inside], 2 * (places[inside] - 0.5) + 10, atol=2)
