"""Shortcuts: labels that follow from something that should not matter, such as the size of the file."""

import numpy as np
from numpy.typing import NDArray

from featx.audit.findings import Shortcut
from featx.audit.looks import Looks
from featx.evaluation.intervals import compute_wilson_interval
from featx.items.splits import ALWAYS_TRAINED, assign_folds
from featx.store import FeatureStore

_FOLDS = 5

#: A tree of so many leaves, each with at least so many items, can use a threshold and does not learn single items.
_LEAVES, _LEAST_ITEMS = 16, 5


def measure_shortcuts(store: FeatureStore, looks: Looks, seed: int) -> list[Shortcut]:
    """Measure how well labels are predicted from properties of the file alone.

    Each property is given to a small decision tree, in five folds that keep groups and equal files together.

    Args:
        store: The store.
        looks: The looks of its items.
        seed: Seed of the folds.

    Returns:
        The best predictor first; nothing if there are fewer than two classes, classes with fewer items than folds, or
        only equal files with several labels.
    """
    labelled = np.flatnonzero(store.labels != "")
    classes, targets, counts = np.unique(store.labels[labelled], return_inverse=True, return_counts=True)
    if len(classes) < 2 or counts.min() < _FOLDS:  # noqa: PLR2004 - with one class there is nothing to predict
        return []
    keys, labels, groups = (column[labelled].tolist() for column in (store.sha256, store.labels, store.groups))
    folds = assign_folds(keys, labels, groups, folds=_FOLDS, seed=seed)
    tested = folds != ALWAYS_TRAINED
    if not tested.any():
        return []
    baseline = float(np.bincount(targets[tested]).max() / tested.sum())
    found = []
    for what, values in _list_properties(store, looks).items():
        predicted = _predict(np.nan_to_num(values[labelled]), targets, folds, seed)
        right = (predicted == targets)[tested]
        low, high = (float(end) for end in compute_wilson_interval(right.sum(), len(right)))
        found.append(Shortcut(what, float(right.mean()), low, high, baseline))
    return sorted(found, key=lambda shortcut: -shortcut.accuracy)


def _list_properties(store: FeatureStore, looks: Looks) -> dict[str, NDArray[np.float64]]:
    """Return properties of the items by name, float64 `(n_items, n_values)`."""
    sizes = store.sizes_px.astype(np.float64)
    return {
        "file size": np.asarray(store.columns["bytes"], np.float64)[:, None],
        "width and height": sizes,
        "shape": (sizes[:, :1] / np.maximum(sizes[:, 1:], 1)),
        "mean colour": looks.colours.astype(np.float64),
        "contrast": looks.contrasts.astype(np.float64)[:, None],
        "sharpness": looks.sharpness.astype(np.float64)[:, None],
    }


def _predict(
    values: NDArray[np.float64], targets: NDArray[np.intp], folds: NDArray[np.intp], seed: int
) -> NDArray[np.intp]:
    """Predict the class of each item by a tree that was fitted to the other folds."""
    from sklearn.tree import DecisionTreeClassifier

    predicted = np.empty_like(targets)
    for fold in set(folds.tolist()) - {ALWAYS_TRAINED}:
        held_out = folds == fold
        tree = DecisionTreeClassifier(max_leaf_nodes=_LEAVES, min_samples_leaf=_LEAST_ITEMS, random_state=seed)
        predicted[held_out] = tree.fit(values[~held_out], targets[~held_out]).predict(values[held_out])
    return predicted
