"""`featx merge` and `featx export`, as a user types them."""

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from pictures import write_digits

import featx
from featx.cli.export import export
from featx.cli.merge import merge
from featx.store.journal import Journal


@pytest.fixture
def embedded(featx_command, tmp_path):
    """Two folders with twelve pictures in common, each embedded into a store of its name."""
    write_digits(tmp_path / "lab1", per_class=3, classes=4)
    write_digits(tmp_path / "lab2", per_class=4, classes=4)
    for name in ("lab1", "lab2"):
        assert featx_command("embed", name, "--backbone", "colour", "--name", name).code == 0
    return [f"features/{name}.h5" for name in ("lab1", "lab2")]


def test_merge_says_what_it_joined(featx_command, embedded):
    result = featx_command("merge", *embedded, "--name", "all")
    assert (result.code, result.out, result.err) == (
        0,
        "16 items from 2 stores; 12 that were in several stores are kept once -> features/all.h5\n",
        "",
    )
    assert json.loads(featx_command("info", "features/all.h5", "--json").out)["items"] == 16


def test_merge_json(featx_command, embedded, tmp_path):
    arguments = ["--name", "all.h5", "--features", "elsewhere", "--prefix", "--json"]
    values = json.loads(featx_command("merge", *embedded, embedded[0], *arguments).out)
    assert values == {
        "store": "elsewhere/all.h5",
        "items": 28,
        "stores": 2,
        "quarantined": 0,
        "shared": 0,
        "copies": 12,
        "dim": 240,
        "source": f"{tmp_path}/lab1; {tmp_path}/lab2",
    }
    assert featx.FeatureStore("elsewhere/all.h5").ids[0].startswith("lab1/0/digit-")


def test_unfinished_work_next_to_a_store_gets_a_note(featx_command, embedded):
    store = featx.FeatureStore(embedded[1])
    journal = Journal(store.path, store.spec, store.dim, lambda: None, store.golden)
    journal.append("0" * 64, 8, 8, np.ones(store.dim, np.float32))
    journal.commit()
    result = featx_command("merge", *embedded, "--name", "all")
    assert result.code == 0
    assert result.err == (
        "note: features/lab2.h5.parts holds unfinished work, which is not merged; "
        "to include it, finish that embed first\n"
    )


@pytest.mark.parametrize("ending", ["npz", "parquet", "csv"])
def test_export_says_what_it_wrote(featx_command, embedded, ending):
    result = featx_command("export", embedded[0], f"out.{ending}")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("12 items, 240 float32 each, ")
    assert result.out.endswith(f" -> out.{ending}\n")
    features = featx.read_export(f"out.{ending}").features
    assert features.tobytes() == featx.FeatureStore(embedded[0]).features.tobytes()
    assert featx_command("export", embedded[0], f"out.{ending}").code == 1
    values = json.loads(featx_command("export", embedded[1], f"out.{ending}", "--overwrite", "--json").out)
    size = Path(f"out.{ending}").stat().st_size
    about = {"store": embedded[1], "export": f"out.{ending}", "items": 16, "dim": 240, "dtype": "float32"}
    assert values == {**about, "file_bytes": size}


@pytest.mark.parametrize(
    ("arguments", "code", "pattern"),
    [
        (["merge", "features/lab1.h5", "--name", "all"], 2, "merge needs at least two different stores"),
        (["merge", "features/lab1.h5", "features/lab2.h5"], 2, "--name"),
        (["merge", "features/lab1.h5", "features/lab2.h5", "--name", "lab1"], 1, "features/lab1.h5 exists"),
        (["merge", "features/lab1.h5", "gone.h5", "--name", "all"], 1, "there is no store gone.h5"),
        (["merge", "features/lab1.h5", "lab1", "--name", "all"], 1, "lab1 is not a feature store"),
        (["export"], 2, "name a store and a file"),
        (["export", "features/lab1.h5"], 2, "name a store and a file"),
        (["export", "gone", "--to", "onxx"], 2, "did you mean onnx?"),
        (["export", "features/lab1.h5", "out.xlsx"], 2, ".npz, .parquet, .csv"),
        (["export", "features/lab1.h5", "none/out.csv"], 1, "there is no folder none"),
        (["export", "gone.h5", "out.csv"], 1, "there is no store gone.h5"),
    ],
)
def test_usage_errors(featx_command, embedded, arguments, code, pattern):
    result = featx_command(*arguments)
    (error,) = result.err.splitlines()
    assert result.code == code
    assert error.startswith("error: ")
    assert pattern in error


def test_a_bundle_needs_a_format(featx_command, embedded):
    bundle = json.loads(featx_command("fit", embedded[1], "--json").out)["bundle"]
    result = featx_command("export", bundle, "out.npz")
    assert result.code == 2
    assert result.err.startswith(f"error: {bundle} is a bundle; say what to export it to, such as featx export ")


def test_the_command_does_what_the_library_does():
    for command, library in ((merge, featx.merge_stores), (export, featx.export_store)):
        defaults = inspect.signature(library).parameters
        for name in ("prefix", "overwrite"):
            if name in defaults:
                assert inspect.signature(command).parameters[name].default == defaults[name].default
    features = inspect.signature(merge).parameters["features"].default
    assert str(features) == inspect.signature(featx.embed).parameters["folder"].default
