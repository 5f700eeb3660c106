import io
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from image_files import encode, load_photo, make_exif
from PIL import Image

from featx.items import decoding, resizing
from featx.items.decoding import decode
from featx.items.resizing import decode_jpeg, resize
from featx.specs import ImageSpec

FILTERS = ("bilinear", "bicubic", "lanczos")


def make_pixels(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(np.uint8)


# --- decoding of JPEGs


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"keep_rgb": True}, {"quality": 30}]
)
@pytest.mark.parametrize("size", [(1001, 777), (500, 375), (17, 9)])
def test_jpegs_have_the_pixels_that_pillow_decodes(size, options, mode, scale):
    data = encode(load_photo(*size).convert(mode), "JPEG", **options)
    image = Image.open(io.BytesIO(data))
    drafted = image.draft(None, tuple(max(1, side // scale) for side in size))
    found = decode_jpeg(image, data, round(size[0] / drafted[1][2]) if drafted else 1)
    assert np.array_equal(found.squeeze(), np.asarray(image))


@pytest.mark.parametrize("damage", [lambda data: data[:-200], lambda data: data[:-400] + b"\xff\xd9"])
def test_a_damaged_jpeg_is_left_to_pillow(damage):
    data = damage(encode(load_photo(), "JPEG"))
    assert decode_jpeg(Image.open(io.BytesIO(data)), data, 1) is None


def test_a_jpeg_in_cmyk_is_left_to_pillow():
    data = encode(load_photo().convert("CMYK"), "JPEG")
    assert decode_jpeg(Image.open(io.BytesIO(data)), data, 1) is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_without_the_jpeg_package_the_pixels_are_the_same(kind, monkeypatch):
    data, spec = encode(load_photo(), kind), ImageSpec(48, 64)
    with_package = decode(data, spec).pixels
    monkeypatch.setattr(resizing, "_HAS_FAST_JPEG", False)
    assert np.array_equal(decode(data, spec).pixels, with_package)


# --- resizing


@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    target=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    channels=st.sampled_from([1, 3]),
    interpolation=st.sampled_from(FILTERS),
    shape=st.sampled_from(["stretch", "crop", "pad"]),
    cut=st.tuples(st.integers(0, 7), st.integers(0, 7)),
)
@example((5, 5), (17, 40), 3, "bicubic", "crop", (0, 0))  # a box of 2.1 x 5 px, for which the resizer crashes
@example((16, 500), (32, 3), 1, "bicubic", "crop", (0, 0))
@example((1, 65_500), (40, 40), 3, "lanczos", "crop", (0, 0))
@settings(deadline=None, max_examples=300)
def test_any_shape_gives_the_pixels_of_pillow_within_a_level(size, target, channels, interpolation, shape, cut):
    height, width = size
    extent = (width, height)
    if height >= 2 * target[0] and width >= 2 * target[1]:  # as after decoding at a reduced scale
        extent = (width - cut[0] / 8, height - cut[1] / 8)
    pixels = make_pixels(height, width, channels)
    spec = ImageSpec(*target, shape, interpolation, "simd-full")
    fitted, box = decoding._fit(extent, target[::-1], ImageSpec(*target, resize=shape))
    found = resize(pixels, fitted, spec, box)
    image = Image.fromarray(pixels.squeeze(axis=2) if channels == 1 else pixels)
    assert np.array_equal(found, resize(image, fitted, spec, box))
    assert found.shape == (fitted[1], fitted[0], channels)
    if interpolation == "bilinear":
        left, right = resizing._snap(box[0], box[2], width, fitted[0])
        top, bottom = resizing._snap(box[1], box[3], height, fitted[1])
        x, y = math.floor(left), math.floor(top)
        part = image.crop((x, y, math.ceil(right), math.ceil(bottom)))
        wanted = part.resize(fitted, Image.Resampling.BILINEAR, box=(left - x, top - y, right - x, bottom - y))
        assert np.abs(found.squeeze().astype(int) - np.asarray(wanted).squeeze()).max() <= 1


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_kind_of_instructions_gives_the_same_pixels(mode, interpolation, monkeypatch):
    import cykooz_resizer

    image, spec = load_photo(500, 333).convert(mode), ImageSpec(97, 131, "crop", interpolation, "simd-full")
    found = []
    for kind in cykooz_resizer.CpuExtensions:
        resizer = cykooz_resizer.Resizer()
        try:
            resizer.cpu_extensions = kind
        except ValueError:
            continue  # this processor does not have them
        if resizer.cpu_extensions == kind:
            monkeypatch.setattr(resizing._local, "resizer", resizer, raising=False)
            found.append(np.asarray(resize(image, (131, 97), spec, (20.4, 0, 480.1, 333))))
    assert len(found) >= 2
    assert all(np.array_equal(pixels, found[0]) for pixels in found)


@pytest.mark.parametrize("interpolation", FILTERS)
def test_a_large_image_that_is_not_copied_gives_the_same_pixels(interpolation, monkeypatch):
    image, spec = load_photo(900, 700), ImageSpec(224, 224, "crop", interpolation, "simd-full")
    box = (100.0, 0.0, 800.0, 700.0)
    copied = np.asarray(resize(image, (224, 224), spec, box))
    monkeypatch.setattr(resizing, "_MOST_COPIED_PX", 1000)
    assert np.array_equal(np.asarray(resize(image, (224, 224), spec, box)), copied)


def test_an_image_of_several_memory_blocks_is_resized_where_it_is():
    image = load_photo(6000, 4000)
    assert image.width * image.height > resizing._MOST_COPIED_PX
    spec = ImageSpec(50, 50, decoder="simd-full")
    found = np.asarray(resize(image, (50, 50), spec, (0, 0, 6000, 4000)))
    wanted = np.asarray(image.resize((50, 50), Image.Resampling.BILINEAR))
    assert np.abs(found.astype(int) - wanted).max() <= 1


def test_nearest_takes_the_pixels_that_pillow_takes():
    data = encode(load_photo(), "PNG")
    specs = [ImageSpec(24, 32, "crop", "nearest", decoder) for decoder in ("simd-full", "pillow-full")]
    assert np.array_equal(*(decode(data, spec).pixels for spec in specs))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("shape", ["stretch", "crop", "pad"])
def test_the_two_decoders_differ_by_a_level_or_so(shape, orientation):
    data = encode(load_photo(640, 427), "JPEG", exif=make_exif(orientation))
    simd, pillow = (
        decode(data, ImageSpec(64, 80, shape, decoder=decoder)).pixels.astype(int)
        for decoder in ("simd-full", "pillow-full")
    )
    if shape == "crop":  # its box has whole pixels here, and fractions there
        assert np.abs(simd - pillow).mean() < 1
    else:
        assert 0 < np.abs(simd - pillow).max() <= 1


def test_without_the_package_of_the_resizer_the_default_is_pillow_and_simd_is_refused(tmp_path):
    path = tmp_path / "a.png"
    load_photo(40, 30).save(path)
    code = f"""
import sys
sys.modules["cykooz_resizer"] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "cykooz_resizer" else find(name, *rest)
import featx
from featx.errors import MissingExtraError
from featx.items.decoding import decode
data = open({str(path)!r}, "rb").read()
assert decode(data, featx.ImageSpec(8, 8)).pixels.shape == (8, 8, 3)
assert featx.ImageSpec(8, 8).decoder == "pillow-scaled"
try:
    decode(data, featx.ImageSpec(8, 8, decoder="simd-scaled"))
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install cykooz-resizer" in done.stdout
    assert "--decoder pillow-scaled" in done.stdout
