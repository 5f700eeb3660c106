"""Presets of keras-hub, as far as they need no keras-hub."""

import json
import zipfile
from pathlib import Path

import pytest

from featx.backbones.presets import (
    FAMILIES,
    check_settings,
    describe_place,
    digest_preset,
    is_local,
    pack_preset,
    unpack_preset,
)
from featx.errors import BackboneError

PAGE = Path(__file__).parents[2] / "docs/keras-hub.md"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "preset"
    folder.mkdir()
    config = {"class_name": "ViTBackbone", "registered_name": "keras_hub>ViTBackbone", "config": {"num_layers": 2}}
    (folder / "config.json").write_text(json.dumps({**config, "module": "keras_hub.src.models.vit.vit_backbone"}))
    (folder / "model.weights.h5").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("not of a network for images")
    return folder


def test_the_page_has_every_family_with_its_licence():
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in PAGE.read_text().splitlines()}
    for family in FAMILIES.values():
        assert f"| {family.year} | {family.licence} |" in rows[family.title]


def test_a_preset_is_packed_and_unpacked_without_other_files(folder, tmp_path):
    assert check_settings(folder) == "ViTBackbone"
    pack_preset(folder, tmp_path / "backbone.zip")
    (tmp_path / "again").mkdir()
    unpack_preset(tmp_path / "backbone.zip", tmp_path / "again")
    assert {path.name for path in (tmp_path / "again").iterdir()} == {"config.json", "model.weights.h5"}
    assert digest_preset(tmp_path / "again") == digest_preset(folder)
    (folder / "model.weights.h5").write_bytes(b"others")
    assert digest_preset(tmp_path / "again") != digest_preset(folder)
    assert digest_preset(tmp_path / "again", settings_only=True) == digest_preset(folder, settings_only=True)


@pytest.mark.parametrize("name", ["../config.json", "config.py", "model.pkl"])
def test_a_zip_file_of_anything_else_is_refused(name, tmp_path):
    with zipfile.ZipFile(tmp_path / "backbone.zip", "w") as archive:
        archive.writestr(name, "{}")
    (tmp_path / "inside").mkdir()
    with pytest.raises(BackboneError, match="is not a zip file of a keras-hub preset"):
        unpack_preset(tmp_path / "backbone.zip", tmp_path / "inside")
    assert not list((tmp_path / "inside").iterdir())


def test_only_what_cannot_change_unnoticed_is_kept_in_the_cache(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert [is_local(name) for name in ("preset", "./gone", "~/x", "dinov2_small", "hf://a/b")] == [True] * 3 + [
        False
    ] * 2
    before = describe_place("preset")
    assert before.startswith(str(folder))
    (folder / "image_converter.json").write_text("{}")
    assert describe_place("preset") != before
    assert describe_place("hf://user/model") is None  # its author may replace it
    assert describe_place("dinov2_small") is not None  # its version is that of keras-hub
