"""The flags that say how a source is read: taken by every verb with a source, and recorded in the store."""

import io
import json
import tarfile

import pytest
from pictures import write_digits

from featx import FeatureStore
from featx.items.sources import read_source_again


@pytest.fixture
def photos(tmp_path):
    """Write digits in one folder, with their classes in their names: `photos/c0.3.png`."""
    folders = write_digits(tmp_path / "folders", per_class=12, classes=3)
    (tmp_path / "photos").mkdir()
    for path in sorted(folders.rglob("*.png")):
        path.rename(tmp_path / "photos" / f"c{path.parent.name}.{path.stem}.png")
    return tmp_path / "photos"


FLAGS = ("--label-pattern", r"(\w+)\.", "--map-labels", "c([01])=\\1", "--except", "class=c2", "--layout", "flat")


def test_embed_records_how_the_source_was_read(featx_command, photos):
    result = featx_command("embed", "photos", "-b", "colour", *FLAGS)
    assert "classes: 2 (0 12, 1 12)" in result.err
    assert "left out: images not selected by --only or --except (12)" in result.err
    store = FeatureStore("features/colour.h5")
    again = read_source_again(store.source, store.reading)
    assert [item.id for item in again.items] == sorted(store.ids.tolist())
    assert [item.label for item in again.items] == [name[1] for name in sorted(store.ids.tolist())]
    assert featx_command("embed", "photos", "-b", "colour", *FLAGS).out.startswith("0 new, 24 cached")


def test_split_and_fit_draw_the_same_test_with_the_same_flags(featx_command, photos):
    counts = json.loads(featx_command("split", "photos", "--val", "0", "--json", *FLAGS).out)["classes"]
    featx_command("embed", "photos", "-b", "colour", *FLAGS)
    run = json.loads(featx_command("fit", "--clf", "centroid", "--json").out)
    assert run["test"]["items"] == sum(row["test"] for row in counts.values())
    result = featx_command("evaluate", run["bundle"], "photos", *FLAGS, "--json")
    assert json.loads(result.out)["test"]["items"] == 24


def test_a_table_of_names_is_found_from_another_folder(featx_command, photos, tmp_path, monkeypatch):
    (tmp_path / "map.csv").write_text("c0,zero\nc1,one\nc2,two\n")
    featx_command("embed", "photos", "-b", "colour", "--label-pattern", r"(c\d)", "--map-labels", "map.csv")
    store = FeatureStore("features/colour.h5")
    monkeypatch.chdir(photos)
    assert list(read_source_again(store.source, store.reading).count_classes()) == ["one", "two", "zero"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--layout", "split"], 1, "reads the folder"),
        (["--layout", "folds"], 2, "the layout 'folds' is not known"),
        (["--only", "class=zero"], 1, "no class is called 'zero'"),
        (["--except", "zero"], 2, "'zero' does not say what to keep or leave out"),
        (["--map-labels", "zero=0"], 2, "fits none of the classes"),
        (["--label-pattern", "x"], 2, "has no group"),
    ],
)
@pytest.mark.parametrize("verb", [["embed", "-b", "colour"], ["split"], ["finetune", "-b", "mobilenet"]])
def test_flags_that_do_not_fit_end_with_one_line(featx_command, tmp_path, verb, arguments, code, message):
    write_digits(tmp_path / "digits", per_class=2, classes=2)
    result = featx_command(verb[0], "digits", *verb[1:], *arguments)
    assert result.code == code
    (line,) = (line for line in result.err.splitlines() if line.startswith("error: "))
    assert message in line


def test_verbs_find_the_pictures_of_shards_again(featx_command, tmp_path):
    files = sorted(write_digits(tmp_path / "folders", per_class=12, classes=3).rglob("*.png"))
    for shard in range(2):
        with tarfile.open(tmp_path / f"digits-{shard:02d}.tar", "w") as archive:
            for path in files[shard::2]:
                archive.add(path, path.name)
                label = tarfile.TarInfo(f"{path.stem}.cls")
                label.size = 1
                archive.addfile(label, io.BytesIO(path.parent.name.encode()))
    result = featx_command("embed", "digits-{00..01}.tar", "-b", "colour")
    assert "shards: 2 tar files; labels from the .cls files" in result.err
    assert result.out.startswith("36 new, 0 cached, 0 quarantined")
    assert "digits-00.tar/" in featx_command("similar", "features/colour.h5", f"digits-00.tar/{files[0].name}").out
    featx_command("fit", "--clf", "dummy", "--name", "run")
    result = featx_command("errors", "runs/run")
    assert (result.code, "contact sheet lacks" in result.err) == (0, False)
    assert (tmp_path / "runs" / "run" / "errors.png").stat().st_size > 0
    first = featx_command("predict", "runs/run", "digits-{00..01}.tar").out.splitlines()
    assert (len(first), first[1].partition(",")[0]) == (37, f"digits-00.tar/{files[0].name}")
