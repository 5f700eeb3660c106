"""Reading items ahead of the network: their identity first, and pixels only where they are needed."""

import contextlib
import errno
import hashlib
import math
import threading
from collections.abc import Container, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from featx.errors import ImageError
from featx.items.augmentation import make_views
from featx.items.decoding import Decoded, decode
from featx.items.manifest import FileStat, Item, Reader
from featx.items.pictures import PictureItem
from featx.measuring import DECODE, READ, Timing
from featx.prefetching import gather, prefetch
from featx.specs import ImageSpec, ViewSpec

#: Errors of a file that is gone or has become a folder, a pipe, a link to itself or too large. All others
#: (an unplugged disk, a network drive that hangs, missing permissions) may be gone at the next attempt.
_LASTING = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EFBIG, errno.ELOOP, errno.ENAMETOOLONG}
)

#: Threads that read from a server, most of the time waiting.
_THREADS_AT_URLS = 16

#: Items in one task that only compares sizes and times.
_COMPARED_AT_ONCE = 256

#: Decoded pixels that may wait for the network: enough for the largest batch, and no more than a network needs itself.
_AHEAD_BYTES = 64 << 20
_MAX_AHEAD = 256


class Listing(Protocol):
    """Items, in order, and the reader of their files; a manifest is one."""

    @property
    def items(self) -> Iterable[Item]:
        """The items; they may be made one by one."""
        ...

    @property
    def reader(self) -> Reader:
        """Reads their bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Stamp:
    """The content of a file when it was read.

    Attributes:
        sha256: Digest of its bytes, hexadecimal; the identity of its content.
        stat: Its size and time when it was read.
    """

    sha256: str
    stat: FileStat


@dataclass(frozen=True, slots=True)
class Examined:
    """One item that was read.

    Attributes:
        item: The item.
        stamp: Its identity; None if the file could not be read.
        image: Its pixels, with all its views if there are any; None if they are not needed or not available.
        others: The same in the other forms, if there are several and `image` is there.
        reason: Why the file cannot be read or decoded; empty if it can, or if its pixels are not needed.
        is_momentary: Whether the file may still exist unchanged, and only this attempt to read it failed.
    """

    item: Item
    stamp: Stamp | None
    image: Decoded | None = None
    others: tuple[Decoded, ...] = ()
    reason: str = ""
    is_momentary: bool = False


def examine(
    manifest: Listing,
    spec: ImageSpec | Sequence[ImageSpec],
    *,
    known: Container[str] | None,
    stamps: Iterable[Stamp | None],
    workers: int,
    timing: Timing,
    views: Sequence[ViewSpec] = (),
    ahead: int | None = None,
) -> Generator[Examined]:
    """Read and decode every item in threads, in the manifest's order, a bounded number ahead.

    Args:
        manifest: The items and the reader of their files.
        spec: How to decode; or several forms, for networks that take different images, each decoded from one reading.
        known: sha256 of content whose pixels are not needed; None if every item needs them.
        stamps: Content of each file when it was last read, or None, in the order of the items; empty if there is
            none. A file with the same size and time is not read again.
        workers: Number of threads.
        timing: Collects the time that the threads spend.
        views: Views to make of each image, in the same threads; each spec is applied to all views of the one
            before. The pixels of an item are then `(n_views, height, width, 3)`, the image itself first.
        ahead: How many items may be read ahead; None for what `limit_ahead` allows.

    Yields:
        One `Examined` for each item. Unless `known` is None, the same bytes under several names
        are decoded once: only the first of them has an image, or a reason.
    """
    specs = (spec,) if isinstance(spec, ImageSpec) else tuple(spec)
    examiner = _Examiner(manifest, specs, known, timing, views)
    ahead = ahead or min(limit_ahead(one, workers, len(specs) * count_views(views)) for one in specs)
    parts = separate(manifest, stamps, workers, timing)
    with contextlib.closing(prefetch(examiner.examine_part, parts, workers=workers, ahead=ahead)) as found:
        for examined in found:
            yield from examined


@dataclass(frozen=True, slots=True)
class _Examiner:
    """Reads and decodes items for several threads.

    Attributes:
        manifest, known, timing, views: As in `examine`.
        specs: The forms in which each item is decoded.
        claimed: sha256 of content that a thread has decoded or is decoding.
        lock: Held while `claimed` is read and changed.
    """

    manifest: Listing
    specs: Sequence[ImageSpec]
    known: Container[str] | None
    timing: Timing
    views: Sequence[ViewSpec]
    claimed: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def examine_part(self, part: Item | list[Examined]) -> list[Examined]:
        """Examine an item, unless it comes with its outcome."""
        return part if isinstance(part, list) else [self._examine(part)]

    def _examine(self, item: Item) -> Examined:
        if isinstance(item, PictureItem):
            # Without its bytes, which would otherwise stay in memory until the network has the image.
            plain, data = Item(item.id), item.data
            if item.reason:
                return Examined(plain, None, reason=item.reason)
            return self._decode(plain, _stamp(data, 0), data)
        try:
            with self.timing.measure(READ):
                stamp, data = read_stamped(self.manifest, item.id)
        except OSError as error:
            is_momentary = error.errno is not None and error.errno not in _LASTING
            return Examined(item, None, reason=describe_failure(error), is_momentary=is_momentary)
        return self._decode(item, stamp, data)

    def _decode(self, item: Item, stamp: Stamp, data: bytes) -> Examined:
        if not self._claim(stamp.sha256):
            return Examined(item, stamp)
        try:
            with self.timing.measure(DECODE):
                image, *others = [_expand(decode(data, one), self.views, stamp.sha256) for one in self.specs]
                return Examined(item, stamp, image=image, others=tuple(others))
        except ImageError as error:
            return Examined(item, stamp, reason=str(error))

    def _claim(self, sha256: str) -> bool:
        if self.known is None:
            return True
        with self.lock:
            new = sha256 not in self.claimed and sha256 not in self.known
            self.claimed.add(sha256)
            return new


def count_least(manifest: Listing) -> int:
    """Return the least number of threads that a source is worth: more than one per core if they wait for a server."""
    return _THREADS_AT_URLS if getattr(manifest.reader, "is_remote", False) else 1


def count_views(views: Sequence[ViewSpec]) -> int:
    """Count the images that views make of one image, including itself."""
    return math.prod(1 + spec.count for spec in views)


def expand_views(pixels: NDArray[np.uint8], views: Sequence[ViewSpec], sha256: str) -> NDArray[np.uint8]:
    """Make the views of an image, and of each of those the next views: uint8 `(n_views, height, width, 3)`."""
    images = pixels[None]
    for spec in views:
        images = np.concatenate([make_views(image, spec, sha256) for image in images])
    return images


def _expand(decoded: Decoded, views: Sequence[ViewSpec], sha256: str) -> Decoded:
    return replace(decoded, pixels=expand_views(decoded.pixels, views, sha256)) if views else decoded


def limit_ahead(spec: ImageSpec, workers: int, views: int = 1) -> int:
    """Return how many items may be decoded ahead of the network: enough for every thread, and bounded in memory.

    Args:
        spec: The size of an image.
        workers: Number of threads.
        views: Images that are made of each item.
    """
    return max(workers + 1, min(_MAX_AHEAD, _AHEAD_BYTES // (3 * spec.height * spec.width * views)))


def separate(
    manifest: Listing, stamps: Iterable[Stamp | None], workers: int, timing: Timing
) -> Generator[Item | list[Examined]]:
    """Separate items that must be read, one by one, from runs of items that are unchanged since their stamps.

    One task for each of 100,000 unchanged items took three times as long as comparing their sizes and times.
    """
    if stamps == ():
        yield from manifest.items
        return

    def compare(pairs: list[tuple[Item, Stamp | None]]) -> list[Item | list[Examined]]:
        parts: list[Item | list[Examined]] = []
        for item, stamp in pairs:
            if stamp is None or not _is_unchanged(manifest, item.id, stamp):
                parts.append(item)
            elif parts and isinstance(parts[-1], list):
                parts[-1].append(Examined(item, stamp))
            else:
                parts.append([Examined(item, stamp)])
        return parts

    def compare_timed(pairs: list[tuple[Item, Stamp | None]]) -> list[Item | list[Examined]]:
        with timing.measure(READ):
            return compare(pairs)

    chunks = gather(zip(manifest.items, stamps, strict=True), _COMPARED_AT_ONCE)
    with contextlib.closing(prefetch(compare_timed, chunks, workers=workers, ahead=2 * workers)) as found:
        for parts in found:
            yield from parts


def _is_unchanged(manifest: Listing, name: str, stamp: Stamp) -> bool:
    try:
        return manifest.reader.stat(name).agrees(stamp.stat)
    except OSError:  # reading it will report why
        return False


def read_stamped(manifest: Listing, name: str) -> tuple[Stamp, bytes]:
    """Read and hash a file. Raises OSError."""
    stat = manifest.reader.stat(name)
    data = manifest.reader.read(name)
    return _stamp(data, stat.mtime_ns), data


def _stamp(data: bytes, mtime_ns: int) -> Stamp:
    return Stamp(hashlib.sha256(data).hexdigest(), FileStat(len(data), mtime_ns))


def describe_failure(error: OSError) -> str:
    """Return why a file cannot be read, as a reason for its quarantine."""
    return f"cannot be read: {error.strerror or error}"
