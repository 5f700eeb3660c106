"""Fitting: one head, with all its parameters given, on all items."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from featx.errors import DataError
from featx.heads.scaling import make_scaler
from featx.heads.table import Head, find_head
from featx.specs import HeadSpec

#: Below this many values one thread is enough for the products of any head.
_FEW_VALUES = 10_000_000

Split = tuple[NDArray[np.intp], NDArray[np.intp]]


@dataclass(frozen=True, slots=True)
class FittedHead:
    """A fitted head and what a user should know about it.

    Attributes:
        estimator: A scikit-learn Pipeline of scaler and classifier; its `classes_`
            are the targets it was fitted to, and it has `predict_proba`.
        notes: Such as a fit that did not converge.
    """

    estimator: Pipeline
    notes: tuple[str, ...]


def make_head(spec: HeadSpec, cv: int | Sequence[Split] = 3) -> Pipeline:
    """Make a head that is not fitted, for use as any scikit-learn classifier.

    What the spec leaves open has the head's default, untuned; its scaling, the first
    of those that would be searched. The scaler comes before the calibration, and so
    sees all items: it knows no labels, and calibration fits one number.

    Args:
        spec: Name, parameters, scaling and seed.
        cv: For a calibrated head, the number of folds or the (train, held out)
            positions of each fold.

    Raises:
        UnknownNameError: If the spec names an unknown head, parameter or scaling.
        UsageError: If a parameter does not fit.
    """
    head = find_head(spec.name)
    return _assemble(head, spec.params, head.scalings[0] if spec.scaling is None else spec.scaling, spec.seed, cv)


def fit_head(
    head: Head,
    X: ArrayLike,
    y: ArrayLike,
    params: Mapping[str, Any],
    scaling: str,
    seed: int,
    folds: ArrayLike,
) -> FittedHead:
    """Fit a head to all items.

    A calibrated head is also fitted once per fold, for scores of items it has not
    learnt from; temperature scaling (Guo et al. 2017, section 4.2) fits one number to
    them. A class that lies in one fold only, such as a class of one item, cannot be
    held out without being forgotten: its items are then learnt from in that fold too.
    The notes say so.

    A head that stops early does so by one of the folds, which it does not learn from.

    Args:
        head: The row of the table.
        X: float32 (n_items, dim), features, not scaled.
        y: int (n_items,), targets.
        params: Parameters as tuned or fixed.
        scaling: One of `featx.specs.SCALINGS`.
        seed: Seed of everything random.
        folds: int (n_items,), the fold of each item. Items that belong together, by
            group or by equal bytes, must be in one fold.

    Returns:
        The fitted pipeline, and notes.

    Raises:
        DataError: If nothing can be learnt from these items and folds.
        UnknownNameError: If there is no such parameter or scaling.
        UsageError: If a parameter does not fit.
    """
    X, y = check_data(X, y)
    splits: list[Split] = []
    notes: list[str] = []
    if head.calibrated:
        splits, lonely = plan_calibration(y, split_folds(folds, y))
        if lonely:
            notes.append(
                f"{head.name} calibrated its probabilities on items it had learnt from for {name_targets(lonely)}, "
                "in one fold only; more items would mend that"
            )
    model = _assemble(head, params, scaling, seed, splits)
    with record_warnings() as caught, limit_threads(head, X.size):
        if head.calibrated:
            _fit_calibrated(model, X, y, len(splits))
        elif head.stops_early:
            model.fit(X, y, classifier__validation=choose_validation(np.asarray(folds), y))
        else:
            model.fit(X, y)
    troubles = dict.fromkeys(describe_warning(warning, head, params) for warning in caught)
    return FittedHead(model, (*notes, *(f"{head.name} {trouble}" for trouble in troubles)))


def check_data(X: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Check that a classifier can be learnt from features and targets.

    Args:
        X: (n_items, dim), numbers.
        y: (n_items,), whole numbers.

    Returns:
        X as float32, without a copy if it was, and y as int64.

    Raises:
        DataError: If they do not fit together, a feature is not finite, there is one
            class only, or all items are equal.
    """
    features, targets = np.asarray(X, np.float32), np.asarray(y)
    if features.ndim != 2 or targets.shape != features.shape[:1]:  # noqa: PLR2004 - rows and columns
        msg = f"features have the shape {features.shape} and targets {targets.shape}; want (n, dim) and (n,)"
        raise DataError(msg)
    classes = np.unique(targets)
    if len(classes) < 2:  # noqa: PLR2004 - a choice needs two
        msg = f"one class only in {len(targets)} items; a classifier needs at least two"
        raise DataError(msg)
    broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(broken):
        msg = f"features of {len(broken)} items are not finite, first of item {broken[0]}; embed these again"
        raise DataError(msg)
    if not np.ptp(features, axis=0).any():
        msg = f"the features of all {len(features)} items are equal; choose another layer or backbone"
        raise DataError(msg)
    return features, targets.astype(np.int64)


def split_folds(folds: ArrayLike, y: NDArray[np.int64]) -> list[Split]:
    """Turn fold ids into positions to learn from and positions held out, per fold.

    Raises:
        DataError: If there are fewer than two folds, or one leaves a single class to learn from.
    """
    ids = np.asarray(folds)
    if ids.shape != y.shape:
        msg = f"{len(y)} items need one fold each; the folds have the shape {ids.shape}"
        raise DataError(msg)
    splits = [(np.flatnonzero(ids != fold), np.flatnonzero(ids == fold)) for fold in np.unique(ids)]
    if len(splits) < 2:  # noqa: PLR2004 - one to learn from, one held out
        msg = f"all {len(y)} items are in one fold; at least two folds are needed, so add items or groups"
        raise DataError(msg)
    if any(len(np.unique(y[train])) < 2 for train, _ in splits):  # noqa: PLR2004 - a choice needs two
        msg = "a fold leaves one class only to learn from; use other folds or groups, or add items"
        raise DataError(msg)
    return splits


def plan_calibration(y: NDArray[np.int64], splits: Sequence[Split]) -> tuple[list[Split], list[int]]:
    """Give every fold all classes to learn from, by leaving in the items of those it would lack.

    Args:
        y: int (n_items,), targets.
        splits: Positions to learn from and held out, per fold.

    Returns:
        The folds to calibrate on, and the targets whose items are in both parts of one.
    """
    planned: list[Split] = []
    lonely: list[int] = []
    for train, held in splits:
        missing = np.setdiff1d(y[held], y[train])
        lonely += missing.tolist()
        planned.append((np.sort(np.concatenate([train, held[np.isin(y[held], missing)]])), held))
    return planned, lonely


def choose_validation(parts: NDArray[Any], y: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Choose the part of the items that tells a head when to stop: bool (n_items,).

    Of the parts that leave every class something to learn from, it is the one with the
    most classes, and among these the one whose size is nearest to a tenth. No item is
    chosen if every part has the whole of some class.

    Args:
        parts: int (n_items,), the part of each item; what belongs together is in one part.
        y: int (n_items,), targets.
    """
    best, rank = np.zeros(len(y), bool), (0, 0.0)
    for part in np.unique(parts):
        held = parts == part
        n_classes = len(np.unique(y[held]))
        if len(np.unique(y[~held])) == len(np.unique(y)):
            best, rank = max((best, rank), (held, (n_classes, -abs(held.mean() - 0.1))), key=lambda pair: pair[1])
    return best


@contextmanager
def record_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Collect every warning, to be told as a note instead of printed."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def limit_threads(head: Head, n_values: int) -> AbstractContextManager[Any]:
    """Keep a head whose matrix products are thin, or whose data are small, on one thread.

    Such a product is done before a second thread has woken up. On two busy cores an
    L-BFGS iteration with 10 classes took 3 to 10 times as long with two OpenBLAS
    threads as with one (960 to 13,000 items), and boosting on 1,347 x 64 values, which
    OpenMP shares out, 10 times.

    Args:
        head: The row of the table.
        n_values: Items times features.
    """
    limits: AbstractContextManager[Any] = threadpool_limits(1 if head.thin or n_values < _FEW_VALUES else None)
    return limits


def describe_warning(warning: warnings.WarningMessage, head: Head, params: Mapping[str, Any]) -> str:
    """Say what a warning means, in words that follow the name of the head."""
    if issubclass(warning.category, ConvergenceWarning):
        settings = head.build(params).get_params()
        name, unit = ("epochs", "epochs") if "epochs" in settings else ("max_iter", "iterations")
        return f"did not converge in {settings[name]} {unit}; --param {name}={5 * settings[name]} gives it more"
    return f"warned: {' '.join(str(warning.message).split())}"


def name_targets(targets: Iterable[int]) -> str:
    """Name targets in a sentence: `target 3`, `targets 3, 5`."""
    names = [str(target) for target in sorted(set(targets))]
    return f"target{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _fit_calibrated(model: Pipeline, X: NDArray[np.float32], y: NDArray[np.int64], n_folds: int) -> None:
    # scikit-learn 1.9 takes targets for positions among the classes in its temperature
    # scaling; with a gap in them it reads beyond its array, and the temperature is noise.
    classes, positions = np.unique(y, return_inverse=True)
    model.fit(X, positions)
    model[-1].classes_ = classes
    model[-1].set_params(cv=n_folds)  # a clone must not be bound to these items, nor a bundle hold them


def _assemble(head: Head, params: Mapping[str, Any], scaling: str, seed: int, cv: int | Sequence[Split]) -> Pipeline:
    classifier = head.build(params, seed, scaling)
    if head.calibrated:
        classifier = CalibratedClassifierCV(classifier, method="temperature", ensemble=False, cv=cv)
    scaler = make_scaler(scaling)
    return Pipeline([("scaler", "passthrough" if head.folds_scaling else scaler), ("classifier", classifier)])
