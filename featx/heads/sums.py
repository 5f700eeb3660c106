"""Sums over the items of each class, from which closed-form heads are computed; they add over any partition."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas

from featx.heads.rows import FeatureRows
from featx.heads.scaling import Floats, Moments, find_moments, shift_block

Doubles = NDArray[np.float64]

#: Products of so many blocks are added in float32, then to a sum in float64: in float32 alone, the error of a sum grows
#: with the number of blocks.
_BLOCKS = 32

#: The mean of so many items is near enough to that of all: what is summed is then of the size of the deviations.
_FIRST = 256


class GramSum:
    """The sum of x x^T over items.

    Args:
        dim: Columns of an item.
    """

    def __init__(self, dim: int) -> None:
        self._recent = np.zeros((dim, dim), np.float32, order="F")
        self._before: Doubles | None = None
        self._n_recent = 0

    def add_block(self, block: Floats) -> None:
        """Add items, float32 (n, dim) in C order."""
        if self._n_recent == _BLOCKS:
            self._flush()
        # The transpose of a C-ordered block is in Fortran's order: half the work of a full product, and no copy.
        self._recent = blas.ssyrk(1.0, block.T, beta=1.0, c=self._recent, overwrite_c=True, lower=True)
        self._n_recent += 1

    def add(self, other: Self) -> None:
        """Add the items of another sum."""
        self._flush()
        assert self._before is not None  # noqa: S101 - flushing makes it
        self._before += other._recent
        if other._before is not None:
            self._before += other._before

    def take(self) -> Doubles:
        """Return a copy, float64 (dim, dim) in Fortran's order, of which only the lower triangle is filled."""
        taken = self._recent.astype(np.float64, order="F")
        return taken if self._before is None else np.add(taken, self._before, out=taken)

    def _flush(self) -> None:
        if self._before is None:
            self._before = np.zeros(self._recent.shape, order="F")
        self._before += self._recent
        self._recent[:] = 0
        self._n_recent = 0


@dataclass(slots=True)
class ClassSums:
    """Sums over items less a shift, so that sums of products lose no precision.

    Attributes:
        shift: float32 (dim,), subtracted from every item first; only sums with the same shift add.
        counts: float64 (n_classes,).
        sums: float64 (n_classes, dim).
        squares: float64 (dim,). These and the sums are summed in float64, so that a constant feature has variance 0.
        gram: Of all items, weighted if they have weights; None where it is not needed.
    """

    shift: Floats
    counts: Doubles
    sums: Doubles
    squares: Doubles
    gram: GramSum | None

    @classmethod
    def start(cls, shift: Floats, n_classes: int, *, products: bool = True) -> Self:
        """Return the sums over no items."""
        dim, gram = len(shift), GramSum(len(shift)) if products else None
        return cls(shift, np.zeros(n_classes), np.zeros((n_classes, dim)), np.zeros(dim), gram)

    def add_block(self, near: Floats, positions: NDArray[np.intp], weights: NDArray[np.float64] | None = None) -> None:
        """Add items.

        Args:
            near: float32 (n, dim), less the shift.
            positions: int (n,), their classes.
            weights: float64 (n,), of each item in the products; None for 1.
        """
        order = np.argsort(positions, kind="stable")
        exact = near[order].astype(np.float64)
        present, starts = np.unique(positions[order], return_index=True)
        self.counts += np.bincount(positions, minlength=len(self.counts))
        self.sums[present] += np.add.reduceat(exact, starts)
        self.squares += np.einsum("ij,ij->j", exact, exact)
        if self.gram is not None:
            weighted = near if weights is None else near * np.sqrt(weights)[:, None].astype(np.float32)
            self.gram.add_block(weighted)

    def add(self, other: Self) -> Self:
        """Add the items of other sums with the same shift, and return these."""
        self.counts += other.counts
        self.sums += other.sums
        self.squares += other.squares
        if self.gram is not None and other.gram is not None:
            self.gram.add(other.gram)
        return self

    def find_moments(self) -> Moments:
        """Return mean and variance of each feature."""
        return find_moments(self.counts.sum(keepdims=True), self.sums.sum(axis=0)[None], self.squares[None], self.shift)


def measure_sums(
    X: FeatureRows,
    positions: NDArray[np.intp],
    lengths: Floats | None,
    *,
    folds: NDArray[np.intp] | None = None,
    weights: NDArray[np.float64] | None = None,
    products: bool = True,
) -> list[ClassSums]:
    """Measure the sums of each fold in one pass over the features.

    Args:
        X: (n_items, dim), not scaled.
        positions: int (n_items,), classes from 0.
        lengths: float32 (n_items,), what items are divided by first; None for no division.
        folds: int (n_items,), folds from 0; None for one fold.
        weights: float64 (n_items,), of each item in the products; None for 1.
        products: Whether the products are needed.
    """
    first = X[:_FIRST] if lengths is None else X[:_FIRST] / lengths[:_FIRST, None]
    shift = first.mean(axis=0, dtype=np.float64).astype(np.float32)
    n_folds, n_classes = 1 if folds is None else int(folds.max()) + 1, int(positions.max()) + 1
    found = [ClassSums.start(shift, n_classes, products=products) for _ in range(n_folds)]
    for rows, block in X.iterate_blocks():
        near = shift_block(rows, block, shift, lengths)
        own = np.zeros(len(near), np.intp) if folds is None else folds[rows]
        for fold in np.unique(own):
            members = own == fold
            whole = members.all()
            chosen = near if whole else near[members]
            heavy = None if weights is None else weights[rows][members]
            found[fold].add_block(chosen, positions[rows][members], heavy)
    return found


def add_sums(parts: Sequence[ClassSums]) -> ClassSums:
    """Add sums with the same shift, which stay as they are."""
    total = ClassSums.start(parts[0].shift, len(parts[0].counts), products=parts[0].gram is not None)
    for part in parts:
        total.add(part)
    return total
