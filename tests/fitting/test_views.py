"""Fits on stores with views: their mean, each of them, or the image itself."""

import csv

import numpy as np
import pytest

import featx
from featx import Bundle, FitOptions, Predictor
from featx.errors import UsageError
from featx.fitting.dataset import load_dataset, open_rows, split_dataset
from featx.fitting.learning_curve import measure_curve
from featx.heads import tuning
from featx.options import VIEWS
from featx.specs import ViewSpec

pytestmark = pytest.mark.slow

AUGMENTATION = "rotate:15,shift:0.1"


@pytest.fixture(scope="module")
def viewed(digits, tmp_path_factory):
    """The 400 digits with three views each."""
    folder = tmp_path_factory.mktemp("viewed")
    return featx.embed(digits, "colour", views=3, augmentation=AUGMENTATION, folder=folder, name="viewed").store


def fit(store, clf="logreg", **options):
    params = {"C": 1} if clf == "logreg" else {}
    return featx.fit(store, clf, params=params, options=FitOptions(**{"folder": None, **options}))


def read_probabilities(bundle):
    with (bundle / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name.startswith("probability_")]
    return {row["id"]: np.array([float(row[name]) for name in names]) for row in rows}


# Rows


def test_the_mean_over_views_is_taken_when_it_is_read(viewed):
    views = np.asarray(viewed.features).reshape(400, 4, -1)
    rows = open_rows(viewed, None)
    assert rows.shape == (400, viewed.dim // 4)
    assert np.shares_memory(rows.features, viewed.features)
    assert np.allclose(rows[:], views.mean(axis=1), atol=1e-6)
    assert np.array_equal(np.asarray(rows), rows[:])
    chosen = np.array([7, 3, 99])
    assert np.array_equal(rows[chosen], rows[:][chosen])
    assert np.array_equal(rows.take(chosen)[:], rows[chosen])
    assert np.array_equal(np.concatenate([block for _, block in rows.iterate_blocks()]), rows[:])


def test_the_image_itself_is_the_first_view(viewed, store):
    rows = open_rows(viewed, np.array([5, 6]), "plain")
    assert np.shares_memory(rows.features, viewed.features)
    assert np.array_equal(rows[:], store.features[5:7])


def test_each_view_is_a_row_that_stays_with_its_item(viewed):
    dataset = load_dataset(viewed, views="augment")
    members = np.zeros(400, bool)
    members[[2, 5, 300]] = True
    rows = dataset.take_training_rows(members, np.array([0, 1, 0]))
    assert np.shares_memory(rows.features.features, viewed.features)
    assert np.array_equal(rows.features[:], np.asarray(viewed.features)[members].reshape(12, -1))
    assert rows.copies == 4
    assert rows.folds.tolist() == [0] * 4 + [1] * 4 + [0] * 4
    assert rows.targets.tolist() == np.repeat(dataset.targets[members], 4).tolist()
    assert rows.units.tolist() == np.repeat(dataset.find_units(members), 4).tolist()
    assert np.array_equal(dataset.take_features(members)[:], np.asarray(viewed.features)[members][:, : viewed.dim // 4])


# Fits


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("clf", ["logreg", "ridge", "knn", "lda", "svm", "random-forest"])
def test_every_head_is_fitted_on_views(viewed, clf, views):
    run = fit(viewed, clf, views=views)
    assert run.n_train + run.test.n_items == 400
    assert run.validation.n_items == run.n_train
    assert run.test.accuracy > 0.8


def test_plain_is_what_a_store_without_views_gives(viewed, store):
    ours, theirs = fit(viewed, views="plain").to_dict(), fit(store).to_dict()
    for name in ("test", "validation", "candidates"):
        assert ours[name] == theirs[name]


@pytest.mark.parametrize("views", VIEWS)
def test_a_bundle_predicts_what_its_head_was_tested_with(viewed, digits, tmp_path, views):
    run = fit(viewed, views=views, folder=tmp_path)
    assert Bundle.open(run.bundle).embed_spec.views == (viewed.spec.views if views == "average" else None)
    tested = read_probabilities(run.bundle)
    predictor = Predictor.load(run.bundle)
    predictions = list(predictor.predict([digits / name for name in tested]))
    assert np.allclose([p.probabilities for p in predictions], list(tested.values()), atol=1e-6)


def test_views_of_an_item_are_never_on_both_sides_of_a_fold(viewed, monkeypatch):
    seen = []

    def spy(head, X, y, folds, *, units, **others):
        seen.append((np.asarray(folds).reshape(-1, 4), np.asarray(units).reshape(-1, 4)))
        return tune(head, X, y, folds, units=units, **others)

    tune = tuning.tune
    monkeypatch.setattr(tuning, "tune", spy)
    fit(viewed, "ridge", views="augment")
    ((folds, units),) = seen
    assert (folds == folds[:, :1]).all()
    assert (units == units[:, :1]).all()


def test_ridge_leaves_an_item_out_with_all_its_views(tmp_path):
    """The labels are random, so seeing another view of a held-out item must not help."""
    from runs import draw

    for number in range(80):
        draw(tmp_path / "noise" / ("cat" if number % 2 else "dog") / f"{number}.png", number)
    noise = featx.embed(
        tmp_path / "noise", "colour", views=4, augmentation="contrast:0.05", folder=tmp_path, name="noise"
    ).store
    for clf in ("ridge", "knn", "logreg"):
        assert fit(noise, clf, views="augment").validation.accuracy < 0.75


def test_augmenting_with_folds_and_a_learning_curve(viewed):
    crossed = fit(viewed, "ridge", views="augment", cv=3)
    assert crossed.test.n_items == 400
    dataset = load_dataset(viewed, views="augment")
    train = split_dataset(dataset, test_size=0.2, seed=0).train
    from featx.fitting.protocols import plan_head
    from featx.specs import HeadSpec

    head, spec = plan_head(HeadSpec("ridge", {}, None, 0), None)
    curve = measure_curve(head, spec, dataset, train)
    assert max(curve.sizes) < 400


def test_half_precision_is_averaged_in_single(digits, tmp_path):
    result = featx.embed(digits, "colour", views=2, augmentation="flip", dtype="float16", folder=tmp_path)
    run = fit(result.store, folder=tmp_path / "runs")
    tested = read_probabilities(run.bundle)
    name = next(iter(tested))
    (prediction,) = Predictor.load(run.bundle).predict([digits / name])
    assert np.allclose(prediction.probabilities, tested[name], atol=1e-6)


# Notes and errors


@pytest.mark.parametrize(
    ("views", "words"), [("average", "mean over its 4"), ("augment", "each of the 4"), ("plain", "only the image")]
)
def test_a_note_describes_how_views_are_used(viewed, store, views, words):
    assert any(words in note for note in fit(viewed, views=views).notes)
    if views != "augment":
        assert not any("view" in note for note in fit(store, views=views).notes)


def test_views_that_do_not_fit_are_refused(store):
    with pytest.raises(UsageError, match="has no views to augment by; embed again with --views 4"):
        fit(store, views="augment")
    with pytest.raises(UsageError, match="average, augment, plain"):
        FitOptions(views="mean")


def test_a_bundle_records_the_views(viewed, tmp_path):
    import json

    about = json.loads((fit(viewed, views="augment", folder=tmp_path).bundle / "bundle.json").read_text())
    assert about["record"]["views"] == {"learnt": "augment", "count": 3, "augmentation": AUGMENTATION, "seed": 0}
    assert "views" not in about["embed"]


# Comparisons


def test_stores_are_compared_by_their_means(viewed, store, tmp_path):
    comparison = featx.compare([viewed, store], "centroid", options=featx.CompareOptions(folder=tmp_path, jobs=1))
    by_store = {row.store: row for row in comparison.rows}
    assert by_store["viewed"].test.accuracy == fit(viewed, "centroid").test.accuracy
    assert by_store["colour"].test.accuracy == fit(store, "centroid").test.accuracy
    assert any("mean over its 4 views" in note for note in comparison.notes)


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("clf", ["ridge", "knn"])
def test_fit_and_compare_give_the_same_test_for_any_views(viewed, clf, views):
    options = featx.CompareOptions(folder=None, jobs=1, views=views)
    best = featx.compare(viewed, clf, options=options).best
    run = fit(viewed, clf, views=views)
    assert best.test.accuracy == run.test.accuracy
    assert best.test.log_loss == pytest.approx(run.test.log_loss, rel=1e-6)
    assert best.head == run.head


def test_other_views_are_other_jobs(viewed, store, tmp_path):
    def count(stores, views):
        featx.compare(stores, "centroid", options=featx.CompareOptions(folder=tmp_path, jobs=1, views=views))
        return len(list((tmp_path / ".compare").iterdir()))

    counts = [count(viewed, views) for views in VIEWS]
    assert counts == [counts[0], 2 * counts[0], 3 * counts[0]]
    assert count(store, "average") == count(store, "plain") == 4 * counts[0]


def test_compare_refuses_views_like_fit(store):
    with pytest.raises(UsageError, match="has no views to augment by; embed again with --views 4"):
        featx.compare(store, "centroid", options=featx.CompareOptions(folder=None, views="augment"))
    with pytest.raises(UsageError, match="views is 'mean'; it must be one of average, augment, plain"):
        featx.CompareOptions(views="mean")


def test_view_specs_are_public():
    assert featx.ViewSpec is ViewSpec
