"""How much of its limit does `featx embed` reach, where the limit is the sum of its parts?

    python benchmarks/limit.py PHOTOS [--images 394] [--rounds 3] [--networks mobilenetv2 ...]

The parts are reading, hashing, decoding and the network. Each is measured by itself in processor time, and the limit is
the rate at which all cores would do their sum without ever waiting. For each network and round, in this order: the
network on batches that are ready in memory (`bare`), and `featx.embed` of the files. Weights are random, since they
change no time. Below 0.9 of the limit, the threads wait for each other, and we would look for where. Each line is JSON.
"""

import argparse
import hashlib
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from reporting import read_processor, show

import featx
from featx.backbones.loading import find_backbone
from featx.items.decoding import decode
from featx.prefetching import prefetch
from featx.specs import ImageSpec

BATCH = 2


def main():
    """Measure each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--images", type=int, default=394)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", default=["mobilenetv2", "efficientnetb0", "resnet50", "inceptionv3"])
    options = parser.parse_args()
    files = sorted(path for path in options.photos.rglob("*") if path.suffix.lower() == ".jpg")[: options.images]
    cores = len(os.sched_getaffinity(0))
    show("machine", processor=read_processor(), cores=cores, images=len(files))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "photos" / "all"
        source.mkdir(parents=True)
        for number, path in enumerate(files):
            shutil.copyfile(path, source / f"{number:05d}.jpg")
        for name in options.networks:
            measure(name, source.parent, Path(folder) / "features", options.rounds, cores)


def measure(name, source, features, rounds, cores):
    """Measure one network: its rates, and their shares of the network's and of the limit."""
    featx.embed(source, name, weights="none", folder=features)  # puts the converted network into the cache
    network = find_backbone(name, weights="none")
    spec = ImageSpec(network.height, network.width)
    started = time.process_time()
    files = [path.read_bytes() for path in sorted(source.rglob("*.jpg"))]
    for data in files:
        hashlib.sha256(data).hexdigest()
    read = time.process_time()
    images = np.stack([decode(data, spec).pixels for data in files])
    decoded = time.process_time()
    runtime = network.runtime
    runtime.fix_batch_size(BATCH)
    runtime.embed(images[:BATCH])
    results = []
    for _ in range(rounds):
        bare, network_seconds = run_network(runtime, images)
        shutil.rmtree(features, ignore_errors=True)
        rate = featx.embed(source, name, weights="none", folder=features).images_per_second
        limit = cores * len(files) / (decoded - started + network_seconds)
        results.append((rate, bare, rate / bare, rate / limit))
    figures = (statistics.median(column) for column in zip(*results, strict=True))
    parts = {"read_ms": read - started, "decode_ms": decoded - read, "network_ms": network_seconds}
    show(
        name,
        **dict(zip(("images_per_second", "bare", "of_bare", "of_limit"), figures, strict=True)),
        **{part: 1e3 * seconds / len(files) for part, seconds in parts.items()},
    )


def run_network(runtime, images):
    """Run the network on batches that are ready; return images/s and its processor time in seconds."""
    started, processor = time.perf_counter(), time.process_time()
    batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    for _ in prefetch(runtime.embed, batches, workers=runtime.parallel, ahead=2 * runtime.parallel):
        pass
    return len(images) / (time.perf_counter() - started), time.process_time() - processor


if __name__ == "__main__":
    main()
