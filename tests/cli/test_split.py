"""`featx split`, and what is done with its table."""

import inspect
import json
import re

import pytest
from pictures import write_digits

from featx.cli.split import split
from featx.options import SplitOptions


@pytest.fixture
def photos(tmp_path):
    return write_digits(tmp_path / "photos", per_class=20, classes=3)


def test_a_table_of_counts_and_the_path_last(featx_command, photos):
    result = featx_command("split", "photos/")
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[-1] == "photos-splits.csv"
    assert lines[0].split() == ["class", "train", "val", "test"]
    assert [line.split()[0] for line in lines[1:5]] == ["0", "1", "2", "all"]
    assert len({len(line) for line in lines[:5]}) == 1  # lined up
    assert sum(map(int, lines[4].split()[-3:])) == 60
    assert "60 images" in result.err


def test_embed_and_fit_read_the_table_with_no_flags(featx_command, photos):
    featx_command("split", "photos", "--val", "0.2", "--test", "0.2")
    result = featx_command("embed", "photos-splits.csv", "--backbone", "colour")
    assert (result.code, result.out[:7]) == (0, "60 new,")
    assert re.search(r"splits: train \d+, val \d+, test \d+", result.err)
    assert "(test split)" in featx_command("fit", "--clf", "centroid").out


def test_json_has_counts_and_what_could_not_be_read(featx_command, photos):
    (photos / "0" / "page.jpg").write_bytes(b"<html>")
    result = featx_command("split", "photos", "--json", "--out", "t.csv", "--group", "folder")
    values = json.loads(result.out)
    assert {"table", "items", "splits", "classes", "unread", "notes"} <= values.keys()
    assert (values["table"], values["items"], values["splits"]["train"]) == ("t.csv", 61, 60)
    assert values["unread"][0]["path"] == "0/page.jpg"
    assert "not in any split: 0/page.jpg: " in result.err
    assert "has a single image or group" in result.err
    assert "none" in featx_command("split", "photos", "--out", "u.csv").out.splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "code", "pattern"),
    [
        (["split", "nowhere"], 1, "'nowhere' does not exist"),
        (["split", "photos", "--test", "1"], 2, "the size of test is 1"),
        (["split", "photos", "--val", "0", "--test", "0"], 2, "together they must be above 0"),
        (["split", "photos", "--group", "patient"], 2, "'patient' is not a group"),
        (["split", "photos", "--out", "t.parquet"], 2, "must end in .csv"),
        (["split", "photos", "--seed", "-1"], 2, "the seed is -1"),
        (["split", "photos", "--root", "."], 2, "for tables"),
    ],
)
def test_wrong_arguments(featx_command, photos, arguments, code, pattern):
    result = featx_command(*arguments)
    assert result.code == code
    assert re.search(pattern, result.err)
    assert result.err.splitlines()[-1].startswith("error: ")
    assert not result.out


def test_force_and_replace(featx_command, photos):
    featx_command("split", "photos")
    assert "--force" in featx_command("split", "photos").err
    assert featx_command("split", "photos", "--force").code == 0
    assert "--replace" in featx_command("split", "photos-splits.csv").err
    assert featx_command("split", "photos-splits.csv", "--replace").out.endswith("photos-splits-splits.csv\n")


def test_defaults_are_those_of_the_library():
    parameters = inspect.signature(split).parameters
    flags = {"val": "val_size", "test": "test_size", "replace_splits": "replace"}
    for flag in ("val", "test", "group", "seed", "force", "replace_splits", "workers"):
        assert parameters[flag].default == getattr(SplitOptions(), flags.get(flag, flag))
    assert parameters["out"].default is None
