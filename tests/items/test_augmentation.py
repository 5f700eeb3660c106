import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from image_files import load_photo
from PIL import Image

from featx.errors import UnknownNameError, UsageError
from featx.items.augmentation import (
    FLIPS,
    PRESETS,
    Augmentation,
    draw_contact_sheet,
    parse_augmentation,
    view_image,
)

ONE, OTHER = "ab" * 32, "cd" * 32
EXAMPLES = ("flip", "flip:both", "rotate", "zoom", "shear", "shift", "contrast", "crop", *PRESETS)

#: Pixels at two places of each view in the first version.
PINNED = {
    "light": [92, 59, 70, 207, 154, 166],
    "medium": [98, 81, 83, 208, 131, 159],
    "strong": [103, 93, 92, 181, 106, 136],
}

AUGMENTATIONS = st.builds(
    Augmentation,
    flip=st.sampled_from(["", *FLIPS]),
    rotate=st.floats(0, 180),
    zoom=st.floats(0, 1),
    shear=st.floats(0, 1),
    shift=st.floats(0, 0.5),
    contrast=st.floats(0, 1),
    crop=st.floats(0.01, 1),
)


@pytest.fixture(scope="module")
def photo():
    return np.asarray(load_photo().convert("RGB").resize((64, 48), Image.Resampling.BILINEAR))


def make_dot(x, y, width=81, height=61):
    """Return a white image with a dark square far from the borders, so that no reflection is visible."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    pixels[y - 2 : y + 3, x - 2 : x + 3] = 0
    return pixels


def find_dot(pixels):
    dark = 255.0 - pixels[..., 0]
    rows, columns = np.indices(dark.shape)
    return (columns * dark).sum() / dark.sum(), (rows * dark).sum() / dark.sum()


def view(pixels, text, number=1, seed=0, sha256=ONE):
    return view_image(pixels, parse_augmentation(text), seed=seed, sha256=sha256, number=number)


def list_views(pixels, text, count=40):
    return [view(pixels, text, number) for number in range(1, count + 1)]


@given(AUGMENTATIONS)
def test_canonical_text_is_read_back_as_the_same(augmentation):
    again = parse_augmentation(str(augmentation))
    assert again == augmentation
    assert str(again) == str(augmentation)
    assert hash(again) == hash(augmentation)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", ""),
        (" , ", ""),
        ("flip,rotate,zoom", "flip,rotate:15,zoom:0.2"),
        ("zoom, Rotate:15.0 ,FLIP:Horizontal", "flip,rotate:15,zoom:0.2"),
        ("flip:both,shear,shift,contrast,crop", "flip:both,shear:0.2,shift:0.1,contrast:0.2,crop:0.5"),
        ("flip:none,rotate:0,zoom:-0,shear:0,shift:0,contrast:0,crop:1", ""),
        ("light", PRESETS["light"]),
        ("medium", PRESETS["medium"]),
        ("strong", PRESETS["strong"]),
        ("medium,rotate:0,flip:none", "zoom:0.15,shift:0.1,contrast:0.2"),
        ("rotate:0,medium", "flip,zoom:0.15,shift:0.1,contrast:0.2"),
    ],
)
def test_texts_have_one_canonical_form(text, canonical):
    assert str(parse_augmentation(text)) == canonical
    assert str(parse_augmentation(canonical)) == canonical
    assert bool(parse_augmentation(text)) == bool(canonical)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rotate:181", "rotate:181 is out of range; it must be from 0 to 180"),
        ("zoom:-0.1", "from 0 to 1"),
        ("shift:0.6", "from 0 to 0.5"),
        ("crop:0", "from 0.01 to 1"),
        ("rotate:nan", "out of range"),
        ("rotate:fast", "write for example rotate:15"),
        ("flip:sideways", "horizontal, vertical, both, or none"),
        ("rotate:1,rotate:2", "rotate twice"),
        ("light,strong", "has the presets light and strong; name only one"),
    ],
)
def test_invalid_texts_are_refused(text, words):
    with pytest.raises(UsageError, match=words):
        parse_augmentation(text)


def test_unknown_names_list_the_known_ones_closest_first():
    with pytest.raises(UnknownNameError, match=r"did you mean rotate.*Known: rotate.*crop.*strong"):
        parse_augmentation("flip,rotat:15")
    with pytest.raises(UnknownNameError, match="strong"):
        parse_augmentation("strong:2")  # a preset has no strength


@pytest.mark.parametrize("text", EXAMPLES)
def test_a_view_depends_only_on_content_seed_and_number(photo, text):
    first = list_views(photo, text, 8)
    assert all(np.array_equal(one, again) for one, again in zip(first, list_views(photo, text, 8), strict=True))
    others = [
        [view(photo, text, n, seed=1) for n in range(1, 9)],
        [view(photo, text, n, sha256=OTHER) for n in range(1, 9)],
    ]
    for other in others:
        assert any(not np.array_equal(one, two) for one, two in zip(first, other, strict=True))
    assert any(not np.array_equal(first[0], later) for later in first[1:])


@pytest.mark.parametrize("text", ["", *EXAMPLES])
def test_views_keep_shape_and_leave_the_image_unchanged(photo, text):
    before = photo.copy()
    assert view(photo, text, number=0) is photo
    for pixels in list_views(photo, text, 5):
        assert (pixels.shape, pixels.dtype) == (photo.shape, np.uint8)
        assert pixels.flags.c_contiguous
    assert np.array_equal(photo, before)


def test_adding_a_strength_leaves_the_rest_of_a_view_unchanged(photo):
    flipped = [np.array_equal(one, photo[:, ::-1]) for one in list_views(photo, "flip")]
    bright = list_views(np.ascontiguousarray(photo), "flip,contrast:0.001")
    again = [np.abs(one.astype(int) - photo[:, ::-1]).max() <= 1 for one in bright]
    assert flipped == again


@pytest.mark.parametrize(
    ("flip", "kinds"),
    [
        ("flip", [lambda image: image, np.fliplr]),
        ("flip:vertical", [lambda image: image, np.flipud]),
        ("flip:both", [lambda image: image, np.fliplr, np.flipud, lambda image: image[::-1, ::-1]]),
    ],
)
def test_flips_are_exact_and_each_occurs(photo, flip, kinds):
    views = list_views(photo, flip, 200)
    found = [[np.array_equal(one, kind(photo)) for kind in kinds] for one in views]
    assert all(sum(row) == 1 for row in found)
    shares = np.mean(found, axis=0)
    assert (shares > 0.5 / len(kinds)).all()


def test_rotation_turns_about_the_middle_by_at_most_its_degrees():
    angles = []
    for pixels in list_views(make_dot(60, 30), "rotate:20"):
        x, y = find_dot(pixels)
        assert math.hypot(x - 40, y - 30) == pytest.approx(20, abs=0.3)
        angles.append(math.degrees(math.atan2(30 - y, x - 40)))
    assert -20.5 < min(angles) < -12
    assert 12 < max(angles) < 20.5


def test_zoom_scales_from_the_middle_in_and_out_alike():
    factors = [(find_dot(pixels)[0] - 40) / 20 for pixels in list_views(make_dot(60, 30), "zoom:0.25")]
    assert 1 / 1.26 < min(factors) < 0.9
    assert 1.1 < max(factors) < 1.26
    assert np.log(factors).mean() == pytest.approx(0, abs=0.06)


def test_shear_moves_rows_along_and_keeps_the_middle_row():
    above, middle = (make_dot(40, y) for y in (15, 30))
    slopes = [(find_dot(pixels)[0] - 40) / 15 for pixels in list_views(above, "shear:0.3")]
    assert -0.31 < min(slopes) < -0.15
    assert 0.15 < max(slopes) < 0.31
    assert all(abs(find_dot(pixels)[1] - 15) < 0.1 for pixels in list_views(above, "shear:0.3"))
    assert all(abs(find_dot(pixels)[0] - 40) < 0.1 for pixels in list_views(middle, "shear:0.3"))


def test_shift_moves_by_at_most_its_fraction_of_each_side():
    moved = np.array([find_dot(pixels) for pixels in list_views(make_dot(40, 30), "shift:0.2")]) - (40, 30)
    assert (np.abs(moved) <= np.array([81, 61]) * 0.2 + 0.1).all()
    assert (moved.min(axis=0) < -5).all()
    assert (moved.max(axis=0) > 5).all()


def test_contrast_changes_about_the_mean(photo):
    factors = []
    for pixels in list_views(photo // 2 + 64, "contrast:0.3"):
        before = photo // 2 + 64
        assert pixels.mean() == pytest.approx(before.mean(), abs=1)
        factors.append(pixels.std() / before.std())
    assert 0.69 < min(factors) < 0.85
    assert 1.15 < max(factors) < 1.31


def test_a_crop_keeps_at_least_its_fraction_of_the_area_within_the_aspects():
    # The slopes of a ramp in each direction show how much of it is visible.
    rows, columns = np.mgrid[0:240, 0:240].astype(np.uint8)
    ramp = np.stack([columns, rows, columns], axis=2)
    shares = []
    for pixels in list_views(ramp, "crop:0.3"):
        inner = pixels[20:-20, 20:-20].astype(float)
        width = np.diff(inner[..., 0].mean(axis=0)).mean()
        height = np.diff(inner[..., 1].mean(axis=1)).mean()
        assert 0.73 < width / height < 1.36
        shares.append(width * height)
    assert 0.28 < min(shares) < 0.45
    assert 0.75 < max(shares) < 1.01


def test_a_crop_that_fits_nowhere_takes_the_whole_image():
    narrow = np.zeros((4, 200, 3), np.uint8)
    assert np.array_equal(view(narrow, "crop:0.99"), narrow)


@pytest.mark.parametrize("strength", ["rotate", "zoom", "shear", "shift", "contrast"])
def test_weak_views_are_close_to_the_image(photo, strength):
    assert np.array_equal(view(photo, f"{strength}:0"), photo)
    tiny = view(photo, f"{strength}:1e-7")
    assert np.abs(tiny.astype(int) - photo).max() <= 1


def test_borders_are_reflected_and_never_black(photo):
    white = np.full((40, 50, 3), 255, np.uint8)
    for text in ("rotate:180,zoom:1,shear:1,shift:0.5", "strong"):
        assert all((pixels == 255).all() for pixels in list_views(white, text, 20))
    assert min(one.min() for one in list_views(photo // 2 + 50, "shift:0.5", 20)) >= 50


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 9, 3), (9, 1, 3), (2, 3, 3)])
def test_the_smallest_images_have_views(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for text in ("strong", "flip:both,rotate:180,zoom:1,shear:1,shift:0.5,crop:0.01"):
        assert all(one.shape == shape for one in list_views(pixels, text, 10))


@given(AUGMENTATIONS, st.integers(0, 2**32 - 1), st.integers(1, 1000))
def test_every_augmentation_makes_a_view(augmentation, seed, number):
    assume(augmentation)
    pixels = np.random.default_rng(1).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    made = view_image(pixels, augmentation, seed=seed, sha256=ONE, number=number)
    assert made.shape == pixels.shape


def test_a_contact_sheet_has_a_row_for_each_image(photo, tmp_path):
    path = tmp_path / "new" / "sheet.png"
    images = [photo, np.full((500, 300, 3), 200, np.uint8)]
    drawn = draw_contact_sheet(images, parse_augmentation("medium"), seed=3, sha256s=[ONE, OTHER], path=path, views=4)
    assert drawn == path
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    assert pixels.shape[1] > 5 * photo.shape[1]
    assert any(np.array_equal(pixels[top : top + 48, 6 : 6 + 64], photo) for top in range(20, 100)), (
        "the first row begins with the image itself"
    )


@pytest.mark.parametrize(("sha256s", "views"), [([], 6), ([ONE, OTHER], 6), ([ONE], 0)])
def test_a_contact_sheet_of_nothing_is_refused(photo, tmp_path, sha256s, views):
    with pytest.raises(UsageError, match="contact sheet"):
        draw_contact_sheet([photo], Augmentation(), seed=0, sha256s=sha256s, path=tmp_path / "a.png", views=views)


def test_views_never_change():
    """Existing stores and bundles hold features of these pixels; a new Pillow or NumPy must not change them."""
    rows, columns = np.mgrid[0:48, 0:64]
    pixels = np.stack([4 * columns, 5 * rows, 2 * (rows + columns)], axis=2).astype(np.uint8)
    found = {text: view(pixels, text, seed=3)[[10, 30], [20, 50]].ravel().tolist() for text in PINNED}
    for text, expected in PINNED.items():
        assert np.abs(np.array(found[text]) - expected).max() <= 1, found
