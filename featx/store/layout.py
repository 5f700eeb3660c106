"""The store's format: names, dtypes, and how columns of text become bytes.

docs/format.md is its specification; this module is the only place that spells it.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

FORMAT = "featx-feature-store"
FORMAT_VERSION = 1

#: Text is UTF-8 in fixed-width, zero-padded bytes; names that are no UTF-8 keep their bytes.
TEXT = "text"

ITEM_COLUMNS: dict[str, str] = {
    "id": TEXT,
    "sha256": TEXT,
    "bytes": "<i8",
    "mtime_ns": "<i8",
    "label": TEXT,
    "split": TEXT,
    "group": TEXT,
    "width": "<i4",
    "height": "<i4",
}
QUARANTINE_COLUMNS: dict[str, str] = {"id": TEXT, "sha256": TEXT, "reason": TEXT}

#: A block of rows is what one checksum covers: small enough to name the damaged
#: items closely, large enough that hashing runs at full speed.
BLOCK_BYTES = 1 << 20

Columns = Mapping[str, Sequence[Any] | NDArray[Any]]


def choose_block_rows(dim: int, dtype: str) -> int:
    """Choose the rows per checksum block: about `BLOCK_BYTES`, at least one row."""
    return max(1, BLOCK_BYTES // max(1, dim * np.dtype(dtype).itemsize))


def encode_text(values: Iterable[str]) -> NDArray[np.bytes_]:
    """Encode strings as fixed-width UTF-8; surrogate escapes become the bytes they stand for.

    The padding is zeros, so zeros at a string's end are lost; no file can be called so.
    """
    encoded = [value.encode("utf-8", "surrogateescape") for value in values]
    width = max((len(value) for value in encoded), default=0)
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", max(1, width)))


def decode_text(values: NDArray[np.bytes_]) -> NDArray[np.str_]:
    """Undo `encode_text`."""
    return np.array([value.decode("utf-8", "surrogateescape") for value in values.tolist()], dtype=np.str_)


def write_text(attributes: h5py.AttributeManager, name: str, text: str) -> None:
    """Write an attribute as fixed-width UTF-8.

    HDF5 keeps text of variable width in a heap, in which one flipped bit can send its
    reader round for ever (1.14; found by flipping bits at random), so there is none.
    """
    attributes[name] = np.bytes_(text.encode("utf-8"))


def read_text(attributes: h5py.AttributeManager, name: str) -> str:
    """Read an attribute that `write_text` wrote.

    Raises:
        KeyError: If there is no such attribute.
        ValueError: If it is no text of fixed width.
    """
    if attributes.get_id(name).dtype.kind != "S":
        msg = f"the attribute {name} is no text of fixed width"
        raise ValueError(msg)
    return bytes(attributes[name]).decode("utf-8")


def write_columns(group: h5py.Group, columns: Columns, kinds: Mapping[str, str]) -> str:
    """Write columns of equal length and return the sha256 over all of them."""
    digest = hashlib.sha256()
    for name, kind in kinds.items():
        values = encode_text(columns[name]) if kind == TEXT else np.asarray(columns[name], dtype=kind)
        group.create_dataset(name, data=values)
        update_digest(digest, name, values)
    return digest.hexdigest()


def read_column(group: h5py.Group, name: str, kind: str) -> NDArray[Any]:
    """Read a whole dataset, if it is what the format says; a foreign one may be of any kind and size.

    Raises:
        KeyError: If there is no such dataset.
        ValueError: If its dtype differs, or it is larger than its place in the file.
    """
    dataset = group[name]
    fits = dataset.dtype.kind == "S" if kind == TEXT else dataset.dtype == np.dtype(kind)
    if not fits or dataset.nbytes > dataset.id.get_storage_size():
        msg = f"{dataset.name} is {dataset.dtype} {dataset.shape}, which is not what it must be"
        raise ValueError(msg)
    values: NDArray[Any] = dataset[:]
    return values


def update_digest(digest: Any, name: str, values: NDArray[Any]) -> None:  # noqa: ANN401 - hashlib names no public type
    """Add one column to a digest: its name, dtype and bytes."""
    digest.update(f"{name}:{values.dtype.str}:{len(values)};".encode())
    digest.update(np.ascontiguousarray(values).tobytes())


def digest_block(rows: NDArray[Any]) -> str:
    """Return the sha256 of a block of feature rows, little-endian, in C order."""
    return hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()


def map_dataset(path: Path, dataset: h5py.Dataset) -> NDArray[np.floating]:
    """Map a contiguous dataset into memory, read-only.

    Raises:
        ValueError: If it is not contiguous, or reaches past the end of the file.
    """
    offset = dataset.id.get_offset()
    if not dataset.size:
        return np.empty(dataset.shape, dataset.dtype)
    if offset is None:
        msg = f"{dataset.name} is not contiguous"
        raise ValueError(msg)
    return np.memmap(path, dtype=dataset.dtype, mode="r", offset=offset, shape=dataset.shape)
