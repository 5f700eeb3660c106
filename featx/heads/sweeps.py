"""Sweeps: every value of a head's grid tried on all folds, at the cost of few fits.

A sweep returns the same as fitting the head once per candidate and fold, and tests compare
the two. It is code of our own only where candidates or folds share much of the work:
the paths of logistic regression and linear support vector machines, the values of a kernel,
the trees of a forest, the Gram matrix of ridge regression, the covariance of discriminant
analysis, the search for neighbours.
"""

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.class_weight import compute_sample_weight

from featx.heads.discriminant import Scatter, solve_wide
from featx.heads.linear import iterate_margins, score_rows, spread_margins, unfold
from featx.heads.linear_svm import HingePath
from featx.heads.logistic import SoftmaxLoss, describe_candidates, follow_path
from featx.heads.neighbours import Neighbourhood, find_neighbourhoods, make_keys
from featx.heads.networks import hold_out_units
from featx.heads.ridge import RidgeSystem, measure_weighted
from featx.heads.rows import FeatureRows
from featx.heads.scaling import Frame, Moments, make_scaler, measure_lengths
from featx.heads.sums import ClassSums, measure_sums

Floats = NDArray[np.float32]
#: The most memory for the kernel values of a fold: about 7,000 items.
_KERNEL_BYTES = 512 * 2**20

#: A third of the trees predicts an item that they did not draw: 100 of the default forest.
_FEWEST_TREES = 100

Split = tuple[NDArray[np.intp], NDArray[np.intp]]

#: Parameters, a seed and a scaling to a classifier that is not fitted.
Build = Callable[[Mapping[str, Any], int, str], Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """The items that a head is tuned on, and their folds.

    Attributes:
        X: float32 (n_items, dim), not scaled.
        positions: int (n_items,), the position of each item's class.
        splits: For each fold, the training items and the held-out items.
        units: int (n_items,), items with equal values are left out together by sweeps that leave out single items.
        n_classes: Number of classes; the training items of a fold may lack some.
        seed: Seed of everything random.
        advance: Called after each fit.
        report: Called with the number of a candidate and a warning.
        offer: Called with the number of a candidate and a function that returns it fitted to all items,
            where the sweep has all that this takes.
        shared: Sums over the items of a sweep under another scaling, by whether items are divided by their lengths.
    """

    X: FeatureRows
    positions: NDArray[np.intp]
    splits: Sequence[Split]
    units: NDArray[np.intp]
    n_classes: int
    seed: int
    advance: Callable[[], None]
    report: Callable[[int, warnings.WarningMessage], None]
    offer: Callable[[int, Callable[[], Any]], None]
    shared: dict[bool, list[ClassSums]] = field(default_factory=dict)

    def reserve_scores(self, n_candidates: int) -> Floats:
        """Return an array for the scores of all candidates, filled with minus infinity."""
        scores = self.X.reserve((n_candidates, len(self.positions), self.n_classes))
        scores[...] = -np.inf
        return scores

    def share_sums(self, scaling: str, measure: Callable[[], list[ClassSums]]) -> list[ClassSums]:
        """Return the sums that an earlier scaling measured, if it divides items as this one does."""
        is_divided = scaling == "l2"
        if is_divided not in self.shared:
            self.shared[is_divided] = measure()
        return self.shared[is_divided]


#: Yields, for each candidate, the scores of all items while each is held out: float32 (n_items, n_classes),
#: log-probabilities or margins; minus infinity for classes that were not trained on.
Sweep = Callable[[Build, Sequence[Mapping[str, Any]], str, Problem], Iterator[Floats]]


def sweep_each(
    build: Build, grid: Sequence[Mapping[str, Any]], scaling: str, problem: Problem, *, shares_kernel: bool = False
) -> Iterator[Floats]:
    """Fit every candidate on every fold; each fold is scaled once for all candidates.

    Args:
        build: As for every sweep.
        grid: As for every sweep.
        scaling: As for every sweep.
        problem: As for every sweep.
        shares_kernel: Whether the classifier is an SVC with the RBF kernel, whose values are then computed once
            for a fold, unless they need too much memory.
    """
    scores = problem.reserve_scores(len(grid))
    for train, held in problem.splits:
        X_train: NDArray[Any] = problem.X[train]
        X_held: NDArray[Any] = problem.X[held]
        if scaling != "none":
            scaler = make_scaler(scaling, copy=False)  # indexing has just copied
            X_train, X_held = scaler.fit_transform(X_train), scaler.transform(X_held)
        if shares_kernel and 8 * len(train) * (len(train) + len(held)) <= _KERNEL_BYTES:
            gamma = build(grid[0], problem.seed, "none").gamma
            X_train, X_held = compute_kernel(X_train, X_held, gamma)
        for i, params in enumerate(grid):
            with record_warnings() as caught:
                model = build(params, problem.seed, "none")
                if X_train.dtype == np.float64:
                    model.set_params(kernel="precomputed")
                model.fit(X_train, problem.positions[train])
                scores[i, held] = score_items(model, X_held, problem.n_classes)
            for warning in caught:
                problem.report(i, warning)
            problem.advance()
    yield from scores


def sweep_forest(build: Build, grid: Sequence[Mapping[str, Any]], scaling: str, problem: Problem) -> Iterator[Floats]:
    """Fit every candidate once, and predict each item by those trees that did not draw it (Breiman 2001, section 3.1).

    It is also the forest for all items, three times as fast as fits on three folds and then on all. Items of one unit
    would be drawn apart, few trees leave few for an item, and a scaling belongs to its fold: these use the folds.
    """
    alone = len(np.unique(problem.units)) == len(problem.units)
    models = [build(params, problem.seed, scaling) for params in grid]
    if not alone or scaling != "none" or min(model.n_estimators for model in models) < _FEWEST_TREES:
        yield from sweep_each(build, grid, scaling, problem)
        return
    for i, model in enumerate(models):
        with record_warnings() as caught:
            model.set_params(oob_score=True).fit(np.asarray(problem.X), problem.positions)
        for warning in caught:
            problem.report(i, warning)
        scores = _take_logarithm(model.oob_decision_function_).astype(np.float32)
        del model.oob_decision_function_, model.oob_score_  # a bundle holds nothing of single items
        problem.offer(i, functools.partial(model.set_params, oob_score=False))
        for _ in problem.splits:
            problem.advance()
        yield scores


def compute_kernel(
    X_train: Floats, X_held: Floats, gamma: float | str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the RBF kernel of training items with themselves, and of held-out items with them, as SVC has it.

    Args:
        X_train: float32 (n_train, dim).
        X_held: float32 (n_held, dim).
        gamma: A number, or `scale` for 1 / (dim * variance of all training values).
    """
    known = X_train.astype(np.float64)
    width = 1 / (known.shape[1] * (known.var() or 1)) if gamma == "scale" else float(gamma)
    squares = np.einsum("ij,ij->i", known, known)
    kernels = []
    for X in (known, X_held.astype(np.float64)):
        kernel = X @ known.T
        kernel *= 2 * width
        kernel -= width * np.einsum("ij,ij->i", X, X)[:, None]
        kernel -= width * squares
        kernels.append(np.exp(np.minimum(kernel, 0, out=kernel), out=kernel))
    return kernels[0], kernels[1]


def sweep_stopping(build: Build, grid: Sequence[Mapping[str, Any]], scaling: str, problem: Problem) -> Iterator[Floats]:
    """Fit every candidate separately; each stops early by whole units of the training items of its fold."""
    scores = problem.reserve_scores(len(grid))
    for train, held in problem.splits:
        targets = problem.positions[train]
        validation = hold_out_units(targets, problem.seed, problem.units[train])
        for i, params in enumerate(grid):
            with record_warnings() as caught:
                model = build(params, problem.seed, scaling)
                model.fit(problem.X.take(train), targets, validation, curves=False)
                scores[i, held] = score_items(model, problem.X.take(held), problem.n_classes)
            for warning in caught:
                problem.report(i, warning)
            problem.advance()
    yield from scores


def sweep_path(build: Build, grid: Sequence[Mapping[str, Any]], scaling: str, problem: Problem) -> Iterator[Floats]:
    """Fit logistic regression for all C in turn, each from the solutions before it, all folds in one pass."""
    model = build(grid[0], problem.seed, scaling)
    weights = np.zeros((len(problem.X), len(problem.splits)), np.float32)
    for fold, (train, _) in enumerate(problem.splits):
        weights[train, fold] = compute_sample_weight(model.class_weight, problem.positions[train])
    loss = SoftmaxLoss.prepare(problem.X, problem.positions, weights, scaling)
    for i, solutions in enumerate(follow_path(loss, describe_candidates(grid), model.max_iter)):
        [scores] = problem.reserve_scores(1)
        for fold, (solution, (train, held)) in enumerate(zip(solutions, problem.splits, strict=True)):
            coef, intercept = unfold(*loss.split(solution.x, fold), loss.frames[fold])
            lengths = None if loss.lengths is None else loss.lengths[held]
            present = np.flatnonzero(np.bincount(problem.positions[train]))
            for block, margins in iterate_margins(problem.X.take(held), coef, intercept, lengths):
                own = spread_margins(margins)[:, present]
                scores[held[block, None], present] = special.log_softmax(own, axis=1)
            problem.advance()
        if not all(solution.converged for solution in solutions):
            report_unfinished(problem, i)
        yield scores


def sweep_hinge(build: Build, grid: Sequence[Mapping[str, Any]], scaling: str, problem: Problem) -> Iterator[Floats]:
    """Fit linear support vector machines for all C in turn, all classes and folds together."""
    models = [build(params, problem.seed, scaling) for params in grid]
    trains = [train for train, _ in problem.splits]
    path = HingePath.prepare(problem.X, problem.positions, trains, scaling, models[0].class_weight)
    lengths = path.columns.lengths
    for i, solution in enumerate(path.follow([model.C for model in models], models[0].tol, models[0].max_iter)):
        scores = np.full((len(problem.X), problem.n_classes), -np.inf, np.float32)
        for fold, (train, held) in enumerate(problem.splits):
            near = None if lengths is None else lengths[held]
            margins = score_rows(problem.X.take(held), *path.unfold(solution, fold), near)
            scores[held[:, None], np.unique(problem.positions[train])] = spread_margins(margins)
            problem.advance()
        if not solution.converged:
            report_unfinished(problem, i)
        yield scores


def report_unfinished(problem: Problem, number: int) -> None:
    """Report that a candidate did not converge."""
    with record_warnings() as caught:
        warnings.warn("did not converge", ConvergenceWarning, stacklevel=1)
    problem.report(number, caught[0])


def sweep_ridge(build: Build, grid: Sequence[Mapping[str, Any]], scaling: str, problem: Problem) -> Iterator[Floats]:
    """Leave out every item, or unit of items, from ridge regression for all alphas; the folds are not needed."""
    model = build(grid[0], problem.seed, scaling)
    asked = (problem.X, problem.positions, scaling, model.class_weight)
    [sums] = problem.share_sums(scaling, lambda: measure_weighted(*asked))
    system = RidgeSystem.prepare(*asked, sums)
    path = system.follow_path([params["alpha"] for params in grid], problem.units)
    for i, params in enumerate(grid):
        problem.offer(i, functools.partial(path.fit, build(params, problem.seed, scaling), problem.n_classes))
        for _ in problem.splits:
            problem.advance()
        yield spread_margins(path.predictions[i])


def sweep_shrinkage(
    build: Build, grid: Sequence[Mapping[str, Any]], scaling: str, problem: Problem
) -> Iterator[Floats]:
    """Solve linear discriminant analysis for all shrinkages; one pass computes the sums that all folds need."""
    models = [build(params, problem.seed, scaling) for params in grid]
    shrinkages, priors = [model.shrinkage for model in models], models[0].priors
    lengths = measure_lengths(problem.X, scaling)
    folds = np.empty(len(problem.X), np.intp)
    for fold, (_, held) in enumerate(problem.splits):
        folds[held] = fold
    covariance = min(shrinkages) < 1
    wide = covariance and min(len(train) for train, _ in problem.splits) < problem.X.shape[1]
    scatter = None
    if not wide:
        measure = functools.partial(measure_sums, problem.X, problem.positions, lengths)
        parts = problem.share_sums(scaling, lambda: measure(folds=folds, products=covariance))
        scatter = Scatter(scaling, tuple(parts))
    scores = problem.reserve_scores(len(grid))
    for fold, (train, held) in enumerate(problem.splits):
        present = np.flatnonzero(np.bincount(problem.positions[train]))
        rows, near = problem.X.take(held), None if lengths is None else lengths[held]
        if scatter is None:
            part = None if lengths is None else lengths[train]
            targets = problem.positions[train]
            solutions = solve_wide(problem.X.take(train), targets, part, scaling, shrinkages, priors)
        else:
            solutions = scatter.solve(fold, shrinkages, priors)
        coef, intercept = (np.concatenate(parts, axis=-1) for parts in zip(*solutions, strict=True))
        for block, margins in iterate_margins(rows, coef, intercept, near):  # of all candidates in one pass
            for one, own in zip(scores, np.split(margins, len(grid), axis=1), strict=True):
                one[held[block, None], present] = special.log_softmax(own, axis=1)
        for _ in grid:
            problem.advance()
    if scatter is not None:
        for i, model in enumerate(models):
            problem.offer(i, functools.partial(scatter.fit, model, problem.n_classes))
    yield from scores


def sweep_neighbours(
    build: Build, grid: Sequence[Mapping[str, Any]], scaling: str, problem: Problem
) -> Iterator[Floats]:
    """Vote among the nearest items by cosine, for all numbers of them from one search."""
    most = max(params["n_neighbors"] for params in grid)
    scores = problem.reserve_scores(len(grid))
    for train, held in problem.splits:
        known, classes = problem.X.take(train), problem.positions[train]
        frame = Frame.make(scaling, Moments.measure(known, np.ones((len(known), 1))))
        keys = make_keys(known, frame)
        for rows, near in find_neighbourhoods(problem.X.take(held), keys, frame, most):
            hood = Neighbourhood(near.similarities, classes[near.positions])
            for i, params in enumerate(grid):
                model = build(params, problem.seed, scaling)
                shares = hood.vote(model.n_neighbors, model.weights, model.temperature, problem.n_classes)
                scores[i, held[rows]] = _take_logarithm(shares)
        for _ in grid:
            problem.advance()
    yield from scores


def score_items(model: Any, X: FeatureRows | Floats, n_classes: int) -> NDArray[Any]:  # noqa: ANN401 - any fitted classifier
    """Score items: log-probabilities, or margins if there are no probabilities.

    Args:
        model: A fitted classifier on positions of classes.
        X: float32 (n_items, dim).
        n_classes: Number of classes, of which the model may know a part.

    Returns:
        float (n_items, n_classes); minus infinity for classes that were not trained on.
    """
    if hasattr(model, "score_classes"):
        scores = model.score_classes(X)
    elif hasattr(model, "predict_proba"):
        scores = _take_logarithm(model.predict_proba(X))
    else:
        margins = model.decision_function(X)
        scores = np.stack([-margins, margins], 1) if margins.ndim == 1 else margins
    placed = np.full((len(scores), n_classes), -np.inf, scores.dtype)
    placed[:, model.classes_] = scores
    return placed


def record_warnings() -> "warnings.catch_warnings[list[warnings.WarningMessage]]":
    """Collect every warning, to be reported as a note instead of printed."""
    return warnings.catch_warnings(record=True, action="always")


def _take_logarithm(probabilities: NDArray[Any]) -> NDArray[Any]:
    # The smallest probability is that of scikit-learn's temperature scaling.
    logarithms: NDArray[Any] = np.log(probabilities + np.asarray(1e-12, probabilities.dtype))
    return logarithms
