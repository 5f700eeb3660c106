"""One head on the features of several networks, from the stores to predictions."""

import csv
import json
import shutil

import numpy as np
import pytest
from bundle_files import check_refused, rewrite
from pictures import write_digits

import featx
from featx import bundle as bundles
from featx.completion import complete_bundle, slim_bundle
from featx.errors import BundleError, DataError, UsageError
from featx.items import reading
from featx.options import CompareOptions, EmbedOptions, FitOptions

SIDE = {"height": 32, "width": 32}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("joined") / "digits", per_class=20, classes=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def colour(pictures, folder):
    return featx.embed(pictures, "colour", image=SIDE, name="colour", folder=folder).store


@pytest.fixture(scope="module")
def scattering(pictures, folder):
    """Features from images of the same form as those of `colour`, in half precision."""
    return featx.embed(pictures, "scattering", image=SIDE, dtype="float16", name="scattering", folder=folder).store


@pytest.fixture(scope="module")
def small(pictures, folder):
    """Features from smaller images."""
    return featx.embed(pictures, "colour", image={"height": 8, "width": 8}, name="small", folder=folder).store


@pytest.fixture(scope="module")
def run(colour, scattering, tmp_path_factory):
    options = FitOptions(folder=tmp_path_factory.mktemp("runs"))
    return featx.fit([colour, scattering.path], "lda", scaling="l2", options=options)


def read_tested(run, pictures):
    """Return the paths of the tested items, and their probabilities."""
    with (run.bundle / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name.startswith("probability_")]
    return [pictures / row["id"] for row in rows], np.array([[float(row[name]) for name in names] for row in rows])


def check_predictions(run, pictures):
    paths, expected = read_tested(run, pictures)
    found = [row.probabilities for row in featx.Predictor.load(run.bundle).predict(paths, EmbedOptions(batch_size=5))]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_bundle_predicts_from_pixels_as_the_head_did_from_the_stores(run, pictures):
    check_predictions(run, pictures)
    assert run.test.accuracy > 0.6


def test_images_are_embedded_by_all_networks_side_by_side(run, colour, scattering, pictures):
    predictor = featx.Predictor.load(run.bundle)
    pixels = featx.decode((pictures / colour.ids[3]).read_bytes(), colour.spec.image).pixels
    expected = np.concatenate([colour.features[3], scattering.features[3]])
    np.testing.assert_allclose(predictor.embed(pixels[None])[0], expected, rtol=2e-3)
    assert predictor.predict_proba(pixels[None]).shape == (1, 3)


def test_an_image_is_decoded_once_for_all_networks_of_the_same_form(
    run, colour, small, pictures, tmp_path, monkeypatch
):
    other = featx.fit([colour, small], "knn", options=FitOptions(folder=tmp_path))
    check_predictions(other, pictures)
    predictors = [featx.Predictor.load(one.bundle) for one in (run, other)]
    decoded, decode = [], reading.decode
    monkeypatch.setattr(reading, "decode", lambda data, spec: (decoded.append(spec.height), decode(data, spec))[1])
    bad = pictures.parent / "bad.png"
    bad.write_bytes(b"no picture")
    for predictor, heights in zip(predictors, ({32: 7}, {32: 7, 8: 6}), strict=True):
        decoded.clear()
        found = list(predictor.predict([*sorted((pictures / "1").iterdir())[:6], bad]))
        assert [bool(one.error) for one in found] == [False] * 6 + [True]
        assert {height: decoded.count(height) for height in set(decoded)} == heights
    with pytest.raises(UsageError, match="take images of several forms"):
        predictors[1].embed(np.zeros((1, 32, 32, 3), np.uint8))


def test_such_a_bundle_evaluates_and_is_refused_clearly_by_earlier_versions(run, pictures, monkeypatch):
    assert featx.Predictor.load(run.bundle).evaluate(pictures).n_items == 60
    opened = featx.Bundle.open(run.bundle)
    assert [part.embed_spec.backbone.uri for part in opened.parts] == ["colour", "scattering"]
    with pytest.raises(UsageError, match="has 2 networks; use `parts`"):
        _ = opened.embed_spec
    monkeypatch.setattr(bundles, "FORMAT_VERSION", 1)
    with pytest.raises(BundleError, match="has bundle format 2, newer than 1; upgrade featx"):
        featx.Bundle.open(run.bundle)


def test_the_record_names_the_stores(run, colour, scattering):
    record = json.loads((run.bundle / "bundle.json").read_text())["record"]
    assert [one["path"] for one in record["stores"]] == [str(colour.path), str(scattering.path)]
    assert record["store"]["embed_seconds"] == pytest.approx(colour.embed_seconds + scattering.embed_seconds)
    assert run.bundle.name.endswith("lda-colour+scattering")


def test_cross_validation_joins_too(colour, small):
    run = featx.fit([colour, small], "knn", options=FitOptions(folder=None, cv=3))
    assert run.test.n_items == 60


@pytest.fixture
def copy(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "digits")
    return tmp_path / "digits"


def test_items_of_one_store_only_are_left_out_and_said(colour, copy, tmp_path):
    first, *_ = sorted((copy / "0").iterdir())
    first.unlink()
    other = featx.embed(copy, "colour", name="other", folder=tmp_path).store
    run = featx.fit([colour, other], "centroid", options=FitOptions(folder=tmp_path / "r"))
    note = f"only the 59 items that all stores have are used, without 1 of {colour.path}, such as 0/{first.name}"
    assert note in run.notes
    assert json.loads((run.bundle / "bundle.json").read_text())["record"]["notes"] == [note]
    assert run.n_train + run.test.n_items == 59


def test_stores_that_disagree_or_are_the_same_are_refused(colour, copy, tmp_path):
    table = tmp_path / "t.csv"
    names = sorted(path.relative_to(copy).as_posix() for path in copy.rglob("*.png"))
    table.write_text(
        "path,label\n" + "".join(f"{name},{'2' if not at else name[0]}\n" for at, name in enumerate(names))
    )
    other = featx.embed(featx.read_source(table, root=copy), "colour", name="other", folder=tmp_path).store
    with pytest.raises(DataError, match="the label of 1 items differs between"):
        featx.fit([colour, other], options=FitOptions(folder=None))
    with pytest.raises(UsageError, match="is named twice"):
        featx.fit([colour, colour.path], options=FitOptions(folder=None))
    with pytest.raises(UsageError, match="no store is named"):
        featx.fit([], options=FitOptions(folder=None))


def test_views_are_joined_view_by_view(pictures, colour, tmp_path):
    viewed = [
        featx.embed(pictures, "colour", image=image, views=2, augmentation="light", name=name, folder=tmp_path).store
        for name, image in (("a", SIDE), ("b", {"height": 8, "width": 8}))
    ]
    for views in ("average", "augment"):
        options = FitOptions(folder=tmp_path / "runs", views=views, name=views)
        check_predictions(featx.fit(viewed, "lda", options=options), pictures)
    with pytest.raises(UsageError, match="have different views"):
        featx.fit([viewed[0], colour], "lda", options=FitOptions(folder=None))


def test_a_comparison_lists_combinations_as_rows(colour, small, tmp_path):
    options = CompareOptions(folder=tmp_path, combine=2, jobs=1, folds=2)
    comparison = featx.compare([colour, small], "lda", options=options)
    names = {row.store: row for row in comparison.rows}
    assert set(names) == {"colour", "small", "colour+small"}
    assert all(row.p_value is not None for row in comparison.rows[1:])
    alone = featx.fit([colour, small], "lda", options=FitOptions(folder=None))
    row = names["colour+small"]
    assert row.test.accuracy == alone.test.accuracy
    assert row.head.params == alone.head.params
    assert row.bytes_per_item == 4 * (colour.dim + small.dim)
    with pytest.raises(UsageError, match="combine is 2, but only small is compared"):
        featx.compare(small, "lda", options=options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: parts[2:], "invalid values for networks"),
        (lambda parts: parts * 9, "invalid values for networks"),
        (lambda parts: parts[::-1], "bundle.json|damaged|reproduce"),
        (lambda parts: [parts[0], {**parts[1], "backbone_file": "head.skops"}], "invalid values for weights"),
        (lambda parts: parts[:1], "lacks golden.npz|damaged"),
    ],
)
def test_a_hostile_list_of_networks_is_refused(run, tmp_path, change, message):
    shutil.copytree(run.bundle, tmp_path / "b")
    parts = json.loads((tmp_path / "b" / "bundle.json").read_text())["parts"]
    rewrite(tmp_path / "b", parts=change(parts))
    check_refused(tmp_path / "b", message)


@pytest.mark.keras
def test_networks_are_added_and_removed_one_by_one(colour, pictures, tmp_path):
    from tiny import save_network

    backbones = [f"file:{save_network(tmp_path / f'{size}.keras', size)}" for size in (32, 24)]
    stores = [
        featx.embed(pictures, backbone, name=str(at), folder=tmp_path).store for at, backbone in enumerate(backbones)
    ]
    run = featx.fit([stores[0], colour, stores[1]], "logreg", options=FitOptions(folder=tmp_path / "runs"))
    networks = {f"network-{number}.{kind}" for number in (1, 3) for kind in ("xml", "bin")}
    there = {path.name for path in run.bundle.iterdir()}
    assert {"backbone-1.keras", "backbone-3.keras"} <= there
    assert not there & networks
    assert complete_bundle(run.bundle)
    assert {path.name for path in run.bundle.iterdir()} == there | networks
    check_predictions(run, pictures)
    assert slim_bundle(run.bundle)
    assert {path.name for path in run.bundle.iterdir()} == there
    check_predictions(run, pictures)
