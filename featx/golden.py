"""Golden pictures: a check that a later software stack computes the same numbers as the first one.

They are synthetic, so a bundle carries nobody's pictures, and kept as encoded files,
so the check covers the decoder as well as the network.
"""

import functools
import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: A larger relative difference of features means another stack: reordered float32 sums
#: stay below 1e-5 here, another resize or scaling is above 1e-2.
MAX_DRIFT = 1e-3

_SIZES = ((320, 240), (96, 128))
_SEED = 20130


@dataclass(frozen=True)
class Golden:
    """Synthetic pictures and the features that the backbone computed for them.

    Attributes:
        files: The encoded pictures.
        features: float32 `(n_files, dim)`.
    """

    files: tuple[bytes, ...]
    features: NDArray[np.float32]


class PromisedGolden(Golden):
    """Golden pictures whose features are computed when they are first needed.

    Args:
        files: The encoded pictures.
        compute: Returns their features.
    """

    def __init__(self, files: tuple[bytes, ...], compute: Callable[[], NDArray[np.float32]]) -> None:
        object.__setattr__(self, "files", files)
        object.__setattr__(self, "_compute", compute)

    @functools.cached_property
    def features(self) -> NDArray[np.float32]:
        """float32 `(n_files, dim)`."""
        features: NDArray[np.float32] = self._compute()  # type: ignore[attr-defined]
        return features


def make_golden_files() -> tuple[bytes, ...]:
    """Make the encoded pictures: smooth random colours, one JPEG and one PNG."""
    files = []
    for (width, height), kind in zip(_SIZES, ("JPEG", "PNG"), strict=True):
        coarse = np.random.default_rng(_SEED).integers(0, 256, (6, 8, 3)).astype(np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        files.append(buffer.getvalue())
    return tuple(files)


def measure_drift(expected: Golden, found: Golden) -> float:
    """Return the largest difference of features over their largest value; infinite if the shapes differ."""
    if expected.features.shape != found.features.shape:
        return math.inf
    scale = float(np.abs(expected.features).max(initial=0)) or 1.0
    return float(np.abs(expected.features - found.features).max(initial=0)) / scale
