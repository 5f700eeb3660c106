"""Real pictures for tests, from what scikit-learn ships."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def write_digits(folder, *, per_class, classes=10, skip=0):
    """Write scanned digits as PNG files in class folders; real pictures that scikit-learn ships."""
    digits = load_digits(n_class=classes)
    for target in range(classes):
        for number in np.flatnonzero(digits.target == target)[skip : skip + per_class]:
            path = folder / str(target) / f"digit-{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((digits.images[number] * 255 / 16).round().astype(np.uint8)).save(path)
    return folder
