"""Measure how fast featx embeds a folder of photographs, and how far that is from the network alone.

    python benchmarks/embed.py [speed] [large] [start] [cached] [memory]
        [--images 512] [--rounds 5] [--networks mobilenetv2,...] [--torch-python torch-env/bin/python] [--folder DIR]

*speed*: from JPEG files of 500x375 px to an HDF5 file, networks built and warmed up before, random weights (they change
no time). The ways alternate; figures are images/s, and ratios of medians over the rounds:

- `script`: `image_dataset_from_directory`, `model.predict`, h5py;
- `tutorial`: `load_img` for each image, `predict` for each batch, h5py;
- `torch`: `benchmarks/torch_worker.py`, if an environment with PyTorch is named;
- `plain`: what `openvino.convert_model` makes of the Keras model, batches of 8 that are ready in memory, as
  OpenVINO's own tutorials do it;
- `bare`: the network as featx runs it, with batches that are ready in memory: the limit;
- `featx`: `featx.embed`.

*large*: `script` and `featx` with photographs of 12 megapixels. *start*: from the start of a process to a sealed
store of 32 images. *cached*: `featx embed` again over 100,000 unchanged files. *memory*: the peak for 1,000 and for
20,000 images.

Where `featx` is more than 15 % below `bare`, we look at the times of its stages for what could be
faster: the decoder, or Python. Where `bare` is below `plain`, we look for what the conversion has lost.
Each line is JSON.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from photographs import LARGE, copy_photographs, draw_photographs
from reporting import read_processor, show

#: Name, class and module in keras.applications, side in px; target ratios to script, torch, and the limit.
NETWORKS = {
    "mobilenetv2": ("MobileNetV2", "mobilenet_v2", 224, {"script": 4.2, "tutorial": 4.2, "torch": 3.0, "bare": 0.85}),
    "efficientnetb0": (
        "EfficientNetB0",
        "efficientnet",
        224,
        {"script": 3.3, "tutorial": 3.3, "torch": 2.8, "bare": 0.85},
    ),
    "resnet50": ("ResNet50", "resnet", 224, {"script": 1.55, "tutorial": 1.55, "torch": 1.7, "bare": 0.95}),
    "inceptionv3": ("InceptionV3", "inception_v3", 299, {"script": 1.35, "tutorial": 1.35, "bare": 0.95}),
}
PARTS = ("speed", "large", "start", "cached", "memory")
BATCH = 32
PLAIN_BATCH = 8
LARGE_GOAL = 5.0
MANY = 100_000


def main():
    """Run the requested parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"any of {', '.join(PARTS)}; all if none is named")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--large-images", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--memory-networks", default="mobilenetv2,inceptionv3")
    parser.add_argument("--torch-python", help="interpreter of an environment with torch and transformers")
    parser.add_argument("--folder", help="where pictures are kept for the next time")
    options = parser.parse_args()
    packages = ("featx", "tensorflow", "keras", "openvino", "numpy", "pillow", "h5py")
    machine = {"cores": len(os.sched_getaffinity(0)), "processor": read_processor(), "system": platform.platform()}
    show("machine", **machine, **{package: version(package) for package in packages})
    with contextlib.ExitStack() as stack:
        folder = options.folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="featx-benchmark-"))
        for part in options.parts or PARTS:
            MEASURES[part](Path(folder), options)


# The ways


class Keras:
    """The two scripts, with the network that they would build."""

    def __init__(self, name):
        import keras

        self.keras = keras
        attribute, module, self.side, _ = NETWORKS[name]
        self.model = getattr(keras.applications, attribute)(weights=None, include_top=False, pooling="avg")
        self.preprocess = getattr(keras.applications, module).preprocess_input

    def run_script(self, folder, target):
        """`image_dataset_from_directory` and one `predict`."""
        images = self.keras.utils.image_dataset_from_directory(
            folder, image_size=(self.side, self.side), batch_size=BATCH, shuffle=False, verbose=0
        )
        features = self.model.predict(images.map(lambda batch, _: self.preprocess(batch)), verbose=0)
        save(target, features)

    def run_tutorial(self, folder, target):
        """`load_img` and a `predict` for each batch."""
        utils = self.keras.utils
        paths = sorted(Path(folder).rglob("*.jpg"))
        rows = []
        for start in range(0, len(paths), BATCH):
            images = [
                utils.img_to_array(utils.load_img(path, target_size=(self.side, self.side)))
                for path in paths[start : start + BATCH]
            ]
            rows.append(self.model.predict(self.preprocess(np.stack(images)), verbose=0))
        save(target, np.concatenate(rows))


def save(target, features):
    """Write features as the scripts do."""
    import h5py

    with h5py.File(target / "features.h5", "w") as file:
        file["features"] = features


class Torch:
    """PyTorch in a process that waits while others are measured."""

    def __init__(self, python, name):
        worker = Path(__file__).with_name("torch_worker.py")
        self.process = subprocess.Popen(
            [python, str(worker), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        show("torch", versions=self.process.stdout.readline().split()[1:])

    def __call__(self, folder, _):
        """Embed a folder."""
        self.process.stdin.write(f"{folder}\n")
        self.process.stdin.flush()
        float(self.process.stdout.readline())


class Featx:
    """featx, and the limit that its runtime sets."""

    def __init__(self, name):
        import featx
        from featx.backbones.running import choose_runtime

        self.featx = featx
        self.network = featx.load_backbone(name, weights="none")
        self.runtime = choose_runtime(self.network, "auto")
        self.stages = []

    def run(self, folder, target):
        """Embed a folder."""
        (result,) = self.featx.embed(folder, self.network, folder=target)
        self.stages.append({stage: 1000 * seconds / result.new for stage, seconds in result.stage_seconds.items()})

    def run_bare(self, folder, _):
        """Embed the same number of images, ready in memory."""
        from featx.prefetching import prefetch

        size, parallel = self.runtime.batch_sizes[0], self.runtime.parallel
        images = draw_noise(size, self.network.height)
        batches = [images] * -(-count(folder) // size)
        for _features in prefetch(self.runtime.embed, batches, workers=parallel, ahead=2 * parallel):
            pass


class Plain:
    """OpenVINO without featx: the converted Keras model and an asynchronous queue."""

    def __init__(self, model, side):
        import openvino

        converted = openvino.convert_model(model)
        converted.reshape([PLAIN_BATCH, side, side, 3])
        settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
        self.queue = openvino.AsyncInferQueue(openvino.Core().compile_model(converted, "CPU", settings))
        self.images = draw_noise(PLAIN_BATCH, side).astype(np.float32)

    def __call__(self, folder, _):
        """Run the network on the same number of images, ready in memory."""
        for _number in range(-(-count(folder) // PLAIN_BATCH)):
            self.queue.start_async([self.images])
        self.queue.wait_all()


def draw_noise(size, side):
    """Draw a batch of noise."""
    return np.random.default_rng(0).integers(0, 256, (size, side, side, 3), dtype=np.uint8)


def count(folder):
    """Count the pictures of a folder."""
    return sum(1 for _ in Path(folder).rglob("*.jpg"))


# The parts


def alternate(ways, folder, rounds):
    """Time each way once per round; return the images/s of each round."""
    n_images = count(folder)
    rates = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            with tempfile.TemporaryDirectory() as target:
                started = time.perf_counter()
                way(folder, Path(target))
                rates[name].append(n_images / (time.perf_counter() - started))
    return rates


def measure_speed(folder, options):
    """Compare the ways for each network."""
    draw_photographs(folder / "small", options.images, classes=2)
    draw_photographs(folder / "few", 2 * BATCH, classes=2)
    for name in options.networks.split(","):
        keras, ours = Keras(name), Featx(name)
        ways = {"script": keras.run_script, "tutorial": keras.run_tutorial}
        if options.torch_python and name != "inceptionv3":  # which transformers does not have
            ways["torch"] = Torch(options.torch_python, name)
        ways |= {"plain": Plain(keras.model, keras.side), "bare": ours.run_bare, "featx": ours.run}
        alternate(ways, folder / "few", 1)
        ours.stages.clear()
        rates = alternate(ways, folder / "small", options.rounds)
        medians = {way: statistics.median(values) for way, values in rates.items()}
        for way, values in rates.items():
            show(
                "speed", network=name, way=way, images_per_second=medians[way], lowest=min(values), highest=max(values)
            )
        for way, goal in NETWORKS[name][3].items():
            if way in medians:
                show("ratio", network=name, featx_to=way, ratio=medians["featx"] / medians[way], goal=goal)
        stages = {stage: statistics.median(run[stage] for run in ours.stages) for stage in ours.stages[0]}
        show("stages", network=name, **{f"{stage} core-ms per image": value for stage, value in stages.items()})


def measure_large(folder, options):
    """Compare the first script and featx on large photographs."""
    draw_photographs(folder / "large", options.large_images, LARGE, classes=2)
    draw_photographs(folder / "few", 2 * BATCH, classes=2)
    keras, ours = Keras("mobilenetv2"), Featx("mobilenetv2")
    ways = {"script": keras.run_script, "featx": ours.run}
    alternate(ways, folder / "few", 1)
    medians = {
        way: statistics.median(values) for way, values in alternate(ways, folder / "large", options.rounds).items()
    }
    megabytes = sum(path.stat().st_size for path in (folder / "large").rglob("*.jpg")) / options.large_images / 1e6
    show("large", network="mobilenetv2", megabytes_each=megabytes, **medians)
    show(
        "ratio",
        network="mobilenetv2",
        images="12 megapixels",
        featx_to="script",
        ratio=medians["featx"] / medians["script"],
        goal=LARGE_GOAL,
    )


_START = """
import time
started = time.perf_counter()
import featx, featx.frameworks
from featx.backbones.running import choose_runtime
imported = time.perf_counter()
network = featx.load_backbone({name!r}, weights="none")
built = time.perf_counter()
choose_runtime(network, "auto")
converted = time.perf_counter()
featx.embed({source!r}, network, folder={target!r})
sealed = time.perf_counter()
print(imported - started, built - imported, converted - built, sealed - converted)
"""


def measure_start(folder, options):
    """Time a process that embeds 32 images, by its phases."""
    draw_photographs(folder / "32", BATCH, classes=2)
    for name in options.networks.split(","):
        phases = []
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as target:
                code = _START.format(name=name, source=str(folder / "32"), target=target)
                done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
            phases.append([float(value) for value in done.stdout.split()])
        names = ("import_seconds", "build_seconds", "convert_seconds", "embed_and_seal_seconds")
        show("start", network=name, **dict(zip(names, map(statistics.median, zip(*phases, strict=True)), strict=True)))


def measure_cached(folder, options):
    """Time `featx embed` over many unchanged files."""
    import io

    from PIL import Image

    for number in range(MANY):
        path = folder / "many" / f"class {number % 100:02d}" / f"{number:06d}.bmp"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.frombuffer(number.to_bytes(4, "little") * 12, np.uint8).reshape(4, 4, 3)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "BMP")
            path.write_bytes(buffer.getvalue())
            os.utime(path, (time.time() - 3600,) * 2)
    command = [sys.executable, "-m", "featx", "embed", str(folder / "many"), "--backbone", "mobilenetv2"]
    command += ["--weights", "none", "--image-size", "32", "--features", str(folder / "cached"), "--json"]
    seconds = []
    for number in range(options.rounds + 1):
        started = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        if number:  # the first embeds them
            seconds.append(time.perf_counter() - started)
    found = json.loads(done.stdout)
    show(
        "cached",
        items=found["items"],
        new=found["new"],
        cached=found["cached"],
        seconds=statistics.median(seconds),
        goal="below 10",
    )


_PEAK = """
import featx
from pathlib import Path
result = featx.embed({source!r}, featx.load_backbone({name!r}, weights="none"), folder={target!r})
(peak,) = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
print(peak, result.new)
"""


def measure_memory(folder, options):
    """Compare the peak memory of short and long runs."""
    draw_photographs(folder / "small", options.images, classes=2)
    for name in options.memory_networks.split(","):
        peaks = {}
        for n_images in (1000, 20_000):
            source = folder / f"{n_images}"
            copy_photographs(folder / "small", source, n_images)
            with tempfile.TemporaryDirectory(dir=folder) as target:
                code = _PEAK.format(name=name, source=str(source), target=target)
                done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
            kilobytes, new = map(int, done.stdout.split())
            peaks[n_images] = kilobytes / 2**20
            show("memory", network=name, images=new, peak_gibibytes=peaks[n_images])
        show("growth", network=name, ratio=peaks[20_000] / peaks[1000], goal="below 1.1, and 2.5 GiB")


MEASURES = {
    "speed": measure_speed,
    "large": measure_large,
    "start": measure_start,
    "cached": measure_cached,
    "memory": measure_memory,
}

if __name__ == "__main__":
    main()
