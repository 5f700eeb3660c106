"""`Predictor.explain`, and what `featx fit` leaves in a bundle for it."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_models
import pytest
from bundle_files import sign
from pictures import write_digits
from PIL import Image

import featx
from featx.bundle import Bundle
from featx.errors import BundleError, SourceError, UsageError
from featx.explaining.basis import read_basis
from featx.explaining.explaining import read_neighbour
from featx.fitting.choice import predict_items, tune_and_choose
from featx.fitting.dataset import deal_folds, load_dataset
from featx.fitting.explanations import predict_held_out
from featx.fitting.protocols import plan_head
from featx.heads import fit_tuned
from featx.options import FitOptions
from featx.specs import HeadSpec


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def bundle(store, runs):
    return featx.fit(store, "logreg", params={"C": 1}, options=FitOptions(folder=runs)).bundle


@pytest.fixture(scope="module")
def predictor(bundle):
    return featx.Predictor.load(bundle)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Digits that are not in the store, a page that is not a picture, and noise."""
    folder = write_digits(tmp_path_factory.mktemp("others"), per_class=5, skip=80)
    (folder / "page.png").write_bytes(b"<html></html>")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)).save(folder / "noise.png")
    return folder


def test_an_explanation_is_the_prediction_and_more(predictor, others):
    expected, found = list(predictor.predict(others)), list(predictor.explain(others, heat=False))
    assert len(found) == 52
    for plain, one in zip(expected, found, strict=True):
        assert (plain.path, plain.label, plain.error, plain.sha256) == (one.path, one.label, one.error, one.sha256)
        assert one.error or np.allclose(plain.probabilities, one.probabilities)
        assert one.heat is None
    (page,) = [one for one in found if one.error]
    assert page.labels == page.neighbours == ()
    assert np.isnan(page.unfamiliarity)
    digits = [one for one in found if not one.error and Path(one.path).name != "noise.png"]
    # Other people wrote them than those in the store, so less than the coverage is covered.
    assert np.mean([Path(one.path).parent.name in one.labels for one in digits]) > 0.6
    (noise,) = [one for one in found if Path(one.path).name == "noise.png"]
    assert noise.unfamiliar
    assert noise.unfamiliarity > 99
    assert np.mean([one.unfamiliar for one in digits]) < 0.2


def test_sets_grow_with_the_coverage_and_neighbours_are_as_many_as_asked(predictor, others):
    small, large = (list(predictor.explain(others, coverage=share, neighbours=3, heat=False)) for share in (0.5, 0.8))
    assert all(set(one.labels) <= set(more.labels) for one, more in zip(small, large, strict=True))
    assert sum(len(one.labels) for one in small) < sum(len(one.labels) for one in large)
    assert {len(one.neighbours) for one in small} == {0, 3}
    every = next(predictor.explain(others / "noise.png", coverage=0.999, heat=False))
    assert every.labels[0] == every.label
    assert len(every.labels) == 10


def test_the_nearest_of_a_training_item_is_itself_where_it_is(predictor, bundle, digits, tmp_path):
    row = next(row for row in (bundle / "items.csv").read_text().splitlines() if row.endswith("trained"))
    item, sha256, label, _ = row.split(",")
    (one,) = predictor.explain(digits / item, heat=False)
    first = one.neighbours[0]
    assert (first.item, first.sha256, first.label) == (item, sha256, label)
    assert first.similarity == pytest.approx(1, abs=1e-3)
    assert Path(first.path) == digits / item
    assert read_neighbour(first) == (digits / item).read_bytes()
    (tmp_path / "secret").write_text("not a training image")
    assert read_neighbour(replace(first, path=str(tmp_path / "secret"))) is None
    assert read_neighbour(replace(first, path="")) is None


def test_five_folds_are_held_out_for_the_sets(store):
    dataset = load_dataset(store)
    members = np.arange(len(dataset)) % 5 > 0
    plan = plan_head(HeadSpec("logreg", {"C": 1.0}, "none", 0, "none"), None)
    chosen = tune_and_choose([plan], dataset, members, ~members, lambda *_: None)
    held_out = predict_held_out(chosen, dataset, members)
    folds = deal_folds(dataset, members, 0, 5)
    fold = np.zeros(len(dataset), bool)
    fold[np.flatnonzero(members)[folds == 3]] = True
    others = members & ~fold
    rows = dataset.take_training_rows(others, deal_folds(dataset, others, 0))
    alone = predict_items(fit_tuned(plan[0], rows, chosen.tuned), dataset, fold)
    assert np.unique(folds).size == 5
    assert np.allclose(held_out.probabilities[folds == 3], alone, atol=1e-3)


def test_ridge_has_left_out_each_item_and_computes_nothing_again_for_the_sets(store, tmp_path, monkeypatch):
    monkeypatch.setattr(featx.fitting.fitting, "predict_held_out", lambda *_: pytest.fail("computed again"))
    run = featx.fit(store, "ridge", options=FitOptions(folder=tmp_path, network=False))
    scores = read_basis(Bundle.open(run.bundle)).conformal.scores.astype(float)
    assert -np.log1p(-scores).mean() == pytest.approx(run.validation.log_loss, abs=1e-4)


def test_no_item_of_the_test_is_in_the_basis(bundle):
    basis = read_basis(Bundle.open(bundle))
    roles = np.array([row.rpartition(",")[2] for row in (bundle / "items.csv").read_text().splitlines()[1:]])
    assert set(roles[basis.known.rows]) == {"trained"}
    assert len(basis.conformal.scores) == (roles == "trained").sum() == len(basis.known.rows)


def test_heat_maps_of_a_network_without_maps_are_made_by_occlusion(predictor, others):
    (one,) = predictor.explain(others / "noise.png")
    assert one.heat_method == "occlusion"
    assert one.heat.shape == (7, 7)
    assert one.to_dict()["heat"][0][0] == pytest.approx(one.heat[0, 0], abs=1e-3)


def test_heat_maps_of_a_linear_head_on_averaged_maps_are_activations(digits, runs, tmp_path):
    path = tmp_path / "classifier.onnx"
    path.write_bytes(onnx_models.make_classifier())
    store = featx.embed(digits, f"onnx:{path}?recipe=none", layer="vector", folder=tmp_path).store
    predictor = featx.Predictor.load(featx.fit(store, "lda", options=FitOptions(folder=runs)).bundle)
    backbone = predictor._backbones[0]
    network, shape = backbone.runtime.open_map()
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    maps = network.embed(images)[0].reshape(3, *shape)
    assert np.allclose(maps, np.maximum(onnx_models.embed_patches(images), 0), rtol=1e-4, atol=1e-2)
    assert np.allclose(maps.mean(axis=(1, 2)), backbone.embed(images)[0], rtol=1e-4)
    (one,) = predictor.explain(images[0])
    assert one.heat_method == "class activation"
    assert one.heat.shape == (4, 4)
    assert one.heat.max() == 1
    assert one.heat.min() >= 0
    # Another head on the same maps is not linear.
    forest = featx.fit(store, "knn", options=FitOptions(folder=runs)).bundle
    (one,) = featx.Predictor.load(forest).explain(images[0])
    assert one.heat_method == "occlusion"


def test_a_bundle_without_features_still_has_sets(store, runs, others, notes):
    options = FitOptions(folder=runs, neighbours=False)
    bundle = featx.fit(store, "centroid", options=options).bundle
    with np.load(bundle / "explanation.npz") as file:
        assert "features" not in file.files
    (one,) = featx.Predictor.load(bundle).explain(others / "noise.png", heat=False)
    assert one.labels
    assert one.neighbours == ()
    assert np.isnan(one.unfamiliarity)
    assert one.to_dict()["unfamiliarity"] is one.to_dict()["unfamiliar"] is None
    assert "has no features of its training items" in " ".join(notes())


def test_a_bundle_of_an_older_featx_is_named(bundle, others, tmp_path):
    old = shutil.copytree(bundle, tmp_path / "old")
    (old / "explanation.npz").unlink()
    sign(old)
    predictor = featx.Predictor.load(old)
    assert next(predictor.predict(others / "noise.png")).label
    with pytest.raises(BundleError, match=r"cannot explain its predictions, since it has no explanation\.npz"):
        predictor.explain(others / "noise.png")


def test_arguments_are_checked_before_anything_runs(predictor, others):
    for arguments in ({"coverage": 1.5}, {"threshold": 0}, {"neighbours": -1}):
        with pytest.raises(UsageError, match=next(iter(arguments))):
            predictor.explain(others, **arguments)
    with pytest.raises(SourceError):
        list(predictor.explain([]))


def test_groups_and_several_networks_and_views_are_explained(store, digits, runs, tmp_path, others, notes):
    network = tmp_path / "one.onnx"
    network.write_bytes(onnx_models.make_classifier())
    other = featx.embed(digits, f"onnx:{network}?recipe=none", layer="vector", folder=tmp_path).store
    options = FitOptions(folder=runs, group=r"digit-.(.)")  # the hundreds of the number: five groups
    predictor = featx.Predictor.load(featx.fit([store, other], "centroid", options=options).bundle)
    (one,) = predictor.explain(others / "noise.png")
    basis = read_basis(predictor.bundle)
    assert len(basis.known.widths) == 2
    assert len(np.unique(basis.conformal.units)) < 10
    assert len(one.neighbours) == 5
    assert len(one.labels) == 10  # fewer than nine groups promise nothing at 0.9
    assert one.heat is None
    assert "there are no heat maps: the networks of" in " ".join(notes())
    viewed = featx.embed(digits, "colour", folder=tmp_path / "views", views=1, augmentation="flip").store
    predictor = featx.Predictor.load(featx.fit(viewed, "centroid", options=FitOptions(folder=runs)).bundle)
    (one,) = predictor.explain(others / "noise.png")
    assert one.heat_method == "occlusion"
    assert one.unfamiliar
