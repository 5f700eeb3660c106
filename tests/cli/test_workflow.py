"""The commands of a user, one after the other, with the backbone that needs no TensorFlow."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from pictures import write_digits
from PIL import Image

from featx.registry import HEAD_SETS


@pytest.fixture
def embedded(featx_command, digits):
    return featx_command("embed", digits, "--backbone", "colour")


def test_embed_says_what_it_understood_and_what_it_did(embedded):
    assert embedded.code == 0
    assert "400 images" in embedded.err
    assert "classes: 10 (0 40, 1 40" in embedded.err
    assert embedded.out.startswith("400 new, 0 cached, 0 quarantined, ")
    shares = r"read\+hash \d+%, decode \d+%, infer \d+%, write \d+%"
    assert re.fullmatch(rf"400 new, .*, [\d,]+ images/s \({shares}\) -> features/colour.h5\n", embedded.out)


def test_embed_json_says_where_the_time_went(featx_command, digits):
    values = json.loads(featx_command("embed", digits, "--backbone", "colour", "--name", "timed", "--json").out)
    assert list(values["stage_seconds"]) == ["read+hash", "decode", "infer", "write"]
    assert all(seconds > 0 for seconds in values["stage_seconds"].values())
    assert values["runtime"] == "numpy"


def test_embed_json_keys_and_the_second_run(featx_command, embedded, digits):
    again = featx_command("embed", digits, "--backbone", "colour", "--json")
    values = json.loads(again.out)
    keys = {"store", "items", "new", "cached", "quarantined", "removed", "dim", "seconds", "images_per_second"}
    assert keys <= values.keys()
    assert (values["items"], values["new"], values["cached"], values["dim"]) == (400, 0, 400, 240)


def test_fit_prints_tables_and_writes_a_bundle(featx_command, embedded):
    result = featx_command("fit", "--clf", "ridge")
    assert result.code == 0
    for words in ("accuracy", "95 % interval", "macro-F1", "log-loss", "ROC-AUC", "precision", "true \\ predicted"):
        assert words in result.out
    (bundle,) = Path("runs").glob("*/")
    assert result.out.rstrip().endswith(str(bundle))


def test_fit_json(featx_command, embedded):
    values = json.loads(featx_command("fit", "--clf", "ridge", "--json", "--cv", "3").out)
    assert {"bundle", "head", "validation", "test", "seconds"} <= values.keys()
    assert {"accuracy", "accuracy_low", "accuracy_high"} <= values["test"].keys()
    assert values["test"]["items"] == 400
    assert values["head"]["name"] == "ridge"


def test_fit_takes_several_stores_and_chooses_a_head(featx_command, embedded, digits, monkeypatch):
    monkeypatch.setitem(HEAD_SETS, "fast", ("knn", "centroid"))
    featx_command("embed", digits, "--backbone", "colour", "--name", "small", "--image-size", "8")
    result = featx_command("fit", "features/colour.h5", "features/small.h5", "--clf", "best")
    assert "on features/colour.h5 + features/small.h5: trained on" in result.out
    assert re.search(r"^knn +0\.\d{4} +0\.\d{4} +chosen$", result.out, re.MULTILINE)
    assert "note: best chose knn of 2 heads" in result.err
    (bundle,) = Path("runs").glob("*/")
    predicted = featx_command("predict", bundle, *sorted((digits / "3").iterdir())[:2], "--json")
    assert [json.loads(line)["label"] for line in predicted.out.splitlines()] == ["3", "3"]


def test_evaluate_and_predict_from_pixels(featx_command, embedded, digits, tmp_path):
    bundle = json.loads(featx_command("fit", "--json").out)["bundle"]
    write_digits(tmp_path / "other", per_class=10, skip=60)
    result = featx_command("evaluate", bundle, "other", "--json")
    assert json.loads(result.out)["test"]["items"] == 100
    assert "used in training" not in result.err
    assert "of 400 images were used in training" in featx_command("evaluate", bundle, digits).err

    (tmp_path / "broken.png").write_bytes(b"<html>not found</html>")
    images = ["other/3", "broken.png", "gone.png"]
    table = featx_command("predict", bundle, *images, "--format", "table")
    assert table.code == 0
    assert table.out.splitlines()[0].split() == ["image", "label", "probability"]
    rows = list(csv.DictReader(io.StringIO(featx_command("predict", bundle, *images).out)))
    assert len(rows) == 12
    assert {"path", "label", "probability", "error", "probability_3"} <= rows[0].keys()
    assert rows[10]["path"] == "broken.png"
    assert rows[10]["error"]
    lines = [json.loads(line) for line in featx_command("predict", bundle, *images, "--json").out.splitlines()]
    assert lines[0].keys() == {"path", "label", "probability", "probabilities"}
    assert lines[0]["path"].startswith("other/3/digit-")
    assert sum(lines[0]["probabilities"].values()) == pytest.approx(1)
    assert lines[11].keys() == {"path", "error"}
    assert lines[11]["path"] == "gone.png"


def test_info(featx_command, embedded):
    values = json.loads(featx_command("info", "--json").out)
    keys = {"format_version", "spec", "spec_digest", "items", "dim", "dtype", "classes", "splits", "quarantined"}
    assert keys <= values.keys()
    assert values["classes"]["3"] == 40
    text = featx_command("info", "features/colour.h5").out
    assert "backbone     colour, layer colour, pooling none" in text
    assert re.search(r"\nembedding    took [\d.]+ (s|min)\n", text)
    assert values["embed_seconds"] > 0


@pytest.fixture
def one_in_twenty_one(tmp_path):
    """Twenty digits and a web page."""
    write_digits(tmp_path / "d", per_class=2)
    (tmp_path / "d" / "0" / "page.jpg").write_bytes(b"<html></html>")


def test_quarantined_images_are_named_and_counted(featx_command, one_in_twenty_one):
    result = featx_command("embed", "d", "--backbone", "colour")
    assert result.code == 0
    assert "20 new, 0 cached, 1 quarantined" in result.out
    assert "quarantined 0/page.jpg: " in result.err
    notes = [line for line in result.err.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1
    assert notes[0].startswith(
        "note: 4.8% of the images are quarantined (up to 5.0% is accepted); `featx info features/"
    )
    assert re.search(r"\n  1 x .*: 0/page\.jpg\n", featx_command("info").out)


@pytest.mark.parametrize("limit", ["5%", "0.05", "1", "100%", "4.77 %"])
def test_a_share_below_the_limit_is_a_success(featx_command, one_in_twenty_one, limit):
    assert featx_command("embed", "d", "--backbone", "colour", "--max-bad", limit).code == 0


@pytest.mark.parametrize("limit", ["4%", "0.047", "0"])
def test_a_share_above_the_limit_is_sealed_and_printed_and_a_failure(featx_command, one_in_twenty_one, limit):
    result = featx_command("embed", "d", "--backbone", "colour", "--max-bad", limit, "--json")
    assert result.code == 1
    assert json.loads(result.out)["items"] == 20
    lines = result.err.splitlines()
    assert [line for line in lines if line.startswith(("note: ", "error: "))] == lines[-1:]
    assert lines[-1].startswith("error: 4.8% of the images are quarantined, more than the ")
    assert "`featx info features/colour.h5` lists the reasons" in lines[-1]
    accepting = lines[-1].rsplit(" ", 1)[1]
    assert featx_command("embed", "d", "--backbone", "colour", "--max-bad", accepting).code == 0


def test_no_bad_image_at_all_may_be_asked_for(featx_command, one_in_twenty_one):
    result = featx_command("embed", "d", "--backbone", "colour", "--on-bad", "fail")
    assert result.code == 1
    assert result.out == ""
    assert "error: 1 of the 21 images of d could not be embedded" in result.err
    assert not Path("features/colour.h5").exists()
    Path("d/0/page.jpg").unlink()
    assert featx_command("embed", "d", "--backbone", "colour", "--on-bad", "fail").out.startswith("0 new, 20 cached")


def test_removed_images_are_counted(featx_command, one_in_twenty_one):
    featx_command("embed", "d", "--backbone", "colour")
    next(Path("d/1").iterdir()).unlink()
    result = featx_command("embed", "d", "--backbone", "colour")
    assert result.out == "0 new, 19 cached, 1 quarantined, 1 removed -> features/colour.h5\n"


def test_backbones_lists_what_helps_to_choose(featx_command, monkeypatch):
    rows = {row["name"]: row for row in json.loads(featx_command("backbones", "--json").out)}
    expected = {"family": "InceptionV3", "year": 2015, "size_px": 299, "parameters": 21802784, "dim": 2048}
    expected |= {"gflops": 5.71, "licence": "Apache-2.0", "weights": "download", "is_offline": False}
    assert rows["inceptionv3"] == {"name": "inceptionv3", **expected}
    assert rows["efficientnetb1"]["size_px"] == 240
    assert len(rows) > 35
    monkeypatch.setenv("COLUMNS", "80")
    text = featx_command("backbones").out
    assert "mobilenet?alpha=0.75" in text
    assert "hub:PRESET" in text
    assert max(map(len, text.splitlines())) <= 80
    listed = json.loads(featx_command("backbones", "--family", "resnet", "--max-parameters", "50", "--json").out)
    assert [row["name"] for row in listed] == ["resnet50", "resnet101"]
    assert all(row["is_offline"] for row in json.loads(featx_command("backbones", "--offline", "--json").out))
    failed = featx_command("backbones", "--family", "renset")
    assert failed.code == 1
    assert failed.err.startswith("error: no family is called 'renset'; did you mean ResNet")


@pytest.mark.keras
def test_layers_lists_where_to_cut(featx_command):
    rows = json.loads(featx_command("layers", "mobilenet?alpha=0.25", "--json").out)
    assert rows[-1]["name"] == "conv_pw_13_relu"
    assert rows[-1]["output_shape"] == [7, 7, 256]
    assert rows[-1]["bytes_per_item"] == 1024
    assert "conv_pw_13_relu" in featx_command("layers", "mobilenet?alpha=0.25").out


def test_predict_says_how_many_could_not_be_read_and_fails_if_none_could(featx_command, embedded, digits, tmp_path):
    featx_command("fit", "--clf", "centroid")
    (bundle,) = Path("runs").glob("*/")
    Image.new("L", (8, 8)).save(tmp_path / "new.png")
    some = featx_command("predict", bundle, "new.png", "nowhere", "--format", "csv")
    assert (some.code, some.err) == (0, "note: 1 image could not be read; the first is nowhere\n")
    none = featx_command("predict", bundle, "nowhere", "nor here")
    assert none.code == 1
    assert "error: none of the 2 images could be read; the first is nowhere" in none.err
