"""States that compiled code would read or write outside of an array with, or that would take all memory."""

from pathlib import Path

import numpy as np
import pytest
import skops.io

from featx.errors import BundleError
from featx.heads import find_head, fit_head, load_head
from featx.heads.persistence import TRUSTED
from featx.specs import HeadSpec

FORMER = Path(__file__).parents[1] / "data" / "heads-v1"
QUICK = {"random-forest": {"n_estimators": 3}, "hist-gb": {"max_iter": 3}}


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
    ],
)
def test_calibrations_fit_together(method, edit, digits, tmp_path):
    estimator = fit("ridge", digits, method)
    edit(estimator[-1].calibrator_)
    refuse(estimator, tmp_path)


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
