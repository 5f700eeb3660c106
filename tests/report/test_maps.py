import csv
import json

import numpy as np
import pytest
from PIL import Image

import featx
from featx.cli.app import app
from featx.errors import SourceError, UsageError
from featx.report.maps import RIGHT, UNTESTED, WRONG, _push_apart, map_store


def run(*arguments):
    return app(["map", *map(str, arguments)], standalone_mode=False)


def test_the_map_has_all_items_and_a_picture_of_each_class(store, tmp_path):
    found = map_store(store)
    assert list(found.ids) == store.ids.tolist()
    assert list(found.values) == store.labels.tolist()
    assert found.points.shape == (400, 2)
    assert found.pictures.keys() == set(store.classes)
    assert found.title.startswith("colour: 400 items, layer ")
    assert found.title.endswith("% of the variance")
    written = found.write(tmp_path / "new" / "map.png")
    first = [path.read_bytes() for path in written]
    assert [path.name for path in map_store(store).write(tmp_path / "map.png")] == ["map.png", "map.svg", "map.csv"]
    assert first == [(tmp_path / f"map.{kind}").read_bytes() for kind in ("png", "svg", "csv")]
    with written[2].open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[5]["id"] == store.ids[5]
    assert float(rows[5]["y"]) == pytest.approx(float(found.points[5, 1]), rel=1e-6)
    assert found._repr_png_().startswith(b"\x89PNG")


def test_classes_have_colours_that_can_be_told_apart(store, tmp_path):
    map_store(store).write(tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    assert (0, 114, 178) in colours  # the first of Okabe and Ito's
    assert (213, 94, 0) in colours


def test_a_bundle_colours_by_right_and_wrong(store, tmp_path):
    fitted = featx.fit(store, "centroid", options=featx.FitOptions(folder=tmp_path))
    found = map_store(store, bundle=fitted.bundle)
    frame = fitted.predictions
    assert found.values.count(WRONG) == int((frame["label"] != frame["predicted"]).sum()) > 0
    assert found.values.count(RIGHT) == int((frame["label"] == frame["predicted"]).sum())
    assert found.values.count(UNTESTED) == 400 - len(frame)
    assert found._repr_png_()
    assert found.colouring == f"coloured by what {fitted.bundle.name} got right"
    table = fitted.bundle / "predictions.csv"
    head, *rows = table.read_text().splitlines()
    table.write_text("\n".join([head, *(f"x/{row}" if at else row for at, row in enumerate(rows))]))
    assert map_store(store, bundle=fitted.bundle).notes == (
        f"{len(rows) - 1:,} of the {len(rows):,} tested items of {fitted.bundle} are not in the store",
    )
    table.write_text("\n".join([head, *(f"x/{row}" for row in rows)]))
    with pytest.raises(UsageError, match="was tested on none of the items"):
        map_store(store, bundle=fitted.bundle)


def test_classes_may_have_the_names_of_what_has_none(tmp_path):
    for number, name in enumerate(("none", RIGHT, WRONG, UNTESTED) * 3):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 20 * number, np.uint8)).save(folder / f"{number}.png")
    store = featx.embed(tmp_path / "photos", "colour", folder=tmp_path).store
    found = map_store(store)
    assert found.pictures.keys() == {"none", RIGHT, WRONG, UNTESTED}
    written = found.write(tmp_path / "map.png")
    assert f"{RIGHT} (3)" in written[1].read_text()


@pytest.mark.parametrize("by", ["split", "group"])
def test_a_store_without_splits_or_groups_is_not_coloured_by_them(store, by):
    with pytest.raises(UsageError, match=f"colour.h5 has no {by}s"):
        map_store(store, by=by)


def test_a_map_replaces_no_other_table(store, tmp_path):
    (tmp_path / "photos.csv").write_text("path,label\n")
    for name, reason in (("photos.png", "is not the table of a map"), ("photos.jpeg", "is not a .png file")):
        with pytest.raises(UsageError, match=reason):
            run(store.path, "--out", tmp_path / name)
    assert (tmp_path / "photos.csv").read_text() == "path,label\n"


def test_a_store_whose_pictures_are_gone_has_a_map_with_names(store, tmp_path):
    moved = featx.FeatureStore(store.path)
    moved.source = str(tmp_path / "gone")
    found = map_store(moved)
    assert not found.pictures
    assert "shows no pictures" in found.notes[0]
    assert found.notes[0].endswith(f"name where they are now: featx map {moved.path} SOURCE")
    assert found.write(tmp_path / "map.png")[0].stat().st_size > 10_000
    with pytest.raises(SourceError):
        map_store(moved, source=str(tmp_path / "gone"))


def test_many_items_are_sampled_and_it_is_said(store, monkeypatch):
    monkeypatch.setattr("featx.report.maps.MOST_POINTS", 50)
    found = map_store(store)
    assert len(found.ids) == len(set(found.ids)) == len(found.points) == 50
    assert found.notes == ("the map shows a sample of 50 of 400 items",)
    assert "50 of 400 items" in found.title
    assert found._repr_png_()


def test_pictures_do_not_cover_each_other():
    anchors = np.array([[100.0, 100.0]] * 4 + [[105.0, 100.0], [300.0, 300.0]])
    places = _push_apart(anchors, np.full((6, 2), (40.0, 50.0)), np.array([[0.0, 0.0], [400.0, 400.0]]))
    gaps = np.abs(places[:, None] - places[None]) - np.array([40, 50])
    gaps[np.arange(6), np.arange(6)] = 1
    assert (gaps.max(axis=2) > -1).all()
    np.testing.assert_allclose(places[5], anchors[5], atol=1)


def test_the_verb_writes_three_files(store, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not run(store.path)
    files = ", ".join(f"maps/colour-pca-label.{kind}" for kind in ("png", "svg", "csv"))
    assert f"-> {files}" in capsys.readouterr().out
    assert not run(store.path, "--json", "--out", tmp_path / "m.png")
    values = json.loads(capsys.readouterr().out)
    assert (values["items"], values["colouring"]) == (400, "coloured by label")
    assert [path.rsplit(".", 1)[1] for path in values["files"]] == ["png", "svg", "csv"]
    with pytest.raises(UsageError, match="choose label, split or group"):
        map_store(store, by="colour")
