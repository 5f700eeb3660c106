"""Measure the cost of a crash-safe store, and its reading speed against a plain array.

    python benchmarks/store.py [--images 4000] [--rows 50000] [--dim 2048] [--rounds 5]

*Writing*: the share of an embedding run that is spent in committing shards and in sealing,
with the two fastest backbones: colours in NumPy, and the smallest network that
keras.applications has (random weights; they change no time). The pictures are cut from the two
photographs that scikit-learn ships, 500x375 px, as JPEG. A network makes the share smaller,
larger rows make it larger. Above 2 % we would write shards in a thread of their own.

*Reading*: all rows of a matrix once, summed, from a store (mapped, with its items checked)
against `numpy.load` of the same matrix; and as a copy in memory, by the five lines of h5py of
docs/format.md against `numpy.load`. Both are in the page cache. Below 1 we would stop
mapping the file.

The ways alternate in one process; medians, and ratios of medians, as JSON lines.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
from photographs import draw_photographs

import featx
from featx.specs import BackboneSpec, EmbedSpec, ImageSpec
from featx.store import journal, writing
from featx.store.sealing import Golden, Provenance
from featx.store.writing import StoreWriter


def main():
    """Run both parts and print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("images", 4000), ("rows", 50_000), ("dim", 2048), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    show(
        "machine",
        cores=os.cpu_count(),
        system=platform.platform(),
        python=platform.python_version(),
        **{package: version(package) for package in ("featx", "numpy", "h5py", "tensorflow", "keras")},
    )
    with tempfile.TemporaryDirectory(prefix="featx-benchmark-") as folder:
        measure_writing(Path(folder), options.images, options.rounds)
        measure_reading(Path(folder), options.rows, options.dim, options.rounds)


def show(what, **figures):
    """Print one line of JSON."""
    rounded = {name: round(value, 5) if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps({"what": what, **rounded}), flush=True)


class Stopwatch:
    """Total seconds of the calls of a function."""

    def __init__(self, function):
        self.function = function
        self.seconds = 0.0

    def __call__(self, *arguments, **options):
        """Call the function."""
        started = time.perf_counter()
        try:
            return self.function(*arguments, **options)
        finally:
            self.seconds += time.perf_counter() - started


def measure_writing(folder, n_images, rounds):
    """Time commits and the seal inside whole runs."""
    draw_photographs(folder / "pictures", n_images)
    commit, seal = journal.Journal.commit, writing.seal
    backbones = {
        "colour": featx.load_backbone("colour"),
        "mobilenet?alpha=0.25": featx.load_backbone("mobilenet?alpha=0.25", weights="none", image_size=(224, 224)),
    }
    found = {name: [] for name in backbones}
    for number in range(rounds):
        for name, backbone in backbones.items():
            watches = Stopwatch(commit), Stopwatch(seal)
            journal.Journal.commit = lambda own, watch=watches[0]: watch(own)
            writing.seal = watches[1]
            result = featx.embed(folder / "pictures", backbone, folder=folder / f"{number}")
            journal.Journal.commit, writing.seal = commit, seal
            found[name].append((result.seconds, sum(watch.seconds for watch in watches), result.store.dim))
    for name, runs in found.items():
        seconds, storing = (statistics.median(run[at] for run in runs) for at in (0, 1))
        show(
            "writing",
            backbone=name,
            images=n_images,
            dim=runs[0][2],
            run_seconds=seconds,
            commit_and_seal_seconds=storing,
            share=statistics.median(run[1] / run[0] for run in runs),
            goal="share below 0.02",
        )


def measure_reading(folder, n_rows, dim, rounds):
    """Time reading the same matrix from a store and from a plain file."""
    features = np.random.default_rng(0).normal(size=(n_rows, dim)).astype(np.float32)
    np.save(folder / "plain.npy", features)
    write_store(folder / "made.h5", features)
    ways = {
        "store_pass": lambda: featx.FeatureStore(folder / "made.h5").features.sum(dtype=np.float64),
        "load_pass": lambda: np.load(folder / "plain.npy").sum(dtype=np.float64),
        "h5py_copy": lambda: read_copy(folder / "made.h5"),
        "load_copy": lambda: np.load(folder / "plain.npy"),
    }
    seconds = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(found[1:]) for name, found in seconds.items()}  # the first fills the cache
    for ours, theirs in (("store_pass", "load_pass"), ("h5py_copy", "load_copy")):
        show(
            "reading",
            rows=n_rows,
            dim=dim,
            megabytes=features.nbytes / 1e6,
            **{f"{ours}_seconds": medians[ours], f"{theirs}_seconds": medians[theirs]},
            times_as_fast=medians[theirs] / medians[ours],
            goal="at least 1",
        )


def write_store(path, features):
    """Write a matrix as a store of made-up items."""
    spec = EmbedSpec(BackboneSpec("made", "top", "none", "computed", "0" * 64), ImageSpec(8, 8), "float32")
    dim = features.shape[1]
    golden = Golden((b"none",), np.ones((1, dim), np.float32))
    names = [f"class {number % 100}/{number:07d}.jpg" for number in range(len(features))]
    contents = [f"{number:064x}" for number in range(len(features))]
    items = {name: [0] * len(features) for name in ("bytes", "mtime_ns")}
    items |= {name: [""] * len(features) for name in ("split", "group")}
    items |= {"id": names, "sha256": contents, "label": [name.partition("/")[0] for name in names]}
    with StoreWriter(path, spec, Provenance("/made", {}, "numpy", 0.0, (dim,), "", golden)) as writer:
        for sha256, row in zip(contents, features, strict=True):
            writer.append(sha256, 8, 8, row)
        writer.seal(items, {"id": [], "sha256": [], "reason": []})


def read_copy(path):
    """Read a store's features without featx."""
    with h5py.File(path) as file:
        return file["features"][:]


if __name__ == "__main__":
    main()
