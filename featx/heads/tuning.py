"""Tuning: choose a head's parameters and scaling on folds."""

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from sklearn.utils.class_weight import compute_sample_weight

from featx.errors import DataError
from featx.heads.calibration import fit_temperature
from featx.heads.calibration_choice import HeldOut, choose_calibration
from featx.heads.fitting import (
    FittedHead,
    check_data,
    describe_warning,
    explain_failure,
    fit_head,
    limit_threads,
    split_folds,
)
from featx.heads.rows import DOUBLES, FeatureRows, TrainingRows, cut_rows
from featx.heads.scaling import check_scaling, measure_spread
from featx.heads.sums import ClassSums
from featx.heads.sweeps import Problem
from featx.heads.table import Head
from featx.reporting import Progress
from featx.results import Candidate, name_candidate
from featx.specs import HeadSpec

#: Raised whenever tuning or calibration chooses differently: what other rules chose is computed again.
RULES = 3

#: The largest loss of an item: that of the least probability in the scores.
_MOST_LOSS = -math.log(1e-12)

#: Log-losses that differ by less, in nats, are equal: 1 % in the probability of the true class.
_EQUAL_LOSS = 0.01

#: Accuracies that differ by less are equal.
_ROUNDING = 1e-12

#: A note is one line: it names no more classes than this.
_MOST_NAMES = 8


@dataclass(frozen=True, slots=True)
class Tuned:
    """The choice of tuning, and the scores of every item while it was held out.

    Attributes:
        spec: The spec of the chosen candidate, to be fitted to all items.
        best: The chosen candidate.
        candidates: All candidates, in the order tried.
        classes: int (n_classes,), the target of each column of the probabilities.
        scores: float32 (n_items, n_classes), of the chosen candidate for each item while its fold (or
            itself, for a head that leaves out one item at a time) was held out.
        positions: int (n_items,), the true class of each item among `classes`.
        probabilities: float64 (n_items, n_classes), from the scores; for a calibrated head,
            with a calibration fitted to the other folds.
        notes: What a user should know.
        single_fold: Targets whose items are all in one fold, and which are therefore wrong while that is held out;
            `describe_single_fold` words a note on them.
        fitted: The chosen candidate fitted to all of these items, with positions as classes, where tuning
            has computed all that this takes; else None.
    """

    spec: HeadSpec
    best: Candidate
    candidates: tuple[Candidate, ...]
    classes: NDArray[np.int64]
    scores: NDArray[np.float32]
    positions: NDArray[np.intp]
    probabilities: NDArray[np.float64]
    notes: tuple[str, ...]
    single_fold: tuple[int, ...] = ()
    fitted: Any = None

    @property
    def params(self) -> Mapping[str, Any]:
        """The best parameters."""
        return self.best.params

    @property
    def scaling(self) -> str:
        """The best scaling."""
        return self.best.scaling

    @property
    def predictions(self) -> NDArray[np.int64]:
        """The target predicted for each item while it was held out: int (n_items,)."""
        chosen: NDArray[np.int64] = self.classes[self.probabilities.argmax(axis=1)]
        return chosen


def tune(
    head: Head,
    X: ArrayLike | FeatureRows,
    y: ArrayLike,
    folds: ArrayLike,
    *,
    spec: HeadSpec,
    units: ArrayLike | None = None,
    copies: int = 1,
    progress: Progress | None = None,
) -> Tuned:
    """Try the head's grid under its scalings on folds, and choose a candidate.

    A candidate is close enough to the best if no other one's accuracy on held-out items, less its
    standard error, is higher: the items cannot tell them apart. Of these, the one with the lowest log-loss
    is chosen, or the strongest regularisation whose log-loss is within 0.01 nats of it. Equals go
    to the scaling that comes first. The log-loss of a head with calibration is that after a temperature, unless
    the spec asks for no calibration. A standard error counts items of one unit as one. If `class_weight` is
    `balanced`, accuracy and log-loss are those of equally frequent classes. For the head of a
    protocol, only the highest accuracy is close enough (`Head.tolerance` is 0).

    No item is predicted by a model that was trained on it, but the best of many is also the
    luckiest: its accuracy is a little above that on new items, and the more so the fewer the
    items (Cawley & Talbot 2010, section 5). A test split that tuning has not seen has no such bias.

    Args:
        head: The row of the table.
        X: float32 (n_items, dim), features, not scaled.
        y: int (n_items,), targets.
        folds: int (n_items,), the fold that holds each item out. Items that belong
            together, by group or by equal bytes, must be in one fold.
        units: (n_items,), items with equal values stay together: `ridge`, which leaves out
            single items rather than folds, leaves them out together. None if each item is a unit.
        copies: Rows of each item, its plain image first; the scores of the others do not calibrate.
        spec: Its `params` and `scaling`, where given, are not searched; its `seed` is used.
        progress: Called after each fit with how many are done, and how many there are.

    Returns:
        The choice, the table of candidates and the held-out predictions.

    Raises:
        DataError: If the head cannot be fitted to these items and folds.
        UnknownNameError: If the spec names an unknown parameter or scaling.
        UsageError: If a parameter does not fit.
    """
    rows, y = check_data(X, y)
    classes, positions = np.unique(y, return_inverse=True)
    splits = split_folds(folds, positions)
    plan = plan_candidates(head, rows, spec, min(len(train) for train, _ in splits))
    warned = _Warnings(head)
    alone = np.arange(len(positions)) if units is None else np.unique(units, return_inverse=True)[1]
    advance = _count_fits(progress, len(splits) * sum(map(len, plan.values())))
    weights = compute_sample_weight(head.check_params(spec.params).get("class_weight"), positions)
    calibrated = head.calibrated and spec.calibration != "none"
    candidates, shortlist, shared = list[Candidate](), Shortlist(head.tolerance), dict[bool, list[ClassSums]]()
    for scaling, grid in plan.items():
        report, offers = functools.partial(warned.add, grid, scaling), dict[int, Callable[[], Any]]()
        seen = rows.scale_parts(scaling)
        asked = (seen, positions, splits, alone, len(classes), spec.seed, advance, report, offers.__setitem__)
        problem = Problem(*asked, shared)
        with limit_threads(head, len(rows) * rows.shape[1]):
            for strength, scores in enumerate(head.sweep(head.build, grid, scaling, problem)):
                candidate = Candidate(grid[strength], scaling, strength)
                entry = _measure(problem, candidate, scores, weights, calibrated=calibrated)
                candidates.append(entry.candidate)
                shortlist.add(replace(entry, offer=offers.get(strength)))
    winner = shortlist.choose()
    best, scores = winner.candidate, winner.scores
    notes = (*warned.describe(best, len(candidates)), *_note_edge(head, best, candidates, spec))
    fitted, single_fold = winner.offer and winner.offer(), _find_single_fold(problem, classes)
    del winner, shortlist, offers, problem, asked, shared  # the products of features of each fold
    held_out = HeldOut(scores, positions, splits, alone, weights).keep_items(copies)
    calibration = choose_calibration(held_out, spec.calibration, margins=head.margins)
    notes = (*notes, *(f"{head.name} {note}" for note in calibration.notes))
    chosen = replace(spec, params=best.params, scaling=best.scaling, calibration=calibration.method)
    scores, positions, chances = held_out.scores, held_out.positions, calibration.probabilities
    return Tuned(chosen, best, tuple(candidates), classes, scores, positions, chances, notes, single_fold, fitted)


@dataclass(frozen=True, slots=True)
class TunedHead:
    """A head that was tuned and fitted on the same rows.

    Attributes:
        spec: The chosen parameters and scaling, and the rest of the spec.
        fitted: The head, fitted to all rows.
        tuned: The result of tuning; None where there was nothing to choose.
    """

    spec: HeadSpec
    fitted: FittedHead
    tuned: Tuned | None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, except on `single_fold`: notes of tuning, then of the fit."""
        return (*(self.tuned.notes if self.tuned else ()), *self.fitted.notes)

    @property
    def single_fold(self) -> tuple[int, ...]:
        """See `Tuned.single_fold`."""
        return self.tuned.single_fold if self.tuned else ()


def tune_and_fit(
    head: Head, rows: TrainingRows, spec: HeadSpec, *, always_tune: bool = True, progress: Progress | None = None
) -> TunedHead:
    """Tune a head on folds, and fit what was chosen to the same rows.

    Args:
        head: The row of the table.
        rows: The rows to tune and fit on.
        spec: Parameters and scaling that are fixed; the others are tuned.
        always_tune: Whether to tune even where there is one candidate and nothing to calibrate, for the
            held-out scores.
        progress: Called after each fit of the tuning with how many are done, and how many there are.

    Raises:
        DataError: If the head cannot be fitted to these rows.
    """
    with explain_failure(spec):
        only = None if always_tune else _find_only_choice(head, rows, spec)
        if only is not None:
            fitted = fit_head(head, rows.features, rows.targets, only, rows.folds, units=rows.units)
            return TunedHead(only, fitted, None)
    tuned = tune_rows(head, rows, spec, progress=progress)
    return TunedHead(tuned.spec, fit_tuned(head, rows, tuned, fitted=tuned.fitted), tuned)


def tune_rows(head: Head, rows: TrainingRows, spec: HeadSpec, *, progress: Progress | None = None) -> Tuned:
    """Tune a head on the folds of some rows; see `tune`.

    Raises:
        DataError: If the head cannot be fitted to these rows.
    """
    with explain_failure(spec):
        return tune(
            head,
            rows.features,
            rows.targets,
            rows.folds,
            spec=spec,
            units=rows.units,
            copies=rows.copies,
            progress=progress,
        )


def fit_tuned(head: Head, rows: TrainingRows, tuned: Tuned, *, fitted: Any = None) -> FittedHead:  # noqa: ANN401 - as `Tuned.fitted`
    """Fit what was chosen to some rows: those that it was chosen on, or more.

    Args:
        head: The row of the table.
        rows: The rows to fit on.
        tuned: The result of tuning.
        fitted: `tuned.fitted`, if the rows are those that it was chosen on.

    Raises:
        DataError: If the head cannot be fitted to these rows.
    """
    # Scores of other classes than these cannot calibrate; then the head makes its own.
    same = set(rows.targets.tolist()) == set(tuned.classes.tolist())
    held_out = (tuned.scores, tuned.classes[tuned.positions]) if same else None
    with explain_failure(tuned.spec):
        return fit_head(
            head,
            rows.features,
            rows.targets,
            tuned.spec,
            rows.folds,
            units=rows.units,
            held_out=held_out,
            fitted=fitted,
        )


def describe_single_fold(targets: Sequence[int], classes: Sequence[str]) -> list[str]:
    """Word a note on the classes whose items are all in one fold; no note if there are none."""
    if not targets:
        return []
    names = ", ".join(repr(classes[target]) for target in targets[:_MOST_NAMES])
    if len(targets) > _MOST_NAMES:
        names += f" and {len(targets) - _MOST_NAMES} more"
    if len(targets) == 1:
        which, more = f"class {names} is", "items as wrong; add more items or groups of this class"
        return [f"{which} in one fold only, so tuning counts its {more}"]
    which, more = f"classes {names} are each", "items as wrong; add more items or groups of these classes"
    return [f"{which} in one fold only, so tuning counts their {more}"]


def _find_only_choice(head: Head, rows: TrainingRows, spec: HeadSpec) -> HeadSpec | None:
    """Return the only candidate of a head without calibration; None where tuning is needed."""
    check_data(rows.features, rows.targets)
    plan = plan_candidates(head, rows.features, spec, len(rows.features))
    choices = [(scaling, params) for scaling, grid in plan.items() for params in grid]
    if len(choices) > 1 or spec.calibration != "none":
        return None
    [(scaling, params)] = choices
    return replace(spec, scaling=scaling, params=params)


def plan_candidates(head: Head, X: FeatureRows, spec: HeadSpec, n_train: int) -> dict[str, list[dict[str, Any]]]:
    """List the parameters to try under each scaling, the strongest regularisation first.

    Args:
        head: The row of the table.
        X: float32 (n_items, dim), features, not scaled; their spread sets the grid's unit.
        spec: Parameters and scaling that it fixes are not searched.
        n_train: The number of training items of the smallest fold.

    Raises:
        DataError: If `n_neighbors` exceeds the number of items.
        UnknownNameError: If the spec names an unknown parameter or scaling.
        UsageError: If a parameter does not fit.
    """
    fixed = head.check_params(spec.params)
    plan = {}
    scalings = (*head.scalings, "l2") if head.by_direction and X.widths else head.scalings
    for scaling in scalings if spec.scaling is None else (spec.scaling,):
        check_scaling(scaling)  # before any fit
        spread = measure_spread(X.scale_parts(scaling), scaling) if head.grid_unit or head.tol else 1.0
        if not 0 < spread < math.inf:
            msg = f"the variance of the features is {spread:g}, out of the range of float32; scale them, or embed again"
            raise DataError(msg)
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
            msg = f"{head.name} n_neighbors={k}, but a fold leaves {n_train} items to train on; choose fewer neighbours"
            raise DataError(msg)
    return plan


@dataclass(frozen=True, slots=True)
class Entry:
    """A candidate that may be chosen.

    Attributes:
        candidate: The candidate, with its figures.
        accuracy: The accuracy that counts: of all items, or the mean of the classes.
        error: The standard error of this accuracy.
        log_loss: The log-loss.
        scores: float32 (n_items, n_classes).
        offer: As `Problem.offer` takes it; None if the sweep made no offer.
    """

    candidate: Candidate
    accuracy: float
    error: float
    log_loss: float
    scores: NDArray[np.float32]
    offer: Callable[[], Any] | None = None

    def precedes(self, other: "Entry") -> bool:
        """Return whether the other one can never be chosen, as this one is at least as good in all respects."""
        stronger = self.candidate.strength <= other.candidate.strength
        return stronger and self.accuracy >= other.accuracy and self.log_loss <= other.log_loss


class Shortlist:
    """The candidates that may still be chosen; the scores of all others are dropped.

    The least accuracy that is close enough only rises, so the order in which candidates are added does not matter.
    """

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._least = 0.0
        self._entries: list[Entry] = []

    def add(self, entry: Entry) -> None:
        """Add a candidate, whose scores are copied if it may be chosen."""
        self._least = max(self._least, entry.accuracy - self._tolerance * entry.error - _ROUNDING)
        self._entries = [one for one in self._entries if one.accuracy >= self._least]
        if entry.accuracy >= self._least and not any(one.precedes(entry) for one in self._entries):
            kept = [one for one in self._entries if not entry.precedes(one)]
            is_mapped = isinstance(entry.scores, np.memmap)
            self._entries = [*kept, entry if is_mapped else replace(entry, scores=entry.scores.copy())]

    def choose(self) -> Entry:
        """Return the candidate that `tune` chooses among those that were added."""
        most = min(one.log_loss for one in self._entries) + _EQUAL_LOSS
        good = [one for one in self._entries if one.log_loss <= most]
        return min(good, key=lambda one: (one.candidate.strength, one.log_loss, -one.accuracy))


def _measure(
    problem: Problem,
    candidate: Candidate,
    scores: NDArray[np.float32],
    weights: NDArray[np.float64],
    *,
    calibrated: bool,
) -> Entry:
    right = scores.argmax(axis=1) == problem.positions
    by_fold = [right[held].mean() for _, held in problem.splits]
    accuracy, error = measure_accuracy(right, weights, problem.positions, problem.units)
    losses = _measure_losses(problem, scores, weights, calibrated=calibrated)
    log_loss = float(np.average(losses, weights=weights))
    measured = replace(
        candidate,
        accuracy=float(right.mean()),
        accuracy_std=float(np.std(by_fold)),
        log_loss=log_loss,
        balanced_accuracy=float(np.mean(np.bincount(problem.positions, right) / np.bincount(problem.positions))),
    )
    return Entry(measured, accuracy, error, log_loss, scores)


def measure_accuracy(
    right: NDArray[np.bool_], weights: NDArray[np.float64], positions: NDArray[np.intp], units: NDArray[np.intp]
) -> tuple[float, float]:
    """Measure a weighted accuracy and its standard error, in which the items of a unit count as one.

    If the weights make classes equal, the accuracy is the mean of the classes' recalls, and items vary around the
    recall of their class.

    Args:
        right: bool (n_items,).
        weights: float64 (n_items,), equal in each class.
        positions: int (n_items,), the class of each item.
        units: int (n_items,).
    """
    accuracy = float(np.average(right, weights=weights))
    strata = positions if np.ptp(weights) > 0 else np.zeros_like(positions)
    means = np.bincount(strata, right) / np.maximum(np.bincount(strata), 1)
    n_strata = len(means)
    pairs = np.unique(units * n_strata + strata) if n_strata > 1 else np.flatnonzero(np.bincount(units))
    n_units = np.bincount(pairs % n_strata, minlength=n_strata)
    excess = weights * (right - means[strata]) * np.sqrt(n_units / np.maximum(n_units - 1, 1))[strata]
    return accuracy, float(np.linalg.norm(np.bincount(units, excess)) / weights.sum())


def _measure_losses(
    problem: Problem, scores: NDArray[np.float32], weights: NDArray[np.float64], *, calibrated: bool
) -> NDArray[np.float64]:
    """Return the loss of each item, in nats; of a head that is calibrated, after a temperature.

    The temperature of each fold is fitted to the other folds. Fitted to all items, it would hide how steep
    the scores of a candidate are that has all of them right.
    """
    own = scores[np.arange(len(scores)), problem.positions].astype(np.float64)
    known = np.isfinite(own)
    losses = np.empty(len(scores))
    for train, held in problem.splits:
        factor = 1.0
        if calibrated and known.any():
            fitting = train[known[train]] if known[train].any() else np.flatnonzero(known)
            factor = fit_temperature(scores[fitting], problem.positions[fitting], weights[fitting])
        for part in cut_rows(len(held), DOUBLES * scores.shape[1]):
            rows = held[part]
            losses[rows] = special.logsumexp(factor * scores[rows].astype(np.float64), axis=1) - factor * own[rows]
    return np.clip(np.nan_to_num(losses, nan=_MOST_LOSS), 0, _MOST_LOSS)


def _count_fits(progress: Progress | None, total: int) -> Callable[[], None]:
    done = itertools.count(1)

    def advance() -> None:
        if progress is not None:
            progress(next(done), total)

    return advance


def _multiply(value: float, factor: float) -> float:
    """Multiply by a power of ten; 1 stays the whole number, and 0.1 does not become 0.1000...01."""
    return value if factor == 1 else float(f"{value * factor:.6g}")


def _find_single_fold(problem: Problem, classes: NDArray[np.int64]) -> tuple[int, ...]:
    single_fold = [np.setdiff1d(problem.positions[held], problem.positions[train]) for train, held in problem.splits]
    return tuple(classes[np.unique(np.concatenate(single_fold))].tolist())


class _Warnings:
    """The warnings of all candidates, each reported once."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._found: list[tuple[str, str]] = []

    def add(
        self, grid: Sequence[Mapping[str, Any]], scaling: str, number: int, warning: warnings.WarningMessage
    ) -> None:
        self._found.append((name_candidate(grid[number], scaling), describe_warning(warning, self._head, grid[number])))

    def describe(self, best: Candidate, n_candidates: int) -> list[str]:
        notes = []
        for text in dict.fromkeys(text for _, text in self._found):
            names = list(dict.fromkeys(name for name, other in self._found if other == text))
            shown = "; ".join(names[:3]) + ("; ..." if len(names) > 3 else "")  # noqa: PLR2004 - a note is one line
            chosen = "including" if str(best) in names else "not"
            which = f"{len(names)} of {n_candidates} candidates, {chosen} the chosen one"
            notes.append(f"{self._head.name} {text} ({which}: {shown})")
        return notes


def _note_edge(head: Head, best: Candidate, candidates: Sequence[Candidate], spec: HeadSpec) -> list[str]:
    """Note that a value at the end of the grid was chosen, unless one beyond it would gain nothing."""
    tried = [one for one in candidates if one.scaling == best.scaling]
    if not head.grid_unit or len(tried) < 2 or best.strength not in (0, len(tried) - 1):  # noqa: PLR2004 - no ends
        return []
    before = tried[1] if best.strength == 0 else tried[-2]
    # A weak penalty is chosen only where it gains something, but a strong one also where all are equal.
    if best.strength == 0 and (before.log_loss or 0.0) - (best.log_loss or 0.0) <= _EQUAL_LOSS:
        return []
    name = next(name for name in head.grid if name not in spec.params)
    value = best.params[name]
    beyond = float(f"{value**2 / before.params[name]:.3g}")
    last = f"{head.name} {name}={value:g} was chosen and is the last of the values tried"
    return [f"{last}; also try --param {name}={beyond:g}"]
