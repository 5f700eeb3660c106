"""HDF5 files, written so that a full disk or a power cut leaves the old file whole."""

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import h5py

from featx.files import say_failures, write_atomically

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Stream(io.FileIO):
    """A new file that keeps its first error for later.

    HDF5 does not survive a failed write: with its own driver, a full disk makes closing fail
    as well, and the process ends in a segmentation fault (h5py 3.14). So it writes through
    this stream, at the same speed, and never sees the error.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "x+")
        self.error: OSError | None = None

    def write(self, data: "ReadableBuffer", /) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest and self.error is None:
                rest = rest[super().write(rest) :]  # a write may be short: just before the disk is full, or after 2 GiB
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
def write_file(
    path: Path, confirm: Callable[[], None], *, keep: bool = False, is_index: bool = False
) -> Iterator[h5py.File]:
    """Write a new HDF5 file under a temporary name; it gets its own when the block ends without an error.

    Args:
        path: The file; an older one is replaced at the very end.
        confirm: Called when everything is written; raises if the file must not get its name.
        keep: Keep an older file, and drop the new one.
        is_index: The file gets a virtual dataset.

    Raises:
        StoreError: If the file cannot be written; an older one is left as it was.
    """
    with say_failures(path), write_atomically(path, confirm, keep=keep) as temporary, _Stream(temporary) as stream:
        with _create(stream, h5py.h5f.LIBVER_V110 if is_index else h5py.h5f.LIBVER_V18) as file:
            yield file
        if stream.error:
            raise stream.error


def _create(stream: _Stream, version: int) -> h5py.File:
    """Create an HDF5 file in the form of a version of HDF5, and without timestamps.

    1.8 is the oldest whose own records carry checksums: damage to them is then refused and not followed, and every HDF5
    since 2008 reads it. Virtual datasets need 1.10 (2016).
    Without timestamps, the same content gives the same bytes.
    """
    access, creation = h5py.h5p.create(h5py.h5p.FILE_ACCESS), h5py.h5p.create(h5py.h5p.FILE_CREATE)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, stream)
    access.set_libver_bounds(version, version)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    creation.set_obj_track_times(False)
    return h5py.File(h5py.h5f.create(b"featx", h5py.h5f.ACC_TRUNC, creation, access))


def create_group(file: h5py.File, name: str) -> h5py.Group:
    """Create a group without timestamps."""
    creation = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
    creation.set_obj_track_times(False)
    return h5py.Group(h5py.h5g.create(file.id, name.encode(), gcpl=creation))
