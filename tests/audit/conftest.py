import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from runs import age

import featx


def paint(seed, side=96):
    """Make a photograph-like picture: smooth colours, so that saving it again changes little."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    age(path)


@pytest.fixture(scope="session")
def flawed(tmp_path_factory):
    """Pictures of two classes, dark and light, with one flaw of each kind."""
    folder = tmp_path_factory.mktemp("flawed")
    for number in range(40):
        kind, picture = ("light", 1.2) if number % 2 else ("dark", 0.5)
        save(ImageEnhance.Brightness(paint(number)).enhance(picture), folder / kind / f"{number:02}.png")
    first = Image.open(io.BytesIO((folder / "dark" / "00.png").read_bytes())).convert("RGB")
    copies = {
        "saved": first,
        "small": first.resize((60, 60)),
        "cropped": first.crop((2, 2, 94, 94)),
        "brighter": ImageEnhance.Brightness(first).enhance(1.2),
        "mirrored": ImageOps.mirror(first),
    }
    for name, image in copies.items():
        save(image, folder / "dark" / f"{name}.jpg", quality=80)
    save(Image.open(io.BytesIO((folder / "light" / "01.png").read_bytes())), folder / "light" / "same.png")
    save(ImageEnhance.Brightness(paint(100)).enhance(1.2), folder / "dark" / "wrong.png")
    save(Image.new("RGB", (96, 96), (30, 30, 30)), folder / "dark" / "blank.png")
    save(ImageEnhance.Brightness(paint(101)).enhance(0.5).resize((20, 20)), folder / "dark" / "tiny.png")
    save(ImageEnhance.Brightness(paint(102)).enhance(1.2).resize((600, 60)), folder / "light" / "long.png")
    return folder


@pytest.fixture(scope="session")
def flawed_store(flawed, tmp_path_factory):
    return featx.embed(flawed, "colour", folder=tmp_path_factory.mktemp("features")).store
