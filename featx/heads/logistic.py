"""Multinomial logistic regression: a whole path of C, all folds at a time, without a copy of the features."""

import functools
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, special
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.class_weight import compute_sample_weight

from featx.heads.linear import BINARY, LinearHead, unfold
from featx.heads.ridge import accumulate_gram
from featx.heads.rows import FeatureRows
from featx.heads.scaling import Floats, Frame, Moments, measure_lengths, shift_block

#: Pairs of steps and changes of the gradient that are remembered for each problem.
_MEMORY = 6
#: A step is taken if it yields this part of the decrease that the slope promises (Nocedal & Wright 2006, eq. 3.4).
_SUFFICIENT = 1e-4
_MOST_HALVINGS = 20
#: Values that differ by less, relatively, are equal: sums of float32 terms are not more precise.
_NOISE = 1e-6
#: After this many steps between equal values, nothing is left to find.
_MOST_IDLE = 10


@dataclass(frozen=True, slots=True)
class Point:
    """The value and the gradient at a point.

    Attributes:
        value: The function's value.
        gradient: float32, of the point's shape.
        done: Whether the gradient is small enough, in the caller's units.
    """

    value: float
    gradient: Floats
    done: bool


@dataclass(frozen=True, slots=True)
class Minimum:
    """The end of a descent.

    Attributes:
        x: float32, the best point.
        steps: Steps taken.
        converged: Whether the gradient became small enough, or the value as low as float32 can resolve.
    """

    x: Floats
    steps: int
    converged: bool


def descend(start: Floats, max_steps: int) -> Generator[Floats, Point, Minimum]:
    """Minimise a smooth convex function by L-BFGS.

    J. Nocedal and S. J. Wright, "Numerical Optimization" (2006), algorithm 7.4 with
    backtracking, which is enough for a convex function, as every step then has curvature.

    Args:
        start: float32, any shape.
        max_steps: The most steps to take.

    Yields:
        The points whose `Point` it needs next.

    Returns:
        The minimum.
    """
    x, here = start, (yield start)
    pairs: deque[tuple[Floats, Floats, float]] = deque(maxlen=_MEMORY)
    idle = 0
    for step in range(max_steps):
        if here.done or idle > _MOST_IDLE:
            return Minimum(x, step, converged=True)
        direction = _find_direction(here.gradient, pairs)
        slope = _dot(direction, here.gradient)
        length, found = 1.0 if pairs else min(1.0, 1.0 / (float(np.sqrt(-slope)) or 1.0)), None
        for _ in range(_MOST_HALVINGS):
            trial = x + np.float32(length) * direction
            found = yield trial
            if found.value <= here.value + _SUFFICIENT * length * slope + _NOISE * abs(here.value):
                break
            length *= _shrink(here.value, slope, found.value, length)
        else:
            return Minimum(x, step, converged=True)  # no lower value can be distinguished
        change = found.gradient - here.gradient
        curvature = length * _dot(direction, change)
        if curvature > 0:
            pairs.append((np.float32(length) * direction, change, curvature))
        idle = idle + 1 if here.value - found.value <= _NOISE * abs(here.value) else 0
        x, here = trial, found
    return Minimum(x, max_steps, converged=here.done)


def _find_direction(gradient: Floats, pairs: deque[tuple[Floats, Floats, float]]) -> Floats:
    """Multiply the gradient by minus the inverse Hessian that the pairs suggest."""
    direction = -gradient
    shares = []
    for moved, change, curvature in reversed(pairs):
        share = _dot(moved, direction) / curvature
        shares.append(share)
        direction -= np.float32(share) * change
    if pairs:
        _, change, curvature = pairs[-1]
        direction *= np.float32(curvature / _dot(change, change))
    for (moved, change, curvature), share in zip(pairs, reversed(shares), strict=True):
        direction += np.float32(share - _dot(change, direction) / curvature) * moved
    return direction


def _shrink(value: float, slope: float, found: float, length: float) -> float:
    """Return the factor to the minimum of the parabola through what is known, kept between 0.1 and 0.5."""
    excess = found - value - slope * length
    factor = -slope * length / (2 * excess) if np.isfinite(excess) and excess > 0 else 0.1
    return min(0.5, max(0.1, factor))


def _dot(a: Floats, b: Floats) -> float:
    return float(np.vdot(a, b))


#: From this many items per feature on, a pass costs more than the factorisation that saves it.
_ITEMS_PER_FEATURE = 2
#: A penalty below this part of the mean curvature is rounding error in float32.
_LEAST_PENALTY = 1e-6


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Points (dim + 1, n_outputs), weights and in the last row the bias, in other coordinates.

    Attributes:
        root: float32 (dim, dim), L; None if the coordinates are the weights themselves.
        inverse: float32 (dim, dim), its inverse; None in the same case.
        unit: The divisor of the bias.
    """

    root: Floats | None
    inverse: Floats | None
    unit: np.float32

    def enter(self, x: Floats) -> Floats:
        """Return the coordinates of weights and bias."""
        if self.root is None:
            return x
        entered: Floats = np.concatenate([self.root.T @ x[:-1], x[-1:] / self.unit])
        return entered

    def leave(self, points: Mapping[int, Floats]) -> dict[int, Floats]:
        """Return weights and bias from coordinates, for several problems in one product."""
        return dict(points) if self.inverse is None else self._multiply(self.inverse.T, points)

    def pull(self, slopes: Mapping[int, Floats]) -> dict[int, Floats]:
        """Return gradients by coordinates from those by weights and bias."""
        return dict(slopes) if self.inverse is None else self._multiply(self.inverse, slopes)

    def _multiply(self, matrix: Floats, points: Mapping[int, Floats]) -> dict[int, Floats]:
        together = np.concatenate([point[:-1] for point in points.values()], axis=1)
        parts = np.split(matrix @ together, len(points), axis=1)
        return {
            key: np.concatenate([part, point[-1:] * self.unit])
            for (key, point), part in zip(points.items(), parts, strict=True)
        }


@dataclass(frozen=True, slots=True)
class Whitening:
    """The Gram matrix of scaled features over the number of items.

    Attributes:
        gram: float32 (dim, dim), lower triangle only; None where whitening costs more than it saves.
    """

    gram: Floats | None

    @classmethod
    def measure(cls, X: FeatureRows, lengths: Floats | None, frames: tuple[Frame, ...]) -> Self:
        """Measure it in one pass, in the mean of the frames.

        Args:
            X: (n_items, dim).
            lengths: float32 (n_items,), what items are divided by first; None for no division.
            frames: The shift and scale of each problem.
        """
        if len(X) < _ITEMS_PER_FEATURE * X.shape[1]:
            return cls(None)
        shift = np.mean([frame.shift for frame in frames], axis=0)
        scale = np.mean([frame.scale for frame in frames], axis=0)

        def prepare(rows: slice, block: Floats) -> Floats:
            prepared = shift_block(rows, block, shift, lengths)
            prepared /= scale
            return prepared

        gram = accumulate_gram(X, prepare)
        gram /= np.float32(len(X))
        return cls(gram)

    def factorise(self, curvature: float, penalty: float) -> Coordinates:
        """Return the coordinates for a mean curvature and a penalty."""
        if self.gram is None:
            return Coordinates(None, None, np.float32(1))
        mean = curvature * float(np.trace(self.gram)) / len(self.gram)
        least = max(penalty, _LEAST_PENALTY * mean)
        info = 1
        while info:  # rounding may need a larger penalty, for the coordinates only
            hessian = np.float32(curvature) * self.gram
            hessian.T.flat[:: len(hessian) + 1] += np.float32(least)
            root, info = linalg.lapack.spotrf(hessian, lower=True, clean=True, overwrite_a=True)
            least *= 10
        inverse = linalg.lapack.strtri(root, lower=True)[0]
        return Coordinates(root, inverse, np.float32(1 / np.sqrt(curvature)))


#: The logit of a class that a fold has no item of: never chosen, and finite.
_NEVER = np.float32(-1e30)

#: Below this mean curvature, the training items are separated with certainty, and only the penalty matters.
_LEAST_CURVATURE = 1e-6


class ScaledLogisticRegression(LinearHead):
    """scikit-learn's LogisticRegression after a scaling, without a scaled copy of the features.

    The same optimum: the mean log-loss plus |W|^2 / (2 C n) over weights W for scaled
    features, the intercept not penalised; two classes have one column of weights.

    Args:
        C: Inverse strength of the penalty.
        scaling: One of `featx.specs.SCALINGS`.
        class_weight: None, or `balanced` for classes of equal weight.
        tol: Where the largest gradient, for scaled features, is small enough to stop.
        max_iter: The most steps.

    Attributes:
        n_iter_: Steps taken.
    """

    def __init__(
        self,
        C: float = 1.0,
        scaling: str = "none",
        class_weight: str | None = None,
        tol: float = 1e-4,
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
        weights = compute_sample_weight(self.class_weight, positions)[:, None].astype(np.float32)
        loss = SoftmaxLoss.prepare(rows, positions, weights, self.scaling)
        [solution] = next(follow_path(loss, [(self.C, self.tol)], self.max_iter))
        self.n_iter_ = solution.steps
        if not solution.converged:
            msg = f"lbfgs failed to converge after {solution.steps} iterations; increase max_iter or scale the data"
            warnings.warn(msg, ConvergenceWarning, stacklevel=2)
        return self.set_coefficients(*unfold(*loss.split(solution.x, 0), loss.frames[0]))


@dataclass(frozen=True, slots=True)
class SoftmaxLoss:
    """The mean log-loss of several problems on the same items, each with its own weights.

    A problem is a fold: items held out of it have the weight 0. One pass over the features
    computes the losses and gradients of all problems, as one matrix product has the columns
    of all of them.

    Features are shifted to mean 0, which the intercept absorbs, and divided by their size s
    (for `standard`, by their deviations), which the penalty compensates for: the optimum is the
    same, and L-BFGS takes fewer steps, as weights and intercept then have similar curvature.

    Attributes:
        X: (n_items, dim).
        lengths: float32 (n_items,), for the scaling `l2`; else None.
        positions: int (n_items,), classes.
        weights: float32 (n_items, n_problems).
        frames: The shift and scale of each problem.
        sizes: float64 (n_problems,), s.
        absent: float32 (n_problems, n_outputs), 0, or hugely negative where a problem lacks a class.
    """

    X: FeatureRows
    lengths: Floats | None
    positions: NDArray[np.intp]
    weights: Floats
    frames: tuple[Frame, ...]
    sizes: NDArray[np.float64]
    absent: Floats

    @classmethod
    def prepare(cls, X: FeatureRows, positions: NDArray[np.intp], weights: Floats, scaling: str) -> Self:
        """Measure the scaling of each problem on its training items.

        Args:
            X: (n_items, dim), not scaled.
            positions: int (n_items,), classes from 0.
            weights: float32 (n_items, n_problems), 0 for held-out items.
            scaling: One of `SCALINGS`.
        """
        lengths = measure_lengths(X, scaling)
        moments = Moments.measure(X, weights > 0, lengths)
        frames, sizes = [], []
        for at, (mean, variance) in enumerate(zip(moments.means, moments.variances, strict=True)):
            frame, size = Frame.make(scaling, moments, at), 1.0
            if scaling != "standard":
                size = float(np.sqrt(variance.mean())) or 1.0
                frame = Frame(mean.astype(np.float32), np.full(len(mean), size, np.float32))
            frames.append(frame)
            sizes.append(size)
        n_classes = int(positions.max()) + 1
        present = np.stack([np.bincount(positions, column, n_classes) > 0 for column in weights.T])
        absent = np.where(present, np.float32(0), _NEVER)[:, n_classes == BINARY :]
        return cls(X, lengths, positions, weights, tuple(frames), np.array(sizes), absent)

    @property
    def n_outputs(self) -> int:
        """Columns of weights of one problem: 1 for two classes."""
        return int(self.absent.shape[1])

    def split(self, x: Floats, problem: int) -> tuple[Floats, Floats]:
        """Return weights (dim, n_outputs) and bias (n_outputs,) from a point (dim + 1, n_outputs)."""
        return x[:-1], x[-1] + self.absent[problem]

    def evaluate(
        self, points: Mapping[int, Floats], penalties: NDArray[np.float64], tols: NDArray[np.float64]
    ) -> tuple[dict[int, Point], float]:
        """Compute penalised losses and their gradients in one pass over the features.

        Args:
            points: By problem, float32 (dim + 1, n_outputs): weights, and the bias in the last row.
            penalties: float64 (n_problems,), the factor of half the squared weights.
            tols: float64 (n_problems,), the largest gradient of a point that is done.

        Returns:
            Value and gradient at the points, and the mean square of the residuals, which for
            calibrated probabilities is the mean of p (1 - p).
        """
        active, width = list(points), self.n_outputs
        coef = np.concatenate([points[f][:-1] / self.frames[f].scale[:, None] for f in active], axis=1)
        shifts = [self.frames[f].shift @ coef[:, at * width : (at + 1) * width] for at, f in enumerate(active)]
        offset = np.concatenate(
            [points[f][-1] + self.absent[f] - shift for f, shift in zip(active, shifts, strict=True)]
        )
        weights = np.ascontiguousarray(self.weights[:, active])
        losses, bias = np.zeros(len(active)), np.zeros((len(active), width), np.float32)
        gradient, squares = np.zeros_like(coef), 0.0
        measure = functools.partial(self._measure_block, coef, offset, weights)
        for share in self.X.map_blocks(measure, coef.shape[1]):
            losses += share.losses
            bias += share.bias
            gradient += share.gradient
            squares += share.squares
        found = {}
        for at, f in enumerate(active):
            frame, total = self.frames[f], self.weights[:, f].sum(dtype=np.float64)
            part = gradient[:, at * width : (at + 1) * width] - np.outer(frame.shift, bias[at])
            part /= frame.scale[:, None] * np.float32(total)
            part += np.float32(penalties[f]) * points[f][:-1]
            slope = np.concatenate([part, bias[at : at + 1] / np.float32(total)])
            value = losses[at] / total + penalties[f] / 2 * float(np.vdot(points[f][:-1], points[f][:-1]))
            found[f] = Point(value, slope, bool(np.abs(slope).max() <= tols[f]))
        return found, squares / max(1.0, float(weights.sum(dtype=np.float64)) * width)

    def _measure_block(self, coef: Floats, offset: Floats, weights: Floats, rows: slice, block: Floats) -> "_Share":
        """Measure the share of some items in losses and gradients; `coef` has the columns of all problems."""
        lengths = None if self.lengths is None else self.lengths[rows, None]
        logits = block @ coef
        if lengths is not None:
            logits /= lengths
        logits += offset
        each = logits.reshape(len(block), weights.shape[1], self.n_outputs)
        losses = _compute_residuals(each, self.positions[rows], weights[rows])
        bias, squares = each.sum(axis=0), float(np.vdot(logits, logits))
        if lengths is not None:
            logits /= lengths
        return _Share(losses, bias, block.T @ logits, squares)


@dataclass(frozen=True, slots=True)
class _Share:
    """What some items add: losses (n_problems,), residuals (n_problems, n_outputs), gradient, squared residuals."""

    losses: NDArray[np.float64]
    bias: Floats
    gradient: Floats
    squares: float


def follow_path(
    loss: SoftmaxLoss, candidates: Sequence[tuple[float, float]], max_steps: int
) -> Iterator[list[Minimum]]:
    """Solve all problems for each C in turn, each from an extrapolation of the solutions before it.

    The start is the line through the last two solutions (a secant predictor, E. L. Allgower
    and K. Georg, "Introduction to Numerical Continuation Methods" (2003), section 2.2): with
    C in equal steps of its logarithm it saves a fifth of the passes.

    Args:
        loss: The problems.
        candidates: Pairs of C and tol, as of scikit-learn's LogisticRegression, for features
            in the scaling of the loss; the smallest C first.
        max_steps: The most steps for one C.

    Yields:
        For each C, the solution of each problem; `SoftmaxLoss.split` takes it apart.
    """
    n_problems = loss.weights.shape[1]
    totals = loss.weights.sum(axis=0, dtype=np.float64)
    start = np.zeros((loss.X.shape[1] + 1, loss.n_outputs), np.float32)
    trail: list[list[Floats]] = [[start] * n_problems]
    whitening = Whitening.measure(loss.X, loss.lengths, loss.frames)
    for C, tol in candidates:
        penalties, tols = 1 / (C * totals * loss.sizes**2), tol / loss.sizes
        last, before = trail[-1], trail[-2 if len(trail) > 2 else -1]  # noqa: PLR2004 - the zeros are not a solution
        starts = {f: x + (x - y) for f, (x, y) in enumerate(zip(last, before, strict=True))}
        known, curvature = loss.evaluate(starts, penalties, tols)
        found = {f: Minimum(starts[f], 0, converged=True) for f, point in known.items() if point.done}
        rest = {f: starts[f] for f in starts if f not in found}
        if rest:
            coordinates = whitening.factorise(max(curvature, _LEAST_CURVATURE), float(penalties.mean()))
            found |= _descend_together(loss, coordinates, rest, known, (penalties, tols), max_steps)
        trail = [*trail[-2:], [found[f].x for f in range(n_problems)]]
        yield [found[f] for f in range(n_problems)]


def _descend_together(
    loss: SoftmaxLoss,
    coordinates: Coordinates,
    starts: Mapping[int, Floats],
    known: Mapping[int, Point],
    limits: tuple[NDArray[np.float64], NDArray[np.float64]],
    max_steps: int,
) -> dict[int, Minimum]:
    """Minimise several problems from starts whose values are known; one pass serves the next point of each."""
    descents = {f: descend(coordinates.enter(start), max_steps) for f, start in starts.items()}
    points = {f: next(descent) for f, descent in descents.items()}
    found: dict[int, Minimum] = {}
    known = {f: known[f] for f in starts}
    while points:
        slopes = coordinates.pull({f: point.gradient for f, point in known.items()})
        for f, point in known.items():
            try:
                points[f] = descents[f].send(replace(point, gradient=slopes[f]))
            except StopIteration as stop:
                found[f] = stop.value
                del points[f]
        if points:
            known, _ = loss.evaluate(coordinates.leave(points), *limits)
    solved = coordinates.leave({f: minimum.x for f, minimum in found.items()})
    return {f: replace(minimum, x=solved[f]) for f, minimum in found.items()}


def _compute_residuals(logits: Floats, positions: NDArray[np.intp], weights: Floats) -> NDArray[np.float64]:
    """Replace logits (n, n_problems, n_outputs) by weighted residuals; return the sums of the losses (n_problems,)."""
    if logits.shape[2] == 1:
        z, target = logits[..., 0], (positions == 1)[:, None]
        losses = np.logaddexp(0, np.where(target, -z, z))
        z[...] = (special.expit(z) - target) * weights
        binary: NDArray[np.float64] = np.sum(losses * weights, axis=0, dtype=np.float64)
        return binary
    items = np.arange(len(logits))
    logits -= logits.max(axis=2, keepdims=True)
    own = logits[items, :, positions]
    np.exp(logits, out=logits)
    sums = logits.sum(axis=2)
    losses = (np.log(sums) - own) * weights
    logits /= sums[..., None]
    logits[items, :, positions] -= 1
    logits *= weights[..., None]
    multinomial: NDArray[np.float64] = losses.sum(axis=0, dtype=np.float64)
    return multinomial


def describe_candidates(grid: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Return C and tol of each candidate, as `follow_path` takes them."""
    defaults = ScaledLogisticRegression()
    return [(params.get("C", defaults.C), params.get("tol", defaults.tol)) for params in grid]
