"""Pictures for the benchmarks, cut from the two photographs that scikit-learn ships.

Each is cut at another place and scale, so that no two have the same bytes.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

SMALL = (500, 375)
LARGE = (4000, 3000)

#: The noise on large pictures: without it, an enlarged photograph has a third of the bytes of one from a camera.
_NOISE = 4.0


def draw_photographs(folder, count, size=SMALL, *, classes=1):
    """Write the JPEGs that do not exist yet into class folders.

    Args:
        folder: Where they are written.
        count: How many.
        size: Width and height in px.
        classes: Folders they are spread over.
    """
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for number in range(count):
        path = Path(folder) / f"class {number % classes}" / f"{number:06d}.jpg"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        cut_photograph(photographs[number % 2], number, size).save(buffer, "JPEG", quality=90)
        path.write_bytes(buffer.getvalue())


def cut_photograph(photograph, number, size):
    """Cut one picture at random, seeded by its number."""
    generator = np.random.default_rng(number)
    width = int(generator.integers(SMALL[0] // 2, SMALL[0]))
    height = width * size[1] // size[0]
    left = int(generator.integers(photograph.width - width + 1))
    top = int(generator.integers(photograph.height - height + 1))
    cut = photograph.resize(size, box=(left, top, left + width, top + height))
    if size == SMALL:
        return cut
    noise = generator.normal(0, _NOISE, (size[1], size[0], 1)).astype(np.float32)
    return Image.fromarray(np.clip(np.asarray(cut) + noise, 0, 255).astype(np.uint8))


def copy_photographs(source, folder, count):
    """Write many pictures by giving a few of them a comment each, so that their bytes differ."""
    files = [path.read_bytes() for path in sorted(Path(source).rglob("*.jpg"))]
    for number in range(count):
        path = Path(folder) / f"class {number % 10}" / f"{number:06d}.jpg"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            comment = f"{number:08d}".encode()
            data = files[number % len(files)]
            # A comment segment (ITU T.81, B.2.4.5) right after the start of the image.
            path.write_bytes(data[:2] + b"\xff\xfe" + (2 + len(comment)).to_bytes(2, "big") + comment + data[2:])
