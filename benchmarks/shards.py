"""Embed the same pictures from a folder, tar shards and Parquet, and print rate, processor time and peak memory.

    python benchmarks/shards.py FOLDER [PICTURES] [ROUNDS]

The folder gets the pictures once; the sources are embedded in turn, each time into a new store.
"""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

CLASSES, PER_SHARD, PER_GROUP, SIDE = 10, 2_500, 100, 96


def make_picture(number):
    """Return a JPEG of smooth noise, different for each number."""
    noise = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((SIDE, SIDE)).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_sources(base, count):
    """Write the pictures in the three forms."""
    for start in range(0, count, PER_SHARD):
        pictures = {number: make_picture(number) for number in range(start, min(count, start + PER_SHARD))}
        for number, data in pictures.items():
            path = base / "folder" / str(number % CLASSES) / f"{number:08d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (base / "tar").mkdir(exist_ok=True)
        with tarfile.open(base / "tar" / f"{start // PER_SHARD:05d}.tar", "w") as shard:
            for number, data in pictures.items():
                for ending, content in (("jpg", data), ("cls", str(number % CLASSES).encode())):
                    info = tarfile.TarInfo(f"{number:08d}.{ending}")
                    info.size = len(content)
                    shard.addfile(info, io.BytesIO(content))
        (base / "parquet").mkdir(exist_ok=True)
        images = [{"bytes": data, "path": f"{number:08d}.jpg"} for number, data in pictures.items()]
        table = pa.table({"image": images, "label": [str(number % CLASSES) for number in pictures]})
        parquet.write_table(table, base / "parquet" / f"{start // PER_SHARD:05d}.parquet", row_group_size=PER_GROUP)


def embed(source, base):
    """Embed a source in a process of its own; return seconds, processor seconds and peak memory in MiB."""
    shutil.rmtree(base / "features", ignore_errors=True)
    command = [sys.executable, "-m", "featx", "embed", source, "-b", "colour", "--features", base / "features"]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"embedding {source} failed")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main():
    """Write the sources if they are missing, and embed each in every round."""
    base = Path(sys.argv[1])
    count, rounds = (int(value) for value in (*sys.argv[2:4], *("20000", "3")[len(sys.argv) - 2 :]))
    if not (base / "parquet").exists():
        write_sources(base, count)
    for _ in range(rounds):
        for name in ("folder", "tar", "parquet"):
            seconds, processor, memory = embed(base / name, base)
            print(f"{name:8} {count / seconds:7,.0f}/s, {processor:5.1f} processor s, {memory:4,.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
