import json
import shutil

import numpy as np
import pytest
from PIL import Image

import featx
from featx.cli.app import app
from featx.errors import SourceError, SpecMismatchError, UsageError
from featx.items.sources import find_reader
from featx.report.similar import find_similar


def run(*arguments):
    return app(["similar", *map(str, arguments)], standalone_mode=False)


def test_the_same_file_comes_first_and_a_bad_picture_has_a_reason(store, digits, tmp_path):
    name = str(store.ids[7])
    (tmp_path / "bad.png").write_text("no picture")
    first, bad, last = find_similar(store, [digits / name, tmp_path / "bad.png", digits / str(store.ids[9])], top=3)
    assert first.ids[0] == name
    assert first.similarities[0] == pytest.approx(1, abs=1e-6)
    assert list(first.same_file) == [True, False, False]
    assert first.labels[0] == store.labels[7]
    assert "not an image" in bad.error
    assert last.ids[0] == store.ids[9]
    rows, similarities = store.nearest(store.features[[7]], 3)
    assert list(first.ids) == store.ids[rows[0]].tolist()
    np.testing.assert_allclose(first.similarities, similarities[0], atol=1e-6)


def test_ids_of_the_store_need_no_network(store, monkeypatch):
    monkeypatch.setattr("featx.report.similar.rebuild_backbone", None)
    found = find_similar(store.path, [str(store.ids[3]), str(store.ids[0])])
    assert [one.ids[0] for one in found] == [store.ids[3], store.ids[0]]
    assert len(found[0].ids) == 10
    assert len(repr(found)) < 300
    assert repr(found[0]).startswith(f"Similar({str(store.ids[3])!r}: {store.ids[3]} 1.000, ")
    assert found._repr_html_().count("<img") == 20


def test_pictures_in_memory_and_stores_with_views_are_embedded_alike(digits, tmp_path):
    few = featx.read_folder(digits, options=featx.SourceOptions(only=["class=0", "class=1"]))
    store = featx.embed(few, "colour", views=2, augmentation="light", folder=tmp_path, dtype="float16").store
    with Image.open(digits / str(store.ids[5])) as picture:
        found = find_similar(store, [np.asarray(picture.convert("RGB")), str(store.ids[5])], top=2)
    assert [one.image for one in found] == [store.ids[5], "image 0"]
    (path,) = find_similar(store, digits / str(store.ids[5]), top=1)
    assert path.similarities[0] == pytest.approx(1, abs=1e-4)  # the same views, which the sha256 decides


def test_the_verb_answers_in_a_table_json_and_a_sheet(store, digits, tmp_path, capsys):
    (tmp_path / "bad.png").write_text("no picture")
    sheet = tmp_path / "new" / "sheet.png"
    assert not run(store.path, digits / str(store.ids[0]), tmp_path / "bad.png", "--top", 4, "--out", sheet)
    printed = capsys.readouterr().out
    assert printed.count("the same file") == 1
    assert "bad.png: not an image" in printed
    with Image.open(sheet) as image:
        assert image.width > 3 * image.height  # one row of five
    listed = tmp_path / "list.txt"
    listed.write_text(f"{digits / str(store.ids[0])}\n")
    assert not run(store.path, f"@{listed}", store.ids[1], "--json", "--top", 1)
    values = json.loads(capsys.readouterr().out)
    assert [one["nearest"][0]["id"] for one in values["queries"]] == store.ids[[1, 0]].tolist()
    assert values["queries"][0]["nearest"][0].keys() == {"id", "similarity", "label", "split", "same_file"}


def test_what_cannot_be_answered_is_said(store, tmp_path, digits):
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(SourceError, match=r"none of the images can be read; the first is .*bad.png"):
        run(store.path, tmp_path / "bad.png")
    with pytest.raises(UsageError, match=r"ends in \.png"):
        run(store.path, tmp_path / "bad.png", "--out", "sheet.svg")
    with pytest.raises(SourceError, match="nothing to predict"):
        find_similar(store, [])
    changed = featx.FeatureStore(store.path)
    changed.golden.features[:] += 1
    with pytest.raises(SpecMismatchError, match="this machine does not reproduce"):
        find_similar(changed, digits / str(store.ids[0]))


def test_pictures_that_were_moved_are_found_by_source(store, digits, tmp_path, capsys):
    shutil.copytree(digits, tmp_path / "moved")
    moved = featx.FeatureStore(store.path)
    moved.source = str(tmp_path / "gone")
    with pytest.raises(SourceError, match="does not exist"):
        find_reader(moved.source, moved.reading, "0/a.png")
    assert not run(store.path, store.ids[0], "--out", tmp_path / "a.png", "--source", tmp_path / "moved")
    assert "a.png" in capsys.readouterr().out


def test_a_reader_needs_no_listing_where_the_item_is(store, monkeypatch):
    monkeypatch.setattr("featx.items.sources.read_source_again", None)
    assert find_reader(store.source, store.reading, str(store.ids[0])).read(str(store.ids[0]))


def test_a_table_finds_its_pictures_beside_it(digits, store, monkeypatch):
    monkeypatch.setattr("featx.items.sources.read_source_again", None)
    reader = find_reader(str(digits / "labels.csv"), {}, str(store.ids[0]))
    assert reader.stat(str(store.ids[0])).size_bytes
