"""Does `featx fit` stay within a memory that is much smaller than the features, and what does this cost?

    python benchmarks/scale_fit.py make STORE.h5 [--gib 8] [--classes 10] [--dtype float32]
    python benchmarks/scale_fit.py fit STORE.h5 --clf ridge [--memory 1.5GiB] [--capped] [--scaling none] [--param C=1]

`make` seals a synthetic store of 1,280 columns: Gaussian classes whose means are near each other, generated in blocks.
`fit` first reads the file once, block by block, as the unit of time, then runs `featx fit` in a process of its own.
With `--capped` that process has RLIMIT_DATA: private writable memory, with that of threads and whatever is reserved
and not used, may not exceed `--memory`, or the process fails. Its anonymous and mapped memory are read from /proc 20
times a second, and with them its private memory as RLIMIT_DATA counts it (`VmData`). `passes` is the time of the fit
over that of the one reading; `processor_passes` is the same in processor time, which other processes change less.
Pages of the file count as mapped while they are, and the system takes them back whenever it needs memory; how much of
the file was in its cache is printed, since a cold file is as slow as its disk. We would change our mind about
streaming if a linear head took much longer than in memory on a store that fits.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from reporting import read_processor, show

DIM = 1280
GIB = 2**30


class Blocks(Sequence):
    """Rows of Gaussian classes, a block in memory at a time."""

    def __init__(self, targets, dtype):
        """Draw the means of the classes."""
        self.targets, self.dtype, self.step = targets, dtype, 4096
        draw = np.random.default_rng(1).standard_normal
        self.means = (0.07 * draw((int(targets.max()) + 1, DIM))).astype(np.float32)
        self.mixing = draw((32, DIM)).astype(np.float32) * 0.2
        self.number = -1

    def __len__(self):
        """Count the items."""
        return len(self.targets)

    def __getitem__(self, key):
        """Return a slice of rows, as `seal` takes them."""
        from featx.store.sealing import Row

        return [Row(lambda at=at: self.load(at // self.step), at % self.step) for at in range(*key.indices(len(self)))]

    def load(self, number):
        """Return a block."""
        if number != self.number:
            own = self.targets[number * self.step : (number + 1) * self.step]
            draw = np.random.default_rng([2, number]).standard_normal
            block = draw((len(own), DIM), np.float32)
            block += draw((len(own), 32), np.float32) @ self.mixing + self.means[own]
            self.block, self.number = np.maximum(block + 0.5, 0).astype(self.dtype), number
        return self.block


def make(options):
    """Seal a store."""
    from featx.golden import Golden, make_golden_files
    from featx.specs import BackboneSpec, EmbedSpec, ImageSpec
    from featx.store.sealing import Provenance, seal

    n_items = -(-int(options.gib * GIB) // (DIM * np.dtype(options.dtype).itemsize))
    targets = np.random.default_rng(0).integers(0, options.classes, n_items)
    spec = EmbedSpec(BackboneSpec("colour", "colour", "none", "computed", "0" * 64), ImageSpec(8, 8), options.dtype)
    golden = Golden(make_golden_files(), np.zeros((2, DIM), np.float32))
    provenance = Provenance("/synthetic", {"numpy": np.__version__}, "numpy", 0.0, (DIM,), "", golden)
    zeros = np.zeros(n_items, np.int64)
    items = {
        "id": [f"class-{target}/{at:07d}.jpg" for at, target in enumerate(targets.tolist())],
        "sha256": [hashlib.sha256(b"%d" % at).hexdigest() for at in range(n_items)],
        **dict.fromkeys(("bytes", "mtime_ns", "width", "height"), zeros),
        "label": [f"class-{target}" for target in targets.tolist()],
        **dict.fromkeys(("split", "group"), [""] * n_items),
    }
    options.store.parent.mkdir(parents=True, exist_ok=True)
    none = {"id": [], "sha256": [], "reason": []}
    seal(options.store, spec, provenance, items, Blocks(targets, options.dtype), none, confirm=lambda: None)
    show("made", items=n_items, bytes=options.store.stat().st_size)


def read_once(path):
    """Read a file in blocks of 8 MiB; return the seconds, and those of the processor."""
    started, busy, buffer = time.perf_counter(), time.process_time(), bytearray(8 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - started, time.process_time() - busy


def measure_cached(path):
    """Return the share of a file that is in the system's cache; None if `fincore` is not there."""
    try:
        done = subprocess.run(["fincore", "-bno", "RES", path], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return int(done.stdout) / path.stat().st_size


def watch(process):
    """Return the peaks of anonymous and mapped memory of a process, by what /proc says until it ends, and its code."""
    peaks = {"RssAnon": 0, "RssFile": 0, "VmRSS": 0, "VmData": 0}
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:
            break
        for name, _, value in (line.partition(":") for line in lines):
            if name in peaks:
                peaks[name] = max(peaks[name], 1024 * int(value.split()[0]))
        time.sleep(0.05)
    return process.wait(), peaks


def fit(options):
    """Fit once in a process of its own."""
    from featx.options import read_memory

    runs = options.store.parent / "runs"
    command = [sys.executable, "-m", "featx", "fit", options.store, "--clf", options.clf, "--json", "--runs", runs]
    for flag in ("scaling", "memory", "calibration"):
        command += [f"--{flag}", getattr(options, flag)] if getattr(options, flag) else []
    command += [word for param in options.param for word in ("--param", param)]

    def limit():
        import resource

        most = read_memory(options.memory)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))

    cached, (reading, copying) = measure_cached(options.store), read_once(options.store)
    before, started = os.times(), time.perf_counter()
    out = options.store.parent / f"{options.clf}.json"
    with out.open("w") as file:
        process = subprocess.Popen(command, stdout=file, preexec_fn=limit if options.capped else None)  # noqa: PLW1509
        code, peaks = watch(process)
    seconds, after = time.perf_counter() - started, os.times()
    busy = after.children_user + after.children_system - before.children_user - before.children_system
    found = json.loads(out.read_text()) if code == 0 else {}
    show(
        "fit",
        store_gib=options.store.stat().st_size / GIB,
        clf=options.clf,
        memory=options.memory,
        capped=options.capped,
        scaling=options.scaling,
        param=options.param,
        code=code,
        seconds=seconds,
        processor_seconds=busy,
        cached_before=cached,
        one_pass_seconds=reading,
        passes=seconds / reading,
        processor_passes=busy / copying,
        **{name: value / GIB for name, value in peaks.items()},
        accuracy=found.get("test", {}).get("accuracy"),
        log_loss=found.get("test", {}).get("log_loss"),
        chosen=found.get("head"),
    )


def main():
    """Make a store, or fit on one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    for verb in (make, fit):
        one = verbs.add_parser(verb.__name__)
        one.set_defaults(verb=verb)
        one.add_argument("store", type=Path)
    one.add_argument("--clf", default="ridge")
    one.add_argument("--memory", default="")
    one.add_argument("--capped", action="store_true")
    one.add_argument("--scaling", default="")
    one.add_argument("--calibration", default="")
    one.add_argument("--param", action="append", default=[])
    verbs.choices["make"].add_argument("--gib", type=float, default=8)
    verbs.choices["make"].add_argument("--classes", type=int, default=10)
    verbs.choices["make"].add_argument("--dtype", default="float32")
    options = parser.parse_args()
    show("machine", processor=read_processor(), cores=len(os.sched_getaffinity(0)), load=os.getloadavg()[0])
    options.verb(options)


if __name__ == "__main__":
    main()
