import json

import pytest

from featx import remote
from featx.backbones import cache
from featx.errors import SourceError


def save(path):
    path.write_text("<net/>")
    path.with_suffix(".bin").write_bytes(bytes(2_000_000))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATX_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept" / "networks"


def test_networks_are_listed_and_removed(featx_command, folder):
    assert f"{folder.parent} holds nothing" in featx_command("cache").out
    cache.write_entry("a", {"request": "mobilenet?alpha=0.25"}, "", save)
    listed = featx_command("cache").out
    assert "mobilenet?alpha=0.25" in listed
    assert "2.0" in listed
    assert "today" in listed
    (row,) = json.loads(featx_command("cache", "--json").out)["networks"]
    assert (row["backbone"], row["folder"]) == ("mobilenet?alpha=0.25", str(folder / "a"))
    assert "removed 0 of 1 networks and copies" in featx_command("cache", "--prune", "30").out
    assert "removed 1 of 1 networks and copies" in featx_command("cache", "--prune", "0").out
    assert list(folder.iterdir()) == []


def test_copies_of_what_is_at_urls_are_listed_and_removed(featx_command, folder, tmp_path):
    (tmp_path / "t.csv").write_text("path,label\n")
    bundle = tmp_path / "run"
    bundle.mkdir()
    (bundle / "bundle.json").write_text('{"files": {}}')
    remote.fetch_file(put_into_memory(tmp_path / "t.csv"), SourceError)
    put_into_memory(bundle / "bundle.json", "run/bundle.json")
    remote.fetch_bundle("memory://run", "bundle.json")
    listed = featx_command("cache").out
    rows = [line.split()[:2] for line in listed.splitlines() if line.startswith("copy")]
    assert sorted(rows) == [["copy", "run"], ["copy", "t.csv"]]
    rows = json.loads(featx_command("cache", "--json").out)["copies"]
    assert sorted((row["file"], row["bytes"]) for row in rows) == [("run", 13), ("t.csv", 11)]
    assert "removed 2 of 2 networks and copies" in featx_command("cache", "--prune", "0").out
    assert list((folder.parent / "remote").iterdir()) == []


def put_into_memory(path, name=""):
    import fsspec

    fsspec.filesystem("memory").pipe_file(f"/{name or path.name}", path.read_bytes())
    return f"memory://{name or path.name}"


def test_a_cache_that_is_off_is_not_looked_for_in_a_folder_of_that_name(featx_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEATX_CACHE", "off")
    kept = tmp_path / "off" / "networks" / "mine"
    kept.mkdir(parents=True)
    done = featx_command("cache", "--prune", "0")
    assert done.code == 2
    assert "FEATX_CACHE is off, so no networks are kept" in done.err
    assert kept.is_dir()
