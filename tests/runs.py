"""Small pictures, backbones to look into, and what a run made of them."""

import os
import time

import numpy as np
from PIL import Image

from featx import embed_layers, load_backbone
from featx.backbones import LayerInfo, Output
from featx.backbones.protocol import check_images

SIDE = 8
AN_HOUR_AGO = time.time() - 3600


def draw(path, seed):
    """Write a picture of noise, and make it as old as photographs are when they are embedded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    age(path)


def age(path, seconds=AN_HOUR_AGO):
    os.utime(path, (seconds, seconds))


def make_folder(path):
    path.mkdir(parents=True)
    return path


class Counter:
    """A backbone that counts the images that it embeds, and the two golden pictures of a run with new ones."""

    def __init__(self, network, *, stop_at=None):
        self._network = network
        self._stop_at = stop_at
        self.batches = []

    def __getattr__(self, name):
        return getattr(self._network, name)

    def embed(self, images):
        self.batches.append(len(images))
        if len(self.batches) == self._stop_at:
            raise KeyboardInterrupt
        return self._network.embed(images)

    @property
    def images(self):
        """Of the last run; the two golden pictures come first."""
        return sum(self.batches)


def load_counter(**options):
    return Counter(load_backbone("colour", image_size=(SIDE, SIDE)), **options)


class Patches:
    """Two cuts of a tiny network: the pixels, and their means; a third and fourth for odd cases."""

    uri = "patches"
    weights = "computed"
    weights_digest = "1" * 64
    source_file = ""
    layers = (LayerInfo(0, "patches", "patches", (3,), 0, 12, 12),)
    height = width = SIDE

    def __init__(self, *names, scale=1.0):
        shapes = {"pixels": (SIDE, SIDE, 3), "means": (3,), "huge": (3,), "ratios": (3,)}
        self.outputs = tuple(Output(name, "none", int(np.prod(shapes[name])), shapes[name]) for name in names)
        self.scale = np.float32(scale)
        self.calls = 0

    def embed(self, images):
        check_images(images, SIDE, SIDE)
        self.calls += 1
        pixels = images.astype(np.float32) * self.scale
        means = pixels.mean(axis=(1, 2))
        with np.errstate(divide="ignore", invalid="ignore"):
            found = {
                "pixels": pixels.reshape(len(images), 3 * SIDE**2),
                "means": means,
                "huge": means * 600,
                "ratios": means / np.where(means > 100, means, 0),
            }
        return tuple(found[output.layer] for output in self.outputs)


def run(source, folder, backbone=None, **options):
    (result,) = embed_layers(source, backbone or load_counter(), folder=folder, **options)
    return result


def count(result):
    return result.new, result.cached, result.quarantined


def identify(store):
    """Tell a file that was written again from one that was only touched."""
    return store.path.stat().st_ino, store.path.read_bytes()


def read_rows(store):
    """By id, the row as bytes."""
    return {name: row.tobytes() for name, row in zip(store.ids.tolist(), store.features, strict=True)}


def list_names(folder):
    return sorted(path.name for path in folder.iterdir())
