"""The ledger of one embedding run: every item ends embedded, cached or quarantined."""

import os
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import DataError, SourceError, StoreError
from featx.items.examination import Examined, Stamp, examine
from featx.items.manifest import FileStat, Item, Manifest, to_text
from featx.options import EmbedOptions
from featx.specs import ImageSpec
from featx.store import FeatureStore
from featx.store.layout import QUARANTINE_COLUMNS
from featx.store.writing import StoreWriter

#: A file modified this shortly before it was read, or later, may change again without changing
#: its time, so it is hashed again (git's "racy" index entries; FAT counts in steps of 2 s).
_RACY_NS = 2_000_000_000

#: The largest time that a store holds, in the year 2262; ext4 and XFS know later ones.
_LAST_NS = 2**63 - 1


class Ledger:
    """What became of each item of one run: embedded, cached or quarantined.

    Args:
        writers: The stores that the run writes.
        manifest: The items.
        options: How the run goes.

    Raises:
        StoreError: If the run would drop another source's items from a store.
    """

    def __init__(self, writers: Sequence[StoreWriter], manifest: Manifest, options: EmbedOptions) -> None:
        for writer in writers:
            _refuse_loss(writer, manifest)
        self._known = {id(writer): writer.known for writer in writers}
        self._known_to_all = frozenset.intersection(*self._known.values())
        own = describe_source(manifest)
        stores = [writer.old if writer.old and writer.old.source == own else None for writer in writers]
        # Another source's files may have the same names, sizes and times: those are hashed.
        self._stamps = {} if options.rehash else _read_stamps(stores)
        self._manifest = manifest
        self._options = options
        self._stamped: list[tuple[Item, Stamp]] = []
        self._unreadable: list[tuple[Item, str]] = []
        self._bad: dict[str, str] = {}

    def gather(self, spec: ImageSpec) -> Generator[list[Examined]]:
        """Examine all items and yield batches of those that bring an image."""
        options = self._options
        workers = options.count_workers()
        examined_items = examine(
            self._manifest,
            spec,
            known=self._known_to_all,
            stamps=self._stamps,
            workers=workers,
            ahead=options.batch_size + 2 * workers,
        )
        batch: list[Examined] = []
        for done, examined in enumerate(examined_items, 1):
            self._note(examined)
            if examined.image is not None:
                batch.append(examined)
            if len(batch) == options.batch_size:
                yield batch
                batch = []
            if options.progress:
                options.progress(done, len(self._manifest))
        if batch:
            yield batch

    def _note(self, examined: Examined) -> None:
        if examined.stamp is None:
            self._unreadable.append((examined.item, examined.reason))
            return
        self._stamped.append((examined.item, examined.stamp))
        if examined.reason:
            self._bad[examined.stamp.sha256] = examined.reason

    def keep(self, writer: StoreWriter, batch: Sequence[Examined], rows: NDArray[np.float32]) -> None:
        """Append a batch's rows to one store, but those that it has; what it cannot hold goes to quarantine."""
        for examined, row in zip(batch, rows, strict=True):
            stamp, image = examined.stamp, examined.image
            if stamp is None or image is None or stamp.sha256 in self._known[id(writer)]:
                continue
            try:
                writer.append(stamp.sha256, image.width_px, image.height_px, row)
            except DataError as error:
                self._bad[stamp.sha256] = str(error)

    def conclude(self) -> tuple[dict[str, list[Any]], dict[str, list[str]]]:
        """Return the columns of the items that have features, and of those in quarantine.

        Raises:
            SourceError: If no item has features.
        """
        good = [(item, stamp) for item, stamp in self._stamped if stamp.sha256 not in self._bad]
        bad = [
            (item.id, stamp.sha256, self._bad[stamp.sha256])
            for item, stamp in self._stamped
            if stamp.sha256 in self._bad
        ]
        bad += [(item.id, "", reason) for item, reason in self._unreadable]
        if not good:
            first = f"; the first, {bad[0][0]!r}: {bad[0][2]}" if bad else ""
            msg = f"none of the {len(bad)} images of {self._manifest.source} could be embedded{first}"
            raise SourceError(msg)
        items: dict[str, list[Any]] = {
            "id": [item.id for item, _ in good],
            "sha256": [stamp.sha256 for _, stamp in good],
            "bytes": [stamp.stat.size_bytes for _, stamp in good],
            "mtime_ns": [min(stamp.stat.mtime_ns, _LAST_NS) for _, stamp in good],
            "label": [item.label for item, _ in good],
            "split": [item.split for item, _ in good],
            "group": [item.group for item, _ in good],
        }
        bad.sort()
        return items, {name: [row[at] for row in bad] for at, name in enumerate(QUARANTINE_COLUMNS)}

    def count(self, writer: StoreWriter) -> tuple[int, int, int]:
        """Count the items that are new in, were cached in, and are kept from one store."""
        good = [stamp.sha256 for _, stamp in self._stamped if stamp.sha256 not in self._bad]
        cached = sum(sha256 in self._known[id(writer)] for sha256 in good)
        return len(good) - cached, cached, len(self._manifest) - len(good)


def _refuse_loss(writer: StoreWriter, manifest: Manifest) -> None:
    old = writer.old
    if old is None or old.source == describe_source(manifest):
        return  # files that left the same source leave the store
    there = {item.id for item in manifest.items}
    sizes = zip(old.ids.tolist(), old.columns["bytes"].tolist(), strict=True)
    lost = [name for name, size in sizes if name not in there or not _has_size(manifest, name, size)]
    if lost:
        msg = (
            f"{writer.path} holds {len(old)} items of {old.source}; embedding {manifest.source} into it would drop "
            f"{len(lost)} of them (such as {lost[0]!r}): write another store with --name NAME, or delete that one"
        )
        raise StoreError(msg)


def _has_size(manifest: Manifest, name: str, size: int) -> bool:
    """Tell another file of the same name, `0/1.png` of another data set, by its size."""
    try:
        return manifest.reader.stat(name).size_bytes == size
    except OSError:
        return False


def describe_source(manifest: Manifest) -> str:
    """Return the manifest's source as an absolute path in valid Unicode."""
    path = os.path.abspath(manifest.source)  # noqa: PTH100 - resolve() would follow a link that is swapped on purpose
    return to_text(path)


def _read_stamps(stores: Sequence[FeatureStore | None]) -> dict[str, Stamp]:
    """Read what each file held when it was embedded, for the items that all stores have."""
    per_store = [_read_stamps_of(store) for store in stores if store is not None]
    if not per_store or len(per_store) < len(stores):
        return {}
    first, *others = per_store
    return {name: stamp for name, stamp in first.items() if all(other.get(name) == stamp for other in others)}


def _read_stamps_of(store: FeatureStore) -> Mapping[str, Stamp]:
    columns = store.columns
    rows = zip(
        store.ids.tolist(), store.sha256.tolist(), columns["bytes"].tolist(), columns["mtime_ns"].tolist(), strict=True
    )
    return {
        name: Stamp(sha256, FileStat(size, mtime_ns))
        for name, sha256, size, mtime_ns in rows
        if mtime_ns < store.started_ns - _RACY_NS
    }
