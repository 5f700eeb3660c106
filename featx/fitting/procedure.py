"""What every way of training shares: tuning folds, evaluation, and how failures and notes are told."""

import contextlib
import functools
import importlib.metadata
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import DataError, FeatxError
from featx.evaluation import Evaluation, evaluate
from featx.fitting.dataset import Dataset
from featx.heads import FittedHead, Head, Tuned, fit_head, tune
from featx.heads.fitting import check_data
from featx.heads.rows import FeatureRows
from featx.heads.tuning import plan_candidates
from featx.specs import HeadSpec

#: Folds inside the training items on which hyper-parameters are chosen.
TUNING_FOLDS = 3


def deal_folds(dataset: Dataset, members: NDArray[np.bool_], seed: int) -> NDArray[np.intp]:
    """Deal items to tuning folds; what cannot be held out without losing a class joins the first."""
    folds = max(2, min(TUNING_FOLDS, dataset.count_units(members)))
    return np.maximum(dataset.assign_folds(members, folds, seed), 0)


@dataclass(frozen=True, slots=True)
class Learned:
    """A head that was tuned and fitted.

    Attributes:
        spec: What was chosen.
        fitted: The head, fitted to all items.
        tuned: How it was chosen; None where there was nothing to choose.
        notes: What a user should know.
    """

    spec: HeadSpec
    fitted: FittedHead
    tuned: Tuned | None
    notes: tuple[str, ...]


def learn(
    head: Head,
    spec: HeadSpec,
    X: FeatureRows,
    targets: NDArray[np.intp],
    folds: NDArray[np.intp],
    units: NDArray[np.intp],
) -> Learned:
    """Tune a head and fit it to the same items; where there is nothing to choose or to calibrate, only fit it.

    Args:
        head: What is tuned.
        spec: What is fixed.
        X: `(n_items, dim)`.
        targets: int `(n_items,)`.
        folds: int `(n_items,)`, on which parameters are chosen.
        units: int `(n_items,)`, the items that stay together.

    Raises:
        DataError: If the head cannot learn from these items.
    """
    with explain_failure(spec):
        check_data(X, targets)
        plan = plan_candidates(head, X, spec, len(X))
        choices = [(scaling, params) for scaling, grid in plan.items() for params in grid]
        if len(choices) == 1 and head.choose_calibration(spec.calibration) == "none":
            chosen = replace(spec, scaling=choices[0][0], params=choices[0][1])
            fitted = fit_head(head, X, targets, chosen, folds, units=units)
            return Learned(chosen, fitted, None, fitted.notes)
        tuned = tune(head, X, targets, folds, spec=spec, units=units)
        fitted = fit_head(
            head, X, targets, tuned.spec, folds, units=units, held_out=(tuned.scores, targets), fitted=tuned.fitted
        )
    return Learned(tuned.spec, fitted, tuned, (*tuned.notes, *fitted.notes))


@contextlib.contextmanager
def explain_failure(spec: HeadSpec) -> Iterator[None]:
    """Name the user's parameters where scikit-learn or LAPACK stumbles over them.

    Raises:
        DataError: In place of their errors.
    """
    try:
        yield
    except (ValueError, np.linalg.LinAlgError) as error:
        if isinstance(error, FeatxError):
            raise
        params = ", ".join(f"{name}={value}" for name, value in spec.params.items())
        msg = f"{spec.name} cannot be fitted{' with ' if params else ''}{params}: {' '.join(str(error).split())}"
        raise DataError(msg) from error


def evaluate_items(
    dataset: Dataset,
    members: NDArray[np.bool_],
    probabilities: NDArray[np.float64],
    targets: NDArray[np.intp],
    seed: int,
) -> Evaluation:
    """Evaluate the probabilities of some items, with their groups if they have any."""
    return evaluate(probabilities, targets, dataset.classes, groups=list_groups(dataset, members), seed=seed)


def list_groups(dataset: Dataset, members: NDArray[np.bool_]) -> list[str] | None:
    """List the group of each of some items; None if none of them is in one."""
    groups = dataset.groups[members]
    return groups.tolist() if (groups != "").any() else None


def tabulate_predictions(
    ids: NDArray[np.str_],
    labels: NDArray[np.str_],
    tested: NDArray[np.intp],
    probabilities: NDArray[np.float64],
    classes: tuple[str, ...],
) -> dict[str, Any]:
    """Make the columns of a bundle's predictions.

    Args:
        ids: Text `(n_items,)`.
        labels: Text `(n_items,)`.
        tested: int `(n_tested,)`, positions of the tested items.
        probabilities: float64 `(n_tested, n_classes)`.
        classes: Names of the classes.
    """
    best = probabilities.argmax(axis=1)
    shares = {f"probability_{name}": probabilities[:, at] for at, name in enumerate(classes)}
    chosen = {"predicted": np.asarray(classes)[best], "probability": probabilities.max(axis=1)}
    return {"id": ids[tested], "label": labels[tested], **chosen, **shares}


def name_classes(note: str, classes: tuple[str, ...]) -> str:
    """Name the classes in a note of a head, which knows them as targets only."""

    def name(match: re.Match[str]) -> str:
        return "class " + ", ".join(repr(classes[int(target)]) for target in match[1].split(", "))

    return re.sub(r"\btargets? (\d+(?:, \d+)*)", name, note)


@functools.cache
def read_versions() -> dict[str, str]:
    """Read the versions of what computes a head."""
    packages = ("featx", "numpy", "scikit-learn", "scipy", "skops", "keras", "tensorflow")
    versions = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(
            importlib.metadata.PackageNotFoundError
        ):  # Keras heads need the last two, others do not
            versions[name] = importlib.metadata.version(name)
    return versions
