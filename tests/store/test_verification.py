import numpy as np
import pytest

from featx.errors import StoreError, StoreFormatError, StoreLockedError
from featx.store import FeatureStore
from featx.store.feature_store import Damage
from featx.store.lock import StoreLock
from featx.store.verification import drop_damage, verify_store

BAD = [("bad.png", "", "cannot be read")]


@pytest.fixture
def store(maker, monkeypatch):
    """Ten rows in blocks of three."""
    monkeypatch.setattr("featx.store.layout.BLOCK_BYTES", 3 * 4 * maker.dim)
    return maker.seal(range(10), quarantine=BAD)


def flip(path, pattern):
    data = bytearray(path.read_bytes())
    data[data.index(pattern)] ^= 1
    path.write_bytes(data)


def test_a_sound_store_is_found_sound(store):
    found = verify_store(store.path)
    assert found.damage == ()
    assert not found.lost.any()
    assert found.to_dict() == {"store": str(store.path), "items": 10, "sound": True, "lost": 0, "damage": []}


def test_progress_counts_the_rows(store):
    seen = []
    verify_store(store.path, lambda done, total: seen.append((done, total)))
    assert seen == [(3, 10), (6, 10), (9, 10), (10, 10)]


def test_each_damaged_block_is_named_with_its_items(store, maker):
    flip(store.path, maker.make_row(4).tobytes())
    flip(store.path, maker.make_row(9).tobytes())
    flip(store.path, b"1.png")
    found = verify_store(store.path)
    assert found.damage == (Damage("items", 0, 3), Damage("features", 3, 6), Damage("features", 9, 10))
    assert [found.list_items(damage)[-1] for damage in found.damage[1:]] == ["5.png", "9.png"]
    assert found.lost.tolist() == [True] * 6 + [False] * 3 + [True]
    assert found.to_dict()["lost"] == 7


def test_damage_outside_the_rows_costs_no_row(store):
    flip(store.path, b"cannot be read")
    found = verify_store(store.path)
    assert found.damage == (Damage("quarantine", 0, 1),)
    assert found.list_items(found.damage[0]) == []
    assert not found.lost.any()


def test_dropping_leaves_the_sound_rows_as_they_were(store, maker, list_files):
    flip(store.path, maker.make_row(4).tobytes())
    flip(store.path, b"1.png")
    drop_damage(store.path)
    left = FeatureStore(store.path)
    assert left.find_damage() == []
    assert left.ids.tolist() == ["6.png", "7.png", "8.png", "9.png"]
    assert np.array_equal(left.features, maker.make_rows([6, 7, 8, 9]))
    assert left.quarantine == BAD
    assert left.spec == store.spec
    assert (left.source, left.started_ns, left.golden.files) == (store.source, store.started_ns, store.golden.files)
    assert list_files() == ["made.h5"]
    whole = maker.seal(range(10), new=range(6), quarantine=BAD)  # as the next embed does
    assert np.array_equal(whole.features, maker.make_rows(range(10)))


def test_a_damaged_quarantine_is_emptied(store, maker):
    flip(store.path, b"cannot be read")
    drop_damage(store.path)
    left = FeatureStore(store.path)
    assert left.quarantine == []
    assert np.array_equal(left.features, maker.make_rows(range(10)))


def test_a_sound_store_is_not_written(store):
    before = store.path.stat()
    assert drop_damage(store.path).damage == ()
    assert store.path.stat() == before


def test_a_store_beyond_repair_is_left_as_it_is(maker, store):
    flip(store.path, b"one picture")
    before = store.path.read_bytes()
    with pytest.raises(
        StoreFormatError, match=r"made.h5 cannot be repaired: its golden pictures .*; delete it and embed"
    ):
        drop_damage(store.path)
    assert store.path.read_bytes() == before
    maker.path.unlink()
    maker.seal([1])
    flip(maker.path, maker.make_row(1).tobytes())
    with pytest.raises(StoreFormatError, match=r"made.h5 cannot be repaired: no row is sound; delete it"):
        drop_damage(maker.path)


def test_a_store_that_is_being_written_is_not_repaired(store):
    with StoreLock(store.path), pytest.raises(StoreLockedError, match="is being written by process"):
        drop_damage(store.path)


def test_a_missing_store_is_refused(tmp_path):
    for function in (verify_store, drop_damage):
        with pytest.raises(StoreError, match=r"there is no store .*a.h5"):
            function(tmp_path / "gone" / "a.h5")
    assert list(tmp_path.iterdir()) == []
