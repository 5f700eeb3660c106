"""Runs by their name: `latest`, the latest of a head, a name in runs/; and what is said where there is none."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pictures import write_digits
from PIL import Image
from runs import load_counter

import featx
from featx.errors import StoreError
from featx.options import FitOptions
from featx.store.feature_store import FeatureStore
from featx.store.journal import describe_unfinished
from featx.store.lock import StoreLock


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make three runs: of lda, of centroid with a name, and of knn in another folder."""
    folder = tmp_path_factory.mktemp("made")
    with contextlib.chdir(folder):
        write_digits(Path("digits"), per_class=8, classes=3)
        featx.embed("digits", "colour")
        for clf, options in (("lda", {}), ("centroid", {"name": "baseline"}), ("knn", {"folder": "other"})):
            featx.fit("features/colour.h5", clf, options=FitOptions(**options))
    return folder


@pytest.fixture
def fitted(featx_command, made, tmp_path):
    """Copy the three runs to the folder of a test, which may change them."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)


def find(result):
    assert not result.code, result.err
    return json.loads(result.out.splitlines()[-1])["bundle"]


@pytest.mark.parametrize(
    ("reference", "folder"),
    [
        ("latest", "runs/baseline"),
        ("runs/latest", "runs/baseline"),
        ("runs/latest/", "runs/baseline"),
        ("baseline", "runs/baseline"),
        ("latest:centroid", "runs/baseline"),
        ("latest:lda", "runs/*-lda-colour"),
        ("other/latest", "other/*-knn-colour"),
        ("other/latest:knn", "other/*-knn-colour"),
    ],
)
def test_every_verb_takes_references(featx_command, fitted, reference, folder):
    (path,) = map(str, Path().glob(folder))
    assert find(featx_command("evaluate", reference, "digits", "--json")) == path
    assert find(featx_command("info", reference, "--json")) == path
    assert featx_command("predict", reference, "digits/0", "--json").out.count("probabilities") == 8
    assert featx_command("export", reference, "x.npz").err.startswith(
        f"error: {path} is a bundle; say what to export it to"
    )


def test_the_newest_run_is_found_without_its_pointer(featx_command, fitted):
    Path("runs/latest").unlink()
    assert find(featx_command("info", "latest", "--json")) == "runs/baseline"
    featx_command("fit", "--clf", "dummy", "--name", "gone")
    shutil.rmtree("runs/gone")
    assert find(featx_command("info", "latest", "--json")) == "runs/baseline"


def test_a_glob_of_all_runs_names_each_once(featx_command, fitted):
    runs = [part for path in sorted(Path("runs").iterdir()) for part in ("--run", path)]
    rows = json.loads(featx_command("compare", "--clf", "lda", *runs, "--json").out)
    assert sorted(filter(None, (row["run"] for row in rows))) == sorted(
        str(path.parent) for path in Path("runs").glob("*/bundle.json")
    )


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (
            ["predict", "latest:logreg", "digits"],
            "there is no run of 'logreg' in runs; there are runs of centroid, lda",
        ),
        (["info", "other/latest:lda"], "there is no run of 'lda' in other; there are runs of knn"),
        (
            ["evaluate", "gone/latest:knn", "digits"],
            "there is no bundle 'gone/latest:knn'; the newest runs are runs/baseline, ",
        ),
        (["predict", "basline", "digits"], "there is no bundle 'basline'; the newest runs are runs/baseline, runs/2"),
        (
            ["predict", "runs", "digits"],
            "runs is a folder of runs, not a bundle; name one of them: runs/b",
        ),
        (["predict", "digits", "runs/baseline"], "digits is not a bundle, but runs/baseline is: name"),
        (
            ["evaluate", "digits", "runs/baseline"],
            "digits is not a bundle, but runs/baseline is: name",
        ),
        (
            ["evaluate", "digits", "digits"],
            "digits is not a bundle (it has no bundle.json); the newest runs are runs/b",
        ),
        (["predict", "features/colour.h5", "digits"], "features/colour.h5 is not a bundle but a feature store; the"),
        (
            ["predict", "runs.tar.gz", "digits"],
            "runs.tar.gz is an archive, not a bundle; unpack it, and name the folder",
        ),
        (["info", "baseline", "--duplicates"], "runs/baseline is a bundle; --duplicates is for a feature store"),
        (["fit", "--name", "baseline"], "runs/baseline exists already; choose another --name, or delete it"),
        (["fit", "--name", "latest"], "--name is 'latest', but it stands for the run that was writ"),
        (["fit", "--name", "a/b"], "--name is 'a/b', but it has an unprintable character, or one of /"),
        (
            ["evaluate", "latest", "digits", "--split", "tets"],
            "there is no split 'tets'; did you mean test? Known: train, val, test",
        ),
        (["evaluate", "latest", "digits", "--split", "train,val"], "there is no split 'train,val'; did you mean "),
        (["evaluate", "latest", "digits", "--split", "all"], "there is no split 'all'; did you mean val? Known: tra"),
        (["evaluate", "latest", "digits", "--split", "test"], "digits has no splits, so there is no test split; leave"),
    ],
)
def test_what_is_not_there_is_named(featx_command, fitted, arguments, pattern):
    Path("runs.tar.gz").touch()
    result = featx_command(*arguments)
    assert result.code
    assert pattern in result.err.splitlines()[-1]


def test_a_split_that_the_source_lacks(featx_command, fitted, tmp_path):
    for split in ("train", "val"):
        shutil.copytree("digits", tmp_path / "splits" / split)
    result = featx_command("evaluate", "latest", "splits", "--split", "testing")
    assert result.err.splitlines()[-1].endswith("in the test split; its splits are train 24, val 24")


@pytest.mark.parametrize("spelling", ["val", "VAL", "validation", "valid", "dev", "val_set"])
def test_a_split_is_named_as_a_folder_may_be(featx_command, fitted, tmp_path, spelling):
    shutil.copytree("digits/0", tmp_path / "splits" / "train" / "0")
    shutil.copytree("digits", tmp_path / "splits" / "validation")
    result = featx_command("evaluate", "latest", "splits", "--split", spelling, "--json")
    assert json.loads(result.out)["test"]["items"] == 24
    assert featx.Predictor.load("runs/baseline").evaluate("splits", split=spelling).n_items == 24


def test_json_of_many_classes_is_short(featx_command, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(150):
        for copy in range(3):
            path = tmp_path / "many" / f"c{number}" / f"{copy}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(path)
    featx_command("embed", "many", "--backbone", "colour")
    result = featx_command("fit", "--clf", "centroid", "--scaling", "none", "--json")
    values = json.loads(result.out)
    assert len(result.out) < 12_000
    assert values["test"]["confusion"] is values["test"]["per_class"] is values["validation"]["confusion"] is None
    assert f"{values['bundle']}/metrics.json has them" in result.err
    kept = json.loads((Path(values["bundle"]) / "metrics.json").read_text())["test"]
    assert sum(kept["confusion"]["items"]) == sum(row["support"] for row in kept["per_class"]) == kept["items"]
    assert json.loads(featx_command("evaluate", "latest", "many", "--json").out)["test"]["confusion"] is None
    every = json.loads(featx_command("evaluate", "latest", "many", "--json", "--all").out)["test"]
    assert len(every["per_class"]) == 150
    text = featx_command("info").out
    assert "3 and 130 more (--all lists them)" in text
    assert "c99 3" in featx_command("info", "--all").out


def test_reasons_are_grouped(featx_command, tmp_path):
    write_digits(tmp_path / "d", per_class=3)
    for number in range(40):
        (tmp_path / "d" / "0" / f"page{number}.jpg").write_text("<html></html>")
        (tmp_path / "d" / "1" / f"cut{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    featx_command("embed", "d", "--backbone", "colour")
    text = featx_command("info").out
    assert sum(line.startswith("  40 x ") for line in text.splitlines()) == 2
    assert ": 0/page0.jpg, 0/page1.jpg, 0/page10.jpg, ...\n" in text
    assert text.endswith("--all lists every image\n")
    assert featx_command("info", "--all").out.count("/page") == 40
    short = json.loads(featx_command("info", "--json").out)
    assert (len(short["quarantined"]), short["quarantined_count"]) == (20, 80)
    assert [row["count"] for row in short["quarantine_reasons"]] == [40, 40]
    assert len(json.loads(featx_command("info", "--json", "--all").out)["quarantined"]) == 80


def test_copies_are_listed_with_their_splits(featx_command, tmp_path):
    write_digits(tmp_path / "s" / "train", per_class=6, classes=2)
    write_digits(tmp_path / "s" / "test", per_class=3, classes=2, skip=6)
    (copied,) = sorted((tmp_path / "s" / "test" / "1").iterdir())[:1]
    shutil.copy(copied, tmp_path / "s" / "train" / "1" / "copy.png")
    twin = min((tmp_path / "s" / "train" / "0").iterdir())
    shutil.copy(twin, twin.with_name("twin.png"))
    embedded = featx_command("embed", "s", "--backbone", "colour")
    assert "note: fit will leave out 1 image with the same bytes as an image of a later split, such" in embedded.err
    groups = json.loads(featx_command("info", "--duplicates", "--json").out)["duplicates"]
    assert [[item["split"] for item in group["items"]] for group in groups] == [["test", "train"], ["train", "train"]]
    text = featx_command("info", "--duplicates").out
    assert text.startswith("2 groups of images with the same bytes in features/colour.h5\n")
    assert "  train/1/copy.png (train, 1)\n" in text


def test_a_store_that_is_being_written_is_said_to_be(featx_command, tmp_path, interrupted_store):
    result = featx_command("fit", "features/half.h5")
    words = "the writing of features/half.h5 was interrupted (3 of 9 images are done); run the same `featx embed` again"
    assert words in result.err
    assert words in featx_command("info").err
    with StoreLock(Path("features/half.h5")):
        assert "features/half.h5 is being written by process" in featx_command("info", "features/half.h5").err
        assert "(3 of 9 images so far); wait until it has finished" in describe_unfinished(Path("features/half.h5"))
    write_digits(tmp_path / "digits", per_class=8, classes=3)
    featx_command("embed", "digits", "--backbone", "colour")
    fitted = featx_command("fit", "--clf", "centroid")
    assert not fitted.code
    assert f"note: {words}" in fitted.err


@pytest.fixture
def interrupted_store(tmp_path, monkeypatch):
    """Leave three of nine rows in the journal of a store, as a run that was killed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("featx.store.journal.SHARD_BYTES", 1)
    write_digits(tmp_path / "nine", per_class=3, classes=3)
    with pytest.raises(KeyboardInterrupt):
        featx.embed("nine", load_counter(stop_at=5), name="half", options=featx.EmbedOptions(batch_size=1))


@pytest.mark.parametrize("kept", [0, 10, 2000, 60_000])
def test_a_store_that_is_cut_off_is_said_to_be(featx_command, fitted, kept):
    path = Path("features/colour.h5")
    whole = path.read_bytes()
    path.write_bytes(whole[: min(kept, len(whole) - 1)])
    with pytest.raises(
        StoreError, match=r"is cut off: it has [\d,]+ of [\d,]+ bytes|not an HDF5 file|cannot be read"
    ) as caught:
        FeatureStore(path)
    assert not {"eof", "synchronously"} & set(str(caught.value).split())
