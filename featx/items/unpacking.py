"""Unpacking a compressed tar into an anonymous file, within bounds."""

import bz2
import gzip
import io
import lzma
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast

from featx.errors import SourceError

#: Photographs are compressed already and deflate by a few per cent, masks and drawings by up to a few
#: hundred; what grows by more than this and is also more than a large data set is a bomb.
MAX_RATIO = 200
MAX_UNPACKED_BYTES = 10 * 2**30

#: `xz -9` asks for 65 MiB, and the format allows 4 GiB.
MAX_XZ_BYTES = 256 * 2**20

_COPY_BYTES = 2**20


class _Xz(io.RawIOBase):
    """An xz file that is decompressed in bounded memory, which `lzma.LZMAFile` cannot be asked for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decompressor = lzma.LZMADecompressor(memlimit=MAX_XZ_BYTES)

    def read(self, n_bytes: int = -1) -> bytes:
        """Return at most so many bytes; none at the end."""
        while True:
            if self._decompressor.eof:
                # Streams may follow each other, with zeros between them.
                rest = self._decompressor.unused_data.lstrip(b"\0") or self._file.read(_COPY_BYTES).lstrip(b"\0")
                if not rest:
                    return b""
                self._decompressor = lzma.LZMADecompressor(memlimit=MAX_XZ_BYTES)
            else:
                rest = self._file.read(_COPY_BYTES) if self._decompressor.needs_input else b""
                if not rest and self._decompressor.needs_input:
                    msg = "it ends in the middle of its xz stream"
                    raise EOFError(msg)
            if found := self._decompressor.decompress(rest, n_bytes):
                return found


_UNPACKERS: dict[bytes, Callable[[IO[bytes]], IO[bytes]]] = {
    b"\x1f\x8b": lambda file: cast("IO[bytes]", gzip.GzipFile(fileobj=file)),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lambda file: cast("IO[bytes]", _Xz(file)),
}


def find_unpacker(head: bytes) -> Callable[[IO[bytes]], IO[bytes]] | None:
    """Return what decompresses a file that begins so; None if it is not compressed."""
    return next((unpacker for magic, unpacker in _UNPACKERS.items() if head.startswith(magic)), None)


def unpack(stream: IO[bytes], name: str) -> IO[bytes]:
    """Copy what a stream gives into an anonymous temporary file.

    Args:
        stream: The decompressed archive.
        name: The archive's path.

    Raises:
        SourceError: If it is a bomb, or the disk is full.
    """
    limit = find_limit(name)
    file = cast("IO[bytes]", tempfile.TemporaryFile(prefix="featx-"))  # noqa: SIM115 - the caller keeps it
    try:
        while chunk := stream.read(_COPY_BYTES):
            _append(file, chunk, limit, name)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def _append(file: IO[bytes], chunk: bytes, limit: int, name: str) -> None:
    if file.tell() + len(chunk) > limit:
        raise make_bomb_error(name)
    try:
        file.write(chunk)
    except OSError as error:
        place = tempfile.gettempdir()
        msg = f"no room to unpack {name!r} into {place!r}: {error.strerror}; let TMPDIR name a larger disk"
        raise SourceError(msg) from error


def find_limit(name: str) -> int:
    """Return how many bytes an archive may unpack to."""
    return max(MAX_UNPACKED_BYTES, MAX_RATIO * Path(name).stat().st_size)


def make_bomb_error(name: str) -> SourceError:
    """Say that an archive unpacks to more than that."""
    return SourceError(
        f"the archive {name!r} unpacks to more than {MAX_UNPACKED_BYTES / 2**30:g} GiB and {MAX_RATIO} times its size; "
        "if you trust it, unpack it and name the folder"
    )
