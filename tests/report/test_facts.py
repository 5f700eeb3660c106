"""The commands of a report repeat what was done."""

import json
import shlex
from pathlib import Path

import numpy as np
from PIL import Image

import featx
from featx.cli.app import app
from featx.report.facts import format_compare, format_embed


def test_the_command_embeds_the_same_items_again(tmp_path, monkeypatch):
    (tmp_path / "scans").mkdir()
    rows = ["picture,kind of leaf,patient"]
    for number in range(9):
        Image.fromarray(np.full((8, 8, 3), 20 * number, np.uint8)).save(tmp_path / "scans" / f"{number}.png")
        rows.append(f"{number}.png,{('oak (old)', 'oak', 'elm')[number % 3]},{number // 2}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    options = featx.SourceOptions(map_labels={"oak (old)": "oak"}, except_=["class=elm"])
    columns = featx.Columns(path="picture", label="kind of leaf", group="patient")
    manifest = featx.read_source(tmp_path / "table.csv", root=tmp_path / "scans", columns=columns, options=options)
    (tmp_path / "bad.csv").write_text("id\n0.png\n")
    manifest = featx.correct_manifest(manifest, without=tmp_path / "bad.csv")
    image = {"height": 32, "width": 24, "bits": 12}
    store = featx.embed(manifest, "colour", image=image, folder=tmp_path).store
    assert set(store.labels.tolist()) == {"oak"}
    monkeypatch.chdir(tmp_path)
    command = shlex.split(format_embed(store))
    assert command[0] == "featx"
    assert not app([*command[1:], "--name", "again"], standalone_mode=False)
    assert "--without" in command
    again = featx.FeatureStore("features/again.h5")
    assert (again.ids.tolist(), again.labels.tolist(), again.groups.tolist()) == (
        store.ids.tolist(),
        store.labels.tolist(),
        store.groups.tolist(),
    )
    assert again.spec == store.spec
    np.testing.assert_array_equal(again.features, store.features)


def test_the_command_compares_the_same_again(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = featx.CompareOptions(folds=2, seed=3, jobs=1, folder=None, out="first")
    first = featx.compare(store, ["centroid", "dummy"], calibration="none", options=options)
    command = shlex.split(format_compare(json.loads(Path("first/comparison.json").read_text())))
    assert command[:3] == ["featx", "compare", str(store.path)]
    assert not app([*command[1:], "--jobs", "1", "--out", "again"], standalone_mode=False)
    again = json.loads(Path("again/comparison.json").read_text())
    for ours, theirs in zip(first.rows, again["rows"], strict=True):
        assert (ours.head.name, ours.test.accuracy) == (theirs["head"], theirs["accuracy"])
    assert again["call"] == first.call
    page = featx.write_report("again").path.read_text()
    assert f"{shlex.join(command)}\nfeatx report again</pre>" in page
    assert not format_compare({"rows": []})
