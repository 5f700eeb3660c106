"""Pictures in memory: the same pixels give the same numbers in every form."""

import io

import numpy as np
import pytest
from image_files import encode, load_photo, make_exif, make_file, make_png
from PIL import Image, ImageOps

from featx.errors import ImageError
from featx.items.decoding import decode
from featx.items.pictures import encode_picture, make_item
from featx.specs import ImageSpec

SPEC = ImageSpec(height=24, width=32)


def decode_picture(picture):
    return decode(encode_picture(picture), SPEC).pixels


def open_loaded(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


FILES = {
    "RGB": encode(load_photo(), "PNG"),
    "L": encode(load_photo().convert("L"), "PNG"),
    "1": encode(load_photo().convert("1"), "PNG"),
    "LA": encode(load_photo().convert("LA"), "PNG"),
    "RGBA": encode(load_photo().convert("RGBA").rotate(30), "PNG"),
    "P": encode(load_photo().convert("P"), "PNG"),
    "P with a transparent colour": encode(load_photo().convert("P"), "PNG", transparency=3),
    "P with alpha": encode(load_photo().convert("P"), "PNG", transparency=bytes(range(256))),
    "RGB with a transparent colour": encode(load_photo(), "PNG", transparency=load_photo().getpixel((5, 5))),
    "L with a transparent colour": encode(load_photo().convert("L"), "PNG", transparency=200),
    "I;16": make_file("png 16"),
    "I of PGM": make_file("pgm 16"),
    "I;16B": encode(Image.new("I;16B", (9, 9), 128 * 257), "TIFF"),
    "CMYK": encode(load_photo().convert("CMYK"), "TIFF"),
    "CMYK of JPEG": encode(load_photo(60, 40).convert("CMYK"), "JPEG"),
    "YCbCr": encode(load_photo().convert("YCbCr"), "TIFF"),
    "LAB": encode(load_photo().convert("LAB"), "TIFF"),
    "JPEG": encode(load_photo(60, 40), "JPEG"),
    "GIF": make_file("gif"),
    "WebP": make_file("webp lossless"),
}


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_every_form_of_an_image_gives_its_pixels(data):
    expected = decode(data, SPEC).pixels
    written = io.BytesIO()
    written.write(data)  # stands at its end
    for picture in (data, bytearray(data), memoryview(data), io.BytesIO(data), written, Image.open(io.BytesIO(data))):
        assert np.array_equal(decode_picture(picture), expected)
    assert np.array_equal(decode_picture(open_loaded(data)), expected)
    if data is not FILES["I of PGM"]:  # whose copy no longer records its range
        assert np.array_equal(decode_picture(open_loaded(data).copy()), expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_arrays_give_the_pixels_of_a_lossless_file(mode):
    image = load_photo().convert(mode)
    array = np.asarray(image)
    expected = decode(encode(image, "PNG"), SPEC).pixels
    for picture in (array, array[:, ::-1][:, ::-1], array[..., None] if mode == "L" else np.asfortranarray(array)):
        assert np.array_equal(decode_picture(picture), expected)


def test_alpha_of_an_array_is_put_on_white():
    array = np.zeros((4, 4, 4), np.uint8)
    assert np.unique(decode_picture(array)).tolist() == [255]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_the_orientation_of_an_image_of_pillow_is_applied(orientation, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(load_photo(60, 40), kind, exif=make_exif(orientation), **options)
    expected = decode(data, SPEC).pixels
    assert np.array_equal(decode_picture(Image.open(io.BytesIO(data))), expected)
    assert np.array_equal(decode_picture(open_loaded(data)), expected)
    upright = ImageOps.exif_transpose(open_loaded(data))
    assert np.abs(decode_picture(upright).astype(int) - expected).max() <= 2  # rotated before the resize, not after


def test_orientation_and_other_modes_are_kept_together():
    for mode in ("CMYK", "P", "LA", "1"):
        image = load_photo(60, 40).convert(mode)
        image.getexif()[274] = 6
        turned = ImageOps.exif_transpose(image)
        wide = ImageSpec(height=60, width=40)
        pixels = decode(encode_picture(image), wide).pixels
        assert np.array_equal(pixels, decode(encode_picture(turned), wide).pixels)


def test_an_image_of_pillow_that_is_not_loaded_is_read_from_its_file():
    large = encode(load_photo(1280, 856), "JPEG")
    image = Image.open(io.BytesIO(large))
    assert np.array_equal(decode_picture(image), decode(large, SPEC).pixels)
    assert image.getpixel((5, 5)) == open_loaded(large).getpixel((5, 5))  # it can still be used
    # Once its pixels are loaded, no reduced scale is possible.
    full = decode(large, ImageSpec(height=24, width=32, decoder="simd-full")).pixels
    assert np.array_equal(decode_picture(open_loaded(large)), full)
    assert np.abs(decode(large, SPEC).pixels.astype(int) - full).mean() < 1


def test_16_bits_of_an_image_that_is_not_loaded_are_kept():
    row = np.array([0x20FF, 0x30FF, 0x40FF] * 9, ">u2").tobytes()
    data = make_png(9, 1, 16, 2, [row])
    assert np.unique(decode_picture(Image.open(io.BytesIO(data)))).tolist() == [33, 49, 65]


def test_the_frame_that_an_image_of_pillow_shows_counts():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("black", "white")]
    image = Image.open(io.BytesIO(encode(frames[0], "GIF", save_all=True, append_images=frames[1:])))
    assert np.unique(decode_picture(image)).tolist() == [0]
    image.seek(1)
    assert np.unique(decode_picture(image)).tolist() == [255]


@pytest.mark.parametrize("mode", ["RGBa", "La", "HSV", "PA", "RGBX"])
def test_other_modes_are_converted(mode):
    grey = mode in {"La", "PA"}
    image = Image.new("LA" if grey else "RGB", (8, 8), (90, 255) if grey else (90, 90, 90))
    image = image.convert("RGBA" if mode in {"RGBa", "PA"} else image.mode).convert(mode)
    assert np.unique(decode_picture(image)).tolist() == [90]


def test_a_truncated_image_of_pillow_is_an_item_with_a_reason(tmp_path):
    cut = encode(load_photo(), "JPEG")[:2000]
    (tmp_path / "cut.jpg").write_bytes(cut)
    with Image.open(tmp_path / "cut.jpg") as image, pytest.raises(ImageError, match="truncated or damaged JPEG"):
        decode_picture(image)
    image = Image.open(io.BytesIO(encode(load_photo(), "GIF")[:2000]))
    image.seek(0)
    with pytest.raises(ImageError, match="truncated or damaged GIF"):
        decode_picture(image)


def test_a_file_that_is_closed_has_a_reason():
    file = io.BytesIO(make_file("png"))
    file.close()
    assert "closed file" in make_item("image 0", file).reason
