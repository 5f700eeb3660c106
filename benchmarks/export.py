"""Question: does an exported model answer as its bundle does, and what does it cost to start and to run?

    python benchmarks/export.py --data DIGITS --data ANTS_BEES [--backbones NAMES] [--heads NAMES] [--rounds 3]

Bundles of each head on each backbone and source, one with each calibration, and one fine-tuned network are exported
to each format, and answer the same 128 pictures as featx by the runtime of the format, in a process without featx. A
`parity` line has the largest difference of a probability, the labels that changed, and the size of the model.

Speed depends on network and format, not on the head, so it is measured once for each of these, in alternating rounds:
`start_seconds` from the start of a process to its end with one picture, and the images per second of 127 further
pictures of the network's size, in batches of 8; the app reads pictures one by one from files. Medians of the rounds,
of the time that passed and of processor time (user and system, all cores), which other programs disturb less.

A label that changes, or a difference above 1e-4 (1e-3 for LiteRT), would change our mind about a format. So would
TensorFlow in the process of one that is said not to need it, which is an error here. JSON lines.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from reporting import read_processor, show

import featx
from featx.exporting import inference
from featx.exporting.exporting import FORMATS, export_bundle
from featx.options import FineTuneOptions, FitOptions
from featx.specs import FineTuneSpec

HEADS = "logreg,ridge,linear-svm,lda,centroid,keras"
CALIBRATIONS = ("temperature", "sigmoid", "isotonic")
TRAINED = FineTuneSpec(unfreeze="last:6", epochs=2)
PICTURES, PIXELS = 128, (224, 224, 3)
NEEDS_TENSORFLOW = ("keras", "savedmodel")
ENVIRONMENT = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}


def main():
    """Print a line for each bundle and format, and one for the speed of each network and format."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", action="append", type=Path, required=True, help="a folder of pictures; repeatable")
    parser.add_argument("--backbones", default="mobilenet?alpha=0.75,mobilenetv2")
    parser.add_argument("--heads", default=HEADS)
    parser.add_argument("--calibrations", default=",".join(CALIBRATIONS))
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--no-finetune", action="store_true")
    parser.add_argument("--rounds", type=int, default=3, help="of the speed; 0 for none")
    options = parser.parse_args()
    formats = options.formats.split(",")
    show("machine", processor=read_processor(), cores=os.cpu_count())
    with tempfile.TemporaryDirectory() as name:
        for backbone in options.backbones.split(","):
            made = {}
            for data in options.data:
                for bundle, title in make_bundles(data, backbone, options, Path(name)):
                    for to in formats:
                        made[to] = export(bundle, title, to, Path(name) / "exports" / f"{bundle.name}-{to}")
            measure_speed(backbone, made, options.data[0], options.rounds, Path(name))


def make_bundles(data, backbone, options, folder):
    """Make the bundles of a backbone on a source, and yield each with its name in the lines."""
    about = {"data": data.name, "backbone": backbone}
    stem = f"{data.name}-{backbone.partition('?')[0]}"
    store = featx.embed(data, backbone, folder=folder / "features", name=stem).store
    heads = [(head, "none") for head in options.heads.split(",") if head]
    heads += [("ridge", method) for method in options.calibrations.split(",") if method]
    for head, calibration in heads:
        run = FitOptions(folder=folder / "runs", name=f"{stem}-{head}-{calibration}")
        calibrated = None if head == "keras" else calibration
        yield (
            featx.fit(store, head, calibration=calibrated, options=run).bundle,
            {
                **about,
                "head": head,
                "calibration": calibration,
            },
        )
    if not options.no_finetune:
        run = FineTuneOptions(folder=folder / "runs", name=f"{stem}-tuned", features=folder / "features")
        yield featx.finetune(data, backbone, spec=TRAINED, options=run).bundle, {**about, "head": "fine-tuned"}


def export(bundle, title, to, folder):
    """Export a bundle, and print how it compares."""
    made = export_bundle(bundle, to, folder)
    pixels, whole = made.parity.pixels, made.parity.whole
    show(
        "parity",
        **title,
        to=to,
        pictures=pixels.images,
        largest_difference=pixels.largest_difference,
        changed_labels=len(pixels.changed),
        resized_difference=whole.largest_difference if whole else None,
        resized_changed_labels=len(whole.changed) if whole else None,
        file_bytes=made.file_bytes,
    )
    return made.model


def measure_speed(backbone, models, data, rounds, folder):
    """Start each model alternately, with one picture and with many, and print the medians."""
    pixels = np.random.default_rng(0).integers(0, 256, (PICTURES, *PIXELS), np.uint8)
    np.save(folder / "one.npy", pixels[:1])
    np.save(folder / "many.npy", pixels)
    files = sorted(path for path in data.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg"})[:PICTURES]
    found = {to: [] for to in models}
    for _ in range(rounds):
        for to, model in models.items():
            one, many = (run_app if to == "app" else run_model)(to, model, files, folder)
            rates = [(PICTURES - 1) / (all_of - first) for first, all_of in zip(one, many, strict=True)]
            found[to].append((*one, *rates))
    names = ("start_seconds", "start_processor_seconds", "images_per_second", "images_per_processor_second")
    for to in models if rounds else ():
        medians = map(statistics.median, zip(*found[to], strict=True))
        show("speed", backbone=backbone, to=to, **dict(zip(names, medians, strict=True)), rounds=rounds)


def run_model(to, model, _, folder):
    """Return the times of a process that answers one picture, and of one that answers many."""
    result = folder / "result.npz"
    one = run([inference.__file__, to, str(model), str(folder / "one.npy"), str(result)])
    many = run([inference.__file__, to, str(model), str(folder / "many.npy"), str(result)])
    with np.load(result) as found:
        forbidden = {"featx", *(() if to in NEEDS_TENSORFLOW else ("tensorflow",))}
        if wrong := forbidden & set(found["imported"].tolist()):
            sys.exit(f"the process of {to} imported {', '.join(sorted(wrong))}")
    return one, many


def run_app(_, model, files, __):
    """Return the same of an app, whose script reads the pictures itself."""
    script = str(model.parent / "predict.py")
    return run([script, str(files[0])]), run([script, *map(str, files)])


def run(arguments):
    """Run a script in a process of its own, and return its seconds and its processor seconds."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-P", *arguments], env=ENVIRONMENT, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, used


if __name__ == "__main__":
    main()
