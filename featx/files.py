"""Files on disk: written whole or not at all, and checked before anything in them is believed.

Writing survives a power cut, a full disk and a killed process. NumPy, Keras and skops write the
members of a zip file uncompressed, so a whole file is never smaller than its members together:
one that declares more is damaged or a bomb.
"""

import contextlib
import csv
import glob
import io
import math
import os
import secrets
import tokenize
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featx.errors import StoreError

if TYPE_CHECKING:
    pass

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any


@contextlib.contextmanager
def say_failures(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into one line that says what to do.

    Raises:
        StoreError: In place of an `OSError`.
    """
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        msg = (
            f"{path} cannot be written: {error.strerror or error}; make room or name another folder, and run the "
            f"command again: what was finished is kept"
        )
        raise StoreError(msg) from error


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, if they are not there, and sync its name: also one that a killed run made."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
    with contextlib.suppress(PermissionError):  # one above that may not be read cannot be synced, and was not made here
        sync_folder(path.parent)


def name_temporary(path: Path) -> Path:
    """Name a file beside another, for one writer to write before it gets that name."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def remove_leftovers(folder: Path, start: str = "") -> None:
    """Remove what writers left half-written in a folder when they were killed, of files whose names start so."""
    for leftover in folder.glob(f".{glob.escape(start)}*.tmp"):
        leftover.unlink(missing_ok=True)


def publish_file(temporary: Path, path: Path) -> None:
    """Give a file whose data are synced its name: readers see the old file or the new one, never a part.

    Data first, then the name, then the folder's entry: in any other order a power
    cut can leave the name on a file whose data never arrived.
    """
    temporary.replace(path)
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Flush a file's data to the disk."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk, where the platform can (Windows cannot, and need not)."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


#: What these checks, and the standard library under them, raise on damaged files.
DAMAGES = (OSError, EOFError, KeyError, NotImplementedError, RuntimeError, ValueError, zipfile.BadZipFile)


def list_members(path: Path) -> dict[str, int]:
    """List a zip file whose members are not compressed, by name, with their sizes in bytes.

    Raises:
        ValueError: If members are compressed, encrypted or links, bear a name twice or one
            that leads elsewhere, or declare more bytes than the file has.
        OSError: If the file cannot be read.
        zipfile.BadZipFile: If it is no zip file.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    sizes: dict[str, int] = {}
    for member in members:
        _check_member(member)
        if member.filename in sizes:
            msg = f"it holds {member.filename!r} twice"
            raise ValueError(msg)
        sizes[member.filename] = member.file_size
    declared, actual = sum(sizes.values()), path.stat().st_size
    if declared > actual:
        msg = f"its members declare {declared:,} bytes, and the file has {actual:,}"
        raise ValueError(msg)
    return sizes


def is_plain_name(name: str) -> bool:
    """Tell whether a name means a file of the folder that it is in, on every system."""
    return name not in {"", ".", ".."} and PureWindowsPath(name).name == name and PurePosixPath(name).name == name


def read_array(data: bytes) -> NDArray[np.generic]:
    """Read a `.npy` file of numbers, booleans or text that holds exactly what it declares.

    Raises:
        ValueError: If it is none, holds objects, or its size is not that of its shape.
    """
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        msg = f"an array of format {version}, which nobody writes"
        raise ValueError(msg)
    try:
        shape, columns_first, dtype = readers[version](stream)
    except (SyntaxError, tokenize.TokenError, MemoryError, RecursionError) as error:  # its text is parsed as Python
        msg = f"an array whose header is none: {error}"
        raise ValueError(msg) from error
    present = len(data) - stream.tell()
    if dtype.hasobject or not dtype.itemsize:
        msg = f"an array of dtype {dtype}, where numbers belong"
        raise ValueError(msg)
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != present:
        msg = f"an array that declares the shape {shape} of {dtype}, and has {present:,} bytes"
        raise ValueError(msg)
    order = "F" if columns_first else "C"
    array: NDArray[np.generic] = np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape, order=order)  # type: ignore[call-overload]
    return array


def _check_member(member: zipfile.ZipInfo) -> None:
    # Both parts of a name with folders are checked, as `assets/..` is one.
    if member.is_dir() or not all(map(is_plain_name, member.filename.split("/"))):
        msg = f"its member {member.filename!r} is no file inside of it"
        raise ValueError(msg)
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        msg = f"its member {member.filename!r} is compressed or encrypted, which what wrote it never does"
        raise ValueError(msg)


_RECORD = "record"


@dataclass(frozen=True, slots=True)
class Result:
    """What a task found out.

    Attributes:
        record: Plain values, ready for JSON.
        arrays: Arrays of numbers.
    """

    record: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def read_result(path: Path) -> Result:
    """Read what a task found out."""
    list_members(path)
    with zipfile.ZipFile(path) as archive:
        arrays = {name.removesuffix(".npy"): read_array(archive.read(name)) for name in archive.namelist()}
    record = json.loads(str(arrays.pop(_RECORD)))
    if not isinstance(record, dict):
        msg = f"{path} holds no record; delete it, and run the same command again"
        raise TypeError(msg)
    return Result(record, arrays)


def write_result(path: Path, result: Result) -> None:
    """Write a result: the file is there as a whole, or not at all."""
    content = io.BytesIO()
    arrays: dict[str, Any] = {_RECORD: np.array(json.dumps(result.record)), **result.arrays}
    np.savez(content, **arrays)
    temporary = name_temporary(path)
    with say_failures(path):
        try:
            temporary.write_bytes(content.getvalue())
            sync_file(temporary)
            publish_file(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


#: Columns of equal length, by name.
Table = Mapping[str, Sequence[Any] | NDArray[Any]]


def write_json(values: Mapping[str, Any], path: Path) -> None:
    """Write values as indented JSON.

    Raises:
        OSError: If the file cannot be written.
        ValueError: If a number is not finite.
    """
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_table(columns: Table, path: Path) -> None:
    """Write columns of equal length as CSV.

    Raises:
        OSError: If the file cannot be written.
    """
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
