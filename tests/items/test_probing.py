from importlib.util import find_spec

import pytest
from image_files import RECIPES, encode, load_photo, make_chunk, make_exif, make_file, make_png
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from featx.errors import ImageError
from featx.items import probing
from featx.items.decoding import decode
from featx.items.probing import MAX_PIXELS, Probe, open_image, probe
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


@pytest.mark.parametrize("name", RECIPES)
def test_every_format_is_known_by_content(name):
    header = probe(make_file(name))
    assert (header.format, header.width_px, header.height_px) == (FORMATS[name.split()[0]], 320, 214)


@pytest.mark.parametrize("name", ["jpeg", "png", "gif", "bmp", "tiff", "jp2", "ppm"])
def test_probing_decodes_no_pixel(name):
    image, _ = open_image(make_file(name))
    assert image.tile  # Pillow's list of what is still to be decoded


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html></html>", "no image: it starts with b'<!DOCTYPE html><'.*known are JPEG, PNG"),
        (b"\xff", "no image"),
        (b"\xff\xd8\xff", "truncated or damaged JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image"),
        (b"MM\0*" + bytes(20), "truncated or damaged TIFF"),
    ],
)
def test_what_is_no_image_is_refused(data, message):
    with pytest.raises(ImageError, match=message) as caught:
        decode(data, SPEC)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(find_spec("pillow_heif") is not None, reason="pillow-heif is installed")
@pytest.mark.parametrize("brands", [b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic"])
def test_heic_names_the_package_that_reads_it(brands):
    with pytest.raises(ImageError, match="pip install pillow-heif"):
        decode(b"\0\0\0\x18ftyp" + brands, SPEC)


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
    monkeypatch.setattr(probing, "MAX_DECODING_BYTES", needed + 1)
    assert decode(data, SPEC).width_px == 320
    monkeypatch.setattr(probing, "MAX_DECODING_BYTES", needed - 1)
    with pytest.raises(ImageError, match=r"320x214 px of .* MiB of memory to decode, .*make it smaller, or save it"):
        decode(data, SPEC)


def test_tags_of_tiles_that_are_no_numbers_harm_nothing():
    tiff = encode(load_photo(), "TIFF", tiffinfo={322: "wide", 323: 10**9})
    assert probe(tiff).width_px == 320


def test_exif_behind_the_pixels_of_a_png_counts():
    exif = make_chunk(b"eXIf", make_exif(6).tobytes()[6:])
    rows = [bytes([0, 50, 100]), bytes([150, 200, 250])]
    for data in (make_png(3, 2, 8, 0, rows, before=exif), make_png(3, 2, 8, 0, rows, after=exif)):
        assert probe(data) == Probe("PNG", "L", width_px=2, height_px=3, orientation=6)
        pixels = decode(data, ImageSpec(height=3, width=2)).pixels
        assert pixels[..., 0].tolist() == [[150, 0], [200, 50], [250, 100]]


def test_exif_in_the_text_of_a_png_counts():
    # Older writers have no chunk for it and put it in hexadecimal.
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
