"""Writing files that survive a power cut, a full disk and a killed process: whole, or not there at all."""

import contextlib
import glob
import io
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import h5py

from featx.errors import StoreError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


#: The oldest form in which HDF5's own records carry checksums, so that damage to them is
#: refused and not followed; every HDF5 since 1.8 (2008) reads it.
_LIBVER = ("v108", "v108")


class _Stream(io.FileIO):
    """A new file that keeps its first error for later.

    HDF5 does not outlive a failed write: with its own driver, a full disk makes closing fail
    as well, and ends the process in a segmentation fault (h5py 3.14). So it writes through
    this, at the same speed, and is told of nothing.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "x+")
        self.error: OSError | None = None

    def write(self, data: "ReadableBuffer", /) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest and self.error is None:
                rest = rest[super().write(rest) :]  # the last bytes before the disk is full, or 2 GiB at most
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


@contextlib.contextmanager
def write_file(path: Path, confirm: Callable[[], None]) -> Iterator[h5py.File]:
    """Write a new HDF5 file under a temporary name; it gets its own when the block ends without an error.

    Args:
        path: The file; an older one is replaced at the very end.
        confirm: Is called when all is written, and raises if the file may not get its name any more.

    Raises:
        StoreError: If it cannot be written; a file that had the name is left as it was.
    """
    temporary = name_temporary(path)
    try:
        with _Stream(temporary) as stream:
            with h5py.File(stream, "w", libver=_LIBVER) as file:
                yield file
            if stream.error:
                raise stream.error
        sync_file(temporary)
        confirm()
        publish_file(temporary, path)
    except StoreError:
        raise
    except OSError as error:
        msg = (
            f"{path} cannot be written: {error.strerror or error}; make room or name another folder, and run the "
            f"command again: what was finished is kept"
        )
        raise StoreError(msg) from error
    finally:
        temporary.unlink(missing_ok=True)


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
