"""DICOM files of one frame, as images of 8 bits: the stages of the standard up to the display (PS3.4, annex N.2)."""

from io import BytesIO
from typing import IO, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from PIL.ImageFile import ImageFile, _Tile
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_partial, read_preamble
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi, apply_windowing
from pydicom.pixels.utils import pixel_array
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from featx.errors import ImageError

_MOST_BITS, _BYTE_BITS, _WHITE = 16, 8, 255
_PATIENT, _META = Tag("PatientID"), 2

#: Below and above every sample, for the ends of a window.
_ENDS = np.array([-1e12, 1e12])

#: Rows of the image are looked up in strips of about so many pixels.
_STRIP_PX = 2**20

#: What decodes the compressed transfer syntaxes that pydicom and Pillow do not.
_PLUGINS = "pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"


class DicomReader(ImageFile):
    """A DICOM of one frame, grey or colour.

    Attributes:
        applied: What turns its samples into grey levels; empty for colour.
    """

    format = "DICOM"
    applied = ""

    def _open(self) -> None:
        _refuse_deflated(cast("BinaryIO", self.fp))
        self._dataset = found = dcmread(cast("IO[bytes]", self.fp))
        if "PixelData" not in found:
            msg = "a DICOM without pixels of whole numbers, or cut before them; download it again, or leave it out"
            raise ImageError(msg)
        frames, bits = int(found.get("NumberOfFrames") or 1), int(found.BitsAllocated)
        if frames > 1:
            msg = f"a DICOM of {frames:,} frames, of which featx reads one; write each to a file of its own"
            raise ImageError(msg)
        if bits > _MOST_BITS:
            msg = f"a DICOM with samples of {bits} bits, which featx does not read; convert it to 16 bits"
            raise ImageError(msg)
        self._check_syntax()
        self._is_grey = str(found.PhotometricInterpretation).startswith("MONOCHROME")
        if self._is_grey:
            self.applied = _describe(found)
        self._mode = "L" if self._is_grey else "RGB"
        self._size = int(found.Columns), int(found.Rows)
        self.tile = [_Tile("raw", (0, 0, *self._size), 0, self._mode)]

    def _check_syntax(self) -> None:
        """Refuse a compression that no installed package decodes."""
        syntax = self._dataset.file_meta.TransferSyntaxUID
        try:
            is_there = get_decoder(syntax).is_available
        except NotImplementedError:
            msg = f"a DICOM in {syntax.name}, which featx does not read; decompress it first"
            raise ImageError(msg) from None
        if not is_there:
            msg = f"a DICOM in {syntax.name}, which needs other packages: pip install {_PLUGINS}"
            raise ImageError(msg)

    def load(self) -> Any:  # noqa: ANN401 - the type of Pillow's access to pixels is private
        """Decode the pixels, and turn them into 8 bits."""
        if self.tile and self._dataset is not None:
            stored = pixel_array(self._dataset)
            pixels = _to_grey(stored, self._dataset) if self._is_grey else _to_colour(stored, self._dataset)
            self.fp = BytesIO(pixels.tobytes())
        return super().load()

    def load_seek(self, pos: int) -> None:
        """The file in memory is at its start."""


def _describe(dataset: Dataset) -> str:
    """Return what turns the samples of a grey image into grey levels."""
    if dataset.get("VOILUTSequence"):
        return "the file's lookup table"
    if _has_window(dataset):
        return "the file's window"
    return "their 8 bits as stored" if _is_plain(dataset) else "their smallest and largest value, without a window"


def _has_window(dataset: Dataset) -> bool:
    return all(name in dataset and dataset[name].VM for name in ("WindowCenter", "WindowWidth"))


def _is_plain(dataset: Dataset) -> bool:
    """Return whether samples have 8 bits that nothing rescales, so that their black and white are defined."""
    is_rescaled = bool(dataset.get("ModalityLUTSequence")) or "RescaleSlope" in dataset
    return dataset.BitsStored == _BYTE_BITS and not dataset.PixelRepresentation and not is_rescaled


def _to_grey(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.uint8]:
    """Return grey levels, uint8 `(height, width)`: modality, values of interest, then MONOCHROME1 inverted.

    The stages work on each sample alone, so that they are computed once for each value.
    """
    smallest, largest = int(stored.min()), int(stored.max())
    values = apply_modality_lut(np.arange(smallest, largest + 1).astype(stored.dtype), dataset)
    if dataset.get("VOILUTSequence"):
        shown = apply_voi(values, dataset)
        low, high = 0.0, 2.0 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1
    elif _has_window(dataset):
        shown = apply_windowing(values, dataset)
        with np.errstate(over="ignore"):  # of the exponential in a sigmoid
            low, high = map(float, apply_windowing(_ENDS, dataset))
    else:
        shown = values
        low, high = (0.0, float(_WHITE)) if _is_plain(dataset) else (float(values.min()), float(values.max()))
    levels = (shown.astype(np.float64) - low) * (_WHITE / ((high - low) or 1.0))
    table = np.rint(levels).clip(0, _WHITE).astype(np.uint8)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        table = _WHITE - table
    grey = np.empty(stored.shape, np.uint8)
    step = max(1, _STRIP_PX // stored.shape[1])
    for top in range(0, len(stored), step):
        grey[top : top + step] = table[stored[top : top + step].astype(np.intp) - smallest]
    return grey


def _to_colour(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.uint8]:
    """Return colours, uint8 `(height, width, 3)`; pydicom has converted YBR to RGB."""
    bits = min(int(dataset.BitsStored), 8 * stored.dtype.itemsize)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)[..., :3]
        bits = 8 * stored.dtype.itemsize
    if bits == _BYTE_BITS and stored.dtype == np.uint8:
        return stored
    table = np.rint(np.arange(2**bits) * (_WHITE / (2**bits - 1))).astype(np.uint8)
    return cast("NDArray[np.uint8]", table[stored])


def _refuse_deflated(file: BinaryIO) -> None:
    """Refuse a data set that is compressed as a whole: pydicom inflates it without a limit before anything else."""
    read_preamble(file, force=True)
    about = read_dataset(
        file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, *_: tag.group != _META
    )
    file.seek(0)
    if about.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        msg = "a deflated DICOM, which may be of any size when it is inflated; convert it to an uncompressed one"
        raise ImageError(msg)


def read_patient(head: bytes) -> str:
    """Return the patient's id in the first bytes of a DICOM file; empty if it has none there.

    Args:
        head: The first bytes of a file, which may not be a DICOM.
    """
    try:
        found = read_partial(BytesIO(head), lambda tag, _vr, _length: tag > _PATIENT, specific_tags=[_PATIENT])
        return str(found.get("PatientID") or "").strip()
    except Exception:  # noqa: BLE001 - damaged files raise many types, and decoding reports them
        return ""
