"""Files that are opened on disk or at a URL, to be read in parts."""

from pathlib import Path
from typing import IO, cast

from featx.errors import SourceError
from featx.urls import find_url


def open_file(source: str, known: tuple[int, int] | None = None) -> tuple[IO[bytes], int, int]:
    """Open a file on disk or at a URL.

    Args:
        source: Its path or its URL.
        known: Size and number of the version of a file at a URL, if a listing has told them.

    Returns:
        The file, its size in bytes, and its time or the number of its version.

    Raises:
        SourceError: If it is not a file, or cannot be read.
    """
    url = find_url(source)
    if not url:
        if not Path(source).is_file():  # opening a FIFO would block forever
            msg = f"{source!r} is not a regular file; name a zip, tar or Parquet file"
            raise SourceError(msg)
        try:
            info = Path(source).stat()
            return Path(source).open("rb"), info.st_size, info.st_mtime_ns
        except OSError as error:
            msg = f"{source!r} cannot be opened: {error.strerror}; check its permissions"
            raise SourceError(msg) from error
    from featx.remote import RangeFile, open_location, say_unread

    location = open_location(url)
    with say_unread(location, SourceError):
        size_bytes, version = known or location.stat()
    if not size_bytes:
        msg = f"{location.name} is empty, or its server does not tell its size; download it, and name the copy"
        raise SourceError(msg)
    return cast("IO[bytes]", RangeFile(location, size_bytes)), size_bytes, version
