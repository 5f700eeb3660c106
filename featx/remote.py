"""Files at URLs, by fsspec: read whole or by range, kept in the cache, and written.

Every request goes through `_attempt`. A failure that may pass (a time-out, a lost connection, 429, 5xx) is tried again
after a random part of a growing delay ("full jitter"), a bounded number of times and seconds. Whatever is left becomes
an `OSError`, as of a local file, whose text names no secret.
"""

import contextlib
import errno
import functools
import hashlib
import io
import itertools
import json
import logging
import os
import posixpath
import random
import tempfile
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import quote

import platformdirs

from featx.errors import BundleError, FeatxError, MissingExtraError, SourceError, UsageError
from featx.files import is_plain_name, make_folder, write_atomically
from featx.prefetching import prefetch
from featx.urls import hide_secrets, name_file
from featx.wording import format_bytes

try:
    import fsspec
    from fsspec.asyn import sync
    from fsspec.core import url_to_fs
except ImportError as _error:
    _msg = f"URLs need another package: pip install 'featx[remote]' ({_error})"
    raise MissingExtraError(_msg) from _error

Answer = TypeVar("Answer")

#: Attempts of one request, the seconds in which the last must begin, and the longest delay in seconds.
MOST_ATTEMPTS, MOST_SECONDS, MOST_DELAY_SECONDS = 6, 120.0, 20.0
_FIRST_DELAY_SECONDS = 0.2

#: Seconds until a connection, or the next bytes of an answer, must be there.
_CONNECT_SECONDS, _READ_SECONDS = 10, 30

#: Statuses other than 5xx that may pass, and what S3 answers with status 400 to a body that came too slowly.
_PASSING = frozenset({408, 425, 429})
_PASSING_CODES = frozenset({"RequestTimeout", "SlowDown", "Throttling"})

#: Most of a file that is taken from a web server in one answer, which may hide its size, send without end, or ignore
#: ranges and begin at the beginning; as much as an item may have (`MAX_FILE_BYTES`).
MOST_BYTES = 512 << 20
_PART, _NO_PART = 206, 416

#: Classes of aiohttp, botocore and urllib3 for connections that fail.
_LOST = frozenset(
    {"ClientConnectionError", "ClientPayloadError", "HTTPClientError", "ConnectionError", "ProtocolError"}
)

#: Properties that change whenever the content does, as file systems name them, and then the times.
_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "Digest", "blob_id", "generation")
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created", "Last-Modified")

#: The number of a file without any of these, which is never taken for unchanged; see `mtime_ns` in docs/format.md.
UNKNOWN = 2**63 - 1

#: Object stores, where an object appears whole or not at all. Elsewhere, a file gets its name when it is whole.
_OBJECT_STORES = frozenset({"memory", "s3", "s3a", "gs", "gcs", "abfs", "az", "oss", "r2"})

_EXTRA = ("s3", "s3a", "http", "https")
_CHUNK_BYTES = 16 << 20
_FIRST_BLOCK_BYTES, _MOST_BLOCK_BYTES = 256 << 10, 8 << 20
_TOLD_BYTES = 64 << 20
_THREADS = 4

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Location:
    """A file or a folder at a URL.

    Attributes:
        system: The file system of fsspec.
        path: The path in it.
        name: The URL for messages, without secrets.
    """

    system: Any
    path: str
    name: str

    @property
    def is_web(self) -> bool:
        """Whether it is on a web server, which cannot list and may not know ranges."""
        return "http" in _list_protocols(self.system)

    def join(self, relative: str) -> "Location":
        """Return the location of a path below this one."""
        # What was written as %20 stays so.
        path = f"{self.path}/{quote(relative, safe='/%:@!$&()*+,;=~') if self.is_web else relative}"
        return Location(self.system, path, f"{self.name}/{relative}")

    def stat(self) -> tuple[int, int]:
        """Return size in bytes and a number that changes when the content does; see `count_identity`.

        Raises:
            OSError: If there is no such file, or it cannot be asked for.
        """
        fresh = {"refresh": True} if _is_s3(self.system) else {}  # not from a listing that is old by now
        info = _attempt(lambda: self.system.info(self.path, **fresh), self.name)
        if info.get("type") == "directory":
            raise OSError(errno.EISDIR, "it is a folder", self.name)
        return _describe_version(info)

    def read(self, n_bytes: int | None = None, start: int = 0) -> bytes:
        """Return all bytes, or `n_bytes` from `start` on, fewer at the end of the file. Raises OSError."""
        if n_bytes is not None:
            return self._read_part(start, n_bytes)[0] if n_bytes else b""  # which no range stands for
        if not self.is_web:
            single = {"max_concurrency": 1} if _is_s3(self.system) else {}  # without asking for the size first
            return bytes(_attempt(lambda: self.system.cat_file(self.path, **single), self.name))
        data, _ = _attempt(lambda: sync(self.system.loop, _receive, self.system, self.path), self.name)
        if len(data) > MOST_BYTES:
            raise OSError(errno.EFBIG, f"larger than {MOST_BYTES:,} bytes", self.name)
        return bytes(data)

    def _read_part(self, start: int, n_bytes: int) -> tuple[bytes, bool]:
        """Return a part, and whether the server sent nothing else."""
        end = start + n_bytes
        if not self.is_web:
            return bytes(_attempt(lambda: self.system.cat_file(self.path, start=start, end=end), self.name)), True
        work = lambda: sync(self.system.loop, _receive, self.system, self.path, start, end)  # noqa: E731 - as above
        data, is_part = _attempt(work, self.name)
        if not is_part and end > MOST_BYTES:
            reason = f"its server ignores ranges, so that nothing behind {MOST_BYTES:,} bytes is read; download it"
            raise OSError(errno.EFBIG, reason, self.name)
        return bytes(data), is_part

    def list_files(self) -> dict[str, tuple[int, int]]:
        """List the files below a folder by their relative paths, each as `stat` describes it. Raises OSError."""
        system = _make_lister(self.system)
        system.invalidate_cache()
        found = _attempt(lambda: system.find(self.path, detail=True), self.name)
        start = self.path.rstrip("/") + "/"
        return {
            path.removeprefix(start): _describe_version(info)
            for path, info in sorted(found.items())
            if path.startswith(start) and not path.endswith("/")
        }

    def list_matches(self, pattern: str) -> dict[str, tuple[int, int]]:
        """List the files below a folder that match a pattern, as `list_files` lists all of them. Raises OSError."""
        system = _make_lister(self.system)
        system.invalidate_cache()
        found = _attempt(lambda: system.glob(f"{self.path}/{pattern}", detail=True), self.name)
        return {
            path.removeprefix(f"{self.path}/"): _describe_version(info)
            for path, info in sorted(found.items())
            if info.get("type") != "directory"
        }

    def read_chunks(self, n_bytes: int) -> Iterator[bytes]:
        """Yield the content of a file of this size, 0 if it is unknown, some chunks ahead. Raises OSError."""
        first, is_part = self._read_part(0, min(n_bytes, _CHUNK_BYTES)) if n_bytes else (b"", False)
        if not n_bytes or (n_bytes > _CHUNK_BYTES and not is_part):  # a server that ignores ranges
            yield self.read()
            return
        yield first
        rest = range(_CHUNK_BYTES, n_bytes, _CHUNK_BYTES)
        yield from prefetch(lambda at: self.read(_CHUNK_BYTES, at), rest, workers=_THREADS, ahead=_THREADS)

    def remove(self) -> None:
        """Remove a folder and the files in it, if it is there. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            for name in self.list_files():  # each by itself: `rm` of many takes names with brackets for patterns
                _attempt(functools.partial(self.system.rm_file, f"{self.path}/{name}"), self.name)
            if not _OBJECT_STORES & set(_list_protocols(self.system)):
                _attempt(lambda: self.system.rmdir(self.path), self.name)
        self.system.invalidate_cache()

    def write(self, path: Path, sha256: str) -> None:
        """Write a local file here, whole or not at all, and read it back.

        Raises:
            OSError: If it cannot be written, or what is there then has another sha256.
        """
        target, is_store = self.path, bool(_OBJECT_STORES & set(_list_protocols(self.system)))
        temporary = target if is_store else f"{target}.{os.getpid()}-{random.getrandbits(32):08x}.tmp"
        if not is_store:
            _attempt(lambda: self.system.makedirs(posixpath.dirname(target), exist_ok=True), self.name)
        _attempt(lambda: self.system.put_file(str(path), temporary), self.name)
        if temporary != target:
            _attempt(lambda: self.system.mv(temporary, target), self.name)
        self.system.invalidate_cache()
        digest = hashlib.sha256()
        for chunk in self.read_chunks(path.stat().st_size):
            digest.update(chunk)
        if digest.hexdigest() != sha256:
            raise OSError(errno.EIO, "it was read back with other bytes than were written", self.name)


def open_location(url: str) -> Location:
    """Open a URL; no request is made yet.

    Raises:
        MissingExtraError: If the package for its scheme is not installed.
        SourceError: If its scheme is unknown, or its file system cannot be set up.
    """
    scheme, name = url.partition("://")[0], hide_secrets(url)
    try:
        system, path = url_to_fs(url, **_choose_options(scheme))
    except ImportError as error:
        advice = "pip install 'featx[remote]'" if scheme in _EXTRA else str(error)
        msg = f"{name} needs another package: {advice}"
        raise MissingExtraError(msg) from error
    except Exception as error:
        msg = f"{name} cannot be opened: {_describe(error)}; check the URL, and the settings of fsspec for {scheme}://"
        raise SourceError(msg) from error
    if hasattr(system, "retries"):
        system.retries = 1  # of s3fs: they would multiply with those of `_attempt`
    return Location(system, path.rstrip("/"), name.rstrip("/"))


def _list_protocols(system: Any) -> tuple[str, ...]:  # noqa: ANN401 - a file system of fsspec, which is untyped
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


def _is_s3(system: Any) -> bool:  # noqa: ANN401 - as above
    return "s3" in _list_protocols(system)


def _make_lister(system: Any) -> Any:  # noqa: ANN401 - as above
    """Return a file system for S3 that repeats the single pages of a listing, which would otherwise begin again."""
    if not _is_s3(system):
        return system
    config = system.storage_options.get("config_kwargs", {})
    retries = {"total_max_attempts": MOST_ATTEMPTS, "mode": "standard"}
    return type(system)(**{**system.storage_options, "config_kwargs": {**config, "retries": retries}})


async def _receive(system: Any, path: str, start: int = 0, end: int | None = None) -> tuple[bytearray, bool]:  # noqa: ANN401 - as above
    """Receive a file of a web server up to `end` or a byte more than `MOST_BYTES`; say if it came as this part."""
    options, session = dict(system.kwargs), await system.set_session()
    if end is not None:
        options["headers"] = {**options.get("headers", {}), "Range": f"bytes={start}-{end - 1}"}
    async with session.get(system.encode_url(path), **options) as answer:
        data, is_part = bytearray(), answer.status in {_PART, _NO_PART}
        if answer.status == _NO_PART:
            return data, is_part
        answer.raise_for_status()
        skipped, past = (0, end - start) if is_part and end else (start, end or MOST_BYTES + 1)
        if past > MOST_BYTES + 1:
            return data, is_part
        at = 0
        async for piece in answer.content.iter_any():
            data += piece[max(skipped - at, 0) : past - at]
            at += len(piece)
            if at >= past:
                break
        return data, is_part


def _choose_options(scheme: str) -> dict[str, Any]:
    """Choose time-outs, and a single attempt, where the user's settings of fsspec leave them open."""
    own = fsspec.config.conf.get(scheme, {})
    if scheme in {"s3", "s3a"}:
        times = {"connect_timeout": _CONNECT_SECONDS, "read_timeout": _READ_SECONDS}
        usual = {**times, "retries": {"total_max_attempts": 1}}
        return {"config_kwargs": {**usual, **own.get("config_kwargs", {})}}
    if scheme in {"http", "https"}:
        from aiohttp import ClientTimeout

        limit = ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS)
        return {"client_kwargs": {"timeout": limit, **own.get("client_kwargs", {})}}
    return {}


def _describe_version(info: Mapping[str, Any]) -> tuple[int, int]:
    return int(info.get("size") or 0), count_identity(info)


def count_identity(info: Mapping[str, Any]) -> int:
    """Return a number for what a file system says of a file's version.

    It is 60 bits of the sha256 of the etag or another checksum, which is below any recent time; or the time of the
    last change in nanoseconds since 1970; or `UNKNOWN`.
    """
    for key in _TAGS:
        tag = str(info.get(key) or "")
        if tag and not tag.startswith("W/"):  # a weak one may stay the same for other bytes
            return int.from_bytes(hashlib.sha256(tag.encode()).digest()[:8], "big") >> 4
    for key in _TIMES:
        value = info.get(key)
        if hasattr(value, "timestamp"):
            return int(value.timestamp() * 1e9)  # type: ignore[union-attr]
        if isinstance(value, int | float):
            return int(value * 1e9)
        if value:
            return _count_date(str(value))
    return UNKNOWN


def _count_date(text: str) -> int:
    import email.utils

    try:
        return int(email.utils.parsedate_to_datetime(text).timestamp() * 1e9)
    except ValueError:
        return UNKNOWN


def _attempt(work: Callable[[], Answer], name: str) -> Answer:
    """Make a request, again if it fails in a way that may pass. Raises OSError."""
    begun = time.monotonic()
    for attempt in itertools.count(1):
        try:
            return work()
        except FeatxError:
            raise
        except Exception as error:
            delay = random.uniform(0, min(MOST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2**attempt))  # noqa: S311 - jitter
            waited = time.monotonic() - begun
            if not is_passing(error):
                raise _translate(error, name) from error
            if attempt >= MOST_ATTEMPTS or waited + delay > MOST_SECONDS:
                reason = f"{_describe(error)} ({attempt} attempts in {waited:.0f} s)"
                raise OSError(errno.EIO, reason, name) from error
            logger.info("%s: %s; trying again in %.1f s", name, _describe(error), delay)
            time.sleep(delay)
    raise AssertionError  # the count is infinite


def is_passing(error: BaseException) -> bool:
    """Return whether a failure may pass: a time-out, a lost connection, 429 or 5xx, but neither 403 nor 404."""
    status, code = _find_status(error)
    if status:
        return status >= 500 or status in _PASSING or code in _PASSING_CODES  # noqa: PLR2004 - the server's own faults
    chain = list(_list_causes(error))
    names = {kind.__name__ for one in chain for kind in type(one).__mro__}
    return bool(names & _LOST) or any(isinstance(one, TimeoutError | ConnectionError) for one in chain)


def _list_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _find_status(error: BaseException) -> tuple[int, str]:
    """Return the status of the answer that caused an error, and S3's code; 0 if there was none."""
    for one in _list_causes(error):
        status, answer = getattr(one, "status", None), getattr(one, "response", None)
        if isinstance(status, int):
            return status, ""
        if isinstance(status := getattr(answer, "status_code", None), int):  # of huggingface_hub
            return status, ""
        if isinstance(answer, Mapping):  # of botocore
            status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0
            return int(status), str(answer.get("Error", {}).get("Code", ""))
    return 0, ""


def _translate(error: Exception, name: str) -> OSError:
    """Return a failure that lasts as the error that a local file would have caused."""
    status, _ = _find_status(error)
    if status == 404 or (isinstance(error, FileNotFoundError) and not status):  # noqa: PLR2004
        return FileNotFoundError(errno.ENOENT, "it does not exist", name)
    if status in {401, 403} or isinstance(error, PermissionError):
        return PermissionError(errno.EACCES, f"access is denied{f' (status {status})' if status else ''}", name)
    if status:
        return OSError(errno.EINVAL, f"the server answers with status {status}", name)
    return OSError(getattr(error, "errno", None) or errno.EIO, _describe(error), name)


def _describe(error: BaseException) -> str:
    status, code = _find_status(error)
    if status:
        return f"the server answers with status {status}{f' ({code})' if code else ''}"
    text = hide_secrets(" ".join(str(error).split()))[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class RangeFile(io.RawIOBase):
    """A remote file that is read by range; `pread` and `load` may be called in several threads at once.

    Args:
        location: The file.
        n_bytes: Its size in bytes.
    """

    def __init__(self, location: Location, n_bytes: int) -> None:
        self.location, self._n_bytes, self._at = location, n_bytes, 0
        self._block_bytes = _FIRST_BLOCK_BYTES
        self._windows: Any = threading.local()

    def share(self) -> "RangeFile":
        """Let all threads, which must take turns, read from what any of them has loaded."""
        self._windows = types.SimpleNamespace()
        return self

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset, and return it."""
        self._at = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._n_bytes}[whence] + offset
        return self._at

    def tell(self) -> int:
        """Return the offset."""
        return self._at

    def read(self, n_bytes: int = -1) -> bytes:
        """Return the next bytes, from what this thread has loaded if they are there. Raises OSError."""
        wanted = max(self._n_bytes - self._at, 0)
        wanted = wanted if n_bytes is None or n_bytes < 0 else min(n_bytes, wanted)
        start, data = getattr(self._windows, "loaded", (0, b""))
        if not start <= self._at <= self._at + wanted <= start + len(data):
            # Reads in order, with gaps that a request of their own would not be worth, take fewer and longer requests.
            is_next = 0 <= self._at - (start + len(data)) <= _FIRST_BLOCK_BYTES and bool(data)
            self._block_bytes = min(2 * self._block_bytes, _MOST_BLOCK_BYTES) if is_next else _FIRST_BLOCK_BYTES
            start, data = self.load(self._at, max(wanted, self._block_bytes))
        found = data[self._at - start : self._at - start + wanted]
        self._at += len(found)
        return found

    def load(self, offset: int, n_bytes: int) -> tuple[int, bytes]:
        """Read a part by one request, for the next reads of this thread. Raises OSError."""
        loaded = self._windows.loaded = offset, self.pread(n_bytes, offset)
        return loaded

    def pread(self, n_bytes: int, offset: int) -> bytes:
        """Return bytes from an offset on, fewer at the end, without moving. Raises OSError."""
        n_bytes = min(n_bytes, self._n_bytes - offset)
        return self.location.read(n_bytes, offset) if n_bytes > 0 else b""


def find_cache() -> Path:
    """Return the folder of what was fetched: in `FEATX_CACHE`, or in the user's cache folder.

    Raises:
        UsageError: If the user wants no cache.
    """
    folder = os.environ.get("FEATX_CACHE", "")
    if folder.casefold() == "off":
        msg = "FEATX_CACHE is off, and what is read from URLs is kept in the cache; unset it, or name a folder"
        raise UsageError(msg)
    return Path(folder or platformdirs.user_cache_dir("featx")) / "remote"


def fetch_file(url: str, kind: type[FeatxError], check: Callable[[Path], object] | None = None) -> Path:
    """Return a copy of a remote file in the cache, which is there whole or not at all; fetch it if it changed.

    Args:
        url: The file.
        kind: The error to raise.
        check: Called with a new copy before it gets its name; raises if it must not.

    Raises:
        FeatxError: Of that kind, if the file cannot be fetched, or changes meanwhile.
    """
    location = open_location(url)
    find_cache()  # before anything is asked for
    with say_unread(location, kind):
        size, number = identity = location.stat()
        path = _name_entry(f"{size} {number}", location)
        if number != UNKNOWN and path.is_file():
            return path
        make_folder(path.parent)
        with write_atomically(path) as temporary:
            with temporary.open("wb") as file:
                _copy(location, size, file)
            if location.stat() != identity or (size and temporary.stat().st_size != size):
                msg = f"{location.name} changed while it was fetched; run the command again"
                raise kind(msg)
            if check:
                check(temporary)
    return path


def fetch_bundle(url: str, index: str) -> Path:
    """Return a copy of a remote bundle in the cache; fetch it if its index is another one.

    Args:
        url: The folder of the bundle.
        index: Name of its file that lists the others with their sizes and checksums.

    Raises:
        BundleError: If it is not a bundle, cannot be fetched, or has a file that its index does not describe.
    """
    location = open_location(url)
    with say_unread(location, BundleError):
        data = location.join(index).read(_CHUNK_BYTES)
        folder = _name_entry(hashlib.sha256(data).hexdigest(), location)
        if folder.is_dir():
            return folder
        files = _read_index(data, location)
        make_folder(folder.parent)
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder.parent, ignore_cleanup_errors=True) as name:
            draft = Path(name) / folder.name
            draft.mkdir()
            for file, (size, sha256) in files.items():
                with (draft / file).open("wb") as copy:
                    found = _copy(location.join(file), size, copy)
                if found != sha256:
                    msg = f"{location.name}/{file} differs from what {index} says of it; publish the bundle again"
                    raise BundleError(msg)
            (draft / index).write_bytes(data)
            with contextlib.suppress(OSError):  # another process was faster
                draft.rename(folder)
    return folder


def _read_index(data: bytes, location: Location) -> dict[str, tuple[int, str]]:
    """Read the sizes in bytes and the sha256 of the files of a bundle, whose index is not trusted."""
    try:
        files = {name: (int(one["bytes"]), str(one["sha256"])) for name, one in json.loads(data)["files"].items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        msg = f"{location.name} is damaged or not a bundle of featx ({type(error).__name__}); publish it again"
        raise BundleError(msg) from error
    if outside := [name for name in files if not is_plain_name(name)]:
        msg = f"{location.name} names files outside the bundle ({', '.join(outside)[:200]}); do not use it"
        raise BundleError(msg)
    return files


def _name_entry(version: str, location: Location) -> Path:
    """Name a copy in the cache by where it is from and its version; mark it as used if it is there."""
    digest = hashlib.sha256(f"{location.name} {version}".encode()).hexdigest()[:32]
    folder = find_cache() / digest
    if folder.is_dir():
        with contextlib.suppress(OSError):  # of another user
            os.utime(folder)
    return folder / (name_file(location.name) or "copy")


def _copy(location: Location, n_bytes: int, file: IO[bytes]) -> str:
    """Copy a remote file of this size, 0 if it is unknown; return its sha256."""
    if n_bytes >= _TOLD_BYTES:
        logger.warning("fetching %s, %s, into the cache", location.name, format_bytes(n_bytes))
    digest = hashlib.sha256()
    for chunk in location.read_chunks(n_bytes):
        digest.update(chunk)
        file.write(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def say_unwritten(location: Location, kind: type[FeatxError]) -> Iterator[None]:
    """Turn an error of a request that writes into one line that says what to do.

    Raises:
        FeatxError: Of that kind, instead of an `OSError`.
    """
    try:
        yield
    except FeatxError:
        raise
    except OSError as error:
        msg = f"{error.filename or location.name} cannot be written: {error.strerror or error}; run the command again"
        raise kind(msg) from error


@contextlib.contextmanager
def say_unread(location: Location, kind: type[FeatxError]) -> Iterator[None]:
    """Turn an error of a request into one line that says what to do.

    Raises:
        FeatxError: Of that kind, instead of an `OSError`.
    """
    try:
        yield
    except FeatxError:
        raise
    except OSError as error:
        advice = "check the URL, and that your credentials may read it"
        msg = f"{error.filename or location.name} cannot be read: {error.strerror or error}; {advice}"
        raise kind(msg) from error
