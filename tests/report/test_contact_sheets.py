from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featx.errors import ImageError
from featx.items.folders import FolderReader
from featx.items.thumbnails import read_thumbnail
from featx.report.contact_sheets import Tile, draw_contact_sheet, make_tile


def write_picture(path, size, colour=(200, 40, 40)):
    Image.new("RGB", size, colour).save(path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("size", "shape"),
    [((300, 100), (20, 60, 3)), ((100, 300), (60, 20, 3)), ((30, 10), (10, 30, 3)), ((2000, 1), (1, 60, 3))],
)
def test_a_thumbnail_keeps_its_proportions_and_does_not_grow(tmp_path, size, shape):
    assert read_thumbnail(write_picture(tmp_path / "a.png", size), 60).shape == shape


def test_a_thumbnail_of_a_camera_with_12_bits_is_not_black(tmp_path):
    Image.fromarray(np.linspace(0, 4000, 400, dtype=np.uint16).reshape(20, 20)).save(tmp_path / "a.tif")
    pixels = read_thumbnail((tmp_path / "a.tif").read_bytes(), 20)
    assert pixels.min() == 0
    assert pixels.max() > 240


def test_a_picture_that_cannot_be_read_has_a_reason(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    reader = FolderReader(tmp_path)
    assert make_tile(reader, "text.png", ["x"]).pixels is None
    assert "No such file" in make_tile(reader, "gone.png", ["x"]).reason
    with pytest.raises(ImageError):
        read_thumbnail(b"no picture", 60)


def test_a_sheet_shows_every_picture_at_its_place(tmp_path):
    colours = [(220, 0, 0), (0, 160, 0), (0, 0, 220), (220, 220, 0), (0, 200, 200), (200, 0, 200)]
    tiles = [Tile(np.full((50, 50, 3), colour, np.uint8), (f"picture {colour}", "folder/x.png")) for colour in colours]
    draw_contact_sheet([*tiles, Tile(None, ("gone", "gone.png"), "missing")], "seven pictures", tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        sheet = np.asarray(image.convert("RGB")).astype(int)
    centres = [np.argwhere((np.abs(sheet - colour) < 3).all(axis=2)).mean(axis=0) for colour in colours]
    rows, columns = np.transpose(centres)
    assert np.ptp(rows[:5]) < 2 < rows[5] - rows[0]  # five in a row, the sixth below the first
    assert (np.diff(columns[:5]) > 100).all()
    assert abs(columns[5] - columns[0]) < 2
    assert not Path(tmp_path / "sheet.svg").exists()


def test_rows_of_flat_pictures_are_flat(tmp_path):
    flat, square = (Tile(np.zeros((side, 50, 3), np.uint8), ("x",)) for side in (10, 50))
    draw_contact_sheet([flat] * 5 + [square], "six", tmp_path / "a.png")
    draw_contact_sheet([square] * 5 + [square], "six", tmp_path / "b.png")
    with Image.open(tmp_path / "a.png") as a, Image.open(tmp_path / "b.png") as b:
        assert b.height - a.height == pytest.approx(0.8 * 225, abs=2)
        assert a.width == b.width


def test_captions_end_before_the_next_picture(tmp_path):
    names = ("W" * 60, "Chlamydomonas reinhardtii/dup DSC0140.jpg", "Pediastrum duplex/moved DSC0146.bmp")
    draw_contact_sheet([Tile(np.zeros((50, 50, 3), np.uint8), names)] * 2, "two", tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        sheet = np.asarray(image.convert("L"))
    pictures = np.flatnonzero((sheet == 0).sum(axis=0) > 150)
    second = pictures[np.flatnonzero(np.diff(pictures) > 1)[0] + 1]
    assert (sheet[-60:, second - 5 : second - 1] == 255).all()
    assert (sheet[-60:, : second - 5] < 128).any()


def test_names_in_any_alphabet_are_drawn_without_a_warning(tmp_path):
    names = ("日本語", "हिन्दी", "a\u0000b\n" * 20, "$x_1$ \\frac", "e\u0301" * 40)
    draw_contact_sheet([Tile(np.zeros((5, 5, 3), np.uint8), names)], "$title$", tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 1000
