"""Rows of another store of the folder are copied, if they are of the same spec, sound and reproducible."""

import logging

import numpy as np
import pytest
from runs import draw, load_counter, make_folder

from featx import FeatureStore, embed
from featx.store.layout import digest_block


@pytest.fixture
def first(pictures, features):
    return embed(pictures, "colour", image={"height": 8, "width": 8}, name="first", folder=features)


def embed_again(pictures, features, **options):
    network = load_counter()
    return embed(pictures, network, name="second", folder=features, **options), network.images


def test_a_second_name_embeds_nothing_again(first, pictures, features):
    second, n_embedded = embed_again(pictures, features)
    assert n_embedded == 2  # the golden pictures
    assert (second.new, second.cached, second.copied) == (0, 10, 10)
    assert np.array_equal(second.store.features, first.store.features)
    assert second.store.ids.tolist() == first.store.ids.tolist()
    assert second.store.embed_seconds >= first.store.embed_seconds
    assert second.store.runtime == first.store.runtime
    again, _ = embed_again(pictures, features)
    assert (again.cached, again.copied) == (10, 0)


def test_what_is_new_is_embedded_and_what_is_elsewhere_is_not_added(first, pictures, features, tmp_path):
    part = make_folder(tmp_path / "part" / "cat")
    for path in sorted((pictures / "cat").iterdir())[:2]:
        (part / path.name).write_bytes(path.read_bytes())
    draw(part / "new.png", 99)
    second, n_embedded = embed_again(tmp_path / "part", features)
    assert n_embedded == 2 + 1
    assert (second.new, second.cached, second.copied, len(second.store)) == (1, 2, 2, 3)


@pytest.mark.parametrize("change", ["dtype", "damage", "golden", "text"])
def test_other_numbers_and_damaged_stores_are_not_copied(first, pictures, features, change, monkeypatch):
    path = first.store.path
    options = {"dtype": "float16"} if change == "dtype" else {}
    if change == "damage":
        content = bytearray(path.read_bytes())
        at = content.find(np.ascontiguousarray(first.store.features[3]).tobytes())
        content[at] ^= 1
        path.write_bytes(content)
    if change == "golden":
        monkeypatch.setattr("featx.store.copying.measure_drift", lambda *_: 1.0)
    if change == "text":
        path.write_text("not HDF5")
    second, n_embedded = embed_again(pictures, features, **options)
    assert n_embedded == 2 + 10
    assert (second.new, second.copied) == (10, 0)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr("featx.store.layout.BLOCK_BYTES", 3 * 4 * 240)


def test_the_sound_rows_of_a_damaged_store_are_copied(small_blocks, first, pictures, features):
    content = bytearray(first.store.path.read_bytes())
    content[content.find(first.store.features[4].tobytes())] ^= 1
    first.store.path.unlink()  # what was opened stays as it was
    first.store.path.write_bytes(content)
    second, n_embedded = embed_again(pictures, features)
    assert (n_embedded, second.new, second.copied) == (2 + 3, 3, 7)
    assert np.array_equal(second.store.features, first.store.features)
    assert second.store.find_damage() == []


@pytest.mark.parametrize("n_copied", [0, 1])
def test_only_the_blocks_of_rows_that_are_copied_are_read(
    small_blocks, first, pictures, features, tmp_path, monkeypatch, n_copied
):
    part = make_folder(tmp_path / "part" / "cat")
    for path in sorted((pictures / "cat").iterdir())[:n_copied]:
        (part / path.name).write_bytes(path.read_bytes())
    draw(part / "new.png", 99)
    read = []

    def count(rows):
        read.append(len(rows))
        return digest_block(rows)

    monkeypatch.setattr("featx.store.shards.digest_block", count)
    second, _ = embed_again(tmp_path / "part", features)
    assert (second.new, second.copied, read) == (1, n_copied, [3] * n_copied)


class Constant:
    """A backbone that returns the same features for every image."""

    def __init__(self, value):
        self._network, self._value = load_counter(), value

    def __getattr__(self, name):
        return getattr(self._network, name)

    def embed(self, images):
        return tuple(np.full_like(rows, self._value) for rows in self._network.embed(images))


@pytest.mark.parametrize(("value", "word"), [(0, "zero"), (3, "equal")])
def test_features_that_are_the_same_for_all_items_are_reported(pictures, features, caplog, value, word):
    with caplog.at_level(logging.WARNING, "featx"):
        store = embed(pictures, Constant(value), folder=features).store
    assert f"the features of all 10 items of {store.path} are {word}, so nothing can tell" in caplog.text
    assert store.describe_uniform() in caplog.text


def test_features_that_differ_or_are_of_one_image_are_not(first, tmp_path, features, caplog):
    draw(tmp_path / "one" / "a" / "0.png", 0)
    store = embed(tmp_path / "one", Constant(0), name="one", folder=features).store
    assert not store.describe_uniform()
    assert not FeatureStore(first.store.path).describe_uniform()
    assert "nothing can tell" not in caplog.text
