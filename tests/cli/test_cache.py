import json

import pytest

from featx.backbones import cache


def save(path):
    path.write_text("<net/>")
    path.with_suffix(".bin").write_bytes(bytes(2_000_000))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATX_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept" / "networks"


def test_networks_are_listed_and_removed(featx_command, folder):
    assert f"{folder} holds no networks" in featx_command("cache").out
    cache.write_entry("a", {"request": "mobilenet?alpha=0.25"}, "", save)
    listed = featx_command("cache").out
    assert "mobilenet?alpha=0.25" in listed
    assert "2.0" in listed
    assert "today" in listed
    (row,) = json.loads(featx_command("cache", "--json").out)["networks"]
    assert (row["backbone"], row["folder"]) == ("mobilenet?alpha=0.25", str(folder / "a"))
    assert "removed 0 of 1 networks" in featx_command("cache", "--prune", "30").out
    assert "removed 1 of 1 networks" in featx_command("cache", "--prune", "0").out
    assert list(folder.iterdir()) == []


def test_a_cache_that_is_off_is_not_looked_for_in_a_folder_of_that_name(featx_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEATX_CACHE", "off")
    kept = tmp_path / "off" / "networks" / "mine"
    kept.mkdir(parents=True)
    done = featx_command("cache", "--prune", "0")
    assert done.code == 2
    assert "FEATX_CACHE is off, so no networks are kept" in done.err
    assert kept.is_dir()
