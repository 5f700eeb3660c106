"""Stores in which one picture occurs many times, such as one that says that no image is available."""

import shutil

import numpy as np
import pytest
from PIL import Image

import featx
from featx.audit.auditing import audit_store, write_audit
from featx.audit.labels import find_outliers
from featx.errors import UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty different pictures of two classes, and thirty of one file that lies in three."""
    folder = tmp_path_factory.mktemp("placeholders")
    generator = np.random.default_rng(0)
    for number in range(40):
        path = folder / "photos" / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(generator.integers(256, size=(6, 6, 3), dtype=np.uint8))
        coarse.resize((48, 40), Image.Resampling.BICUBIC).save(path)
    for number in range(30):
        path = folder / "photos" / "abc"[number % 3] / f"same{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "photos" / "a" / "00.png", path)
    Image.open(folder / "photos" / "a" / "00.png").resize((24, 20)).save(folder / "photos" / "a" / "small.png")
    return folder


@pytest.fixture(scope="module")
def store(folder):
    return featx.embed(featx.read_folder(folder / "photos"), "colour", folder=folder).store


def test_many_equal_files_are_copies_and_not_too_many_pairs(store, monkeypatch):
    monkeypatch.setattr("featx.audit.near_copies.MOST_PAIRS", 100)
    found = audit_store(store)
    assert found.count()["copy"] == 31
    near = found.list_kind("near-copy")
    assert {finding.id for finding in near} >= {"a/small.png", "a/00.png", "c/same02.png"}
    assert len(near) == 32
    assert len({finding.group for finding in near}) == 1


def test_a_constant_property_is_not_a_shortcut(store):
    shortcuts = {shortcut.what: shortcut for shortcut in audit_store(store).shortcuts}
    assert not shortcuts["shape"].is_strong
    assert shortcuts["shape"].baseline >= 0.5


def test_different_pictures_are_not_outliers_of_the_equal_ones(store):
    found = find_outliers(store)
    assert len(found) < 10
    assert not any("-0.0" in finding.detail for finding in found)


def test_a_picture_that_changed_since_it_was_embedded_is_named(folder, store, tmp_path):
    shutil.copytree(folder / "photos", tmp_path / "photos")
    Image.new("RGB", (48, 40), (9, 200, 9)).save(tmp_path / "photos" / "b" / "01.png")
    (note,) = [note for note in audit_store(store, source=tmp_path / "photos").notes if "changed" in note]
    assert note == "1 picture changed since it was embedded: b/01.png; type featx embed again"


def test_what_was_edited_is_not_overwritten(store, tmp_path):
    found = audit_store(store)
    write_audit(found, tmp_path)
    (tmp_path / "blur.png").write_bytes(b"of an earlier audit")
    write_audit(found, tmp_path)
    assert ("blur" in found.count()) == (tmp_path / "blur.png").exists()
    lines = (tmp_path / "audit.csv").read_text().splitlines()
    (tmp_path / "audit.csv").write_text("\n".join(lines[:3]))
    with pytest.raises(UsageError, match=r"audit.csv was edited since featx audit wrote it; .*--overwrite"):
        write_audit(found, tmp_path)
    assert len((tmp_path / "audit.csv").read_text().splitlines()) == 3
    write_audit(found, tmp_path, overwrite=True)
    assert (tmp_path / "audit.csv").read_text().splitlines() == lines
