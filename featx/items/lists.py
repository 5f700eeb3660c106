"""Lists of paths: one a line, or separated by NUL as `find -print0` writes them."""

import functools
import os
from pathlib import Path

from featx.errors import SourceError
from featx.items.names import decode_text, to_native
from featx.items.spellings import find_files, make_id

_ENDS_OF_LINES = (b"\n\0", b"\0\n")

_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_list(data: bytes, name: str) -> tuple[list[str], list[str]]:
    """Read the paths of a list; files that do not exist are searched for under the spellings that tables may have.

    Args:
        data: The list. Names of files that are not UTF-8 may be in it as they are.
        name: Its name, for messages.

    Returns:
        The paths, those of the real files where these were found; and which spellings were used, for the user.

    Raises:
        SourceError: If it has no paths.
    """
    paths, encoding = _parse(data, name)
    if not paths:
        msg = f"{name} lists no paths; write one per line"
        raise SourceError(msg)
    base = str(Path.cwd())
    found = find_files(paths, functools.partial(make_id, base=base), base, encoding)
    real = zip(paths, found.ids, strict=True)
    return [item_id if at in found.respelled else path for at, (path, item_id) in enumerate(real)], found.notes


def _parse(data: bytes, name: str) -> tuple[list[str], str]:
    """Return the paths, and the encoding of the list."""
    is_utf_16 = data.startswith(_UTF_16_MARKS) or any(end in data for end in _ENDS_OF_LINES)
    if b"\0" in data and not is_utf_16:
        return _split(data.decode("utf-8", "surrogateescape"), "\0"), "utf-8"
    paths = _split(data.decode("utf-8-sig", "surrogateescape"), "\n")
    # Names of files that are not UTF-8 are right as they are; other such text is in the encoding of another machine.
    others = [path for path in paths if any("\udc80" <= char <= "\udcff" for char in path)]
    if not is_utf_16 and (not others or any(os.path.lexists(to_native(path)) for path in others)):
        return paths, "utf-8"
    try:
        text, encoding = decode_text(data, f"the list {name!r}")
    except SourceError:
        if is_utf_16:
            raise
        return paths, "utf-8"
    return _split(text, "\n"), encoding


def _split(text: str, end: str) -> list[str]:
    return [path for line in text.split(end) if (path := line.rstrip("\r")).strip()]
