"""Linear discriminant analysis with shrinkage; at shrinkage 1 it is the nearest class mean."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg
from scipy.linalg import blas

from featx.errors import DataError
from featx.heads.linear import BINARY, LinearHead, unfold
from featx.heads.rows import FeatureRows
from featx.heads.scaling import Floats, Frame, Moments, measure_lengths
from featx.heads.sums import ClassSums, add_sums, measure_sums

Doubles = NDArray[np.float64]


class ShrunkDiscriminant(LinearHead):
    """Linear discriminant analysis: the nearest class mean in a shrunk common covariance.

    The answer of `LinearDiscriminantAnalysis(solver="lsqr", shrinkage=...)`, from one pass
    over the features and one Cholesky factorisation instead of a singular value
    decomposition, without a copy of the features.

    With shrinkage 1 and uniform priors it predicts what `NearestCentroid` does. For
    its probabilities, that class divides distances by the spread within the classes, which
    is nearly 0 for a feature that is nearly always off: its log-loss was 3.8, that of these
    margins, calibrated, 0.4.

    Args:
        shrinkage: From near 0, the covariance as it is, to 1, a multiple of the identity.
        priors: `empirical`, the frequency of each class, or `uniform`.
        scaling: One of `featx.specs.SCALINGS`.
    """

    def __init__(self, shrinkage: float = 0.1, priors: str = "empirical", scaling: str = "none") -> None:
        self.shrinkage = shrinkage
        self.priors = priors
        self.scaling = scaling

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a state; the first version had no scaling, and two rows of coefficients for two classes."""
        if "scaling" not in state and "coef_" in state:
            coef, intercept = state["coef_"], state["intercept_"]
            if len(coef) == BINARY:
                coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
            state = state | {"coef_": coef, "intercept_": intercept}
        super().__setstate__({"scaling": "none"} | state)

    def fit(self, X: ArrayLike | FeatureRows, y: ArrayLike) -> Self:
        """Fit to features (n_items, dim) and targets (n_items,)."""
        rows, positions = self._read_classes(X, y)
        if len(rows) < rows.shape[1] and self.shrinkage < 1:
            lengths = measure_lengths(rows, self.scaling)
            solutions = solve_wide(rows, positions, lengths, self.scaling, [self.shrinkage], self.priors)
        else:
            sums = measure_sums(rows, positions, measure_lengths(rows, self.scaling), products=self.shrinkage < 1)
            solutions = Scatter(self.scaling, tuple(sums)).solve(None, [self.shrinkage], self.priors)
        coef, intercept = next(solutions)
        return self.set_coefficients(coef, intercept)


@dataclass(frozen=True, slots=True)
class Statistics:
    """The statistics that discriminants are computed from.

    Attributes:
        counts: float64 (n_classes,), items of each class, at least one.
        means: float64 (n_classes, columns).
        trace: Sum of the variances within the classes.
        covariance: float64 (columns, columns), of the items about their class's mean, the
            lower triangle only; None where it is not needed.
        dim: Width of the features before any rotation.
    """

    counts: Doubles
    means: Doubles
    trace: float
    covariance: Doubles | None
    dim: int


@dataclass(frozen=True, slots=True)
class Scatter:
    """Sums over the items of each class in each fold, and of products over each fold.

    Attributes:
        scaling: One of `SCALINGS`.
        parts: The sums of each fold; without products where they are not needed.
    """

    scaling: str
    parts: tuple[ClassSums, ...]

    def solve(self, fold: int | None, shrinkages: Iterable[float], priors: str) -> Iterator[tuple[Floats, Floats]]:
        """Solve for the discriminants of all folds but one, or of all.

        Args:
            fold: The fold that is left out; None for none.
            shrinkages: Each above 0, up to 1.
            priors: `empirical` or `uniform`.

        Yields:
            Coefficients (dim, n_classes) and intercepts (n_classes,) for unscaled features
            (divided by their item's length for `l2`), of the classes that have an item in the others.
        """
        kept = add_sums([part for at, part in enumerate(self.parts) if at != fold])
        present = np.flatnonzero(kept.counts)
        counts, sums, total = kept.counts[present], kept.sums[present], kept.counts.sum()
        frame = Frame(kept.shift, Frame.make(self.scaling, kept.find_moments()).scale)
        scale, offsets = frame.scale.astype(np.float64), sums / counts[:, None]
        rooted = np.sqrt(counts)[:, None] * offsets
        # About the classes' means: the sum about any point, less n_k (m_k - point)(m_k - point)^T for each class.
        within = np.maximum(kept.squares - np.einsum("ij,ij->j", rooted, rooted), 0)
        covariance: Doubles | None = None
        if kept.gram is not None:
            products = kept.gram.take()
            covariance = blas.dsyrk(-1 / total, rooted.T, beta=1 / total, c=products, overwrite_c=True, lower=True)
            if (scale != 1).any():
                covariance /= scale[:, None]
                covariance /= scale
        trace = float((within / total / scale**2).sum())
        statistics = Statistics(counts, offsets / scale, trace, covariance, len(scale))
        for coef, intercept in solve_discriminants(statistics, shrinkages, priors):
            yield unfold(coef, intercept, frame)

    def fit(self, model: ShrunkDiscriminant, n_classes: int) -> ShrunkDiscriminant:
        """Fit a head to all items, whose classes are 0, 1 ..., without another pass over them."""
        return model.adopt(*next(self.solve(None, [model.shrinkage], model.priors)), n_classes)


def solve_wide(
    X: FeatureRows,
    positions: NDArray[np.intp],
    lengths: Floats | None,
    scaling: str,
    shrinkages: Iterable[float],
    priors: str,
) -> Iterator[tuple[Floats, Floats]]:
    """Solve for the discriminants of fewer items than features, as `Scatter.solve` does for more.

    All discriminants lie in the span of the items. With X^T = QR the columns of Q span it,
    and the items are R^T there, as many columns as items.
    """
    items = X[:] if lengths is None else X[:] / lengths[:, None]
    moments = Moments.measure(FeatureRows(items), np.ones((len(items), 1)))
    frame = Frame(moments.means[0].astype(np.float32), Frame.make(scaling, moments).scale)
    Q, R = linalg.qr(((items - frame.shift) / frame.scale).T, mode="economic", check_finite=False)
    rotated = R.T.astype(np.float64)
    counts = np.bincount(positions).astype(np.float64)
    present = np.flatnonzero(counts)
    means = np.stack([rotated[positions == k].mean(axis=0) for k in present])
    centred = rotated - means[np.searchsorted(present, positions)]
    covariance = centred.T @ centred / len(centred)
    statistics = Statistics(counts[present], means, float(np.trace(covariance)), covariance, X.shape[1])
    for coef, intercept in solve_discriminants(statistics, shrinkages, priors):
        yield unfold(Q @ coef, intercept, frame)


def solve_discriminants(
    statistics: Statistics, shrinkages: Iterable[float], priors: str
) -> Iterator[tuple[Doubles, Doubles]]:
    """Solve for the discriminants of several shrinkages from one covariance.

    The covariance is (1 - s) S + s trace(S) / dim I (Ledoit & Wolf 2004, eq. 2 with
    a given s); it is linear in S, so shrinking that of each class, as scikit-learn
    does, is shrinking their mean. Discriminants: Hastie, Tibshirani & Friedman,
    The Elements of Statistical Learning (2009), eq. 4.10.

    Args:
        statistics: Of the training items.
        shrinkages: The values of s.
        priors: `empirical` or `uniform`.

    Yields:
        For each shrinkage, coefficients (columns, n_classes) and intercepts (n_classes,).
    """
    counts, means = statistics.counts, statistics.means
    bias = np.log(counts / counts.sum()) if priors == "empirical" else np.zeros(len(counts))
    # A term that all discriminants share changes no probability; without it, float32 loses less.
    middle = means.mean(axis=0)
    apart = (means - middle).T
    for s in shrinkages:
        ridge = s * (statistics.trace / statistics.dim or 1.0)  # a trace of 0: every item is its class's mean
        if s == 1 or statistics.covariance is None:
            coef = apart / ridge
        else:
            coef = _solve_shrunk(statistics.covariance, s, ridge, apart)
        yield coef, bias - np.sum((means + middle).T * coef, axis=0) / 2


def _solve_shrunk(covariance: Doubles, s: float, ridge: float, apart: Doubles) -> Doubles:
    """Solve; where items hardly differ from the mean of their class, the covariance is rounding error of the means.

    Raises:
        DataError: If that is not enough.
    """
    size = float(np.square(apart).sum(axis=0).max()) / len(apart)
    for least in (0.0, 1e-6, 1e-4):
        shrunk = (1 - s) * covariance
        shrunk.T.flat[:: len(shrunk) + 1] += max(ridge, least * size)
        with contextlib.suppress(linalg.LinAlgError):
            return np.asarray(
                linalg.solve(shrunk, apart, assume_a="pos", lower=True, overwrite_a=True, check_finite=False)
            )
    msg = "the covariance within the classes is not positive definite; choose a larger shrinkage"
    raise DataError(msg)
