import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import featx
from featx.audit.auditing import audit_store, write_audit
from featx.audit.labels import find_outliers
from featx.cli.app import app
from featx.errors import SourceError


@pytest.fixture(scope="module")
def found(flawed_store):
    return audit_store(flawed_store)


def list_ids(found, kind):
    return {finding.id for finding in found.list_kind(kind)}


def test_equal_files_are_copies(found):
    assert list_ids(found, "copy") == {"light/01.png", "light/same.png"}


def test_a_picture_that_was_saved_again_is_a_near_copy(found):
    names = ("00.png", "saved.jpg", "small.jpg", "cropped.jpg", "brighter.jpg", "mirrored.jpg")
    assert list_ids(found, "near-copy") >= {f"dark/{name}" for name in names}
    groups = {finding.group for finding in found.list_kind("near-copy") if finding.id.startswith("dark/")}
    assert groups == {"dark/00.png"}
    assert {finding.suggestion for finding in found.list_kind("near-copy")} == {"group"}


def test_a_group_of_copies_is_one_line_and_a_notebook_shows_it(found):
    (line,) = found.list_lines("copy")
    assert line[:2] == ("light/01.png = light/same.png", "group")
    assert found.describe_kind("near-copy", 5) == "near-copy: 6 pictures in 1 group"
    assert found.list_lines("near-copy")[0][0].endswith(" and 2 more")
    assert len(repr(found)) < 300
    html = found._repr_html_()
    assert "light/01.png = light/same.png" in html
    assert html.count("<img") > 5
    assert f"featx audit {found.store}" in html


def test_captions_say_what_was_measured(found):
    captions = {finding.id: finding.format_caption() for finding in found.findings if finding.kind in {"blank", "tiny"}}
    assert captions == {"dark/blank.png": "0.0 grey levels", "dark/tiny.png": "20 x 20 px"}


def test_a_wrong_label_is_suspicious(found):
    (finding,) = [one for one in found.list_kind("suspicious label") if one.id == "dark/wrong.png"]
    assert finding.suggestion == "label light"
    assert 0.5 < finding.score <= 1


def test_odd_pictures_are_found(found):
    assert "dark/blank.png" in list_ids(found, "blank")
    assert list_ids(found, "tiny") == {"dark/tiny.png"}
    assert list_ids(found, "odd shape") == {"light/long.png"}


def test_a_label_that_follows_from_the_colour_is_a_shortcut(found):
    strong = {shortcut.what for shortcut in found.shortcuts if shortcut.is_strong}
    assert "mean colour" in strong
    assert "shape" not in strong
    for shortcut in found.shortcuts:
        assert shortcut.low <= shortcut.accuracy <= shortcut.high


def test_an_outlier_is_far_from_all_others(digits, tmp_path):
    shutil.copytree(digits, tmp_path / "digits")
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "digits" / "0" / "noise.png")
    found = find_outliers(featx.embed(tmp_path / "digits", "colour", folder=tmp_path / "features").store)
    assert found[0].id == "0/noise.png"
    assert len(found) < 20


def test_the_files_are_written(found, flawed_store, tmp_path):
    written = write_audit(found, tmp_path / "audit")
    with written[0].open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["kind"]) for row in rows] == [(one.id, one.kind) for one in found.findings]
    assert found.to_frame().shape == (len(found), 6)
    assert json.loads(written[1].read_text())["counts"] == found.count()
    for path in written[2:]:
        with Image.open(path) as image:
            assert image.width > 100


def test_the_verb_prints_what_it_found(flawed_store, tmp_path, capsys):
    out = tmp_path / "out"
    assert not app(["audit", str(flawed_store.path), "--out", str(out)], standalone_mode=False)
    printed = capsys.readouterr().out
    assert "near-copy: " in printed
    assert "label light" in printed
    assert "label predicted from" in printed
    assert (out / "near-copy.png").exists()
    assert not app(["audit", str(flawed_store.path), "--json", "--out", str(out)], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["counts"]["copy"] == 2


def test_pictures_that_are_gone_are_an_error(flawed, tmp_path):
    shutil.copytree(flawed, tmp_path / "moved")
    store = featx.embed(tmp_path / "moved", "colour", folder=tmp_path / "features").store
    shutil.move(tmp_path / "moved", tmp_path / "elsewhere")
    with pytest.raises(SourceError, match=r"does not exist.* where they are now: featx audit .*colour.h5 SOURCE"):
        audit_store(store)
    assert audit_store(store, source=tmp_path / "elsewhere").count()["tiny"] == 1


def test_a_folder_without_the_pictures_is_an_error(flawed_store, digits):
    with pytest.raises(SourceError, match=r"none of the 50 pictures of .* name the folder .*: featx audit .* SOURCE"):
        audit_store(flawed_store, source=digits)


def test_a_picture_that_is_gone_is_unreadable(flawed, tmp_path):
    shutil.copytree(flawed, tmp_path / "moved")
    store = featx.embed(tmp_path / "moved", "colour", folder=tmp_path / "features").store
    (tmp_path / "moved" / "light" / "03.png").unlink()
    found = audit_store(store)
    assert [(one.id, one.suggestion) for one in found.list_kind("unreadable")] == [("light/03.png", "check")]
    assert "light/03.png" not in list_ids(found, "near-copy") | list_ids(found, "blank")


def test_unlabelled_items_are_audited_without_their_labels(flawed, tmp_path):
    for number, path in enumerate(sorted(flawed.rglob("*.png"))[:6]):
        shutil.copy(path, tmp_path / f"{number}.png")
    store = featx.embed(tmp_path, "colour", folder=tmp_path / "features").store
    found = audit_store(store)
    assert any("labels were not examined" in note for note in found.notes)
    assert not found.shortcuts
    assert np.isfinite([finding.score for finding in found.findings]).all()
