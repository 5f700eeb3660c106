"""Linear support vector machines: a path of C, all classes and folds at a time, without a copy of the features."""

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.class_weight import compute_class_weight

from featx.heads.linear import BINARY, LinearHead, spread_margins, unfold
from featx.heads.logistic import Whitening
from featx.heads.ridge import accumulate_gram
from featx.heads.rows import FeatureRows
from featx.heads.scaling import Floats, Frame, Moments, measure_lengths, shift_block

#: Below this many items per feature, a pass costs less than the factorisation that saves it.
_ITEMS_PER_FEATURE = 0.5
#: Values of one array of items by columns; columns beyond it are solved after the others.
_MOST_VALUES = 4_000_000
#: Conjugate gradients stop where the last step gained less than this part of the mean of all (Nash & Sofer 1990).
_LEAST_GAIN = 0.5
_MOST_PRODUCTS = 250
#: Up to this number of items inside the margin, or the root of so many times all items, they are solved for directly.
_FEW_INSIDE = 250
_SQUARE_PER_ITEM = 100
#: A step is long enough where the slope is this part of that at its start.
_FLAT = 0.1
_MOST_LENGTHS = 12
#: Values that differ by less, relatively, are equal in sums of float32.
_NOISE = 1e-7


class ScaledLinearSVC(LinearHead):
    """scikit-learn's LinearSVC after a scaling, without a scaled copy of the features.

    The same optimum: half of |w|^2 + b^2, plus C times the sum of the squared hinge losses, for
    each class against the rest. The intercept b is penalised, as liblinear's is.

    Args:
        C: Inverse strength of the penalty.
        scaling: One of `featx.specs.SCALINGS`.
        class_weight: None, or `balanced`, which weights the items of a class against the rest as liblinear does.
        tol: A class is done where the next step would lower its value by less than this part.
        max_iter: The most Newton steps.

    Attributes:
        n_iter_: Newton steps taken.
    """

    def __init__(
        self,
        C: float = 1.0,
        scaling: str = "none",
        class_weight: str | None = None,
        tol: float = 1e-5,
        max_iter: int = 1000,
    ) -> None:
        self.C = C
        self.scaling = scaling
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: ArrayLike | FeatureRows, y: ArrayLike) -> Self:
        """Fit to features (n_items, dim) and targets (n_items,)."""
        rows, positions = self._read_classes(X, y)
        path = HingePath.prepare(rows, positions, [np.arange(len(rows))], self.scaling, self.class_weight)
        [solution] = path.follow([self.C], self.tol, self.max_iter)
        self.n_iter_ = solution.steps
        if not solution.converged:
            msg = f"Newton's method failed to converge after {solution.steps} iterations; increase max_iter"
            warnings.warn(msg, ConvergenceWarning, stacklevel=2)
        return self.set_coefficients(*path.unfold(solution, 0))

    def score_classes(self, X: ArrayLike | FeatureRows) -> Floats:
        """Return the margins, (n_items, n_classes), as tuning scores items: each class has its own machine."""
        return spread_margins(self.decision_function(X))


@dataclass(frozen=True, slots=True)
class Solution:
    """The solutions of all problems for one C.

    Attributes:
        x: float32 (dim + 1, n_columns), weights, and the bias in the last row.
        steps: The most Newton steps that a column took.
        converged: Whether all columns were done.
    """

    x: Floats
    steps: int
    converged: bool


@dataclass(frozen=True, slots=True)
class Columns:
    """Some problems, one class against the rest of the training items of a fold, that share their passes.

    Attributes:
        X: (n_items, dim).
        lengths: float32 (n_items,), for the scaling `l2`; else None.
        signed: float32 (n_items, n_columns), weights over the number of training items, negative for
            the items of the rest, 0 for held-out items.
        shifts: float32 (dim, n_columns), of the columns' folds.
        scales: The same, what the shifted features are divided by.
    """

    X: FeatureRows
    lengths: Floats | None
    signed: Floats
    shifts: Floats
    scales: Floats

    def select(self, chosen: NDArray[np.intp]) -> "Columns":
        """Return some of the problems."""
        parts = (part[:, chosen] for part in (self.signed, self.shifts, self.scales))
        return Columns(self.X, self.lengths, *parts)

    def multiply(self, points: Floats, curvatures: Floats | None = None) -> tuple[Floats, Floats]:
        """Return the margins of points, (n_items, n_columns), and the slopes of those times curvatures."""
        coef = points[:-1] / self.scales
        offset = points[-1] - (self.shifts * coef).sum(axis=0)
        margins = np.empty((len(self.X), points.shape[1]), np.float32)
        slopes, sums = np.zeros_like(coef), np.zeros(len(offset), np.float32)
        for rows, block in self.X.iterate_blocks(points.shape[1]):
            part = np.matmul(block, coef, out=margins[rows])
            if self.lengths is not None:
                part /= self.lengths[rows, None]
            part += offset
            if curvatures is not None:
                self._pull(rows, block, part * curvatures[rows], slopes, sums)
        return margins, self._finish(slopes, sums)

    def solve(self, column: int, inside: NDArray[np.intp], penalty: float) -> Floats | None:
        """Return the minimum (dim + 1,) of a column if only some items had losses; None if it cannot be resolved."""
        lengths = None if self.lengths is None else self.lengths[inside]
        near = shift_block(slice(None), self.X[inside], self.shifts[:, column], lengths)
        near /= self.scales[:, column]
        products = (near @ near.T).astype(np.float64) + 1
        weights = self.signed[inside, column].astype(np.float64)
        products.flat[:: len(inside) + 1] += penalty / (2 * np.abs(weights))
        _, parts, info = linalg.lapack.dposv(products, np.sign(weights), overwrite_a=True)
        if info:
            return None
        found: Floats = np.append(parts @ near, parts.sum()).astype(np.float32)
        return found

    def pull(self, residuals: Floats) -> Floats:
        """Return the slopes, (dim + 1, n_columns), of the residuals (n_items, n_columns), which are overwritten."""
        slopes = np.zeros((self.X.shape[1], residuals.shape[1]), np.float32)
        sums = np.zeros(residuals.shape[1], np.float32)
        for rows, block in self.X.iterate_blocks(residuals.shape[1]):
            self._pull(rows, block, residuals[rows], slopes, sums)
        return self._finish(slopes, sums)

    def _pull(self, rows: slice, block: Floats, part: Floats, slopes: Floats, sums: Floats) -> None:
        sums += part.sum(axis=0)
        if self.lengths is not None:
            part /= self.lengths[rows, None]
        slopes += block.T @ part

    def _finish(self, slopes: Floats, sums: Floats) -> Floats:
        slopes -= self.shifts * sums
        slopes /= self.scales
        return np.concatenate([slopes, sums[None]])

    def measure(self, margins: Floats) -> tuple[NDArray[np.float64], Floats]:
        """Return the losses of the columns, and 1 minus the signed margins where that is positive, else 0."""
        slack = 1 - np.sign(self.signed) * margins
        np.maximum(slack, 0, out=slack)
        return np.einsum("ij,ij,ij->j", np.abs(self.signed), slack, slack, dtype=np.float64), slack


@dataclass(frozen=True, slots=True)
class HingePath:
    """Squared hinge losses of each class against the rest, on the training items of several folds.

    Attributes:
        columns: All problems.
        totals: float64 (n_columns,), the number of training items.
        keys: int (n_columns, 2), fold and class of each problem.
        frames: The scaling of each fold.
        whitening: The Gram matrix of scaled features and a constant.
    """

    columns: Columns
    totals: NDArray[np.float64]
    keys: NDArray[np.intp]
    frames: tuple[Frame, ...]
    whitening: Whitening

    @classmethod
    def prepare(
        cls,
        X: FeatureRows,
        positions: NDArray[np.intp],
        trains: Sequence[NDArray[np.intp]],
        scaling: str,
        class_weight: str | None,
    ) -> Self:
        """Measure the scaling of each fold on its training items.

        Args:
            X: (n_items, dim), not scaled.
            positions: int (n_items,), classes from 0.
            trains: The training items of each fold.
            scaling: One of `SCALINGS`.
            class_weight: As `ScaledLinearSVC` takes it.
        """
        lengths = measure_lengths(X, scaling)
        inside = np.stack([np.isin(np.arange(len(X)), train) for train in trains], axis=1)
        moments = Moments.measure(X, inside, lengths)
        frames = tuple(Frame.make(scaling, moments, fold) for fold in range(len(trains)))
        signed, keys = _sign_items(positions, trains, class_weight)
        shifts, scales = (np.stack([getattr(frames[f], name) for f, _ in keys], 1) for name in ("shift", "scale"))
        totals = np.array([float(len(trains[f])) for f, _ in keys])
        columns = Columns(X, lengths, signed, shifts, scales)
        return cls(columns, totals, np.array(keys), frames, _measure_gram(X, lengths, frames))

    def follow(self, values: Sequence[float], tol: float, max_steps: int) -> Iterator[Solution]:
        """Solve all problems for each C in turn, the smallest first, each from the solution before it.

        Args:
            values: The values of C.
            tol: As `ScaledLinearSVC` takes it.
            max_steps: The most Newton steps for one C.
        """
        n_items, n_columns = self.columns.signed.shape
        width = max(1, _MOST_VALUES // n_items)
        groups = np.array_split(np.arange(n_columns), -(-n_columns // width))
        parts = [self.columns.select(group) for group in groups]
        starts = [np.zeros((self.columns.X.shape[1] + 1, len(group)), np.float32) for group in groups]
        for C in values:
            penalties = 1 / (C * self.totals)
            found = [
                _descend(part, self.whitening, penalties[group], start, tol, max_steps)
                for part, group, start in zip(parts, groups, starts, strict=True)
            ]
            starts = [one.x for one in found]
            x = np.concatenate(starts, axis=1)
            yield Solution(x, max(one.steps for one in found), all(one.converged for one in found))

    def unfold(self, solution: Solution, fold: int) -> tuple[Floats, Floats]:
        """Return the coefficients (dim, n_outputs) and intercepts of a fold, for unscaled features."""
        x = solution.x[:, self.keys[:, 0] == fold]
        return unfold(x[:-1], x[-1], self.frames[fold])


def _sign_items(
    positions: NDArray[np.intp], trains: Sequence[NDArray[np.intp]], class_weight: str | None
) -> tuple[Floats, list[tuple[int, int]]]:
    """Return what `Columns.signed` holds, and fold and class of each column; two classes have one."""
    signed, keys = [], []
    for fold, train in enumerate(trains):
        present = np.unique(positions[train])
        weights = compute_class_weight(class_weight, classes=present, y=positions[train])
        for weight, k in list(zip(weights, present.tolist(), strict=True))[len(present) == BINARY :]:
            # liblinear weights the class, but not the rest, unless that is one class too.
            rest = weights[0] if len(present) == BINARY else 1.0
            column = np.zeros(len(positions), np.float32)
            column[train] = np.where(positions[train] == k, weight, -rest) / len(train)
            signed.append(column)
            keys.append((fold, k))
    return np.stack(signed, axis=1), keys


def _measure_gram(X: FeatureRows, lengths: Floats | None, frames: tuple[Frame, ...]) -> Whitening:
    if len(X) < _ITEMS_PER_FEATURE * X.shape[1]:
        return Whitening(None)
    shift = np.mean([frame.shift for frame in frames], axis=0)
    scale = np.mean([frame.scale for frame in frames], axis=0)

    def prepare(rows: slice, block: Floats) -> Floats:
        prepared = np.ones((len(block), block.shape[1] + 1), np.float32)
        prepared[:, :-1] = shift_block(rows, block, shift, lengths) / scale
        return prepared

    gram = accumulate_gram(X, prepare, dim=X.shape[1] + 1)
    gram /= np.float32(len(X))
    return Whitening(gram)


def _descend(
    columns: Columns,
    whitening: Whitening,
    penalties: NDArray[np.float64],
    start: Floats,
    tol: float,
    max_steps: int,
) -> Solution:
    """Minimise by Newton steps, each with the items that are inside the margin.

    S. S. Keerthi and D. DeCoste, "A modified finite Newton method for fast solution of large scale linear SVMs" (2005).
    """
    x, active, steps = start.copy(), np.arange(start.shape[1]), 0
    margins, mean = columns.multiply(x)[0], float(penalties.mean())
    losses, slack = columns.measure(margins)
    share = float(2 * (np.abs(columns.signed) * (slack > 0)).sum(axis=0).mean())
    prepare = functools.cache(lambda: whitening.factorise(share, mean).inverse)
    while len(active) and steps < max_steps:
        here = x[:, active]
        values = losses + penalties / 2 * _dot(here, here)
        gradient = columns.pull(-2 * columns.signed * slack) + penalties.astype(np.float32) * here
        step, moved = _find_step(columns, slack, penalties, here, gradient, prepare)
        slopes = _dot(step, gradient)
        left = -slopes / 2 > tol * values
        if not left.any():
            return Solution(x, steps, converged=True)
        steps += 1
        lengths = _search(columns, penalties, here, step, (margins, moved), slopes)
        there = here + lengths * step
        margins += lengths * moved
        losses, slack = columns.measure(margins)
        lower = losses + penalties / 2 * _dot(there, there) <= values * (1 - _NOISE)
        x[:, active] = there
        keep = np.flatnonzero(left & lower)  # the others are done, or have no lower value that can be distinguished
        if len(keep) < len(active):
            active, penalties, margins = active[keep], penalties[keep], margins[:, keep]
            columns = columns.select(keep)
            losses, slack = columns.measure(margins)
    return Solution(x, steps, converged=not len(active))


def _search(
    columns: Columns,
    penalties: NDArray[np.float64],
    here: Floats,
    step: Floats,
    margins: tuple[Floats, Floats],
    slopes: NDArray[np.float64],
) -> Floats:
    """Return the length of each step at which the value no longer falls: a root of a piecewise linear slope."""
    start, moved = margins
    weighted, squares, crossed = columns.signed * moved, _dot(step, step), _dot(here, step)
    least, most, length = np.zeros(len(squares)), np.full(len(squares), np.inf), np.ones(len(squares))
    for _ in range(_MOST_LENGTHS):
        _, slack = columns.measure(start + length.astype(np.float32) * moved)
        slope = penalties * (crossed + length * squares) - 2 * _dot(weighted, slack)
        bend = penalties * squares + 2 * _dot(weighted * (slack > 0), np.sign(columns.signed) * moved)
        far = np.abs(slope) > _FLAT * np.abs(slopes)
        if not far.any():
            break
        least, most = np.where(slope < 0, length, least), np.where(slope < 0, most, length)
        trial = length - slope / np.where(bend > 0, bend, 1)
        middle = np.where(np.isinf(most), 2 * length, (least + most) / 2)
        length = np.where(far, np.where((trial > least) & (trial < most), trial, middle), length)
    return length.astype(np.float32)


def _find_step(
    columns: Columns,
    slack: Floats,
    penalties: NDArray[np.float64],
    here: Floats,
    gradient: Floats,
    prepare: Callable[[], Floats | None],
) -> tuple[Floats, Floats]:
    """Return the Newton step from a point, and what it adds to the margins."""
    inside = (slack > 0) & (columns.signed != 0)
    step, moved, exact = np.zeros_like(here), np.zeros_like(slack), np.zeros(here.shape[1], bool)
    most = max(_FEW_INSIDE, int(np.sqrt(_SQUARE_PER_ITEM * len(slack))))
    for at in map(int, np.flatnonzero(inside.sum(axis=0) <= most)):
        found = columns.solve(at, np.flatnonzero(inside[:, at]), penalties[at])
        if found is not None:
            step[:, at], exact[at] = found - here[:, at], True
    for chosen in (np.flatnonzero(exact), np.flatnonzero(~exact)):
        if not len(chosen):
            continue
        part = columns.select(chosen)
        if exact[chosen[0]]:
            moved[:, chosen] = part.multiply(step[:, chosen])[0]
        else:
            curvatures = 2 * np.abs(part.signed) * inside[:, chosen]
            step[:, chosen], moved[:, chosen] = _solve(
                part, curvatures, penalties[chosen].astype(np.float32), gradient[:, chosen], prepare()
            )
    return step, moved


def _solve(
    columns: Columns, curvatures: Floats, penalty: Floats, gradient: Floats, inverse: Floats | None
) -> tuple[Floats, Floats]:
    """Solve for the Newton step by conjugate gradients, preconditioned by the Gram matrix of all items."""
    step, moved = np.zeros_like(gradient), np.zeros_like(curvatures)
    residual, gains = -gradient, np.zeros(gradient.shape[1])
    direction = prepared = _precondition(residual, inverse)
    power = _dot(residual, prepared)
    running = power > 0
    for number in range(1, _MOST_PRODUCTS + 1):
        products, image = columns.multiply(direction, curvatures)
        image += penalty * direction
        bend = _dot(direction, image)
        running &= bend > 0
        length = np.where(running, power / np.where(running, bend, 1), 0)
        step += length.astype(np.float32) * direction
        moved += length.astype(np.float32) * products
        residual -= length.astype(np.float32) * image
        gain = length * power / 2
        gains += gain
        running &= number * gain > _LEAST_GAIN * gains
        if not running.any():
            break
        prepared = _precondition(residual, inverse)
        fresh = _dot(residual, prepared)
        direction = prepared + (fresh / np.where(power > 0, power, 1)).astype(np.float32) * direction
        power = fresh
    return step, moved


def _precondition(residual: Floats, inverse: Floats | None) -> Floats:
    return residual if inverse is None else inverse.T @ (inverse @ residual)


def _dot(a: Floats, b: Floats) -> NDArray[np.float64]:
    products: NDArray[np.float64] = np.einsum("ij,ij->j", a, b, dtype=np.float64)
    return products
