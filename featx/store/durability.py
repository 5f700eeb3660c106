"""Writing files that survive a power cut, a full disk and a killed process: whole, or not there at all."""

import contextlib
import glob
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import h5py

from featx.errors import StoreError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


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
def write_file(path: Path) -> Iterator[h5py.File]:
    """Write a new HDF5 file under a temporary name; it gets its own when the block ends without an error.

    Raises:
        StoreError: If it cannot be written; a file that had the name is left as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        with _Stream(temporary) as stream:
            with h5py.File(stream, "w") as file:
                yield file
            if stream.error:
                raise stream.error
        publish_file(temporary, path)
    except OSError as error:
        msg = (
            f"{path} cannot be written: {error.strerror or error}; make room or name another folder, and run the "
            f"command again: what was finished is kept"
        )
        raise StoreError(msg) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove what `write_file` left of a file when its process was killed; nobody else may be writing it."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        leftover.unlink(missing_ok=True)


def publish_file(temporary: Path, path: Path) -> None:
    """Give a finished file its name: readers see the old file or the new one, never a part.

    Data first, then the name, then the folder's entry: in any other order a power
    cut can leave the name on a file whose data never arrived.
    """
    sync_file(temporary)
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
