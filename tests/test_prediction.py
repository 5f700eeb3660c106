import numpy as np
import pytest
from pictures import write_digits
from PIL import Image

import featx
from featx.errors import DataError, SourceError
from featx.options import EmbedOptions, FitOptions


@pytest.fixture(scope="module")
def predictor(store, tmp_path_factory):
    run = featx.fit(store, "logreg", params={"C": 1}, options=FitOptions(folder=tmp_path_factory.mktemp("runs")))
    return featx.Predictor.load(run.bundle)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("others"), per_class=10, skip=80)


def test_an_image_alone_has_the_vector_of_the_store(predictor, store, digits):
    for row in range(0, len(store), 50):
        image = featx.decode((digits / store.ids[row]).read_bytes(), store.spec.image)
        assert np.array_equal(predictor.embed(image.pixels[None])[0], store.features[row])


def test_features_are_rounded_as_in_training(digits, tmp_path):
    store = featx.embed(digits, "colour", dtype="float16", folder=tmp_path).store
    run = featx.fit(store, "centroid", options=FitOptions(folder=tmp_path / "runs"))
    image = featx.decode((digits / store.ids[0]).read_bytes(), store.spec.image)
    assert np.array_equal(featx.Predictor.load(run.bundle).embed(image.pixels[None])[0], store.features[0])


def test_predictions_do_not_depend_on_the_batch(predictor, others):
    one = [p.probabilities for p in predictor.predict([others], EmbedOptions(batch_size=1))]
    many = [p.probabilities for p in predictor.predict([others], EmbedOptions(batch_size=32, workers=3))]
    assert len(one) == 100
    assert np.allclose(one, many, atol=1e-6)


def test_predictions_come_in_order_with_errors_in_their_places(predictor, others, tmp_path):
    good = sorted(others.rglob("*.png"))[:3]
    (tmp_path / "page.jpg").write_bytes(b"<html></html>")
    paths = [good[0], tmp_path / "page.jpg", good[1], tmp_path / "gone.png", good[2], good[0]]
    predictions = list(predictor.predict(paths))
    assert [p.path for p in predictions] == [str(path) for path in paths]
    assert [bool(p.error) for p in predictions] == [False, True, False, True, False, False]
    assert predictions[0].label == predictions[5].label
    assert predictions[0].probabilities.sum() == pytest.approx(1)
    assert predictions[0].probability == predictions[0].probabilities.max()


def test_nothing_to_predict_is_an_error(predictor):
    with pytest.raises(SourceError, match="nothing to predict"):
        list(predictor.predict([]))


def test_evaluation_from_pixels(predictor, others, caplog):
    evaluation = predictor.evaluate(others)
    assert evaluation.n_items == 100
    assert evaluation.accuracy > 0.7
    assert "used in training" not in caplog.text


def test_images_that_were_trained_on_are_counted(predictor, digits, caplog):
    predictor.evaluate(digits)
    assert "of 400 images were used in training" in caplog.text


def test_classes_that_the_bundle_does_not_know_are_named(predictor, tmp_path):
    (tmp_path / "x" / "cat").mkdir(parents=True)
    (tmp_path / "x" / "dog").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "x" / "cat" / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "x" / "dog" / "b.png")
    with pytest.raises(DataError, match="cat, dog"):
        predictor.evaluate(tmp_path / "x")
    with pytest.raises(DataError, match="no labelled images"):
        predictor.evaluate(tmp_path / "x" / "cat")


def test_a_missing_class_is_not_an_error(predictor, others):
    evaluation = predictor.evaluate(
        featx.Manifest(
            tuple(item for item in featx.read_folder(others).items if item.label in "012"),
            featx.read_folder(others).reader,
            str(others),
        )
    )
    assert evaluation.n_items == 30
    assert evaluation.per_class[5].support == 0


def test_broken_images_are_left_out_of_an_evaluation_and_reported(predictor, tmp_path, caplog):
    photos = write_digits(tmp_path / "d", per_class=2, skip=100)
    (photos / "0" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    assert predictor.evaluate(photos).n_items == 20
    assert "0/broken.png is left out" in caplog.text


def test_a_class_that_only_unused_items_have_keeps_its_name(tmp_path, digits):
    images = sorted(digits.rglob("*.png"))[::4]
    rows = [(p, p.parent.name, "" if p.parent.name == "0" else ("train", "test")[n % 2]) for n, p in enumerate(images)]
    (tmp_path / "t.csv").write_text("path,label,split\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    store = featx.embed(tmp_path / "t.csv", "colour", folder=tmp_path / "f").store
    run = featx.fit(store, "knn", params={"n_neighbors": 1}, options=FitOptions(folder=tmp_path / "runs"))
    predictor = featx.Predictor.load(run.bundle)
    trained = [row for row in rows if row[2] == "train"]
    found = [prediction.label for prediction in predictor.predict([row[0] for row in trained])]
    assert found == [row[1] for row in trained]


def test_held_out_images_are_not_reported_as_trained_on(tmp_path, caplog):
    for split, skip in (("train", 0), ("val", 8)):
        write_digits(tmp_path / "d" / split, per_class=8, classes=3, skip=skip)
    store = featx.embed(tmp_path / "d", "colour", folder=tmp_path / "f").store
    predictor = featx.Predictor.load(featx.fit(store, "ridge", options=FitOptions(folder=tmp_path / "runs")).bundle)
    predictor.evaluate(tmp_path / "d", split="val")
    assert "used in training" not in caplog.text
    predictor.evaluate(tmp_path / "d", split="train")
    assert "24 of 24 images were used in training" in caplog.text


def test_a_folder_is_predicted_whatever_the_names_of_its_subfolders(predictor, tmp_path, caplog):
    for name in ("train", "test", "other"):
        write_digits(tmp_path / "d" / name, per_class=1, classes=2)
    (tmp_path / "empty").mkdir()
    assert len(list(predictor.predict([tmp_path / "d", tmp_path / "empty"]))) == 6
    assert "empty holds no images" in caplog.text
