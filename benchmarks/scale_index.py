"""What does an index cost: to seal, to open, to add to, to read; and what does packing it?

    python benchmarks/scale_index.py FOLDER [--items 10000000] [--shards 2500] [--dim 8] [--dtype float16]

Writes synthetic shards as `embed` does, then runs each step in a process of its own: `seal` reads the shards as a
resumed run does and seals an index; `open` opens it and reads its first and last row; `add` adds 1,000 images in the
middle; `read` reads all rows in blocks of 8 MiB, and 20,000 at random in batches of 256; `pack` makes one file, from
which `open` and `read` are repeated. Of each step, seconds, processor seconds and the peak of memory are printed. It
takes 4 GB on the disk, which it removes, and 7 GB of memory, most of it for the names of ten million images in lists
and dicts of Python. We would change our mind about keeping shards if sealing took longer than a copy of real features,
or reading much longer than from one file.
"""

import argparse
import hashlib
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from reporting import show

ADDED = 1000


def make_spec(options):
    """Return the spec and the provenance of the features."""
    from featx.golden import Golden, make_golden_files
    from featx.specs import BackboneSpec, EmbedSpec, ImageSpec
    from featx.store.sealing import Provenance

    spec = EmbedSpec(BackboneSpec("colour", "colour", "none", "computed", "0" * 64), ImageSpec(8, 8), options.dtype)
    golden = Golden(make_golden_files(), np.zeros((2, options.dim), np.float32))
    return spec, Provenance("/synthetic", {"numpy": np.__version__}, "numpy", 0.0, (options.dim,), "", golden)


def hash_numbers(start, past):
    """Return the sha256 of images of some numbers."""
    return [hashlib.sha256(b"%d" % number).hexdigest() for number in range(start, past)]


def make_items(numbers, shas):
    """Return the columns of `/items`."""
    n_items, zeros = len(shas), [0] * len(shas)
    names = {"id": [f"class-{number % 10}/{number:08d}.jpg" for number in numbers], "sha256": shas}
    labels = {"label": [f"class-{number % 10}" for number in numbers], "split": [""] * n_items, "group": [""] * n_items}
    return {**names, "bytes": zeros, "mtime_ns": zeros, **labels}


def append(writer, shas, dim, seed):
    """Append a row for each image."""
    rows = np.random.default_rng(seed).standard_normal((len(shas), dim), np.float32)
    for sha256, row in zip(shas, rows, strict=True):
        writer.append(sha256, 640, 480, row)


def shards(options):
    """Write the shards of an unfinished run."""
    from featx.store import journal as journals

    journals.SHARD_SECONDS = float("inf")
    spec, provenance = make_spec(options)
    journal = journals.Journal(options.store, spec, options.dim, lambda: None, provenance.golden)
    step = -(-options.items // options.shards)
    for start in range(0, options.items, step):
        append(journal, hash_numbers(start, min(start + step, options.items)), options.dim, start)
        journal.commit()
    return {"shards": len(list(journal.folder.iterdir()))}


def seal(options):
    """Seal an index of the shards."""
    return write(options, 0)


def add(options):
    """Add images in the middle of the store."""
    return write(options, ADDED)


def write(options, n_added):
    """Seal all items, and some more in the middle."""
    from featx.store.writing import StoreWriter

    spec, provenance = make_spec(options)
    half = options.items // 2
    numbers = [*range(half), *range(options.items, options.items + n_added), *range(half, options.items)]
    shas = hash_numbers(0, options.items)
    added = hash_numbers(options.items, options.items + n_added)
    items = make_items(numbers, [*shas[:half], *added, *shas[half:]])
    started = time.perf_counter(), time.process_time()
    with StoreWriter(options.store, spec, provenance, index_above=0) as writer:
        append(writer, added, options.dim, 1)
        read = time.perf_counter(), time.process_time()
        store = writer.seal(items, {"id": [], "sha256": [], "reason": []})
    done = time.perf_counter(), time.process_time()
    found = {"shards": len(store.list_shards()), "bytes": options.store.stat().st_size}
    for name, (begun, ended) in {"read_shards": (started, read), "seal": (read, done)}.items():
        found |= {f"{name}_seconds": ended[0] - begun[0], f"{name}_cpu_seconds": ended[1] - begun[1]}
    return found


def open_(options):
    """Open the store, and read its ends."""
    from featx import FeatureStore

    started = time.perf_counter(), time.process_time()
    store = FeatureStore(options.store)
    ends = store.features[0], store.features[len(store) - 1]
    return {
        "open_seconds": time.perf_counter() - started[0],
        "open_cpu_seconds": time.process_time() - started[1],
        "is_index": store.is_index,
        "finite": bool(np.isfinite(ends).all()),
    }


def read(options):
    """Read all rows in order, and some at random."""
    from featx import FeatureStore
    from featx.heads.rows import FeatureRows

    store = FeatureStore(options.store)
    rows = FeatureRows(store.features, streamed=True)
    chosen = np.random.default_rng(0).integers(0, len(store), (-(-20_000 // 256), 256))
    found = {"is_index": store.is_index}
    for name, take in (
        ("pass", lambda: sum(float(block[0, 0]) for _, block in rows.iterate_blocks())),
        ("second_pass", lambda: sum(float(block[0, 0]) for _, block in rows.iterate_blocks())),
        ("random", lambda: sum(float(rows[batch][0, 0]) for batch in chosen)),
    ):
        started = time.perf_counter(), time.process_time()
        take()
        found |= {f"{name}_seconds": time.perf_counter() - started[0]}
        found |= {f"{name}_cpu_seconds": time.process_time() - started[1]}
    return found


def pack(options):
    """Make one file of the index."""
    from featx import pack_store

    started = time.perf_counter(), time.process_time()
    store = pack_store(options.store)
    found = {"pack_seconds": time.perf_counter() - started[0], "pack_cpu_seconds": time.process_time() - started[1]}
    return {**found, "bytes": store.count_bytes()}


STEPS = {"shards": shards, "seal": seal, "open": open_, "read": read, "add": add, "pack": pack}


def main():
    """Run all steps, or the one that this process is for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--shards", type=int, default=2500)
    parser.add_argument("--dim", type=int, default=8)
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--step", choices=STEPS)
    options = parser.parse_args()
    options.store = options.folder / "index.h5"
    if options.step:
        found = STEPS[options.step](options)
        found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000
        print(json.dumps(found))
        return
    options.folder.mkdir(parents=True)
    try:
        for step in ("shards", "seal", "open", "read", "add", "open", "pack", "open", "read"):
            command = [sys.executable, __file__, *sys.argv[1:], "--step", step]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            show(step, items=options.items, **json.loads(done.stdout))
    finally:
        shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
