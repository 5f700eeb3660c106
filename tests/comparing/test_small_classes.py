"""Classes of few images: what `fit` accepts is compared, and what cannot be tuned is refused with its counts."""

import shutil

import numpy as np
import pytest
from PIL import Image

import featx
from featx.errors import DataError
from featx.options import CompareOptions, FitOptions

pytestmark = pytest.mark.slow

HEADS = "logreg,ridge,centroid"


@pytest.fixture
def embed(tmp_path):
    """Embed noise of another colour for each class, with so many images of each."""

    def make(*counts):
        rng = np.random.default_rng(0)
        shutil.rmtree(tmp_path / "photos", ignore_errors=True)
        for at, count in enumerate(counts):
            folder = tmp_path / "photos" / f"c{at:04}"
            folder.mkdir(parents=True)
            for number in range(count):
                noise = rng.integers(0, 60, (8, 8, 3)) + np.array([40 * at, 70 * at, 110 * at]) % 180
                Image.fromarray(noise.astype(np.uint8)).save(folder / f"p{number // 2}-{number}.png")
        return featx.embed(tmp_path / "photos", "colour", folder=tmp_path / "features").store

    return make


def compare(store, heads=HEADS, **options):
    return featx.compare(store, heads, options=CompareOptions(folder=None, jobs=1, **options))


@pytest.mark.parametrize(
    ("counts", "small"),
    [
        ((20, 3), "class 'c0001' has 2 to train on (3 images in all)"),
        (
            (3, 3),
            "class 'c0000' has 2 to train on (3 images in all), class 'c0001' has 2 to train on (3 images in all)",
        ),
        (
            (1, 1, 3, 3),
            "class 'c0002' has 2 to train on (3 images in all), class 'c0003' has 2 to train on (3 images in all)",
        ),
        ((3,) * 7, "class 'c0004' has 2 to train on (3 images in all) and 2 more classes"),
    ],
)
def test_what_fit_accepts_is_compared(embed, counts, small):
    store = embed(*counts)
    run = featx.fit(store, "logreg", options=FitOptions(folder=None))
    found = compare(store)
    assert found.failed == ()
    assert found.validation_name == "the folds of tuning"
    (note,) = [note for note in found.notes if note.startswith("there are too few training images or groups to ")]
    assert f"{small}. The heads are ranked by the folds that they were tuned on" in note
    (row,) = [row for row in found.rows if row.title == "logreg"]
    assert (row.validation_accuracy, row.head) == (run.validation.accuracy, run.head)
    assert row.validation_log_loss == pytest.approx(run.validation.log_loss)
    assert row.test.confusion.tolist() == run.test.confusion.tolist()
    single = [note for note in run.notes if "in one fold only" in note]
    assert [note for note in row.notes if "in one fold only" in note] == single
    assert len(single) == (1 in counts)


def test_groups_make_classes_small(embed):
    """Six images in three groups are three to deal."""
    store = embed(20, 6)
    assert compare(store).validation_name == "3 folds of the training items"
    found = compare(store, group=r"(c\d+/p\d)-", seed=1)
    assert found.validation_name == "the folds of tuning"
    assert any("class 'c0001' has 2 to train on (6 images in all)" in note for note in found.notes)


def test_larger_classes_are_tuned_inside_each_fold(embed):
    found = compare(embed(20, 4))
    assert found.validation_name == "3 folds of the training items"
    assert not any("cannot be repeated" in note for note in found.notes)


def test_a_class_that_is_never_held_out_is_said_to_be_no_part_of_the_validation(embed):
    """It is in one fold only: `fit` counts it as wrong on the folds, and the folds of `compare` never hold it out."""
    found = compare(embed(12, 12, 1))
    assert found.validation_name == "3 folds of the training items"
    assert [row.validation_accuracy for row in found.rows] == [1.0] * 3
    (note,) = [note for note in found.notes if note.startswith("no validation item")]
    assert note.startswith("no validation item is of class 'c0002', so the validation says nothing of it; add images ")
    assert not any("as wrong" in note for row in found.rows for note in row.notes)
    assert not any("no validation item" in note for note in compare(embed(1, 1, 3, 3)).notes)


@pytest.mark.parametrize(
    ("counts", "named"),
    [
        ((20, 2), "but 'c0001' has 2 images, 1 to train on; add images"),
        ((20, 1), "but 'c0001' has 1 image, 1 to train on; add images"),
        ((2, 2), "but 'c0000' has 2 images, 1 to train on; 'c0001' has 2 images, 1 to train on; add images"),
        ((2,) * 12, "'c0004' has 2 images, 1 to train on and 7 more; add images"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_anything_is_computed(embed, monkeypatch, counts, named):
    store = embed(*counts)
    monkeypatch.setattr("featx.comparing.comparison.run_tasks", lambda *_, **__: pytest.fail("a head was fitted"))
    with pytest.raises(DataError, match=r"colour\.h5 has too few images to choose parameters: at least") as caught:
        compare(store)
    assert named in str(caught.value)
    with pytest.raises(DataError) as of_fit:
        featx.fit(store, "logreg", options=FitOptions(folder=None))
    assert str(of_fit.value) == str(caught.value)


def test_small_classes_of_a_source_with_a_val_split(embed, tmp_path):
    store = embed(6, 6)
    frame = featx.read_source(tmp_path / "photos").to_frame()
    frame["split"] = ["train", "train", "train", "val", "val", "test"] * 2
    manifest = featx.Manifest.from_frame(frame, root=tmp_path / "photos")
    store = featx.embed(manifest, "colour", folder=tmp_path / "split").store
    found = compare(store)
    assert found.validation_name == "the val split of the source"
    assert not any("no validation item" in note for note in found.notes)
    frame["split"] = ["train", "train", "train", "val", "val", "test"] + ["train"] * 5 + ["test"]
    manifest = featx.Manifest.from_frame(frame, root=tmp_path / "photos")
    found = compare(featx.embed(manifest, "colour", folder=tmp_path / "half").store)
    assert any(note.startswith("no validation item is of class 'c0001', so the ") for note in found.notes)
    frame["split"] = ["train", "val", "val", "val", "val", "test"] * 2
    manifest = featx.Manifest.from_frame(frame, root=tmp_path / "photos")
    store = featx.embed(manifest, "colour", folder=tmp_path / "less").store
    with pytest.raises(DataError, match="'c0000' has 6 images, 1 to train on"):
        compare(store)
