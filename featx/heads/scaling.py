"""Scalings: what is done to features before a classifier sees them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import Normalizer, StandardScaler

from featx.registry import make_unknown_name_error
from featx.specs import SCALINGS


def make_scaler(name: str, *, copy: bool = True) -> Any:  # noqa: ANN401 - "passthrough" or a scikit-learn transformer
    """Make the first step of a head's pipeline; float32 features stay float32.

    Args:
        name: `none`, `standard` (each feature to mean 0 and variance 1) or `l2`
            (each item to length 1).
        copy: Whether features are copied, or scaled where they are.

    Returns:
        `"passthrough"`, a StandardScaler or a Normalizer.

    Raises:
        UnknownNameError: If there is no such scaling.
    """
    if name not in SCALINGS:
        kind = "scaling"
        raise make_unknown_name_error(kind, name, SCALINGS)
    if name == "none":
        return "passthrough"
    return StandardScaler(copy=copy) if name == "standard" else Normalizer(copy=copy)


def measure_spread(features: NDArray[np.float32], scaling: str) -> float:
    """Measure the mean squared distance of the scaled items to their mean.

    E|x - m|^2 = E|x|^2 - |m|^2, so no scaled copy is made. Rounding spoils the
    difference when it is small beside E|x|^2; the result is never below 1e-6 of that.

    Args:
        features: float32 (n_items, dim), not yet scaled.
        scaling: One of `SCALINGS`.

    Returns:
        The sum over the features of their variance; above 0 unless all items are zero.
    """
    if scaling == "standard":
        return float(np.count_nonzero(np.ptp(features, axis=0)))
    squares = np.einsum("ij,ij->i", features, features)
    weights = np.ones_like(squares)
    if scaling == "l2":
        weights = 1 / np.sqrt(np.where(squares > 0, squares, 1))
    length = float(np.mean(squares * weights**2, dtype=np.float64))
    mean = weights @ features / np.float32(len(features))
    return max(length - float(mean @ mean), 1e-6 * length)
