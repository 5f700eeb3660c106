"""The examples in the docstrings of stores run and print the documented output."""

import doctest
import shutil

import pytest

import featx

FUNCTIONS = [
    featx.FeatureStore.to_frame,
    featx.embed,
    featx.export_store,
    featx.merge_stores,
    featx.read_export,
    featx.repair_store,
    featx.verify_store,
]


@pytest.fixture
def workplace(tmp_path, monkeypatch, digits, store):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").symlink_to(digits)
    (tmp_path / "features").mkdir()
    shutil.copy(store.path, "features/colour.h5")
    for name in ("lab1.h5", "lab2.h5"):
        shutil.copy(store.path, name)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_an_example_prints_the_documented_output(workplace, function, capsys):
    (example,) = doctest.DocTestFinder().find(function, function.__name__, globs={})
    assert example.examples
    failed = doctest.DocTestRunner().run(example).failed
    assert not failed, capsys.readouterr().out
