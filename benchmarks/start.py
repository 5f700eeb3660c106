"""Measure what one prediction costs, from the start of a process to its end.

    python benchmarks/start.py BUNDLE IMAGE NETWORK [--before FEATX BUNDLE] [--rounds 5]

BUNDLE holds a logreg head on MobileNetV2, with the network in the cache; NETWORK is that network's `.xml`, which the
script reads too. The ways alternate, each in a new process; figures are medians over the rounds of the processor time
(user and system) and of the time that passed, in seconds:

- `script`: what one would write by hand with OpenVINO, Pillow and NumPy, without any check;
- `featx`: `featx predict BUNDLE IMAGE`;
- `before`: the same with an older featx and a bundle of its own, if they are named.

Each line is JSON.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from reporting import read_processor, show

#: Goals: processor time over that of the script at most, and of the older featx over that of the new one at least.
TO_SCRIPT, TO_BEFORE = 2.0, 6.0

SCRIPT = """
import sys
import numpy as np
import openvino
from PIL import Image
network, head, image = sys.argv[1:]
core = openvino.Core()
model = core.read_model(network)
model.reshape([1, 224, 224, 3])
compiled = core.compile_model(model, "CPU")
pixels = np.asarray(Image.open(image).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR))
features = compiled(pixels[None])[0]
arrays = np.load(head)
logits = features @ arrays["weights_0"] + arrays["weights_1"]
if logits.shape[1] == 1:
    logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
shares = np.exp(logits - logits.max())
shares /= shares.sum()
print(image, shares.argmax(), shares.max())
"""


def measure(command):
    """Run a command; return its processor time and the time that passed, in seconds."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    passed, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, passed


def main():
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("image")
    parser.add_argument("network")
    parser.add_argument("--before", nargs=2, help="the command of an older featx, and a bundle that it made")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    head = str(options.bundle / "head.npz")
    ways = {
        "script": [sys.executable, "-c", SCRIPT, options.network, head, options.image],
        "featx": [sys.executable, "-m", "featx", "predict", str(options.bundle), options.image],
    }
    if options.before:
        ways["before"] = [options.before[0], "predict", options.before[1], options.image]
    show("machine", processor=read_processor(), rounds=options.rounds)
    times = {name: [] for name in ways}
    for command in ways.values():  # once before, so that files are in memory and the golden pictures are noted
        measure(command)
    for _ in range(options.rounds):
        for name, command in ways.items():
            times[name].append(measure(command))
    medians = {
        name: [statistics.median(values) for values in zip(*pairs, strict=True)] for name, pairs in times.items()
    }
    for name, (processor, passed) in medians.items():
        show(name, processor_seconds=processor, seconds=passed)
    show("featx over script", ratio=medians["featx"][0] / medians["script"][0], at_most=TO_SCRIPT)
    if options.before:
        show("before over featx", ratio=medians["before"][0] / medians["featx"][0], at_least=TO_BEFORE)


if __name__ == "__main__":
    main()
