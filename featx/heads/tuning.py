"""Tuning: choose a head's parameters and scaling on folds."""

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from featx.errors import DataError
from featx.heads.fitting import (
    Split,
    check_data,
    choose_validation,
    describe_warning,
    limit_threads,
    name_targets,
    record_warnings,
    split_folds,
)
from featx.heads.scaling import make_scaler, measure_spread
from featx.heads.sweeps import Fold, rotate
from featx.heads.table import Head
from featx.options import Progress
from featx.specs import HeadSpec

#: Logarithm of the least probability in a log-loss, which is that of the scores themselves.
_LOWEST = math.log(1e-12)


@dataclass(frozen=True, slots=True)
class Candidate:
    """Parameters and a scaling that were tried, and how well they did.

    Attributes:
        params: The parameters that are not left to the head's settings.
        scaling: The scaling.
        strength: Place among the parameters tried, 0 for the strongest regularisation.
        accuracy: Share of all items that were right while held out.
        accuracy_std: Standard deviation of the folds' accuracies.
        log_loss: Mean over the held-out items; None for a head that is calibrated,
            as that happens after tuning.
    """

    params: Mapping[str, Any]
    scaling: str
    strength: int
    accuracy: float
    accuracy_std: float
    log_loss: float | None

    def __str__(self) -> str:
        return _name(self.params, self.scaling)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, ready for JSON."""
        return asdict(self) | {"params": dict(self.params)}


@dataclass(frozen=True, slots=True)
class Tuned:
    """What tuning chose, and how every item fared while it was held out.

    Attributes:
        best: The winner.
        candidates: All that were tried, in the order tried.
        classes: int (n_classes,), the targets that the columns of the probabilities stand for.
        predictions: int (n_items,), the target predicted for each item by the winner
            when its fold was held out.
        probabilities: float64 (n_items, n_classes), likewise; for a calibrated head,
            with a temperature fitted to the other folds.
        notes: What a user should know.
    """

    best: Candidate
    candidates: tuple[Candidate, ...]
    classes: NDArray[np.int64]
    predictions: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    notes: tuple[str, ...]

    @property
    def params(self) -> Mapping[str, Any]:
        """The best parameters."""
        return self.best.params

    @property
    def scaling(self) -> str:
        """The best scaling."""
        return self.best.scaling


def tune(
    head: Head,
    X: ArrayLike,
    y: ArrayLike,
    folds: ArrayLike,
    *,
    spec: HeadSpec,
    progress: Progress | None = None,
    parts: ArrayLike | None = None,
) -> Tuned:
    """Try the head's grid under its scalings on folds, and choose the best.

    The best has the highest accuracy on held-out items; among equals the lowest
    log-loss, if the head has probabilities before calibration; then the strongest
    regularisation; then the scaling that comes first.

    No item's prediction comes from a model that learnt from it, but the best of many
    is also the luckiest: the winner's accuracy is a little above what new items will
    show, the more so the fewer the items (Cawley & Talbot 2010, section 5). A test
    split that tuning has not seen has no such bias.

    Args:
        head: The row of the table.
        X: float32 (n_items, dim), features, not scaled.
        y: int (n_items,), targets.
        folds: int (n_items,), the fold that holds each item out. Items that belong
            together, by group or by equal bytes, must be in one fold.
        spec: Its `params` and `scaling`, where given, are not searched; its `seed` is used.
        progress: Called after each fit with how many are done, and how many there are.
        parts: int (n_items,), a finer deal of the items, likewise; a head that stops early
            stops by the training items of one part. None lets it choose items at random.

    Returns:
        The choice, the table of candidates and the held-out predictions.

    Raises:
        DataError: If nothing can be learnt from these items and folds.
        UnknownNameError: If the spec names an unknown parameter or scaling.
        UsageError: If a parameter does not fit.
    """
    X, y = check_data(X, y)
    classes, positions = np.unique(y, return_inverse=True)
    stopping = None if parts is None or not head.stops_early else np.asarray(parts)
    problem = _Problem(head, X, positions, split_folds(folds, positions), len(classes), spec.seed, stopping)
    plan = plan_candidates(head, X, spec, min(len(train) for train, _ in problem.splits))
    advance = _count_fits(progress, len(problem.splits) * sum(map(len, plan.values())))
    candidates: list[Candidate] = []
    troubles: list[tuple[str, str]] = []
    best: Candidate | None = None
    for scaling, grid in plan.items():
        with limit_threads(head, X.size):
            scores = _score(problem, grid, scaling, advance, troubles)
        tried = [_judge(problem, params, scaling, strength, scores[strength]) for strength, params in enumerate(grid)]
        leader = min(tried, key=_rank)
        if best is None or _rank(leader) < _rank(best):
            best, best_scores = leader, scores[leader.strength].copy()
        candidates += tried
    assert best is not None  # noqa: S101 - a head has at least one scaling
    notes = [*_note_lonely(problem, classes), *_note_troubles(head, best, len(candidates), troubles)]
    notes += _note_edge(head, best, plan[best.scaling], spec)
    probabilities = _make_probabilities(problem, best_scores)
    return Tuned(best, tuple(candidates), classes, classes[best_scores.argmax(axis=1)], probabilities, tuple(notes))


def plan_candidates(
    head: Head, X: NDArray[np.float32], spec: HeadSpec, n_train: int
) -> dict[str, list[dict[str, Any]]]:
    """List the parameters to try under each scaling, the strongest regularisation first.

    Args:
        head: The row of the table.
        X: float32 (n_items, dim), features, not scaled; their spread sets the grid's unit.
        spec: What it fixes is not searched.
        n_train: Items in the smallest part that a fold leaves to learn from.

    Raises:
        DataError: If more neighbours are asked for than there are items.
        UnknownNameError: If the spec names an unknown parameter or scaling.
        UsageError: If a parameter does not fit.
    """
    fixed = head.check_params(spec.params)
    plan = {}
    for scaling in head.scalings if spec.scaling is None else (spec.scaling,):
        make_scaler(scaling)  # refuses a name that is unknown, before anything is fitted
        spread = measure_spread(X, scaling) if head.grid_unit or head.tol else 1.0
        unit = 10.0 ** round(math.log10(spread))
        rest = {}
        if head.tol is not None and "tol" not in fixed:
            rest["tol"] = float(f"{head.tol * math.sqrt(spread / X.shape[1]):.2g}")
        free = {name: values for name, values in head.grid.items() if name not in fixed}
        grid = [
            fixed
            | {name: _multiply(value, unit**head.grid_unit) for name, value in zip(free, values, strict=True)}
            | rest
            for values in itertools.product(*free.values())
        ]
        plan[scaling] = [params for params in grid if params.get("n_neighbors", 0) <= n_train]
        if not plan[scaling]:
            k = grid[-1]["n_neighbors"]
            msg = (
                f"{head.name} n_neighbors={k}, but a fold leaves {n_train} items to learn from; choose fewer neighbours"
            )
            raise DataError(msg)
    return plan


def fit_temperature(scores: NDArray[Any], positions: NDArray[np.intp]) -> float:
    """Fit the factor that makes softmax(factor * scores) the best probabilities.

    The factor is 1 / temperature (Guo et al. 2017, On Calibration of Modern Neural
    Networks, section 4.2); it minimises the log-loss, which is convex in it.

    Args:
        scores: float (n_items, n_classes); minus infinity for a class not learnt.
        positions: int (n_items,), the column of each item's class; its score is finite.
    """
    scores = scores.astype(np.float64)
    own = scores[np.arange(len(scores)), positions]

    def measure_loss(log_factor: float) -> float:
        factor = math.exp(log_factor)
        return float(np.mean(special.logsumexp(factor * scores, axis=1) - factor * own))

    return math.exp(optimize.minimize_scalar(measure_loss, bounds=(-10, 10), method="bounded").x)


@dataclass(frozen=True, slots=True)
class _Problem:
    head: Head
    X: NDArray[np.float32]
    positions: NDArray[np.intp]
    splits: list[Split]
    n_classes: int
    seed: int
    parts: NDArray[Any] | None


def _score(
    problem: _Problem,
    grid: Sequence[Mapping[str, Any]],
    scaling: str,
    advance: Callable[[], None],
    troubles: list[tuple[str, str]],
) -> NDArray[np.float32]:
    """Score all items, each while held out: float32 (n_candidates, n_items, n_classes)."""
    scores = np.empty((len(grid), len(problem.positions), problem.n_classes), np.float32)
    build = functools.partial(problem.head.build, scaling=scaling)
    for train, held in problem.splits:
        scaler = make_scaler(scaling, copy=False)  # indexing has just copied
        X_train, X_held = problem.X[train], problem.X[held]
        if scaling != "none" and not problem.head.folds_scaling:
            X_train, X_held = scaler.fit_transform(X_train), scaler.transform(X_held)
        y_train = problem.positions[train]
        stopping = None if problem.parts is None else choose_validation(problem.parts[train], y_train)
        fold = Fold(X_train, y_train, X_held, problem.X.shape[1], problem.n_classes, stopping)
        if problem.head.rotates and len(train) < fold.dim:
            fold = rotate(fold)
        with record_warnings() as caught:
            for i, fold_scores in enumerate(problem.head.sweep(build, grid, fold, problem.seed)):
                scores[i, held] = fold_scores
                troubles += [
                    (_name(grid[i], scaling), describe_warning(warning, problem.head, grid[i])) for warning in caught
                ]
                caught.clear()
                advance()
    return scores


def _judge(
    problem: _Problem, params: Mapping[str, Any], scaling: str, strength: int, scores: NDArray[np.float32]
) -> Candidate:
    right = scores.argmax(axis=1) == problem.positions
    by_fold = [right[held].mean() for _, held in problem.splits]
    log_loss = None
    if not problem.head.calibrated:
        own = scores[np.arange(len(scores)), problem.positions]
        log_loss = float(-np.maximum(own, _LOWEST).mean(dtype=np.float64))
    return Candidate(params, scaling, strength, float(right.mean()), float(np.std(by_fold)), log_loss)


def _rank(candidate: Candidate) -> tuple[float, float, int]:
    return (-candidate.accuracy, candidate.log_loss or 0.0, candidate.strength)


def _make_probabilities(problem: _Problem, scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Turn scores into probabilities; a temperature for one fold is fitted to the others."""
    if not problem.head.calibrated:
        return special.softmax(scores.astype(np.float64), axis=1)
    learnt = np.isfinite(scores[np.arange(len(scores)), problem.positions])
    probabilities = np.empty(scores.shape)
    for train, held in problem.splits:
        rows = train[learnt[train]] if learnt[train].any() else np.flatnonzero(learnt)
        factor = fit_temperature(scores[rows], problem.positions[rows])
        probabilities[held] = special.softmax(factor * scores[held].astype(np.float64), axis=1)
    return probabilities


def _count_fits(progress: Progress | None, total: int) -> Callable[[], None]:
    done = itertools.count(1)

    def advance() -> None:
        if progress is not None:
            progress(next(done), total)

    return advance


def _multiply(value: float, factor: float) -> float:
    """Multiply by a power of ten; 1 stays the whole number, and 0.1 does not become 0.1000...01."""
    return value if factor == 1 else float(f"{value * factor:.6g}")


def _name(params: Mapping[str, Any], scaling: str) -> str:
    return " ".join([*(f"{name}={value}" for name, value in params.items()), f"scaling={scaling}"])


def _note_lonely(problem: _Problem, classes: NDArray[np.int64]) -> list[str]:
    lonely = [
        int(k)
        for train, held in problem.splits
        for k in np.setdiff1d(problem.positions[held], problem.positions[train])
    ]
    if not lonely:
        return []
    return [
        f"{name_targets(classes[lonely])}: in one fold only, and so never right while held out; add items or groups"
    ]


def _note_troubles(head: Head, best: Candidate, n_candidates: int, troubles: list[tuple[str, str]]) -> list[str]:
    notes = []
    for text in dict.fromkeys(text for _, text in troubles):
        names = list(dict.fromkeys(name for name, other in troubles if other == text))
        shown = "; ".join(names[:3]) + ("; ..." if len(names) > 3 else "")  # noqa: PLR2004 - a note is one line
        chosen = "the best one among them" if str(best) in names else "not the best one"
        notes.append(f"{head.name} {text} ({len(names)} of {n_candidates} candidates, {chosen}: {shown})")
    return notes


def _note_edge(head: Head, best: Candidate, grid: Sequence[Mapping[str, Any]], spec: HeadSpec) -> list[str]:
    """Note a best value at an end of a grid that has a unit, and so might go further."""
    if not head.grid_unit or len(grid) < 2 or best.strength not in (0, len(grid) - 1):  # noqa: PLR2004 - no ends
        return []
    edge = next(name for name in head.grid if name not in spec.params)
    value = best.params[edge]
    return [f"{head.name} {edge}={value} is best and at the end of what was tried; --param {edge}=... goes further"]
