"""The states of fitted heads from files: what compiled code believes without looking is looked at first.

scikit-learn's trees, support vectors and neighbours are read by compiled code that takes
shapes, labels and indices as `fit` leaves them. A head that a stranger wrote may have others,
which would read or write outside of an array.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.tree._tree import Tree

from featx.heads.calibration import Calibrator
from featx.heads.neighbours import CosineNeighbours
from featx.heads.networks import NetworkClassifier

#: What a fitted part has; without it, it is what a calibrated head began with.
_FITTED: dict[type, str] = {
    Calibrator: "n_classes_",
    CosineNeighbours: "keys_",
    DecisionTreeClassifier: "tree_",
    HistGradientBoostingClassifier: "_predictors",
    KNeighborsClassifier: "_fit_X",
    NetworkClassifier: "weights_",
    RandomForestClassifier: "estimators_",
    SVC: "support_vectors_",
}

#: Those whose compiled code reads as many features as their state says.
_COMPILED = (DecisionTreeClassifier, HistGradientBoostingClassifier, KNeighborsClassifier, RandomForestClassifier, SVC)


def check_parts(head: Pipeline) -> None:
    """Check all parts of a head.

    Raises:
        AttributeError, TypeError: If a part lacks something, or has it in another type.
        ValueError: If a state is none that fitting leaves.
    """
    parts = list(_list_parts(head))
    widths = {part.n_features_in_ for part in parts if "n_features_in_" in getattr(part, "__dict__", {})}
    if len(widths) > 1 or any(getattr(part, "n_jobs", None) is not None for part in parts):
        msg = "its parts differ in their number of features, or ask for threads"
        raise ValueError(msg)
    width = widths.pop() if widths else 0
    for part in parts:
        state = getattr(part, "__dict__", {})
        if "classes_" in state:
            _check_classes(part)
        if type(part) in _FITTED and _FITTED[type(part)] not in state:
            continue
        if isinstance(part, _COMPILED) and "n_features_in_" not in state:
            msg = f"a {type(part).__name__} that does not say how many features it takes"
            raise ValueError(msg)
        _check_part(part, width)


def _check_part(part: Any, width: int) -> None:  # noqa: ANN401 - any part of a head
    if type(part) is Tree:
        _check_tree(part.children_left, part.children_right, part.feature, part.children_left != -1, width)
    elif type(part) is TreePredictor:
        nodes = part.nodes
        _check_tree(nodes["left"], nodes["right"], nodes["feature_idx"], nodes["is_leaf"] == 0, width)
        if nodes["is_categorical"].any():
            msg = "a tree of it asks for categories, and features have none"
            raise ValueError(msg)
    elif type(part) is SVC:
        _check_vectors(part, width)
    elif type(part) is KNeighborsClassifier:
        search = (part.metric, part._fit_method)  # noqa: SLF001 - as the file has it
        _check_neighbours(part._fit_X, part._y, part.classes_, width, fits=search == ("cosine", "brute"))  # noqa: SLF001
    elif type(part) is CosineNeighbours:
        _check_neighbours(part.keys_, part.positions_, part.classes_, width, fits=True)
    elif isinstance(part, Calibrator | NetworkClassifier):
        part.check_state()


def _check_classes(part: Any) -> None:  # noqa: ANN401 - any classifier
    classes = part.classes_
    if not isinstance(classes, np.ndarray) or classes.ndim != 1 or len(np.unique(classes)) != len(classes):
        msg = "classes that are no list of different ones"
        raise ValueError(msg)
    if part.__dict__.get("n_classes_", len(classes)) != len(classes):
        msg = "another number of classes than it has"
        raise ValueError(msg)


def _check_vectors(part: SVC, width: int) -> None:
    """Check what libsvm believes: how many support vectors each class has, and how many coefficients these."""
    counts, n = part._n_support, len(part.support_vectors_)  # noqa: SLF001 - as the file has it
    k = len(counts)
    pairs = (k * (k - 1) // 2,)
    shapes: dict[str, set[tuple[int, ...]]] = {
        "support_vectors_": {(n, width)},
        "support_": {(n,)},
        "_dual_coef_": {(k - 1, n)},
        "_intercept_": {pairs},
        "_probA": {(0,), pairs},
        "_probB": {part._probA.shape},  # noqa: SLF001
    }
    if (
        (part._impl, part.kernel, part._sparse) != ("c_svc", "rbf", False)  # noqa: SLF001
        or (counts.dtype, counts.shape) != (np.int32, part.classes_.shape)
        or counts.min() < 0
        or counts.sum(dtype=np.int64) != n
        or any(getattr(part, name).shape not in known for name, known in shapes.items())
    ):
        msg = "support vectors that do not fit together"
        raise ValueError(msg)


def _check_neighbours(
    known: NDArray[Any], labels: NDArray[Any], classes: NDArray[Any], width: int, *, fits: bool
) -> None:
    """Check what a search believes; votes are added up where the labels point to."""
    if (
        not fits
        or known.shape != (len(labels), width)
        or labels.ndim != 1
        or labels.dtype.kind != "i"
        or not ((labels >= 0) & (labels < len(classes))).all()
    ):
        msg = "neighbours that do not fit together"
        raise ValueError(msg)


def _check_tree(
    left: NDArray[Any], right: NDArray[Any], feature: NDArray[Any], inner: NDArray[np.bool_], width: int
) -> None:
    """Check that children come after their parents, as in every tree that was grown, and that features exist."""
    numbers = np.flatnonzero(inner)
    children = np.stack([left[inner], right[inner]]).astype(np.int64)
    features = feature[inner]
    if (
        not len(left)
        or not ((children > numbers) & (children < len(left)) & (features >= 0) & (features < width)).all()
    ):
        msg = "a tree with nodes or features that it does not have"
        raise ValueError(msg)


def _list_parts(head: Pipeline) -> Iterator[Any]:
    stack, seen = [head], set[int]()
    while stack:
        part = stack.pop()
        if id(part) in seen or isinstance(part, np.ndarray | str | int | float | None):
            continue
        seen.add(id(part))
        if isinstance(part, dict):
            stack += part.values()
        elif isinstance(part, list | tuple):
            stack += part
        else:
            stack += getattr(part, "__dict__", {}).values()
            yield part
