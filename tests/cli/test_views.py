"""Views on the command line: embedding, training on them, and predicting."""

import csv
import io
import json
from pathlib import Path

import pytest

FLAGS = ("--views", "2", "--augment", "rotate:10,shift", "--view-seed", "4")


@pytest.fixture
def embedded(featx_command, digits):
    return featx_command("embed", digits, "--backbone", "colour", *FLAGS)


def test_the_whole_way_with_views(featx_command, embedded, digits):
    assert embedded.code == 0
    store = "features/colour-views2-rotate-10-shift-0.1-seed4.h5"
    assert embedded.out.rstrip().endswith(store)
    info = featx_command("info", store)
    assert "rotate:10,shift:0.1" in info.out
    assert json.loads(featx_command("info", store, "--json").out)["spec"]["views"] == {
        "count": 2,
        "augmentation": "rotate:10,shift:0.1",
        "seed": 4,
    }
    fitted = featx_command("fit", "--clf", "centroid")
    assert "mean over its 3 views" in fitted.err
    augmented = featx_command("fit", "--clf", "centroid", "--views", "augment", "--runs", "augmented")
    assert "each of the 3 views" in augmented.err
    (bundle,) = Path("runs").glob("*/")
    (other,) = Path("augmented").glob("*/")
    assert "views" in json.loads((bundle / "bundle.json").read_text())["embed"]
    assert "views" not in json.loads((other / "bundle.json").read_text())["embed"]
    compared = featx_command("compare", "--clf", "centroid", "--jobs", "1")
    assert "mean over its 3 views" in compared.err
    every = featx_command("compare", "--clf", "centroid", "--jobs", "1", "--views", "augment")
    assert "each of the 3 views" in every.err


def test_predict_and_evaluate_take_views(featx_command, digits):
    featx_command("embed", digits, "--backbone", "colour")
    featx_command("fit", "--clf", "centroid")
    (bundle,) = Path("runs").glob("*/")
    images = sorted((digits / "3").iterdir())[:5]
    rows = [
        list(csv.DictReader(io.StringIO(featx_command("predict", bundle, *images, *flags, "--format", "csv").out)))
        for flags in ((), FLAGS)
    ]
    assert rows[0][0].keys() == rows[1][0].keys()
    assert [row["path"] for row in rows[0]] == [row["path"] for row in rows[1]]
    assert [row["probability_3"] for row in rows[0]] != [row["probability_3"] for row in rows[1]]
    plain, viewed = (
        json.loads(featx_command("evaluate", bundle, digits, *flags, "--json").out)["test"] for flags in ((), FLAGS)
    )
    assert plain.keys() == viewed.keys()
    assert plain["log_loss"] != viewed["log_loss"]


@pytest.mark.parametrize("verb", ["embed", "predict", "evaluate"])
@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--views", "2"), 2, "add one, such as --augment light"),
        (("--augment", "flip"), 2, "add their number, such as --views 4"),
        (("--views", "2", "--augment", "flop"), 1, "did you mean flip"),
        (("--views", "-1"), 2, "greater than or equal to 0"),
    ],
)
def test_flags_that_do_not_fit_end_in_one_line(featx_command, verb, flags, code, words):
    arguments = {"embed": ("x", "--backbone", "colour"), "predict": ("x", "y"), "evaluate": ("x", "y")}[verb]
    result = featx_command(verb, *arguments, *flags)
    assert result.code == code
    assert words in result.err.splitlines()[-1]


def test_training_on_missing_views_is_refused(featx_command, digits):
    featx_command("embed", digits, "--backbone", "colour")
    result = featx_command("fit", "--clf", "centroid", "--views", "augment")
    assert result.code == 2
    assert "has no views to augment by" in result.err


def test_a_disk_that_is_too_small(featx_command, digits, monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr("featx.store.writing.shutil.disk_usage", lambda _: SimpleNamespace(free=5_000))
    result = featx_command("embed", digits, "--backbone", "colour", *FLAGS)
    assert result.code == 1
    assert "only 5.0 kB is free: make room" in result.err
