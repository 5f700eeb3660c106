import hashlib
import io
import zipfile

import numpy as np
import pandas as pd
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


def make_forms(path):
    """Return one picture in every form."""
    data = path.read_bytes()
    image, loaded = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(data))
    loaded.load()
    array = np.asarray(loaded)
    return [path, str(path), data, bytearray(data), io.BytesIO(data), image, loaded, array, array[..., None]]


def test_pictures_of_every_form_are_predicted_alike(predictor, others):
    path = min(others.rglob("*.png"))
    forms = make_forms(path)
    forms += [np.repeat(forms[-1], 3, axis=2), np.dstack([np.repeat(forms[-1], 3, axis=2), np.full((8, 8), 255, "u1")])]
    (expected,) = predictor.predict([path])
    found = list(predictor.predict(forms))
    assert [row.path for row in found] == [str(path)] * 2 + [f"image {number}" for number in range(2, len(forms))]
    for row in [*found, *predictor.predict(iter(make_forms(path)))]:
        assert np.allclose(row.probabilities, expected.probabilities, atol=1e-6)  # batches round in another order
    for form in make_forms(path):
        (row,) = predictor.predict(form)
        assert row.label == expected.label
    assert expected.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == found[2].sha256


def test_stacked_arrays_and_columns_are_predicted_one_by_one(predictor, others):
    paths = sorted(others.rglob("*.png"))[:6]
    expected = [row.label for row in predictor.predict(paths)]
    arrays = np.stack([np.asarray(Image.open(path)) for path in paths])
    table = pd.DataFrame({"path": paths})
    for pictures in (arrays[..., None], table["path"], np.array(paths, dtype=str), (path for path in paths)):
        assert [row.label for row in predictor.predict(pictures)] == expected


def test_an_iterator_may_use_its_files_and_arrays_again(predictor, others):
    paths = sorted(others.rglob("*.png"))[:20]

    def read_files():
        for path in paths:
            with path.open("rb") as file:
                yield file

    def fill_one_array():
        array = np.empty((8, 8), np.uint8)
        for path in paths:
            array[:] = np.asarray(Image.open(path))
            yield array

    expected = [row.label for row in predictor.predict(paths)]
    assert [row.label for row in predictor.predict(read_files())] == expected
    assert [row.label for row in predictor.predict(fill_one_array())] == expected


def test_few_pictures_of_an_iterator_are_in_memory_at_once(predictor):
    taken = 0

    def draw():
        nonlocal taken
        for taken in range(1, 1001):  # noqa: B007 - counted
            yield np.zeros((8, 8), np.uint8)

    rows = predictor.predict(draw(), EmbedOptions(workers=2, batch_size=4))
    next(rows)
    assert taken < 50
    rows.close()


def test_what_is_not_a_picture_has_an_error_in_its_place(predictor, others):
    good = min(others.rglob("*.png"))
    pictures = [good, None, np.zeros((8, 8, 3)), b"<html>", io.StringIO("x"), np.zeros((8, 8, 5), np.uint8), 7, good]
    rows = list(predictor.predict(pictures))
    assert [row.path for row in rows[1:-1]] == [f"image {number}" for number in range(1, 7)]
    words = [
        "",
        "type NoneType; it must be a path",
        "float64; they must be uint8",
        "not an image",
        "mode 'rb'",
        "(8, 8, 5)",
    ]
    for row, word in zip(rows, [*words, "type int", ""], strict=True):
        assert word in row.error
        assert bool(row.error) == bool(word)
    assert rows[0].label == rows[-1].label


@pytest.mark.parametrize("sources", [7, None, {"a": b""}, pd.DataFrame({"path": ["a.png"]})])
def test_what_is_neither_a_picture_nor_a_list_is_refused(predictor, sources):
    with pytest.raises(SourceError, match="predict takes pictures or a list of pictures, not a"):
        list(predictor.predict(sources))


def test_folders_and_paths_may_be_mixed_with_pictures(predictor, others):
    image = min(others.rglob("*.png"))
    rows = list(predictor.predict([others / "3", image.read_bytes(), image]))
    assert len(rows) == 12
    assert [row.path for row in rows[-2:]] == ["image 1", str(image)]


def test_a_table_or_an_archive_is_predicted_as_it_is_embedded(predictor, others, tmp_path):
    paths = sorted((others / "3").iterdir())
    (tmp_path / "t.csv").write_text("path\n" + "\n".join(map(str, paths)))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in paths:
            archive.write(path, f"3/{path.name}")
    expected = [row.label for row in predictor.predict(paths)]
    assert [row.label for row in predictor.predict(tmp_path / "t.csv")] == expected
    assert [row.label for row in predictor.predict([tmp_path / "a.zip"])] == expected
    with pytest.raises(SourceError, match=r"a.zip is a table or an archive; predict it alone"):
        list(predictor.predict([tmp_path / "a.zip", paths[0]]))


def test_the_bits_of_the_store_are_those_of_the_prediction(tmp_path):
    for label, value in (("dark", 400), ("bright", 4000)):
        (tmp_path / "d" / label).mkdir(parents=True)
        for number in range(12):
            image = Image.fromarray(np.full((8, 8), value + number, np.uint16))
            image.save(tmp_path / "d" / label / f"{number}.png")
    store = featx.embed(tmp_path / "d", "colour", image={"bits": 12}, folder=tmp_path).store
    run = featx.fit(store, "centroid", options=FitOptions(folder=tmp_path / "runs"))
    predictor = featx.Predictor.load(run.bundle)
    assert predictor.bundle.embed_spec.image.bits == 12
    Image.fromarray(np.full((8, 8), 5000, np.uint16)).save(tmp_path / "bright.png")
    rows = list(predictor.predict([tmp_path / "d", tmp_path / "bright.png"]))
    assert [row.label for row in rows[:-1]] == ["bright"] * 12 + ["dark"] * 12
    assert "largest sample is 5,000, and 12 bits hold at most 4,095" in rows[-1].error


def test_nothing_to_predict_is_an_error(predictor, tmp_path):
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", [tmp_path / "empty"], iter([])):
        with pytest.raises(SourceError, match="nothing to predict"):
            list(predictor.predict(nothing))
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
