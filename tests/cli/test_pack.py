"""The life of a store whose features are in shards, beside that of one file."""

import json
import shutil

import h5py
import numpy as np
import pytest

from featx import FeatureStore, read_export
from featx.store import sharding


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch):
    monkeypatch.setattr(sharding, "LEAST_RUN", 20)


def read_content(path):
    """Read every dataset of a store."""
    content = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, found: content.update({name: found[()]}) if hasattr(found, "dtype") else None)
    return content


def test_an_index_serves_as_one_file_would_and_becomes_it(featx_command, digits, tmp_path):
    def run(*arguments):
        result = featx_command(*arguments)
        assert result.code == 0, result.err
        return result

    pictures, late = tmp_path / "pictures", sorted(digits.rglob("*.png"))[5::13]
    shutil.copytree(digits, pictures, ignore=shutil.ignore_patterns(*(path.name for path in late)))
    embed = ("embed", pictures, "--backbone", "colour", "--name", "s")
    first = run(*embed, "--index-above", "1kB")
    assert "features/s.h5 becomes an index: its features of " in first.err
    assert "run `featx pack`" not in first.err
    for path in late:
        shutil.copy(path, pictures / path.parent.name)
    again = run(*embed)
    assert "becomes an index" not in again.err
    assert f"{len(late):,} new, {400 - len(late):,} cached" in again.out
    run("embed", pictures, "--backbone", "colour", "--name", "s", "--features", "plain")
    for part in ("1/2", "2/2"):
        run("embed", pictures, "--backbone", "colour", "--name", "m", "--features", "m", "--shard", part)
    parts = ("m/m.shard-1-of-2.h5", "m/m.shard-2-of-2.h5")
    run("merge", *parts, "--name", "m", "--features", "m", "--index-above", "1kB")
    index, plain, merged = (FeatureStore(path) for path in ("features/s.h5", "plain/s.h5", "m/m.h5"))
    assert (index.is_index, plain.is_index, merged.is_index) == (True, False, True)
    assert {path.stat().st_ino for path in tmp_path.glob("m/m.h5.shards/*")} == {
        (tmp_path / part).stat().st_ino for part in parts
    }
    assert np.array_equal(merged.features, plain.features)
    assert f"in {len(index.list_shards())} shards)" in run("info", "features/s.h5").out
    assert run("verify", "features/s.h5").out.startswith("features/s.h5: sound; 400 items, ")
    fits = [json.loads(run("fit", store.path, "--clf", "ridge", "--json").out)["test"] for store in (index, plain)]
    assert fits[0] == fits[1]
    run("export", "features/s.h5", "out.npz")
    assert np.array_equal(read_export("out.npz").features, plain.features)
    refused = featx_command("publish", "features/s.h5", "memory://bucket/s.h5")
    assert refused.code == 1
    assert "make one file of it with `featx pack features/s.h5`, and publish that" in refused.err

    assert run("pack", "features/s.h5").out.endswith(" -> features/s.h5\n")
    assert run("pack", "features/s.h5").out == "features/s.h5: one file already\n"
    assert json.loads(run("pack", "m/m.h5", "--json").out)["shards"] == 2
    expected = read_content("plain/s.h5")
    for path in ("features/s.h5", "m/m.h5"):
        found = read_content(path)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
        assert not FeatureStore(path).find_damage()
    assert sorted(path.name for path in tmp_path.glob("features/*")) == ["s.h5"]
