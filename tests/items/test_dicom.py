"""DICOM files of one frame: their pixels, their patients, and what is refused. HEIC beside them."""

import io
import sys
import threading

import numpy as np
import pydicom
import pytest
from object_store import ERROR, PASS
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
)

import featx
from featx import remote
from featx.errors import ImageError
from featx.items import Columns, read_source
from featx.items.decoding import decode
from featx.specs import ImageSpec


def make(pixels, *, bits=None, photometric="MONOCHROME2", signed=False, syntax=ExplicitVRLittleEndian, **tags):
    """Return a DICOM file with these pixels, which `tags` describe further."""
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = syntax
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID = CTImageStorage
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID = "1.2.3"
    found.Rows, found.Columns = pixels.shape[:2]
    found.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    if pixels.ndim == 3:
        found.PlanarConfiguration = 0
    found.BitsAllocated = 8 * pixels.itemsize
    found.BitsStored = bits or found.BitsAllocated
    found.HighBit = found.BitsStored - 1
    found.PixelRepresentation, found.PhotometricInterpretation = int(signed), photometric
    found.PixelData = pixels.tobytes()
    found["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
    for name, value in tags.items():
        setattr(found, name, value)
    file = io.BytesIO()
    pydicom.dcmwrite(file, found, enforce_file_format=True)
    return file.getvalue()


def show(data):
    """Return the grey levels or colours of the pixels, as they are decoded at their own size, and what was applied."""
    with_size = decode(data, ImageSpec(1, 1))
    decoded = decode(data, ImageSpec(with_size.height_px, with_size.width_px))
    return decoded.pixels, decoded.applied


VALUES = np.array([[0, 100, 1000], [2000, 3000, 4095]], np.uint16)
WINDOW = {"WindowCenter": [1000, 40], "WindowWidth": [1001, 400]}


def compute_window(values, centre=1000, width=1001):
    """The linear function of PS3.3, section C.11.2.1.2.1, to 0 to 255."""
    return np.rint(np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1) * 255)


@pytest.mark.parametrize(
    ("data", "expected", "applied"),
    [
        (make(VALUES, bits=12, **WINDOW), compute_window(VALUES.astype(float)), "window"),
        (make(VALUES, bits=12), np.rint(VALUES / 4095 * 255), "smallest and largest"),
        (
            make(VALUES, bits=12, photometric="MONOCHROME1", **WINDOW),
            255 - compute_window(VALUES.astype(float)),
            "window",
        ),
        (
            make(VALUES, bits=12, RescaleSlope=2, RescaleIntercept=-1000, **WINDOW),
            compute_window(2.0 * VALUES - 1000),
            "window",
        ),
        (
            make(VALUES, bits=12, RescaleSlope=-1, RescaleIntercept=4095, **WINDOW),
            compute_window(4095.0 - VALUES),
            "window",
        ),
        (
            make(VALUES.astype(np.int16) - 1024, signed=True, WindowCenter=0, WindowWidth=2000),
            compute_window(VALUES - 1024.0, 0, 2000),
            "window",
        ),
        (
            make(VALUES, bits=12, VOILUTFunction="SIGMOID", WindowCenter=1000, WindowWidth=500),
            np.rint(255 / (1 + np.exp(-4 * (VALUES - 1000.0) / 500))),
            "window",
        ),
        (make(np.uint8([[10, 20, 30]])), [[10, 20, 30]], "8 bits as stored"),
        (make(np.uint8([[10, 20, 30]]), photometric="MONOCHROME1"), [[245, 235, 225]], "8 bits as stored"),
        (make(np.uint16([[100, 355, 610]]), WindowCenter=None, WindowWidth=None), [[0, 128, 255]], "smallest"),
        (make(np.full((2, 2), 7, np.uint16)), np.zeros((2, 2)), "smallest and largest"),
        (make(np.uint16([[0, 1, 65535]]), WindowCenter=32768, WindowWidth=65536), [[0, 0, 255]], "window"),
    ],
)
def test_grey_levels_are_those_of_the_standard(data, expected, applied):
    pixels, how = show(data)
    assert np.array_equal(pixels[..., 0], expected)
    assert (pixels == pixels[..., :1]).all()
    assert applied in how


def test_a_lookup_table_of_the_file_comes_before_its_window():
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4, 10, 10], [0, 1023, 341, 682]
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "US"
    pixels, how = show(make(np.uint16([[9, 10, 11, 12, 13, 14]]), VOILUTSequence=[table], **WINDOW))
    assert pixels[0, :, 0].tolist() == [0, 0, 255, 85, 170, 170]
    assert how == "the file's lookup table"


def test_colours_are_rgb_of_8_bits():
    colours = np.random.default_rng(1).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    pixels, how = show(make(colours, photometric="RGB"))
    assert np.array_equal(pixels, colours)
    assert how == ""
    deep, _ = show(make(colours.astype(np.uint16) * 257, photometric="RGB"))
    assert np.array_equal(deep, colours)
    ybr, _ = show(make(np.asarray(Image.fromarray(colours).convert("YCbCr")), photometric="YBR_FULL"))
    assert np.abs(ybr.astype(int) - colours).max() <= 2


def test_jpeg_inside_a_dicom_is_decoded_and_other_compression_names_its_packages():
    grey = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "JPEG", quality=95)
    whole = pydicom.encaps.encapsulate([file.getvalue()])
    pixels, _ = show(make(grey, syntax=JPEGBaseline8Bit, PixelData=whole))
    assert np.abs(pixels[..., 0].astype(int) - grey).max() <= 3
    with pytest.raises(ImageError, match=r"JPEG Lossless.*which needs other packages: pip install pylibjpeg"):
        show(make(grey, syntax=JPEGLosslessSV1, PixelData=whole))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            make(VALUES, NumberOfFrames=3, PixelData=VALUES.tobytes() * 3),
            "a DICOM of 3 frames, of which featx reads one",
        ),
        (make(VALUES.astype(np.uint32)), "a DICOM with samples of 32 bits"),
        (make(VALUES)[:-4], "truncated or damaged DICOM"),
        (make(VALUES)[:200], "cut before them|truncated or damaged"),
        (make(VALUES, Rows=60_000, Columns=60_000), "60000x60000 px are more than"),
    ],
)
def test_what_is_refused_has_a_reason(data, message):
    with pytest.raises(ImageError, match=message):
        show(data)


def test_a_file_without_pixels_is_refused():
    whole = pydicom.dcmread(io.BytesIO(make(VALUES)))
    del whole.PixelData
    file = io.BytesIO()
    whole.save_as(file)
    with pytest.raises(ImageError, match="a DICOM without pixels"):
        show(file.getvalue())


def test_a_deflated_file_is_refused_before_it_is_inflated():
    data = make(np.zeros((4, 4), np.uint16), syntax=DeflatedExplicitVRLittleEndian)
    with pytest.raises(ImageError, match="a deflated DICOM"):
        show(data)


def test_patients_are_the_groups_of_a_source_without_groups(tmp_path, caplog):
    for number in range(6):
        folder = tmp_path / "scans" / ("ill" if number % 2 else "well")
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{number}.dcm" if number < 4 else f"IM{number}"
        (folder / name).write_bytes(make(VALUES + number, bits=13, PatientID=f"P{number // 2}", **WINDOW))
    (tmp_path / "scans" / "DICOMDIR").write_bytes(make(VALUES))
    manifest = read_source(tmp_path / "scans")
    assert {item.id: item.group for item in manifest.items} == {
        "ill/1.dcm": "P0",
        "ill/3.dcm": "P1",
        "ill/IM5": "P2",
        "well/0.dcm": "P0",
        "well/2.dcm": "P1",
        "well/IM4": "P2",
    }
    assert "groups: 3" in manifest.describe()
    assert manifest.junk == {"system files": 1}
    result = featx.embed(manifest, "colour", folder=tmp_path / "features")
    assert (result.new, result.quarantined) == (6, 0)
    assert "grey levels of DICOM images by the file's window: 6" in caplog.text
    without = read_source(tmp_path / "scans", columns=Columns(group=""))
    assert not any(item.group for item in without.items)
    assert without.reading == {"columns": {"group": ""}}


def test_patients_at_urls_are_read_at_once_and_those_that_cannot_be_read_are_told(object_store, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "MOST_ATTEMPTS", 2)
    for number in range(6):
        path = tmp_path / "scans" / ("ill" if number % 2 else "well") / f"{number}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make(VALUES + number, bits=13, PatientID=f"P{number // 2}", **WINDOW))
    source, proxy, threads = object_store.put(tmp_path / "scans", "scans"), object_store.proxy, set()

    def choose(method, path):
        threads.add(threading.get_ident())  # of the connection that the client keeps
        return ERROR if path.endswith("/5.dcm") else PASS

    proxy.choose = choose
    manifest = read_source(source)
    groups = {item.id: item.group for item in manifest.items}
    assert groups == {f"{'ill' if n % 2 else 'well'}/{n}.dcm": "" if n == 5 else f"P{n // 2}" for n in range(6)}
    assert len(threads) > 1
    assert len(proxy.requests) == 1 + 6 + 1  # the listing, each file, and one again
    (note,) = [note for note in manifest.describe() if "no patient" in note]
    assert note.startswith("1 file that may be DICOM cannot be read")
    assert "'ill/5.dcm' (the server answers with status 503" in note


def test_heic_is_decoded_whole_and_upright(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    grey = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (48, 1))
    file = io.BytesIO()
    heif.from_pillow(Image.fromarray(np.dstack([grey] * 3))).save(file, quality=95)
    pixels, how = show(file.getvalue())
    assert pixels.shape == (48, 64, 3)
    assert np.abs(pixels[..., 0].astype(int) - grey).max() <= 6
    assert how == ""


@pytest.mark.parametrize(
    ("data", "module", "extra"),
    [(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "pillow_heif", "heic"), (make(VALUES), "featx.items.dicom", "dicom")],
)
def test_a_missing_extra_is_named(monkeypatch, data, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImageError, match=rf"need another package: pip install 'featx\[{extra}\]'"):
        show(data)
