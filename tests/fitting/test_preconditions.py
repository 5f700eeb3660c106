"""Too few images, missing classes and lost copies: named as the user knows them, before anything is embedded."""

import itertools
import shutil
from dataclasses import replace

import numpy as np
import pytest
from pictures import write_digits
from reporters import Recorder

import featx
from featx.errors import DataError
from featx.fitting.dataset import load_dataset, split_dataset
from featx.fitting.preconditions import check_manifest
from featx.options import CompareOptions, FitOptions


def write(folder, **counts):
    """Write so many images of each class; no two are the same."""
    for number, (name, count) in enumerate(counts.items()):
        pool = folder.with_name("pool") / name
        write_digits(pool, per_class=count, classes=number % 5 + 1, skip=40 * (number // 5))
        shutil.copytree(pool / str(number % 5), folder / name)
    return folder


FEW = {
    "two and two": ({"a": 2, "b": 2}, r"'a' has 2 images, 1 to train on; 'b' has 2 images, 1 to train on"),
    "one alone": ({"a": 20, "b": 1}, r"but 'b' has 1 image, 1 to train on"),
    "all but one": ({"a": 20, "b": 2, "c": 1}, r"but 'c' has 1 image, 1 to train on; 'b' has 2 images, 1 to train on"),
    "many of two": ({f"c{n:03}": 2 for n in range(7)}, r"'c004' has 2 images, 1 to train on and 2 more; add images"),
}


@pytest.mark.parametrize("name", FEW)
def test_classes_with_too_few_images_are_named_with_their_counts(tmp_path, name):
    counts, pattern = FEW[name]
    source = write(tmp_path / "d", **counts)
    with pytest.raises(DataError, match=rf"d has too few images to choose parameters: .*{pattern}"):
        check_manifest(featx.read_source(source))
    store = featx.embed(source, "colour", folder=tmp_path / "f").store
    with pytest.raises(DataError, match=rf"colour\.h5 has too few images to choose parameters: .*{pattern}"):
        featx.fit(store, "logreg", options=FitOptions(folder=None))


@pytest.mark.parametrize("counts", [{"a": 5, "b": 4}, {"a": 4, "b": 4, "c": 1}, {f"c{n}": 3 for n in range(6)}])
def test_where_fit_works_so_do_the_checks_and_the_curve_is_left_out(tmp_path, counts):
    source = write(tmp_path / "d", **counts)
    check_manifest(featx.read_source(source))
    store = featx.embed(source, "colour", folder=tmp_path / "f").store
    run = featx.fit(store, "centroid", options=FitOptions(folder=None, curve=True))
    assert run.curve is None
    assert any(note.startswith("there is no learning curve: ") for note in run.notes)


def test_groups_count_once(tmp_path):
    source = write(tmp_path / "d", a=6, b=6)
    with pytest.raises(DataError, match="'a' has 6 images, 1 to train on; 'b' has 6 images, 1 to train on"):
        check_manifest(featx.read_source(source), group="folder")


def arrange(root, copies):
    """Write train and test, and replace so many training images of class 1 by copies of its test images."""
    write_digits(root / "train", per_class=4, classes=2)
    write_digits(root / "test", per_class=4, classes=2, skip=4)
    pairs = zip(sorted((root / "train" / "1").iterdir()), sorted((root / "test" / "1").iterdir()), strict=True)
    for own, other in list(pairs)[:copies]:
        shutil.copy(other, own)
    return root


def test_a_class_that_lost_all_training_images_as_copies_is_named(tmp_path):
    source = arrange(tmp_path / "d", 4)
    pattern = r"all training images of '1' \(4\) have the same bytes as images of a later split .*; remove the copies"
    with pytest.raises(DataError, match=pattern):
        check_manifest(featx.read_source(source))
    store = featx.embed(source, "colour", folder=tmp_path / "f").store
    for call in (
        lambda: featx.fit(store, "centroid", options=FitOptions(folder=None)),
        lambda: featx.compare([store], "centroid", options=CompareOptions(folder=None, jobs=1)),
    ):
        with pytest.raises(DataError, match=pattern):
            call()


class CountingReader:
    """Counts what is read of each file."""

    def __init__(self, reader):
        self.reader, self.stat, self.read_bytes = reader, reader.stat, []

    def read(self, *asked):
        data = self.reader.read(*asked)
        self.read_bytes.append(len(data))
        return data


@pytest.mark.parametrize("packed", [False, True])
def test_of_files_of_one_size_only_those_that_start_alike_are_read_whole(tmp_path, packed):
    """Noise of one size, as uncompressed images have; one pair differs in its last byte, and one is equal."""
    rng = np.random.default_rng(0)
    for split, at in itertools.product(("train", "test"), range(6)):
        path = tmp_path / "d" / split / f"c{at % 2}" / f"{at}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.bytes(200_000))
    first, second = (tmp_path / "d" / "train" / name for name in ("c0/0.png", "c1/1.png"))
    shutil.copy(first, tmp_path / "d" / "test" / "c0" / "0.png")
    (tmp_path / "d" / "test" / "c1" / "1.png").write_bytes(second.read_bytes()[:-1] + b"x")
    source = shutil.make_archive(str(tmp_path / "d"), "zip", tmp_path, "d") if packed else tmp_path / "d"
    manifest, reporter = featx.read_source(source), Recorder()
    reader = CountingReader(manifest.reader)
    check_manifest(replace(manifest, reader=reader), reporter=reporter)
    assert reader.read_bytes == [65536] * 12 + [200_000] * 4
    assert reporter.phases == ["looking for copies in other splits", "reading those that start alike"]
    assert reporter.counts == [*((done, 12) for done in range(1, 13)), *((done, 4) for done in range(1, 5))]
    for at in (2, 4):
        shutil.copy(tmp_path / "d" / "train" / "c0" / f"{at}.png", tmp_path / "d" / "test" / "c0" / f"{at}.png")
    source = shutil.make_archive(str(tmp_path / "d"), "zip", tmp_path, "d") if packed else tmp_path / "d"
    with pytest.raises(DataError, match=r"^all training images of 'c0' \(3\) have the same bytes as images of a later"):
        check_manifest(featx.read_source(source))


def test_a_class_that_kept_some_is_trained_on_them(tmp_path):
    source = arrange(tmp_path / "d", 2)
    check_manifest(featx.read_source(source))
    partition = split_dataset(
        load_dataset(featx.embed(source, "colour", folder=tmp_path / "f").store), test_size=0.2, seed=0
    )
    assert partition.train.sum() == 6


def test_other_names_in_test_are_named_before_embedding(tmp_path):
    write_digits(tmp_path / "d" / "train", per_class=4, classes=2)
    write_digits(tmp_path / "d" / "test", per_class=2, classes=3, skip=4)
    with pytest.raises(DataError, match="test has classes that train lacks: 2; train has 0, 1"):
        check_manifest(featx.read_source(tmp_path / "d"))


@pytest.mark.parametrize(("splits", "size", "words"), [
    (("train", "val"), 0.2, "no test split, so its val split is the test, and --test-size has no effect"),
    (("train", "val"), 0.4, "no test split, so its val split is the test, and --test-size has no effect"),
    (("train", "test"), 0.4, "the source has a test split, so --test-size has no effect"),
    (("train", "test"), 0.2, ""),
])  # fmt: skip
def test_a_test_size_that_is_not_used_is_noted_once(tmp_path, splits, size, words):
    for number, split in enumerate(splits):
        write_digits(tmp_path / "d" / split, per_class=4, classes=2, skip=4 * number)
    store = featx.embed(tmp_path / "d", "colour", folder=tmp_path / "f").store
    run = featx.fit(store, "centroid", options=FitOptions(folder=None, test_size=size))
    assert [note for note in run.notes if "--test-size" in note] == ([run.notes[0]] if words else [])
    assert words in run.notes[0] if words else True
