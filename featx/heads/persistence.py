"""Persistence: a fitted head as a file that runs no code when it is loaded.

skops trusts every estimator of scikit-learn, whatever its state in the file. Heads use few of
them, so only these are read. Before a head is used, its state is checked for values that would
make compiled code read outside an array, or run forever.
"""

import copy
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.tree._tree import Tree

from featx.errors import BundleError
from featx.files import check_array, list_members, map_member, write_atomically, write_member
from featx.heads.calibrated import CalibratedHead
from featx.heads.calibration import Calibrator
from featx.heads.discriminant import ShrunkDiscriminant
from featx.heads.linear import LinearHead
from featx.heads.linear_svm import ScaledLinearSVC
from featx.heads.logistic import ScaledLogisticRegression
from featx.heads.neighbours import CosineNeighbours, Keys
from featx.heads.networks import NetworkClassifier
from featx.heads.plain import DIVIDED, PlainHead
from featx.heads.ridge import ScaledRidge
from featx.heads.rows import cut_rows
from featx.heads.scaling import PartDivider

#: Types in the heads of earlier versions.
_FORMER = ("sklearn.calibration._CalibratedClassifier", "sklearn.calibration._TemperatureScaling")

#: Types in fitted heads that skops does not trust by default: the classes of this
#: package and internals of scikit-learn. None runs code from its state.
TRUSTED = (
    *_FORMER,
    "featx.heads.calibrated.CalibratedHead",
    "featx.heads.calibration.Calibrator",
    "featx.heads.discriminant.ShrunkDiscriminant",
    "featx.heads.linear_svm.ScaledLinearSVC",
    "featx.heads.logistic.ScaledLogisticRegression",
    "featx.heads.neighbours.CosineNeighbours",
    "featx.heads.networks.NetworkClassifier",
    "featx.heads.ridge.ScaledRidge",
    "featx.heads.scaling.PartDivider",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
)

#: All types that heads may contain, by the node of skops that reads them.
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

#: Attributes that only training needs: random generators and an optimizer, which an untrusted file could make costly
#: to rebuild, and the curves of a network, which a bundle has as a table.
_LEFTOVERS = ("_feature_subsample_rng", "_optimizer", "_random_state", "history_")

_SCHEMA = "schema.json"

#: Items of a search that take more bytes are mapped from the file.
_MOST_READ = 64 * 2**20

_CHUNK = 1 << 20

#: An empty `{}` takes 24 times its JSON in memory; skops writes one container in 50 to 100 bytes.
_BYTES_PER_CONTAINER = 16


def dump_head(estimator: Any, path: Path) -> None:  # noqa: ANN401 - a fitted scikit-learn classifier
    """Write a fitted head, without the attributes that only training needs.

    The items of a search are written in blocks: they may be more than the memory holds.

    Args:
        estimator: As `fit_head` returns it.
        path: The file; an existing one is replaced.

    Raises:
        BundleError: If it holds types that `load_head` would refuse; an older file is left as it was.
    """
    import skops.io

    stripped = _strip(estimator)
    keys = _set_keys(stripped, np.zeros((0, 0), np.float32))
    content = skops.io.dumps(stripped)
    with write_atomically(path) as temporary:  # the keys may be mapped from the older file
        _write_file(content, keys, temporary)
        _check_file(temporary, path)


def load_head(path: Path) -> Any:  # noqa: ANN401 - a fitted scikit-learn classifier
    """Read a fitted head; nothing is unpickled, and foreign types are refused.

    A malicious file can still hold wrong numbers, and so predict wrongly: load heads from
    people you trust.

    The items of a search are mapped from the file if they take more than 64 MB, so the file must not change while
    the head is in use.

    Raises:
        BundleError: If the file is missing or damaged, holds types that heads do not
            use, or does not hold a classifier.
    """
    import skops.io

    try:
        sizes, schema = _check_file(path, path)
        place, trusted = _find_keys(schema), list(TRUSTED)
        if place is None or sizes[place] <= _MOST_READ:
            estimator = skops.io.load(path, trusted=trusted)
        else:
            estimator = skops.io.load(_leave_out(path, place), trusted=trusted)
            _set_keys(estimator, map_member(path, place))
        if isinstance(estimator, Pipeline) and hasattr(estimator, "classes_") and hasattr(estimator, "predict_proba"):
            check_parts(estimator)
            return estimator
    except BundleError:
        raise
    except FileNotFoundError:
        msg = f"{path} is missing; copy the bundle again, with all its files"
        raise BundleError(msg) from None
    except Exception as error:  # skops and scikit-learn raise any error on a state that they did not write
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        msg = f"{path} is damaged, or made by another version of scikit-learn or skops ({reason}); fit the head again"
        raise BundleError(msg) from error
    msg = f"{path} holds a {type(estimator).__name__}, which is not a fitted head; choose another file"
    raise BundleError(msg)


#: How the outputs of a classifier become scores (see `featx.heads.plain.SCORES`), of those that are plain arrays.
_SCORES: dict[type, str] = {
    LinearSVC: "opposed",
    NetworkClassifier: "log-probabilities",
    ScaledLogisticRegression: "log-softmax",
    ScaledLinearSVC: "margins",
    ScaledRidge: "margins",
    ShrunkDiscriminant: "log-softmax",
}


def make_plain_head(estimator: Any) -> PlainHead | None:  # noqa: ANN401 - a fitted scikit-learn classifier
    """Make the head of plain arrays with the same answers; None if the classifier does not consist of arrays.

    Args:
        estimator: As `fit_head` returns it.
    """
    if not isinstance(estimator, Pipeline) or len(estimator) < 2:  # noqa: PLR2004 - scaler and classifier
        return None
    *parts, scaler, classifier = (step for _, step in estimator.steps)
    widths = tuple(parts[0].widths) if parts else ()
    classes, calibration = classifier.classes_, None
    if isinstance(classifier, CalibratedHead):
        calibration, classifier = classifier.calibrator_.read(), classifier.classifier_
    if type(classifier) not in _SCORES or len(classifier.classes_) != len(classes) or classes.dtype.kind not in "iu":
        return None
    if isinstance(classifier, NetworkClassifier):
        scaler, weights = classifier.scaler_, list(classifier.weights_)
    else:
        weights = [classifier.coef_.T, classifier.intercept_]
    scaling = {StandardScaler: "standard", Normalizer: "l2"}.get(type(scaler), "none")
    if isinstance(classifier, LinearHead) and classifier.scaling == "l2":
        scaling = DIVIDED
    shift, scale = (scaler.mean_, scaler.scale_) if scaling == "standard" else (None, None)
    kind = _SCORES[type(classifier)]
    return PlainHead(classes.astype(np.int64), weights, kind, scaling, shift, scale, calibration, widths)


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


def _set_keys(estimator: Any, keys: Any) -> Any:  # noqa: ANN401 - scikit-learn classifiers, arrays and `UnitRows`
    """Set the items of a search, and return those before; None if the estimator does not search."""
    for step in estimator if isinstance(estimator, Pipeline) else ():
        part = getattr(step, "classifier_", step)
        if isinstance(part, CosineNeighbours) and "keys_" in vars(part):
            before, part.keys_ = part.keys_, keys
            return before
    return None


def _find_keys(schema: object) -> str | None:
    """Find the member of a file of skops that has the items of a search; None if there is none."""
    searches = [node["content"]["content"] for node in _walk_nodes(schema) if _is_search(node)]
    if len(searches) > 1:
        msg = "it holds two searches"
        raise ValueError(msg)
    place: str | None = searches[0]["keys_"]["file"] if searches else None
    return place


def _is_search(node: Mapping[str, Any]) -> bool:
    return node["__class__"] == CosineNeighbours.__name__ and "keys_" in node["content"]["content"]


def _write_file(content: bytes, keys: Any, path: Path) -> None:  # noqa: ANN401 - an array or `UnitRows`
    """Write a file of skops, with the items of a search, if there are any, where an empty array stands for them."""
    if keys is None:
        path.write_bytes(content)
        return
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(path, "w") as target:
        place = _find_keys(json.loads(source.read(_SCHEMA)))
        for name in source.namelist():
            if name == place:
                write_member(target, name, keys, cut_rows(*keys.shape))
            else:
                target.writestr(name, source.read(name))


def _leave_out(path: Path, place: str) -> io.BytesIO:
    """Return a file of skops with an empty array in place of one of its members."""
    content, empty = io.BytesIO(), io.BytesIO()
    np.save(empty, np.zeros((0, 0), np.float32))
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(content, "w") as target:
        for name in source.namelist():
            target.writestr(name, empty.getvalue() if name == place else source.read(name))
    return content


def _check_file(path: Path, name: Path) -> tuple[Mapping[str, int], object]:
    """Check a file's declarations before anything is built from it.

    Args:
        path: The file.
        name: What an error calls it.

    Returns:
        The sizes of its members, and its schema.

    Raises:
        BundleError: If it holds types that heads do not use.
        ValueError: If it declares more than it holds.
    """
    members = list_members(path)
    with zipfile.ZipFile(path) as archive:
        for member, size in members.items():
            if member.endswith(".npy"):
                with archive.open(member) as stream:
                    shape, *_ = check_array(stream, size)
                    while stream.read(_CHUNK):  # at its end, its checksum is compared
                        pass
                # An array of 10**9 rows without columns takes no bytes, and a list of its rows takes all memory.
                if max(shape, default=0) > size:
                    msg = f"{member!r} declares more rows or columns than it has bytes"
                    raise ValueError(msg)
        data = archive.read(_SCHEMA)
    if _BYTES_PER_CONTAINER * (data.count(b"{") + data.count(b"[")) > len(data):
        msg = f"{_SCHEMA} consists of empty parts"
        raise ValueError(msg)
    schema = json.loads(data)
    nodes = list(_walk_nodes(schema))
    foreign = sorted({_name_type(node) for node in nodes} - {""})
    if foreign:
        msg = f"{name} holds types that heads do not use: {', '.join(foreign)[:500]}; featx does not load such files"
        raise BundleError(msg)
    _count_parts(schema, {})
    owners: dict[str, int] = {}
    for node in nodes:
        if not str(node.get("file", ".npy")).endswith(".npy"):
            msg = f"{node['file']!r} is not an array, as its schema says"
            raise ValueError(msg)
        if "file" in node and not (
            node["__id__"] and owners.setdefault(node["file"], node["__id__"]) == node["__id__"]
        ):
            msg = f"{node['file']!r} is used twice"
            raise ValueError(msg)
    return members, schema


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
    """Return the type of a node if heads do not use it, else an empty text."""
    name = f"{node['__module__']}.{node['__class__']}"
    return "" if name in ALLOWED.get(node["__loader__"], ()) else name


def _count_parts(value: Any, counts: dict[int, int]) -> int:  # noqa: ANN401 - what JSON holds
    """Count the parts of a node; refuse one that refers to another by its number, as nested references multiply."""
    if isinstance(value, list):
        return sum(_count_parts(part, counts) for part in value)
    if not isinstance(value, dict):
        return 0
    count = 1 + sum(_count_parts(part, counts) for part in value.values())
    if "__id__" in value and counts.setdefault(value["__id__"], count) != count:
        msg = "one of its parts refers to another"
        raise ValueError(msg)
    return count


#: The attribute that a part has once it is fitted; a calibrated head also holds its classifier unfitted.
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

#: Types whose compiled code reads as many features as their state declares.
_COMPILED = (DecisionTreeClassifier, HistGradientBoostingClassifier, KNeighborsClassifier, RandomForestClassifier, SVC)


def check_parts(head: Pipeline) -> None:
    """Check all parts of a head.

    Raises:
        AttributeError, TypeError: If a part lacks an attribute, or has one of another type.
        ValueError: If a state cannot come from fitting.
    """
    parts = list(_list_parts(head))
    widths = {part.n_features_in_ for part in parts if "n_features_in_" in getattr(part, "__dict__", {})}
    if len(widths) > 1 or any(getattr(part, "n_jobs", None) is not None for part in parts):
        msg = "its parts differ in their number of features, or request threads"
        raise ValueError(msg)
    width = widths.pop() if widths else 0
    for part in parts:
        state = getattr(part, "__dict__", {})
        if "classes_" in state:
            _check_classes(part)
        if type(part) in _FITTED and _FITTED[type(part)] not in state:
            continue
        if isinstance(part, _COMPILED) and "n_features_in_" not in state:
            msg = f"a {type(part).__name__} without its number of features"
            raise ValueError(msg)
        _check_part(part, width)


def _check_part(part: Any, width: int) -> None:  # noqa: ANN401 - any part of a head
    if type(part) is Tree:
        _check_tree(part.children_left, part.children_right, part.feature, part.children_left != -1, width)
    elif type(part) is TreePredictor:
        nodes = part.nodes
        _check_tree(nodes["left"], nodes["right"], nodes["feature_idx"], nodes["is_leaf"] == 0, width)
        if nodes["is_categorical"].any():
            msg = "a tree with categorical splits, which features do not have"
            raise ValueError(msg)
    elif type(part) is SVC:
        _check_vectors(part, width)
    elif type(part) is KNeighborsClassifier:
        search = (part.metric, part._fit_method)  # noqa: SLF001 - as the file has it
        _check_neighbours(part._fit_X, part._y, part.classes_, width, fits=search == ("cosine", "brute"))  # noqa: SLF001
    elif type(part) is CosineNeighbours:
        _check_neighbours(part.keys_, part.positions_, part.classes_, width, fits=True)
    elif isinstance(part, Calibrator | NetworkClassifier | PartDivider):
        part.check_state()


def _check_classes(part: Any) -> None:  # noqa: ANN401 - any classifier
    classes = part.classes_
    if not isinstance(classes, np.ndarray) or classes.ndim != 1 or len(np.unique(classes)) != len(classes):
        msg = "classes that are not a list of distinct values"
        raise ValueError(msg)
    if part.__dict__.get("n_classes_", len(classes)) != len(classes):
        msg = "a number of classes that is not that of its list"
        raise ValueError(msg)


def _check_vectors(part: SVC, width: int) -> None:
    """Check the sizes that libsvm trusts: of the support vectors of each class, and of their coefficients."""
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
    known: NDArray[Any] | Keys, labels: NDArray[Any], classes: NDArray[Any], width: int, *, fits: bool
) -> None:
    """Check the arrays that a search trusts; votes are added at the positions of the labels."""
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
    """Check that children come after their parents, as in every fitted tree, and that features exist."""
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
