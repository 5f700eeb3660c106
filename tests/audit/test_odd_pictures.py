import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

import featx
from featx.audit.looks import measure_sharpness, read_looks
from featx.audit.odd_pictures import find_odd_pictures
from featx.items import read_source
from featx.options import EMBED_DEFAULTS


def paint(seed):
    """Make a picture with sharp edges and full contrast."""
    cells = np.random.default_rng(seed).integers(0, 256, (24, 24, 3)).astype(np.uint8)
    return Image.fromarray(cells).resize((192, 192), Image.Resampling.NEAREST)


@pytest.fixture
def find(tmp_path):
    """Find exposure and blur in 20 changed pictures and some that are changed more, by id and kind."""

    def find(change, **more):
        pictures = {f"{number:02}": change(paint(number)) for number in range(20)}
        (tmp_path / "images" / "a").mkdir(parents=True)
        for name, picture in (pictures | more).items():
            picture.save(tmp_path / "images" / "a" / f"{name}.png")
        store = featx.embed(tmp_path / "images", "colour", folder=tmp_path / "features").store
        manifest = read_source(tmp_path / "images")
        found = find_odd_pictures(store, read_looks(manifest, tuple(manifest.items), EMBED_DEFAULTS))
        return {one.id: (one.kind, one.detail.split(":")[0].split(" ")[0]) for one in found}

    return find


def dim(image):
    return ImageEnhance.Brightness(image).enhance(0.3)


def soften(image):
    return image.filter(ImageFilter.GaussianBlur(4))


def test_wrongly_exposed_and_blurred_pictures_are_found(find):
    washed = Image.eval(paint(51), lambda level: min(255, level * 6))
    moved = np.asarray(paint(53), np.float32)
    moved = Image.fromarray((sum(np.roll(moved, step, 1) for step in range(12)) / 12).astype(np.uint8))
    blank = Image.new("RGB", (192, 192), (2, 2, 2))
    found = find(lambda image: image, dim=dim(paint(50)), soft=soften(paint(52)), washed=washed, moved=moved, nil=blank)
    assert found == {
        "a/dim.png": ("exposure", "under-exposed"),
        "a/washed.png": ("exposure", "over-exposed"),
        "a/soft.png": ("blur", "sharpness"),
        "a/moved.png": ("blur", "sharpness"),
        "a/nil.png": ("blank", "standard"),
    }


@pytest.mark.parametrize("change", [dim, soften])
def test_pictures_that_are_as_the_others_are_not_found(find, change):
    assert find(change) == {}


def test_sharpness_does_not_depend_on_contrast():
    noise = np.random.default_rng(0).normal(size=(200, 200)).astype(np.float32)
    assert measure_sharpness(128 + 20 * noise) == pytest.approx(3, abs=0.1)  # of independent pixels, 6 to 2 variances
    assert measure_sharpness(40 + 4 * noise) == pytest.approx(measure_sharpness(128 + 20 * noise), rel=1e-4)
    assert measure_sharpness(np.tile(np.linspace(0, 255, 200, dtype=np.float32), (200, 1))) < 0.01
    assert np.isnan(measure_sharpness(np.full((200, 200), 7, np.float32)))


def test_a_thin_line_is_not_to_be_left_out(tmp_path):
    levels = np.full((192, 192), 255, np.uint8)
    levels[96, :60] = 200
    folder = tmp_path / "images"
    folder.mkdir()
    for name, image in {"line": levels, "nothing": np.full_like(levels, 255)}.items():
        Image.fromarray(image).save(folder / f"{name}.png")
    found = featx.audit_store(featx.embed(folder, "colour", folder=tmp_path / "features").store).list_kind("blank")
    assert {one.id: one.suggestion for one in found} == {"line.png": "check", "nothing.png": "leave out"}


def test_samples_of_12_bits_are_not_blank(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(8):
        samples = np.random.default_rng(number).integers(1000, 1800, (64, 64)).astype(np.uint16)
        Image.fromarray(samples).save(folder / f"{number}.png")
    Image.new("L", (64, 64), 9).save(folder / "nothing.png")
    right = featx.embed(folder, "colour", image={"bits": 12}, folder=tmp_path / "right").store
    assert [one.id for one in featx.audit_store(right).list_kind("blank")] == ["nothing.png"]
    wrong = featx.audit_store(featx.embed(folder, "colour", folder=tmp_path / "wrong").store)
    deep = [one for one in wrong.list_kind("blank") if "embed again with --bits 12" in one.detail]
    assert len(deep) == 8
    assert {one.suggestion for one in deep} == {"check"}
    assert [one.suggestion for one in wrong.list_kind("blank") if one not in deep] == ["leave out"]
    assert any("--bits 12" in note for note in wrong.notes)
