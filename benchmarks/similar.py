"""Nearest items of a large store: milliseconds a query, beside scikit-learn's brute force.

    python benchmarks/similar.py [--items 100000] [--dim 1280] [--dtype float32] [--repeats 5]

The features are random and lie in a memory-mapped file, whose pages are warm after the first pass. scikit-learn gets
the same rows in memory. Both answer in turn, and medians are printed, with the growth of the peak memory.
"""

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.neighbors import NearestNeighbors

from featx.store.neighbours import find_nearest, measure_lengths

NEIGHBOURS = 10


def measure(function):
    """Run a function and return its seconds and result."""
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="without scikit-learn, to see the memory of featx")
    wanted = parser.parse_args()
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        shape = (wanted.items, wanted.dim)
        features = np.memmap(Path(folder) / "features", wanted.dtype, "w+", shape=shape)
        for start in range(0, wanted.items, 4096):
            block = features[start : start + 4096]
            block[:] = np.maximum(generator.standard_normal(block.shape, np.float32), 0)
        seconds, lengths = measure(lambda: measure_lengths(features))
        print(f"lengths, once: {1000 * seconds:.0f} ms")
        brute = None
        if not wanted.alone:
            brute = NearestNeighbors(n_neighbors=NEIGHBOURS, metric="cosine", algorithm="brute")
            brute.fit(np.array(features, np.float32))
        print("queries  featx (ms a query)  scikit-learn  rows that differ  peak memory (MB)")
        for n_queries in (1, 16, 256):
            queries = np.maximum(generator.standard_normal((n_queries, wanted.dim), np.float32), 0)
            ours, theirs, differ = [], [], 0
            for _ in range(wanted.repeats):
                taken, (rows, _) = measure(lambda: find_nearest(features, lengths, queries, NEIGHBOURS))  # noqa: B023
                ours.append(1000 * taken / n_queries)
                if brute is not None:
                    taken, (_, expected) = measure(lambda: brute.kneighbors(queries))  # noqa: B023
                    theirs.append(1000 * taken / n_queries)
                    differ = int((rows != expected).sum())
            other = f"{statistics.median(theirs):13.2f}  {differ:16d}" if theirs else f"{'-':>13}  {'-':>16}"
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"{n_queries:7d}  {statistics.median(ours):18.2f}  {other}  {peak:16.0f}")


if __name__ == "__main__":
    main()
