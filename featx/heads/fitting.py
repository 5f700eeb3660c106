"""Fitting: one head, with all its parameters given, on all items."""

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from featx.errors import DataError, FeatxError
from featx.heads.calibrated import CalibratedHead
from featx.heads.networks import hold_out_units
from featx.heads.rows import FeatureRows
from featx.heads.scaling import PartDivider, check_scaling, make_scaler
from featx.heads.sweeps import Split, record_warnings
from featx.heads.table import Head, find_head
from featx.specs import HeadSpec

#: Below this many values one thread is enough for the products of any head.
_FEW_VALUES = 10_000_000

#: The attributes that hold trained parameters: of a linear head, of scikit-learn's network and of the Keras network.
_TRAINED = (("coef_", "intercept_"), ("coefs_", "intercepts_"), ("weights_",))


@dataclass(frozen=True, slots=True)
class FittedHead:
    """A fitted head, and notes on it.

    Attributes:
        estimator: A scikit-learn Pipeline of scaler and classifier; its `classes_`
            are the targets it was fitted to, and it has `predict_proba`.
        notes: What the user should know, such as that the fit did not converge.
    """

    estimator: Pipeline
    notes: tuple[str, ...]


def make_head(spec: HeadSpec, cv: int | Sequence[Split] = 3, widths: tuple[int, ...] = ()) -> Pipeline:
    """Make a head that is not fitted, to be used like any scikit-learn classifier.

    Parameters that the spec leaves open have the head's defaults, untuned. An open scaling
    is the first of those that would be searched.

    Args:
        spec: Name, parameters, scaling and seed.
        cv: For a calibrated head, the number of folds or the (train, held out)
            positions of each fold.
        widths: Columns of the features of each network, if several stand side by side.

    Raises:
        UnknownNameError: If the spec names an unknown head, parameter or scaling.
        UsageError: If a parameter does not fit.
    """
    return _assemble(find_head(spec.name), spec, cv, widths)


def fit_head(
    head: Head,
    X: ArrayLike | FeatureRows,
    y: ArrayLike,
    spec: HeadSpec,
    folds: ArrayLike,
    *,
    units: ArrayLike | None = None,
    held_out: tuple[NDArray[np.floating[Any]], NDArray[np.int64]] | None = None,
    fitted: Any = None,  # noqa: ANN401 - a scikit-learn classifier
) -> FittedHead:
    """Fit a head to all items.

    A calibrated head also needs scores of held-out items. Tuning has computed them; without
    them, the head is fitted once per fold as well.

    A head that stops early holds out about a tenth of the items for this, and is not trained on them.

    Args:
        head: The row of the table.
        X: float32 (n_items, dim), features, not scaled.
        y: int (n_items,), targets.
        spec: Params and scaling as tuned or fixed; a scaling of None is the first that is searched.
        folds: int (n_items,), the fold of each item. Items that belong together, by
            group or by equal bytes, must be in one fold.
        units: (n_items,), items with equal values stay together: a head that stops early holds
            out whole units. None if each item is a unit.
        held_out: Scores (n, n_classes) of items while they were held out, a column for each
            distinct target of `y` in order, and the target of each.
        fitted: The classifier that tuning fitted to the same items, if it did; then only the
            calibration is fitted, if there is one.

    Returns:
        The fitted pipeline, and notes.

    Raises:
        DataError: If the head cannot be fitted to these items and folds.
        UnknownNameError: If there is no such parameter or scaling.
        UsageError: If a parameter does not fit.
    """
    rows, y = check_data(X, y)
    splits = split_folds(folds, y)
    model = _assemble(head, spec, splits, rows.widths)
    if fitted is not None and not isinstance(model[-1], CalibratedHead):
        fitted.classes_ = np.unique(y)  # tuning has numbered them
        model.steps[-1] = ("classifier", fitted)
        return FittedHead(model, ())
    arguments: dict[str, Any] = {}
    if isinstance(model[-1], CalibratedHead):
        arguments = {"classifier__held_out": held_out, "classifier__fitted": fitted}
    if head.stops_early:
        arguments["classifier__validation"] = hold_out_units(y, spec.seed, units)
    features = rows if head.folds_scaling else np.asarray(rows)
    with record_warnings() as caught, limit_threads(head, len(rows) * rows.shape[1]):
        model.fit(features, y, **arguments)
    if isinstance(model[-1], CalibratedHead):
        model[-1].set_params(cv=len(splits))  # neither a clone nor a bundle may hold these items
    noted = dict.fromkeys(describe_warning(warning, head, spec.params) for warning in caught)
    return FittedHead(model, tuple(f"{head.name} {text}" for text in noted))


def predict_rows(estimator: Pipeline, X: ArrayLike | FeatureRows) -> NDArray[np.float64]:
    """Predict probabilities (n_items, n_classes), a block of items at a time."""
    rows = FeatureRows.wrap(X)
    return np.concatenate([estimator.predict_proba(block) for _, block in rows.iterate_blocks()])


def check_data(X: ArrayLike | FeatureRows, y: ArrayLike) -> tuple[FeatureRows, NDArray[np.int64]]:
    """Check that a classifier can be fitted to features and targets.

    Args:
        X: (n_items, dim), numbers.
        y: (n_items,), whole numbers.

    Returns:
        X as rows of float32, without a copy if they were float, and y as int64.

    Raises:
        DataError: If they do not fit together, a feature is not finite, there is one
            class only, or all items are equal.
    """
    features, targets = FeatureRows.wrap(X), np.asarray(y)
    shape = features.features.shape if features.rows is None and features.views == 1 else features.shape
    if len(shape) != 2 or targets.shape != shape[:1]:  # noqa: PLR2004 - rows and columns
        msg = f"features have the shape {shape} and targets {targets.shape}; expected (n, dim) and (n,)"
        raise DataError(msg)
    if len(np.unique(targets)) < 2:  # noqa: PLR2004 - a choice needs two
        msg = f"only one class in {len(targets)} items; a classifier needs at least two"
        raise DataError(msg)
    if features.is_checked:
        return features, targets.astype(np.int64)
    finite, varies = np.ones(len(targets), bool), False
    first, ones = features[:1], np.ones(shape[1], np.float32)
    for rows, block in features.iterate_blocks():
        with np.errstate(over="ignore", invalid="ignore"):
            sums = block @ ones  # finite only if all terms are; ten times as fast as a check of each
        if not np.isfinite(sums).all():
            finite[rows] = np.isfinite(block).all(axis=1)
        varies = varies or bool((block != first).any())
    broken = np.flatnonzero(~finite)
    if len(broken):
        msg = f"features of {len(broken)} items are not finite, the first is item {broken[0]}; embed these items again"
        raise DataError(msg)
    if not varies:
        msg = f"the features of all {len(targets)} items are equal; choose another layer or backbone"
        raise DataError(msg)
    features.is_checked = True
    return features, targets.astype(np.int64)


def split_folds(folds: ArrayLike, y: NDArray[np.int64]) -> list[Split]:
    """Turn fold ids into training positions and held-out positions, per fold.

    Raises:
        DataError: If there are fewer than two folds, or one leaves a single class to train on.
    """
    ids = np.asarray(folds)
    if ids.shape != y.shape:
        msg = f"{len(y)} items need one fold each; folds have the shape {ids.shape}"
        raise DataError(msg)
    splits = [(np.flatnonzero(ids != fold), np.flatnonzero(ids == fold)) for fold in np.unique(ids)]
    if len(splits) < 2:  # noqa: PLR2004 - one to train on, one held out
        msg = f"all {len(y)} items are in one fold; at least two folds are needed, so add items or groups"
        raise DataError(msg)
    if any(len(np.unique(y[train])) < 2 for train, _ in splits):  # noqa: PLR2004 - a choice needs two
        msg = "a fold leaves only one class to train on; use other folds or groups, or add items"
        raise DataError(msg)
    return splits


def limit_threads(head: Head, n_values: int) -> contextlib.AbstractContextManager[Any]:
    """Keep a head whose matrix products are thin, or whose data are small, on one thread.

    Such a product is finished before a second thread has woken up. On two busy cores an
    L-BFGS iteration with 10 classes took 3 to 10 times as long with two OpenBLAS
    threads as with one (960 to 13,000 items), and boosting on 1,347 x 64 values, which
    OpenMP distributes, 10 times.

    Args:
        head: The row of the table.
        n_values: Items times features.
    """
    limits: contextlib.AbstractContextManager[Any] = threadpool_limits(
        1 if head.thin or n_values < _FEW_VALUES else None
    )
    return limits


def describe_warning(warning: warnings.WarningMessage, head: Head, params: Mapping[str, Any]) -> str:
    """Word a warning so that it can follow the name of the head."""
    if issubclass(warning.category, ConvergenceWarning):
        settings = head.build(params).get_params()
        name, unit = ("epochs", "epochs") if "epochs" in settings else ("max_iter", "iterations")
        return f"did not converge in {settings[name]} {unit}; allow more with --param {name}={5 * settings[name]}"
    return f"warned: {' '.join(str(warning.message).split())}"


@contextlib.contextmanager
def explain_failure(spec: HeadSpec) -> Iterator[None]:
    """Name the head and the user's parameters when scikit-learn or LAPACK fails.

    Raises:
        DataError: Instead of their errors.
    """
    try:
        yield
    except (ValueError, np.linalg.LinAlgError) as error:
        if isinstance(error, FeatxError):
            raise
        params = ", ".join(f"{name}={value}" for name, value in spec.params.items())
        msg = f"{spec.name} cannot be fitted{' with ' if params else ''}{params}: {' '.join(str(error).split())}"
        raise DataError(msg) from error


def count_parameters(estimator: Pipeline) -> int | None:
    """Count the trained parameters: coefficients and intercepts of a linear head, or all weights of a network.

    The few parameters of calibration and scaling are left out.

    Args:
        estimator: A fitted head.

    Returns:
        The number; None for a head that keeps items, trees or moments instead.
    """
    classifier = estimator[-1]
    classifier = getattr(classifier, "classifier_", classifier)
    for names in _TRAINED:
        parts = [vars(classifier)[name] for name in names if name in vars(classifier)]
        if len(parts) == len(names):
            return sum(map(_count, parts))
    return None


def _count(part: Any) -> int:  # noqa: ANN401 - an array, or a list of arrays
    return sum(map(_count, part)) if isinstance(part, list | tuple) else math.prod(np.shape(part))


def _assemble(head: Head, spec: HeadSpec, cv: int | Sequence[Split], widths: tuple[int, ...]) -> Pipeline:
    scaling = head.scalings[0] if spec.scaling is None else spec.scaling
    check_scaling(scaling)
    classifier, method = head.build(spec.params, spec.seed, scaling), head.choose_calibration(spec.calibration)
    if method != "none" or not hasattr(classifier, "predict_proba"):
        classifier = CalibratedHead(classifier, method, cv)
    scaler = "passthrough" if head.folds_scaling else make_scaler(scaling)
    parts = [("parts", PartDivider(widths))] if len(widths) > 1 and scaling == "l2" else []
    return Pipeline([*parts, ("scaler", scaler), ("classifier", classifier)])
