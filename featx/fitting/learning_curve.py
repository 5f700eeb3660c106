"""How accuracy grows with the training items: the learning curve, and few shots."""

from collections import Counter
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from featx.errors import DataError
from featx.evaluation import compute_wilson_interval
from featx.evaluation.forecast import forecast_accuracy
from featx.evaluation.intervals import encode_groups, estimate_effective_items
from featx.fitting.dataset import Dataset, deal_folds, is_tunable
from featx.heads import Head, make_head, tune_and_fit
from featx.heads.fitting import predict_rows
from featx.heads.tuning import plan_candidates
from featx.reporting import Progress
from featx.results import Curve
from featx.specs import HeadSpec
from featx.wording import format_plural

Members = NDArray[np.bool_]

#: Shares of the training items at which the curve is measured, and the number of repeats.
_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
_REPEATS = 5
_FOLDS = 5
_FEWEST_SIZES = 3

#: Draws of each number of shots.
_DRAWS = 5


def measure_curve(
    head: Head, spec: HeadSpec, dataset: Dataset, members: Members, progress: Progress | None = None
) -> Curve:
    """Measure the learning curve of a head inside some items; the test is not touched.

    In each of five rounds another fifth of the items is held out, with whole groups and duplicates.
    The head is tuned and fitted on growing parts of the other items, and predicts the held-out
    fifth. Each part has whole groups, contains the one before it, and has about the same shares of
    the classes. Intervals are Wilson's, for the effective number of grouped items.

    Args:
        head: The head to tune and fit.
        spec: Parameters and scaling that are fixed; the others are tuned.
        dataset: The items.
        members: bool `(n_items,)`, the training items.
        progress: Called with the number of fits done, and of all fits.

    Raises:
        DataError: If there are too few items for three sizes.
    """
    folds = max(2, min(_FOLDS, dataset.count_units(members)))
    dealt = np.full(len(dataset), -1)
    dealt[members] = dataset.assign_folds(members, folds, spec.seed)
    plans = [_plan_parts(dataset, members, dealt == fold, spec.seed) for fold in range(min(_REPEATS, folds))]
    _check_plans(plans, int(members.sum()))
    accuracies = np.empty((len(_SHARES), len(plans)))
    correct = np.zeros((len(_SHARES), len(dataset)))
    for repeat, parts in enumerate(plans):
        held = dealt == repeat
        for at, part in enumerate(parts):
            correct[at, held] = _answer(head, spec, dataset, part, (held, dataset.targets[held]))
            accuracies[at, repeat] = correct[at, held].mean()
            if progress is not None:
                progress(repeat * len(_SHARES) + at + 1, len(plans) * len(_SHARES))
    counts = np.round(np.mean([[len(part) for part in parts] for parts in plans], axis=0)).astype(int)
    _, kept = np.unique(counts, return_index=True)
    tested = (dealt >= 0) & (dealt < len(plans))
    ends = np.array([_find_interval(correct[at, tested], dataset.groups[tested]) for at in kept])
    sizes = tuple(counts[kept].tolist())
    forecast = forecast_accuracy(sizes, accuracies[kept], seed=spec.seed)
    return Curve(sizes, accuracies[kept], ends[:, 0], ends[:, 1], forecast)


def measure_shots(
    head: Head,
    spec: HeadSpec,
    dataset: Dataset,
    members: Members,
    test: tuple[Members, NDArray[np.intp]],
    shots: tuple[int, ...],
) -> Curve:
    """Measure a head that is fitted on few items of each class, over several draws.

    Args:
        head: The head to tune and fit.
        spec: Parameters and scaling that are fixed; the others are tuned.
        dataset: The items.
        members: bool `(n_items,)`, the training items to draw from.
        test: bool `(n_items,)` and the targets of these items.
        shots: Numbers of items of each class.

    Returns:
        The curve; its intervals are of the mean over draws (Student's t), for the given test items.
    """
    held, targets = test
    accuracies = np.empty((len(shots), _DRAWS))
    for draw in range(_DRAWS):
        for at, count in enumerate(shots):
            part = _take_shots(dataset, members, count, spec.seed + draw)
            accuracies[at, draw] = _answer(head, spec, dataset, part, (held, targets)).mean()
    reach = stats.t.ppf(0.975, _DRAWS - 1) * accuracies.std(axis=1, ddof=1) / np.sqrt(_DRAWS)
    means = accuracies.mean(axis=1)
    distinct = [
        len(set(dataset.keys[members & (dataset.targets == target)].tolist()))
        for target in np.unique(dataset.targets[members])
    ]
    notes = [
        f"a class has only {format_plural(min(distinct), 'different training item')}, and more shots use all of them"
    ]
    few = tuple(notes) if min(distinct) < max(shots) else ()
    return Curve(shots, accuracies, np.maximum(means - reach, 0), np.minimum(means + reach, 1), None, few)


def _plan_parts(dataset: Dataset, members: Members, held: Members, seed: int) -> list[NDArray[np.intp]]:
    """List growing parts of the items that are not held out: whole units, at least two of each class."""
    rows = np.flatnonzero(members & ~held)
    units = dataset.find_units(members & ~held)
    order = np.argsort(np.random.default_rng(seed).permutation(units.max() + 1)[units], kind="stable")
    rows, units, targets = rows[order], units[order], dataset.targets[rows[order]]
    parts = []
    for share in _SHARES:
        chosen = set[int]()
        for target in np.unique(targets):
            own = units[targets == target]
            firsts = np.flatnonzero(np.diff(own, prepend=-1))  # the start of each unit of the class
            chosen.update(own[: max(round(share * len(own)), 1 + firsts[min(1, len(firsts) - 1)])].tolist())
        parts.append(np.sort(rows[np.isin(units, list(chosen))]))
    return parts


def _check_plans(plans: list[list[NDArray[np.intp]]], n_items: int) -> None:
    """Refuse parts of too few different sizes.

    Raises:
        DataError: If there are too few items, or groups of them.
    """
    if min(len({len(part) for part in parts}) for parts in plans) < _FEWEST_SIZES:
        msg = f"{n_items} training items, or their groups, are too few for a learning curve; add some, or omit --curve"
        raise DataError(msg)


def _find_interval(correct: NDArray[np.float64], groups: NDArray[np.str_]) -> tuple[float, float]:
    right, worth = correct > 0, float(len(correct))
    if (groups != "").any():
        worth = estimate_effective_items(right, encode_groups(groups.tolist()))
    low, high = compute_wilson_interval(right.mean() * worth, worth)
    return float(low), float(high)


def _take_shots(dataset: Dataset, members: Members, count: int, seed: int) -> NDArray[np.intp]:
    """Draw items of each class, one from each group in turn until there are enough, without duplicates."""
    rows = np.flatnonzero(members)
    _, firsts = np.unique(dataset.keys[rows], return_index=True)
    rows = rows[np.sort(firsts)]
    rows = rows[np.random.default_rng(seed).permutation(len(rows))]
    kept = np.zeros(len(dataset), bool)
    kept[rows] = True
    units = np.empty(len(dataset), np.intp)
    units[np.flatnonzero(kept)] = dataset.find_units(kept)
    drawn = []
    for target in np.unique(dataset.targets[rows]):
        own = rows[dataset.targets[rows] == target]
        turns = np.empty(len(own), np.intp)
        seen = Counter[int]()
        for at, unit in enumerate(units[own].tolist()):
            turns[at] = seen[unit]
            seen[unit] += 1
        drawn.append(own[np.argsort(turns, kind="stable")][:count])
    return np.sort(np.concatenate(drawn))


def _answer(
    head: Head, spec: HeadSpec, dataset: Dataset, part: NDArray[np.intp], test: tuple[Members, NDArray[np.intp]]
) -> NDArray[np.bool_]:
    """Fit a head on some items, and return which of the test items it predicts correctly."""
    members = np.zeros(len(dataset), bool)
    members[part] = True
    # Calibration changes few predicted classes, but a temperature decides with which parameters `fit` would predict.
    chooses = bool(head.grid) or len(head.scalings) > 1
    plain = replace(spec, calibration=spec.calibration or (head.choose_calibration(None) if chooses else "none"))
    alone = not is_tunable(dataset, members)
    folds = np.zeros(len(part), np.intp) if alone else deal_folds(dataset, members, spec.seed)
    rows = dataset.take_training_rows(members, folds)
    if alone:
        scaling, grid = next(iter(plan_candidates(head, rows.features, plain, len(rows.features)).items()))
        middle = replace(plain, scaling=scaling, params=grid[len(grid) // 2], calibration="none")
        estimator = make_head(middle, widths=rows.features.widths).fit(np.asarray(rows.features), rows.targets)
    else:
        estimator = tune_and_fit(head, rows, plain, always_tune=False).fitted.estimator
    held, truth = test
    predicted = estimator.classes_[predict_rows(estimator, dataset.take_features(held)).argmax(axis=1)]
    return np.asarray(predicted == truth)
