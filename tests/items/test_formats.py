import subprocess
import sys

import pytest
from image_files import RECIPES, encode, load_photo, make_file

from featx.errors import ImageError
from featx.items import read_folder
from featx.items.decoding import probe
from featx.items.formats import FORMATS, HEAD_BYTES, has_image_suffix, looks_like_image

HEIF_BRANDS = ("heic", "heix", "heim", "heis", "hevc", "hevx", "hevm", "hevs", "mif1", "msf1")


def make_box(major, *compatible):
    brands = b"".join(brand.encode() for brand in (major, *compatible))
    return (16 + 4 * len(compatible)).to_bytes(4, "big") + b"ftyp" + brands[:4] + bytes(4) + brands[4:]


#: Whole files where Pillow can write them, and else what such a file begins with, by format.
FILES = {
    "JPEG": [make_file("jpeg"), make_file("jpeg progressive")],
    "PNG": [make_file("png")],
    "GIF": [make_file("gif"), b"GIF87a\1\0\1\0\0\0\0"],
    "WebP": [make_file("webp"), make_file("webp lossless")],
    "BMP": [make_file("bmp")],
    "TIFF": [
        make_file("tiff"),
        b"MM\0*\0\0\0\x08",
        encode(load_photo(), "TIFF", big_tiff=True),
        b"MM\0+\0\x08\0\0",
    ],
    "JPEG 2000": [make_file("jp2"), make_file("j2k")],
    "AVIF": [
        make_file("avif"),
        make_box("avis"),
        make_box("mif1", "miaf", "avif"),
        make_box("miaf", *10 * ["x265"], "avif"),
    ],
    "HEIC": [*map(make_box, HEIF_BRANDS), make_box("miaf", "mif1", "heic"), make_box("jpeg", "1pic", "heim")],
    "DICOM": [bytes(128) + b"DICM\2\0\0\0UL"],
    "PNM": [make_file("ppm"), make_file("pgm 16"), b"P1\n# a comment\n2 2\n0 1 1 0\n", b"Pf\n2 2\n-1.0\n" + bytes(16)],
}


def test_every_row_of_the_table_has_files_here():
    assert list(FILES) == [row.name for row in FORMATS]


@pytest.mark.parametrize(("name", "data"), [(name, data) for name, files in FILES.items() for data in files])
def test_scan_and_probe_recognise_every_format_without_a_suffix(tmp_path, name, data):
    (tmp_path / "scan").write_bytes(data)
    assert [item.id for item in read_folder(tmp_path).items] == ["scan"]
    try:
        assert probe(data).format == name
    except ImageError as error:
        reasons = (f"truncated or damaged {name}", f"{name} images need", f"{name} without pixels")
        assert any(reason in str(error) for reason in reasons)  # noqa: PT017 - some files here are heads only


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.name)
def test_every_suffix_of_the_table_makes_a_name_an_image(row):
    assert row.suffixes
    for suffix in row.suffixes:
        assert has_image_suffix(f"a.{suffix}")
        assert has_image_suffix(f"a.b.{suffix.upper()}")
        assert not has_image_suffix(f"a{suffix}")
        assert not has_image_suffix(f"a.{suffix}.txt")


@pytest.mark.parametrize("name", RECIPES)
def test_the_first_bytes_are_enough(name):
    assert looks_like_image(make_file(name)[:HEAD_BYTES])


@pytest.mark.parametrize(
    "head",
    [b"", b"P", b"BMW and Audi", b"P1 is a patient", b"RIFF\0\0\0\0WAVEfmt ", make_box("isom", "iso2", "avc1", "mp41")],
)
def test_what_only_begins_like_an_image_is_not_one(head):
    assert not looks_like_image(head)


def test_the_table_imports_no_plugin_of_pillow():
    code = (
        "import sys, featx.items.formats, featx.items.layouts; print([m for m in sys.modules if m.startswith('PIL')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
