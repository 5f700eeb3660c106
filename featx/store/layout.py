"""The store's format: names, dtypes, and how columns of text become bytes.

docs/format.md is its specification; this module is the only place that implements it.
"""

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

FORMAT = "featx-feature-store"

#: A plain file has the first version; an index, whose features are in other files, has the second.
PLAIN_VERSION, INDEX_VERSION = FORMAT_VERSIONS = 1, 2

#: The checksum of all other attributes, and the rows that one checksum of `/blocks` covers.
ATTRIBUTES_SHA256 = "attributes_sha256"
ROWS_PER_BLOCK = "rows_per_block"

#: Text is UTF-8 in fixed-width, zero-padded bytes; names that are not UTF-8 keep their bytes.
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

#: One checksum covers one block of rows: small enough to locate damaged items
#: closely, large enough for hashing at full speed.
BLOCK_BYTES = 1 << 16

#: Rows of columns that are put together at once to be hashed: more do not fit the processor's cache, and take 3 times
#: as long.
_DIGESTED_ROWS = 4096

#: A column of this size is mapped. A mapped column is an open file, of which a process may have 1,024.
_MAPPED_BYTES = 16 << 20

_ASCII = 128

Columns = Mapping[str, Sequence[Any] | NDArray[Any]]


def choose_block_rows(dim: int, dtype: str) -> int:
    """Choose the rows per checksum block: about `BLOCK_BYTES`, at least one row."""
    return max(1, BLOCK_BYTES // max(1, dim * np.dtype(dtype).itemsize))


def encode_text(values: Sequence[str]) -> NDArray[np.bytes_]:
    """Encode strings as fixed-width UTF-8; surrogate escapes become the bytes they stand for.

    The padding is zeros, so zeros at the end of a string are lost; no file name has them.
    """

    def encode() -> Iterator[bytes]:  # twice, since a list of all would take more memory than the result
        return (value.encode("utf-8", "surrogateescape") for value in values)

    width = max(map(len, encode()), default=0)
    return _fit_width(np.fromiter(encode(), np.dtype(("S", max(1, width))), len(values)))


def _fit_width(values: NDArray[np.bytes_]) -> NDArray[np.bytes_]:
    """Return UTF-8 as wide as its longest text, for h5py to write as UTF-8."""
    width = max(1, int(np.char.str_len(values).max(initial=0)))
    return values.astype(f"S{width}", copy=False).view(h5py.string_dtype("utf-8", width))


def decode_text(values: NDArray[np.bytes_]) -> NDArray[np.str_]:
    """Undo `encode_text`."""
    if values.view(np.uint8).max(initial=0) < _ASCII:  # 20 times as fast, and true of nearly all columns
        return values.astype(np.str_)
    return np.array([value.decode("utf-8", "surrogateescape") for value in values.tolist()], dtype=np.str_)


def write_text(attributes: h5py.AttributeManager, name: str, text: str) -> None:
    """Write an attribute as fixed-width UTF-8.

    HDF5 keeps text of variable width in a heap, where one flipped bit can send its
    reader into an endless loop (1.14; found by flipping bits at random), so it is not used.
    """
    attributes[name] = np.bytes_(text.encode("utf-8"))


def read_text(attributes: h5py.AttributeManager, name: str) -> str:
    """Read an attribute that `write_text` wrote.

    Raises:
        KeyError: If there is no such attribute.
        ValueError: If it is not text of fixed width.
    """
    return bytes(_read_attribute(attributes, name, "S")).decode("utf-8")


def read_numbers(attributes: h5py.AttributeManager, name: str) -> NDArray[Any]:
    """Read an attribute of one or more numbers.

    Raises:
        KeyError: If there is no such attribute.
        ValueError: If it is not a number.
    """
    return np.asarray(_read_attribute(attributes, name, "iuf"))


def read_seconds(attributes: h5py.AttributeManager, name: str) -> float | None:
    """Read an attribute that holds a time; return None if it is missing, as in older files.

    Raises:
        ValueError: If it is not a number of seconds.
    """
    if name not in attributes:
        return None
    value = read_numbers(attributes, name)
    if value.shape or not 0 <= float(value) < math.inf:
        msg = f"the attribute {name} is not a number of seconds"
        raise ValueError(msg)
    return float(value)


def add_seconds(times: Iterable[float | None]) -> float | None:
    """Add up times; return None if one of them is unknown."""
    known = list(times)
    return None if None in known else math.fsum(one for one in known if one is not None)


def _read_attribute(attributes: h5py.AttributeManager, name: str, kinds: str) -> Any:  # noqa: ANN401 - text or numbers
    kind = attributes.get_id(name).dtype.kind
    if kind not in kinds:
        msg = f"the attribute {name} has the wrong type ({kind!r}, not one of {kinds!r})"
        raise ValueError(msg)
    return attributes[name]


def digest_attributes(attributes: h5py.AttributeManager) -> str:
    """Return the sha256 over all attributes except that of the checksum itself."""
    digest = hashlib.sha256()
    for name in sorted(name for name in attributes if name != ATTRIBUTES_SHA256):
        update_digest(digest, name, np.atleast_1d(_read_attribute(attributes, name, "Siuf")))
    return digest.hexdigest()


def open_dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    """Open a dataset whose bytes are all in this file.

    An untrusted file may send its reader elsewhere (soft and external links, external
    storage, virtual datasets) or declare any size (chunks that were never written,
    compression, an end beyond that of the file).

    Raises:
        KeyError: If there is no such dataset.
        TypeError: If it is not a dataset.
        ValueError: If it is a link, not contiguous, or reaches beyond the end of the file.
    """
    dataset = open_here(group, name)
    if not isinstance(dataset, h5py.Dataset):
        msg = f"{name} is not a dataset"
        raise TypeError(msg)
    layout = dataset.id.get_create_plist()
    if layout.get_layout() != h5py.h5d.CONTIGUOUS or layout.get_external_count():
        msg = f"{dataset.name} is not stored contiguously in this file"
        raise ValueError(msg)
    offset, n_bytes = dataset.id.get_offset(), dataset.nbytes
    if n_bytes and (offset is None or offset + n_bytes > dataset.file.id.get_filesize()):
        msg = f"{dataset.name} declares {n_bytes:,} bytes, which the file does not hold"
        raise ValueError(msg)
    return dataset


def open_group(group: h5py.Group, name: str) -> h5py.Group:
    """Open a group of this file.

    Raises:
        KeyError: If there is no such group.
        TypeError: If it is not a group.
        ValueError: If it is a link.
    """
    found = open_here(group, name)
    if not isinstance(found, h5py.Group):
        msg = f"{name} is not a group"
        raise TypeError(msg)
    return found


def open_here(group: h5py.Group, name: str) -> Any:  # noqa: ANN401 - a group or a dataset
    """Open a group or a dataset of this file, not one that a link leads to.

    Raises:
        KeyError: If there is none of that name.
        ValueError: If it is a link.
    """
    kind = type(group.get(name, getlink=True))
    if kind is not h5py.HardLink:
        msg = f"{name} is a link to elsewhere"
        raise ValueError(msg)
    return group[name]


def encode_column(values: Sequence[Any] | NDArray[Any], kind: str) -> NDArray[Any]:
    """Return a column as it is on disk; text may be bytes already."""
    if kind != TEXT:
        return np.asarray(values, dtype=kind)
    if isinstance(values, np.ndarray):
        return _fit_width(values) if values.dtype.kind == "S" else encode_text(values.tolist())
    return encode_text(values)


def write_columns(group: h5py.Group, columns: Columns, kinds: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """Write columns of equal length and return them as they are on disk."""
    written = {}
    for name, kind in kinds.items():
        written[name] = encode_column(columns[name], kind)
        group.create_dataset(name, data=written[name])
    return written


def digest_columns(columns: Mapping[str, NDArray[Any]], block_rows: int | None = None) -> list[str]:
    """Return the sha256 over columns as they are on disk, one for each block of rows.

    Args:
        columns: Arrays of equal length.
        block_rows: Rows in a block; None for one block of all rows, even if there are no rows.

    Returns:
        For each block, the digest of the columns' names and dtypes, and the bytes of its rows.
    """
    header = hashlib.sha256("".join(f"{name}:{values.dtype.str};" for name, values in columns.items()).encode())
    kinds = np.dtype([(name, values.dtype.str, values.shape[1:]) for name, values in columns.items()])
    n_rows = len(next(iter(columns.values())))
    step = block_rows or max(1, n_rows)
    records = np.empty(min(n_rows, step * max(1, _DIGESTED_ROWS // step)), kinds)
    digests = [] if n_rows or block_rows else [header.hexdigest()]
    for start in range(0, n_rows, max(1, len(records))):
        chunk = records[: n_rows - start]
        for name, values in columns.items():
            chunk[name] = values[start : start + len(chunk)]
        for first in range(0, len(chunk), step):
            digest = header.copy()
            digest.update(chunk[first : first + step].view(np.uint8).data)
            digests.append(digest.hexdigest())
    return digests


def read_column(group: h5py.Group, name: str, kind: str) -> NDArray[Any]:
    """Read a whole dataset if it conforms to the format; that of an untrusted file may have any type and size.

    A large one is mapped, read-only: to open a store of ten million items then takes half the time, and no memory.

    Raises:
        KeyError: If there is no such dataset.
        ValueError: If its dtype differs, or `open_dataset` refuses it.
    """
    dataset = open_dataset(group, name)
    fits = dataset.dtype.kind == "S" if kind == TEXT else dataset.dtype == np.dtype(kind)
    if not fits or dataset.ndim < 1:
        msg = f"{dataset.name} is {dataset.dtype} {dataset.shape}, which the format does not allow"
        raise ValueError(msg)
    values: NDArray[Any] = dataset[:] if dataset.nbytes < _MAPPED_BYTES else np.asarray(map_dataset(dataset))
    return values


def read_columns(group: h5py.Group, kinds: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """Read columns of equal length; see `read_column`."""
    columns = {name: read_column(group, name, kind) for name, kind in kinds.items()}
    if len({values.shape for values in columns.values()}) > 1:
        msg = f"the columns of {group.name} differ in length"
        raise ValueError(msg)
    return columns


def update_digest(digest: Any, name: str, values: NDArray[Any]) -> None:  # noqa: ANN401 - hashlib names no public type
    """Add one column to a digest: its name, dtype and bytes."""
    digest.update(f"{name}:{values.dtype.str}:{len(values)};".encode())
    digest.update(np.ascontiguousarray(values).data)


def digest_block(rows: NDArray[Any]) -> str:
    """Return the sha256 of a block of feature rows, little-endian, in C order."""
    return hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()


def map_dataset(dataset: h5py.Dataset) -> NDArray[Any]:
    """Map a dataset into memory, read-only, from the very file that HDF5 has open.

    The path may lead to another file: a writer may have replaced it.

    Args:
        dataset: A dataset from `open_dataset`.
    """
    if not dataset.nbytes:
        return np.empty(dataset.shape, dataset.dtype)
    with os.fdopen(os.dup(dataset.file.id.get_vfd_handle()), "rb") as file:
        return np.memmap(file, dtype=dataset.dtype, mode="r", offset=dataset.id.get_offset(), shape=dataset.shape)
