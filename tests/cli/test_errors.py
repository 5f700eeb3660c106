"""What a user can do wrong: one line that says what, which, and what next; never a traceback."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from pictures import write_digits

from featx.cli.app import app, main


@pytest.fixture
def photos(tmp_path):
    return write_digits(tmp_path / "photos", per_class=4, classes=3)


def expect(result, code, pattern):
    assert result.code == code, result
    assert re.search(pattern, result.err), result.err
    assert "Traceback" not in result.err
    errors = [line for line in result.err.splitlines() if line.lower().startswith("error:")]
    assert len(errors) == 1
    assert errors == result.err.splitlines()[-1:]


@pytest.mark.parametrize(
    ("arguments", "code", "pattern"),
    [
        (["embed", "missing/", "--backbone", "colour"], 1, "'missing/' does not exist"),
        (["embed"], 2, "SOURCE"),
        (["embed", "photos", "--backbone", "incepton3"], 1, "did you mean inceptionv3"),
        (["embed", "photos", "--backbone", "colour", "--layer", "color"], 1, "Known: colour"),
        (["embed", "photos", "--backbone", "colour", "--pooling", "mean"], 2, "avg, max"),
        (["embed", "photos", "--backbone", "colour", "--image-size", "big"], 2, "240x320"),
        (["embed", "photos", "--backbone", "colour", "--resize", "zoom"], 2, "stretch"),
        (["embed", "photos", "--backbone", "colour", "--dtype", "int8"], 2, "float32"),
        (["fit", "no-store.h5", "--memory", "text"], 2, "^error: --memory 'text' is not a number of bytes"),
        (["fit", "no-store.h5", "--memory", "1kB"], 2, "^error: --memory is 1,000 bytes, but"),
        pytest.param(["embed", "photos", "--backbone", "file:gone.keras"], 1, "gone.keras", marks=pytest.mark.keras),
        (["embed", "photos", "--backbone", "colour", "--root", "."], 2, "tables"),
        (["embed", "photos", "--backbone", "colour", "--on-bad", "skip"], 2, "quarantine, fail"),
        (
            ["embed", "photos", "--backbone", "colour", "--max-bad", "5"],
            2,
            "'5' is not a share from 0 to 1; write 5% or 0.05",
        ),
        (["embed", "photos", "--backbone", "colour", "--max-bad", "few"], 2, "'few' is not a share"),
        (["embed", "photos", "--backbone", "colour", "--max-bad", "5%%"], 2, "'5%%' is not a share"),
        (["embed", "photos", "--backbone", "colour", "--max-bad=-1%"], 2, "'-1%' is not a share"),
        (["embed", "photos", "--backbone", "colour", "--max-bad", "nan"], 2, "'nan' is not a share"),
        (["fit"], 1, "featx embed"),
        (["fit", "nowhere.h5"], 1, "nowhere.h5"),
        (["fit", "photos"], 1, "not a feature store"),
        (["predict", "photos", "x.png"], 1, "is not a bundle"),
        (["evaluate", "nothing", "photos"], 1, "there is no bundle 'nothing'; `featx fit` writes one into runs/"),
        (["info"], 1, "featx embed"),
        (["fits"], 2, "No such command"),
        (["fit", "--clf", "rigde"], 1, "did you mean ridge.*`featx fit --help` lists all 13"),
        (["fit", "--clf", "ridge,lda"], 1, "no classifier is called 'ridge,lda'"),
        (["compare", "--clf", "lda,rf"], 1, "no classifier is called 'rf'; did you mean random-forest"),
        (["compare", "--clf", "lda", "--clf", "knnn"], 1, "did you mean knn"),
        (["compare", "--finetune", "block:1"], 2, "did you mean blocks:1"),
        (["compare", "--finetune", "last"], 2, "how many"),
        (["compare", "--format", "md"], 2, "'md' is not one of 'table', .*; did you mean markdown"),
        (["compare", "--calibration", "platt"], 2, "--calibration is 'platt'; did you mean sigmoid"),
        (["predict", "photos", "photos", "--format", "jsn"], 2, "did you mean json"),
        (["evaluate", "photos", "photos", "--split", "tets"], 2, "did you mean test"),
        (["finetune", "photos", "-b", "mobilnetv2"], 1, "did you mean mobilenetv2.*lists all"),
        (["finetune", "photos", "-b", "mobilenetv2", "--unfreeze", "grdual:2"], 2, "did you mean gradual:2"),
        (["finetune", "photos", "-b", "mobilenetv2", "--unfreeze", "all:2"], 2, "does not say which layers"),
        (["finetune", "photos", "-b", "mobilenetv2", "--unfreeze", "from:"], 2, "does not say which layers"),
        (["layers", "vgg"], 1, "did you mean vgg"),
        (["layers", "mobilenet?alpha"], 1, "not name=value pairs"),
        (["embed", "photo/", "--backbone", "colour"], 1, "'photo/' does not exist; did you mean 'photos'"),
        (["split", "Photos"], 1, "did you mean 'photos'"),
        (["embed", "photos", "--backbone", "colour", "--pooling", "average"], 2, "did you mean avg"),
        (["embed", "photos", "--backbone", "colour", "--runtime", "cuda"], 2, "one of auto, keras, openvino"),
        (["embed", "photos", "--backbone", "colour", "--workers", "0"], 2, "--workers"),
        (["embed", "photos", "--bakbone", "colour"], 2, "--backbone"),
        (["predict"], 2, "BUNDLE"),
        (["merge", "a.h5"], 2, "--name"),
        (["export", "a.h5"], 2, "a file that ends in .npz"),
        (["fit", "--cv", "many"], 2, "--cv"),
    ],
)
def test_wrong_arguments(featx_command, photos, arguments, code, pattern):
    expect(featx_command(*arguments), code, pattern)


CHEAP = [
    ["embed", "photos", "--backbone", "incepton3"],
    ["embed", "photos", "--backbone", "mobilenetv2", "--pooling", "mean"],
    ["layers", "mobilenetx"],
    ["fit", "--clf", "rigde"],
    ["compare", "--clf", "rigde,lda"],
    ["finetune", "photos", "--backbone", "mobilenetv2", "--unfreeze", "block:1"],
    ["compare", "--finetune", "block:1"],
    ["predict", "photos", "photos", "--format", "md"],
    ["evaluate", "photos", "photos", "--split", "tets"],
]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", CHEAP)
def test_mistakes_in_arguments_are_reported_before_anything_heavy_is_imported(tmp_path, arguments):
    for name in ("tensorflow", "keras", "sklearn", "scipy", "openvino", "h5py"):
        (tmp_path / f"{name}.py").write_text(f"raise AssertionError('{name} was imported')\n")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "featx", *arguments]
    result = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode in {1, 2}
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_many_options_are_shown_in_panels_and_every_verb_has_an_example(featx_command):
    shown = featx_command("finetune", "--help").out
    titles = re.findall(r"^(\w+):$", shown, re.MULTILINE)
    assert titles == ["Arguments", "Source", "Images", "Training", "Output", "Advanced"]
    assert "featx finetune [OPTIONS] SOURCE\n" in shown
    for command in app.registered_commands:
        verb = command.name or command.callback.__name__
        text = featx_command(verb, "--help").out
        assert f"Example:\n    featx {verb}" in text
        assert not re.search(r"<(str|int|path|float)>|[{}]", text)
        assert "--help" in text


def test_wrong_sources(featx_command, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    expect(featx_command("embed", "empty", "--backbone", "colour"), 1, "no images")
    (tmp_path / "t.csv").write_text("nam,labl\nphotos/0/a.png,x\n")
    expect(featx_command("embed", "t.csv", "--backbone", "colour"), 1, "'nam', 'labl'")
    (tmp_path / "bad" / "a").mkdir(parents=True)
    (tmp_path / "bad" / "a" / "page.jpg").write_text("<html>")
    expect(featx_command("embed", "bad", "--backbone", "colour"), 1, "none of the 1 images")
    assert not (tmp_path / "features").exists() or not list((tmp_path / "features").glob("*.h5"))


def test_wrong_heads_and_labels(featx_command, photos, tmp_path):
    featx_command("embed", "photos", "--backbone", "colour")
    expect(featx_command("fit", "--clf", "logrge"), 1, "did you mean logreg")
    expect(featx_command("fit", "--param", "D=1"), 1, "C")
    expect(featx_command("fit", "--test-size", "3"), 2, "above 0 and below 1")
    expect(featx_command("fit", "--cv", "1"), 2, "at least 2")
    expect(featx_command("fit", "--cv", "50"), 1, "fold")
    featx_command("embed", "photos/0", "--backbone", "colour", "--name", "flat")
    expect(featx_command("fit", "features/flat.h5"), 1, "no labels")
    write_digits(tmp_path / "one", per_class=4, classes=1)
    featx_command("embed", "one", "--backbone", "colour", "--name", "one")
    expect(featx_command("fit", "features/one.h5"), 1, "only one class")
    write_digits(tmp_path / "s" / "train", per_class=4, classes=2)
    write_digits(tmp_path / "s" / "test", per_class=4, classes=3, skip=4)
    featx_command("embed", "s", "--backbone", "colour", "--name", "s")
    expect(featx_command("fit", "features/s.h5"), 1, "test has classes that train lacks: 2")


def test_stores_and_bundles_that_are_not(featx_command, photos, tmp_path):
    (tmp_path / "text.h5").write_text("no HDF5")
    expect(featx_command("fit", "text.h5"), 1, "not a feature store")
    featx_command("embed", "photos", "--backbone", "colour")
    featx_command("fit")
    (bundle,) = (tmp_path / "runs").glob("*/")
    (bundle / "head.skops").unlink()
    expect(featx_command("predict", bundle, "photos"), 1, "lacks head.skops")
    (bundle / "bundle.json").write_text("{}")
    expect(featx_command("predict", bundle, "photos"), 1, "damaged")


def test_another_source_never_replaces_a_store(featx_command, photos, tmp_path):
    featx_command("embed", "photos", "--backbone", "colour")
    write_digits(tmp_path / "others", per_class=2, classes=2, skip=9)
    expect(featx_command("embed", "others", "--backbone", "colour"), 1, "--name")
    assert featx_command("embed", "others", "--backbone", "colour", "--name", "others").code == 0


def test_full_memory_is_one_line(featx_command, photos, monkeypatch):
    """The allocation is a real one, which no machine can satisfy."""
    featx_command("embed", "photos", "--backbone", "colour")
    monkeypatch.setattr("featx.fitting.fitting.load_dataset", lambda *_, **__: np.ones(1 << 50))
    expect(featx_command("fit"), 1, r"not enough memory \(Unable to allocate 8.00 PiB .*--memory")


def test_debug_shows_the_traceback(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["featx", "--debug", "fit", "nowhere.h5"])
    with pytest.raises(OSError, match=r"nowhere\.h5"):
        main()
