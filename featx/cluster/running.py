"""Embedding on a cluster: what is missing is embedded in shards, and what became of each item goes into the ledger."""

import contextlib
import itertools
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from featx.backbones.running import PROBED_IMAGES
from featx.cluster.driver import KILLS, Driver
from featx.cluster.jobs import Job, NetworkCall, Outcome, StoreTarget
from featx.cluster.planning import Shard, choose_size, plan
from featx.cluster.workers import NO_PIXELS
from featx.errors import StoreError, StoreFormatError
from featx.golden import Golden
from featx.items.decoding import Decoded
from featx.items.manifest import FileStat, Item
from featx.items.reading import Examined, Stamp
from featx.ledger import Ledger, describe_source
from featx.measuring import Timing
from featx.options import EmbedOptions
from featx.reporting import SILENT
from featx.store.journal import RECORD_COLUMNS, Records, find_next_number, name_journal, read_records
from featx.urls import hide_secrets

if TYPE_CHECKING:
    from featx.cluster.handover import Handover

#: Of more images, each worker would keep megabytes in memory; they are embedded again.
_MOST_KNOWN = 100_000

logger = logging.getLogger(__name__)


def embed_shards(
    call: NetworkCall,
    ledger: Ledger,
    goldens: Sequence[Golden],
    prepare: Callable[[], None],
    options: EmbedOptions,
    timing: Timing,
) -> None:
    """Embed what the stores of a ledger lack, and record all items in it; the rows are in the journals then.

    Args:
        call: How to build the network.
        ledger: The ledger.
        goldens: For each of its stores, golden pictures.
        prepare: Checks that this machine computes the features of the stores; called if there is something to embed.
        options: Options of the run.
        timing: The time of the workers is added to it.

    Raises:
        MissingExtraError: If Ray is not installed.
        FeatxError: What a worker raised.
    """
    run = _Run(ledger, options, timing)
    with contextlib.closing(ledger.separate(timing)) as parts:
        new = run.list_new(parts)
        head: list[tuple[int, Item]] = []
        for place, item in new:
            head.append((place, item))
            if ledger.failed.get(item.id, KILLS) == KILLS:
                break
        else:
            head = run.try_again(head)
        if head:
            prepare()
            run.embed(itertools.chain(head, new), _make_job(call, ledger, goldens, options))
    run.check_complete()


def _make_job(call: NetworkCall, ledger: Ledger, goldens: Sequence[Golden], options: EmbedOptions) -> Job:
    targets = [
        StoreTarget(
            writer.path.absolute(),
            writer.spec,
            writer.lock,
            Golden(golden.files, golden.features),
            f"{options.handover.rstrip('/')}/{writer.path.name}-{secrets.token_hex(8)}" if options.handover else "",
        )
        for writer, golden in zip(ledger.writers, goldens, strict=True)
    ]
    manifest, told = ledger.manifest, replace(options, reporter=SILENT)
    # With fewer images than this, a worker takes the usual batch size, as all others do, and does not try several.
    expected = min(ledger.expected, PROBED_IMAGES - 1)
    known = ledger.find_unnamed(_MOST_KNOWN)
    return Job(call, targets, manifest.reader, describe_source(manifest), time.time_ns(), told, expected, known)


class _Run:
    """Notes what becomes of the items of one run."""

    def __init__(self, ledger: Ledger, options: EmbedOptions, timing: Timing) -> None:
        self._ledger = ledger
        self._options = options
        self._timing = timing
        self._handovers: list[Handover | None] = []
        self._done = 0
        self._said: set[str] = set()

    def list_new(self, parts: Iterable[Item | list[Examined]]) -> Iterator[tuple[int, Item]]:
        """Yield the items that are to be embedded, after their places, and note the others."""
        place = 0
        for part in parts:
            if isinstance(part, Item):
                yield place, part
                place += 1
            else:
                self._keep(range(place, place + len(part)), part)
                place += len(part)

    def try_again(self, items: Sequence[tuple[int, Item]]) -> list[tuple[int, Item]]:
        """Read and decode items of the quarantine here, as a run without workers does; return those that are sound."""
        sound: list[tuple[int, Item]] = []
        with contextlib.closing(self._ledger.try_again([item for _, item in items], self._timing)) as found:
            for (place, item), examined in zip(items, found, strict=True):
                if examined.image is None:
                    self._keep([place], [examined])
                else:
                    sound.append((place, item))
        return sound

    def embed(self, items: Iterable[tuple[int, Item]], job: Job) -> None:
        """Have workers embed items, each given after its place."""
        from featx.cluster.ray_workers import RayEngine, connect, count_room

        paths = [target.path for target in job.targets]
        number = max(find_next_number(name_journal(path)) for path in paths)
        digest = "".join(target.spec.digest for target in job.targets)
        row_bytes = max(writer.row_bytes for writer in self._ledger.writers)
        with contextlib.ExitStack() as stack:
            self._handovers = [stack.enter_context(_open_handover(target.handover)) for target in job.targets]
            stack.enter_context(connect(self._options, self._options.workers))
            n_workers = self._options.workers or count_room(self._options)
            size = choose_size(self._ledger.expected, n_workers, row_bytes)
            Driver(
                RayEngine(job, self._options),
                plan(items, size),
                n_workers,
                name=lambda shard: shard.name(number, digest),
                known=lambda shard: self._ledger.list_contents(shard.places),
                finish=lambda shard, reason: self._finish(shard, reason, paths, shard.name(number, digest)),
                observe=self._observe,
                show=self._options.reporter.describe,
            ).run()
        for writer in self._ledger.writers:
            writer.clear_leftovers()

    def _keep(self, places: Sequence[int], found: Sequence[Examined]) -> None:
        for place, examined in zip(places, found, strict=True):
            self._ledger.note(place, examined)
        self._done += len(found)
        self._ledger.report(self._done)

    def _finish(self, shard: Shard, reason: str, paths: Sequence[Path], name: str) -> None:
        """Keep what became of the items of a shard; the file of each store says it."""
        if reason:
            self._keep(shard.places, [Examined(item, None, reason=reason) for item in shard.items])
            return
        for handover, path in zip(self._handovers, paths, strict=True):
            if handover and not handover.fetch(name_journal(path) / f"{name}.h5"):
                place = hide_secrets(self._options.handover)
                msg = f"the shard {name} of {path} is gone from {place}; run the same command again"
                raise StoreError(msg)
        all_records = [read_records(path, name) for path in paths]
        if all_records[0].columns["id"] != [item.id for item in shard.items]:
            msg = f"the shard {name} beside {paths[0]} holds other items than it was made for; delete it, and run again"
            raise StoreFormatError(msg)
        for writer, records in zip(self._ledger.writers, all_records, strict=True):
            pairs = zip(records.columns["sha256"], records.columns["unfit"], strict=True)
            self._ledger.note_unfit(writer, {sha256: why for sha256, why in pairs if why})
        self._keep(shard.places, _read_items(shard.items, all_records[0]))

    def _observe(self, outcome: Outcome) -> None:
        """Add the time of a worker, and report its warnings, each once."""
        self._timing.add(outcome.stage_seconds)
        said = list(outcome.warnings)
        if not outcome.is_same:
            said.append(
                "numbers are not deterministic on this cluster: two workers computed different rows for the same "
                "images; the first ones are kept"
            )
        for line in said:
            if line not in self._said:
                self._said.add(line)
                logger.warning("%s", line)

    def check_complete(self) -> None:
        """Check that something became of every item.

        Raises:
            StoreError: If the driver ended without some of them; nothing is sealed then.
        """
        if lost := self._ledger.count_open():
            msg = (
                f"{lost:,} of {len(self._ledger.manifest):,} images were given to no worker; run the same command again"
            )
            raise StoreError(msg)


@contextlib.contextmanager
def _open_handover(url: str) -> Iterator["Handover | None"]:
    """Open the folder at a URL that shards go through, if there is one, and remove it at the end."""
    if not url:
        yield None
        return
    from featx.cluster.handover import Handover

    handover = Handover(url)
    try:
        yield handover
    finally:
        handover.clear()


def _read_items(items: Sequence[Item], records: Records) -> list[Examined]:
    """Return what a worker recorded about the items of a shard, as if they had been examined here."""
    columns, found = records.columns, []
    for item, sha256, size, mtime_ns, reason, is_momentary, *noted in zip(
        items, *(columns[name] for name in RECORD_COLUMNS if name not in {"id", "unfit"}), strict=True
    ):
        stamp = Stamp(sha256, FileStat(size, mtime_ns)) if sha256 else None
        image = Decoded(NO_PIXELS, 0, 0, *noted) if any(noted) else None
        found.append(Examined(item, stamp, image, reason=reason, is_momentary=bool(is_momentary)))
    return found
