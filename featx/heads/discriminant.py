"""Linear discriminant analysis with shrinkage; at shrinkage 1 it is the nearest class mean."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg
from scipy.linalg import blas

from featx.errors import DataError
from featx.heads.linear import BINARY, LinearHead, unfold
from featx.heads.ridge import accumulate_gram
from featx.heads.rows import FeatureRows
from featx.heads.scaling import Floats, Frame, Moments, measure_lengths, shift_block

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
            everything, covariance = np.zeros(len(rows), np.intp), self.shrinkage < 1
            scatter = Scatter.measure(rows, positions, everything, self.scaling, covariance=covariance)
            solutions = scatter.solve(None, [self.shrinkage], self.priors)
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
        shift: float32 (dim,), subtracted from every item first, so that sums of products lose no precision.
        counts: float64 (n_folds, n_classes).
        sums: float64 (n_folds, n_classes, dim).
        squares: float64 (n_folds, dim).
        scales: float32 (n_folds + 1, dim), of the scaling, as measured on all folds but one, and on all.
        products: float32 (dim, dim) for each fold, lower triangle; empty where they are not needed.
    """

    shift: Floats
    counts: Doubles
    sums: Doubles
    squares: Doubles
    scales: Floats
    products: tuple[Floats, ...]

    @classmethod
    def measure(
        cls,
        X: FeatureRows,
        positions: NDArray[np.intp],
        folds: NDArray[np.intp],
        scaling: str,
        *,
        covariance: bool = True,
    ) -> Self:
        """Measure them in one pass over the features.

        Args:
            X: (n_items, dim), not scaled.
            positions: int (n_items,), classes from 0.
            folds: int (n_items,), folds from 0.
            scaling: One of `SCALINGS`.
            covariance: Whether the products are needed.
        """
        n_folds, n_classes = int(folds.max()) + 1, int(positions.max()) + 1
        lengths = measure_lengths(X, scaling)
        first = X[:256] if lengths is None else X[:256] / lengths[:256, None]
        shift = first.mean(axis=0)
        counts = np.zeros((n_folds, n_classes))
        sums, squares = np.zeros((n_folds, n_classes, len(shift))), np.zeros((n_folds, len(shift)))
        products = []
        for fold in range(n_folds):
            members = np.flatnonzero(folds == fold)
            part = X if n_folds == 1 else X.take(members)
            indicator = (positions[members, None] == np.arange(n_classes)).astype(np.float32)
            prepare = _make_shift(shift, None if lengths is None else lengths[members])
            counts[fold] = indicator.sum(axis=0)
            if covariance:
                product, sums[fold].T[...] = accumulate_gram(part, prepare, indicator)
                squares[fold] = np.diag(product)
                products.append(product)
                continue
            for rows, block in part.iterate_blocks():
                near = prepare(rows, block)
                sums[fold] += indicator[rows].T @ near
                squares[fold] += np.einsum("ij,ij->j", near, near)
        return cls(shift, counts, sums, squares, _measure_scales(X, folds, scaling), tuple(products))

    def solve(self, fold: int | None, shrinkages: Iterable[float], priors: str) -> Iterator[tuple[Floats, Floats]]:
        """Solve for the discriminants of all folds but one, or of all.

        Args:
            fold: The fold that is left out; None for none.
            shrinkages: Each above 0, up to 1.
            priors: `empirical` or `uniform`.

        Yields:
            Coefficients (dim, n_classes) and intercepts (n_classes,) for unscaled features
            (divided by their item's length for `l2`), of the classes in `find_present`.
        """
        kept, present = [at for at in range(len(self.counts)) if at != fold], self.find_present(fold)
        counts, sums = self.counts[kept].sum(axis=0)[present], self.sums[kept].sum(axis=0)[present]
        total, squares = counts.sum(), self.squares[kept].sum(axis=0)
        frame = Frame(self.shift, self.scales[len(self.counts) if fold is None else fold])
        scale, offsets = frame.scale.astype(np.float64), sums / counts[:, None]
        rooted = np.sqrt(counts)[:, None] * offsets
        # About the classes' means: the sum about any point, less n_k (m_k - point)(m_k - point)^T for each class.
        within = np.maximum(squares - np.einsum("ij,ij->j", rooted, rooted), 0)
        covariance: Doubles | None = None
        if self.products:
            covariance = self.products[kept[0]].astype(np.float64, order="F")
            for at in kept[1:]:
                covariance += self.products[at]
            covariance = blas.dsyrk(-1 / total, rooted.T, beta=1 / total, c=covariance, overwrite_c=True, lower=True)
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

    def find_present(self, fold: int | None) -> NDArray[np.intp]:
        """Return the classes that have an item outside of a fold."""
        return np.flatnonzero(np.delete(self.counts, [] if fold is None else fold, axis=0).sum(axis=0))


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


def _measure_scales(X: FeatureRows, folds: NDArray[np.intp], scaling: str) -> Floats:
    n_folds = int(folds.max()) + 1
    if scaling != "standard":
        return np.ones((n_folds + 1, X.shape[1]), np.float32)
    moments = Moments.measure(X, folds[:, None] != np.arange(n_folds + 1))  # no fold has the last number
    return np.stack([Frame.make(scaling, moments, part).scale for part in range(n_folds + 1)])


def _make_shift(shift: Floats, lengths: Floats | None) -> Callable[[slice, Floats], Floats]:
    def prepare(rows: slice, block: Floats) -> Floats:
        return shift_block(rows, block, shift, lengths)

    return prepare
