"""Folders of images: class folders, the same under split folders, or no folders at all."""

import errno
import os
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from featx.errors import SourceError
from featx.items.formats import HEAD_BYTES, has_image_suffix, looks_like_image
from featx.items.layouts import NO_IMAGES, UNREADABLE, find_junk_reason
from featx.items.manifest import MAX_FILE_BYTES, FileStat, Item, Manifest, list_junk
from featx.items.names import join_escapes, to_native
from featx.items.selection import AS_IT_IS, LEFT_OUT, SourceOptions, arrange, choose_items

#: Tables that may have the labels of pictures.
_TABLES = {".csv", ".tsv", ".parquet"}

#: With O_NONBLOCK, opening a pipe does not wait for a writer; without O_BINARY, Windows changes line ends.
_READ_AT_ONCE = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class FolderReader:
    """Reads files by their path relative to a folder; absolute paths are read as they are.

    Pipes and devices are refused before they are opened, because opening them can
    block forever. Files larger than `MAX_FILE_BYTES` are refused too.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = Path(root).absolute()

    def locate(self, item_id: str) -> Path:
        """Return the absolute path of an item's file, whether or not the file exists."""
        return Path(self._root, to_native(item_id))

    def stat(self, item_id: str) -> FileStat:
        """Return size and time without reading the file.

        Raises:
            OSError: If it is not a regular file, does not exist or is too large.
        """
        path = Path(self._root, to_native(item_id))
        try:
            info = path.stat()
        except ValueError as error:  # a NUL, or characters that this file system does not allow
            raise OSError(errno.EINVAL, str(error), str(path)) from error
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if info.st_size > MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, f"larger than {MAX_FILE_BYTES:,} bytes", str(path))
        return FileStat(info.st_size, info.st_mtime_ns)

    def read(self, item_id: str, n_bytes: int | None = None) -> bytes:
        """Return the first bytes of the file, or all of them if `n_bytes` is None.

        Raises:
            OSError: If it is not a regular file, is too large or cannot be read.
        """
        self.stat(item_id)
        with os.fdopen(os.open(Path(self._root, to_native(item_id)), _READ_AT_ONCE), "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):  # a pipe has replaced the file
                raise OSError(errno.EINVAL, "not a regular file", item_id)
            if n_bytes is not None:
                return file.read(n_bytes)
            data = file.read(info.st_size + 1)
            if len(data) > info.st_size:  # the file is growing
                data += file.read(MAX_FILE_BYTES)
        if len(data) > MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, f"larger than {MAX_FILE_BYTES:,} bytes", item_id)
        return data


def read_folder(source: str | os.PathLike[str], *, options: SourceOptions = AS_IT_IS) -> Manifest:
    """List the images of a folder; its folders name their classes and splits.

    Links are followed. A folder that is reached twice, as in a loop, is listed once. A
    single folder that holds only folders is looked through, unless it is named like a split.

    Args:
        source: A folder of class folders, of split folders (`train`, `val`, `test`)
            that hold class folders, or of images.
        options: The layout, where the classes are, and what to leave out.

    Returns:
        The manifest; ids are relative to the folder, or to the one that holds everything else.

    Raises:
        SourceError: If it is not a folder, cannot be listed, holds no images, or can be read in two ways.
        UsageError: If an option does not fit what the folder holds.
    """
    walk = _Walk(source)
    if not walk.files:
        left_out = f" (left out: {list_junk(walk.junk)})" if walk.junk else ""
        msg = (
            f"the folder {os.fspath(source)!r} holds no images{left_out}; name the folder that holds the class folders"
        )
        raise SourceError(msg)
    found = arrange(walk.files, options, os.fspath(source))
    if n_left_out := len(walk.files) - len(found.items):
        walk.junk[LEFT_OUT] += n_left_out
    reader = FolderReader(Path(source, to_native(found.prefix)))
    notes = (*found.notes, *_point_to_table(Path(source), found.items))
    return choose_items(Manifest(found.items, reader, os.fspath(source), dict(walk.junk), notes=notes), found.options)


def _point_to_table(folder: Path, items: Sequence[Item]) -> list[str]:
    """Name the table in a folder that may have the labels which its folders do not tell."""
    if len({item.label for item in items}) > 1:
        return []
    places = [place for place in (folder, folder / "data") if place.is_dir()]  # Hugging Face keeps tables in `data`
    files = (path for place in places for path in place.iterdir())
    tables = sorted(path for path in files if path.suffix.lower() in _TABLES and path.is_file())
    return [f"{tables[0]} was not read; if it has the labels, name it instead of {folder}"] if tables else []


def list_folder(source: str | os.PathLike[str]) -> list[str]:
    """List the images anywhere in a folder, relative to it; the names of folders do not matter.

    Raises:
        SourceError: If it cannot be listed.
    """
    return sorted(_Walk(source).files, key=os.fsencode)


class _Walk:
    """The files below a folder: first those of real folders, then those that only links reach."""

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self.files: list[str] = []
        self.junk: Counter[str] = Counter()
        self._source = Path(source)
        # A link to a folder above the root would add everything next to the root.
        self._seen = {_identify(parent) for parent in self._source.resolve().parents}
        self._folders = [""]
        self._links: list[str] = []
        while self._folders or self._links:
            if not self._folders:
                self._links.sort()
                self._folders.append(self._links.pop(0))
            self._visit(self._folders.pop())

    def _visit(self, prefix: str) -> None:
        path = Path(self._source, to_native(prefix))
        try:
            identity = _identify(path)
            if identity in self._seen:
                self.junk["folders linked twice or in a loop"] += 1
                return
            self._seen.add(identity)
            with os.scandir(path) as entries:
                for entry in entries:
                    self._add(entry, prefix)
        except OSError as error:
            msg = f"the folder {str(path)!r} cannot be listed: {error.strerror}; check its permissions or move it away"
            raise SourceError(msg) from error

    def _add(self, entry: os.DirEntry[str], prefix: str) -> None:
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself
            is_folder = is_file = False
        relative = prefix + join_escapes(entry.name)
        if reason := find_junk_reason(entry.name, is_folder=is_folder):
            self.junk[reason] += 1
        elif is_folder:
            (self._links if entry.is_symlink() else self._folders).append(f"{relative}/")
        elif not is_file:
            self.junk["pipes, sockets and devices" if Path(entry.path).exists() else "broken links"] += 1
        elif has_image_suffix(entry.name) or self._starts_like_image(Path(entry.path)):
            self.files.append(relative)

    def _starts_like_image(self, path: Path) -> bool:
        try:
            with path.open("rb", buffering=0) as file:
                found = looks_like_image(file.read(HEAD_BYTES))
        except OSError:
            self.junk[UNREADABLE] += 1
            return False
        if not found:
            self.junk[NO_IMAGES] += 1
        return found


def _identify(path: Path) -> tuple[int, int]:
    info = path.stat()
    return info.st_dev, info.st_ino
