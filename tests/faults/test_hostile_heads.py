"""Untrusted heads: types that no head holds, trees that lead nowhere, parts that grow; none is ever used."""

import copy
import json
import shutil
import zipfile

import numpy as np
import pytest
import skops.io
from bundle_files import check_refused, check_refused_cheaply, sign
from sklearn.calibration import CalibratedClassifierCV
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import featx
from featx.errors import BundleError
from featx.heads import load_head
from featx.options import FitOptions

QUICK = {"random-forest": {"n_estimators": 3}, "hist-gb": {"max_iter": 2}}


@pytest.fixture(scope="session")
def made(store, tmp_path_factory):
    """One bundle for each head that a test breaks."""
    folder = tmp_path_factory.mktemp("made")
    return {
        clf: featx.fit(store, clf, params=QUICK.get(clf, {}), options=FitOptions(folder=folder)).bundle
        for clf in ("centroid", "random-forest", "hist-gb")
    }


@pytest.fixture
def bundle(made, tmp_path):
    folder = shutil.copytree(made["centroid"], tmp_path / "bundle")
    (folder / "head.npz").unlink()  # as in earlier versions; with it, `head.skops` is not read for a prediction
    return folder


def write_head(bundle, head):
    skops.io.dump(head, bundle / "head.skops")
    sign(bundle)


def read_schema(bundle):
    with zipfile.ZipFile(bundle / "head.skops") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_schema(bundle, change):
    members = read_schema(bundle)
    members["schema.json"] = json.dumps(change(json.loads(members["schema.json"]))).encode()
    with zipfile.ZipFile(bundle / "head.skops", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    sign(bundle)


@pytest.mark.parametrize(
    "estimator",
    [
        FunctionTransformer(np.sin),
        make_pipeline(StandardScaler(), CalibratedClassifierCV(LogisticRegression(), cv=3), memory="cache"),
        make_pipeline(CountVectorizer(input="filename"), LogisticRegression()),
        {"generator": np.random.default_rng(0)},
        {"dtype": np.dtype("f4"), "type": np.float64},
        {"slice": slice(3), "bytes": b"x", "set": {1}},
    ],
    ids=["function", "files", "text files", "generator", "types", "others"],
)
def test_types_that_skops_trusts_and_no_head_holds_are_refused(bundle, estimator):
    write_head(bundle, {"head": estimator, "more": np.random.RandomState(1), "op": LogisticRegression})
    check_refused(bundle, "holds types that heads do not use: ")


@pytest.mark.parametrize(
    "node",
    [
        {"__loader__": "FunctionNode", "__module__": "os", "__class__": "system", "content": "system"},
        {"__loader__": "TypeNode", "__module__": "os", "__class__": "system"},
        {"__loader__": "ObjectNode", "__module__": "builtins", "__class__": "str"},
        {"__loader__": "ConstructorFromReduceNode", "__module__": "builtins", "__class__": "list", "content": {}},
        {"__loader__": "OperatorFuncNode", "__module__": "operator", "__class__": "methodcaller", "attrs": {}},
        {"__loader__": "PartialNode", "__module__": "functools", "__class__": "partial", "content": {}},
        {"__loader__": "MethodNode", "__module__": "builtins", "__class__": "str", "content": {}},
        {"__loader__": "CachedNode", "__module__": "builtins", "__class__": "dict", "__id__": 1},
        {"__loader__": "NoNode", "__module__": "builtins", "__class__": "dict"},
    ],
    ids=lambda node: node["__loader__"],
)
def test_nodes_that_call_something_are_refused_before_skops_reads_them(bundle, node):
    write_schema(bundle, lambda schema: schema | {"hidden": [[{"deep": node}]]})
    check_refused(
        bundle, f"holds types that heads do not use: {node['__module__']}.{node['__class__']}; featx does not load"
    )


@pytest.mark.parametrize("value", [None, -1, "", [], {}, "x", ["x"], 1e400])
def test_a_schema_of_other_kinds_is_refused(bundle, value):
    schema = json.loads(read_schema(bundle)["schema.json"])
    for name in schema:
        write_schema(bundle, lambda schema, name=name: schema | {name: value})
        if name not in {"__id__", "protocol", "_skops_version"}:
            check_refused(bundle, "head.skops is damaged|holds types|holds a")
    write_schema(bundle, lambda _: value)
    check_refused(bundle, "head.skops is damaged|holds a")


def test_a_part_that_stands_for_a_larger_one_is_refused(bundle):
    def nest(depth):
        part = {"__loader__": "ListNode", "__module__": "builtins", "__class__": "list", "content": []}
        if depth:
            part["content"] = [nest(depth - 1), *[{**part, "__id__": 1000 + depth - 1} for _ in range(99)]]
        return {**part, "__id__": 1000 + depth}

    write_schema(bundle, lambda schema: schema | {"content": nest(12)})
    check_refused(bundle, "one of its parts refers to another")


def test_an_array_that_is_read_many_times_is_refused(bundle):
    def repeat(node):
        if isinstance(node, dict) and "file" in node:
            return [{**node, "__id__": node["__id__"] + number} for number in range(2)]
        if isinstance(node, dict):
            return {name: repeat(child) for name, child in node.items()}
        return [repeat(child) for child in node] if isinstance(node, list) else node

    write_schema(bundle, repeat)
    check_refused(bundle, "is used twice")


def test_a_schema_that_would_fill_the_memory_is_refused(bundle):
    with zipfile.ZipFile(bundle / "head.skops", "w") as archive:
        archive.writestr("schema.json", b"[" + b"{}," * 10**7 + b"{}]")
    sign(bundle)
    check_refused_cheaply(bundle, "consists of empty parts")
    with zipfile.ZipFile(bundle / "head.skops", "w") as archive:
        archive.writestr("schema.json", b"[" * 10**6)
    sign(bundle)
    check_refused(bundle, "head.skops is damaged")


def break_forest(pipeline, name, value):
    tree = pipeline[-1].classifier_.estimators_[0].tree_
    state = tree.__getstate__()
    state["nodes"] = state["nodes"].copy()
    state["nodes"][name][0] = value
    tree.__setstate__(state)


@pytest.mark.parametrize(
    ("name", "value"),
    [("left_child", 10**7), ("right_child", 0), ("left_child", -2), ("feature", 10**7), ("feature", -9)],
)
def test_trees_that_would_read_outside_of_their_arrays_or_never_end_are_refused(made, tmp_path, name, value):
    bundle = shutil.copytree(made["random-forest"], tmp_path / "bundle")
    head = load_head(bundle / "head.skops")
    break_forest(head, name, value)
    write_head(bundle, head)
    check_refused(bundle, "a tree with nodes or features that it does not have")


@pytest.mark.parametrize(
    ("name", "value"),
    [("left", 10**7), ("right", 0), ("feature_idx", 10**7), ("feature_idx", -1), ("is_categorical", 1)],
)
def test_boosted_trees_are_checked_as_well(made, tmp_path, name, value):
    bundle = shutil.copytree(made["hist-gb"], tmp_path / "bundle")
    head = load_head(bundle / "head.skops")
    predictor = getattr(head[-1], "classifier_", head[-1])._predictors[0][0]
    predictor.nodes = predictor.nodes.copy()
    predictor.nodes[name][0] = value
    write_head(bundle, head)
    check_refused(bundle, "a tree with (nodes or features that it does not have|categorical splits)")


def test_a_head_that_asks_for_threads_or_other_features_is_refused(made, tmp_path):
    bundle = shutil.copytree(made["random-forest"], tmp_path / "bundle")
    for name, value in (("n_jobs", 10**6), ("n_features_in_", 10**6)):
        head = load_head(made["random-forest"] / "head.skops")
        setattr(head[-1], name, value)
        write_head(bundle, head)
        check_refused(bundle, "differ in their number of features, or request threads")


def test_a_head_without_its_fitted_parameters_is_refused(bundle):
    head = load_head(bundle / "head.skops")
    for name in ("classes_", "classifier_", "calibrator_"):
        broken = copy.deepcopy(head)
        delattr(broken[-1], name)
        write_head(bundle, broken)
        check_refused(bundle, "holds a Pipeline, which is not a fitted head|its parts do not match")
    write_head(bundle, Pipeline([("classifier", "passthrough")]))
    with pytest.raises(BundleError, match="not a fitted head"):
        load_head(bundle / "head.skops")
