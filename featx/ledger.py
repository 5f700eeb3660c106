"""The ledger of one embedding run: every item ends embedded, cached or quarantined."""

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Container, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import DataError, SourceError, StoreError
from featx.items.decoding import Decoded
from featx.items.manifest import UNKNOWN_SIZE, FileStat, Item, Manifest
from featx.items.reading import Examined, Stamp, count_least, examine, separate
from featx.items.splits import find_leaks
from featx.measuring import Timing
from featx.options import EmbedOptions
from featx.specs import ImageSpec, ViewSpec
from featx.store import FeatureStore
from featx.store.layout import QUARANTINE_COLUMNS
from featx.store.writing import StoreWriter
from featx.urls import find_url
from featx.wording import format_plural, to_text

#: A file modified less than this before it was read, or after, may change again with the same
#: modification time, so it is hashed again (git's "racy" index entries; FAT counts in steps of 2 s).
_RACY_NS = 2_000_000_000

#: The latest time that a store can hold, in the year 2262; ext4 and XFS have later ones.
_LAST_NS = 2**63 - 1

_LISTED_ITEMS = 10

_STAMP_COLUMNS = ("id", "sha256", "bytes", "mtime_ns")

#: The usual depths of cameras and scanners that store fewer bits than 16.
_USUAL_BITS = (8, 10, 12, 14)

#: An embedded item with the stamp of its file; an item in quarantine as id, sha256 and reason.
_Good = tuple[Item, Stamp]
_Bad = tuple[str, str, str]


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """An item with a decoded image, on its way to the stores.

    Attributes:
        examined: The item.
        done: Items of the manifest, of any kind, up to and including this one.
    """

    examined: Examined
    done: int


def guess_bits(largest: int) -> int:
    """Guess how many of 16 bits some samples use.

    Args:
        largest: The largest sample; 0 if there are none.

    Returns:
        One of the usual depths; 0 if they use all bits, or there are none.
    """
    return next((bits for bits in _USUAL_BITS if 0 < largest < 2**bits), 0)


@dataclass(slots=True)
class _Peaks:
    """What the images of a run use of their 16 bits and of their bands.

    Attributes:
        bits: As in the image spec.
        n_deep: Images that store 16 bits a sample, may use fewer, and are not black.
        largest: The largest sample of these.
        n_ignored: Images with bands that are neither colour nor alpha.
        applied: Numbers of DICOM images, by what turned their samples into grey levels.
    """

    bits: int = 0
    n_deep: int = 0
    largest: int = 0
    n_ignored: int = 0
    applied: Counter[str] = field(default_factory=Counter)

    def note(self, image: Decoded) -> None:
        """Add an image."""
        self.n_deep += image.peak > 0
        self.largest = max(self.largest, image.peak)
        self.n_ignored += image.ignored > 0
        if image.applied:
            self.applied[image.applied] += 1

    def report(self) -> None:
        """Report images that come out dark, or of which a part is ignored, and how those of DICOM were read."""
        if self.applied:
            counts = "; ".join(f"{how}: {count:,}" for how, count in self.applied.most_common())
            logger.warning("grey levels of DICOM images by %s", counts)
        bits = guess_bits(self.largest)
        if self.n_deep and bits and not self.bits:
            logger.warning(
                "the largest sample in %s with 16 bits is %s, so this looks like %d-bit data, which comes out dark: "
                "embed again with --bits %d",
                format_plural(self.n_deep, "image"),
                f"{self.largest:,}",
                bits,
                bits,
            )
        if self.n_ignored:
            logger.warning(
                "bands that are neither colour nor alpha, such as infrared, are ignored in %s",
                format_plural(self.n_ignored, "image"),
            )


class _Known(Container[str]):
    """The sha256 of every image whose row each of some stores had when the run began, or copies from another store."""

    def __init__(self, writers: Sequence[StoreWriter]) -> None:
        self._rows = [(writer.known, writer) for writer in writers]
        self._in_all = frozenset.intersection(*(known for known, _ in self._rows))

    def __contains__(self, sha256: object) -> bool:
        if sha256 in self._in_all:  # nearly all items of most runs
            return True
        return all(sha256 in known or writer.copy(str(sha256)) for known, writer in self._rows)


class Ledger:
    """The state of each item of one run in each store: embedded, cached or quarantined.

    Items in quarantine are tried again in every run. A file that failed yesterday may decode today, with a
    newer Pillow or once the network drive recovers, and remembering the reasons would save little:
    1,000 web pages called .jpg cost 0.1 s, 1,000 truncated JPEGs of 12 megapixels 2 s. Truncated PNGs cost
    as much as whole ones, 0.2 s each at 12 megapixels with two threads.

    Args:
        writers: The stores that the run writes.
        manifest: The items.
        options: Options of the run.

    Attributes:
        writers: The stores.
        manifest: The items.
        expected: Number of items that at least one store does not hold as they are now; most will be new.
        failed: Why items are in the quarantine of a store, by id.

    Raises:
        StoreError: If the run would drop another source's items from a store.
    """

    def __init__(self, writers: Sequence[StoreWriter], manifest: Manifest, options: EmbedOptions) -> None:
        for writer in writers:
            _refuse_loss(writer, manifest)
        self.writers = writers
        self._known = {id(writer): _Known((writer,)) for writer in writers}
        self._known_to_all = _Known(writers)
        # Another source's files may have the same names, sizes and times, so they are hashed.
        own = describe_source(manifest)
        self._held = {id(writer): _read_stamps(writer, own) for writer in writers}
        agreed = _find_agreed(list(self._held.values()))
        self._stamps = {} if options.rehash else agreed
        self.manifest = manifest
        self.expected = self.count_expected(writers)
        self._options = options
        self._examined: list[Examined] = []
        self._undecodable: dict[str, str] = {}
        self._unfit: dict[int, dict[str, str]] = {id(writer): {} for writer in writers}
        self._under_way = self._done = 0
        self._peaks = _Peaks(writers[0].spec.image.bits)
        stores = [writer.old for writer in writers if writer.old]
        self.failed = {name: reason for store in stores for name, _, reason in store.quarantine}
        there = {item.id for item in manifest.items}
        self._removed = {
            id(writer): len(set(writer.old.ids.tolist()) - there) if writer.old else 0 for writer in writers
        }

    def examine(
        self, spec: ImageSpec, timing: Timing, views: ViewSpec | None = None
    ) -> Generator[tuple[Entry, NDArray[np.uint8]]]:
        """Examine all items; yield those with an image to embed, with its pixels or those of all its views."""
        examined_items = examine(
            self.manifest,
            spec,
            known=self._known_to_all,
            stamps=self._stamps,
            workers=self._options.count_workers(count_least(self.manifest)),
            timing=timing,
            views=[views] if views else [],
        )
        with contextlib.closing(examined_items):
            for done, examined in enumerate(examined_items, 1):
                self._note(examined)
                if examined.image is not None:
                    self._under_way += 1
                    yield Entry(examined, done), examined.image.pixels
                elif not self._under_way:
                    self._done = done
                    self.report(done)

    def separate(self, timing: Timing) -> Generator[Item | list[Examined]]:
        """Separate items that must be read, one by one, from runs of those that are unchanged and held, in order."""
        return separate(self.manifest, self._stamps, self._options.count_workers(count_least(self.manifest)), timing)

    def try_again(self, items: Sequence[Item], timing: Timing) -> Generator[Examined]:
        """Read and decode some items of the manifest; only those have an image whose rows a store lacks."""
        return examine(
            replace(self.manifest, items=tuple(items)),
            self.writers[0].spec.image,
            known=self._known_to_all,
            stamps={},
            workers=self._options.count_workers(count_least(self.manifest)),
            timing=timing,
        )

    def record(self, found: Iterable[Examined], unfit: Sequence[Mapping[str, str]]) -> None:
        """Record all items, as they were examined elsewhere.

        Args:
            found: The items, in the manifest's order; an image has no pixels.
            unfit: For each store, why it cannot hold some rows, by the sha256 of the image.
        """
        for examined in found:
            self._note(examined)
        for writer, reasons in zip(self.writers, unfit, strict=True):
            self._unfit[id(writer)].update(reasons)

    def count_expected(self, writers: Sequence[StoreWriter]) -> int:
        """Count the items that at least one of some stores does not hold as they are now."""
        agreed = _find_agreed([self._held[id(writer)] for writer in writers])
        return sum(item.id not in agreed for item in self.manifest.items)

    def select(
        self, pairs: Iterable[tuple[Entry, NDArray[np.uint8]]], writers: Sequence[StoreWriter]
    ) -> list[tuple[Entry, NDArray[np.uint8]]]:
        """Select the entries that at least one of some stores lacks, each with its pixels."""
        known = [self._known[id(writer)] for writer in writers]
        return [pair for pair in pairs if not all(_get_content(pair[0]) in rows for rows in known)]

    def settle(self, batch: Sequence[Entry], share: float = 1.0) -> None:
        """Report a batch as done once its rows are in all stores, or a share of it; decoding alone does not count."""
        before, end = self._done, batch[-1].done
        if share == 1:
            self._under_way -= len(batch)
            self._done = end
        self.report(before + int(share * (end - before)))

    def report(self, done: int) -> None:
        """Report how many items are done."""
        self._options.reporter.advance(done, len(self.manifest))

    def _note(self, examined: Examined) -> None:
        if examined.image:
            self._peaks.note(examined.image)
        self._examined.append(replace(examined, image=None) if examined.image else examined)
        if examined.stamp is not None and examined.reason:
            self._undecodable[examined.stamp.sha256] = examined.reason

    def keep(self, writer: StoreWriter, batch: Sequence[Entry], rows: NDArray[np.float32]) -> None:
        """Append to one store the rows of a batch that it lacks; rows that it cannot hold go to its quarantine."""
        for entry, row in zip(batch, rows, strict=True):
            stamp, image = entry.examined.stamp, entry.examined.image
            if stamp is None or image is None or stamp.sha256 in self._known[id(writer)]:
                continue
            try:
                writer.append(stamp.sha256, image.width_px, image.height_px, row)
            except DataError as error:
                self._unfit[id(writer)][stamp.sha256] = str(error)
        writer.commit_in_time()

    def conclude(self) -> list[tuple[dict[str, list[Any]], dict[str, list[str]]]]:
        """Return for each store the columns of its embedded items, and those of its quarantine.

        Raises:
            SourceError: If a store would hold no items, or if an item failed and `on_bad` is `fail`.
        """
        sorted_out = [self._sort_out(writer) for writer in self.writers]
        if self._options.on_bad == "fail":
            self._refuse_bad({name: reason for _, bad in sorted_out for name, _, reason in bad})
        for writer, (good, bad) in zip(self.writers, sorted_out, strict=True):
            if not good and "shard" not in self.manifest.reading:  # the other shards may have some
                first = f"; the first, {bad[0][0]!r}: {bad[0][2]}" if bad else ""
                source = self.manifest.source
                msg = f"none of the {len(bad)} images of {source} could be embedded into {writer.path}{first}"
                raise SourceError(msg)
        self.report(len(self.manifest))
        self._report_kept()
        self._report_contradictions()
        self._peaks.report()
        self._report_copies()
        return [(_list_items(good), _list_quarantine(bad)) for good, bad in sorted_out]

    def _sort_out(self, writer: StoreWriter) -> tuple[list[_Good], list[_Bad]]:
        """Split the items into those that one store has features for and those it has none for, in order."""
        known, held, unfit = self._known[id(writer)], self._held[id(writer)], self._unfit[id(writer)]
        good: list[_Good] = []
        bad: list[_Bad] = []
        for examined in self._examined:
            item, stamp, reason = examined.item, examined.stamp, examined.reason
            if stamp is None and examined.is_momentary:
                stamp = held.get(item.id)
            if stamp is not None:
                content = stamp.sha256
                reason = "" if content in known else self._undecodable.get(content) or unfit.get(content, "")
            if stamp is None or reason:
                bad.append((item.id, stamp.sha256 if stamp else "", reason))
            else:
                good.append((item, stamp))
        return good, bad

    def _refuse_bad(self, reasons: Mapping[str, str]) -> None:
        if not reasons:
            return
        listed = [f"{name!r}: {reason}" for name, reason in sorted(reasons.items())[:_LISTED_ITEMS]]
        if len(reasons) > len(listed):
            listed.append(f"and {len(reasons) - len(listed):,} more")
        msg = (
            f"{len(reasons):,} of the {len(self.manifest):,} images of {self.manifest.source} could not be embedded, "
            f"and --on-bad fail allows none: {'; '.join(listed)}; fix or remove them and run the command again "
            f"(finished work is kept), or continue without them with --on-bad quarantine"
        )
        raise SourceError(msg)

    def _report_kept(self) -> None:
        held = set().union(*self._held.values())
        kept = [examined for examined in self._examined if examined.is_momentary and examined.item.id in held]
        if kept:
            logger.warning(
                "the store keeps the features of %s that cannot be read at the moment; the first, %r: %s",
                format_plural(len(kept), "image"),
                kept[0].item.id,
                kept[0].reason,
            )

    def _report_contradictions(self) -> None:
        first: dict[str, Item] = {}
        pairs: dict[str, tuple[Item, Item]] = {}
        for examined in self._examined:
            item, stamp = examined.item, examined.stamp
            if stamp is None or not item.label or stamp.sha256 in self._undecodable:
                continue
            other = first.setdefault(stamp.sha256, item)
            if other.label != item.label:
                pairs.setdefault(stamp.sha256, (other, item))
        if pairs:
            logger.warning(
                "the bytes of %s occur under several labels, such as %r (%s) and %r (%s); keep one file of each",
                format_plural(len(pairs), "image"),
                *(value for item in next(iter(pairs.values())) for value in (item.id, item.label)),
            )

    def _report_copies(self) -> None:
        """Report images of a split whose bytes occur in a later one, which `fit` leaves out."""
        pairs = [(one.item, one.stamp.sha256) for one in self._examined if one.stamp is not None]
        left_out = find_leaks([key for _, key in pairs], [item.split for item, _ in pairs])
        if left_out.any():
            item, key = pairs[int(left_out.argmax())]
            other = next(one for one, found in pairs if found == key and one.split != item.split)
            logger.warning(
                "fit will leave out %s with the same bytes as an image of a later split, such as %r (%s) and %r (%s); "
                "`featx info --duplicates` lists them",
                format_plural(int(left_out.sum()), "image"),
                *(item.id, item.split, other.id, other.split),
            )

    def report_uniform(self, stores: Sequence[FeatureStore]) -> None:
        """Report stores whose features are the same for all items."""
        for text in filter(None, (store.describe_uniform() for store in stores)):
            logger.warning("%s", text)

    def count(self, writer: StoreWriter) -> tuple[int, int, int, int, int]:
        """Return the numbers of items of one store that are new, cached, quarantined, removed and copied."""
        good, bad = self._sort_out(writer)
        cached = sum(stamp.sha256 in self._known[id(writer)] for _, stamp in good)
        copied = sum(stamp.sha256 in writer.copied for _, stamp in good)
        return len(good) - cached, cached, len(bad), self._removed[id(writer)], copied


def _get_content(entry: Entry) -> str:
    return entry.examined.stamp.sha256 if entry.examined.stamp else ""


def _list_items(good: Sequence[_Good]) -> dict[str, list[Any]]:
    return {
        "id": [item.id for item, _ in good],
        "sha256": [stamp.sha256 for _, stamp in good],
        "bytes": [stamp.stat.size_bytes for _, stamp in good],
        "mtime_ns": [min(stamp.stat.mtime_ns, _LAST_NS) for _, stamp in good],
        "label": [item.label for item, _ in good],
        "split": [item.split for item, _ in good],
        "group": [item.group for item, _ in good],
    }


def _list_quarantine(bad: Sequence[_Bad]) -> dict[str, list[str]]:
    rows = sorted(bad)
    return {name: [row[at] for row in rows] for at, name in enumerate(QUARANTINE_COLUMNS)}


def _refuse_loss(writer: StoreWriter, manifest: Manifest) -> None:
    old = writer.old
    if old is None or old.source == describe_source(manifest):
        return  # files that are gone from the same source leave the store
    there = {item.id for item in manifest.items}
    sizes = zip(old.ids.tolist(), old.columns["bytes"].tolist(), strict=True)
    lost = [name for name, size in sizes if name not in there or not _has_size(manifest, name, size)]
    if lost:
        msg = (
            f"{writer.path} holds {len(old)} items of {old.source}; embedding {manifest.source} into it would drop "
            f"{len(lost)} of them (such as {lost[0]!r}): write another store with --name NAME, or delete this one"
        )
        raise StoreError(msg)


def _has_size(manifest: Manifest, name: str, size: int) -> bool:
    """Return whether a file has this size: one of the same name, `0/1.png` of another data set, rarely has."""
    try:
        return manifest.reader.stat(name).size_bytes in {size, UNKNOWN_SIZE}
    except OSError:
        return False


def describe_source(manifest: Manifest) -> str:
    """Return the manifest's source, a URL or an absolute path, in valid Unicode."""
    if find_url(manifest.source):
        return to_text(manifest.source)
    path = os.path.abspath(manifest.source)  # noqa: PTH100 - resolve() would follow a link that is swapped on purpose
    return to_text(path)


def _read_stamps(writer: StoreWriter, source: str) -> dict[str, Stamp]:
    """Return the stamp of each file of the source when it was embedded, where a store has it.

    A file that may have changed since with the same modification time gets a time that no file has, so that
    its stamp is never trusted, not even by later runs that cannot read the file.
    """
    store, known, stamps = writer.old, writer.known, {}
    if store is not None and store.source == source:
        columns: Mapping[str, Sequence[Any]] = {name: store.columns[name].tolist() for name in _STAMP_COLUMNS}
        stamps = _list_stamps(columns, store.started_ns, (~writer.lost).tolist())
    for records in writer.records:  # newer than the store
        if records.source == source:
            sound = [sha256 in known for sha256 in records.columns["sha256"]]
            stamps |= _list_stamps(records.columns, records.started_ns, sound)
    return stamps


def _list_stamps(columns: Mapping[str, Sequence[Any]], started_ns: int, chosen: Sequence[bool]) -> dict[str, Stamp]:
    settled_ns = started_ns - _RACY_NS
    rows = zip(*(columns[name] for name in _STAMP_COLUMNS), chosen, strict=True)
    return {
        name: Stamp(sha256, FileStat(size, mtime_ns if mtime_ns < settled_ns else _LAST_NS))
        for name, sha256, size, mtime_ns, is_chosen in rows
        if is_chosen
    }


def _find_agreed(stamps: Sequence[Mapping[str, Stamp]]) -> dict[str, Stamp]:
    """Return the stamps of the items that all stores hold with the same content."""
    first, *others = stamps
    return {name: stamp for name, stamp in first.items() if all(other.get(name) == stamp for other in others)}
