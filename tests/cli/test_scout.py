"""`featx scout`, as a user types it."""

import json
import shlex

import pytest
from pictures import write_digits


@pytest.fixture
def photos(tmp_path):
    return write_digits(tmp_path / "photos", per_class=25, classes=3)


@pytest.mark.slow
def test_scout_then_embed_with_the_command_that_it_prints(featx_command, photos, tmp_path):
    scouted = ("scout", "photos", "-b", "colour", "--image-size", "16", "--folds", "3", "--sample", "80%")
    result = featx_command(*scouted, "--out", "there")
    assert result.code == 0, result.err
    table, sentences, command = result.out.rstrip("\n").split("\n\n")
    assert table.splitlines()[0].split()[:2] == ["features", "accuracy"]
    assert table.splitlines()[1].startswith("colour ")
    assert sentences.startswith("embed colour\naccuracy is that of lda on 3 folds; a sample of ")
    assert sentences.endswith(" s -> there")
    assert command == "featx embed photos --backbone colour --image-size 16x16"
    assert {path.suffix for path in (tmp_path / "there").iterdir()} == {".csv", ".json", ".png", ".svg"}
    embedded = featx_command(*shlex.split(command)[1:])
    assert embedded.code == 0
    assert "copied from other stores" in embedded.out
    again = featx_command(*scouted, "--json")
    values = json.loads(again.out)
    assert values["command"] == command
    assert values["choice"] == values["rows"][0]
    assert values["rows"][0]["accuracy_low"] <= values["rows"][0]["accuracy"] <= 1
    assert values["items"] < values["train_items"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["-b", "colou"], 1, "error: no backbone is called 'colou'; did you mean colour?"),
        (["-b", "colou@-1,-20"], 1, "error: no backbone is called 'colou'"),
        (["-b", "colour", "--pooling", "average"], 2, "error: --pooling is 'average'"),
        (["-b", "colour", "--sample", "0"], 2, "error: sample is 0.0; it must be a share above 0"),
        (["-b", "colour", "--sample", "many"], 2, "'many' is not a share from 0 to 1"),
        (["-b", "colour", "--clf", "fast"], 2, "error: fast names"),
        ([], 2, "--backbone"),
    ],
)
def test_mistakes_are_one_line(featx_command, photos, arguments, code, words):
    result = featx_command("scout", "photos", *arguments)
    assert result.code == code
    assert words in result.err
    assert result.out == ""
