import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import skops.io
from head_names import ALL_HEADS
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer

from featx.errors import BundleError
from featx.heads import dump_head, find_head, fit_head, load_head, persistence
from featx.heads.calibration import METHODS
from featx.heads.persistence import _FORMER, TRUSTED
from featx.heads.rows import FeatureRows
from featx.specs import HeadSpec

FORMER = Path(__file__).parents[1] / "data" / "heads-v1"
QUICK = {
    "random-forest": {"n_estimators": 10},
    "hist-gb": {"max_iter": 5},
    "mlp": {"max_iter": 20},
    "keras": {"epochs": 3},
}


@pytest.mark.parametrize("name", ALL_HEADS)
@pytest.mark.parametrize(("n_classes", "scaling"), [(2, "standard"), (10, "l2"), (10, "none")])
def test_every_head_comes_back_with_the_same_probabilities(name, n_classes, scaling, digits, tmp_path):
    X, y, folds = (array[:200] for array in digits)
    estimator = fit_head(
        find_head(name), X, y % n_classes, HeadSpec(name, QUICK.get(name, {}), scaling), folds
    ).estimator
    path = tmp_path / "head.skops"
    dump_head(estimator, path)
    loaded = load_head(path)
    np.testing.assert_array_equal(loaded.predict_proba(digits[0]), estimator.predict_proba(digits[0]))
    np.testing.assert_array_equal(loaded.classes_, estimator.classes_)
    if estimator[-1].__class__.__name__ == "CalibratedHead":
        assert loaded[-1].cv == 3  # not the positions of the items it was fitted to


@pytest.fixture
def mapped(digits, tmp_path, monkeypatch):
    """The file of a search whose items are mapped."""
    X, y, folds = (array[:100] for array in digits)
    path = tmp_path / "head.skops"
    dump_head(fit_head(find_head("knn"), X, y, HeadSpec("knn", {}, "none", calibration="none"), folds).estimator, path)
    monkeypatch.setattr(persistence, "_MOST_READ", 0)
    assert isinstance(load_head(path)[-1].keys_, np.memmap)
    return path


def rewrite(path, edit):
    """Write the members of a head again, as a function of their names and contents returns them."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
        place = persistence._find_keys(json.loads(members["schema.json"]))
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in edit(members, place).items():
            archive.writestr(name, content)


def test_a_flipped_bit_in_mapped_neighbours_is_refused(mapped):
    row = np.array(load_head(mapped)[-1].keys_[50]).tobytes()
    content = bytearray(mapped.read_bytes())
    content[content.index(row)] ^= 1
    mapped.write_bytes(content)
    with pytest.raises(BundleError, match="damaged"):
        load_head(mapped)


def test_mapped_neighbours_that_have_a_checksum_of_a_part_only_are_refused(mapped):
    def cut(members, place):
        return {name: content[: len(content) // 2] if name == place else content for name, content in members.items()}

    with zipfile.ZipFile(mapped) as archive:
        place = persistence._find_keys(json.loads(archive.read("schema.json")))
        size = archive.getinfo(place).file_size
    rewrite(mapped, cut)
    content = bytearray(mapped.read_bytes())
    entry = content.rindex(place.encode()) - 46  # in the central directory, whose sizes are at 20 and 24
    content[entry + 24 : entry + 28] = size.to_bytes(4, "little")
    mapped.write_bytes(content)
    with pytest.raises(BundleError, match=r"declares .* bytes and has"):
        load_head(mapped)


def test_mapped_neighbours_under_a_name_that_is_not_checked_are_refused(mapped):
    def rename(members, place):
        other = place.replace(".npy", ".bin")
        return {name.replace(place, other): c.replace(place.encode(), other.encode()) for name, c in members.items()}

    rewrite(mapped, rename)
    with pytest.raises(BundleError, match="is not an array"):
        load_head(mapped)


def test_a_head_replaces_the_file_that_its_neighbours_are_mapped_from(mapped, digits):
    head = load_head(mapped)
    before = head.predict_proba(digits[0])
    dump_head(head, mapped)
    np.testing.assert_array_equal(load_head(mapped).predict_proba(digits[0]), before)


def test_a_head_that_cannot_be_written_leaves_an_older_file(mapped):
    before, head = mapped.read_bytes(), load_head(mapped)
    head[-1].extra = KMeans()
    with pytest.raises(BundleError, match=r"head\.skops holds types that heads do not use"):
        dump_head(head, mapped)
    head[-1].extra = np.zeros(1, [("text", object)])
    with pytest.raises(Exception, match="numpy arrays of dtype"):
        dump_head(head, mapped)
    assert mapped.read_bytes() == before
    assert [path.name for path in mapped.parent.iterdir()] == ["head.skops"]


@pytest.mark.keras
def test_every_trusted_type_is_needed_by_some_head(digits, tmp_path):
    X, y, folds = (array[:100] for array in digits)
    needed = set()
    for name in ("logreg", "linear-svm", "knn", "ridge", "lda", "random-forest", "hist-gb", "keras"):
        dump_head(
            fit_head(find_head(name), X, y, HeadSpec(name, QUICK.get(name, {}), "none"), folds).estimator,
            tmp_path / name,
        )
        needed.update(skops.io.get_untrusted_types(file=tmp_path / name))
    parts = fit_head(find_head("lda"), FeatureRows(X, widths=(24, 40)), y, HeadSpec("lda", {}, "l2"), folds)
    dump_head(parts.estimator, tmp_path / "parts")
    needed.update(skops.io.get_untrusted_types(file=tmp_path / "parts"))
    assert needed | set(_FORMER) == set(TRUSTED)
    assert not needed & set(_FORMER)


@pytest.mark.parametrize("name", ["ridge", "lda", "centroid", "knn", "logreg", "linear-svm"])
def test_heads_of_earlier_versions_predict_as_before(name):
    """Written by earlier versions, whose heads held other classes; never to be made again."""
    folder = Path(__file__).parents[1] / "data" / "heads-v1"
    expected = np.load(folder / "expected.npz")
    probabilities = load_head(folder / f"{name}.skops").predict_proba(expected["X"])
    np.testing.assert_allclose(probabilities, expected[name], atol=1e-6)


class Foreign(LogisticRegression):
    pass


def test_foreign_types_are_listed_and_refused(digits, tmp_path):
    path = tmp_path / "head.skops"
    model = Foreign().fit(digits[0][:50] / 16, digits[1][:50])
    skops.io.dump(model, path)
    with pytest.raises(BundleError, match=r"types that heads do not use: .*Foreign"):
        load_head(path)
    skops.io.dump(FunctionTransformer(np.loadtxt), path)
    with pytest.raises(BundleError, match=r"types that heads do not use: numpy.*loadtxt"):
        load_head(path)
    with pytest.raises(BundleError, match="Foreign"):
        dump_head(model, tmp_path / "other.skops")
    assert not (tmp_path / "other.skops").exists()


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("trapped"),))


def test_a_pickle_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "head.skops"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(BundleError, match="damaged"):
        load_head(path)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("schema.json", "{}")
        archive.writestr("head.pkl", pickle.dumps(Trap()))
    path.write_bytes(content.getvalue())
    with pytest.raises(BundleError, match="damaged"):
        load_head(path)
    assert not (tmp_path / "trapped").exists()


def test_a_damaged_or_missing_file_is_one_clear_line(digits, tmp_path):
    X, y, folds = (array[:100] for array in digits)
    path = tmp_path / "head.skops"
    with pytest.raises(BundleError, match="is missing"):
        load_head(path)
    dump_head(fit_head(find_head("logreg"), X, y, HeadSpec("logreg"), folds).estimator, path)
    whole = path.read_bytes()
    for content in (b"", b"<html>", whole[: len(whole) // 2], whole[: len(whole) // 2] + b"\0" * (len(whole) // 2)):
        path.write_bytes(content)
        with pytest.raises(BundleError, match="damaged"):
            load_head(path)


def test_a_file_without_a_classifier_is_refused(digits, tmp_path):
    path = tmp_path / "head.skops"
    skops.io.dump(KMeans(2, n_init=1).fit(digits[0]), path)
    with pytest.raises(BundleError, match=r"types that heads do not use: sklearn\.cluster\._kmeans\.KMeans"):
        load_head(path)
    skops.io.dump(LogisticRegression().fit(digits[0][:50], digits[1][:50]), path)
    with pytest.raises(BundleError, match="holds a LogisticRegression, which is not a fitted head"):
        load_head(path)
    skops.io.dump({"weights": [1, 2]}, path)
    with pytest.raises(BundleError, match="holds a dict"):
        load_head(path)


def spoil_wide(network):
    network.hidden = "65536-65536"


def spoil_shape(network):
    network.weights_[0] = network.weights_[0][:, :3]


def spoil_value(network):
    network.weights_[1][0] = np.nan


def spoil_classes(network):
    network.classes_ = network.classes_[:4]


def spoil_width(network):
    network.n_features_in_ = 10**9


def spoil_scaler(network):
    network.scaler_.n_features_in_ = 63


@pytest.mark.keras
@pytest.mark.parametrize("spoil", [spoil_wide, spoil_shape, spoil_value, spoil_classes, spoil_width, spoil_scaler])
def test_a_network_whose_parts_do_not_fit_is_refused(spoil, digits, tmp_path):
    X, y, folds = (array[:200] for array in digits)
    estimator = fit_head(find_head("keras:8"), X, y, HeadSpec("keras:8", QUICK["keras"]), folds).estimator
    path = tmp_path / "head.skops"
    dump_head(estimator, path)
    assert not hasattr(load_head(path)[-1], "history_")  # curves are in the bundle
    assert hasattr(estimator[-1], "history_")
    spoil(estimator[-1])
    dump_head(estimator, path)
    with pytest.raises(BundleError, match="is damaged"):
        load_head(path)


# States that compiled code could read or write outside of an array with, or that would take all memory


def fit(name, digits, calibration="none"):
    X, y, folds = (array[:150] for array in digits)
    spec = HeadSpec(name, QUICK.get(name, {}), "none", calibration=calibration)
    return fit_head(find_head(name), X, y, spec, folds).estimator


def refuse(estimator, tmp_path):
    path = tmp_path / "head.skops"
    skops.io.dump(estimator, path)
    with pytest.raises(BundleError):
        load_head(path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda model: model.set_params(metric="manhattan"),
        lambda model: setattr(model, "_y", np.full_like(model._y, 2**40)),
        lambda model: setattr(model, "_y", -model._y - 1),
        lambda model: setattr(model, "_fit_X", model._fit_X[:, :3]),
        lambda model: delattr(model, "n_features_in_"),
    ],
)
def test_neighbours_of_the_first_version_are_looked_at(edit, tmp_path):
    estimator = skops.io.load(FORMER / "knn.skops", trusted=list(TRUSTED))
    edit(estimator[-1])
    refuse(estimator, tmp_path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda model: setattr(model, "_n_support", model._n_support + np.int32(1000)),
        lambda model: setattr(model, "_dual_coef_", model._dual_coef_[:, :1]),
        lambda model: setattr(model, "support_vectors_", model.support_vectors_[:, :5]),
        lambda model: model.set_params(kernel="precomputed"),
        lambda model: delattr(model, "n_features_in_"),
    ],
)
def test_support_vectors_fit_together(edit, digits, tmp_path):
    estimator = fit("svm", digits)
    edit(estimator[-1].classifier_)
    refuse(estimator, tmp_path)


@pytest.mark.parametrize("name", ["random-forest", "hist-gb"])
def test_trees_say_how_many_features_they_take(name, digits, tmp_path):
    estimator = fit(name, digits)
    del estimator[-1].n_features_in_
    refuse(estimator, tmp_path)


@pytest.mark.parametrize(
    ("method", "edit"),
    [
        ("temperature", lambda one: setattr(one, "factor_", np.ones((1000, 1, 1)))),
        ("temperature", lambda one: setattr(one, "factor_", float("nan"))),
        ("sigmoid", lambda one: setattr(one, "slopes_", np.ones((10, 1000, 1)))),
        ("isotonic", lambda one: one.knots_.__setitem__(3, np.full((2, 4), np.inf))),
        ("isotonic", lambda one: one.knots_.pop()),
        ("mixture", lambda one: setattr(one, "share_", 1.5)),
        ("mixture", lambda one: setattr(one, "share_", np.full((1000, 1, 1), 0.5))),
        ("mixture", lambda one: setattr(one, "factor_", -1.0)),
        ("mixture", lambda one: delattr(one, "share_")),
        ("bias", lambda one: setattr(one, "biases_", np.zeros((10, 1)))),
        ("bias", lambda one: setattr(one, "biases_", np.full(10, np.nan))),
        ("bias", lambda one: setattr(one, "factor_", float("inf"))),
        ("bias", lambda one: setattr(one, "method", "auto")),
    ],
)
def test_calibrations_fit_together(method, edit, digits, tmp_path):
    estimator = fit("ridge", digits, method)
    edit(estimator[-1].calibrator_)
    refuse(estimator, tmp_path)


@pytest.mark.parametrize("name", ["lda", "ridge"])
@pytest.mark.parametrize("method", METHODS)
def test_every_calibration_predicts_the_same_from_its_file(method, name, digits, tmp_path):
    estimator = fit(name, digits, method)
    dump_head(estimator, tmp_path / "head.skops")
    loaded = load_head(tmp_path / "head.skops")
    assert np.array_equal(loaded.predict_proba(digits[0]), estimator.predict_proba(digits[0]))
    assert loaded.predict_proba(digits[0]).sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize(
    "classes",
    [np.zeros((10**7, 0), int), np.zeros(10, int), np.arange(20).reshape(10, 2)],
    ids=["none", "one", "pairs"],
)
def test_classes_are_a_list_of_different_ones(classes, digits, tmp_path):
    estimator = fit("logreg", digits)
    estimator[-1].classes_ = classes
    refuse(estimator, tmp_path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda model: setattr(model, "positions_", model.positions_ - 1),
        lambda model: setattr(model, "positions_", model.positions_ + 10**9),
        lambda model: setattr(model, "keys_", model.keys_[:5]),
    ],
)
def test_neighbours_fit_together(edit, digits, tmp_path):
    estimator = fit("knn", digits, "temperature")
    edit(estimator[-1].classifier_)
    refuse(estimator, tmp_path)
