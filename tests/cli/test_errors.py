"""What a user can do wrong: one line that says what, which, and what next; never a traceback."""

import re

import pytest
from pictures import write_digits

from featx.cli.app import main


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
        (["embed", "photos"], 2, "--backbone"),
        (["embed", "photos", "--backbone", "incepton3"], 1, "did you mean inceptionv3"),
        (["embed", "photos", "--backbone", "colour", "--layer", "color"], 1, "Known: colour"),
        (["embed", "photos", "--backbone", "colour", "--pooling", "mean"], 2, "avg, max"),
        (["embed", "photos", "--backbone", "colour", "--image-size", "big"], 2, "240x320"),
        (["embed", "photos", "--backbone", "colour", "--resize", "zoom"], 2, "stretch"),
        (["embed", "photos", "--backbone", "colour", "--dtype", "int8"], 2, "float32"),
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
        (["fit", "--cv", "many"], 2, "--cv"),
    ],
)
def test_wrong_arguments(featx_command, photos, arguments, code, pattern):
    expect(featx_command(*arguments), code, pattern)


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


def test_debug_shows_the_traceback(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["featx", "--debug", "fit", "nowhere.h5"])
    with pytest.raises(OSError, match=r"nowhere\.h5"):
        main()
