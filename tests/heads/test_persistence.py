import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import skops.io
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer

from featx.errors import BundleError
from featx.heads import dump_head, find_head, fit_head, load_head
from featx.heads.persistence import _FORMER, TRUSTED
from featx.registry import HEADS
from featx.specs import HeadSpec

QUICK = {"random-forest": {"n_estimators": 10}, "hist-gb": {"max_iter": 5}, "mlp": {"max_iter": 20}}


@pytest.mark.parametrize("name", HEADS)
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


def test_every_trusted_type_is_needed_by_some_head(digits, tmp_path):
    X, y, folds = (array[:100] for array in digits)
    needed = set()
    for name in ("logreg", "knn", "ridge", "lda", "random-forest", "hist-gb"):
        dump_head(
            fit_head(find_head(name), X, y, HeadSpec(name, QUICK.get(name, {}), "none"), folds).estimator,
            tmp_path / name,
        )
        needed.update(skops.io.get_untrusted_types(file=tmp_path / name))
    assert needed | set(_FORMER) == set(TRUSTED)
    assert not needed & set(_FORMER)


@pytest.mark.parametrize("name", ["ridge", "lda", "centroid", "knn", "logreg"])
def test_heads_of_earlier_versions_say_what_they_said(name):
    """Written by the first version, whose heads held other classes; never to be made again."""
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
    with pytest.raises(BundleError, match=r"types that no head is made of: .*Foreign"):
        load_head(path)
    skops.io.dump(FunctionTransformer(np.loadtxt), path)
    with pytest.raises(BundleError, match=r"types that no head is made of: numpy.*loadtxt"):
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


def test_what_is_no_classifier_is_refused(digits, tmp_path):
    path = tmp_path / "head.skops"
    skops.io.dump(KMeans(2, n_init=1).fit(digits[0]), path)
    with pytest.raises(BundleError, match=r"types that no head is made of: sklearn\.cluster\._kmeans\.KMeans"):
        load_head(path)
    skops.io.dump(LogisticRegression().fit(digits[0][:50], digits[1][:50]), path)
    with pytest.raises(BundleError, match="holds a LogisticRegression, which is no fitted head"):
        load_head(path)
    skops.io.dump({"weights": [1, 2]}, path)
    with pytest.raises(BundleError, match="holds a dict"):
        load_head(path)
