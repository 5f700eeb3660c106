"""Archives of images, read in place: nothing is extracted to a named file.

An archive is untrusted. It is refused if a member's name leads out of it, or if it would
unpack to far more than its own size, before it fills the memory or the disk. Links and
devices are not followed.
"""

import bz2
import calendar
import contextlib
import gzip
import io
import itertools
import lzma
import os
import re
import stat
import struct
import tarfile
import tempfile
import threading
import weakref
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, cast

from featx.errors import FeatxError, SourceError
from featx.items.formats import HEAD_BYTES, has_image_suffix, looks_like_image
from featx.items.layouts import NO_IMAGES, SPLIT_NAMES, find_junk_reason
from featx.items.manifest import MAX_FILE_BYTES, FileStat, Manifest, list_junk
from featx.items.opening import open_file
from featx.items.selection import AS_IT_IS, LEFT_OUT, SourceOptions, arrange, choose_items
from featx.urls import find_path, find_url, hide_secrets

#: The largest data sets in one archive have two million images; listing that many takes 1.8 GB.
MAX_MEMBERS = 2_000_000

#: Limits on the names and times of one tar member, which the pax and GNU formats do not limit.
MAX_HEADER_BYTES = 2**20
MAX_GLOBAL_HEADERS = 64

_LAST_SECOND = 2**33
_SPECIAL = "links and special files"

#: Exceptions of tarfile, zipfile and the decompressors on damaged archives, found with 12,000 of these.
#: The last line is for fields that they do not check, such as a size that is not a number.
_DAMAGES = (
    *(OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile),
    *(ValueError, LookupError, ArithmeticError, RuntimeError, struct.error),
)


@dataclass(frozen=True, slots=True)
class Member:
    """One regular file in an archive; `where` is its offset in a tar, in bytes, or its zip entry."""

    name: str
    size_bytes: int
    mtime_ns: int
    where: int | zipfile.ZipInfo


class Container(Protocol):
    """Reads the members of an archive."""

    def read(self, member: Member, n_bytes: int) -> bytes:
        """Return the first bytes of a member, fewer if it is shorter. Raises OSError."""
        ...


class ArchiveReader:
    """Reads members of an archive by their id."""

    def __init__(
        self, container: Container, members: dict[str, Member], mtime_ns: int, *, is_remote: bool = False
    ) -> None:
        self._container = container
        self._members = members
        self._mtime_ns = mtime_ns
        self.is_remote = is_remote

    def stat(self, item_id: str) -> FileStat:
        """Return the member's size, and the later of its time and the archive's own.

        Tools for reproducible archives give all members one fixed time, so by the members'
        times alone a rebuilt archive would pass for the old one. A zip's times count as UTC.
        The number of a remote archive changes with its content, so it counts alone.

        Raises:
            FileNotFoundError: If the archive has no such item.
        """
        member = self._find(item_id)
        return FileStat(member.size_bytes, self._mtime_ns if self.is_remote else max(member.mtime_ns, self._mtime_ns))

    def read(self, item_id: str, n_bytes: int | None = None) -> bytes:
        """Return the first bytes of the member, or all of them if `n_bytes` is None.

        Raises:
            OSError: If the archive has no such item, or its bytes are damaged.
        """
        member = self._find(item_id)
        wanted = member.size_bytes if n_bytes is None else min(n_bytes, member.size_bytes)
        found = self._container.read(member, wanted)
        if len(found) < wanted:
            msg = f"damaged in the archive: only {len(found):,} of {wanted:,} bytes are there"
            raise OSError(msg)
        return found

    def _find(self, item_id: str) -> Member:
        try:
            return self._members[item_id]
        except KeyError:
            msg = f"the archive has no item {item_id!r}"
            raise FileNotFoundError(msg) from None


def read_archive(source: str | os.PathLike[str], *, options: SourceOptions = AS_IT_IS) -> Manifest:
    """List the images of a zip or tar file, laid out as `read_folder` expects.

    If several members have one name, the last counts, as if they had been unpacked in
    order. A folder around everything that is named like the archive is not part of the
    ids. Otherwise, items and ids are those of `read_folder` for the unpacked content.

    Args:
        source: A zip, or a tar, plain or compressed by gzip, bzip2 or xz; its content
            decides which. A compressed tar is unpacked once into an anonymous temporary file.
            At a URL, only the parts that are needed are read, but of a compressed tar all.
        options: The layout, where the classes are, and what to leave out.

    Returns:
        The manifest; its reader keeps the archive open.

    Raises:
        SourceError: If the archive is damaged, encrypted or unsafe, holds no images, or can be read in two ways.
        UsageError: If an option does not fit what the archive holds.
    """
    url = find_url(source)
    name = hide_secrets(url) or os.fspath(find_path(source))
    with _translate_damages(name):
        container, size_bytes, version = _open(source)
    images, junk = choose_images(container, size_bytes, name)
    if not images:
        left_out = f" (left out: {list_junk(junk)})" if junk else ""
        msg = f"the archive {name!r} holds no images{left_out}; name an archive of folders of images"
        raise SourceError(msg)
    own = _find_own_folder(images, name)
    found = arrange((path.removeprefix(own) for path in images), options, name)
    if n_left_out := len(images) - len(found.items):
        junk[LEFT_OUT] += n_left_out
    prefix = own + found.prefix
    members = {path.removeprefix(prefix): member for path, member in images.items()}
    reader = ArchiveReader(container, members, version, is_remote=bool(url))
    return choose_items(Manifest(found.items, reader, name, dict(junk), notes=found.notes), found.options)


def _find_own_folder(paths: Iterable[str], name: str) -> str:
    """Return the folder around everything if the archive is named after it, ending in `/`; empty if there is none."""
    tops = {path.partition("/")[0] if "/" in path else "" for path in paths}
    top = tops.pop()
    is_own = bool(top) and not tops and Path(name).name.casefold().startswith(f"{top.casefold()}.")
    return f"{top}/" if is_own and top.casefold() not in SPLIT_NAMES else ""


@contextlib.contextmanager
def _translate_damages(name: str) -> Iterator[None]:
    try:
        yield
    except FeatxError:
        raise
    except _DAMAGES as error:
        msg = f"the archive {name!r} cannot be read: {error}; download or create it again"
        raise SourceError(msg) from error


def open_tar(
    file: IO[bytes], name: str, most: int | None = None, keep: Callable[[str, int], int] | None = None
) -> "Tar":
    """List the files of a tar that is not compressed.

    Args:
        file: The tar, which is closed with what is returned.
        name: Its path or URL, for messages.
        most: Look at so many members only.
        keep: As in `Tar`.

    Raises:
        SourceError: If it is damaged or compressed.
    """
    with _translate_damages(name):
        head = file.read(6)
        file.seek(0)
        if not head.startswith(b"PK") and not find_unpacker(head):
            return Tar(file, name, most, keep)
        file.close()
    msg = f"the shard {name!r} is compressed, and could not be read in place; write it as a plain tar"
    raise SourceError(msg)


def _open(source: str | os.PathLike[str]) -> tuple["Zip | Tar", int, int]:
    """Open an archive; return its size in bytes, and its time or the number of its version, too."""
    url = find_url(source)
    name = hide_secrets(url) or os.fspath(find_path(source))
    file, size_bytes, version = open_file(url or name)
    container = _open_container(file, size_bytes, name)
    container.source = url or os.path.abspath(name)  # noqa: PTH100 - as `describe_source`; workers start elsewhere
    return container, size_bytes, version


def _reopen(source: str) -> "Zip | Tar":
    """Open an archive in another process."""
    return _open(source)[0]


def _open_container(file: IO[bytes], size_bytes: int, name: str) -> "Zip | Tar":
    head = file.read(6)
    file.seek(0)
    if head.startswith(b"PK"):
        return Zip(file, name)
    if unpacker := find_unpacker(head):
        with file, unpacker(file) as stream:
            return Tar(unpack(stream, size_bytes, name), name)
    return Tar(file, name)


class Zip:
    """The members of a zip file, decompressed on demand."""

    source = ""

    def __init__(self, file: IO[bytes], name: str) -> None:
        weakref.finalize(self, file.close)
        # ZipFile never closes a file that it is given. One that it opened itself it closes by a count of
        # readers, which is not safe in threads.
        self._zip = zipfile.ZipFile(file)
        self._load = getattr(file, "load", None)  # of a remote one
        self.members: list[Member] = []
        self.n_special = 0
        _check_count(len(self._zip.filelist), name)
        for info in self._zip.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir():
                continue
            if kind not in {0, stat.S_IFREG}:
                self.n_special += 1
                continue
            if info.flag_bits & _ENCRYPTED:
                msg = f"the archive {name!r} is encrypted ({info.filename!r}); unpack it and name the folder"
                raise SourceError(msg)
            if info.compress_type not in _BOUNDED:
                how = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "lzma"}.get(info.compress_type, "another method")
                msg = (
                    f"the archive {name!r} is compressed with {how} ({info.filename!r}); unpack it and name the folder"
                )
                raise SourceError(msg)
            self.members.append(Member(_spell(info), info.file_size, _read_clock(info), info))

    def __reduce__(self) -> tuple[Any, ...]:
        """Let another process open the archive for itself."""
        return _reopen, (self.source,)

    def read(self, member: Member, n_bytes: int) -> bytes:
        """Return the first bytes of a member, fewer if it is shorter. Raises OSError."""
        info = cast("zipfile.ZipInfo", member.where)
        try:
            if self._load:  # by one request, outside the lock of ZipFile
                self._load(info.header_offset, _LOCAL_HEADER_BYTES + min(n_bytes + _SLACK_BYTES, info.compress_size))
            with self._zip.open(info) as file:
                return file.read(n_bytes)
        except _DAMAGES as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # an error of the disk, which may be gone in the next run
            msg = f"damaged in the archive: {error}"
            raise OSError(msg) from error


#: Allowed compression of zip members. With any other, zipfile unpacks everything that it has read at once:
#: 220 bytes of bzip2 fill 300 MB.
_BOUNDED = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}

#: More than the header before a member usually has, and than the headers of its compressed blocks have.
_LOCAL_HEADER_BYTES, _SLACK_BYTES = 512, 4096

#: Bits of a zip entry: encrypted, strongly encrypted; name in UTF-8.
_ENCRYPTED = 0x1 | 0x40
_UTF8_NAME = 0x800


def _spell(info: zipfile.ZipInfo) -> str:
    name = info.filename
    if not info.flag_bits & _UTF8_NAME:
        # macOS writes UTF-8 without setting the bit; text in code page 437 is hardly ever valid UTF-8.
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode()
    # Some Windows programs separate folders with backslashes, against the standard.
    return name.replace("\\", "/")


def _read_clock(info: zipfile.ZipInfo) -> int:
    year, month, day, hour, minute, second = info.date_time
    # Writers without a clock leave the month at 0.
    return calendar.timegm((year, min(max(month, 1), 12), day, hour, minute, second)) * 10**9


class Tar:
    """The members of an uncompressed tar file, each read where it starts.

    Args:
        file: The tar.
        name: Its path or URL, for messages.
        most: Look at so many members only.
        keep: Returns how many bytes to keep of a member of this name and size in bytes, as its header passes.
    """

    source = ""

    def __init__(
        self, file: IO[bytes], name: str, most: int | None = None, keep: Callable[[str, int], int] | None = None
    ) -> None:
        weakref.finalize(self, file.close)
        self._file = file
        self._lock = threading.Lock()
        self._kept: dict[int, bytes] = {}
        self.members: list[Member] = []
        self.n_special = 0
        headers = _Headers(file)
        tar = tarfile.TarFile(fileobj=cast("IO[bytes]", headers), encoding="utf-8")  # not that of the locale
        for info in itertools.islice(_list_headers(tar, headers, name), most):
            if info.isreg() and not info.issparse():
                self.members.append(Member(info.name, info.size, _to_ns(info.mtime), info.offset_data))
                if keep and (wanted := keep(info.name, info.size)):
                    file.seek(info.offset_data)
                    self._kept[info.offset_data] = file.read(wanted)
            elif not info.isdir():
                self.n_special += 1
        # tarfile takes a damaged header for the end. At the end of an intact archive there are zeros, or nothing.
        if most is None and any(self._read_at(tarfile.BLOCKSIZE, tar.offset)):
            msg = f"the archive {name!r} is damaged at byte {tar.offset:,}; download or create it again"
            raise SourceError(msg)

    def __reduce__(self) -> tuple[Any, ...]:
        """Let another process open the archive for itself."""
        return _reopen, (self.source,)

    def read(self, member: Member, n_bytes: int) -> bytes:
        """Return the first bytes of a member, fewer if it is shorter. Raises OSError."""
        wanted, where = min(n_bytes, member.size_bytes), cast("int", member.where)
        kept = self._kept.get(where, b"")
        return kept[:wanted] if wanted <= len(kept) else self._read_at(wanted, where)

    def _read_at(self, n_bytes: int, offset: int) -> bytes:
        if isinstance(self._file, io.RawIOBase):  # a remote one
            return cast("Any", self._file).pread(n_bytes, offset)  # type: ignore[no-any-return]
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), n_bytes, offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.read(n_bytes)


class _Headers:
    """A file as tarfile reads it: only headers, and at most `left` bytes of them for each member."""

    def __init__(self, file: IO[bytes]) -> None:
        self.left = MAX_HEADER_BYTES
        self.seek, self.tell = file.seek, file.tell
        self._file = file

    def read(self, n_bytes: int) -> bytes:
        self.left -= n_bytes
        if self.left < 0:
            msg = f"the name and times of a member take more than {MAX_HEADER_BYTES:,} bytes"
            raise ValueError(msg)
        return self._file.read(n_bytes)


def _list_headers(tar: tarfile.TarFile, headers: _Headers, name: str) -> Iterator[tarfile.TarInfo]:
    kept: list[tarfile.TarInfo] = cast("Any", tar).members
    count = 0
    while info := tar.next():
        count += 1
        _check_count(count, name)
        if len(tar.pax_headers) > MAX_GLOBAL_HEADERS:
            msg = f"more than {MAX_GLOBAL_HEADERS} values in its global headers"
            raise ValueError(msg)
        yield info
        kept.clear()  # a TarInfo takes ten times the memory of a Member
        headers.left = MAX_HEADER_BYTES


def _check_count(n_members: int, name: str) -> None:
    if n_members > MAX_MEMBERS:
        msg = f"the archive {name!r} has more than {MAX_MEMBERS:,} members; unpack it and name the folder"
        raise SourceError(msg)


def _to_ns(mtime_seconds: float) -> int:
    """Return a time of a tar in ns, or 0 if it is not a time: its text may be `nan` or 1e300."""
    return round(mtime_seconds * 10**9) if 0 <= mtime_seconds < _LAST_SECOND else 0


def choose_images(container: "Zip | Tar", archive_bytes: int, name: str) -> tuple[dict[str, Member], Counter[str]]:
    """Choose the images among the members of an archive, and count why others are left out.

    Raises:
        SourceError: If a name leads out of the archive, or a file is too large.
    """
    junk = Counter({_SPECIAL: container.n_special} if container.n_special else {})
    junk_folders: set[str] = set()
    images: dict[str, Member] = {}
    for path, member in _index_members(container.members, name, junk).items():
        if folder := find_junk_folder(path):
            junk_folders.add(folder)
        elif reason := find_junk_reason(path.rpartition("/")[2], is_folder=False):
            junk[reason] += 1
        elif has_image_suffix(path) or looks_like_image(_peek(container, member)):
            images[path] = member
        else:
            junk[NO_IMAGES] += 1
    junk.update(find_junk_reason(folder.rpartition("/")[2], is_folder=True) for folder in junk_folders)
    _check_sizes(images.values(), archive_bytes, name)
    return images, junk


def _index_members(members: Iterable[Member], name: str, junk: Counter[str]) -> dict[str, Member]:
    index: dict[str, Member] = {}
    for member in members:
        parts = [part for part in member.name.split("/") if part not in {"", "."}]
        if member.name.startswith("/") or re.match(r"[A-Za-z]:[/\\]", member.name) or ".." in parts:
            msg = (
                f"the archive {name!r} is refused: its member {member.name!r} lies outside it; "
                "create it again with relative names"
            )
            raise SourceError(msg)
        path = "/".join(parts)
        if path in index:
            junk["files replaced by a later one of that name"] += 1
        index[path] = member
    return index


def find_junk_folder(path: str) -> str:
    """Return the path of the outermost junk folder around a file; empty if there is none."""
    folders = path.split("/")[:-1]
    for depth, folder in enumerate(folders, start=1):
        if find_junk_reason(folder, is_folder=True):
            return "/".join(folders[:depth])
    return ""


def _peek(container: Container, member: Member) -> bytes:
    try:
        return container.read(member, HEAD_BYTES)
    except OSError:  # neither its content nor its name makes it an image
        return b""


def _check_sizes(members: Iterable[Member], archive_bytes: int, name: str) -> None:
    total = 0
    for member in members:
        total += member.size_bytes
        if member.size_bytes > MAX_FILE_BYTES:
            msg = (
                f"the archive {name!r} is refused: {member.name!r} has {member.size_bytes:,} bytes, too many for "
                "an image; remove it"
            )
            raise SourceError(msg)
    if total > find_limit(archive_bytes):
        raise make_bomb_error(name)


#: Photographs are compressed already and shrink by a few per cent; masks and drawings shrink up to a few
#: hundred times. An archive that exceeds this ratio and also the size of a large data set is a bomb.
MAX_RATIO = 200
MAX_UNPACKED_BYTES = 10 * 2**30

#: `xz -9` asks for 65 MiB, and the format allows 4 GiB.
MAX_XZ_BYTES = 256 * 2**20

_COPY_BYTES = 2**20


class _Xz(io.RawIOBase):
    """An xz file, decompressed in bounded memory, for which `lzma.LZMAFile` has no argument."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decompressor = lzma.LZMADecompressor(memlimit=MAX_XZ_BYTES)

    def read(self, n_bytes: int = -1) -> bytes:
        """Return at most `n_bytes` bytes; none at the end."""
        while True:
            if self._decompressor.eof:
                # Another stream may follow, with zeros in between.
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
    """Return the decompressor of a file that begins with these bytes; None if it is not compressed."""
    return next((unpacker for magic, unpacker in _UNPACKERS.items() if head.startswith(magic)), None)


def unpack(stream: IO[bytes], archive_bytes: int, name: str) -> IO[bytes]:
    """Copy a stream into an anonymous temporary file.

    Args:
        stream: The decompressed archive.
        archive_bytes: Size of the archive.
        name: The archive's path.

    Raises:
        SourceError: If it is a bomb, or the disk is full.
    """
    limit = find_limit(archive_bytes)
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
        msg = f"{name!r} cannot be unpacked into {place!r}: {error.strerror}; set TMPDIR to a folder on a larger disk"
        raise SourceError(msg) from error


def find_limit(archive_bytes: int) -> int:
    """Return how many bytes an archive of this size may unpack to."""
    return max(MAX_UNPACKED_BYTES, MAX_RATIO * archive_bytes)


def make_bomb_error(name: str) -> SourceError:
    """Make the error for an archive that unpacks to more than `find_limit` allows."""
    return SourceError(
        f"the archive {name!r} unpacks to more than {MAX_UNPACKED_BYTES / 2**30:g} GiB and {MAX_RATIO} times its size; "
        "if you trust it, unpack it and name the folder"
    )
