"""Compare the speed of fine-tuning with `Model.fit`, and its accuracy with frozen features.

    python benchmarks/finetune.py speed [--data DIR] [--images 512] [--epochs 10] [--rounds 3] [--cases mobilenet,...]
    python benchmarks/finetune.py worth --data DIR --backbone mobilenet?alpha=0.75 --plans last:23,all [--epochs 20]

*speed*: seconds from image files to a network that was trained for some epochs and has predicted its test items. The
ways alternate; ratios are of medians over the rounds:

- `fit`: a network of `keras.applications`, its last layers unfrozen, pooling and a dense layer, by `Model.fit` on a
  `tf.data` pipeline that decodes ahead, as a careful tutorial would write it. It starts from the same head as
  featx, gets the same images in the same order, and calls the backbone by a layer of its own that holds
  batch normalisation in inference mode (in Keras 3.15, `backbone(images, training=False)` inside a functional
  model does not, under `fit`);
- `cached`: `featx.finetune` from scratch: features of the frozen part embedded, head fitted, trained, tested, bundle
  written; only its converted network is in the cache, from a run before;
- `whole`: the same with `cache="no"`.

The curves of validation losses of all three are compared, with --exact on pixels that both decoders see alike. Without
--data, the images are photographs with meaningless classes; with it, they come from a folder of class folders.

*worth*: `featx.compare` with a frozen head and fine-tuned runs, on one split.

We would change the design if `cached` were below twice the speed of `fit` for a fifth of a network, or `whole`
below 0.95. Each line is JSON; the table of *worth* is Markdown.
"""

import argparse
import csv
import itertools
import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from photographs import draw_photographs
from PIL import Image
from reporting import read_processor, show

#: Backbone, plan, class and module in keras.applications, its arguments, side in px, and the target ratios.
CASES = {
    "mobilenet": ("mobilenet", "last:21", "MobileNet", "mobilenet", {}, 224, 2.0),
    "mobilenet-23": ("mobilenet", "last:23", "MobileNet", "mobilenet", {}, 224, None),
    "mobilenet-0.75": ("mobilenet?alpha=0.75", "last:21", "MobileNet", "mobilenet", {"alpha": 0.75}, 224, 2.0),
    "inceptionv3": ("inceptionv3", "last:15", "InceptionV3", "inception_v3", {}, 299, 8.0),
}
WHOLE_GOAL = 0.95
BATCH = 32
RATE = 1e-4


def main():
    """Run the requested part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["speed", "worth"])
    parser.add_argument("--data", help="folder of class folders")
    parser.add_argument("--exact", action="store_true", help="pixels that no decoder or resize sees differently")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", default="mobilenet,inceptionv3")
    parser.add_argument("--ways", default="fit,cached,whole")
    parser.add_argument("--weights", default="none")
    parser.add_argument("--backbone", default="mobilenet?alpha=0.75")
    parser.add_argument("--plans", default="blocks:1,all")
    parser.add_argument("--clf", default="logreg")
    parser.add_argument("--augment", default="")
    options = parser.parse_args()
    packages = ("featx", "tensorflow", "keras", "openvino", "numpy")
    machine = {"cores": len(os.sched_getaffinity(0)), "processor": read_processor(), "system": platform.platform()}
    show("machine", **machine, **{package: version(package) for package in packages})
    with tempfile.TemporaryDirectory(prefix="featx-benchmark-") as folder:
        {"speed": measure_speed, "worth": measure_worth}[options.part](Path(folder), options)


def measure_speed(folder, options):
    """Measure the ways, one after the other in each round."""
    for name in options.cases.split(","):
        source = folder / f"images of {name}"
        if options.data:
            copy_some(Path(options.data), source, options.images, CASES[name][5] if options.exact else 0)
        else:
            draw_photographs(source, options.images, classes=2)
        case = Case(name, source, folder / name, options)
        case.run("cached")  # the others start from its items of each role, and its first head
        seconds, curves = {way: [] for way in options.ways.split(",")}, {}
        epochs, processor = {way: [] for way in seconds}, {way: [] for way in seconds}
        for number, way in itertools.product(range(options.rounds), list(seconds)):
            began = time.process_time()
            took, alone, curves[way] = case.run(way)
            processor[way].append(time.process_time() - began)
            seconds[way].append(took)
            epochs[way].append(alone)
            curve = [round(value, 4) for value in curves[way]]
            used = processor[way][-1]
            taken = {"seconds": took, "processor_seconds": used, "epoch_seconds": alone}
            show("round", case=name, round=number, way=way, **taken, curve=curve)
        medians = {way: statistics.median(values) for way, values in seconds.items()}
        ratios = {f"{way}_ratio": medians.get("fit", np.nan) / taken for way, taken in medians.items() if way != "fit"}
        alone = {way: statistics.median(values) for way, values in epochs.items()}
        ratios |= {
            f"{way}_epochs_ratio": alone.get("fit", np.nan) / taken for way, taken in alone.items() if way != "fit"
        }
        used = {way: statistics.median(values) for way, values in processor.items()}
        ratios |= {
            f"{way}_processor_ratio": used.get("fit", np.nan) / taken for way, taken in used.items() if way != "fit"
        }
        goals = {"cached_goal": CASES[name][-1], "whole_goal": WHOLE_GOAL}
        apart = {
            f"{way}_curve": float(np.max(np.abs(np.subtract(curve, curves["cached"])) / np.abs(curves["cached"])))
            for way, curve in curves.items()
            if "cached" in curves
        }
        show("speed", case=name, items=case.n_items, epochs=options.epochs, **medians, **ratios, **goals, **apart)


def copy_some(data, folder, count, side):
    """Copy the first images of each class, as links, or, with a side in px, as PNG that need no resizing."""
    classes = sorted(path for path in data.iterdir() if path.is_dir())
    for path in classes:
        (folder / path.name).mkdir(parents=True)
        files = [file for file in sorted(path.iterdir()) if file.stat().st_size < 2**20]
        for file in files[: count // len(classes)]:
            target = folder / path.name / file.name
            if side:
                Image.open(file).convert("RGB").resize((side, side)).save(target.with_suffix(".png"))
            else:
                target.symlink_to(file.resolve())
    return folder


class Case:
    """One network, trained in every way."""

    def __init__(self, name, source, folder, options):
        self.uri, self.plan, self.attribute, self.module, self.arguments, self.side, _ = CASES[name]
        self.source, self.folder, self.options = source, folder, options
        self.number, self.head, self.roles = 0, None, {}
        if options.weights == "none":  # those that featx gives it, so that the curves can be compared
            import featx

            self.random_weights = featx.load_backbone(self.uri, weights="none").parts.trunk.get_weights()

    @property
    def n_items(self):
        """The training items."""
        return len(self.roles["trained"])

    def run(self, way):
        """Train in one way; return the seconds, the seconds of the epochs alone, and the validation losses."""
        self.number += 1
        return self.fit() if way == "fit" else self.finetune(way, self.folder / str(self.number))

    def finetune(self, way, folder):
        """Train by featx, from scratch."""
        import featx
        from featx.finetuning import finetuning

        original = finetuning.fit_first_head

        def keep_head(*arguments):
            found = original(*arguments)
            self.head = found.network
            self.first_weights = [part.copy() for part in self.head.weights_]
            return found

        spec = featx.FineTuneSpec(
            head=featx.HeadSpec("logreg", {}, "standard"),
            unfreeze=self.plan,
            epochs=self.options.epochs,
            patience=1000,
            schedule="constant",
            learning_rate=RATE,
            head_learning_rate=RATE,
            batch_size=BATCH,
        )
        where = {"features": folder / "features", "folder": folder / "runs", "cache": "no" if way == "whole" else "yes"}
        finetuning.fit_first_head = keep_head
        started = time.perf_counter()
        run = featx.finetune(
            self.source, self.uri, spec=spec, weights=self.options.weights, options=featx.FineTuneOptions(**where)
        )
        seconds = time.perf_counter() - started
        finetuning.fit_first_head = original
        with (run.bundle / "items.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        self.roles = {
            role: [row["id"] for row in rows if row["role"] == role] for role in ("trained", "validated", "tested")
        }
        self.classes = featx.Bundle.open(run.bundle).classes
        with (run.bundle / "curves.csv").open(newline="") as file:
            losses = [float(row["val_loss"]) for row in csv.DictReader(file)][1:]
        return seconds, run.finetuned.train_seconds, losses

    def fit(self):
        """Train by `Model.fit`."""
        import keras

        started = time.perf_counter()
        model = self.build(keras)
        train = self.roles["trained"]
        # featx cuts each epoch into nearly equal batches of an order set by its seed and the epoch's number.
        steps = -(-len(train) // BATCH)
        batches = [
            [train[at] for at in part]
            for epoch in range(self.options.epochs)
            for part in np.array_split(np.random.default_rng([0, epoch + 1]).permutation(len(train)), steps)
        ]
        held = self.read(self.cut(self.roles["validated"]))
        begun = time.perf_counter()
        history = model.fit(
            self.read(batches), epochs=self.options.epochs, steps_per_epoch=steps, validation_data=held, verbose=0
        )
        alone = time.perf_counter() - begun
        model.predict(self.read(self.cut(self.roles["tested"])), verbose=0)
        return time.perf_counter() - started, alone, [float(value) for value in history.history["val_loss"]]

    @staticmethod
    def cut(names):
        """Cut names into batches."""
        return [names[start : start + BATCH] for start in range(0, len(names), BATCH)]

    def read(self, batches):
        """Read batches of images as a tutorial does, ahead of the network."""
        import keras
        import tensorflow as tf

        preprocess = getattr(keras.applications, self.module).preprocess_input

        def load(path):
            pixels = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
            pixels.set_shape((None, None, 3))
            pixels = tf.image.resize(tf.cast(pixels, tf.float32), (self.side, self.side), antialias=True)
            return preprocess(pixels)

        def load_batch(paths, targets):
            images = tf.map_fn(load, paths, fn_output_signature=tf.TensorSpec((self.side, self.side, 3), tf.float32))
            return images, targets

        files = tf.ragged.constant([[str(self.source / name) for name in names] for names in batches])
        targets = tf.ragged.constant([[self.classes.index(name.split("/")[0]) for name in names] for names in batches])
        found = tf.data.Dataset.from_tensor_slices((files, targets))
        return found.map(load_batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def build(self, keras):
        """Build the network with its last layers unfrozen, and the head that featx starts from."""

        class Backbone(keras.layers.Layer):
            """The backbone with its batch normalisation in inference mode, whatever `fit` passes."""

            def __init__(self, network):
                super().__init__()
                self.network = network

            def call(self, images):
                return self.network(images, training=False)

        if self.options.weights == "none":
            network = self.take_weights(keras)
        else:
            network = getattr(keras.applications, self.attribute)(
                include_top=False, input_shape=(self.side, self.side, 3), weights=self.options.weights, **self.arguments
            )
        last = int(self.plan.partition(":")[2])
        for number, layer in enumerate(network.layers):
            layer.trainable = number >= len(network.layers) - last
        inputs = keras.Input((self.side, self.side, 3))
        features = keras.layers.GlobalAveragePooling2D()(Backbone(network)(inputs))
        scaler = self.head.scaler_
        scaled = keras.layers.Normalization(mean=scaler.mean_.tolist(), variance=(scaler.scale_**2).tolist())(features)
        dense = keras.layers.Dense(len(self.first_weights[1]))
        model = keras.Model(inputs, dense(scaled))
        dense.set_weights(self.first_weights)
        binary = len(self.first_weights[1]) == 1
        losses = keras.losses
        loss = (
            losses.BinaryCrossentropy(from_logits=True)
            if binary
            else losses.SparseCategoricalCrossentropy(from_logits=True)
        )
        model.compile(keras.optimizers.Adam(RATE), loss)
        return model

    def take_weights(self, keras):
        """Build the network with the random weights that featx gives it."""
        network = getattr(keras.applications, self.attribute)(
            include_top=False, input_shape=(self.side, self.side, 3), weights=None, **self.arguments
        )
        network.set_weights(self.random_weights)
        return network


def measure_worth(folder, options):
    """Compare a frozen head with fine-tuned runs on one split."""
    import featx
    from featx.comparing.report import to_markdown

    embedding = featx.embed(options.data, options.backbone, folder=folder / "features")
    runs = []
    for plan in options.plans.split(","):
        spec = featx.FineTuneSpec(unfreeze=plan, epochs=options.epochs, augmentation=options.augment)
        where = featx.FineTuneOptions(features=folder / "features", folder=folder / "runs")
        run = featx.finetune(options.data, options.backbone, spec=spec, options=where)
        show("run", plan=plan, **{k: v for k, v in run.finetuned.to_dict().items() if k not in {"spec", "cut"}})
        runs.append(run)
    compared = featx.compare(
        embedding.store, options.clf, runs=runs, options=featx.CompareOptions(folder=folder / "runs")
    )
    print(to_markdown(compared))


if __name__ == "__main__":
    main()
