"""Scalings of features before a classifier sees them."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.preprocessing import Normalizer, StandardScaler

from featx.heads.rows import FeatureRows, divide_parts
from featx.registry import make_unknown_name_error
from featx.specs import SCALINGS

Floats = NDArray[np.float32]

#: A variance below this part of the squared distance that it was computed from is rounding error.
_ROUNDING = 1e-12
#: Relative to the squared mean of a feature, float32 cannot resolve a smaller variance.
_FLAT = 1e-13


def make_scaler(name: str, *, copy: bool = True) -> Any:  # noqa: ANN401 - "passthrough" or a scikit-learn transformer
    """Make the first step of a head's pipeline; float32 features stay float32.

    Args:
        name: `none`, `standard` (each feature to mean 0 and variance 1) or `l2`
            (each item to length 1).
        copy: Whether features are copied, or scaled in place.

    Returns:
        `"passthrough"`, a StandardScaler or a Normalizer.

    Raises:
        UnknownNameError: If there is no such scaling.
    """
    check_scaling(name)
    if name == "none":
        return "passthrough"
    return StandardScaler(copy=copy) if name == "standard" else Normalizer(copy=copy)


class PartDivider(TransformerMixin, BaseEstimator):
    """The step before the scaling `l2` for features of several networks: it divides each part by its own length.

    Args:
        widths: Columns of each part.
    """

    def __init__(self, widths: tuple[int, ...] = ()) -> None:
        self.widths = widths

    def fit(self, X: ArrayLike | FeatureRows, y: ArrayLike | None = None) -> Self:  # noqa: ARG002 - scikit-learn's signature
        """Return the step itself: it has nothing to fit."""
        return self

    def transform(self, X: ArrayLike | FeatureRows) -> Floats | FeatureRows:
        """Divide the parts of all rows; those of a store are divided when they are read."""
        if isinstance(X, FeatureRows):
            return X.scale_parts("l2")
        return divide_parts(np.asarray(X, np.float32), tuple(self.widths))

    def check_state(self) -> None:
        """Check widths that come from a file.

        Raises:
            ValueError: If fitting cannot have left them.
        """
        if not isinstance(self.widths, tuple | list) or any(type(n) is not int or n < 1 for n in self.widths):
            msg = "parts of features without columns"
            raise ValueError(msg)

    def __sklearn_is_fitted__(self) -> bool:
        return True


def check_scaling(name: str) -> None:
    """Refuse a scaling that does not exist.

    Raises:
        UnknownNameError: The known ones are listed.
    """
    if name not in SCALINGS:
        kind = "scaling"
        raise make_unknown_name_error(kind, name, SCALINGS)


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and variance of each feature, for one or several parts of the items.

    Attributes:
        counts: float64 (n_parts,), items, or the sum of their weights.
        means: float64 (n_parts, dim).
        variances: float64 (n_parts, dim), divided by the count.
    """

    counts: NDArray[np.float64]
    means: NDArray[np.float64]
    variances: NDArray[np.float64]

    @classmethod
    def measure(cls, X: FeatureRows, weights: NDArray[Any], lengths: Floats | None = None) -> "Moments":
        """Measure them in one pass.

        Args:
            X: (n_items, dim).
            weights: (n_items, n_parts), the weight of each item in each part.
            lengths: float32 (n_items,), what items are divided by first; None for no division.
        """
        weights = weights.astype(np.float64)
        counts = np.maximum(weights.sum(axis=0), np.finfo(np.float64).tiny)
        shift = np.zeros(X.shape[1], np.float32)
        sums = np.zeros((weights.shape[1], X.shape[1]))
        squares = np.zeros_like(sums)
        for rows, block in X.iterate_blocks():
            scaled = block if lengths is None else block / lengths[rows, None]
            shift = shift if rows.start else scaled.mean(axis=0)
            # Summed in float64: a feature that is constant in a part, but not in others, must have variance 0 there.
            near = (scaled - shift).astype(np.float64)
            sums += weights[rows].T @ near
            squares += weights[rows].T @ np.square(near, out=near)
        return find_moments(counts, sums, squares, shift)


def find_moments(
    counts: NDArray[np.float64], sums: NDArray[np.float64], squares: NDArray[np.float64], shift: Floats
) -> Moments:
    """Return the moments of items of which the sums about a shift are known, (n_parts, dim)."""
    offsets = sums / counts[:, None]
    variances = squares / counts[:, None] - offsets**2
    variances[variances <= _ROUNDING * offsets**2] = 0
    return Moments(counts, offsets + shift, variances)


@dataclass(frozen=True, slots=True)
class Frame:
    """A scaling as numbers, so that a linear head can use unscaled features.

    A scaled item is (x / its length - shift) / scale, where only `l2` divides by the length.

    Attributes:
        shift: float32 (dim,).
        scale: float32 (dim,), above 0.
    """

    shift: Floats
    scale: Floats

    @classmethod
    def make(cls, scaling: str, moments: Moments, part: int = 0) -> Self:
        """Make the frame of one part of the items, as StandardScaler would: a constant feature has the scale 1.

        Args:
            scaling: One of `SCALINGS`; for `none` and `l2` the shift is 0 and the scale 1.
            moments: Of the training items.
            part: Which part of them.
        """
        mean, variance = moments.means[part], moments.variances[part]
        if scaling != "standard":
            return cls(np.zeros(len(mean), np.float32), np.ones(len(mean), np.float32))
        flat = variance <= _FLAT * mean**2
        return cls(mean.astype(np.float32), np.where(flat, 1, np.sqrt(variance)).astype(np.float32))


def measure_lengths(X: FeatureRows, scaling: str) -> Floats | None:
    """Measure the length of each item, float32 (n_items,), for `l2`; None for other scalings. 0 counts as 1."""
    if scaling != "l2":
        return None
    if X.lengths is None:  # kept for the next call: 4 bytes of each item
        X.lengths = np.empty(len(X), np.float32)
        for rows, block in X.iterate_blocks():
            X.lengths[rows] = np.sqrt(np.einsum("ij,ij->i", block, block))
        X.lengths[X.lengths == 0] = 1
    return X.lengths


def shift_block(rows: slice | NDArray[np.intp], block: Floats, shift: Floats, lengths: Floats | None) -> Floats:
    """Divide a block of items by their lengths, if there are any, and subtract a shift, in new memory."""
    shifted: Floats = (block if lengths is None else block / lengths[rows, None]) - shift
    return shifted


def measure_spread(features: FeatureRows, scaling: str) -> float:
    """Measure the mean squared distance of the scaled items to their mean.

    Args:
        features: (n_items, dim), not yet scaled.
        scaling: One of `SCALINGS`.

    Returns:
        The sum over the features of their variance; above 0 unless all items are zero.
    """
    moments = Moments.measure(features, np.ones((len(features), 1)), measure_lengths(features, scaling))
    variances, means = moments.variances[0], moments.means[0]
    if scaling == "standard":
        return max(1.0, float(np.count_nonzero(variances > _FLAT * means**2)))
    return max(float(variances.sum()), 1e-6 * float(means @ means + variances.sum()))
