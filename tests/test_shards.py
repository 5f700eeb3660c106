"""Shards of a source, embedded one by one and merged, are the store of one run, byte for byte."""

import shutil

import pytest
from pictures import write_digits
from scenarios import read_content
from typer.testing import CliRunner

import featx
from featx.cli.app import app
from featx.errors import StoreError, UsageError
from featx.items.sources import read_source_again


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Digits in the splits train and test, some of them twice, and files that cannot be decoded."""
    folder = tmp_path_factory.mktemp("source")
    write_digits(folder / "train", per_class=5, classes=3)
    write_digits(folder / "test", per_class=2, classes=3, skip=5)
    first = min((folder / "train/0").iterdir())
    shutil.copy(first, folder / "train/2/again.png")
    shutil.copy(first, folder / "test/1/again.png")
    for place in ("train/0", "train/2", "test/2"):
        (folder / place / "broken.png").write_bytes(b"not a picture")
    return folder


def embed_shards(source, folder, count, name="s"):
    manifest = featx.read_source(source)
    return [
        featx.embed(featx.take_shard(manifest, number, count), "colour", name=name, folder=folder).store
        for number in range(1, count + 1)
    ]


@pytest.mark.parametrize("count", [2, 5, 26])
def test_merged_shards_are_the_store_of_one_run(source, tmp_path, count):
    whole = featx.embed(source, "colour", name="s", folder=tmp_path / "whole").store
    shards = embed_shards(source, tmp_path, count)
    assert shards[1].path.name == f"s.shard-{2:0{len(str(count))}d}-of-{count}.h5"
    merged = featx.merge_stores(reversed(shards), tmp_path / "s.h5")
    assert read_content(merged.path) == read_content(whole.path)
    assert (merged.source, merged.reading) == (whole.source, whole.reading)
    again = featx.embed(source, "colour", name="s", folder=tmp_path)
    assert (again.new, again.cached, again.quarantined) == (0, len(whole), 3)
    assert read_content(merged.path) == read_content(whole.path)


def test_a_shard_that_is_missing_is_said(source, tmp_path):
    first, second, *_ = embed_shards(source, tmp_path, 4)
    with pytest.raises(StoreError, match=r"shards 3, 4 of 4 are missing; .* --shard 3/4"):
        featx.merge_stores([first, second], tmp_path / "all.h5")


def test_shards_of_a_source_that_changed_are_not_merged(pictures, tmp_path):
    first, _ = embed_shards(pictures, tmp_path, 2)
    shutil.copy(min((pictures / "cat").iterdir()), pictures / "cat/new.png")
    _, second = embed_shards(pictures, tmp_path / "later", 2)
    with pytest.raises(StoreError, match="the source had 10 or 11 when"):
        featx.merge_stores([first, second], tmp_path / "all.h5")


def test_shards_and_other_stores_are_not_merged(source, pictures, tmp_path):
    other = featx.embed(pictures, "colour", folder=tmp_path).store
    with pytest.raises(UsageError, match="not the shards of one source"):
        featx.merge_stores([*embed_shards(source, tmp_path, 2), other], tmp_path / "all.h5")


def test_a_shard_reads_its_own_items_again(source):
    manifest = featx.take_shard(featx.read_source(source), 2, 3)
    assert read_source_again(manifest.source, manifest.reading).items == manifest.items


@pytest.mark.parametrize(("shard", "message"), [("5/4", "no shard 5/4"), ("0/4", "no shard 0/4"), ("11/11", "only 10")])
def test_a_shard_that_does_not_exist_is_refused(pictures, shard, message):
    with pytest.raises(UsageError, match=message):
        featx.take_shard(featx.read_source(pictures), *map(int, shard.split("/")))


def test_the_command_line_embeds_shards_and_merges_them(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for shard in ("1/2", "2/2"):
        done = CliRunner().invoke(
            app, ["embed", str(source), "--backbone", "colour", "--shard", shard, "--max-bad", "1"]
        )
        assert done.exit_code == 0, done.output
    shards = sorted(map(str, (tmp_path / "features").glob("colour.shard-*.h5")))
    merged = CliRunner().invoke(app, ["merge", *shards, "--name", "colour"])
    assert "-> features/colour.h5" in merged.output
    refused = CliRunner().invoke(app, ["embed", str(source), "--shard", "2 of 3"])
    assert refused.exit_code == 2
