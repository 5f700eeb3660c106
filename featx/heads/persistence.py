"""Persistence: a fitted head as a file that runs no code when it is loaded.

skops trusts every estimator of scikit-learn, and leaves the state of each to who wrote it. A
head is made of few of them, so only these are read, and what would make compiled code read
outside of an array, or wait for ever, is looked for before the head is used.
"""

import copy
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from featx.containers import list_members, read_array
from featx.errors import BundleError
from featx.heads.calibrated import CalibratedHead
from featx.heads.states import check_parts

#: Types that the heads of earlier versions hold.
_FORMER = ("sklearn.calibration._CalibratedClassifier", "sklearn.calibration._TemperatureScaling")

#: Types that fitted heads hold beyond those that skops trusts by itself: the classes
#: of this package and internals of scikit-learn. None runs code from its state.
TRUSTED = (
    *_FORMER,
    "featx.heads.calibrated.CalibratedHead",
    "featx.heads.calibration.Calibrator",
    "featx.heads.discriminant.ShrunkDiscriminant",
    "featx.heads.logistic.ScaledLogisticRegression",
    "featx.heads.neighbours.CosineNeighbours",
    "featx.heads.networks.NetworkClassifier",
    "featx.heads.ridge.ScaledRidge",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
)

#: All that heads are made of, by what reads it.
ALLOWED = {
    "DictNode": {"builtins.dict"},
    "JsonNode": {"builtins.str"},
    "ListNode": {"builtins.list"},
    "TupleNode": {"builtins.tuple"},
    "TypeNode": {"builtins.str"},
    "NdArrayNode": {"numpy.ndarray", *(f"numpy.{np.dtype(code).type.__name__}" for code in "?bhilqBHILQefdU")},
    "LossNode": {"sklearn._loss._loss.CyHalfBinomialLoss", "sklearn._loss._loss.CyHalfMultinomialLoss"},
    "TreeNode": {"sklearn.tree._tree.Tree"},
    "ObjectNode": {
        *(set(TRUSTED) - {"sklearn.tree._tree.Tree"}),
        "sklearn._loss.link.Interval",
        "sklearn._loss.link.LogitLink",
        "sklearn._loss.link.MultinomialLogit",
        "sklearn._loss.loss.HalfBinomialLoss",
        "sklearn._loss.loss.HalfMultinomialLoss",
        "sklearn.calibration.CalibratedClassifierCV",
        "sklearn.dummy.DummyClassifier",
        "sklearn.ensemble._forest.RandomForestClassifier",
        "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
        "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingClassifier",
        "sklearn.linear_model._logistic.LogisticRegression",
        "sklearn.linear_model._ridge.RidgeClassifier",
        "sklearn.naive_bayes.GaussianNB",
        "sklearn.neighbors._classification.KNeighborsClassifier",
        "sklearn.neural_network._multilayer_perceptron.MLPClassifier",
        "sklearn.pipeline.Pipeline",
        "sklearn.preprocessing._data.Normalizer",
        "sklearn.preprocessing._data.StandardScaler",
        "sklearn.preprocessing._label.LabelBinarizer",
        "sklearn.preprocessing._label.LabelEncoder",
        "sklearn.svm._classes.LinearSVC",
        "sklearn.svm._classes.SVC",
        "sklearn.tree._classes.DecisionTreeClassifier",
    },
}

#: What only training needs: random generators and an optimizer, which a stranger could make costly to rebuild, and
#: the curves of a network, which a bundle has as a table.
_LEFTOVERS = ("_feature_subsample_rng", "_optimizer", "_random_state", "history_")

_SCHEMA = "schema.json"
#: An empty `{}` takes 24 times its JSON in memory; skops writes one container in 50 to 100 bytes.
_BYTES_PER_CONTAINER = 16


def dump_head(estimator: Any, path: Path) -> None:  # noqa: ANN401 - a fitted scikit-learn classifier
    """Write a fitted head, without what only its training needed.

    Args:
        estimator: As `fit_head` gives it.
        path: The file, replaced if it is there.

    Raises:
        BundleError: If it holds types that `load_head` would refuse; nothing is left behind.
    """
    import skops.io

    path.write_bytes(skops.io.dumps(_strip(estimator)))
    try:
        _check_file(path)
    except BaseException:
        path.unlink()
        raise


def load_head(path: Path) -> Any:  # noqa: ANN401 - a fitted scikit-learn classifier
    """Read a fitted head; nothing is unpickled, and foreign types are refused.

    A file made with bad intent can still hold wrong numbers, which give wrong
    predictions: load heads from people you trust.

    Raises:
        BundleError: If the file is missing or damaged, holds other types than heads
            are made of, or holds no classifier.
    """
    import skops.io

    try:
        _check_file(path)
        estimator = skops.io.load(path, trusted=list(TRUSTED))
        if isinstance(estimator, Pipeline) and hasattr(estimator, "classes_") and hasattr(estimator, "predict_proba"):
            check_parts(estimator)
            return estimator
    except BundleError:
        raise
    except FileNotFoundError:
        msg = f"{path} is missing; a bundle has to be moved with all its files"
        raise BundleError(msg) from None
    except Exception as error:  # skops and scikit-learn raise anything on a state that they never wrote
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        msg = f"{path} is damaged, or made by another version of scikit-learn or skops ({reason}); fit the head again"
        raise BundleError(msg) from error
    msg = f"{path} holds a {type(estimator).__name__}, which is no fitted head; choose another file"
    raise BundleError(msg)


def _strip(estimator: Any) -> Any:  # noqa: ANN401 - scikit-learn classifiers
    if not isinstance(estimator, Pipeline):
        return estimator
    stripped = copy.copy(estimator)
    stripped.steps = [(name, copy.copy(step)) for name, step in estimator.steps]
    for at, (name, step) in enumerate(stripped.steps):
        if isinstance(step, CalibratedHead):
            step.classifier_ = copy.copy(step.classifier_)
            stripped.steps[at] = (name, step)
        for part in (step, getattr(step, "classifier_", None)):
            for leftover in _LEFTOVERS:
                getattr(part, "__dict__", {}).pop(leftover, None)
    return stripped


def _check_file(path: Path) -> None:
    """Check all that the file declares, before anything is built from it.

    Raises:
        BundleError: If it holds types that no head is made of.
        ValueError: If it declares more than it holds.
    """
    members = list_members(path)
    with zipfile.ZipFile(path) as archive:
        for name in members:
            if name.endswith(".npy"):
                content = archive.read(name)
                # An array of 10**9 rows and no column takes no byte, and a list of its rows all memory.
                if max(read_array(content).shape, default=0) > len(content):
                    msg = f"{name!r} declares more rows or columns than it has bytes"
                    raise ValueError(msg)
        data = archive.read(_SCHEMA)
    if _BYTES_PER_CONTAINER * (data.count(b"{") + data.count(b"[")) > len(data):
        msg = f"{_SCHEMA} is made of empty parts"
        raise ValueError(msg)
    schema = json.loads(data)
    nodes = list(_walk_nodes(schema))
    foreign = sorted({_name_type(node) for node in nodes} - {""})
    if foreign:
        msg = (
            f"{path} holds types that no head is made of: {', '.join(foreign)[:500]}; featx neither writes nor loads it"
        )
        raise BundleError(msg)
    _count_parts(schema, {})
    owners: dict[str, int] = {}
    for node in nodes:
        if "file" in node and not (
            node["__id__"] and owners.setdefault(node["file"], node["__id__"]) == node["__id__"]
        ):
            msg = f"{node['file']!r} is used twice"
            raise ValueError(msg)


def _walk_nodes(schema: object) -> Iterator[dict[str, Any]]:
    stack = [schema]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            stack += value.values()
            if "__loader__" in value:
                yield value
        elif isinstance(value, list):
            stack += value


def _name_type(node: dict[str, Any]) -> str:
    """Return what a node is if no head is made of it, else nothing."""
    name = f"{node['__module__']}.{node['__class__']}"
    return "" if name in ALLOWED.get(node["__loader__"], ()) else name


def _count_parts(value: Any, counts: dict[int, int]) -> int:  # noqa: ANN401 - what JSON holds
    """Count the parts of a node; one that stands for another by its number is refused, as nests of them grow."""
    if isinstance(value, list):
        return sum(_count_parts(part, counts) for part in value)
    if not isinstance(value, dict):
        return 0
    count = 1 + sum(_count_parts(part, counts) for part in value.values())
    if "__id__" in value and counts.setdefault(value["__id__"], count) != count:
        msg = "one part of it stands for another"
        raise ValueError(msg)
    return count
