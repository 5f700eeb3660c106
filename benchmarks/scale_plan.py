"""What does the driver of a cluster take for each item, in time and memory, and what does it take to resume?

    python benchmarks/scale_plan.py [ITEMS] [--dim 8] [--done 0.5] [--workers 64] [--folder FOLDER]

The items are synthetic, and so are the workers: they write the same files as real ones, with rows of zeros. All else
is the code that runs on a cluster. Each step is a process of its own, which prints microseconds of processor time and
bytes of memory for each item: `plan` plans a new store; `write` has workers embed a share of the items, and ends as if
it had been killed; `resume` plans what is left, and `finish` embeds it and seals the store. We would change our mind
about one driver for all items if planning took as long as embedding does on a few hundred workers.
"""

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from reporting import read_processor, show

STEPS = ("plan", "write", "resume", "finish")
CLASSES = 1000


class Reader:
    """Files that do not exist, with their sizes and times."""

    def stat(self, _):
        """Return the size and time of each file."""
        from featx.items.manifest import FileStat

        return FileStat(100_000, 1_700_000_000_000_000_000)

    def read(self, *_):
        """Refuse: the workers of this script read nothing."""
        raise NotImplementedError


class Engine:
    """Workers that write shards at once, and die after some of them if they are told to."""

    def __init__(self, writer, golden, limit):
        self.writer, self.golden, self.limit = writer, golden, limit
        self.seconds = 0.0

    def start(self):
        """Return a worker."""
        return object()

    def load(self, handle):
        """Load nothing."""
        return handle

    def embed(self, handle, name, ids, _):
        """Write a shard; its time is not the driver's."""
        from featx.store.journal import Journal, Records

        begun = time.process_time()
        if self.limit == 0:
            raise KeyboardInterrupt
        self.limit -= 1
        dim = self.writer.row_bytes // 2
        journal = Journal(self.writer.path, self.writer.spec, dim, lambda: None, self.golden, whole=True)
        row, contents = np.zeros(dim, np.float32), [hash_name(name) for name in ids]
        for content in contents:
            journal.append(content, 500, 375, row)
        stat, count = Reader().stat(""), len(ids)
        columns = {"id": ids, "sha256": contents, "bytes": [stat.size_bytes] * count}
        columns["mtime_ns"] = [stat.mtime_ns] * count
        columns |= dict.fromkeys(("reason", "unfit", "applied"), [""] * count)
        columns |= dict.fromkeys(("is_momentary", "peak", "ignored"), [0] * count)
        journal.finish(name, Records(columns, "/synthetic", time.time_ns()))
        self.seconds += time.process_time() - begun
        return handle

    def wait(self, answers, _):
        """Return one answer, as Ray does."""
        return answers[:1]

    def read(self, _):
        """Return that a worker has done what it should."""
        from featx.cluster.jobs import Outcome

        return Outcome(0.01)

    def stop(self, handle):
        """Stop nothing."""


def hash_name(name):
    """Return a digest of a name in place of one of the content."""
    return hashlib.sha256(name.encode()).hexdigest()


def read_memory():
    """Return the memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Meter:
    """Prints what each part of a step takes for each item."""

    def __init__(self, step, count):
        self.step, self.count = step, count
        self.start()

    def start(self):
        """Begin a part."""
        self.seconds, self.memory = time.process_time(), read_memory()

    def note(self, part, *, without=0.0, **figures):
        """Print what the part took since the last one, without seconds that are not its own."""
        seconds = time.process_time() - self.seconds - without
        used = (read_memory() - self.memory) / self.count
        show(f"{self.step}: {part}", microseconds=1e6 * seconds / self.count, bytes=used, **figures)
        self.start()


def run(step, options):
    """Run one step, and print its figures."""
    import featx
    from featx.cluster.driver import Driver
    from featx.cluster.planning import choose_size, plan
    from featx.cluster.running import _Run
    from featx.golden import Golden, make_golden_files
    from featx.items.manifest import Item, Manifest
    from featx.ledger import Ledger
    from featx.measuring import Timing
    from featx.specs import BackboneSpec, EmbedSpec, ImageSpec
    from featx.store.journal import find_next_number, name_journal
    from featx.store.sealing import Provenance
    from featx.store.writing import StoreWriter

    meter, path = Meter(step, options.items), options.folder / "scale.h5"
    classes = [f"class-{number:04d}" for number in range(CLASSES)]
    items = tuple(Item(f"{classes[at % CLASSES]}/{at:09d}.jpg", classes[at % CLASSES]) for at in range(options.items))
    manifest = Manifest(items, Reader(), "/synthetic")
    meter.note("listing")
    spec = EmbedSpec(BackboneSpec("colour", "colour", "none", "computed", "0" * 64), ImageSpec(8, 8), "float16")
    golden = Golden(make_golden_files(), np.zeros((2, options.dim), np.float32))
    provenance = Provenance("/synthetic", {"numpy": np.__version__}, "numpy", 0.0, (options.dim,), "", golden)
    told, timing = featx.EmbedOptions(), Timing()
    with StoreWriter(path, spec, provenance) as writer:
        meter.note("reading what is there", rows=len(writer.known))
        ledger = Ledger([writer], manifest, told)
        meter.note("comparing", expected=ledger.expected)
        size = choose_size(ledger.expected, options.workers, writer.row_bytes)
        work = _Run(ledger, told, timing)
        work._handovers = [None]
        if step in {"plan", "resume"}:
            names = {shard.name(0, spec.digest) for shard in plan(work.list_new(ledger.separate(timing)), size)}
            meter.note("planning", shards=len(names), size=size)
            return
        limit = -1 if step == "finish" else int(options.done * options.items / size)
        engine = Engine(writer, golden, limit)
        number = find_next_number(name_journal(path))
        try:
            Driver(
                engine,
                plan(work.list_new(ledger.separate(timing)), size),
                options.workers,
                name=lambda shard: shard.name(number, spec.digest),
                known=lambda shard: ledger.list_contents(shard.places),
                finish=lambda shard, reason: work._finish(shard, reason, [path], shard.name(number, spec.digest)),
                observe=lambda _: None,
                show=lambda _: None,
            ).run()
        except KeyboardInterrupt:
            meter.note("driving until it is killed", without=engine.seconds)
            return
        meter.note("driving", without=engine.seconds, workers_microseconds=1e6 * engine.seconds / options.items)
        work.check_complete()
        ((columns, bad),) = ledger.conclude()
        meter.note("concluding")
        store = writer.seal(columns, bad)
        meter.note("sealing", items=len(store), bytes_of_file=path.stat().st_size)


def main():
    """Run the steps, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("items", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--dim", type=int, default=8)
    parser.add_argument("--done", type=float, default=0.5)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--steps", nargs="*", default=STEPS)
    parser.add_argument("--step", choices=STEPS)
    options = parser.parse_args()
    if options.step:
        run(options.step, options)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        show(f"{options.step}: peak", gigabytes=peak / 1e9, bytes=peak / options.items)
        return
    show("machine", processor=read_processor(), cores=len(os.sched_getaffinity(0)), load=os.getloadavg()[0])
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for step in options.steps:
            arguments = [str(value) for value in (options.items, "--dim", options.dim, "--done", options.done)]
            arguments += ["--workers", str(options.workers), "--folder", str(folder), "--step", step]
            subprocess.run([sys.executable, __file__, *arguments], check=True)


if __name__ == "__main__":
    main()
