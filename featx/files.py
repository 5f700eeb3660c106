"""Files on disk: written whole or not at all, and checked before their content is trusted.

Writing survives a power cut, a full disk and a killed process. NumPy, Keras and skops write the
members of a zip file uncompressed, so a whole file is never smaller than its members together:
a file that declares more is damaged or a zip bomb.
"""

import contextlib
import csv
import glob
import io
import json
import math
import mmap
import os
import re
import secrets
import stat
import struct
import tempfile
import tokenize
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, Literal, Protocol, TextIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from featx.errors import BundleError, StoreError

_RECORD = "record"

#: Longest line of a table: a sparse file, which takes no disk space, can be one line of gigabytes.
_MOST_LINE_CHARACTERS = 16 << 20


@contextlib.contextmanager
def say_failures(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into one line that says what to do.

    Raises:
        StoreError: Instead of an `OSError`.
    """
    try:
        yield
    except (BundleError, StoreError):  # an OSError by its class, with a message of its own
        raise
    except OSError as error:
        msg = (
            f"{path} cannot be written: {error.strerror or error}; make room or name another folder, and run the "
            f"command again: what was finished is kept"
        )
        raise StoreError(msg) from error


@contextlib.contextmanager
def write_atomically(path: Path, confirm: Callable[[], None] | None = None, *, keep: bool = False) -> Iterator[Path]:
    """Yield a temporary name; what the block writes there gets the file's name when the block ends without an error.

    Args:
        path: The file; an older one is replaced at the very end.
        confirm: Called when the data are on the disk; raises if the file must not get its name.
        keep: Keep an older file, and drop the new one.

    Raises:
        OSError: If the file cannot be written; an older one is left as it was. The error names the file, and not the
            temporary one.
    """
    temporary = name_temporary(path)
    try:
        yield temporary
        sync_file(temporary)
        if confirm:
            confirm()
        if keep:
            _publish_first(temporary, path)
        else:
            publish_file(temporary, path)
    except OSError as error:
        if error.filename is not None and Path(os.fsdecode(error.filename)) == temporary:
            error.filename = str(path)  # the name that the user knows
        raise
    finally:
        with contextlib.suppress(OSError):  # the error that stopped the write is already on its way
            temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder and its parents if they do not exist, and sync their names, even if a killed run made them."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
    with contextlib.suppress(PermissionError):  # an unreadable parent cannot be synced, and was not made here
        sync_folder(path.parent)


def name_temporary(path: Path) -> Path:
    """Return a name next to a file, unique to this writer, to write to before the file gets its own name."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def remove_leftovers(folder: Path, start: str = "") -> None:
    """Remove the half-written files that killed writers left in a folder, of files whose names begin with `start`."""
    for leftover in folder.glob(f".{glob.escape(start)}*.tmp"):
        leftover.unlink(missing_ok=True)


def publish_file(temporary: Path, path: Path) -> None:
    """Give a file whose data are synced its name: readers see the old file or the new one, never a part.

    Data first, then the name, then the folder's entry: in any other order a power
    cut can leave the name on a file whose data never arrived.
    """
    temporary.replace(path)
    sync_folder(path.parent)


def _publish_first(temporary: Path, path: Path) -> None:
    """Give a file whose data are synced its name, unless another file has it."""
    with contextlib.suppress(FileExistsError):
        try:
            os.link(temporary, path)
        except (FileExistsError, FileNotFoundError):  # the second: the folder was cleared meanwhile
            raise
        except OSError:
            if not path.exists():  # no hard links here, as on exFAT: two writers at one moment have equal files
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


class Matrix(Protocol):
    """A matrix whose rows are read from files when they are asked for: a mapped array, or the features of an index."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows and of columns."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> NDArray[Any]: ...  # noqa: ANN401 - a row, a slice or an array, as NumPy's

    def __array__(self) -> NDArray[Any]: ...


#: What these checks, and the standard library below them, raise on damaged files.
DAMAGES = (OSError, EOFError, KeyError, NotImplementedError, RuntimeError, ValueError, zipfile.BadZipFile)


#: In the header of a member of a zip file, the lengths of its name and of its extra field; both follow.
_LENGTHS_AT, _LENGTHS = 26, struct.Struct("<HH")

#: Mapped values begin at a multiple of so many bytes, as in files of NumPy.
_ALIGNMENT = 64


def list_members(path: Path) -> dict[str, int]:
    """List the members of an uncompressed zip file, by name, with their sizes in bytes.

    Raises:
        ValueError: If a member is compressed, encrypted or a link, if its name occurs twice or
            leads out of the file, or if the members declare more bytes than the file has.
        OSError: If the file cannot be read.
        zipfile.BadZipFile: If it is not a zip file.
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
        msg = f"its members declare {declared:,} bytes, but the file has {actual:,}"
        raise ValueError(msg)
    return sizes


def is_plain_name(name: str) -> bool:
    """Return whether a name stays inside its folder, on every system."""
    return name not in {"", ".", ".."} and PureWindowsPath(name).name == name and PurePosixPath(name).name == name


def read_array_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the start of a `.npy` file: the shape, whether columns come first, and the type of the values.

    Raises:
        ValueError: If it is not such a file.
    """
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        msg = f"an array has the unsupported format version {version}"
        raise ValueError(msg)
    try:
        return readers[version](stream)
    except (SyntaxError, tokenize.TokenError, MemoryError, RecursionError) as error:  # its text is parsed as Python
        msg = f"an array has an invalid header: {error}"
        raise ValueError(msg) from error


def read_array(data: bytes) -> NDArray[np.generic]:
    """Read a `.npy` file of numbers, booleans or text that holds exactly what it declares.

    Raises:
        ValueError: If it is not such a file, holds objects, or its size does not match its shape.
    """
    stream = io.BytesIO(data)
    shape, order, dtype = check_array(stream, len(data))
    array: NDArray[np.generic] = np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape, order=order)
    return array


def check_array(stream: IO[bytes], n_bytes: int) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype[Any]]:
    """Read the start of a `.npy` file of numbers, booleans or text, and check that it declares what it holds.

    Args:
        stream: The file, at its beginning; afterwards at its values.
        n_bytes: Its size.

    Returns:
        The shape, the order and the type of the values.

    Raises:
        ValueError: If it is not such a file, holds objects, or its size does not match its shape.
    """
    shape, columns_first, dtype = read_array_header(stream)
    present = n_bytes - stream.tell()
    if dtype.hasobject or not dtype.itemsize:
        msg = f"an array has dtype {dtype}, where numbers belong"
        raise ValueError(msg)
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != present:
        msg = f"an array declares the shape {shape} of {dtype}, but has {present:,} bytes"
        raise ValueError(msg)
    return shape, "F" if columns_first else "C", dtype


def map_member(path: Path, name: str) -> NDArray[Any]:
    """Map an array of an uncompressed zip file, whose members were checked by `list_members`.

    Raises:
        ValueError: If the member is not an array of numbers, or does not hold what it declares.
    """
    with zipfile.ZipFile(path) as archive, archive.open(name) as stream:
        member = archive.getinfo(name)
        shape, order, dtype = check_array(stream, member.file_size)
        start = stream.tell()
    with path.open("rb") as file:
        file.seek(member.header_offset + _LENGTHS_AT)
        start += file.tell() + _LENGTHS.size + sum(_LENGTHS.unpack(file.read(_LENGTHS.size)))
        return np.memmap(file, dtype, "r", start, shape, order)


def write_member(archive: zipfile.ZipFile, name: str, matrix: Matrix, blocks: Iterable[slice]) -> None:
    """Write a matrix into a zip file as `.npy`, a block of rows at a time, so that `map_member` finds it aligned.

    Args:
        archive: The file; it is being written to a file of the disk.
        name: The member.
        matrix: The rows.
        blocks: All of them, in order.
    """
    with archive.open(name, "w", force_zip64=True) as member:
        kind = np.lib.format.dtype_to_descr(matrix.dtype)
        text = repr({"descr": kind, "fortran_order": False, "shape": matrix.shape})
        start = archive.fp.tell() + np.lib.format.MAGIC_LEN + 2 + len(text) + 1  # type: ignore[union-attr]  # it is open
        text += " " * (-start % _ALIGNMENT) + "\n"
        member.write(np.lib.format.magic(1, 0) + struct.pack("<H", len(text)) + text.encode("ascii"))
        for rows in blocks:
            member.write(np.ascontiguousarray(matrix[rows]).data)


def _check_member(member: zipfile.ZipInfo) -> None:
    # Every part of a name with folders is checked: `assets/..` is such a name.
    if member.is_dir() or not all(map(is_plain_name, member.filename.split("/"))):
        msg = f"its member {member.filename!r} is not a file inside it"
        raise ValueError(msg)
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        msg = f"its member {member.filename!r} is compressed or encrypted, which its writers never do"
        raise ValueError(msg)
    if member.compress_size != member.file_size:  # its checksum would be that of a part of it
        msg = f"its member {member.filename!r} declares {member.file_size:,} bytes and has {member.compress_size:,}"
        raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one task.

    Attributes:
        record: Plain values, ready for JSON.
        arrays: Arrays of numbers.
    """

    record: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def read_result(path: Path) -> Result:
    """Read a file that `write_result` wrote.

    Raises:
        TypeError: If it holds no record.
        DAMAGES: Any of them, if the file is damaged.
    """
    list_members(path)
    with zipfile.ZipFile(path) as archive:
        arrays = {name.removesuffix(".npy"): read_array(archive.read(name)) for name in archive.namelist()}
    record = json.loads(str(arrays.pop(_RECORD)))
    if not isinstance(record, dict):
        msg = f"{path} does not hold a record; delete it, and run the same command again"
        raise TypeError(msg)
    return Result(record, arrays)


def write_result(path: Path, result: Result) -> None:
    """Write a result: the file is there whole, or not at all.

    Raises:
        StoreError: If it cannot be written; an older file is left as it was.
    """
    content = io.BytesIO()
    arrays: dict[str, Any] = {_RECORD: np.array(json.dumps(result.record)), **result.arrays}
    np.savez(content, **arrays)
    with say_failures(path), write_atomically(path) as temporary:
        temporary.write_bytes(content.getvalue())


#: Columns of equal length, by name.
Table = Mapping[str, Sequence[Any] | NDArray[Any]]


def write_json(values: Mapping[str, Any], path: Path) -> None:
    r"""Write values as indented JSON, with each list of numbers on one line.

    A byte of a file's name that is not UTF-8 becomes `\udcNN`, which JSON reads as the same name.

    Raises:
        OSError: If the file cannot be written.
        ValueError: If a number is not finite.
    """
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
    # A list of texts or of other lists has one of these characters; a line break in a text is escaped.
    text = re.sub(r'\[\n[^\[\]{}"]*\]', lambda found: " ".join(found[0].split()), text)
    path.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def read_table(path: Path) -> Iterator[list[str]]:
    """Yield the rows of a CSV file that may be untrusted, the header first; all rows have its length.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not a regular file, or a line is too long or has more or fewer cells than the header.
        csv.Error: If it is not CSV.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        msg = f"{path.name} is a link, a folder or a device"
        raise ValueError(msg)
    with path.open(encoding="utf-8", newline="") as file:
        width = None
        for row in csv.reader(_read_lines(file, path.name)):
            width = len(row) if width is None else width
            if len(row) != width:
                msg = f"{path.name} has a row of {len(row)} cells under {width} columns"
                raise ValueError(msg)
            yield row


def read_columns(path: Path, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield the cells of some columns of a CSV file, row by row; see `read_table`.

    Raises:
        KeyError: If a column is missing.
    """
    rows = read_table(path)
    places = {name: at for at, name in enumerate(next(rows, []))}
    at = [places[name] for name in names]
    for row in rows:
        yield tuple(row[place] for place in at)


def _read_lines(file: TextIO, name: str) -> Iterator[str]:
    while line := file.readline(_MOST_LINE_CHARACTERS):
        if len(line) == _MOST_LINE_CHARACTERS:
            msg = f"{name} has a line of {_MOST_LINE_CHARACTERS:,} characters or more"
            raise ValueError(msg)
        yield line


def write_table(columns: Table, path: Path) -> None:
    """Write columns of equal length as CSV.

    Raises:
        OSError: If the file cannot be written.
    """
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def forget_pages(matrix: Matrix) -> None:
    """Release the memory that a mapped matrix takes; pages that are read again come from the system's cache.

    Otherwise a long run would seem to take as much memory as its rows: pages of a mapped file count until another
    process needs the memory.
    """
    base: Any = matrix
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        base.madvise(mmap.MADV_DONTNEED)


def reserve_file(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return an array of any content that is mapped from a temporary file without a name.

    Raises:
        StoreError: If the folder of temporary files has no room for it.
    """
    n_bytes = np.dtype(dtype).itemsize * math.prod(shape)
    try:
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):  # otherwise a full disk would end the process when a page is written
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            else:
                file.truncate(n_bytes)
            return np.memmap(file, dtype, "r+", shape=shape)
    except OSError as error:
        folder, reason = tempfile.gettempdir(), error.strerror or error
        msg = f"{folder} has no room for {n_bytes:,} bytes of scores ({reason}); set TMPDIR to a folder of another disk"
        raise StoreError(msg) from error
