"""A worker: loads the network once, then embeds shards, each into one file beside each store."""

import contextlib
import functools
import logging
import os
import platform
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.backbones.loading import find_backbone
from featx.backbones.running import Runner
from featx.cluster.jobs import Job, Outcome, StoreTarget
from featx.errors import DataError, SpecMismatchError
from featx.golden import MAX_DRIFT, measure_drift
from featx.golden_features import embed_golden
from featx.items.manifest import Item, Reader
from featx.items.reading import Examined, count_least, examine
from featx.measuring import WRITE, Timing
from featx.options import SpreadOptions
from featx.outcomes import LAST_NS
from featx.store.journal import RECORD_COLUMNS, Journal, Records
from featx.store.lock import confirm_lock

#: Instead of those of an item that is only noted, which would stay in memory.
NO_PIXELS = np.empty((0, 0, 3), np.uint8)


@dataclass(frozen=True, slots=True)
class _Shard:
    """The items of one shard, which `examine` takes."""

    items: Sequence[Item]
    reader: Reader


def set_up_process(options: SpreadOptions, environment: Mapping[str, str]) -> int:
    """Set variables of this process, and return the number of threads that it may have."""
    count = max(1, int(options.cpus_per_worker))
    threads = str(count)
    os.environ.update(environment)
    os.environ.update(LOKY_MAX_CPU_COUNT=threads, TF_NUM_INTRAOP_THREADS=threads, TF_NUM_INTEROP_THREADS=threads)
    if not options.gpus_per_worker:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    return count


class Worker:
    """A worker of a run; use it in a process of its own, whose number of threads it sets.

    Args:
        job: What to do.
    """

    def __init__(self, job: Job) -> None:
        self._threads = set_up_process(job.options, job.environment)
        if Path(job.folder).is_dir():
            os.chdir(job.folder)
        self._job = job

    def load(self) -> Outcome:
        """Build the network, and refuse to mix its rows with those of a machine that computes other numbers.

        Raises:
            SpecMismatchError: If it has other weights, or this machine computes other features than the driver's.
            FeatxError: As `featx.load_backbone` and `Runner.prepare`.
        """
        job, call, begun = self._job, self._job.network, time.perf_counter()
        spec = job.targets[0].spec
        with _collect_warnings() as warnings:
            network = find_backbone(
                call.uri,
                layers=call.layers,
                pooling=call.pooling,
                weights=call.weights,
                image_size=call.image_size,
                runtime=job.options.runtime,
            )
            if network.weights_digest != spec.backbone.weights_digest:
                msg = f"a worker on {platform.node()} has other weights of {call.uri} than the driver; copy them there"
                raise SpecMismatchError(msg)
            self._goldens = embed_golden(network, spec.image, job.targets[0].golden.files)
            drift = max(
                measure_drift(target.golden, found) for target, found in zip(job.targets, self._goldens, strict=True)
            )
            if not drift <= MAX_DRIFT:
                msg = (
                    f"a worker on {platform.node()} computes other features than the driver: they differ by "
                    f"{drift:.1e} of their range (limit {MAX_DRIFT:.0e}); install the same versions there"
                )
                raise SpecMismatchError(msg)
            views = 1 + spec.views.count if spec.views else 1
            self._runner = Runner(network, job.options, expected=job.expected, views=views)
            self._runner.prepare()
        return Outcome(time.perf_counter() - begun, warnings=warnings)

    def embed(self, name: str, ids: Sequence[str], known: Sequence[str]) -> Outcome:
        """Embed the items of a shard, and write it beside each store.

        Args:
            name: Name of the shard.
            ids: The items.
            known: The sha256 of images that need not be embedded, in addition to those of the job.

        Raises:
            FeatxError: If the network fails, or a shard cannot be written.
        """
        begun, timing = time.perf_counter(), Timing()
        with _collect_warnings() as warnings, tempfile.TemporaryDirectory() as folder:
            journals = [self._open_journal(at, begun, Path(folder)) for at in range(len(self._job.targets))]
            found, unfit = self._embed_items(ids, self._job.known.union(known), journals, timing)
            with timing.measure(WRITE):
                are_same = [
                    _finish(target, journal, name, self._record(found, bad))
                    for target, journal, bad in zip(self._job.targets, journals, unfit, strict=True)
                ]
        return Outcome(time.perf_counter() - begun, all(are_same), timing.conclude(), warnings)

    def _open_journal(self, at: int, begun: float, folder: Path) -> Journal:
        """Open the journal beside a store, or in a folder of this worker if it does not see the store."""
        target, golden = self._job.targets[at], self._goldens[at]
        dim = golden.features.shape[1] * target.spec.n_views
        if target.handover:
            journal = Journal(folder / target.path.name, target.spec, dim, _confirm_own, golden, whole=True)
        else:
            confirm = functools.partial(confirm_lock, target.path, target.lock)
            journal = Journal(target.path, target.spec, dim, confirm, golden, whole=True)
        journal.counted = begun
        return journal

    def _embed_items(
        self, ids: Sequence[str], known: frozenset[str], journals: Sequence[Journal], timing: Timing
    ) -> tuple[list[Examined], list[dict[str, str]]]:
        """Return what became of each item, and for each store the reasons of rows that it cannot hold, by sha256."""
        job, spec = self._job, self._job.targets[0].spec
        found: list[Examined] = []
        unfit: list[dict[str, str]] = [{} for _ in journals]
        shard = _Shard([Item(name) for name in ids], job.reader)
        views, workers = [spec.views] if spec.views else [], max(self._threads, count_least(shard))
        images = examine(shard, spec.image, known=known, stamps=(), workers=workers, timing=timing, views=views)
        with (
            contextlib.closing(images),
            contextlib.closing(self._runner.stream(_note(images, found), timing)) as batches,
        ):
            for batch, vectors in batches:
                for journal, bad, rows in zip(journals, unfit, vectors, strict=True):
                    journal.runtime, journal.drift = self._runner.name, self._runner.drift
                    _append(journal, bad, batch, rows)
        return found, unfit

    def _record(self, found: Iterable[Examined], unfit: dict[str, str]) -> Records:
        rows = [_list_cells(examined, unfit) for examined in found]
        columns = {name: [row[at] for row in rows] for at, name in enumerate(RECORD_COLUMNS)}
        return Records(columns, self._job.source, self._job.started_ns)


def _confirm_own() -> None:
    """Allow everything: nobody else writes to a worker's own folder."""


def _finish(target: StoreTarget, journal: Journal, name: str, records: Records) -> bool:
    """Write a shard where the driver finds it; return whether one that was there has the same rows."""
    if not target.handover:
        return journal.finish(name, records)
    from featx.cluster.handover import Handover

    handover, path = Handover(target.handover), journal.folder / f"{name}.h5"
    is_there = handover.fetch(path)
    is_same = journal.finish(name, records)
    if not is_there:
        handover.pass_on(path)
    return is_same


def _note(images: Iterable[Examined], found: list[Examined]) -> Generator[tuple[Examined, NDArray[Any]]]:
    """Note every item, and pass on those with an image."""
    for examined in images:
        image = examined.image
        plain = replace(examined, image=replace(image, pixels=NO_PIXELS)) if image else examined
        found.append(plain)
        if image:
            yield plain, image.pixels


def _append(journal: Journal, unfit: dict[str, str], batch: Sequence[Examined], rows: NDArray[Any]) -> None:
    for examined, row in zip(batch, rows, strict=True):
        stamp, image = examined.stamp, examined.image
        if stamp is None or image is None:
            continue
        try:
            journal.append(stamp.sha256, image.width_px, image.height_px, row)
        except DataError as error:
            unfit[stamp.sha256] = str(error)


def _list_cells(examined: Examined, unfit: dict[str, str]) -> tuple[Any, ...]:
    stamp, image = examined.stamp, examined.image
    sha256, size, mtime_ns = (
        (stamp.sha256, stamp.stat.size_bytes, min(stamp.stat.mtime_ns, LAST_NS)) if stamp else ("", 0, 0)
    )
    noted = (image.peak, image.ignored, image.applied) if image else (0, 0, "")
    reasons = examined.reason, unfit.get(sha256, "")
    return examined.item.id, sha256, size, mtime_ns, *reasons, examined.is_momentary, *noted


@contextlib.contextmanager
def _collect_warnings() -> Iterator[list[str]]:
    """Collect what featx warns of in the block, since nobody reads the log of a worker."""
    found: list[str] = []

    class _Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    logger, collector = logging.getLogger("featx"), _Collector(logging.WARNING)
    logger.addHandler(collector)
    try:
        yield found
    finally:
        logger.removeHandler(collector)
