import io
import itertools
import json
import zipfile

import numpy as np
import pytest
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from featx.errors import DataError
from featx.files import DAMAGES
from featx.heads import dump_head, find_head, fit_head, load_head
from featx.heads.calibrated import CalibratedHead
from featx.heads.persistence import make_plain_head
from featx.heads.plain import METHODS, PlainHead
from featx.specs import SCALINGS, HeadSpec

PLAIN = ["logreg", "ridge", "linear-svm", "lda", "centroid"]
OTHERS = ["knn", "svm", "random-forest", "naive-bayes", "mlp", "dummy"]
QUICK = {"random-forest": {"n_estimators": 10}, "mlp": {"max_iter": 20}, "linear-svm": {"max_iter": 50}}


def fit(digits, name, n_classes=10, scaling="none", calibration=None):
    X, y, folds = (array[:200] for array in digits)
    base = name.partition(":")[0]
    params = {"epochs": 2} if base == "keras" else QUICK.get(name, {})
    spec = HeadSpec(name, params, scaling, calibration=calibration)
    return fit_head(find_head(name), X, y % n_classes, spec, folds).estimator


def check_same(estimator, folder, X):
    """Check that the plain head answers as the reference does, after both were written and read."""
    dump_head(estimator, folder / "head.skops")
    reference = load_head(folder / "head.skops")
    make_plain_head(estimator).write(folder / "head.npz")
    plain = PlainHead.read(folder / "head.npz")
    np.testing.assert_array_equal(plain.classes_, reference.classes_)
    expected = reference.predict_proba(X)
    found = plain.predict_proba(X)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    # One item has the answer that it has among many: nothing depends on the batch.
    np.testing.assert_allclose(plain.predict_proba(X[:1]), found[:1], rtol=0, atol=1e-5)


CALIBRATED = [None, *METHODS]
GRID = [
    (*case, CALIBRATED[number % len(CALIBRATED)])
    for number, case in enumerate(itertools.product(PLAIN, (2, 10), SCALINGS))
]
#: Each kind of scores with each calibration.
GRID += itertools.product(("logreg", "ridge", "linear-svm"), (2, 3), ("none",), CALIBRATED)


@pytest.mark.parametrize(("name", "n_classes", "scaling", "calibration"), GRID)
def test_plain_heads_answer_as_the_fitted_ones(name, n_classes, scaling, calibration, digits, tmp_path):
    check_same(fit(digits, name, n_classes, scaling, calibration), tmp_path, digits[0])


@pytest.mark.keras
@pytest.mark.parametrize(
    ("name", "n_classes", "scaling", "calibration"),
    [
        ("keras", 2, "standard", None),
        ("keras", 10, "l2", "temperature"),
        ("keras:32-16", 2, "none", "isotonic"),
        ("keras:32", 10, "standard", "sigmoid"),
        ("keras:bn", 3, "standard", "bias"),
        ("keras:bn", 2, "l2", "mixture"),
    ],
)
def test_plain_networks_answer_as_the_fitted_ones(name, n_classes, scaling, calibration, digits, tmp_path):
    check_same(fit(digits, name, n_classes, scaling, calibration), tmp_path, digits[0])


@pytest.mark.parametrize("name", OTHERS)
def test_heads_that_are_not_arrays_have_no_plain_form(name, digits):
    assert make_plain_head(fit(digits, name)) is None


@pytest.fixture(scope="module")
def plain(digits, tmp_path_factory):
    """The file of a head with a scaling of its own, as an older featx fitted them, and knots."""
    path = tmp_path_factory.mktemp("plain") / "head.npz"
    X, y, _ = (array[:200] for array in digits)
    classifier = CalibratedHead(LinearSVC(max_iter=50, tol=1e-2), "isotonic")
    head = Pipeline([("scaler", StandardScaler()), ("classifier", classifier)]).fit(X, y % 3)
    make_plain_head(head).write(path)
    return path


def change(source, target, record=None, drop=(), **arrays):
    """Copy the file of a head, with a changed record and other arrays."""
    kept = dict(np.load(source))
    about = json.loads(str(kept.pop("record")))
    about.update(record or {})
    np.savez(
        target, record=np.array(json.dumps(about)), **{n: a for n, a in {**kept, **arrays}.items() if n not in drop}
    )
    return target


def test_a_copy_without_changes_is_read(plain, tmp_path):
    assert PlainHead.read(change(plain, tmp_path / "same.npz")).scores == "opposed"


ODD = {
    "classes twice": {"classes": np.zeros(3, np.int64)},
    "classes of another count": {"classes": np.arange(4)},
    "one class": {"classes": np.zeros(1, np.int64)},
    "classes as text": {"classes": np.array(["a", "b", "c"])},
    "a table of classes": {"classes": np.zeros((3, 3), np.int64)},
    "no classes": {"drop": ["classes"]},
    "no weights": {"drop": ["weights_0", "weights_1"]},
    "a kernel without a bias": {"drop": ["weights_1"]},
    "a foreign array": {"something": np.zeros(3)},
    "a kernel that is too narrow": {"weights_0": np.zeros((64, 2))},
    "a kernel without inputs": {"weights_0": np.zeros((0, 3))},
    "a kernel of three axes": {"weights_0": np.zeros((64, 3, 1))},
    "a number for a kernel": {"weights_0": np.array(1.0)},
    "integers": {"weights_0": np.zeros((64, 3), int)},
    "text": {"weights_0": np.full((64, 3), "a")},
    "NaN": {"weights_1": np.array([0, 0, np.nan])},
    "a layer too many": {"weights_2": np.zeros((3, 4)), "weights_3": np.zeros(4)},
    "a wide layer": {
        "weights_0": np.zeros((64, 70_000), np.float32),
        "weights_1": np.zeros(70_000, np.float32),
        "weights_2": np.zeros((70_000, 3), np.float32),
        "weights_3": np.zeros(3, np.float32),
    },
    "a layer without units": {
        "weights_0": np.zeros((64, 0)),
        "weights_1": np.zeros(0),
        "weights_2": np.zeros((0, 3)),
        "weights_3": np.zeros(3),
    },
    "a negative variance": {
        **{f"weights_{number}": np.full(64, -1.0) for number in range(4)},
        "weights_4": np.zeros((64, 3)),
        "weights_5": np.zeros(3),
    },
    "a scale of 0": {"scale": np.zeros(64)},
    "a scale that becomes 0 in float32": {"scale": np.full(64, 1e-60)},
    "a scale that is not finite": {"scale": np.full(64, np.inf)},
    "no scale": {"drop": ["scale"]},
    "a wide shift": {"shift": np.zeros(65)},
    "a shift in float32": {"shift": np.zeros(64, np.float32)},
    "an unknown scaling": {"record": {"scaling": "sideways"}},
    "a list for a scaling": {"record": {"scaling": ["none"]}},
    "unknown scores": {"record": {"scores": "none"}},
    "an unknown method": {"record": {"calibration": {"method": "guess", "factor": 1.0, "share": 0.0}}},
    "a list for a method": {"record": {"calibration": {"method": [], "factor": 1.0, "share": 0.0}}},
    "a calibration of another kind": {"record": {"calibration": {"method": "none", "factor": 1.0, "share": 0.0}}},
    "a negative factor": {
        "record": {"calibration": {"method": "none", "factor": -1.0, "share": 0.0}},
        "drop": ["knots", "knot_counts"],
    },
    "an array for a factor": {
        "record": {"calibration": {"method": "none", "factor": [1.0], "share": 0.0}},
        "drop": ["knots", "knot_counts"],
    },
    "a calibration without parameters": {"record": {"calibration": {}}},
    "no record of the calibration": {"record": {"calibration": None}},
    "a text as calibration": {"record": {"calibration": "isotonic"}},
    "no knots": {"drop": ["knots"]},
    "no counts": {"drop": ["knot_counts"]},
    "too few curves": {"knots": np.zeros((2, 2)), "knot_counts": np.array([1, 1])},
    "counts that do not fit": {"knots": np.zeros((2, 6)), "knot_counts": np.array([1, 1, 1])},
    "an empty curve": {"knots": np.zeros((2, 6)), "knot_counts": np.array([6, 0, 0])},
    "negative counts": {"knots": np.zeros((2, 6)), "knot_counts": np.array([8, -1, -1])},
    "counts as numbers": {"knots": np.zeros((2, 6)), "knot_counts": np.array([2.0, 2.0, 2.0])},
    "a flat list of knots": {"knots": np.zeros(6), "knot_counts": np.array([2, 2, 2])},
    "knots of three axes": {"knots": np.zeros((3, 6)), "knot_counts": np.array([2, 2, 2])},
    "knots that are not finite": {"knots": np.full((2, 6), np.nan), "knot_counts": np.array([2, 2, 2])},
    "a long record": {"record": {"note": "x" * 100_000}},
    "a scaling that is not used": {"record": {"scaling": "none"}},
    "other curves": {"slopes": np.zeros((3, 3))},
}


@pytest.mark.parametrize("name", ODD)
def test_parts_that_do_not_fit_are_refused(name, plain, tmp_path):
    path = change(plain, tmp_path / "odd.npz", **ODD[name])
    with pytest.raises((*DAMAGES, AttributeError, TypeError)):
        PlainHead.read(path)


@pytest.mark.parametrize("record", ["[]", "1", "null", "{}", "{", '{"scores": "margins", "scaling": "none"}'])
def test_a_record_that_describes_no_head_is_refused(record, tmp_path):
    np.savez(tmp_path / "odd.npz", record=np.array(record), classes=np.arange(2))
    with pytest.raises((*DAMAGES, AttributeError, TypeError)):
        PlainHead.read(tmp_path / "odd.npz")


def test_compressed_members_and_objects_are_refused(plain, tmp_path):
    arrays = dict(np.load(plain))
    np.savez_compressed(tmp_path / "small.npz", **arrays)
    with pytest.raises(ValueError, match="compressed"):
        PlainHead.read(tmp_path / "small.npz")
    content = io.BytesIO()
    np.save(content, np.array([[1], {}], object), allow_pickle=True)
    with zipfile.ZipFile(plain) as archive, zipfile.ZipFile(tmp_path / "objects.npz", "w") as changed:
        for name in archive.namelist():
            changed.writestr(name, content.getvalue() if name == "weights_0.npy" else archive.read(name))
    with pytest.raises(ValueError, match="dtype object"):
        PlainHead.read(tmp_path / "objects.npz")


def test_features_that_do_not_fit_are_refused(plain):
    head = PlainHead.read(plain)
    for features in (np.zeros((2, 63)), np.zeros((2, 1)), np.zeros(64), np.full((1, 64), np.nan)):
        with pytest.raises(DataError, match=r"features have the shape|not finite"):
            head.predict_proba(features)


def test_outputs_are_divided_by_lengths_only_in_a_linear_head(digits, tmp_path):
    path = tmp_path / "head.npz"
    make_plain_head(fit(digits, "logreg", 3, "l2")).write(path)
    layer = {"weights_2": np.zeros((3, 3), np.float32), "weights_3": np.zeros(3, np.float32)}
    with pytest.raises(ValueError, match="unknown scaling"):
        PlainHead.read(change(path, tmp_path / "odd.npz", **layer))
