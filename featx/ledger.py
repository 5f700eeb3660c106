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
from featx.items.manifest import UNKNOWN_SIZE, Item, Manifest
from featx.items.reading import Examined, count_least, examine, separate
from featx.items.splits import find_leaks
from featx.measuring import Timing
from featx.options import EmbedOptions
from featx.outcomes import LAST_NS, Outcomes, Stamps
from featx.specs import ImageSpec, ViewSpec
from featx.store import FeatureStore
from featx.store.known_rows import encode_digests
from featx.store.layout import QUARANTINE_COLUMNS, Columns
from featx.store.writing import StoreWriter
from featx.urls import find_url
from featx.wording import format_plural, to_text

#: A file modified less than this before it was read, or after, may change again with the same
#: modification time, so it is hashed again (git's "racy" index entries; FAT counts in steps of 2 s).
_RACY_NS = 2_000_000_000

_LISTED_ITEMS = 10

#: The usual depths of cameras and scanners that store fewer bits than 16.
_USUAL_BITS = (8, 10, 12, 14)

#: An item in quarantine: id, sha256 and reason.
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

    def __contains__(self, sha256: object) -> bool:
        return all(sha256 in known or writer.copy(str(sha256)) for known, writer in self._rows)

    def count(self, contents: NDArray[np.bytes_]) -> int:
        """Count the items, given by their contents, whose rows were there already; those that were copied are not."""
        has_row = np.ones(len(contents), np.bool_)
        for known, _ in self._rows:
            has_row &= known.find(contents) >= 0
        return int(has_row.sum())


@dataclass(frozen=True, slots=True, eq=False)
class _Good:
    """Items that a store has features for.

    Attributes:
        places: Place of each in the manifest, ascending.
        contents: sha256 of its file.
        stats: Size in bytes and time in ns of its file: int64 `(n, 2)`.
    """

    places: NDArray[np.int64]
    contents: NDArray[np.bytes_]
    stats: NDArray[np.int64]


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
        self.manifest = manifest
        places = _list_places(writers, manifest)
        own = describe_source(manifest)
        self._held = {id(writer): _read_stamps(writer, own, places, len(manifest)) for writer in writers}
        self._agreed = self._intersect(writers)
        self._stamps = self._agreed if self._agreed.are_there.any() and not options.rehash else None
        self.expected = self._count_lacking(self._agreed)
        self._options = options
        self._outcomes = Outcomes(manifest.items)
        self._undecodable: dict[str, str] = {}
        self._unfit: dict[int, dict[str, str]] = {id(writer): {} for writer in writers}
        self._under_way = self._done = 0
        self._peaks = _Peaks(writers[0].spec.image.bits)
        stores = [writer.old for writer in writers if writer.old]
        self.failed = {name: reason for store in stores for name, _, reason in store.quarantine}
        self._removed = {
            id(writer): sum(name not in places for name in writer.old.ids.tolist()) if writer.old else 0
            for writer in writers
        }

    def _intersect(self, writers: Sequence[StoreWriter]) -> Stamps:
        """Return the stamps of the items that all of some stores hold with the same content."""
        first, *others = (self._held[id(writer)] for writer in writers)
        return first.intersect(others)

    def examine(
        self, spec: ImageSpec, timing: Timing, views: ViewSpec | None = None
    ) -> Generator[tuple[Entry, NDArray[np.uint8]]]:
        """Examine all items; yield those with an image to embed, with its pixels or those of all its views."""
        examined_items = examine(
            self.manifest,
            spec,
            known=self._known_to_all,
            stamps=self._stamps or (),
            workers=self._options.count_workers(count_least(self.manifest)),
            timing=timing,
            views=[views] if views else [],
        )
        with contextlib.closing(examined_items):
            for done, examined in enumerate(examined_items, 1):
                self.note(done - 1, examined)
                if examined.image is not None:
                    self._under_way += 1
                    yield Entry(examined, done), examined.image.pixels
                elif not self._under_way:
                    self._done = done
                    self.report(done)

    def separate(self, timing: Timing) -> Generator[Item | list[Examined]]:
        """Separate items that must be read, one by one, from runs of those that are unchanged and held, in order."""
        return separate(
            self.manifest, self._stamps or (), self._options.count_workers(count_least(self.manifest)), timing
        )

    def try_again(self, items: Sequence[Item], timing: Timing) -> Generator[Examined]:
        """Read and decode some items of the manifest; only those have an image whose rows a store lacks."""
        return examine(
            replace(self.manifest, items=tuple(items)),
            self.writers[0].spec.image,
            known=self._known_to_all,
            stamps=(),
            workers=self._options.count_workers(count_least(self.manifest)),
            timing=timing,
        )

    def list_contents(self, places: Iterable[int]) -> list[str]:
        """List the sha256 of the rows that all stores have for some items, whether or not their files are unchanged."""
        return [stamp.sha256 for place in places if (stamp := self._agreed[place])]

    def find_unnamed(self, most: int) -> frozenset[str]:
        """Find the sha256 of rows of no item that all stores have, as of renamed images; none if more than `most`."""
        first, *others = (writer.known for writer in self.writers)
        is_free = np.ones(len(first), np.bool_)
        for other in others:
            is_free &= other.find(first.digests) >= 0
        is_free[first.find(self._agreed.list_contents(np.flatnonzero(self._agreed.are_there)))] = False
        digests = first.digests[is_free]
        return frozenset(digest.decode() for digest in digests.tolist()) if len(digests) <= most else frozenset()

    def note(self, place: int, examined: Examined) -> None:
        """Note what became of an item, by its place in the manifest; an image need not have pixels any more."""
        if examined.image:
            self._peaks.note(examined.image)
        self._outcomes.note(place, examined)
        if examined.stamp is not None and examined.reason:
            self._undecodable[examined.stamp.sha256] = examined.reason

    def note_unfit(self, writer: StoreWriter, reasons: Mapping[str, str]) -> None:
        """Note why one store cannot hold some rows, by the sha256 of the image."""
        self._unfit[id(writer)].update(reasons)

    def count_open(self) -> int:
        """Count the items of which nothing was noted."""
        return self._outcomes.count_open()

    def count_expected(self, writers: Sequence[StoreWriter]) -> int:
        """Count the items that at least one of some stores does not hold as they are now."""
        return self._count_lacking(self._intersect(writers))

    def _count_lacking(self, stamps: Stamps) -> int:
        return len(self.manifest) - int(stamps.are_there.sum())

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

    def keep(self, writer: StoreWriter, batch: Sequence[Entry], rows: NDArray[np.float32]) -> None:
        """Append to one store the rows of a batch that it lacks; rows that it cannot hold go to its quarantine."""
        for entry, row in zip(batch, rows, strict=True):
            stamp, image = entry.examined.stamp, entry.examined.image
            if stamp is None or image is None or stamp.sha256 in self._known[id(writer)]:
                continue
            try:
                writer.append(stamp.sha256, image.width_px, image.height_px, row)
            except DataError as error:
                self.note_unfit(writer, {stamp.sha256: str(error)})
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
            if not len(good.places) and "shard" not in self.manifest.reading:  # the other shards may have some
                first = f"; the first, {bad[0][0]!r}: {bad[0][2]}" if bad else ""
                source = self.manifest.source
                msg = f"none of the {len(bad)} images of {source} could be embedded into {writer.path}{first}"
                raise SourceError(msg)
        self.report(len(self.manifest))
        self._report_kept()
        copies = self._list_copies()
        self._report_contradictions(copies)
        self._peaks.report()
        self._report_copies(copies)
        return [(self._list_items(good), _list_quarantine(bad)) for good, bad in sorted_out]

    def _sort_out(self, writer: StoreWriter) -> tuple[_Good, list[_Bad]]:
        """Split the items into those that one store has features for and those it has none for, in order."""
        known, held, unfit = self._known[id(writer)], self._held[id(writer)], self._unfit[id(writer)]
        outcomes = self._outcomes
        contents, stats = outcomes.contents.copy(), outcomes.stats.copy()
        for place in outcomes.list_momentary():
            stamp = held[place]
            if stamp is not None and not contents[place]:
                contents[place] = stamp.sha256
                stats[place] = stamp.stat.size_bytes, stamp.stat.mtime_ns
        bad = {
            place: (self.manifest.items[place].id, "", outcomes.reasons[place])
            for place in np.flatnonzero(contents == b"").tolist()
        }
        refused = unfit | self._undecodable
        for place in outcomes.find(refused) if refused else ():
            content = contents[place].decode()
            if content not in known:
                bad[place] = (self.manifest.items[place].id, content, refused[content])
        good = np.ones(len(contents), np.bool_)
        good[list(bad)] = False
        return _Good(np.flatnonzero(good), contents[good], stats[good]), [bad[place] for place in sorted(bad)]

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
        momentary = self._outcomes.list_momentary()
        kept = [place for place in momentary if any(held[place] is not None for held in self._held.values())]
        if kept:
            first = self._outcomes[kept[0]]
            logger.warning(
                "the store keeps the features of %s that cannot be read at the moment; the first, %r: %s",
                format_plural(len(kept), "image"),
                first.item.id,
                first.reason,
            )

    def _list_copies(self) -> list[tuple[Item, str]]:
        """List the items whose bytes another item has too, each with its sha256."""
        copies = (self._outcomes[place] for place in self._outcomes.list_copies())
        return [(one.item, one.stamp.sha256) for one in copies if one.stamp is not None]

    def _report_contradictions(self, copies: Sequence[tuple[Item, str]]) -> None:
        first: dict[str, Item] = {}
        pairs: dict[str, tuple[Item, Item]] = {}
        for item, sha256 in copies:
            if not item.label or sha256 in self._undecodable:
                continue
            other = first.setdefault(sha256, item)
            if other.label != item.label:
                pairs.setdefault(sha256, (other, item))
        if pairs:
            logger.warning(
                "the bytes of %s occur under several labels, such as %r (%s) and %r (%s); keep one file of each",
                format_plural(len(pairs), "image"),
                *(value for item in next(iter(pairs.values())) for value in (item.id, item.label)),
            )

    def _report_copies(self, pairs: Sequence[tuple[Item, str]]) -> None:
        """Report images of a split whose bytes occur in a later one, which `fit` leaves out."""
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
        copied = int(np.isin(good.contents, encode_digests(list(writer.copied))).sum())
        cached = self._known[id(writer)].count(good.contents) + copied
        return len(good.places) - cached, cached, len(bad), self._removed[id(writer)], copied

    def _list_items(self, good: _Good) -> dict[str, Any]:
        items = [self.manifest.items[place] for place in good.places.tolist()]
        texts = {name: [getattr(item, name) for item in items] for name in ("id", "label", "split", "group")}
        return {"sha256": good.contents, "bytes": good.stats[:, 0], "mtime_ns": good.stats[:, 1], **texts}


def _get_content(entry: Entry) -> str:
    return entry.examined.stamp.sha256 if entry.examined.stamp else ""


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


def _list_places(writers: Sequence[StoreWriter], manifest: Manifest) -> dict[str, int]:
    """Return the place of each item in the manifest, by its id; nothing if no store has any items yet."""
    if not any(writer.old is not None or writer.has_records for writer in writers):
        return {}
    return {item.id: place for place, item in enumerate(manifest.items)}


def _read_stamps(writer: StoreWriter, source: str, places: Mapping[str, int], count: int) -> Stamps:
    """Return the stamp of each file of the source when it was embedded, where a store has it.

    Another source's files may have the same names, sizes and times, so their stamps do not count. A file that may
    have changed since with the same modification time gets a time that no file has, so that its stamp is never
    trusted, not even by later runs that cannot read the file.
    """
    stamps = Stamps(writer.known, count)

    def add(columns: Columns, started_ns: int, chosen: NDArray[np.bool_] | None = None) -> None:
        found = np.array([places.get(name, -1) for name in columns["id"]], np.int64)
        times = np.asarray(columns["mtime_ns"], np.int64)
        times = np.where(times < started_ns - _RACY_NS, times, LAST_NS)
        stamps.add(found, encode_digests(columns["sha256"]), np.asarray(columns["bytes"], np.int64), times, chosen)

    store = writer.old
    if store is not None and store.source == source:
        add({**store.columns, "sha256": store.contents}, store.started_ns, ~writer.lost)
    for records in writer.read_records():  # newer than the store
        if records.source == source:
            add(records.columns, records.started_ns)
    return stamps
