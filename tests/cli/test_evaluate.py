import csv
import json
import shutil
from pathlib import Path

import pytest
from pictures import write_digits
from PIL import Image

from featx.errors import BundleError, UsageError
from featx.files import write_json
from featx.report.evaluations import check_folder, find_tested, name_folder

FILES = ["metrics.json", "predictions.csv", "confusion_matrix.png", "errors.csv", "errors.png"]


@pytest.fixture(scope="module")
def bundle(digits_bundle, tmp_path_factory):
    return shutil.copytree(digits_bundle, tmp_path_factory.mktemp("runs") / "base")


@pytest.fixture
def wrong(tmp_path):
    """Write six pictures, of which two are the same and have different labels, so that one at least is wrong."""
    write_digits(tmp_path / "new photos", per_class=3, classes=2)
    first, other = (min((tmp_path / "new photos" / name).iterdir()) for name in "01")
    shutil.copy(first, other)


@pytest.mark.usefixtures("wrong")
def test_an_evaluation_is_written_and_its_errors_are_shown(featx_command, bundle):
    result = featx_command("evaluate", bundle, "new photos")
    folder = "evaluations/base-new-photos"
    *_, said, last = result.out.splitlines()
    assert last == f"-> {folder}"
    errors = featx_command("errors", folder, "--json")
    values = json.loads(errors.out)
    n_wrong = len(values["errors"])
    assert n_wrong >= 1
    assert said.startswith(f"{n_wrong} of 6 tested images ")
    assert said.endswith(f"wrong: featx errors {folder}")
    assert values["files"] == [f"{folder}/errors.csv", f"{folder}/errors.png"]
    assert {row["predicted"] for row in values["errors"]} <= set("0123456789")


@pytest.mark.usefixtures("wrong")
def test_a_second_evaluation_replaces_the_first_and_json_names_the_files(featx_command, bundle, tmp_path):
    first = json.loads(featx_command("evaluate", bundle, "new photos", "--out", "here", "--json").out)
    assert first["files"] == [f"here/{name}" for name in FILES]
    metrics = json.loads((tmp_path / "here" / "metrics.json").read_text())
    assert (metrics["bundle"], metrics["source"], metrics["split"]) == (str(bundle), "new photos", "")
    assert metrics["test"]["accuracy"] == first["test"]["accuracy"] < 1
    with (tmp_path / "here" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert right / 6 == pytest.approx(first["test"]["accuracy"])
    with Image.open(tmp_path / "here" / "errors.png") as image:
        assert image.format == "PNG"
    keep = [row["id"] for row in rows if row["label"] == row["predicted"]]
    (tmp_path / "right.csv").write_text("path,label\n" + "".join(f"new photos/{name},{name[0]}\n" for name in keep))
    second = json.loads(featx_command("evaluate", bundle, "right.csv", "--out", "here", "--json").out)
    assert second["test"]["accuracy"] == 1
    assert second["files"] == [f"here/{name}" for name in FILES[:4]]
    assert not (tmp_path / "here" / "errors.png").exists()
    assert "none of" in featx_command("errors", "here").out


@pytest.mark.usefixtures("wrong")
def test_folders_that_cannot_be_used_are_refused_before_anything_is_predicted(featx_command, bundle, tmp_path):
    before = (bundle / "metrics.json").read_bytes()
    result = featx_command("evaluate", bundle, "new photos", "--out", bundle)
    assert (result.code, "is a bundle, which an evaluation would overwrite" in result.err) == (2, True)
    assert (bundle / "metrics.json").read_bytes() == before
    (tmp_path / "file").write_text("")
    result = featx_command("evaluate", bundle, "new photos", "--out", "file")
    assert (result.code, "file is not a folder; name another folder with --out" in result.err) == (2, True)
    (tmp_path / "predictions.csv").write_text("mine")
    result = featx_command("evaluate", bundle, "new photos", "--out", ".")
    assert (result.code, "has a file predictions.csv of something else; name another" in result.err) == (2, True)


def test_an_evaluation_of_another_folder_of_the_same_name_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = name_folder(tmp_path / "base", "one/test")
    assert folder == name_folder(tmp_path / "base", "two/test") == Path("evaluations/base-test")
    folder.mkdir(parents=True)
    write_json({"source": "one/test"}, folder / "metrics.json")
    check_folder(folder, str(tmp_path / "one" / "test"))
    with pytest.raises(UsageError, match="holds the evaluation of one/test; name another folder"):
        check_folder(folder, "two/test")
    check_folder(folder)
    check_folder(name_folder(tmp_path / ("é" * 120), "x" * 250, "test"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"source": "new photos", "reading": 7}', "[" * 100_000])
def test_a_damaged_evaluation_is_an_error(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(BundleError, match=r"metrics\.json is damaged .*; evaluate again"):
        find_tested(tmp_path)


@pytest.mark.usefixtures("wrong")
def test_errors_without_the_pictures_of_an_evaluation(featx_command, bundle, tmp_path):
    featx_command("evaluate", bundle, "new photos", "--out", "here")
    (tmp_path / "new photos").rename(tmp_path / "moved")
    (tmp_path / "here" / "errors.png").unlink()
    result = featx_command("errors", "here")
    assert result.code == 0
    assert "no pictures are shown" in result.err
    assert featx_command("errors", "here", "moved").out.rstrip().endswith("here/errors.png")


@pytest.mark.parametrize(("source", "name"), [("cohort.csv", "cohort"), ("a.b.tar.gz", "a.b"), (".csv", ".csv")])
def test_the_folder_of_a_table_does_not_look_like_a_table(tmp_path, monkeypatch, source, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / source).touch()
    assert name_folder(tmp_path / "base", source, "test") == Path(f"evaluations/base-{name}-test")
