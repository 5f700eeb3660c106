"""Real pictures for networks, and how close two ways to embed them must be."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image


def make_photos(side):
    """Two real photos and, as the hardest case, noise; uint8 `(3, side, side, 3)`."""
    photos = [Image.fromarray(load_sample_image(name)).resize((side, side)) for name in ("china.jpg", "flower.jpg")]
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return np.stack([*map(np.asarray, photos), noise])


def check_rows(found, expected, tolerance=1e-4):
    """Check two matrices row by row, relative to the largest entry of a row."""
    assert found.shape == expected.shape
    assert (np.abs(found - expected).max(axis=1) <= tolerance * np.abs(expected).max(axis=1)).all()
