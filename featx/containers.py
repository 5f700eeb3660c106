"""What a stranger's zip file and arrays declare, checked before anything is allocated for it.

NumPy, Keras and skops write members as they are, not compressed, and so a whole file is never
smaller than its members together. What declares more than that is damaged or a bomb.
"""

import io
import math
import tokenize
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from numpy.typing import NDArray

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
