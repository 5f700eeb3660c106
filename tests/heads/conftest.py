import numpy as np
import pytest
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True)
def _one_thread():
    """Threads that wait for each other on a busy machine take ten times as long for data this small."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def digits():
    """600 scanned digits: raw pixels float32 (600, 64), targets, and the fold of each item."""
    pixels, targets = load_digits(return_X_y=True)
    chosen = np.random.default_rng(0).permutation(len(targets))[:600]  # they are in order of writer and digit
    return pixels[chosen].astype(np.float32), targets[chosen], np.arange(600) % 3


def make_wide(n_items=240, dim=500, n_classes=4, seed=0):
    """Fewer items than features, as flattened feature maps give: low-rank classes, noise, a ReLU."""
    random = np.random.default_rng(seed)
    y = np.arange(n_items) % n_classes
    centres = random.standard_normal((n_classes, 20)) @ random.standard_normal((20, dim))
    X = np.maximum(0.3 * centres[y] + 1.5 * random.standard_normal((n_items, dim)) - 0.5, 0)
    return X.astype(np.float32), y


@pytest.fixture(scope="session")
def wide():
    """Features float32 (240, 500), targets of four classes, and the fold of each item."""
    X, y = make_wide()
    return X, y, np.arange(len(y)) // 4 % 3
