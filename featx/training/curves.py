"""How accuracy grows with the items that a head learns from: the learning curve, and few shots."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from featx.errors import DataError
from featx.evaluation import compute_wilson_interval
from featx.evaluation.learning import Forecast, forecast_accuracy
from featx.heads import Head, make_head
from featx.heads.fitting import predict_rows
from featx.heads.tuning import plan_candidates
from featx.options import Progress
from featx.specs import HeadSpec
from featx.training.dataset import Dataset
from featx.training.procedure import deal_folds, learn

Members = NDArray[np.bool_]

#: Parts of the training items that the curve is measured at, and how often.
_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
_REPEATS = 3
_FOLDS = 5
_FEWEST_SIZES = 3
_FEWEST_UNITS = 4

#: Draws of each number of shots.
_DRAWS = 5


@dataclass(frozen=True, slots=True)
class Curve:
    """Accuracy by the number of items that were learnt from.

    Attributes:
        sizes: Items, or items of each class for few shots.
        accuracies: float64 (n_sizes, n_repeats).
        lows: float64 (n_sizes,), lower ends of 95 % intervals of the means.
        highs: float64 (n_sizes,), upper ends.
        forecast: What twice the items would bring; None for few shots.
        notes: What the user should know.
    """

    sizes: tuple[int, ...]
    accuracies: NDArray[np.float64]
    lows: NDArray[np.float64]
    highs: NDArray[np.float64]
    forecast: Forecast | None
    notes: tuple[str, ...] = ()

    @property
    def means(self) -> NDArray[np.float64]:
        """The mean accuracy at each size, float64 (n_sizes,)."""
        return np.asarray(self.accuracies.mean(axis=1))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        values = {
            "sizes": list(self.sizes),
            "accuracy": self.means.tolist(),
            "accuracy_low": self.lows.tolist(),
            "accuracy_high": self.highs.tolist(),
            "accuracies": self.accuracies.tolist(),
        }
        return (
            values
            if self.forecast is None
            else values | {"forecast": {**self.forecast.to_dict(), "words": str(self.forecast)}}
        )

    def tabulate(self) -> Mapping[str, list[Any]]:
        """Return the columns of a table."""
        return {
            "size": list(self.sizes),
            "accuracy": self.means.tolist(),
            "accuracy_low": self.lows.tolist(),
            "accuracy_high": self.highs.tolist(),
            **{f"accuracy_{at + 1}": column.tolist() for at, column in enumerate(self.accuracies.T)},
        }


def measure_curve(
    head: Head, spec: HeadSpec, dataset: Dataset, members: Members, progress: Progress | None = None
) -> Curve:
    """Measure the learning curve of a head inside some items; the test is not touched.

    In each of three rounds a fifth of the items, whole groups and duplicates, is held out.
    Growing parts of the others, each within the next and with the same shares of the classes,
    are learnt from, parameters tuned anew for each, and the held-out fifth is predicted.

    Args:
        head: What is tuned and fitted.
        spec: What is fixed.
        dataset: Where the items are.
        members: bool `(n_items,)`, the training items.
        progress: Called with fits done and in all.

    Raises:
        DataError: If there are too few items for three sizes.
    """
    folds = max(2, min(_FOLDS, dataset.count_units(members)))
    _check_sizes(dataset, members)
    accuracies, sizes, tested = np.empty((len(_SHARES), _REPEATS)), np.empty((len(_SHARES), _REPEATS)), 0
    for repeat in range(_REPEATS):
        dealt = np.full(len(dataset), -1)
        dealt[members] = dataset.assign_folds(members, folds, spec.seed + repeat)
        held = dealt == repeat % folds
        order = _order_items(dataset, members & ~held, spec.seed + repeat)
        tested += int(held.sum())
        for at, share in enumerate(_SHARES):
            part = _take_share(dataset, order, share)
            sizes[at, repeat] = len(part)
            accuracies[at, repeat] = _measure(head, spec, dataset, part, (held, dataset.targets[held]))
            if progress is not None:
                progress(repeat * len(_SHARES) + at + 1, _REPEATS * len(_SHARES))
    counts = np.round(sizes.mean(axis=1)).astype(int)
    _, kept = np.unique(counts, return_index=True)
    means = accuracies[kept].mean(axis=1)
    lows, highs = compute_wilson_interval(means * tested, tested)
    chosen = tuple(counts[kept].tolist())
    return Curve(chosen, accuracies[kept], lows, highs, forecast_accuracy(chosen, accuracies[kept], seed=spec.seed))


def measure_shots(
    head: Head,
    spec: HeadSpec,
    dataset: Dataset,
    members: Members,
    test: tuple[Members, NDArray[np.intp]],
    shots: tuple[int, ...],
) -> Curve:
    """Measure a head that learns from few items of each class, over several draws.

    Args:
        head: What is tuned and fitted.
        spec: What is fixed.
        dataset: Where the items are.
        members: bool `(n_items,)`, the training items to draw from.
        test: bool `(n_items,)` and the targets of these items.
        shots: Items of each class.

    Returns:
        The curve; its intervals are of the mean over draws (Student's t), the test items given.
    """
    held, targets = test
    accuracies = np.empty((len(shots), _DRAWS))
    for draw in range(_DRAWS):
        order = _order_items(dataset, members, spec.seed + draw)
        for at, count in enumerate(shots):
            part = _take_shots(dataset, order, count)
            accuracies[at, draw] = _measure(head, spec, dataset, part, (held, targets))
    reach = stats.t.ppf(0.975, _DRAWS - 1) * accuracies.std(axis=1, ddof=1) / np.sqrt(_DRAWS)
    means = accuracies.mean(axis=1)
    smallest = int(np.bincount(dataset.targets[members]).min())
    notes = [f"a class has {smallest} training items only, and gave all of them to more shots than that"]
    few = tuple(notes) if smallest < max(shots) else ()
    return Curve(shots, accuracies, np.maximum(means - reach, 0), np.minimum(means + reach, 1), None, few)


def _check_sizes(dataset: Dataset, members: Members) -> None:
    """Refuse items that are too few for parts of different sizes.

    Raises:
        DataError: If they are.
    """
    rows = np.flatnonzero(members)
    most = dataset.count_units(members) * (_FOLDS - 1) // _FOLDS
    if len({len(_take_share(dataset, rows, share)) for share in _SHARES}) < _FEWEST_SIZES or most < _FEWEST_UNITS:
        msg = f"{len(rows)} training items are too few for a learning curve; add items, or leave out --curve"
        raise DataError(msg)


def _order_items(dataset: Dataset, members: Members, seed: int) -> NDArray[np.intp]:
    """Order items at random, those that stay together one after the other."""
    rows = np.flatnonzero(members)
    units = dataset.find_units(members)
    shuffled = np.random.default_rng(seed).permutation(units.max() + 1)
    return rows[np.argsort(shuffled[units], kind="stable")]


def _take_shots(dataset: Dataset, order: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """Take the first items of each class."""
    targets = dataset.targets[order]
    return np.sort(np.concatenate([order[targets == target][:count] for target in np.unique(targets)]))


def _take_share(dataset: Dataset, order: NDArray[np.intp], share: float) -> NDArray[np.intp]:
    """Take the first part of each class, two items at least."""
    targets = dataset.targets[order]
    parts = [order[targets == target] for target in np.unique(targets)]
    return np.sort(np.concatenate([part[: max(2, round(share * len(part)))] for part in parts]))


def _measure(
    head: Head, spec: HeadSpec, dataset: Dataset, part: NDArray[np.intp], test: tuple[Members, NDArray[np.intp]]
) -> float:
    """Learn from some items, and return the share of others that are then right."""
    members = np.zeros(len(dataset), bool)
    members[part] = True
    own, plain = dataset.targets[part], replace(spec, calibration="none")  # calibration changes no choice
    X, units = dataset.take_features(members), dataset.find_units(members)
    if np.bincount(own).max() == 1:  # nothing can be held out to choose by
        scaling, grid = next(iter(plan_candidates(head, X, plain, len(X)).items()))
        middle = replace(plain, scaling=scaling, params=grid[len(grid) // 2])
        estimator = make_head(middle).fit(np.asarray(X), own)
    else:
        folds = deal_folds(dataset, members, spec.seed)
        estimator = learn(head, plain, X, own, folds, units).fitted.estimator
    held, truth = test
    predicted = estimator.classes_[predict_rows(estimator, dataset.take_features(held)).argmax(axis=1)]
    return float((predicted == truth).mean())
